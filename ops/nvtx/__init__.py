"""NVTX ranges: named spans of time that nsys and other tools draw."""
