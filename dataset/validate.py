"""Checks a complete dataset: every label, id and dense value, and the digest of every file.

    python3 -m dataset.validate DIR

DIR is a dataset, one split of it, or a raw file. Prints a summary of each column. If something is
wrong, prints the first problem of each column and exits with status 2.
"""

from __future__ import annotations

import argparse
import os
import sys
import threading
from collections.abc import Sequence

import numpy as np

from dataset import column_kernels, command_line, files, metadata, transforms
from dataset.chunks import (
    CHUNK_SAMPLES,
    Chunk,
    ChunkReader,
    check_ids,
    check_labels,
    transformed_dense,
)
from dataset.columns import CATEGORICAL, DENSE, DatasetDescription
from dataset.command_line import add_source_arguments, open_source
from dataset.errors import DatasetError
from dataset.rewrite import each_chunk
from storage.arguments import first_paragraph
from storage.digests import BlockDigest, block_digest_name
from storage.direct_io import ThreadBuffers


class _Scan:
    """Collects problems and statistics of a split, chunk by chunk."""

    def __init__(self, description):
        self.description = description
        dense, tables = description.dense_features, len(description.vocab_sizes)
        self.positives = 0
        self.dense_sum = np.zeros(dense)
        self.dense_low, self.dense_high = np.full(dense, np.inf), np.full(dense, -np.inf)
        self.zeros = np.zeros(dense, np.int64)
        self.id_low = np.full(tables, np.iinfo(np.int64).max)
        self.id_high = np.full(tables, np.iinfo(np.int64).min)
        self.ids = np.zeros(tables, np.int64)
        self.longest = np.zeros(tables, np.int64)
        self.seen = [np.zeros(rows, bool) for rows in description.vocab_sizes]
        self.problems = {}
        self._buffers = ThreadBuffers()
        self._lock = threading.Lock()

    def report(self, column, first, error):
        """Keeps the problem with the earliest sample of each column."""
        with self._lock:
            known = self.problems.get(column)
            if known is None or first < known[0]:
                self.problems[column] = (first, str(error))

    def add(self, chunk):
        """Checks and counts one chunk."""
        description = self.description
        try:
            check_labels(chunk, description.label_column.segments[0].path)
        except DatasetError as error:
            self.report(description.label_column, chunk.first, error)
        else:
            with self._lock:
                self.positives += int(np.count_nonzero(chunk.label))
        try:
            dense = transformed_dense(chunk, description.dense_column)
        except DatasetError as error:
            self.report(description.dense_column, chunk.first, error)
        else:
            with self._lock:
                self.dense_sum += dense.sum(axis=0, dtype=np.float64)
                np.minimum(self.dense_low, dense.min(axis=0), out=self.dense_low)
                np.maximum(self.dense_high, dense.max(axis=0), out=self.dense_high)
                self.zeros += np.count_nonzero(chunk.dense == 0, axis=0)
        for index, (column, ids) in enumerate(zip(description.table_columns, chunk.ids)):
            lists = chunk.boundaries.get(index)
            boundaries = {} if lists is None else {0: lists}
            part = Chunk(chunk.first, chunk.label, chunk.dense, [ids], boundaries)
            try:
                check_ids(part, [column], description.vocab_sizes)
            except DatasetError as error:
                self.report(column, chunk.first, error)
                continue
            self._add_ids(column, ids, lists)

    def _add_ids(self, column, ids, lists):
        """Counts the valid ids of one column; `lists` are the boundaries of a variable feature."""
        longest = column.features.hotness if lists is None else [np.diff(lists).max()]
        for table, most, found in zip(column.tables, longest, self._by_table(column, ids)):
            with self._lock:
                self.ids[table] += found.size
                self.longest[table] = max(self.longest[table], most)
            if not found.size:  # All lists are empty.
                continue
            low, high = found.min(), found.max()
            with self._lock:
                self.id_low[table] = min(self.id_low[table], low)
                self.id_high[table] = max(self.id_high[table], high)
            # Every thread writes the same value, so no lock is needed.
            self.seen[table][found] = True

    def _by_table(self, column, ids):
        """Returns a vector of the ids of each of a column's tables."""
        if len(column.tables) == 1:
            return [ids.reshape(-1)]
        shapes = [(len(ids), width) for width in column.features.hotness]
        parts = [
            self._buffers.array(table, shape, np.int32)
            for table, shape in zip(column.tables, shapes)
        ]
        column_kernels.copy_ids([ids], parts)
        return [part.reshape(-1) for part in parts]

    def summary(self):
        """Returns the lines of the summary."""
        description = self.description
        samples = description.samples
        lines = [
            f"{description.path}: {description.layout}, {samples} samples, "
            f"{description.bytes_per_sample} bytes each, {description.fingerprint}"
        ]
        label = description.label_column
        if label not in self.problems:
            rate = self.positives / samples
            lines.append(f"  label        {label.dtype:8} {rate:.4%} ones")
        dense = description.dense_column
        if dense not in self.problems:
            transform = transforms.transform_text(description)
            for feature in range(description.dense_features):
                lines.append(
                    f"  dense {feature:<6} {dense.dtype:8} {transform}: "
                    f"{self.dense_low[feature]:.4g} to {self.dense_high[feature]:.4g}, mean "
                    f"{self.dense_sum[feature] / samples:.4g}, "
                    f"{self.zeros[feature] / samples:.2%} zeros"
                )
        for column in description.table_columns:
            if column in self.problems:
                continue
            for feature, table in enumerate(column.tables):
                rows = description.vocab_sizes[table]
                used = np.count_nonzero(self.seen[table])
                shown = f"ids {self.id_low[table]} to {self.id_high[table]}"
                lines.append(
                    f"  table {table:<6} {column.dtype:8} {shown if used else 'no ids'} of {rows} "
                    f"rows, {used} seen ({used / rows:.2%})"
                    + self._lists_text(table, column.features.select([feature]))
                )
        return lines

    def _lists_text(self, table, bag):
        """Returns the end of a table's line: its ids per sample, unless that is one."""
        if bag.is_one_hot:
            return ""
        (pooling,) = bag.pooling
        if not bag.variable[0]:
            return f"; {pooling} of {bag.slots} ids per sample"
        mean = self.ids[table] / self.description.samples
        longest = self.longest[table]
        return f"; {pooling} of up to {longest} ids per sample, {mean:.4g} on average"


