"""Whole training steps: this project's, Keras' and TorchRec's, interleaved, and the limit.

    python3 -m benchmarks.training [--precisions fp32,bf16] [--batches 8192,2048] [--rounds 5]

Prints one table and writes it as JSON. docs/performance.md describes the measurement.
"""

from __future__ import annotations

import argparse
import pathlib
import shlex
import signal
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

from benchmarks import results_file
from benchmarks.hybrid import VOCAB
from benchmarks.training import files, interleaved, report
from benchmarks.training.programs import ROOT, Program, ProgramError, Programs
from benchmarks.training.task import Task
from dataset import command_line
from storage.arguments import first_paragraph, number, whole_number, whole_numbers

RESULTS = ROOT / "benchmarks" / "results" / "latest.json"
NAMES = {
    "ours": "ours",
    "two_ranks": "ours, 2 ranks",
    "keras": "Keras",
    "torchrec": "TorchRec",
    "inference": "ours",
}
# A program's memory beside its tables: activations, batches, libraries.
_BESIDE_TABLES = 1_500_000_000


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the benchmark; returns the exit status."""
    given = sys.argv[1:] if arguments is None else arguments
    options = _parser().parse_args(given)
    precisions, batches = options.precisions.split(","), sorted(options.batches)[::-1]
    chosen = options.programs.split(",")
    vocab = tuple(options.vocab_sizes) if options.vocab_sizes else VOCAB
    _check(options, precisions, batches, chosen)
    missing = []
    if "torchrec" in chosen and not pathlib.Path(options.torch_python).exists():
        chosen.remove("torchrec")
        why = "PyTorch's environment is not made: benchmarks/training/torchrec_environment.sh"
        missing.append({"program": NAMES["torchrec"], "precision": None, "why": why})
    whole = {
        "machine": report.machine(),
        "versions": {},
        "command": shlex.join(["python3", "-m", "benchmarks.training", *given]),
        "rounds": options.rounds,
        "model": None, "limits": {}, "rows": [], "phases": [], "missing": missing,
    }  # fmt: skip
    # So that the temporary files are removed when the run is ended from outside, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            files.write(folder, vocab, options.samples)
            for precision in precisions:
                task = Task(
                    vocab_sizes=vocab, precision=precision, batches=tuple(batches), data_dir=folder
                )
                for group in _groups(chosen, task):
                    _run_group(group, task, options, whole)
                    # After each group: its results stay when a later group fails.
                    report.with_best_peer(whole["rows"])
                    results_file.write(options.json, "training", whole)
    except ProgramError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(report.text(whole))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python3 -m benchmarks.training", description=first_paragraph(__doc__)
    )
    parser.add_argument(
        "--json", type=results_file.target, default=str(RESULTS), help="where to write the result"
    )
    parser.add_argument(
        "--batches", type=whole_numbers(2), default="8192,2048", help="samples of a step"
    )
    parser.add_argument("--precisions", default="fp32,bf16")
    parser.add_argument("--programs", default=",".join(NAMES), help="some of the default's")
    parser.add_argument("--rounds", type=whole_number(1), default=5)
    parser.add_argument(
        "--seconds", type=number(0.001), default=2.0, help="length of a burst of steps"
    )
    parser.add_argument(
        "--steps", type=whole_number(1), help="steps of a burst, instead of --seconds"
    )
    parser.add_argument(
        "--timeout", "--patience", type=number(0.001), default=60.0,
        help="seconds in which a program must do three steps, or is left out",
    )  # fmt: skip
    parser.add_argument(
        "--vocab_sizes",
        type=whole_numbers(1),
        help="rows of each table (default: 26 tables, 3.6 GB)",
    )
    parser.add_argument(
        "--samples", type=whole_number(1, 1 << 40), default=1 << 20, help="samples in the files"
    )
    parser.add_argument(
        "--folder",
        type=command_line.path,
        help="where to put the files (default: the system's temporary)",
    )
    parser.add_argument(
        "--torch_python", default=str(ROOT / ".venv-torch" / "bin" / "python"),
        help="interpreter of the environment that torchrec_environment.sh makes",
    )  # fmt: skip
    return parser


def _check(
    options: argparse.Namespace,
    precisions: Sequence[str],
    batches: Sequence[int],
    chosen: Sequence[str],
) -> None:
    for name, found, known in (
        ("precisions", precisions, ("fp32", "bf16")),
        ("programs", chosen, tuple(NAMES)),
    ):
        for one in found:
            if one not in known:
                sys.exit(f"--{name}: found {one!r}, expected some of {','.join(known)}")
    if options.samples < 20 * max(batches):
        sys.exit(f"--samples {options.samples}: expected 20 batches, {20 * max(batches)}")


def _groups(chosen: Sequence[str], task: Task) -> list[list[str]]:
    """Returns lists of programs that fit in memory together with the one that measures rates.

    Each list except the first has ours again, so that every ratio is of one round.
    """
    import psutil

    each = task.table_bytes + _BESIDE_TABLES
    most = max(2, int(psutil.virtual_memory().available / each) - 1)
    programs = [name for name in NAMES if name in chosen and name != "inference"]
    # Last, as the first to be moved to another group.
    programs.sort(key="two_ranks".__eq__)
    if "inference" in chosen and "ours" not in programs:
        programs.insert(0, "ours")
    groups = [programs[:most]]
    for name in programs[most:]:
        groups.append(["ours", name])
    if "inference" in chosen:
        groups[0].append("inference")
    return groups


def _run_group(
    group: Sequence[str], task: Task, options: argparse.Namespace, whole: dict[str, Any]
) -> None:
    """Measures a group; adds its rows to the report, except those that it already has."""
    print(f"{task.precision}: starting {', '.join(group)}", flush=True)
    with Programs() as programs, tempfile.TemporaryDirectory() as folder:
        path = str(pathlib.Path(folder) / "task.json")
        task.write(path)
        machine = _start(programs, "machine", "rates", sys.executable, path)
        running = {}
        for name in group:
            if name == "two_ranks":
                running[NAMES[name]] = _start_ranks(programs, NAMES[name], path)
            elif name != "inference":
                module = {"ours": "ours", "keras": "keras_dlrm", "torchrec": "torchrec_dlrm"}[name]
                python = options.torch_python if name == "torchrec" else sys.executable
                running[NAMES[name]] = _start(programs, NAMES[name], module, python, path)
        cases = [
            interleaved.Case(name, "train", batch) for batch in task.batches for name in running
        ]
        if "inference" in group:
            cases += [interleaved.Case("ours", "infer", batch) for batch in task.batches]
        whole["machine"].update({name: machine.facts[name] for name in ("processor", "cores")})
        measured = interleaved.measure(
            running, machine, cases, options.rounds,
            burst=interleaved.Burst(options.seconds, options.steps, options.timeout),
            precisions=["fp32", "bf16"] if task.precision == "bf16" else ["fp32"],
            report=lambda line: print(f"{task.precision}: {line}", flush=True),
        )  # fmt: skip
        whole["missing"] += [{**one, "precision": task.precision} for one in measured.missing]
        there = {(row["program"], row["precision"], row["batch"]) for row in whole["rows"]}
        whole["rows"] += [
            row
            for row in interleaved.rows(task, measured)
            if (row["program"], row["precision"], row["batch"]) not in there
        ]
        whole["limits"].setdefault(task.precision, report.limits_of(task, measured))
        for program in running.values():
            whole["versions"].update(program.facts["versions"])
        for name, program in running.items():
            if name in (NAMES["ours"], NAMES["two_ranks"]) and not _has_phases(whole, name, task):
                answers, _ = program.ask("phases", batch=task.batches[0])
                found = {"program": name, "precision": task.precision, "batch": task.batches[0]}
                whole["phases"].append({**found, **answers[0]})
    whole["model"] = {
        "vocab_sizes": list(task.vocab_sizes), "dimension": task.dimension,
        "bottom_mlp": list(task.bottom_mlp), "top_mlp": list(task.top_mlp),
        "table_bytes": task.table_bytes,
    }  # fmt: skip


def _has_phases(whole: dict[str, Any], name: str, task: Task) -> bool:
    return any((p["program"], p["precision"]) == (name, task.precision) for p in whole["phases"])


def _start(programs: Programs, name: str, module: str, python: str, path: str) -> Program:
    command = [python, "-m", f"benchmarks.training.{module}", "SOCKET", path]
    return _report_ready(programs.start(name, command))


def _start_ranks(programs: Programs, name: str, path: str, ranks: int = 2) -> Program:
    horovodrun = str(pathlib.Path(sys.executable).parent / "horovodrun")
    command = [
        horovodrun, "--gloo", "-np", str(ranks), "./hvd_wrapper.sh", sys.executable, "-m",
        "benchmarks.training.ours", "SOCKET", path,
    ]  # fmt: skip
    # Between its bursts a rank gets no message from the other, which must not count as a fault.
    environment = {"HOROVOD_GLOO_TIMEOUT_SECONDS": "86400", "HOROVOD_STALL_CHECK_DISABLE": "1"}
    return _report_ready(programs.start(name, command, ranks, **environment))


def _report_ready(program: Program) -> Program:
    print(f"{program.name}: ready after {program.start_seconds:.0f} s", flush=True)
    return program


if __name__ == "__main__":
    sys.exit(main())
