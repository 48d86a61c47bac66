"""DLRM: its dense part, its embedding and the cost model that predicts a step's time."""

import sys

from storage import program_start

if sys.argv[0] == "-m":  # python3 -m: one of this package's programs
    program_start.begin()