def validate(
    description: DatasetDescription, jobs: int | None = None, progress: bool = True
) -> tuple[list[str], list[str]]:
    """Checks every value and digest of one split.

    Args:
        description: the split, from `dataset.open_split`.
        jobs: number of threads; default: one per core, at most 8.
        progress: show a progress bar.

    Returns:
        (summary lines, problems), both lists of strings.

    Raises:
        DatasetError: a file cannot be read, or a digest is not supported.
    """
    stored = metadata.read(description.path) if files.is_folder(description.path) else None
    blocks = -(-description.samples // CHUNK_SAMPLES)
    path = os.path.join(description.path, metadata.FILE_NAME)
    # Only metadata.json of this project has digests.
    entries = _entries(stored) if stored is not None and "format_version" in stored else []
    try:
        digests = [BlockDigest(blocks, block_digest_name(entry["digest"])) for entry in entries]
    except ValueError as error:
        raise DatasetError(f"{path}: {error}", path=path, field="digest") from error
    scan = _Scan(description)

    def work(block, first, count):
        chunk = reader.read(first, count)
        if digests:
            for data, digest in zip(_stored_arrays(description, chunk), digests):
                digest.add(block, np.ascontiguousarray(data))
        scan.add(chunk)

    with ChunkReader(description) as reader:
        what = os.path.basename(description.path)
        each_chunk(description.samples, work, description.bytes_per_sample, what, jobs, progress)
    problems = [message for _, message in scan.problems.values()]
    problems += _compare(description, entries, digests)
    return scan.summary(), problems


def _entries(stored):
    """Returns the entries of all files in a metadata.json, in the order of `_stored_arrays`."""
    entries = []
    for column in stored["columns"]:
        entries.append(column)
        if "offsets" in column:
            entries.append(column["offsets"])
    return entries


def _stored_arrays(description, chunk):
    """Yields what each file holds of a chunk: those of a column, then of its boundaries."""
    position = 0
    for column in description.columns:
        if column.kind != CATEGORICAL:
            yield chunk.dense if column.kind == DENSE else chunk.label
            continue
        yield chunk.ids[position]
        if column.offsets:
            yield chunk.boundaries[position][: None if chunk.last else -1]
        position += 1


def _compare(description, stored, digests):
    """Returns a message for each file whose digest differs from metadata.json."""
    problems = []
    paths = []
    for column in description.columns:
        paths += [segment.path for segment in (*column.segments, *column.offsets)]
    for path, entry, digest in zip(paths, stored, digests):
        if digest.text() == entry["digest"]:
            continue
        twin = next((other for other in stored if other["digest"] == digest.text()), None)
        hint = f", the digest of {twin['file']}; were the files swapped?" if twin else ""
        problems.append(
            f"{path}: content changed: expected digest {entry['digest']}, found "
            f"{digest.text()}{hint}"
        )
    return problems


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status (see `dataset.command_line`)."""
    parser = argparse.ArgumentParser(
        prog="python3 -m dataset.validate", description=first_paragraph(__doc__)
    )
    parser.add_argument(
        "path", metavar="DIR", type=command_line.path, help="dataset, split folder or raw file"
    )
    parser.add_argument(
        "--layout", default="auto", help="name of the layout (default: recognise it)"
    )
    add_source_arguments(parser)
    parser.add_argument(
        "--jobs", type=command_line.threads, help="threads (default: one per core, at most 8)"
    )
    parsed = parser.parse_args(arguments)
    return command_line.run("dataset.validate", lambda: _validate(parsed))


def _validate(parsed):
    wrong = 0
    for description in open_source(parsed.path, parsed.layout, parsed):
        summary, problems = validate(description, parsed.jobs)
        print("\n".join(summary))
        for problem in problems:
            print(f"dataset.validate: {problem}", file=sys.stderr)
        wrong += len(problems)
    print(f"{parsed.path}: " + (f"{wrong} problem{'s' * (wrong > 1)}" if wrong else "valid"))
    return command_line.EXIT_USER_ERROR if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
