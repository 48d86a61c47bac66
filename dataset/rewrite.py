"""Writes a described split in another layout: streaming, checked, in constant memory.

Chunks are independent: they are read, checked, encoded, digested and written at their final
offsets by a few threads (NumPy, hashing and file I/O leave the interpreter lock).
"""

from __future__ import annotations

import concurrent.futures
import os
import threading
import time
from collections.abc import Callable

from tqdm import tqdm

from dataset.chunks import CHUNK_SAMPLES, ChunkReader, check_ids, check_labels
from dataset.columns import DatasetDescription
from dataset.destination import Destination
from dataset.encode import Encoding
from dataset.errors import DatasetError
from storage.claim import ClaimError
from storage.digests import BlockDigest
from storage.partial_files import BufferedWrites, PartialFiles

#: Threads at most: more than these wait for memory.
_MAX_THREADS = 8
#: Chunks that a thread takes at a time, at most, where it joins what it writes of them.
_MOST_CHUNKS = 16


def default_jobs() -> int:
    """Returns one thread for each core that the process may use, at most 8."""
    return min(_MAX_THREADS, len(os.sched_getaffinity(0)))


def each_chunk(
    samples: int,
    work: Callable[[int, int, int], None],
    bytes_per_sample: int,
    what: str,
    jobs: int | None = None,
    progress: bool = True,
    after_turn: Callable[[], None] | None = None,
) -> None:
    """Runs work(block, first sample, count) for every chunk, on a few threads, behind a bar.

    A thread takes one chunk at a time, or with `after_turn` several successive ones. The first
    error stops the rest and is raised.

    Args:
        samples: how many samples there are.
        work: the function.
        bytes_per_sample: stored bytes of one sample, for the bar.
        what: the bar's label.
        jobs: threads; by default one for each core that the process may use, at most 8.
        progress: show the bar.
        after_turn: called after each turn of chunks, by the thread that worked on them.
    """
    jobs = jobs or default_jobs()
    stop = threading.Event()
    blocks = -(-samples // CHUNK_SAMPLES)
    # Three turns a thread at least, so that none waits long for the last one.
    turn = 1 if after_turn is None else max(1, min(_MOST_CHUNKS, blocks // (3 * jobs)))
    turns = iter(range(0, blocks, turn))
    lock = threading.Lock()

    def take_turn(bar, begin):
        for block in range(begin, min(begin + turn, blocks)):
            if stop.is_set():
                return
            first = block * CHUNK_SAMPLES
            count = min(CHUNK_SAMPLES, samples - first)
            work(block, first, count)
            with lock:
                bar.update(count * bytes_per_sample)
        if after_turn is not None:
            after_turn()

    def worker(bar):
        while not stop.is_set():
            with lock:
                begin = next(turns, None)
            if begin is None:
                return
            try:
                take_turn(bar, begin)
            except BaseException:
                stop.set()
                raise

    bar = tqdm(
        total=samples * bytes_per_sample,
        desc=what,
        unit="B",
        unit_scale=True,
        disable=None if progress else True,
    )
    with bar, concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        futures = [pool.submit(worker, bar) for _ in range(jobs)]
        try:
            for future in futures:
                future.result()
        finally:
            stop.set()


def rewrite(
    source: DatasetDescription,
    encoding: Encoding,
    destination: str,
    *,
    overwrite: bool = False,
    jobs: int | None = None,
    progress: bool = True,
) -> float:
    """Writes the described split `source` to `destination` as `encoding` says.

    Every label, id and dense value is checked on the way. Files appear under their names when all
    are complete and on disk, metadata.json last.

    Args:
        source: a `DatasetDescription`.
        encoding: from `dataset.encode.encoding`.
        destination: the folder to write; for the raw layout the file.
        overwrite: replace a split of this project that is there already.
        jobs: threads, by default one for each core and one more.
        progress: show a bar.

    Returns:
        Seconds that it took.

    Raises:
        DatasetError: a value is wrong, a file cannot be read or written, or the destination holds
            a split already, or files that this project did not write. Nothing is left of what was
            begun.
    """
    began = time.perf_counter()
    target = Destination(destination, encoding.layout)
    if not overwrite:
        target.refuse_complete()
    os.makedirs(target.folder, exist_ok=True)
    try:
        with target.claim() as claim:
            target.take(claim, source, [file.name for file in encoding.files])
            digests = _write_columns(source, encoding, target, claim, jobs, progress)
            target.finish(source, encoding, digests)
    except ClaimError as error:
        raise DatasetError(f"{error.filename}: {error.strerror}") from error
    except OSError as error:
        raise DatasetError(
            f"{error.filename or destination}: cannot be written: {error.strerror}"
        ) from error
    return time.perf_counter() - began


def _write_columns(source, encoding, target, claim, jobs, progress):
    """Writes the files of all columns; returns a `BlockDigest` of each."""
    # A thread waits while a large block goes past the page cache: one more uses its core.
    jobs = jobs or default_jobs() + 1
    blocks = -(-source.samples // CHUNK_SAMPLES)
    digests = [BlockDigest(blocks) for _ in encoding.files]

    def work(block, first, count):
        chunk = reader.read(first, count)
        check_labels(chunk, source.label_column.segments[0].path)
        check_ids(chunk, source.table_columns, source.vocab_sizes)
        for index, (file, data) in enumerate(zip(encoding.files, encoding.encode(chunk))):
            if not target.raw:
                digests[index].add(block, data)
            gathered.write(index, data, first * file.bytes_per_sample)

    paths = [target.path_of(file.name) for file in encoding.files]
    with ChunkReader(source) as reader, PartialFiles(paths) as output:
        gathered = BufferedWrites(output)
        what = os.path.basename(os.path.normpath(target.path))
        each_chunk(
            source.samples, work, source.bytes_per_sample, what, jobs, progress, gathered.flush
        )
        target.begin_replacing(claim)
        output.commit()
        target.remove_superseded(claim)
    return digests
