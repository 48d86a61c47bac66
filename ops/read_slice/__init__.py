"""Reads slices of samples from column files, decoded, straight into tensors."""
