"""Custom TensorFlow ops: one folder each, with registration, kernels and Python wrapper."""
