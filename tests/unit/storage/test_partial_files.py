"""Partial files: every byte at its offset, with and without the page cache; all files or none."""

import os
import threading

import numpy as np
import pytest

from storage import direct_io
from storage.direct_io import ThreadBuffers
from storage.partial_files import BufferedWrites, PartialFiles

PAGE = 4096
direct = direct_io._open_direct


def unsupported(path):
    return -1


def failing(path):
    return os.open(path, os.O_RDONLY)  # every write to it fails


@pytest.mark.parametrize("opening", [direct, unsupported, failing])
@pytest.mark.parametrize("shift", [0, 2])
def test_partial_files_writes_at_any_offset(tmp_path, monkeypatch, rng, opening, shift):
    # Aligned and unaligned arrays; the last page is partial; the parts come in reverse order.
    size = 3 * (1 << 20) + 3 * PAGE + 1234
    content = np.frombuffer(rng.bytes(size), np.uint8)
    paths = [str(tmp_path / "one"), str(tmp_path / "other")]
    monkeypatch.setattr(direct_io, "_open_direct", opening)
    buffer = ThreadBuffers().array("any", size + shift, np.uint8)[shift:]
    buffer[...] = content
    cuts = [0, (1 << 20) + PAGE, (1 << 20) + 2 * PAGE, size]
    with PartialFiles(paths) as output:
        for first, end in reversed(list(zip(cuts, cuts[1:]))):
            output.write(0, buffer[first:end], first)
        output.write(1, buffer[:10].reshape(5, 2), 7)
        assert sorted(os.listdir(tmp_path)) == ["one.partial", "other.partial"]
        output.commit()
    assert sorted(os.listdir(tmp_path)) == ["one", "other"]
    np.testing.assert_array_equal(np.fromfile(paths[0], np.uint8), content)
    np.testing.assert_array_equal(np.fromfile(paths[1], np.uint8)[7:], content[:10])


def test_partial_files_removes_uncommitted_files(tmp_path):
    with pytest.raises(ZeroDivisionError), PartialFiles([str(tmp_path / "one")]) as output:
        output.write(0, np.zeros(9), 0)
        raise ZeroDivisionError
    with pytest.raises(FileNotFoundError, match=r"none/two\.partial"):
        PartialFiles([str(tmp_path / "one"), str(tmp_path / "none" / "two")]).__enter__()
    assert os.listdir(tmp_path) == []


def test_buffered_writes_writes_at_any_offset(tmp_path, rng):
    """Two threads write two files, each from its own offset; also large and empty writes, gaps."""
    sizes = [5_000_000, 3_000_000]
    contents = [np.frombuffer(rng.bytes(size), np.uint8) for size in sizes]
    paths = [str(tmp_path / name) for name in ("one", "other")]
    written = []

    class Counted(PartialFiles):
        def write(self, index, data, offset):
            written.append(data.nbytes)
            super().write(index, data, offset)

    def work(parts, thread_rng):
        places = list(parts)
        while any(at < end for at, end in places):
            for index, (at, end) in enumerate(places):
                size = min(int(thread_rng.integers(0, 70_000)), end - at)
                buffered.write(index, contents[index][at : at + size].reshape(-1, 1), at)
                places[index] = at + size, end
        buffered.flush()
        buffered.flush()

    halves = [size // 2 // PAGE * PAGE for size in sizes]
    with Counted(paths) as output:
        buffered = BufferedWrites(output)
        buffered.write(1, contents[1][: 600 << 10], 0)  # too large to be joined
        buffered.write(0, contents[0][:10], 0)
        buffered.write(0, contents[0][100:110], 100)  # leaves a gap
        buffered.flush()
        assert written == [600 << 10, 10, 10]
        first = [(0, half) for half in halves]
        second = [(half, size) for half, size in zip(halves, sizes)]
        threads = [
            threading.Thread(target=work, args=(parts, np.random.default_rng(thread_seed)))
            for parts, thread_seed in zip((first, second), rng.integers(1 << 32, size=2))
        ]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
        output.commit()
    for path, content in zip(paths, contents):
        np.testing.assert_array_equal(np.fromfile(path, np.uint8), content)
    # Some hundred small writes became about one for each MiB.
    assert len(written) < 3 + 8 + 8
    assert 0 not in written
