"""Reads slices of samples from column files and decodes them into tensors."""
