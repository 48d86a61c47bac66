"""The last step: writes the report and table sizes, and gives the records their final names."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from dataset import encode, layouts, metadata, rewrite
from dataset.errors import DatasetError
from dataset.preprocessing import rejects, report, splits
from dataset.preprocessing.columns import CATEGORICAL_NAMES
from dataset.preprocessing.errors import PreprocessError, UnseenValueError
from dataset.preprocessing.output_folder import PARTIAL
from dataset.preprocessing.stages import Output
from storage.atomic import encode_json

if TYPE_CHECKING:
    from dataset.preprocessing.options import Options
    from dataset.preprocessing.output_folder import OutputFolder

VOCAB_SIZES, REPORT, DICTIONARY = "vocab_sizes.json", "report.json", "dictionary"


def _record_names(options):
    names = [splits.TRAIN]
    if options.test_day is not None or options.test_fraction is not None:
        names.append(splits.TEST)
    return [*names, splits.VALIDATION] if options.write_validation else names


def partial_names(options: Options) -> list[str]:
    """Returns the files and folders in OUTPUT that a run writes before it is complete."""
    names = [name + PARTIAL for name in _record_names(options)]
    if options.layout == "per_table":
        names += map(splits.folder_name, _record_names(options))
    return names if options.dictionary is not None else [*names, DICTIONARY]


def permanent_names(options: Options) -> list[str]:
    """Returns the files in OUTPUT that appear under their names only when complete."""
    records = _record_names(options) if options.layout == "raw" else []
    return [*records, VOCAB_SIZES, REPORT, rejects.FILE_NAME]


def finish(
    options: Options, output: OutputFolder, results: report.Results, log: Callable[[str], None]
) -> tuple[dict[str, Any], list[Output]]:
    """Writes `vocab_sizes.json` and `report.json`, and gives the records their layout and names.

    Args:
        options: of the run.
        output: the folder OUTPUT.
        results: of the stages.
        log: called with each line for the user.

    Returns:
        (report, list of Output of the finished files).

    Raises:
        UnseenValueError: a reused modulo dictionary lacks values, and `unseen` is "error".
    """
    _check_unseen(options, results.rule, results.without_id)
    described = report.build(options, results)
    vocab_sizes = [column["vocab_size"] for column in results.columns]
    outputs = []
    for name, content in ((VOCAB_SIZES, vocab_sizes), (REPORT, described)):
        with output.replacing(name) as file:
            file.write((encode_json(content) + "\n").encode())
        outputs.append(Output.complete(os.path.join(options.output, name)))
    for line in report.table(described):
        log(line)
    if options.layout == "per_table":
        outputs += _split(options, results.plan, vocab_sizes, log)
    else:
        outputs += _rename(options, output, results.plan, results.regions, log)
    log(f"{sum(vocab_sizes)} table rows in all: {os.path.join(options.output, VOCAB_SIZES)}")
    return described, outputs


def _rename(options, output, plan, regions, log):
    for file, records in plan.records.items():
        path = os.path.join(options.output, file)
        output.publish(file)
        log(f"{path}: {records} samples, {os.path.getsize(path)} bytes")
    return [
        Output(os.path.join(options.output, d.file), d.offset, d.length, crc32)
        for d, crc32 in regions
    ]


def _split(options, plan, vocab_sizes, log):
    """Writes train/, test/ and validation/ in the per-table layout; returns their Outputs."""
    outputs = []
    for file, records in plan.records.items():
        folder = os.path.join(options.output, splits.folder_name(file))
        try:
            source = layouts.describe_raw(
                os.path.join(options.output, f"{file}.partial"), vocab_sizes
            )
            encoding = encode.encoding(source, "per_table")
            rewrite.rewrite(source, encoding, folder, overwrite=True, jobs=options.jobs)
        except DatasetError as error:
            raise PreprocessError.of(error, "--layout=per_table: ", flag="layout") from error
        names = [*(written.name for written in encoding.files), metadata.FILE_NAME]
        paths = [os.path.join(folder, name) for name in names]
        outputs += [Output.complete(path) for path in paths]
        size = sum(os.path.getsize(path) for path in paths)
        log(f"{folder}: {records} samples, {size} bytes in {len(paths)} files")
    return outputs


def _check_unseen(options, rule, without_id):
    if rule.max_rows is None or not any(without_id):
        return
    missing = {name: count for name, count in zip(CATEGORICAL_NAMES, without_id) if count}
    counts = ", ".join(f"{name}: {count}" for name, count in missing.items())
    if options.dictionary is None:
        raise AssertionError(f"the new dictionary lacks values of the input: {counts}")
    if options.unseen == "error":
        problem = (
            f"does not contain all values in the input (samples with unknown values: {counts}), "
            "and the modulo rule has no id for them; try --unseen=zero, which gives them id 0 (the "
            "id of the most frequent value), or build a new dictionary by omitting --dictionary"
        )
        raise UnseenValueError.of_path(options.dictionary, problem, flag="unseen", found=missing)
