"""DLRM: its dense part and its embedding."""

import sys

from storage import program_start

if sys.argv[0] == "-m":  # python3 -m: one of this package's programs
    program_start.begin()
