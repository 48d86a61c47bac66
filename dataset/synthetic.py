"""Writes Criteo-shaped raw binaries with labels drawn from a hidden model.

    python3 -m dataset.synthetic --output DIR --train_samples 4000000 --test_samples 500000

DIR then holds train_data.bin and test_data.bin (raw records), vocab_sizes.json, and
generator.json. The latter records the attainable AUC of each file: the AUC of the true label
probabilities, which is the best possible score up to sampling noise.

With --labels=crossed, tables may have several ids per sample (--hotness, which metadata.json then
records), and labels need products of three features (`dataset.crossed_model`).
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from dataset import command_line, hotness, layouts, metadata, ownership, vocabularies
from dataset.crossed_model import CrossedModel
from dataset.errors import DatasetError
from dataset.hidden_model import HiddenModel, LabelModel, label_probabilities
from dataset.rewrite import each_chunk
from ops.bags import Bags
from storage.arguments import first_paragraph, whole_number
from storage.claim import Claim, ClaimError
from storage.partial_files import PartialFiles

#: Vocabulary sizes of the seed benchmark's synthetic dataset.
VOCAB_SIZES = (
    203931, 18598, 14092, 7012, 18977, 4, 6385, 1245, 49, 186213, 71328, 67288, 11, 2168, 7338, 61,
    4, 932, 15, 204515, 141526, 199433, 60919, 9137, 71, 34,
)  # fmt: skip
#: Default tables of crossed labels, and their ids per sample: a million samples suffice to learn
#: all rows.
CROSSED_VOCAB_SIZES = (50, 100, 150, 200, 250, 300)
CROSSED_HOTNESS = (1, 2, 3, 1, 2, 5)
#: What the labels need: products of two tables' scores, or of three.
LABELS = ("paired", "crossed")


def auc(labels: np.ndarray, scores: np.ndarray) -> float | None:
    """Returns the area under the ROC curve; ties count half (Mann and Whitney 1947).

    Args:
        labels: [n], 0 or 1.
        scores: [n].

    Returns:
        The AUC, or None if all labels are equal.
    """
    order = np.argsort(scores, kind="stable")
    ranked, labels = scores[order], labels[order].astype(np.int64)
    # One group per distinct score.
    starts = np.flatnonzero(np.concatenate([[True], ranked[1:] != ranked[:-1]]))
    positives = np.add.reduceat(labels, starts)
    negatives = np.diff(np.append(starts, len(labels))) - positives
    below = np.cumsum(negatives) - negatives
    pairs = int(positives.sum()) * int(negatives.sum())
    if not pairs:
        return None
    return float(np.sum(positives * (below + negatives / 2.0)) / pairs)


def write_split(
    path: str,
    model: LabelModel,
    samples: int,
    seed: Sequence[int],
    jobs: int | None = None,
    progress: bool = True,
) -> float | None:
    """Writes `samples` raw records to `path`; a seed gives the same bytes on any number of cores.

    Args:
        path: the file.
        model: draws the samples.
        samples: number of samples.
        seed: integers, different for each file.
        jobs: number of threads; default: one per core, at most 8.
        progress: show a progress bar.

    Returns:
        The AUC of the true probabilities, or None if all labels are equal.
    """
    record = layouts.raw_record_bytes(model.bags.slots)
    labels = np.empty(samples, np.int8)
    logits = np.empty(samples, np.float32)

    def work(block, first, count):
        random = np.random.Generator(np.random.SFC64([*seed, block]))
        records = np.empty((count, record // 4), np.int32)
        records[:, 1:], logits[first : first + count] = model.sample(random, count)
        chances = label_probabilities(logits[first : first + count])
        records[:, 0] = labels[first : first + count] = random.random(count, np.float32) < chances
        output.write(0, records, first * record)

    with PartialFiles([path]) as output:
        each_chunk(samples, work, record, os.path.basename(path), jobs, progress)
        ownership.forget_raw(path)
        output.commit()
    return auc(labels, logits)


def write_dataset(
    output: str,
    train_samples: int,
    test_samples: int,
    vocab_sizes: Sequence[int] = VOCAB_SIZES,
    seed: int = 0,
    jobs: int | None = None,
    progress: bool = True,
    overwrite: bool = False,
    labels: str = "paired",
    bags: Bags | None = None,
) -> dict[str, Any]:
    """Writes a synthetic dataset in the raw layout.

    Args:
        output: the folder.
        train_samples: samples of train_data.bin.
        test_samples: samples of test_data.bin.
        vocab_sizes: rows of each table.
        seed: seed of the hidden model and of all draws.
        jobs: number of threads; default: one per core, at most 8.
        progress: show progress bars.
        overwrite: replace a dataset that this function wrote before.
        labels: name in `LABELS`.
        bags: the ids of each table, in lists of fixed lengths; with paired labels, one id each.
            Default: one id.

    Returns:
        The content of generator.json.

    Raises:
        DatasetError: the sizes are invalid or do not fit the labels, or the folder holds a dataset
            or files that this project did not write.
    """
    vocab_sizes = vocabularies.check_sizes(list(vocab_sizes), "the given list")
    bags = Bags.one_hot(len(vocab_sizes)) if bags is None else bags
    facts: dict[str, Any] = {"seed": seed}
    if labels == "crossed":
        model = CrossedModel(vocab_sizes, bags, seed)
        facts["labels"] = labels
    else:
        model = HiddenModel(vocab_sizes, seed)
    os.makedirs(output, exist_ok=True)

    def is_complete():
        return ownership.raw_files(output).issuperset(layouts.RAW_FILES)

    try:
        with Claim(output, is_complete=is_complete) as claim:
            _take(claim, output, vocab_sizes, bags, overwrite)
            files = {}
            for index, samples in enumerate((train_samples, test_samples)):
                path = os.path.join(output, layouts.RAW_FILES[index])
                reached = write_split(path, model, samples, [seed, 2 + index], jobs, progress)
                files[layouts.RAW_FILES[index]] = {"samples": samples, "attainable_auc": reached}
            return ownership.record_dataset(output, vocab_sizes, files, bags, **facts)
    except ClaimError as error:
        raise DatasetError.of_os(error) from error
    except OSError as error:
        path = error.filename or output
        raise DatasetError(f"{path}: cannot be written: {error.strerror}", path=path) from error


def _take(claim, output, vocab_sizes, bags, overwrite):
    """Claims all files of a dataset."""
    owned = ownership.raw_files(output)
    for name in layouts.RAW_FILES:
        path = os.path.join(output, name)
        if name in owned and os.path.lexists(path) and not overwrite:
            problem = "already exists; remove it, or give --overwrite to replace it"
            raise DatasetError.of_path(path, problem, flag="overwrite")
    replaceable = owned if overwrite else claim.leftovers
    ownership.check_vocab_sizes(output, vocab_sizes, vocabularies.FILE_NAME in replaceable)
    described = ownership.raw_metadata(vocab_sizes, bags)
    ownership.check_raw_metadata(output, described, metadata.FILE_NAME in replaceable)
    ownership.check_generator(output)
    sides = {layouts.GENERATOR_FILE, vocabularies.FILE_NAME}
    if described is not None:
        sides.add(metadata.FILE_NAME)
    claim.take([*layouts.RAW_FILES, *sides], owned | sides)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status (see `dataset.command_line`)."""
    parser = argparse.ArgumentParser(
        prog="python3 -m dataset.synthetic", description=first_paragraph(__doc__)
    )
    # More than any disk holds, and few enough for file offsets of 63 bits.
    samples = whole_number(1, 1 << 40)
    parser.add_argument("--output", type=command_line.path, required=True, help="folder to write")
    parser.add_argument(
        "--train_samples", type=samples, required=True, help="samples in train_data.bin"
    )
    parser.add_argument(
        "--test_samples", type=samples, required=True, help="samples in test_data.bin"
    )
    parser.add_argument(
        "--vocab_sizes",
        metavar="LIST",
        help="rows of each table, comma-separated (default: 26 tables of 4 to 204,515 rows; with "
        f"--labels=crossed: {_text(CROSSED_VOCAB_SIZES)})",
    )
    parser.add_argument(
        "--labels",
        choices=LABELS,
        default=LABELS[0],
        help="what the labels need: products of two tables' latent scores (paired, the default), "
        "which a dot interaction expresses, or of three (crossed), which a cross network expresses",
    )
    parser.add_argument(
        "--hotness",
        metavar="LIST",
        help="ids per sample of each table, for --labels=crossed: comma-separated integers, a "
        ".json file with a list, or mlperf (default: one id per table; for the default tables: "
        f"{_text(CROSSED_HOTNESS)})",
    )
    parser.add_argument(
        "--pooling",
        metavar="LIST",
        help="how the latent scores of a table's ids become one, for --labels=crossed: sum or mean "
        "for all tables, or one for each (comma-separated, or a .json file; default: sum)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an existing dataset")
    parser.add_argument(
        "--seed",
        type=whole_number(0, 2**63 - 1),
        default=0,
        help="random seed; the same seed gives the same bytes (default: 0)",
    )
    parser.add_argument(
        "--jobs", type=command_line.threads, help="threads (default: one per core, at most 8)"
    )
    parsed = parser.parse_args(arguments)
    return command_line.run("dataset.synthetic", lambda: _write(parsed))


