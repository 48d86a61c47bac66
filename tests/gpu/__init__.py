"""Checks and timings of the CUDA kernels, without TensorFlow: ``python3 -m tests.gpu.run``."""
