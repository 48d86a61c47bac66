"""Zeroing machine code in CUDA's containers, on invented containers."""

import struct

import numpy as np
import pytest

from deploy.airgap import prune

PTX, CODE = 1, 2


def entry(kind, generation, code, header=64):
    """Returns an entry. The driver does not read the rest of its header, here 0xa5."""
    fields = struct.pack("<HHIQIIHHI", kind, 0x101, header, len(code), 7, 0, 0, 0, generation)
    return fields + b"\xa5" * (header - len(fields)) + code


def container(*entries):
    return struct.pack("<IHHQ", 0xBA55ED50, 1, 16, sum(map(len, entries))) + b"".join(entries)


@pytest.fixture
def codes(rng):
    # The first is larger than a block of zeros. No code contains the magic number or zeros.
    return [bytes(rng.integers(1, 80, size, np.uint8)) for size in (2**20 + 8, 16, 400, 24, 8)]


def test_prune_zeroes_only_other_generations(tmp_path, codes):
    path = tmp_path / "library"
    noise = struct.pack("<IHHQ", 0xBA55ED50, 9, 16, 5) + b"the four bytes by chance"
    before = b"".join(
        [
            b"before", container(entry(CODE, 50, codes[0]), entry(PTX, 50, codes[1], header=80)),
            noise, container(entry(CODE, 90, codes[2]), entry(CODE, 86, codes[3])),
            container(entry(CODE, 80, codes[4])), b"after",
        ]
    )  # fmt: skip
    path.write_bytes(before)
    assert prune.prune(path, {80, 90}) == {50: len(codes[0]), 86: len(codes[3])}
    expected = before
    for code in (codes[0], codes[3]):
        assert before.count(code) == 1
        expected = expected.replace(code, bytes(len(code)))
    assert path.read_bytes() == expected
    assert prune.entries(expected) == prune.entries(before)


def test_prune_zeroes_ptx_if_not_kept(tmp_path, codes):
    path = tmp_path / "library"
    before = container(entry(PTX, 90, codes[1]), entry(CODE, 90, codes[2]), entry(8, 0, codes[3]))
    path.write_bytes(before)
    assert prune.prune(path, {90}, keep_ptx=False) == {90: len(codes[1])}
    assert path.read_bytes() == before.replace(codes[1], bytes(len(codes[1])))


@pytest.mark.parametrize(
    ("damage", "found", "bound"),
    [
        (lambda data: data[:16] + b"\x63" + data[17:], (99, 64, 400), 480),
        (lambda data: data[:24] + b"\xff" * 4 + data[28:], (CODE, 64, 2**32 - 1), 480),
        (lambda data: data[:8] + struct.pack("<Q", 70) + data[16:], (CODE, 64, 400), 86),
    ],
)
def test_unknown_layout_is_rejected_and_not_changed(tmp_path, codes, damage, found, bound):
    path = tmp_path / "library"
    written = damage(container(entry(CODE, 50, codes[2]))) + bytes(100)
    path.write_bytes(written)
    with pytest.raises(prune.UnknownLayoutError) as caught:
        prune.prune(path, {90})
    assert (caught.value.found, caught.value.bound) == (found, bound)
    assert path.read_bytes() == written


def test_library_without_kernels_is_unchanged(tmp_path):
    path = tmp_path / "library"
    path.write_bytes(b"\x7fELF and nothing else")
    assert prune.prune(path, {90}) == {}
    assert path.read_bytes() == b"\x7fELF and nothing else"
