"""The modes of main.py: `training.modes.NAME` implements --mode=NAME.

Each module has a function `run`, which `training.job` calls. This package does not import them,
because all except plan import TensorFlow.
"""

#: The values of --mode.
MODES = ("train", "evaluate", "inference_benchmark", "export", "plan")
