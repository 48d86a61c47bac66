"""Predicts a run before it starts: work per step, hardware, time per phase, published runs.

Pure Python, without TensorFlow.
"""

import sys

from storage import program_start

if sys.argv[0] == "-m":  # python3 -m runs a program of this package
    program_start.begin()
