"""The report on every column, as JSON and as a table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from dataset.preprocessing.columns import CATEGORICAL_NAMES, DENSE_NAMES

if TYPE_CHECKING:
    from dataset.preprocessing.dictionaries import Rule
    from dataset.preprocessing.options import Options
    from dataset.preprocessing.splits import Destination, Plan
    from dataset.preprocessing.stage_results import ParsedUnit

FORMAT_VERSION = 1
#: The transform that readers apply to the counts of a raw file.
DENSE_TRANSFORM = "log(x+1)"


class Results(NamedTuple):
    """Results of the stages of a run.

    Attributes:
        parsed: results of all units (`parsing.parse_unit`).
        inputs: result of `input_report.build`.
        rule: how values became ids.
        columns: 26 dicts with `vocab_size` or, if values were counted, a `counting.summary`.
        plan: destination of every sample.
        without_id: 26 counts of written samples whose value has no id.
        regions: (Destination, CRC-32) of all records.
    """

    parsed: Sequence[ParsedUnit]
    inputs: Mapping[str, Any]
    rule: Rule
    columns: Sequence[Mapping[str, Any]]
    plan: Plan
    without_id: Sequence[int]
    regions: Sequence[tuple[Destination, int]]


def build(options: Options, results: Results) -> dict[str, Any]:
    """Returns the report of a run as JSON types; it does not depend on the engine."""
    parsed = results.parsed
    categorical = {}
    for i, name in enumerate(CATEGORICAL_NAMES):
        missing = sum(unit["missing"][i] for unit in parsed)
        counts = {"missing": missing, "without_id": results.without_id[i]}
        categorical[name] = {**results.columns[i], **counts}
    dense = {}
    for i, name in enumerate(DENSE_NAMES):
        found = [unit["dense"] for unit in parsed]
        dense[name] = {
            "missing": sum(unit["missing"][i] for unit in found),
            "negative": sum(unit["negative"][i] for unit in found),
            "least": min(_present(unit["least"][i] for unit in found), default=None),
            "greatest": max(_present(unit["greatest"][i] for unit in found), default=None),
        }
    return {
        "format_version": FORMAT_VERSION,
        **results.rule.describe(),
        "reused_dictionary": options.dictionary is not None,
        "negatives": options.negatives,
        "dense_transform": DENSE_TRANSFORM,
        "inputs": results.inputs,
        "lines": sum(unit["lines"] for unit in parsed),
        "rejected_lines": sum(unit["rejects"] for unit in parsed),
        "records": results.plan.records,
        "categorical": categorical,
        "dense": dense,
    }


def _present(values: Iterable[int | None]) -> list[int]:
    return [value for value in values if value is not None]


def table(report: Mapping[str, Any]) -> list[str]:
    """Returns the report's columns as lines of text."""
    counted = not report["reused_dictionary"]
    head = f"{'column':>6} {'table rows':>11}"
    head += f" {'distinct':>11} {'rare':>11} {'in rows':>13}" if counted else ""
    head += f" {'missing':>13} {'without id':>13}"
    lines = [head + ("  most frequent" if counted else "")]
    for name, column in report["categorical"].items():
        line = f"{name:>6} {column['vocab_size']:>11}"
        if counted:
            line += f" {column['distinct']:>11} {column['rare_values']:>11}"
            line += f" {column['rare_samples']:>13}"
        line += f" {column['missing']:>13} {column['without_id']:>13}"
        if counted:
            top = column["most_frequent"][:3]
            line += "  " + ", ".join(f"{value} x {count}" for value, count in top)
        lines.append(line)
    lines.append(f"{'column':>6} {'missing':>13} {'negative':>13} {'least':>12} {'greatest':>12}")
    for name, column in report["dense"].items():
        least, greatest = (
            "-" if column[key] is None else column[key] for key in ("least", "greatest")
        )
        line = f"{name:>6} {column['missing']:>13} {column['negative']:>13}"
        lines.append(f"{line} {least:>12} {greatest:>12}")
    return lines
