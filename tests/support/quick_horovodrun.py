"""horovodrun without the process that imports TensorFlow to check whether Gloo is built."""

import sys

from horovod.runner import launch

if __name__ == "__main__":
    launch.gloo_built = lambda verbose=False: True
    sys.exit(launch.run_commandline())
