"""`python3 -m training.restart`: starts a job again when it loses a rank."""

import sys

from training.runtime.restart import main

if __name__ == "__main__":
    sys.exit(main())
