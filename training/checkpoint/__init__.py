"""Checkpoints: atomic, readable on any number of ranks, stored as NumPy files.

A checkpoint is a folder `step-000000123` with one .npy file per table shard and dense variable,
`manifest.json`, which describes them, and `SHA256SUMS`, which `sha256sum -c` checks. It is written
under a temporary name and renamed when the last byte is on disk.
"""
