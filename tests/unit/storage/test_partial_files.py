"""Output files: every byte where it belongs, past the page cache or through it; all or none."""

import os
import threading

import numpy as np
import pytest

from storage import direct_io
from storage.direct_io import ThreadBuffers
from storage.partial_files import GatheredWrites, PartialFiles

PAGE = 4096


direct = direct_io._open_direct


def none(path):
    return -1


def refusing(path):
    return os.open(path, os.O_RDONLY)  # every write to it fails


@pytest.mark.parametrize("opening", [direct, none, refusing])
@pytest.mark.parametrize("shift", [0, 2])
def test_bytes_lie_where_they_were_put(tmp_path, monkeypatch, opening, shift):
    # A page-aligned array, and one beside it; an end that fills no page; parts out of order.
    size = 3 * (1 << 20) + 3 * PAGE + 1234
    content = np.frombuffer(np.random.default_rng().bytes(size), np.uint8)
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


def test_nothing_is_left_of_what_was_not_committed(tmp_path):
    with pytest.raises(ZeroDivisionError), PartialFiles([str(tmp_path / "one")]) as output:
        output.write(0, np.zeros(9), 0)
        raise ZeroDivisionError
    with pytest.raises(FileNotFoundError, match=r"none/two\.partial"):
        PartialFiles([str(tmp_path / "one"), str(tmp_path / "none" / "two")]).__enter__()
    assert os.listdir(tmp_path) == []


def test_joined_writes_lie_where_they_were_put(tmp_path):
    """Two files by two threads, each from its own place; also large writes, gaps, and none."""
    rng = np.random.default_rng()
    sizes = [5_000_000, 3_000_000]
    contents = [np.frombuffer(rng.bytes(size), np.uint8) for size in sizes]
    paths = [str(tmp_path / name) for name in ("one", "other")]
    written = []

    class Counted(PartialFiles):
        def write(self, index, data, offset):
            written.append(data.nbytes)
            super().write(index, data, offset)

    def work(begin_and_end):
        places = list(begin_and_end)
        while any(at < end for at, end in places):
            for index, (at, end) in enumerate(places):
                size = min(int(rng_of[threading.get_ident()].integers(0, 70_000)), end - at)
                gathered.write(index, contents[index][at : at + size].reshape(-1, 1), at)
                places[index] = at + size, end
        gathered.flush()
        gathered.flush()

    halves = [size // 2 // PAGE * PAGE for size in sizes]
    rng_of = {}

    def thread(places, seed):
        rng_of[threading.get_ident()] = np.random.default_rng(seed)
        work(places)

    with Counted(paths) as output:
        gathered = GatheredWrites(output)
        gathered.write(1, contents[1][: 600 << 10], 0)  # too large to be joined
        gathered.write(0, contents[0][:10], 0)
        gathered.write(0, contents[0][100:110], 100)  # not where the one before ends
        gathered.flush()
        assert written == [600 << 10, 10, 10]
        first = [(0, half) for half in halves]
        second = [(half, size) for half, size in zip(halves, sizes)]
        threads = [
            threading.Thread(target=thread, args=(places, seed))
            for places, seed in ((first, rng.integers(1 << 30)), (second, rng.integers(1 << 30)))
        ]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
        output.commit()
    for path, content in zip(paths, contents):
        np.testing.assert_array_equal(np.fromfile(path, np.uint8), content)
    # Joined: some hundred writes became about one for each MiB and half of a file.
    assert len(written) < 3 + 8 + 8
    assert 0 not in written
