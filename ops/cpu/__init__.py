"""What the CPU kernels share: the choice of instruction set."""
