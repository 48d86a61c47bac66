"""Writes a described split in another layout and checks its values, in constant memory.

Chunks are independent: a few threads read, check, encode and digest them and write them at their
final offsets (NumPy, hashing and file I/O release the interpreter lock).
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

#: Maximum number of threads: more would only wait for memory.
_MAX_THREADS = 8
#: Maximum number of chunks in a group.
_MAX_GROUP = 16


def default_jobs() -> int:
    """Returns the number of cores that the process may use, at most 8."""
    return min(_MAX_THREADS, len(os.sched_getaffinity(0)))


def each_chunk(
    samples: int,
    work: Callable[[int, int, int], None],
    bytes_per_sample: int,
    what: str,
    jobs: int | None = None,
    progress: bool = True,
    after_group: Callable[[], None] | None = None,
) -> None:
    """Runs work(block, first sample, count) for every chunk on a few threads; shows a progress bar.

    A thread takes one chunk at a time, or with `after_group` several successive ones. The first
    error stops all threads and is raised.

    Args:
        samples: number of samples.
        work: the function.
        bytes_per_sample: stored bytes per sample, for the bar.
        what: label of the bar.
        jobs: number of threads; default: `default_jobs()`.
        progress: show the bar.
        after_group: called after each group of chunks by the thread that processed them.
    """
    jobs = jobs or default_jobs()
    stop = threading.Event()
    blocks = -(-samples // CHUNK_SAMPLES)
    # At least three groups per thread, so that no thread waits long for the last one.
    size = 1 if after_group is None else max(1, min(_MAX_GROUP, blocks // (3 * jobs)))
    groups = iter(range(0, blocks, size))
    lock = threading.Lock()

    def process_group(bar, begin):
        for block in range(begin, min(begin + size, blocks)):
            if stop.is_set():
                return
            first = block * CHUNK_SAMPLES
            count = min(CHUNK_SAMPLES, samples - first)
            work(block, first, count)
            with lock:
                bar.update(count * bytes_per_sample)
        if after_group is not None:
            after_group()

    def worker(bar):
        while not stop.is_set():
            with lock:
                begin = next(groups, None)
            if begin is None:
                return
            try:
                process_group(bar, begin)
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
    open_chunks: Callable[[DatasetDescription], ChunkReader] = ChunkReader,
    describe: bool = True,
) -> float:
    """Writes the described split `source` to `destination`.

    Checks every label, id and dense value. The files appear under their names when all of them are
    complete and on disk, metadata.json last.

    Args:
        source: the split to read.
        encoding: the layout to write, from `dataset.encode.encoding`.
        destination: the folder to write; for the raw layout, the file.
        overwrite: replace an existing split that this project wrote.
        jobs: number of threads; default: one per core and one more.
        progress: show a progress bar.
        open_chunks: reads chunks that fit the description, where its files do not hold them as
            described.
        describe: for the raw layout, also write a metadata.json next to the file if a table has
            several ids; False if the caller writes the files next to it.

    Returns:
        The duration in seconds.

    Raises:
        DatasetError: a value is invalid, a file cannot be read or written, or the destination
            holds a split, or files that this project did not write, or a metadata.json next to a
            raw file describes other raw files. Partial files are removed.
    """
    began = time.perf_counter()
    target = Destination(destination, encoding.layout, describe=describe)
    if not overwrite:
        target.refuse_complete()
    os.makedirs(target.folder, exist_ok=True)
    try:
        with target.claim() as claim:
            target.take(claim, source, [file.name for file in encoding.files])
            digests = _write_columns(source, encoding, target, claim, jobs, progress, open_chunks)
            target.finish(source, encoding, digests)
    except ClaimError as error:
        raise DatasetError.of_os(error) from error
    except OSError as error:
        path = error.filename or destination
        raise DatasetError(f"{path}: cannot be written: {error.strerror}", path=path) from error
    return time.perf_counter() - began


def _write_columns(source, encoding, target, claim, jobs, progress, open_chunks):
    """Writes the files of all columns; returns a `BlockDigest` of each."""
    # A thread waits during a write past the page cache; one more thread uses its core.
    jobs = jobs or default_jobs() + 1
    blocks = -(-source.samples // CHUNK_SAMPLES)
    digests = [BlockDigest(blocks) for _ in encoding.files]

    def work(block, first, count):
        chunk = reader.read(first, count)
        check_labels(chunk, source.label_column.segments[0].path)
        check_ids(chunk, source.table_columns, source.vocab_sizes)
        arrays = encoding.encode(chunk)
        for index, offset in enumerate(encoding.positions(chunk, arrays)):
            if not target.raw:
                digests[index].add(block, arrays[index])
            buffered.write(index, arrays[index], offset)

    paths = [target.path_of(file.name) for file in encoding.files]
    with open_chunks(source) as reader, PartialFiles(paths) as output:
        buffered = BufferedWrites(output)
        what = os.path.basename(os.path.normpath(target.path))
        each_chunk(
            source.samples, work, source.bytes_per_sample, what, jobs, progress, buffered.flush
        )
        target.begin_replacing(claim)
        output.commit()
        target.remove_superseded(claim)
    return digests
