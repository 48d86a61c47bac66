"""Measures programs in interleaved rounds.

In every round each program trains once at each batch size, and the machine is measured once. Other
load on the machine then affects all of them alike, and a ratio is of two figures of one round.
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
        program: name of it.
        do: "train" or "infer".
        batch: samples of a step over all ranks.
    """

    program: str
    do: str
    batch: int

    @property
    def name(self) -> str:
        """Its name in the table."""
        return self.program + (", forward only" if self.do == "infer" else "")


@dataclasses.dataclass
class Measured:
    """The results of the rounds, one entry a round.

    Attributes:
        rates: {Case: samples per second}.
        others: {Case: cores that were busy with anything else}.
        limits: the answers of `rates`, with "products" as {precision: {library: operations/s}}.
        steps: {Case: steps of a burst}.
        losses: {Case: the last step's loss}.
        missing: [{"program", "why"}, ...]: those that were too slow to be measured.
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
        seconds: its length.
        steps: its number of steps, which replaces `seconds`; or None.
        timeout: seconds in which a program must do three steps. A program that does not is ended
            and left out: arithmetic that a processor only emulates would take hours.
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
    """Measures all cases, round after round.

    Args:
        programs: {name: `Program`}.
        machine: the `Program` that measures rates.
        cases: list of `Case`.
        rounds: number of rounds.
        precisions: of the products that the machine is measured with.
        burst: the length of the bursts.
        report: called with a line about the progress.

    Returns:
        A `Measured`.
    """
    counts: dict[Case, int] = {}
    missing: dict[str, dict[str, str]] = {}
    for case in cases:
        if case.program in missing:
            continue
        try:
            # A burst's untimed step traces and touches memory.
            answers, _ = programs[case.program].ask(
                case.do, within=burst.timeout, batch=case.batch, steps=_CALIBRATION_STEPS
            )
        except TooSlowError:
            programs.pop(case.program).end()
            steps_done = f"{_CALIBRATION_STEPS + 1} steps of {case.batch} samples"
            why = f"{steps_done} took more than {burst.timeout:.0f} s"
            missing[case.program] = {"program": case.name, "why": why}
            report(f"{case.name}: left out: {why}")
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
    for turn in range(rounds):
        (limits,), _ = machine.ask("measure", precisions=precisions)
        if "TorchRec" in programs:
            (products,), _ = programs["TorchRec"].ask("gemm", precisions=precisions)
            for precision, rate in products.items():
                limits["products"][precision]["PyTorch"] = rate
        measured.limits.append(limits)
        # Every other round goes the other way: no case always follows the same other one.
        for case in cases if turn % 2 == 0 else cases[::-1]:
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
        report(f"round {turn + 1} of {rounds}: {found}")
    return measured


def best_product(limits: Mapping[str, Any], precision: str) -> tuple[float, str]:
    """Returns (operations per second, which library and precision) of the fastest product.

    bfloat16 numbers may be multiplied in float32 too: where that is faster, it is what a bfloat16
    step could do.
    """
    usable = ("fp32", "bf16") if precision == "bf16" else ("fp32",)
    return max(
        (rate, f"{library}, {found}")
        for found in usable
        for library, rate in limits["products"].get(found, {}).items()
    )


def rows(task: Task, measured: Measured) -> list[dict[str, Any]]:
    """Returns one dictionary for each case.

    Args:
        task: the `Task`.
        measured: a `Measured`.
    """
    median = statistics.median
    cases = list(measured.rates)
    found = []
    for case in cases:
        rates = measured.rates[case]
        least = [
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
            "limit_samples_per_second": median(1 / seconds for seconds in least),
            "share_of_limit": median(rate * s for rate, s in zip(rates, least)),
            "steps": measured.steps[case],
            "other_cores_busy": median(measured.others[case]),
            "last_loss": measured.losses[case],
        })  # fmt: skip
    return found
