"""Measures programs in interleaved rounds.

In every round each program trains once at each batch size, and the machine is measured once. Other
load on the machine therefore affects all of them, and ratios are between figures of the same round.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks.training.limit import seconds_per_sample
from benchmarks.training.programs import Program, TooSlowError
from benchmarks.training.task import Task

_CALIBRATION_STEPS, _FEWEST_STEPS = 2, 3


@dataclasses.dataclass(frozen=True)
class Case:
    """One measurement of a program.

    Attributes:
        program: the program's name.
        do: "train" or "infer".
        batch: global batch size.
    """

    program: str
    do: str
    batch: int

    @property
    def name(self) -> str:
        """The program's name in the table."""
        return self.program + (", forward only" if self.do == "infer" else "")


@dataclasses.dataclass
class Measured:
    """The results of all rounds, one entry per round.

    Attributes:
        rates: {Case: samples per second}.
        others: {Case: cores busy with other load}.
        limits: answers of the `rates` program; "products" is {precision: {library: operations/s}}.
        steps: {Case: steps per burst}.
        losses: {Case: loss of the last step}.
        missing: [{"program", "why"}, ...]: programs that were too slow to be measured.
    """

    rates: dict[Case, list[float]]
    others: dict[Case, list[float]]
    limits: list[dict[str, Any]]
    steps: dict[Case, int]
    losses: dict[Case, float | None]
    missing: list[dict[str, str]]


@dataclasses.dataclass(frozen=True)
class Burst:
    """The length of a burst of steps.

    Attributes:
        seconds: length in seconds.
        steps: number of steps instead of `seconds`, or None.
        timeout: seconds for three steps. A slower program is ended and not measured: emulated
            arithmetic would take hours.
    """

    seconds: float = 2.0
    steps: int | None = None
    timeout: float = 60.0


def measure(
    programs: dict[str, Program],
    machine: Program,
    cases: Sequence[Case],
    rounds: int,
    *,
    precisions: Sequence[str],
    burst: Burst,
    report: Callable[[str], None] = print,
) -> Measured:
    """Measures all cases in each round.

    `programs` is {name: program}; those that are too slow are removed. `machine` is the program
    that measures the machine's rates. `report` is called with each progress line.
    """
    counts: dict[Case, int] = {}
    missing: dict[str, dict[str, str]] = {}
    for case in cases:
        if case.program in missing:
            continue
        try:
            # Includes a burst's untimed step, which traces the function and touches memory.
            answers, _ = programs[case.program].ask(
                case.do, timeout=burst.timeout, batch=case.batch, steps=_CALIBRATION_STEPS
            )
        except TooSlowError:
            programs.pop(case.program).end()
            steps_done = f"{_CALIBRATION_STEPS + 1} steps of {case.batch} samples"
            why = f"{steps_done} took more than {burst.timeout:.0f} s"
            missing[case.program] = {"program": case.name, "why": why}
            report(f"{case.name}: not measured: {why}")
            continue
        step = max(answer["seconds"] for answer in answers) / _CALIBRATION_STEPS
        counts[case] = burst.steps or max(_FEWEST_STEPS, math.ceil(burst.seconds / step))
    cases = [case for case in cases if case.program not in missing]
    counts = {case: counts[case] for case in cases}
    machine.ask("measure", precisions=precisions)
    measured = Measured(
        {case: [] for case in cases}, {case: [] for case in cases}, [], counts, {},
        list(missing.values()),
    )  # fmt: skip
    for number in range(rounds):
        (limits,), _ = machine.ask("measure", precisions=precisions)
        if "TorchRec" in programs:
            (products,), _ = programs["TorchRec"].ask("gemm", precisions=precisions)
            for precision, rate in products.items():
                limits["products"][precision]["PyTorch"] = rate
        measured.limits.append(limits)
        # Every other round runs in the opposite order, so that no case always follows another.
        for case in cases if number % 2 == 0 else cases[::-1]:
            answers, other = programs[case.program].ask(
                case.do, batch=case.batch, steps=counts[case]
            )
            slowest = max(answer["seconds"] for answer in answers)
            measured.rates[case].append(case.batch * counts[case] / slowest)
            measured.others[case].append(other)
            measured.losses[case] = answers[0].get("loss")
        found = ", ".join(
            f"{case.name} {case.batch}: {rates[-1]:,.0f}/s"
            for case, rates in measured.rates.items()
        )
        report(f"round {number + 1} of {rounds}: {found}")
    return measured


def best_product(limits: Mapping[str, Any], precision: str) -> tuple[float, str]:
    """Returns (operations per second, "library, precision") of the fastest usable product.

    A bfloat16 step may use float32 products if they are faster.
    """
    usable = ("fp32", "bf16") if precision == "bf16" else ("fp32",)
    return max(
        (rate, f"{library}, {found}")
        for found in usable
        for library, rate in limits["products"].get(found, {}).items()
    )


def rows(task: Task, measured: Measured) -> list[dict[str, Any]]:
    """Returns the report's row of each case."""
    median = statistics.median
    cases = list(measured.rates)
    found = []
    for case in cases:
        rates = measured.rates[case]
        least_seconds = [
            seconds_per_sample(
                task,
                {**limits, "flops_per_second": best_product(limits, task.precision)[0]},
                training=case.do == "train",
            )
            for limits in measured.limits
        ]
        peers = [c for c in cases if c != case and c.do == case.do and c.batch == case.batch]
        found.append({
            "program": case.name,
            "precision": task.precision,
            "batch": case.batch,
            "samples_per_second": median(rates),
            "rounds": rates,
            "ratios": {
                peer.program: median(a / b for a, b in zip(rates, measured.rates[peer]))
                for peer in peers
            },
            "limit_samples_per_second": median(1 / seconds for seconds in least_seconds),
            "share_of_limit": median(rate * s for rate, s in zip(rates, least_seconds)),
            "steps": measured.steps[case],
            "other_cores_busy": median(measured.others[case]),
            "last_loss": measured.losses[case],
        })  # fmt: skip
    return found
