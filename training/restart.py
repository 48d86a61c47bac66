"""`python3 -m training.restart`: restarts a job after the loss of a rank."""

import sys

from training.runtime.restart import main

if __name__ == "__main__":
    sys.exit(main())
