"""Digests of files in blocks: their values, old ones, and what tells that a file was changed."""

import hashlib
import json

import numpy as np
import pytest
import xxhash

from dataset import convert, metadata, open_split, validate
from dataset.chunks import CHUNK_SAMPLES
from dataset.digests import BlockDigest
from dataset.errors import DatasetError
from tests.dataset.hand_written import random_arrays, seed_metadata, write_three_file

SAMPLES = 2 * CHUNK_SAMPLES + 77
# Of the hash's own documentation: XXH3, 128 bits, of nothing.
XXH3_OF_NOTHING = "99aa06d3014798d86001c324468d497f"


def test_the_hash_is_the_documented_one():
    assert BlockDigest(0).text() == "xxh3-128-blocks:" + XXH3_OF_NOTHING


def test_blocks_in_any_order():
    random = np.random.default_rng()
    blocks = [random.integers(0, 256, size, np.uint8) for size in (100_000, 65_536, 7)]
    digest = BlockDigest(3)
    for block in random.permutation(3):
        digest.add(block, blocks[block])
    expected = xxhash.xxh3_128(b"".join(xxhash.xxh3_128(b.tobytes()).digest() for b in blocks))
    assert digest.text() == f"xxh3-128-blocks:{expected.hexdigest()}"


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
