"""Writes journals of invented runs, with the program's own journal."""

from training.telemetry.journal import JsonLines

FLAGS = {"global_batch_size": 20000, "amp": False, "data_dir": "data", "checkpoint_dir": None}
DATA = {"layout": "three_file", "train_samples": 2000000, "test_samples": 4321}
END = {"stopped_by": "epochs", "steps": 100, "samples_per_second": 123456.0,
       "attainable_auc": 0.81, "training_seconds": 80.0, "evaluating_seconds": 3.0,
       "total_seconds": 83.0}  # fmt: skip


def make_events(
    rng, start=0, stop=100, flags=None, data=None, ranks=1, gpu=False, phase="lookup", stamp="time"
):
    """Returns the events of steps `start` + 1 to `stop`, with random values.

    The first events are config and breakdown. A "step" event follows every 1 to 3 steps, an
    evaluation and a memory event every 20 steps, a checkpoint every 40 steps. With `stamp`
    "seconds" the format is that of older versions: no time where "seconds" is a duration.
    """
    seconds, step = 1.5, start
    events = [
        {"event": "config", stamp: 0.0, "flags": {**FLAGS, **(flags or {})},
         "versions": {"python": "3.11.7"}, "data": data or DATA, "ranks": ranks, "steps": 100,
         "steps_per_epoch": 100, "resumed_from_step": start or None},
        {"event": "breakdown", stamp: 1.0, "phases": [
            {"name": "read", "milliseconds": 1.5}, {"name": phase, "milliseconds": 2.5},
        ], "step_milliseconds": 4.0, "whole_milliseconds": 3.9},
    ]  # fmt: skip
    batch = events[0]["flags"]["global_batch_size"]
    while step < stop:
        boundary = (step // 20 + 1) * 20
        count = int(rng.integers(1, 4))
        count, step = min(count, boundary - step, stop - step), min(step + count, boundary, stop)
        duration = float(rng.uniform(0.1, 0.2))
        seconds += count * duration
        events.append({"event": "step", stamp: seconds, "step": step, "epoch": 0,
                       "loss": float(rng.uniform(0.4, 0.6)), "learning_rate": 0.01 * step,
                       "samples_per_second": batch / duration})  # fmt: skip
        if step % 20 == 0:
            events.append({"event": "evaluation", "step": step, "auc": float(rng.uniform(0.7, 0.8)),
                           "log_loss": float(rng.uniform(0.4, 0.5)), "samples": 4321,
                           "seconds": 0.5})  # fmt: skip
            seconds += 0.5
            if stamp == "time":
                events[-1]["time"] = seconds
            events.append({"event": "memory", stamp: seconds, "step": step,
                           "peak_resident_bytes": int(rng.integers(2**30, 2**31)),
                           "peak_gpu_bytes": 2**33 if gpu else None})  # fmt: skip
        if step % 40 == 0:
            events.append({"event": "checkpoint", "step": step, "path": f"/checkpoints/{step}",
                           "bytes": 10**9, "seconds": 0.7, "pause_seconds": 0.1})  # fmt: skip
            if stamp == "time":
                events[-1]["time"] = seconds
    return events


def write_run(folder, events, end=None, tail=""):
    """Creates a run's folder and returns its path; `end` is None for a killed run."""
    folder.mkdir(parents=True)
    lines = JsonLines(folder)
    for event in events:
        lines.event(event)
    if end is not None:
        lines.event({"event": "end", "time": 90.0, **end})
    lines.close()
    with open(folder / "journal.jsonl", "a", encoding="utf-8") as file:
        file.write(tail)
    return folder
