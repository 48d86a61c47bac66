"""Shared by the CPU kernels: the choice of instruction set."""
