"""Shared by the CPU kernels: selection of the instruction set."""
