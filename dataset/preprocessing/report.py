"""The report on every column, as JSON and as a table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dataset.preprocessing.columns import CATEGORICAL, CATEGORICAL_NAMES, DENSE, DENSE_NAMES

if TYPE_CHECKING:
    from dataset.preprocessing.dictionaries import Rule
    from dataset.preprocessing.options import Options
    from dataset.preprocessing.stage_results import ParsedUnit

FORMAT_VERSION = 1
#: The transform that readers apply to the counts of a raw file.
DENSE_TRANSFORM = "log(x+1)"


def build(
    options: Options,
    rule: Rule,
    parsed: Sequence[ParsedUnit],
    columns: Sequence[Mapping[str, Any]],
    without_id: Sequence[int],
    records: Mapping[str, int],
    inputs: Mapping[str, Any],
) -> dict[str, Any]:
    """Returns the report as JSON types; it does not depend on the engine.

    Args:
        options: of the run.
        rule: how values became ids.
        parsed: results of all units (`parsing.parse_unit`).
        columns: 26 dicts with `vocab_size` or, if values were counted, a `counting.summary`.
        without_id: 26 counts of written samples whose value has no id.
        records: file name -> number of records.
        inputs: result of `input_report.build`.
    """
    categorical = {}
    for i in range(CATEGORICAL):
        missing = sum(unit["missing"][i] for unit in parsed)
        categorical[CATEGORICAL_NAMES[i]] = {
            **columns[i],
            "missing": missing,
            "without_id": without_id[i],
        }
    dense = {}
    for i in range(DENSE):
        found = [unit["dense"] for unit in parsed]
        dense[DENSE_NAMES[i]] = {
            "missing": sum(unit["missing"][i] for unit in found),
            "negative": sum(unit["negative"][i] for unit in found),
            "least": min(_present(unit["least"][i] for unit in found), default=None),
            "greatest": max(_present(unit["greatest"][i] for unit in found), default=None),
        }
    return {
        "format_version": FORMAT_VERSION,
        **rule.describe(),
        "reused_dictionary": options.dictionary is not None,
        "negatives": options.negatives,
        "dense_transform": DENSE_TRANSFORM,
        "inputs": inputs,
        "lines": sum(unit["lines"] for unit in parsed),
        "rejected_lines": sum(unit["rejects"] for unit in parsed),
        "records": records,
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
