"""The project's training step as `main.py` builds it, on files in the page cache.

    python3 -m benchmarks.training.ours SOCKET TASK

Runs as one process or as several ranks under horovodrun; every rank gets the same requests.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from benchmarks.training import worker_protocol
from benchmarks.training.task import Task

if TYPE_CHECKING:
    from training.runtime.process_group import ProcessGroup


def arguments(task: Task) -> list[str]:
    """Returns the equivalent command line of `main.py`."""
    numbers = {"bottom_mlp": task.bottom_mlp, "top_mlp": task.top_mlp}
    return [
        "main.py", f"--data_dir={task.data_dir}", f"--global_batch_size={max(task.batches)}",
        f"--embedding_dim={task.dimension}", f"--seed={task.seed}",
        f"--lr={task.learning_rate}",
        *(f"--{name}={','.join(map(str, widths))}" for name, widths in numbers.items()),
        *_interaction(task),
        *(["--amp"] if task.precision == "bf16" else []),
    ]  # fmt: skip


def _interaction(task):
    if not task.cross_layers:
        return ["--custom_interact"]
    return [
        "--interaction=cross", f"--cross_layers={task.cross_layers}",
        f"--cross_rank={task.cross_rank}",
    ]  # fmt: skip


class Ours:
    """One model in memory, trained at several batch sizes."""

    def __init__(self, task: Task, cluster: ProcessGroup):
        from training import cli, precision
        from training.build import build
        from training.optimizers import OPTIMIZERS

        self._task, self._cluster = task, cluster
        self._config = config = cli.parse(arguments(task))
        self._parts = build(config, cluster)
        self._own_tables = self._model_parallel_tables()
        self._optimizer = OPTIMIZERS[config.training.optimizer](
            self._parts.dense_model.trainable_variables, config.training.optimizer_values
        )
        self._scale = precision.loss_scale(
            config.speed, self._parts.dtype, skip_nonfinite=config.output.nan_policy == "skip"
        )
        self._steps: dict[int, tuple[Any, Any]] = {}
        self._forwards: dict[int, tuple[Any, Any]] = {}

    def _model_parallel_tables(self) -> list[int] | None:
        # The shape of a batch shows whether `build` chose model-parallel input.
        shape = next(iter(self._parts.data.train(0)))["categorical"].shape
        local = max(self._task.batches) // self._cluster.size
        if shape[0] == local and shape[1] == sum(self._task.ids):
            return None
        return list(self._parts.embedding.placement.tables_of(self._cluster.rank))

    def _step(self, make: Callable[..., Any], batch: int) -> Any:
        from training.step import StepParts

        local = batch // self._cluster.size
        parts = StepParts(
            self._parts.dense_model, self._parts.embedding.for_batch(local), self._optimizer,
            self._cluster, self._scale,
        )  # fmt: skip
        return make(parts, overlap=self._config.speed.overlap)

    def _batches(self, batch: int) -> Iterator[tuple[Any, Any]]:
        """Yields (batch, next batch) endlessly, read as in training."""
        from training.data import open_data, with_next

        config = self._config.with_values(global_batch_size=batch)
        data = open_data(config.data, config.training).load(self._own_tables, self._cluster)
        for epoch in itertools.count():
            yield from with_next(data.train(epoch))

    def train(self, batch: int, steps: int) -> dict[str, Any]:
        """Runs a burst of training steps; returns `worker_protocol.burst`'s result and the loss."""
        from training.step import TrainStep

        if batch not in self._steps:
            self._steps[batch] = self._step(TrainStep, batch), self._batches(batch)
        step, batches = self._steps[batch]

        def one():
            now, following = next(batches)
            step(now, self._task.learning_rate, following)

        return {**worker_protocol.burst(one, step.wait, steps), "loss": step.last_loss()}

    def infer(self, batch: int, steps: int) -> dict[str, Any]:
        """Runs a burst of forward passes over batches in memory."""
        from training.step import Forward

        if batch not in self._forwards:
            local = batch // self._cluster.size
            forward = Forward(self._parts.dense_model, self._parts.embedding.for_batch(local))
            batches = [now for now, _ in itertools.islice(self._batches(batch), 16)]
            self._forwards[batch] = forward, itertools.cycle(batches)
        forward, batches = self._forwards[batch]
        # Waits for each call's logits, as a client would.
        return worker_protocol.burst(lambda: forward(next(batches)).numpy(), lambda: None, steps)

    def phases(self, batch: int) -> dict[str, Any]:
        """Runs some steps phase by phase; returns `BreakdownStep`'s report."""
        from training.breakdown import LAST, BreakdownStep

        found: dict[str, Any] = {}

        def make(parts: Any, **options: Any) -> BreakdownStep:
            return BreakdownStep(lambda **report: found.update(report), parts, **options)

        step = self._step(make, batch)
        for now, following in itertools.islice(self._batches(batch), LAST):
            step(now, self._task.learning_rate, following)
        return found


def main() -> None:
    """Serves the benchmark."""
    from training.runtime import environment

    environment.prepare()
    from training.runtime import process_group

    address, task = sys.argv[1], Task.read(sys.argv[2])
    ranks = process_group.connect()
    ours = Ours(task, ranks)
    versions = environment.versions()
    worker_protocol.serve(
        address,
        {"train": ours.train, "infer": ours.infer, "phases": ours.phases},
        rank=ranks.rank,
        versions={name: versions[name] for name in ("tensorflow", "horovod", "code")},
        command=" ".join(arguments(task)),
    )


if __name__ == "__main__":
    main()
