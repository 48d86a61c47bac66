"""Checkpoints: whole or absent, of any number of ranks, in files that NumPy reads.

A checkpoint is a folder `step-000000123` of .npy files, one for each part of each table and each
dense variable, with `manifest.json`, which says what they are, and `SHA256SUMS`, which
`sha256sum -c` reads. It is written under another name and renamed when the last byte is on disk.
"""
