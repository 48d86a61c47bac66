"""Digests of texts, files, file ends and blocks; the checksum file."""

import hashlib
import zlib

import numpy as np
import pytest
import xxhash

from storage import digests

# From the documentation of XXH3: the 128-bit hash of no data.
XXH3_OF_NO_DATA = "99aa06d3014798d86001c324468d497f"


@pytest.mark.parametrize("size", [0, 1, 65_536, 4_194_304, 9_000_001])
def test_sha256_of_files_bytes_and_text(tmp_path, rng, size):
    content = rng.bytes(size)
    (tmp_path / "file").write_bytes(content)
    expected = hashlib.sha256(content).hexdigest()
    assert digests.sha256_of_file(tmp_path / "file") == expected
    assert digests.sha256_of(content) == expected
    assert digests.sha256_of("é") == hashlib.sha256(b"\xc3\xa9").hexdigest()


def test_crc32_of_any_part_of_a_file(tmp_path, rng):
    content = rng.bytes(9_000_001)
    (tmp_path / "file").write_bytes(content)
    assert digests.crc32_of_file(tmp_path / "file") == zlib.crc32(content)
    begin, length = (int(n) for n in rng.integers(0, 5_000_000, 2))
    found = digests.crc32_of_file(tmp_path / "file", begin, length)
    assert found == zlib.crc32(content[begin : begin + length])
    # Bytes beyond the end of the file are ignored.
    assert digests.crc32_of_file(tmp_path / "file", 9_000_000, 50) == zlib.crc32(content[-1:])


def test_sampled_sha256_covers_facts_names_sizes_and_ends(tmp_path, rng):
    content = rng.bytes(200_000)
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


ONE = "0" * 64 + "  a\n"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("0" * 63 + "  a\n", "line 1 "),
        (ONE + "0" * 64 + "  b", "line 2 "),
        (ONE + "0" * 64 + "  /b\n", "line 2 "),
        (ONE + ONE, "sorted"),
        ("0" * 64 + "  b\n" + ONE, "sorted"),
    ],
)
def test_parse_checksums_refuses_other_text(text, shown):
    with pytest.raises(ValueError, match=shown):
        digests.parse_checksums(text)


def test_parse_checksums_inverts_checksum_text():
    assert digests.parse_checksums("") == {}
    found = {"b": "1" * 64, "a/c": "0" * 64}
    text = digests.checksum_text(found)
    assert text == "0" * 64 + "  a/c\n" + "1" * 64 + "  b\n"
    assert digests.parse_checksums(text) == found


def test_block_digest_of_no_blocks_is_the_documented_hash():
    assert digests.BlockDigest(0).text() == "xxh3-128-blocks:" + XXH3_OF_NO_DATA


@pytest.mark.parametrize("name", ["xxh3-128-blocks", "sha256-blocks"])
def test_block_digest_takes_blocks_in_any_order(name, rng):
    function = {"xxh3-128-blocks": xxhash.xxh3_128, "sha256-blocks": hashlib.sha256}[name]
    blocks = [rng.integers(0, 256, size, np.uint8) for size in (100_000, 65_536, 7)]
    digest = digests.BlockDigest(3, digests.block_digest_name(f"{name}:00"))
    for block in rng.permutation(3):
        digest.add(block, blocks[block])
    expected = function(b"".join(function(b.tobytes()).digest() for b in blocks))
    assert digest.text() == f"{name}:{expected.hexdigest()}"
