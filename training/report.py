"""`python3 -m training.report`: writes an HTML report of runs."""

import sys

from training.telemetry.report.__main__ import main

if __name__ == "__main__":
    sys.exit(main())
