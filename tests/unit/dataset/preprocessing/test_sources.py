import gzip

import pytest
import zstandard

from dataset.preprocessing import sources
from dataset.preprocessing.errors import InputError


def _text(rng, lines, end="\n"):
    lengths = enumerate(rng.integers(40, size=lines).tolist())
    return "\n".join("x" * length + str(i) for i, length in lengths).encode() + end.encode()


def _joined(blocks):
    return b"".join(block.text for block in blocks)


@pytest.mark.parametrize("end", ["\n", ""])
@pytest.mark.parametrize("block", [64, 1 << 20])
def test_read_range_yields_every_line_once_for_any_boundary(rng, tmp_path, monkeypatch, end, block):
    monkeypatch.setattr(sources, "BLOCK_BYTES", block)
    text = _text(rng, 60, end)
    path = tmp_path / "day_0"
    path.write_bytes(text)
    for cut in range(0, len(text) + 1, 3):
        first = _joined(sources.read_range(str(path), 0, cut))
        rest = _joined(sources.read_range(str(path), cut, len(text)))
        assert first + rest == text + (b"" if end else b"\n")
        assert first == b"" or first.endswith(b"\n")
        # A line belongs to the range that it begins in.
        assert len(first) >= cut or not rest


# With reads of one byte the last ones hold no text, only the end of the stream.
@pytest.mark.parametrize(("block", "read"), [(5000, 97), (1, 1)])
@pytest.mark.parametrize("members", [1, 3])
@pytest.mark.parametrize(
    "compression,compress", [("gzip", gzip.compress), ("zstd", zstandard.compress)]
)
def test_read_compressed_yields_the_text_of_all_members(
    rng, tmp_path, monkeypatch, members, compression, compress, block, read
):
    monkeypatch.setattr(sources, "BLOCK_BYTES", block)
    monkeypatch.setattr(sources, "_COMPRESSED_READ", read)
    texts = [_text(rng, 12000) for _ in range(members)]
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
def test_read_compressed_names_a_truncated_or_damaged_file(rng, tmp_path, compression, compress):
    complete = compress(_text(rng, 5000))
    path = tmp_path / "day"
    damaged = complete[:40] + b"\xff" * 40 + complete[80:]
    for content in (b"", complete[: len(complete) * 2 // 3], damaged):
        path.write_bytes(content)
        with pytest.raises(InputError) as caught:
            list(sources.read_compressed(str(path), compression))
        assert caught.value.path == str(path)


def test_read_range_rejects_a_file_without_line_ends(tmp_path):
    path = tmp_path / "day_0"
    path.write_bytes(b"\0" * (3 << 20))
    for begin in (0, 5):
        with pytest.raises(InputError) as caught:
            list(sources.read_range(str(path), begin, path.stat().st_size))
        assert (caught.value.path, caught.value.bound) == (str(path), 1 << 20)


@pytest.mark.parametrize("begin", [0, 30, 42])
def test_read_range_rejects_a_file_that_shrinks(tmp_path, begin):
    path = tmp_path / "day_0"
    path.write_bytes(b"0\t1\n" * 10)
    with pytest.raises(InputError) as caught:
        list(sources.read_range(str(path), begin, 60))
    assert (caught.value.expected, caught.value.found) == (60, {0: 40, 30: 40, 42: 41}[begin])
