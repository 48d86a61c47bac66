"""What a process can be started for: `training.modes.NAME` for each --mode=NAME.

Each has `run`, which `training.job` calls. No mode is imported here: all but plan import
TensorFlow.
"""

#: The values of --mode.
MODES = ("train", "evaluate", "inference_benchmark", "export", "plan")
