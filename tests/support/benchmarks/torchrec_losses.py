"""Trains the TorchRec peer from given weights and prints its losses, in PyTorch's environment.

python3 -m tests.support.benchmarks.torchrec_losses TASK WEIGHTS
"""

import json
import sys

import numpy as np
import torch

from benchmarks.training.task import Task
from benchmarks.training.torchrec_dlrm import Peer


def main():
    """Reads a `Task` and the arrays written by test_same_model.py."""
    task, given = Task.read(sys.argv[1]), np.load(sys.argv[2])
    peer = Peer(task)
    parameters = dict(peer._model.named_parameters())
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(torch.from_numpy(given[name]))
    losses = []
    for step in range(int(given["steps"])):
        arrays = (given[f"{part}_{step}"] for part in ("dense", "ids", "label"))
        losses.append(float(peer.step(*peer.batch(*arrays))))
    print(json.dumps(losses))


if __name__ == "__main__":
    main()
