"""Digests in metadata.json: the present ones, old ones, and the change that they show."""

import hashlib
import json

import numpy as np
import pytest

from dataset import convert, metadata, open_split, validate
from dataset.chunks import CHUNK_SAMPLES
from dataset.errors import DatasetError
from tests.support.dataset.hand_written import random_arrays, seed_metadata, write_three_file

SAMPLES = 2 * CHUNK_SAMPLES + 77


@pytest.fixture
def split(tmp_path):
    """A split of this project's own, of three blocks."""
    write_three_file(tmp_path / "seed", random_arrays(SAMPLES), seed_metadata())
    convert.convert_split(
        open_split(tmp_path / "seed"), str(tmp_path / "own"), "three_file", progress=False
    )
    return tmp_path / "own"


def sha256_of_blocks(path, bytes_per_sample):
    content, step = path.read_bytes(), CHUNK_SAMPLES * bytes_per_sample
    blocks = [content[first : first + step] for first in range(0, len(content), step)]
    whole = hashlib.sha256(b"".join(hashlib.sha256(block).digest() for block in blocks))
    return "sha256-blocks:" + whole.hexdigest()


def with_digests(split, make):
    """Writes metadata.json anew with the digest that `make` gives for each column's entry."""
    path = split / metadata.FILE_NAME
    content = json.loads(path.read_text())
    for entry in content["columns"]:
        entry["digest"] = make(entry)
    content["fingerprint"] = metadata.fingerprint(content)
    path.write_text(json.dumps(content))


def old(split):
    def make(entry):
        width = np.dtype(entry["dtype"]).itemsize * entry["width"]
        return sha256_of_blocks(split / entry["file"], width)

    with_digests(split, make)


@pytest.mark.parametrize("before", [None, old])
def test_a_flipped_bit_is_found(split, before):
    if before:
        before(split)
    assert validate.validate(open_split(split), progress=False)[1] == []
    path = split / "label.bin"
    labels = np.memmap(path, np.int32, "r+")
    changed = np.random.default_rng().integers(SAMPLES)
    labels[changed] ^= 1
    labels.flush()
    (problem,) = validate.validate(open_split(split), progress=False)[1]
    name = "sha256-blocks" if before else "xxh3-128-blocks"
    assert f"{path}: content was changed: digest expected {name}:" in problem
    labels[changed] ^= 1
    labels.flush()
    assert validate.validate(open_split(split), progress=False)[1] == []


def test_a_digest_that_is_not_known(split):
    with_digests(split, lambda entry: "blake3-blocks:00")
    with pytest.raises(DatasetError, match=r"metadata.json: digest 'blake3-blocks:00': .* reads"):
        validate.validate(open_split(split), progress=False)
