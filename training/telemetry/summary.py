"""The table printed at the end of a run: the columns of the SOK benchmark, then the scores."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def _yes(value: Any) -> str:
    return "yes" if value else "no"


def _number(value: float | None, form: str) -> str:
    # None: a rate needs two steps, an AUC needs test data of both classes.
    return "n/a" if value is None else format(value, form)


def score_text(record: Mapping[str, Any]) -> str:
    """Returns an evaluation's AUC and log loss as text; "n/a" for None."""
    auc, loss = (_number(record[name], ".6f") for name in ("auc", "log_loss"))
    return f"AUC {auc}, log loss {loss}"


def rows(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Returns the table's rows, [(name, text), ...].

    Args:
        result: the fields of result.json.
    """
    flags = result["flags"]
    exit_text = {"epochs": f"{flags['epochs']} epoch{'s' if flags['epochs'] > 1 else ''}",
                 "auc_threshold": f"AUC > {flags['auc_threshold']}",
                 "early_stop": f"{result['steps']} steps",
                 "signal": f"stopped at step {result['steps']}"}  # fmt: skip
    interval = result["evaluation_interval"]
    table = [
        ("batch size", str(flags["global_batch_size"])),
        ("exit criteria", exit_text[result["stopped_by"]]),
        ("frequency of evaluation", f"every {interval} steps" if interval else "at end"),
        ("xla", _yes(flags["xla"])),
        ("custom interact", _yes(flags["custom_interact"])),
        ("amp", _yes(flags["amp"])),
        ("compress", _yes(flags["dedup_ids"])),
        ("training time (minutes)", f"{result['training_seconds'] / 60:.2f}"),
        ("evaluating time (minutes)", f"{result['evaluating_seconds'] / 60:.2f}"),
        ("total time (minutes)", f"{result['total_seconds'] / 60:.2f}"),
        ("average time of iteration (ms)", _number(result["ms_per_iteration"], ".2f")),
        ("throughput (samples/second)", _number(result["samples_per_second"], ",.0f")),
        ("ranks", str(result["ranks"])),
        ("device", result["versions"]["gpu"] or "CPU"),
    ]
    scores = [("AUC", "auc"), ("best AUC", "best_auc"), ("log loss", "log_loss")]
    if any(result[name] is not None for _, name in scores):
        table += [(text, _number(result[name], ".6f")) for text, name in scores]
    if result["attainable_auc"] is not None:
        table.append(("attainable AUC of this data", f"{result['attainable_auc']:.6f}"))
    return table


def render(result: Mapping[str, Any]) -> str:
    """Returns the table as text, one line per row."""
    table = rows(result)
    left = max(len(name) for name, _ in table)
    right = max(len(text) for _, text in table)
    rule = f"+{'-' * (left + 2)}+{'-' * (right + 2)}+"
    lines = [f"| {name:<{left}} | {text:>{right}} |" for name, text in table]
    return "\n".join([rule, *lines, rule])


class SummaryTable:
    """Prints the table at the end of a run."""

    def event(self, record: Mapping[str, Any]) -> None:
        """Prints the table if the event is "end"."""
        if record["event"] == "end":
            print(render(record), flush=True)

    def close(self) -> None:
        """Does nothing."""
