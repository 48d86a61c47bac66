"""The last step: files get their names, and what describes them is written."""

from __future__ import annotations

import os

from dataset import encode, layouts, rewrite
from dataset.errors import DatasetError
from dataset.preprocessing import durable, report, splits
from dataset.preprocessing.columns import CATEGORICAL_NAMES
from dataset.preprocessing.errors import PreprocessError, UnseenValueError
from dataset.preprocessing.stages import Output

VOCAB_SIZES, REPORT = "vocab_sizes.json", "report.json"


def finish(options, parsed, rule, columns, plan, without_id, regions, say):
    """Writes `vocab_sizes.json` and `report.json`, and gives the records their layout and names.

    Args:
        options: Options.
        parsed: results of all units.
        rule: dictionaries.Rule.
        columns: 26 column summaries.
        plan: splits.Plan.
        without_id: 26 counts.
        regions: [(Destination, CRC-32)] of all records.
        say: called with each line for the user.

    Returns:
        (report, list of Output of the finished files).

    Raises:
        UnseenValueError: a reused modulo dictionary lacks values, and `unseen` is "error".
    """
    _check_unseen(options, rule, without_id)
    described = report.build(options, rule, parsed, columns, without_id, plan.records)
    vocab_sizes = [column["vocab_size"] for column in columns]
    outputs = []
    for name, content in ((VOCAB_SIZES, vocab_sizes), (REPORT, described)):
        path = os.path.join(options.output, name)
        durable.write_json(path, content)
        outputs.append(Output.whole(path))
    for line in report.table(described):
        say(line)
    if options.layout == "per_table":
        outputs += _split(options, plan, vocab_sizes, say)
    else:
        outputs += _rename(options, plan, regions, say)
    stale = os.path.join(options.output, splits.VALIDATION)
    if splits.VALIDATION not in plan.records and os.path.exists(stale):
        say(f"{stale} is of an earlier run: this one writes no validation set")
    say(f"{sum(vocab_sizes)} table rows in all: {os.path.join(options.output, VOCAB_SIZES)}")
    return described, outputs


def _rename(options, plan, regions, say):
    for file, records in plan.records.items():
        path = os.path.join(options.output, file)
        os.replace(f"{path}.partial", path)
        say(f"{path}: {records} samples, {os.path.getsize(path)} bytes")
    durable.sync(options.output)
    return [
        Output(os.path.join(options.output, d.file), d.offset, d.length, crc32)
        for d, crc32 in regions
    ]


def _split(options, plan, vocab_sizes, say):
    """Writes train/, test/ and validation/ in the per-table layout; returns their Outputs."""
    outputs = []
    for file, records in plan.records.items():
        folder = os.path.join(options.output, file.partition("_")[0])
        try:
            source = layouts.describe_raw(
                os.path.join(options.output, f"{file}.partial"), vocab_sizes
            )
            encoding = encode.encoding(source, "per_table")
            rewrite.rewrite(source, encoding, folder, overwrite=True, jobs=options.jobs)
        except DatasetError as error:
            raise PreprocessError(f"--layout=per_table: {error}") from error
        paths = [os.path.join(folder, name) for name in sorted(os.listdir(folder))]
        outputs += [Output.whole(path) for path in paths]
        size = sum(os.path.getsize(path) for path in paths)
        say(f"{folder}: {records} samples, {size} bytes in {len(paths)} files")
    return outputs


def remove_records(options, plan):
    """Removes the raw records that the per-table layout was made from."""
    if options.layout == "per_table":
        for file in plan.records:
            os.remove(os.path.join(options.output, f"{file}.partial"))


def _check_unseen(options, rule, without_id):
    if rule.max_rows is None or not any(without_id):
        return
    lacking = ", ".join(
        f"{name}: {count}" for name, count in zip(CATEGORICAL_NAMES, without_id) if count
    )
    if options.dictionary is None:
        raise PreprocessError(f"values without an id in a dictionary just made: {lacking}")
    if options.unseen == "error":
        raise UnseenValueError(
            f"--dictionary {options.dictionary}: samples with values that it lacks: {lacking}. "
            f"The modulo rule has no id for them: --unseen=zero gives them id 0 (the most frequent "
            f"value's), or count all days anew without --dictionary"
        )
