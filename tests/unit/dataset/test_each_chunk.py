"""each_chunk: every chunk is processed once, in groups; the first error stops all threads."""

import threading

import pytest

from dataset.chunks import CHUNK_SAMPLES
from dataset.rewrite import each_chunk


@pytest.mark.parametrize("jobs", [1, 3])
@pytest.mark.parametrize("chunks", [0, 1, 2, 7, 100])
@pytest.mark.parametrize("grouped", [False, True])
def test_each_chunk_processes_every_chunk_once(jobs, chunks, grouped):
    samples = max(0, chunks * CHUNK_SAMPLES - 5)
    done, groups, open_groups = [], [], {}
    lock = threading.Lock()

    def work(block, first, count):
        with lock:
            done.append((block, first, count))
            open_groups.setdefault(threading.get_ident(), []).append(block)

    def after_group():
        with lock:
            groups.append(open_groups.pop(threading.get_ident()))

    each_chunk(samples, work, 1, "", jobs, False, after_group if grouped else None)
    ends = [min((b + 1) * CHUNK_SAMPLES, samples) for b in range(chunks)]
    firsts = [b * CHUNK_SAMPLES for b in range(chunks)]
    assert sorted(done) == [(b, f, e - f) for b, f, e in zip(range(chunks), firsts, ends)]
    if grouped:
        assert not open_groups
        assert sorted(block for group in groups for block in group) == list(range(chunks))
        assert all(group == list(range(group[0], group[0] + len(group))) for group in groups)
        assert max(map(len, groups), default=0) <= 16
        assert chunks < 100 or len(groups) >= 3 * jobs


@pytest.mark.parametrize("failing", ["work", "after_group"])
def test_each_chunk_stops_at_the_first_error(failing):
    done = []

    def work(block, first, count):
        done.append(block)
        if failing == "work" and block == 3:
            raise ZeroDivisionError

    def after_group():
        if failing == "after_group":
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        each_chunk(1000 * CHUNK_SAMPLES, work, 1, "", 2, False, after_group)
    assert len(done) < 1000
