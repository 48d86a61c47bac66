"""Benchmarks of the project's parts against the machine's limits and alternatives."""

import sys

from storage import program_start

if sys.argv[0] == "-m":  # python3 -m benchmarks.NAME
    program_start.begin()
