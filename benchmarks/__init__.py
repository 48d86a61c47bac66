"""Measurements: the project's parts compared with the machine's limits and with alternatives."""

import sys

from storage import program_start

if sys.argv[0] == "-m":  # python3 -m: one of this package's programs
    program_start.begin()
