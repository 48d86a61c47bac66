"""Reads and writes MLPerf logs, and runs MLPerf's compliance checker on them."""

import json
import logging

TOKEN = ":::MLLOG "


def read(path):
    """Returns the lines of a log as dictionaries."""
    return [json.loads(line[len(TOKEN) :]) for line in path.read_text().splitlines()]


def write(path, lines):
    """Writes a log; returns its path."""
    path.write_text("".join(f"{TOKEN}{json.dumps(line)}\n" for line in lines))
    return path


def values(lines, key):
    """Returns the values of all lines with a key."""
    return [line["value"] for line in lines if line["key"] == key]


def check(path, caplog, ruleset="2.1.0"):
    """Runs the compliance checker in this process; returns (passed, its messages)."""
    from mlperf_logging.compliance_checker import mlp_compliance

    caplog.clear()
    # Left over from a check that ended with an exception.
    mlp_compliance.enqueued_configs.clear()
    checker = mlp_compliance.make_checker("training", ruleset, quiet=False, werror=False)
    with caplog.at_level(logging.INFO):
        try:
            passed = mlp_compliance.main(str(path), f"training_{ruleset}/common.yaml", checker)[0]
        except (OSError, TypeError) as error:  # An unknown division; an AUC that is null.
            return False, f"{caplog.text}{error}"
    return bool(passed), caplog.text
