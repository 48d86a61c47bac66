"""Installs the trainer: environments, locks, Horovod builds, bundles for offline hosts."""

import sys

from storage import program_start

if sys.argv[0] == "-m":  # This package is imported to run one of its programs.
    program_start.begin()
