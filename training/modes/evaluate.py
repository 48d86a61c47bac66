"""`--mode=evaluate`: scores a checkpoint on the test data, on any number of ranks."""

import contextlib

from storage.nonfinite import finite
from training import start
from training.build import build
from training.checkpoint import manifest
from training.flags import chosen
from training.metrics.exact_auc import ScoresNotFiniteError
from training.runtime import environment
from training.runtime.errors import EXIT_OK, DivergedError


def run(flags, cluster, watch):
    """Runs the mode; returns the exit code.

    Raises:
        UserError: the flags, the data or the checkpoint do not allow it.
        DivergedError: the model's scores are not finite.
    """
    reader = start.find_checkpoint(flags, cluster)
    start.adopt_model(flags, reader)
    if flags.global_batch_size is None:
        # The batch size is no property of the model: any multiple of the ranks gives the same.
        trained = manifest.flag(reader.manifest, "global_batch_size", reader.folder)
        flags.global_batch_size = -(-trained // cluster.size) * cluster.size
    parts = build(flags, cluster)
    start.load_weights(reader, parts, cluster)
    evaluation = start.make_evaluation(flags, parts, cluster)
    step = reader.manifest["step"]
    journal = start.open_journal(flags, cluster)
    with contextlib.closing(journal):
        facts = {
            "mode": "evaluate",
            "checkpoint": str(reader.folder.resolve()),
            "step": step,
            "ranks": cluster.size,
            "flags": chosen(),
            "versions": environment.versions(),
            "data": parts.data.facts,
        }
        journal.emit("config", steps=0, **facts)
        journal.emit("message", text=f"weights of step {step} from {reader.folder}")
        try:
            scored = evaluation(lambda: watch.heartbeat("the evaluation"))
        except ScoresNotFiniteError as error:
            raise DivergedError(f"the evaluation of {reader.folder}: {error}") from error
        scores = finite(
            {
                "auc": scored.auc,
                "log_loss": scored.log_loss,
                "samples": scored.samples,
                "seconds": scored.seconds,
            }
        )
        journal.emit("evaluation", step=step, **scores)
        scores["evaluating_seconds"] = scores.pop("seconds")
        journal.emit("end", **scores, attainable_auc=parts.data.attainable_auc, **facts)
    return EXIT_OK
