"""Predicts a run before it starts: work per step, hardware, time per phase, published runs.

Pure Python: nothing here imports TensorFlow.
"""

import sys

from storage import program_start

if sys.argv[0] == "-m":  # python3 -m: one of this package's programs
    program_start.begin()
