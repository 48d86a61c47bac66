"""Digests in metadata.json, current and earlier ones, and the changes that they reveal."""

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
def split(tmp_path, rng):
    """A split of three blocks that this project wrote."""
    write_three_file(tmp_path / "seed", random_arrays(SAMPLES, rng), seed_metadata())
    convert.convert_split(
        open_split(tmp_path / "seed"), str(tmp_path / "own"), "three_file", progress=False
    )
    return tmp_path / "own"


def sha256_of_blocks(path, bytes_per_sample):
    content, step = path.read_bytes(), CHUNK_SAMPLES * bytes_per_sample
    blocks = [content[first : first + step] for first in range(0, len(content), step)]
    digest = hashlib.sha256(b"".join(hashlib.sha256(block).digest() for block in blocks))
    return "sha256-blocks:" + digest.hexdigest()


def with_digests(split, make):
    """Rewrites metadata.json with the digests make(entry)."""
    path = split / metadata.FILE_NAME
    content = json.loads(path.read_text())
    for entry in content["columns"]:
        entry["digest"] = make(entry)
    content["fingerprint"] = metadata.fingerprint(content)
    path.write_text(json.dumps(content))


def use_sha256(split):
    def make(entry):
        width = np.dtype(entry["dtype"]).itemsize * entry["width"]
        return sha256_of_blocks(split / entry["file"], width)

    with_digests(split, make)


@pytest.mark.parametrize("name", ["xxh3-128-blocks", "sha256-blocks"])
def test_validate_finds_a_flipped_bit(split, rng, name):
    if name == "sha256-blocks":
        use_sha256(split)
    assert validate.validate(open_split(split), progress=False)[1] == []
    path = split / "label.bin"
    labels = np.memmap(path, np.int32, "r+")
    changed = rng.integers(SAMPLES)
    labels[changed] ^= 1
    labels.flush()
    (problem,) = validate.validate(open_split(split), progress=False)[1]
    assert problem.startswith(f"{path}: ") and f"{name}:" in problem
    labels[changed] ^= 1
    labels.flush()
    assert validate.validate(open_split(split), progress=False)[1] == []


def test_validate_refuses_an_unknown_digest(split):
    with_digests(split, lambda entry: "blake3-blocks:00")
    with pytest.raises(DatasetError, match="blake3-blocks") as caught:
        validate.validate(open_split(split), progress=False)
    assert caught.value.path == str(split / metadata.FILE_NAME)
