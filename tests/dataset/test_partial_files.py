"""Output files: every byte where it belongs, past the page cache or through it; all or none."""

import os

import numpy as np
import pytest

from dataset import partial_files
from dataset.buffers import ThreadBuffers
from dataset.errors import DatasetError
from dataset.partial_files import PartialFiles

PAGE = 4096


direct = partial_files._open_direct


def none(path):
    return None


def refusing(path):
    return os.open(path, os.O_RDONLY)  # every write to it fails


@pytest.mark.parametrize("opening", [direct, none, refusing])
@pytest.mark.parametrize("shift", [0, 2])
def test_bytes_lie_where_they_were_put(tmp_path, monkeypatch, opening, shift):
    # A page-aligned array, and one beside it; an end that fills no page; parts out of order.
    size = 3 * (1 << 20) + 3 * PAGE + 1234
    content = np.frombuffer(np.random.default_rng().bytes(size), np.uint8)
    paths = [str(tmp_path / "one"), str(tmp_path / "other")]
    monkeypatch.setattr(partial_files, "_open_direct", opening)
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
    with pytest.raises(DatasetError, match="none/two.partial: cannot be written: No such file"):
        PartialFiles([str(tmp_path / "one"), str(tmp_path / "none" / "two")]).__enter__()
    assert os.listdir(tmp_path) == []
