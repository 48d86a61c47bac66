"""The PyTorch peer: TorchRec's DLRM on FBGEMM's fused CPU tables.

    python3 -m benchmarks.training.torchrec_dlrm SOCKET TASK

All tables are one fused operator whose backward pass applies SGD to the rows (EXACT_SGD). The rest
uses PyTorch's layers and SGD, with bfloat16 by `torch.autocast`. The batches are in memory. Runs in
a separate environment: torchrec_environment.sh.
"""

# PyTorch and TorchRec are only in torchrec_environment.sh's environment.
# pyright: reportMissingImports=false

from __future__ import annotations

import contextlib
import itertools
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.training import worker_protocol
from benchmarks.training.batches import random_batches
from benchmarks.training.gemm import flops_per_second
from benchmarks.training.task import DENSE_FEATURES, Task

if TYPE_CHECKING:
    import torch
    from torchrec.models.dlrm import DLRM
    from torchrec.sparse.jagged_tensor import KeyedJaggedTensor


def make_model(task: Task) -> DLRM:
    """Returns TorchRec's DLRM, or DLRM_DCN. The tables' backward pass updates them."""
    import torch
    from torchrec.models.dlrm import DLRM, DLRM_DCN
    from torchrec.modules.embedding_configs import EmbeddingBagConfig
    from torchrec.modules.fused_embedding_modules import FusedEmbeddingBagCollection

    torch.manual_seed(task.seed)
    configs = [
        EmbeddingBagConfig(
            name=f"table_{t}", embedding_dim=task.dimension, num_embeddings=rows,
            feature_names=[f"feature_{t}"],
        )
        for t, rows in enumerate(task.vocab_sizes)
    ]  # fmt: skip
    tables = FusedEmbeddingBagCollection(
        tables=configs,
        optimizer_type=torch.optim.SGD,
        optimizer_kwargs={"lr": task.learning_rate},
        device=torch.device("cpu"),
    )
    sizes = {
        "embedding_bag_collection": tables,
        "dense_in_features": DENSE_FEATURES,
        "dense_arch_layer_sizes": list(task.bottom_mlp),
        "over_arch_layer_sizes": list(task.top_mlp),
    }
    if task.cross_layers:
        return DLRM_DCN(**sizes, dcn_num_layers=task.cross_layers, dcn_low_rank_dim=task.cross_rank)
    return DLRM(**sizes)


class Peer:
    """One model in memory."""

    def __init__(self, task: Task):
        import torch

        torch.set_num_threads(len(os.sched_getaffinity(0)))
        self._torch, self._task = torch, task
        self._model = make_model(task)
        dense = [
            parameter
            for name, parameter in self._model.named_parameters()
            if not name.startswith("sparse_arch")
        ]
        self._optimizer = torch.optim.SGD(dense, lr=task.learning_rate)
        self._held: dict[int, Iterator[tuple]] = {}
        self._last: torch.Tensor | None = None

    def precision(self) -> AbstractContextManager:
        """Returns the context manager of a step's forward pass."""
        if self._task.precision == "fp32":
            return contextlib.nullcontext()
        return self._torch.autocast("cpu", self._torch.bfloat16)

    def step(
        self, dense: torch.Tensor, features: KeyedJaggedTensor, label: torch.Tensor
    ) -> torch.Tensor:
        """Trains on one batch and returns the loss, a scalar tensor."""
        torch = self._torch
        self._optimizer.zero_grad(set_to_none=True)
        with self.precision():
            logits = self._model(dense, features)
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits.float(), label)
        loss.backward()
        self._optimizer.step()
        return loss.detach()

    def batch(
        self, dense: np.ndarray, ids: np.ndarray, label: np.ndarray
    ) -> tuple[torch.Tensor, KeyedJaggedTensor, torch.Tensor]:
        """Converts arrays [B, 13], [B, W], [B, 1] to the arguments of `step`."""
        torch = self._torch
        from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

        hotness = self._task.ids
        parts = np.split(ids, np.cumsum(hotness)[:-1], axis=1)
        features = KeyedJaggedTensor(
            keys=[f"feature_{t}" for t in range(len(hotness))],
            values=torch.from_numpy(np.concatenate([part.reshape(-1) for part in parts])).long(),
            lengths=torch.from_numpy(np.repeat(hotness, len(ids))).long(),
        )
        features.offsets()  # Computed before the step, as a data loader would.
        return torch.from_numpy(dense), features, torch.from_numpy(label)

    def train(self, batch: int, steps: int) -> dict[str, Any]:
        """Runs a burst of steps; returns `worker_protocol.burst`'s result and the loss."""
        if batch not in self._held:
            made = [self.batch(*arrays) for arrays in random_batches(self._task, batch)]
            self._held[batch] = itertools.cycle(made)

        def one() -> None:
            self._last = self.step(*next(self._held[batch]))

        done = worker_protocol.burst(one, lambda: None, steps)
        assert self._last is not None
        return {**done, "loss": float(self._last)}

    def gemm(self, precisions: Iterable[str]) -> dict[str, float]:
        """Returns {precision: operations per second} of PyTorch's matrix product."""
        torch = self._torch

        def maker(dtype):
            def make(m, k, n):
                a, b = torch.rand(m, k).to(dtype), torch.rand(k, n).to(dtype)
                return lambda: torch.mm(a, b)

            return make

        dtypes = {"fp32": torch.float32, "bf16": torch.bfloat16}
        return {name: flops_per_second(maker(dtypes[name])) for name in precisions}


def main() -> None:
    """Serves the benchmark."""
    import fbgemm_gpu
    import torch
    import torchrec

    address, task = sys.argv[1], Task.read(sys.argv[2])
    peer = Peer(task)
    versions = {
        "torch": torch.__version__,
        "fbgemm_gpu_cpu": fbgemm_gpu.__version__,
        "torchrec": torchrec.__version__,
    }
    worker_protocol.serve(
        address, {"train": peer.train, "gemm": peer.gemm}, rank=0, versions=versions
    )


if __name__ == "__main__":
    main()
