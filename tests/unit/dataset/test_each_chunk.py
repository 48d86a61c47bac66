"""Chunks shared out among threads: each once, in turns; the first error ends the rest."""

import threading

import pytest

from dataset.chunks import CHUNK_SAMPLES
from dataset.rewrite import each_chunk


@pytest.mark.parametrize("jobs", [1, 3])
@pytest.mark.parametrize("chunks", [0, 1, 2, 7, 100])
@pytest.mark.parametrize("in_turns", [False, True])
def test_every_chunk_is_worked_on_once(jobs, chunks, in_turns):
    samples = max(0, chunks * CHUNK_SAMPLES - 5)
    done, turns, open_turns = [], [], {}
    lock = threading.Lock()

    def work(block, first, count):
        with lock:
            done.append((block, first, count))
            open_turns.setdefault(threading.get_ident(), []).append(block)

    def after_turn():
        with lock:
            turns.append(open_turns.pop(threading.get_ident()))

    each_chunk(samples, work, 1, "", jobs, False, after_turn if in_turns else None)
    ends = [min((b + 1) * CHUNK_SAMPLES, samples) for b in range(chunks)]
    firsts = [b * CHUNK_SAMPLES for b in range(chunks)]
    assert sorted(done) == [(b, f, e - f) for b, f, e in zip(range(chunks), firsts, ends)]
    if in_turns:
        assert not open_turns  # Each thread ended with the end of a turn.
        assert sorted(block for turn in turns for block in turn) == list(range(chunks))
        assert all(turn == list(range(turn[0], turn[0] + len(turn))) for turn in turns)
        assert max(map(len, turns), default=0) <= 16
        assert chunks < 100 or len(turns) >= 3 * jobs


@pytest.mark.parametrize("failing", ["work", "after_turn"])
def test_the_first_error_is_raised_and_ends_the_rest(failing):
    done = []

    def work(block, first, count):
        done.append(block)
        if failing == "work" and block == 3:
            raise ZeroDivisionError

    def after_turn():
        if failing == "after_turn":
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        each_chunk(1000 * CHUNK_SAMPLES, work, 1, "", 2, False, after_turn)
    assert len(done) < 1000
