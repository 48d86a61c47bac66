"""DLRM: the dense part and the embedding tables."""

import sys

from storage import program_start

if sys.argv[0] == "-m":  # python3 -m runs a program of this package
    program_start.begin()
