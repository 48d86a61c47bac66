"""`--mode=evaluate`: scores a checkpoint on the test data, on any number of ranks."""

from __future__ import annotations

import contextlib

from storage.nonfinite import finite_or_none
from training.build import build
from training.checkpoint import manifest
from training.checkpoint.compatibility import with_model_of
from training.checkpoint.restore import find_checkpoint
from training.checkpoint.weights import load_weights
from training.config import Config
from training.evaluation import ScoresNotFiniteError, evaluate
from training.runtime import environment
from training.runtime.errors import EXIT_OK, DivergedError
from training.runtime.monitor import Monitor
from training.runtime.process_group import ProcessGroup
from training.step import Forward
from training.telemetry.sinks import open_journal


def run(config: Config, cluster: ProcessGroup, watch: Monitor) -> int:
    """Runs the mode; returns the exit code.

    Raises:
        UserError: the configuration, the data or the checkpoint does not allow the run.
        DivergedError: a score is NaN or infinite.
    """
    reader = find_checkpoint(config.checkpoint, cluster)
    config = with_model_of(config, reader)
    if config.training.global_batch_size is None:
        # Scores do not depend on the batch size, so round it up to a multiple of the ranks.
        trained = manifest.flag(reader.manifest, "global_batch_size", reader.folder)
        config = config.with_values(global_batch_size=-(-trained // cluster.size) * cluster.size)
    parts = build(config, cluster)
    load_weights(reader, parts, cluster, config.flags())
    forward = Forward(parts.dense_model, parts.embedding)
    step = reader.manifest["step"]
    journal = open_journal(config.output, cluster)
    with contextlib.closing(journal):
        facts = {
            "mode": "evaluate",
            "checkpoint": str(reader.folder.resolve()),
            "step": step,
            "ranks": cluster.size,
            "flags": config.flags(),
            "versions": environment.versions(),
            "data": parts.data.facts,
        }
        journal.emit("config", steps=0, **facts)
        journal.emit("message", text=f"weights of step {step} from {reader.folder}")
        try:
            scored = evaluate(
                forward, parts.data, cluster, lambda: watch.heartbeat("the evaluation"),
                auc=config.evaluation.auc,
            )  # fmt: skip
        except ScoresNotFiniteError as error:
            raise DivergedError(f"evaluation of {reader.folder}: {error}") from error
        assert scored is not None  # Nothing requests this evaluation to stop.
        scores = {
            "auc": finite_or_none(scored.auc),
            "log_loss": finite_or_none(scored.log_loss),
            "samples": scored.samples,
        }
        journal.emit("evaluation", step=step, **scores, seconds=scored.seconds)
        scores["evaluating_seconds"] = scored.seconds
        journal.emit("end", **scores, attainable_auc=parts.data.attainable_auc, **facts)
    return EXIT_OK
