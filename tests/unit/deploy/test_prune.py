"""Emptying machine code in CUDA's containers, on containers written here."""

import struct

import numpy as np
import pytest

from deploy.airgap import prune

PTX, CODE = 1, 2


def entry(kind, generation, code, header=64):
    """An entry: its first fields as the driver reads them, the rest of its header at random."""
    fields = struct.pack("<HHIQIIHHI", kind, 0x101, header, len(code), 7, 0, 0, 0, generation)
    return fields + np.random.default_rng().bytes(header - len(fields)) + code


def container(*entries):
    return struct.pack("<IHHQ", 0xBA55ED50, 1, 16, sum(map(len, entries))) + b"".join(entries)


@pytest.fixture
def codes():
    rng = np.random.default_rng()
    # Longer than the piece that is written at a time; no magic in it, and no zeros.
    return [bytes(rng.integers(1, 80, size, np.uint8)) for size in (2**20 + 8, 16, 400, 24, 8)]


def test_empties_the_other_generations_alone(tmp_path, codes):
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


def test_empties_ptx_where_it_is_asked_to(tmp_path, codes):
    path = tmp_path / "library"
    before = container(entry(PTX, 90, codes[1]), entry(CODE, 90, codes[2]), entry(8, 0, codes[3]))
    path.write_bytes(before)
    assert prune.prune(path, {90}, keep_ptx=False) == {90: len(codes[1])}
    assert path.read_bytes() == before.replace(codes[1], bytes(len(codes[1])))


def test_reads_entries_where_they_are(codes):
    data = b"x" + container(entry(CODE, 75, codes[1]), entry(PTX, 90, codes[2]))
    first = 1 + 16 + 64
    second = first + len(codes[1]) + 64
    assert prune.entries(data) == [
        (CODE, 75, first, len(codes[1])),
        (PTX, 90, second, len(codes[2])),
    ]
    assert prune.entries(b"nothing of the kind") == []


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: data[:16] + b"\x63" + data[17:], "has kind 99"),
        (lambda data: data[:24] + b"\xff" * 4 + data[28:], r"4294967\d+ bytes of code"),
        (lambda data: data[:8] + struct.pack("<Q", 70) + data[16:], "an end before byte 86"),
    ],
)
def test_another_layout_is_refused_and_left_alone(tmp_path, codes, damage, message):
    path = tmp_path / "library"
    written = damage(container(entry(CODE, 50, codes[2]))) + bytes(100)
    path.write_bytes(written)
    with pytest.raises(prune.Unknown, match=message):
        prune.prune(path, {90})
    assert path.read_bytes() == written


def test_a_library_without_kernels_stays_as_it_is(tmp_path):
    path = tmp_path / "library"
    path.write_bytes(b"\x7fELF and nothing else")
    assert prune.prune(path, {90}) == {}
    assert path.read_bytes() == b"\x7fELF and nothing else"
