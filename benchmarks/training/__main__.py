"""Compares complete training steps of this project, Keras and TorchRec with the machine's limit.

    python3 -m benchmarks.training [--model dcnv2] [--precisions fp32,bf16] [--batches 8192,2048]

Prints one table and writes it as JSON. docs/performance.md describes the method.
"""

from __future__ import annotations

import argparse
import dataclasses
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
from ops.bags import MLPERF_HOTNESS
from planner.published_runs import VOCABULARIES
from storage.arguments import first_paragraph, number, whole_number, whole_numbers

RESULTS = ROOT / "benchmarks" / "results"
NAMES = {
    "ours": "ours", "two_ranks": "ours, 2 ranks", "keras": "Keras", "torchrec": "TorchRec",
    "inference": "ours",
}  # fmt: skip
#: {program: its module}.
_MODULES = {
    "ours": "ours", "two_ranks": "ours", "keras": "keras_dlrm", "torchrec": "torchrec_dlrm",
}  # fmt: skip
MODELS = {
    "dlrm": Task(VOCAB),
    "dcnv2": Task(
        tuple(min(rows, 1_000_000) for rows in VOCABULARIES["torchrec"]), hotness=MLPERF_HOTNESS,
        cross_layers=3, cross_rank=512,
    ),
}  # fmt: skip
# A program's memory in addition to its tables and the activations that grow with the model.
_OTHER_BYTES = 1_500_000_000


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the benchmark and returns the exit status."""
    given = sys.argv[1:] if arguments is None else arguments
    options = _parser().parse_args(given)
    precisions, batches = options.precisions.split(","), sorted(options.batches)[::-1]
    chosen = options.programs.split(",")
    model = MODELS[options.model]
    name = "latest.json" if options.model == "dlrm" else f"latest-{options.model}.json"
    target = options.json or str(RESULTS / name)
    vocab = tuple(options.vocab_sizes) if options.vocab_sizes else model.vocab_sizes
    if model.hotness and len(model.hotness) != len(vocab):
        sys.exit(f"--vocab_sizes: expected {len(model.hotness)} tables, found {len(vocab)}")
    _check(options.samples, precisions, batches, chosen)
    missing = []
    if "torchrec" in chosen and not pathlib.Path(options.torch_python).exists():
        chosen.remove("torchrec")
        script = "benchmarks/training/torchrec_environment.sh"
        why = f"expected an interpreter at {options.torch_python}; run {script}"
        missing.append({"program": NAMES["torchrec"], "precision": None, "why": why})
    results = {
        "machine": report.machine(),
        "versions": {},
        "command": shlex.join(["python3", "-m", "benchmarks.training", *given]),
        "rounds": options.rounds,
        "model": None, "limits": {}, "rows": [], "phases": [], "missing": missing,
    }  # fmt: skip
    # SIGTERM raises SystemExit, so that the temporary files are removed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            files.write(folder, vocab, options.samples, model.hotness)
            for precision in precisions:
                task = dataclasses.replace(
                    model, vocab_sizes=vocab, precision=precision, batches=tuple(batches),
                    data_dir=folder,
                )  # fmt: skip
                for group in _groups(chosen, task):
                    _run_group(group, task, options, results)
                    # After each group, so that its results survive a later failure.
                    report.with_best_peer(results["rows"])
                    results_file.write(target, "training", results)
    except ProgramError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(report.text(results))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python3 -m benchmarks.training", description=first_paragraph(__doc__)
    )
    parser.add_argument(
        "--json",
        type=results_file.target,
        help="file for the results (default: benchmarks/results/latest.json, of another model "
        "latest-MODEL.json)",
    )
    parser.add_argument(
        "--model", choices=tuple(MODELS), default="dlrm",
        help="dlrm: one id per table, dot interaction. dcnv2: the model and ids per sample of "
        "MLPerf's DLRM-DCNv2, tables of at most 1 M rows",
    )  # fmt: skip
    parser.add_argument(
        "--batches", type=whole_numbers(2), default="8192,2048", help="global batch sizes"
    )
    parser.add_argument("--precisions", default="fp32,bf16", help="any of fp32,bf16")
    parser.add_argument("--programs", default=",".join(NAMES), help="any of the default")
    parser.add_argument(
        "--rounds", type=whole_number(1), default=5, help="measurements of each case"
    )
    parser.add_argument(
        "--seconds", type=number(0.001), default=2.0, help="seconds of a burst of steps"
    )
    parser.add_argument(
        "--steps", type=whole_number(1), help="steps of a burst, replaces --seconds"
    )
    parser.add_argument(
        "--timeout", "--patience", type=number(0.001), default=60.0,
        help="seconds for three steps; a slower program is not measured",
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
        help="folder for the dataset (default: the system's temporary folder)",
    )
    parser.add_argument(
        "--torch_python", default=str(ROOT / ".venv-torch" / "bin" / "python"),
        help="interpreter of torchrec_environment.sh's environment",
    )  # fmt: skip
    return parser


def _check(
    samples: int, precisions: Sequence[str], batches: Sequence[int], chosen: Sequence[str]
) -> None:
    given = (("precisions", precisions, ("fp32", "bf16")), ("programs", chosen, tuple(NAMES)))
    for name, found, known in given:
        for one in found:
            if one not in known:
                sys.exit(f"--{name}: expected any of {','.join(known)}, found {one!r}")
    least = 20 * max(batches)
    if samples < least:
        sys.exit(f"--samples: expected at least {least}, 20 batches; found {samples}")


def _groups(chosen: Sequence[str], task: Task) -> list[list[str]]:
    """Returns groups of programs that fit in memory together with the machine's probe.

    Every group contains ours, so that each ratio is between figures of the same round.
    """
    import psutil

    # Vectors that a step keeps for a sample: one of each id, the features in each cross layer.
    vectors = sum(task.ids) + task.cross_layers * (len(task.vocab_sizes) + 1)
    activations = max(task.batches) * vectors * task.dimension * 4
    each = task.table_bytes + activations + _OTHER_BYTES
    most = max(2, int(psutil.virtual_memory().available / each) - 1)
    programs = [name for name in NAMES if name in chosen and name != "inference"]
    # Two ranks last: moved to another group first.
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
    group: Sequence[str], task: Task, options: argparse.Namespace, results: dict[str, Any]
) -> None:
    """Measures a group and adds the rows that `results` lacks."""
    print(f"{task.precision}: starting {', '.join(group)}", flush=True)
    with Programs() as programs, tempfile.TemporaryDirectory() as folder:
        path = str(pathlib.Path(folder) / "task.json")
        task.write(path)
        machine = _start(programs, "machine", "rates", path)
        running = {}
        for name in group:
            if name != "inference":
                python = options.torch_python if name == "torchrec" else sys.executable
                place = (_MODULES[name], path, python, 2 if name == "two_ranks" else 1)
                running[NAMES[name]] = _start(programs, NAMES[name], *place)
        cases = [
            interleaved.Case(name, "train", batch) for batch in task.batches for name in running
        ]
        if "inference" in group:
            cases += [interleaved.Case("ours", "infer", batch) for batch in task.batches]
        results["machine"].update({name: machine.facts[name] for name in ("processor", "cores")})
        measured = interleaved.measure(
            running, machine, cases, options.rounds,
            burst=interleaved.Burst(options.seconds, options.steps, options.timeout),
            precisions=["fp32", "bf16"] if task.precision == "bf16" else ["fp32"],
            report=lambda line: print(f"{task.precision}: {line}", flush=True),
        )  # fmt: skip
        results["missing"] += [{**one, "precision": task.precision} for one in measured.missing]
        known = {(row["program"], row["precision"], row["batch"]) for row in results["rows"]}
        results["rows"] += [
            row
            for row in interleaved.rows(task, measured)
            if (row["program"], row["precision"], row["batch"]) not in known
        ]
        results["limits"].setdefault(task.precision, report.limits_of(task, measured))
        for program in running.values():
            results["versions"].update(program.facts["versions"])
        for name, program in running.items():
            if name in (NAMES["ours"], NAMES["two_ranks"]) and not _has_phases(results, name, task):
                answers, _ = program.ask("phases", batch=task.batches[0])
                found = {"program": name, "precision": task.precision, "batch": task.batches[0]}
                results["phases"].append({**found, **answers[0]})
    results["model"] = {
        "vocab_sizes": list(task.vocab_sizes), "dimension": task.dimension,
        "bottom_mlp": list(task.bottom_mlp), "top_mlp": list(task.top_mlp), "ids": sum(task.ids),
        "interaction": f"{task.cross_layers} cross layers of rank {task.cross_rank}"
        if task.cross_layers else "dot interaction",
        "table_bytes": task.table_bytes,
    }  # fmt: skip


def _has_phases(results: dict[str, Any], name: str, task: Task) -> bool:
    return any((p["program"], p["precision"]) == (name, task.precision) for p in results["phases"])


def _start(
    programs: Programs, name: str, module: str, path: str, python: str = sys.executable,
    ranks: int = 1,
) -> Program:  # fmt: skip
    command = [python, "-m", f"benchmarks.training.{module}", "SOCKET", path]
    if ranks > 1:
        horovodrun = str(pathlib.Path(sys.executable).parent / "horovodrun")
        command = [horovodrun, "--gloo", "-np", str(ranks), "./hvd_wrapper.sh", *command]
    # Stopped ranks must not trigger Horovod's timeouts.
    environment = {"HOROVOD_GLOO_TIMEOUT_SECONDS": "86400", "HOROVOD_STALL_CHECK_DISABLE": "1"}
    program = programs.start(name, command, ranks, **environment)
    print(f"{name}: ready after {program.start_seconds:.0f} s", flush=True)
    return program


if __name__ == "__main__":
    sys.exit(main())
