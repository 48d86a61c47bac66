import gzip
import random

import pytest
import zstandard

from dataset.preprocessing import sources
from dataset.preprocessing.errors import InputError


def _text(seed, lines, end="\n"):
    rng = random.Random(seed)
    return "\n".join("x" * rng.randrange(40) + str(i) for i in range(lines)).encode() + end.encode()


def _joined(blocks):
    return b"".join(block.text for block in blocks)


@pytest.mark.parametrize("end", ["\n", ""])
@pytest.mark.parametrize("block", [64, 1 << 20])
def test_ranges_hold_every_line_once_wherever_they_are_cut(tmp_path, monkeypatch, end, block):
    monkeypatch.setattr(sources, "BLOCK_BYTES", block)
    text = _text(1, 60, end)
    path = tmp_path / "day_0"
    path.write_bytes(text)
    for cut in range(0, len(text) + 1, 3):
        first = _joined(sources.read_range(str(path), 0, cut))
        rest = _joined(sources.read_range(str(path), cut, len(text)))
        assert first + rest == text + (b"" if end else b"\n")
        assert first == b"" or first.endswith(b"\n")
        # A line belongs to the range that it begins in.
        assert len(first) >= cut or not rest


@pytest.mark.parametrize("members", [1, 3])
@pytest.mark.parametrize(
    "compression,compress", [("gzip", gzip.compress), ("zstd", zstandard.compress)]
)
def test_compressed_files_read_as_plain_ones(tmp_path, monkeypatch, members, compression, compress):
    monkeypatch.setattr(sources, "BLOCK_BYTES", 5000)
    monkeypatch.setattr(sources, "_COMPRESSED_READ", 97)
    texts = [_text(seed, 12000) for seed in range(members)]
    path = tmp_path / "day"
    path.write_bytes(b"".join(compress(text) for text in texts))
    blocks = list(sources.read_compressed(str(path), compression))
    assert _joined(blocks) == b"".join(texts)
    assert len(blocks) > 1
    assert blocks[-1].bytes_read == path.stat().st_size


def _zstd_with_checksum(text):
    return zstandard.ZstdCompressor(write_checksum=True).compress(text)  # As the zstd tool does.


@pytest.mark.parametrize(
    "compression,compress", [("gzip", gzip.compress), ("zstd", _zstd_with_checksum)]
)
def test_truncated_and_damaged_files_are_errors(tmp_path, compression, compress):
    whole = compress(_text(1, 5000))
    path = tmp_path / "day"
    path.write_bytes(whole[: len(whole) * 2 // 3])
    with pytest.raises(InputError, match=r"day: truncated"):
        list(sources.read_compressed(str(path), compression))
    path.write_bytes(whole[:40] + b"\xff" * 40 + whole[80:])
    with pytest.raises(InputError, match=r"day: (damaged|truncated)"):
        list(sources.read_compressed(str(path), compression))


def test_a_file_without_line_ends_is_an_error(tmp_path):
    path = tmp_path / "day_0"
    path.write_bytes(b"\0" * (3 << 20))
    for begin in (0, 5):
        with pytest.raises(InputError, match="no line end"):
            list(sources.read_range(str(path), begin, path.stat().st_size))
