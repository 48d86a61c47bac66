"""Trains the TorchRec peer from given weights, in PyTorch's environment.

python3 -m tests.support.benchmarks.torchrec_steps TASK GIVEN FOUND

GIVEN (.npz) has the parameters by name, and dense/k, ids/k and label/k of each step. FOUND (.npz)
receives the parameters after the last step, and `losses` of all steps.
"""

import itertools
import sys

import numpy as np
import torch

from benchmarks.training.task import Task
from benchmarks.training.torchrec_dlrm import Peer


def main(task, given, found):
    peer, given = Peer(Task.read(task)), np.load(given)
    parameters = dict(peer._model.named_parameters())
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(torch.from_numpy(given[name]))
    losses = []
    for step in itertools.takewhile(lambda k: f"dense/{k}" in given, itertools.count()):
        arrays = (given[f"{part}/{step}"] for part in ("dense", "ids", "label"))
        losses.append(float(peer.step(*peer.batch(*arrays))))
    after = {name: parameter.detach().numpy() for name, parameter in parameters.items()}
    np.savez(found, losses=losses, **after)


if __name__ == "__main__":
    main(*sys.argv[1:])
