"""`--mlperf_log`: writes the run as MLPerf log lines.

The benchmark is `dlrm_dcnv2` (training 3.0 to 6.0) with the cross interaction, else `dlrm`
(training 2.1, its last rules). Keys and their order follow what
`mlperf_logging.compliance_checker` requires of the closed division; see docs/mlperf.md. The package
`mlperf-logging` is imported only here.
"""

from __future__ import annotations

import logging
import os
import pathlib
import time
from collections.abc import Iterator, Mapping
from typing import Any

import psutil

from model.interactions import InteractionOptions, interaction_class
from storage.regular import check_regular
from training.config import Config, ModelConfig
from training.runtime.errors import UserError

#: {interaction: benchmark}; all others: `dlrm`
_BENCHMARKS = {"cross": "dlrm_dcnv2"}
_ROOT = pathlib.Path(__file__).resolve().parents[2]


class MLPerfLog:
    """A journal sink that writes MLLOG lines.

    Initialisation lasts from the start of the process to the journal's "config" event. The run
    starts there, before the first step is compiled. Blocks are epochs, counted from 1. `epoch_num`
    of evaluations is fractional, as in MLPerf's reference convergence points: after a twentieth of
    the first epoch 1.05 for `dlrm`, 0.05 for `dlrm_dcnv2`. The status is "success" if the last AUC
    exceeds --auc_threshold, else "aborted".

    Args:
        config: the job's configuration. An existing --mlperf_log=PATH is renamed to PATH.1,
            PATH.2, ...

    Raises:
        UserError: the file cannot be written.
        ImportError: the package is missing; `training.config_checks` checks this earlier.
    """

    def __init__(self, config: Config) -> None:
        from mlperf_logging.mllog import mllog

        path = pathlib.Path(config.mlperf.mlperf_log or "")
        try:
            _rename_existing(path)
            handler = logging.FileHandler(path, mode="x", encoding="utf-8")
        except OSError as error:
            problem = f"cannot create the log: {error.strerror}"
            raise UserError.of_flag("mlperf_log", path, problem, path=path) from error
        handler.setFormatter(logging.Formatter("%(message)s"))
        # Outside the tree of loggers, so that nothing else writes to the file.
        self._logger = logging.Logger("mlperf", level=logging.INFO)
        self._logger.addHandler(handler)
        self._lines = mllog.MLLogger(self._logger, root_dir=str(_ROOT))
        self._config = config
        self._benchmark = _BENCHMARKS.get(config.model.interaction, "dlrm")
        self._steps_per_epoch = 0
        self._epoch: int | None = None
        self._running = False
        self._auc: float | None = None
        begin = _milliseconds(psutil.Process().create_time())
        self._lines.event("cache_clear", value=config.mlperf.mlperf_cache_cleared, time_ms=begin)
        self._lines.start("init_start", time_ms=begin)
        self._submission()

    def event(self, record: Mapping[str, Any]) -> None:
        """Writes the lines for one journal event."""
        kind = record["event"]
        if kind == "config":
            self._steps_per_epoch = record["steps_per_epoch"]
            self._hyperparameters(record)
            self._lines.end("init_stop")
            self._lines.start("run_start")
            self._running = True
        elif kind == "epoch":
            self._end_epoch()
            self._epoch = number = record["epoch"] + 1
            block = {"first_epoch_num": number, "epoch_count": 1}
            self._lines.start("block_start", metadata=block)
            self._lines.start("epoch_start", metadata={"epoch_num": number})
        elif kind == "evaluation":
            self._evaluation(record)
        elif kind == "end":
            passed = self._auc is not None and self._auc > self._config.evaluation.auc_threshold
            self._end_run("success" if passed else "aborted", record["steps"])

    def close(self) -> None:
        """Marks a run without an "end" event (an error, a loss that is not finite) as aborted."""
        self._end_run("aborted")
        for handler in self._logger.handlers:
            handler.close()

    def _submission(self) -> None:
        mlperf = self._config.mlperf
        event = self._lines.event
        event("submission_benchmark", value=self._benchmark)
        event("submission_org", value=mlperf.mlperf_org)
        event("submission_division", value=mlperf.mlperf_division)
        event("submission_status", value=mlperf.mlperf_status)
        event("submission_platform", value=mlperf.mlperf_platform)

    def _hyperparameters(self, record: Mapping[str, Any]) -> None:
        config, rates, data = self._config, record["schedule"], record["data"]
        training, shuffle_seed = config.training, config.data.shuffle_seed
        event = self._lines.event
        event("seed", value=training.seed)
        if shuffle_seed is not None:
            event("seed", value=shuffle_seed, metadata={"of": "batch order"})
        event("global_batch_size", value=training.global_batch_size)
        event("gradient_accumulation_steps", value=1)
        event("train_samples", value=data["train_samples"])
        event("eval_samples", value=data["test_samples"])
        event("opt_name", value=training.optimizer)
        event("opt_base_learning_rate", value=rates["base_rate"])
        event("opt_learning_rate_warmup_steps", value=rates["warmup_steps"])
        if self._benchmark == "dlrm_dcnv2":
            event("opt_learning_rate_decay_start_step", value=rates["decay_start_step"] or 0)
            event("opt_learning_rate_decay_steps", value=rates["decay_steps"])
            event("opt_weight_decay", value=0)
        else:
            event("lr_decay_start_steps", value=rates["decay_start_step"] or 0)
        if training.embedding_optimizer != training.optimizer:
            event("opt_sparse_name", value=training.embedding_optimizer)
        if training.embedding_lr is not None:
            event("opt_sparse_base_learning_rate", value=training.embedding_lr)
        self._closed_division(rates)
        if record["resumed_from_step"] is None and config.checkpoint.restore is None:
            for tensor in _tensors(config.model):
                event("weights_initialization", metadata={"tensor": tensor})

    def _closed_division(self, rates: Mapping[str, Any]) -> None:
        """Writes the keys of the optimizer that the closed division requires.

        They are left out if MLPs or tables use another optimizer, or if their options differ: one
        line could not be right for both.
        """
        training, event = self._config.training, self._lines.event
        optimizers = {training.optimizer, training.embedding_optimizer}
        if self._benchmark == "dlrm" and optimizers == {"sgd"}:
            event("sgd_opt_base_learning_rate", value=rates["base_rate"])
            event("sgd_opt_learning_rate_decay_poly_power", value=rates["power"])
            event("sgd_opt_learning_rate_decay_steps", value=rates["decay_steps"])
        if self._benchmark == "dlrm_dcnv2" and optimizers == {"adagrad"}:
            values = training.optimizer_values
            # Torch's Adagrad has a decay of its own; this project's has none.
            event("opt_adagrad_learning_rate_decay", value=0)
            if values == training.row_optimizer.hyperparameters:
                initial = values["initial_accumulator"]
                event("opt_adagrad_initial_accumulator_value", value=initial)
                event("opt_adagrad_epsilon", value=values["epsilon"])

    def _end_epoch(self) -> None:
        if self._epoch is None:
            return
        self._lines.end("epoch_stop", metadata={"epoch_num": self._epoch})
        self._lines.end("block_stop", metadata={"first_epoch_num": self._epoch})
        self._epoch = None

    def _evaluation(self, record: Mapping[str, Any]) -> None:
        self._auc = record["auc"]
        end = _milliseconds(time.time())
        step = record["step"]
        passed = step / self._steps_per_epoch
        epochs = passed if self._benchmark == "dlrm_dcnv2" else 1 + passed
        where = {"epoch_num": epochs, "step_num": step}
        begin = end - round(1000 * record["seconds"])
        self._lines.start("eval_start", metadata=where, time_ms=begin)
        self._lines.event("eval_accuracy", value=record["auc"], metadata=where, time_ms=end)
        self._lines.end("eval_stop", metadata=where, time_ms=end)

    def _end_run(self, status: str, step: int | None = None) -> None:
        if not self._running:
            return
        self._end_epoch()
        where = {} if step is None else {"step_num": step}
        self._lines.end("run_stop", metadata={"status": status, **where})
        self._running = False


def _tensors(model: ModelConfig) -> Iterator[str]:
    """Yields MLPerf's names for the model's weights."""
    yield "embeddings"
    for part, widths in (("bottom_mlp", model.bottom_widths), ("top_mlp", model.top_widths)):
        for layer in range(1, len(widths) + 1):
            yield f"{part}_dense{layer}"
    # Parameter names do not depend on the numbers of tables and columns.
    options = InteractionOptions(model.cross_layers, model.cross_rank)
    for parameter in interaction_class(model.interaction)(1, 1, options).parameters:
        yield f"interaction_{parameter.name}"


def _rename_existing(path: pathlib.Path) -> None:
    """Renames an existing file to the first free name of PATH.1, PATH.2, ..."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        return
    check_regular(path)  # Never rename a device such as /dev/null.
    number = 1
    while (old := path.with_name(f"{path.name}.{number}")).exists():
        number += 1
    os.rename(path, old)


def _milliseconds(seconds: float) -> int:
    return int(1000 * seconds)
