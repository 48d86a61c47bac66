"""Digests: of texts, of files whole and at their ends, in blocks; the file of checksums."""

import hashlib
import os
import subprocess
import zlib

import numpy as np
import pytest
import xxhash

from storage import digests

# Of the hash's own documentation: XXH3, 128 bits, of nothing.
XXH3_OF_NOTHING = "99aa06d3014798d86001c324468d497f"


@pytest.mark.parametrize("size", [0, 1, 65_536, 4_194_304, 9_000_001])
def test_whole_file_and_text(tmp_path, size):
    content = np.random.default_rng().bytes(size)
    (tmp_path / "file").write_bytes(content)
    expected = hashlib.sha256(content).hexdigest()
    assert digests.sha256_of_file(tmp_path / "file") == expected
    assert digests.sha256_of(content) == expected
    assert digests.sha256_of("é") == hashlib.sha256(b"\xc3\xa9").hexdigest()


def test_crc32_of_any_part(tmp_path):
    random = np.random.default_rng()
    content = random.bytes(9_000_001)
    (tmp_path / "file").write_bytes(content)
    assert digests.crc32_of_file(tmp_path / "file") == zlib.crc32(content)
    begin, length = (int(n) for n in random.integers(0, 5_000_000, 2))
    found = digests.crc32_of_file(tmp_path / "file", begin, length)
    assert found == zlib.crc32(content[begin : begin + length])
    # What is beyond the end is nothing.
    assert digests.crc32_of_file(tmp_path / "file", 9_000_000, 50) == zlib.crc32(content[-1:])


def test_sampled_digest_is_of_facts_names_sizes_and_ends(tmp_path):
    content = np.random.default_rng().bytes(200_000)
    path, short = tmp_path / "long.bin", tmp_path / "short.bin"
    path.write_bytes(content)
    short.write_bytes(b"abc")
    expected = hashlib.sha256(
        b"facts" + b"long.bin:200000" + content[:65536] + content[-65536:]
        + b"short.bin:3" + b"abc" + b"abc"
    )  # fmt: skip
    assert digests.sampled_sha256([str(path), str(short)], "facts") == expected.hexdigest()
    changed = bytearray(content)
    changed[100_000] ^= 1  # not near an end
    path.write_bytes(changed)
    assert digests.sampled_sha256([str(path), str(short)], "facts") == expected.hexdigest()
    changed[199_999] ^= 1
    path.write_bytes(changed)
    assert digests.sampled_sha256([str(path), str(short)], "facts") != expected.hexdigest()


@pytest.mark.parametrize("read", [digests.sha256_of_file, digests.crc32_of_file])
def test_pipe_is_no_file(tmp_path, read):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="is a named pipe"):
        read(tmp_path / "pipe")


def test_sha256sum_reads_the_checksums(tmp_path):
    found = {}
    for name in ("b.npy", "a.npy", "dense/c.npy"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(np.random.default_rng().bytes(1000))
        found[name] = digests.sha256_of_file(tmp_path / name)
    text = digests.checksum_text(found)
    (tmp_path / "SHA256SUMS").write_text(text)
    done = subprocess.run(
        ["sha256sum", "--strict", "-c", "SHA256SUMS"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert digests.parse_checksums(text) == found


ONE = "0" * 64 + "  a\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0" * 63 + "  a\n", "line 1 is no checksum: '000"),
        (ONE + "0" * 64 + "  b", "line 2 is no checksum"),
        (ONE + "0" * 64 + "  /b\n", "line 2 is no checksum"),
        (ONE + ONE, "not in order, or repeat"),
        ("0" * 64 + "  b\n" + ONE, "not in order, or repeat"),
    ],
)
def test_checksums_are_read_as_they_are_written(text, message):
    assert digests.parse_checksums("") == {}
    with pytest.raises(ValueError, match=message):
        digests.parse_checksums(text)


def test_block_hash_is_the_documented_one():
    assert digests.BlockDigest(0).text() == "xxh3-128-blocks:" + XXH3_OF_NOTHING


@pytest.mark.parametrize("name", ["xxh3-128-blocks", "sha256-blocks"])
def test_blocks_in_any_order(name):
    function = {"xxh3-128-blocks": xxhash.xxh3_128, "sha256-blocks": hashlib.sha256}[name]
    random = np.random.default_rng()
    blocks = [random.integers(0, 256, size, np.uint8) for size in (100_000, 65_536, 7)]
    digest = digests.BlockDigest(3, digests.block_digest_name(f"{name}:00"))
    for block in random.permutation(3):
        digest.add(block, blocks[block])
    expected = function(b"".join(function(b.tobytes()).digest() for b in blocks))
    assert digest.text() == f"{name}:{expected.hexdigest()}"