def _text(values):
    return ",".join(map(str, values))


def _tables(parsed):
    """Returns (vocab_sizes, bags) that the command line gives."""
    ids, pooling = command_line.parse_bags(parsed)
    sizes = None
    if parsed.vocab_sizes is not None:
        sizes = vocabularies.parse_sizes(parsed.vocab_sizes, "--vocab_sizes")
    if parsed.labels != "crossed":
        for flag, value in (("hotness", ids), ("pooling", pooling)):
            if value is not None:
                problem = f"--{flag}: has no effect without --labels=crossed; leave it out"
                raise DatasetError(problem, flag=flag, found=value)
        return sizes or VOCAB_SIZES, None
    if sizes is None:
        sizes, ids = CROSSED_VOCAB_SIZES, CROSSED_HOTNESS if ids is None else ids
    return sizes, hotness.make_bags(ids, pooling, len(sizes), "--labels=crossed")


def _write(parsed):
    sizes, bags = _tables(parsed)
    facts = write_dataset(
        parsed.output, parsed.train_samples, parsed.test_samples, sizes, parsed.seed, parsed.jobs,
        overwrite=parsed.overwrite, labels=parsed.labels, bags=bags,
    )  # fmt: skip
    for name in layouts.RAW_FILES:
        entry = facts["files"][name]
        reached = entry["attainable_auc"]
        print(
            f"{os.path.join(parsed.output, name)}: {entry['samples']} samples, attainable AUC "
            + ("undefined (one class)" if reached is None else f"{reached:.4f}")
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
