"""`verify.find_problems` finds any damage of a checkpoint."""

import hashlib
import json
import os

import pytest

from tests.support.training import checkpoints
from training.checkpoint import __main__ as command
from training.checkpoint import verify


@pytest.fixture
def checkpoint(tmp_path, rng):
    """The checkpoint of step 7 of two ranks."""
    checkpoints.write(tmp_path / "written", [5, 4, 1], rng, ranks=2)
    return tmp_path / "written" / "step-000000007"


def positions(checkpoint, count, rng):
    """Returns [(file, position)] of `count` random bytes of a checkpoint; None: of all bytes."""
    files = sorted(checkpoint.iterdir())
    every = [(path, position) for path in files for position in range(path.stat().st_size)]
    return [every[index] for index in rng.permutation(len(every))[:count]]


@pytest.mark.parametrize("count", [300, pytest.param(None, marks=pytest.mark.slow)])
def test_find_problems_finds_every_flipped_byte(checkpoint, rng, count):
    assert verify.find_problems(checkpoint) == []
    for path, position in positions(checkpoint, count, rng):
        bits = int(rng.integers(1, 256))
        content = bytearray(path.read_bytes())
        content[position] ^= bits
        path.write_bytes(content)
        assert verify.find_problems(checkpoint), f"{path.name}, byte {position}, bits {bits:08b}"
        content[position] ^= bits
        path.write_bytes(content)
    assert verify.find_problems(checkpoint) == []


@pytest.mark.parametrize("count", [200, pytest.param(None, marks=pytest.mark.slow)])
def test_find_problems_finds_every_truncated_and_missing_file(checkpoint, rng, count):
    for path, length in positions(checkpoint, count, rng):
        content = path.read_bytes()
        os.truncate(path, length)
        assert verify.find_problems(checkpoint), f"{path.name} truncated to {length} bytes"
        path.write_bytes(content)
    for path in sorted(checkpoint.iterdir()):
        content = path.read_bytes()
        path.unlink()
        assert verify.find_problems(checkpoint), f"{path.name} removed"
        path.write_bytes(content)
    assert verify.find_problems(checkpoint) == []


def test_find_problems_finds_a_shard_that_the_manifest_lacks(checkpoint, tmp_path):
    """The checksums match, but the manifest describes fewer rows than the table has."""
    path, sums = checkpoint / "manifest.json", checkpoint / "SHA256SUMS"
    before = hashlib.sha256(path.read_bytes()).hexdigest()
    manifest = json.loads(path.read_text())
    gone = manifest["tables"].pop(0)
    path.write_text(json.dumps(manifest))
    after = hashlib.sha256(path.read_bytes()).hexdigest()
    sums.write_text(sums.read_text().replace(before, after))
    (line,) = verify.find_problems(checkpoint)
    assert f"table {gone['table']}" in line
    assert command.main(["export", str(checkpoint), str(tmp_path / "out")]) == 2
    assert not (tmp_path / "out").exists()
