"""Compares the losses of the demo's first steps with those that another machine recorded.

    python3 -m deploy.airgap.demo_losses record FILE
    python3 -m deploy.airgap.demo_losses compare FILE [--device gpu] [--json RESULT]

Both generate the same data and train on it: `record` on the CPU, `compare` on a GPU. The losses of
each step must agree within `TOLERANCE`.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

from deploy.airgap import BundleError
from storage.arguments import first_paragraph

ROOT = pathlib.Path(__file__).resolve().parents[2]
STEPS, BATCH = 20, 2048
#: Largest relative difference of a step's loss. On a CPU, bfloat16 (8 bits of mantissa, TF32 has
#: 11) changes losses by up to 0.0007, half the tables' learning rate by 0.011, and no update of the
#: tables by 0.019.
TOLERANCE = 1e-3
#: With the demo's warm-up and rate, 20 steps change the tables too little to affect the losses.
FLAGS = ("--flagfile=configs/demo.flags", "--warmup_steps=5", "--embedding_lr=64",
         f"--early_stop={STEPS}", "--print_interval=1", "--eval_in_last")  # fmt: skip


def _run(command, environment):
    done = subprocess.run(
        [sys.executable, *map(str, command)], cwd=ROOT, env=environment, check=False,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    if done.returncode != 0:
        tail = "\n".join(done.stdout.splitlines()[-20:])
        raise BundleError(f"{command[0]} returned {done.returncode}:\n{tail}")


def train(device: str) -> dict[str, Any]:
    """Generates the data and trains; takes about ten seconds.

    Args:
        device: "cpu" hides all GPUs from TensorFlow.

    Returns:
        {"gpu": its name or None, "losses": [loss of step 1, ...], "log_loss": of the test data}.

    Raises:
        BundleError: a program failed; the message has its last lines.
    """
    environment = dict(os.environ)
    if device == "cpu":
        environment["CUDA_VISIBLE_DEVICES"] = "-1"
    with tempfile.TemporaryDirectory() as folder:
        raw, data, runs = (os.path.join(folder, name) for name in ("raw", "data", "runs"))
        size = ["--train_samples", STEPS * BATCH, "--test_samples", BATCH, "--seed", 0]
        _run(["-m", "dataset.synthetic", "--output", raw, *size], environment)
        for split in ("train", "test"):
            _run(["split_bin.py", f"{raw}/{split}_data.bin", f"{data}/{split}"], environment)
        _run(["main.py", *FLAGS, f"--data_dir={data}", f"--run_dir={runs}"], environment)
        journal = next(pathlib.Path(runs).glob("[0-9]*/journal.jsonl"))
        events = [json.loads(line) for line in journal.read_text().splitlines()]
    found = {e["event"]: e for e in events}
    losses = {event["step"]: event["loss"] for event in events if event["event"] == "step"}
    return {
        "gpu": found["config"]["versions"]["gpu"],
        "losses": [losses[step] for step in range(1, STEPS + 1)],
        "log_loss": found["evaluation"]["log_loss"],
    }


def differences(expected: Sequence[float], found: Sequence[float]) -> list[float]:
    """Returns the relative difference of each step's loss; NaN losses give NaN.

    Raises:
        BundleError: the numbers of steps differ.
    """
    if len(expected) != len(found):
        problem = f"expected the losses of {len(expected)} steps, found {len(found)}"
        raise BundleError(problem, expected=len(expected), found=len(found))
    return [abs(b - a) / abs(a) for a, b in zip(expected, found)]


def compare(reference: pathlib.Path, device: str) -> dict[str, Any]:
    """Trains and returns the result with the differences from a recorded run.

    Raises:
        BundleError: the file has no losses, a program failed, or a GPU was expected and not used.
    """
    try:
        expected = json.loads(reference.read_text())["losses"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BundleError.of_path(reference, f"expected recorded losses, found {error!r}") from None
    found = train(device)
    if device == "gpu" and found["gpu"] is None:
        raise BundleError("expected a run on a GPU, found one on a CPU", expected="gpu")
    by_step = differences(expected, found["losses"])
    worst = max(by_step, key=lambda value: math.inf if math.isnan(value) else value)
    return {**found, "expected": expected, "differences": by_step, "largest": worst,
            "tolerance": TOLERANCE}  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Records or compares; returns the exit code."""
    parser = argparse.ArgumentParser(description=first_paragraph(__doc__))
    parser.add_argument("action", choices=("record", "compare"))
    parser.add_argument("file", type=pathlib.Path, help="the recorded losses")
    parser.add_argument(
        "--device", choices=("gpu", "cpu"), default="gpu",
        help="where `compare` must run; `record` runs on the CPU (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--json", type=pathlib.Path, help="file for the result of `compare`")
    options = parser.parse_args(arguments)
    try:
        if options.action == "record":
            options.file.write_text(json.dumps(train("cpu"), indent=1) + "\n")
            return 0
        result = compare(options.file, options.device)
    except BundleError as error:
        print(f"demo_losses: {error}", file=sys.stderr)
        return 1
    if options.json is not None:
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    worst = result["largest"]
    step = result["differences"].index(worst) + 1
    print(f"demo_losses: {result['gpu'] or 'CPU'}: largest relative difference of a loss: "
          f"{worst:.2e}, at step {step}; expected at most {TOLERANCE:.0e}")  # fmt: skip
    return 0 if worst <= TOLERANCE else 1


if __name__ == "__main__":
    sys.exit(main())
