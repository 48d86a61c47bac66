"""Measures the data path and compares it with the machine's limits.

    python3 -m benchmarks.data [--json FILE]

Reader: samples/s of one process for each layout at batch 65,536, from the page cache. The limit is
the rate of reading the same bytes into one buffer (pread, with the reader's number of threads).

split_bin and convert: source bytes per second and peak memory, each in a separate process, from
the page cache to disk and to memory (/dev/shm). The limit is the rate of writing the tool's output
bytes there (two threads, with direct I/O if available).

The same for multi-hot data with an eighth of the samples (reader: batch 8,192): MLPerf's 214 ids in
26 tables, and lists of 0 to as many ids. Processor time per id includes labels and dense values.

Every figure is the median of the repeats. Each repeat runs all cases, so that other load affects
all of them. Processor time per GB is meaningful on a loaded machine too.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import mmap
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks import results_file
from dataset import command_line
from storage.arguments import first_paragraph, whole_number

if TYPE_CHECKING:
    from dataset.columns import DatasetDescription

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
BATCH = 65536
#: Bytes per read or write of the limits.
BLOCK = 8 << 20
MEMORY = "/dev/shm"


def _files(description: DatasetDescription) -> list[str]:
    columns = description.columns
    return sorted({s.path for column in columns for s in (*column.segments, *column.offsets)})


def ids_per_sample(description: DatasetDescription, tables: Sequence[int] | None = None) -> float:
    """Returns the ids of a sample in some tables (default: all); of lists, the mean."""
    total = 0.0
    for column in description.table_columns:
        if column.offsets and (tables is None or column.first_table in tables):
            total += sum(segment.samples for segment in column.segments) / column.samples
        elif not column.offsets:
            read = zip(column.tables, column.features.hotness)
            total += sum(ids for table, ids in read if tables is None or table in tables)
    return total


def write_lists(source: DatasetDescription, folder: str) -> None:
    """Writes a split with lists: of each fixed feature of `source` the first 0 to all ids."""
    from dataset.chunks import ChunkReader
    from dataset.split_writer import SplitWriter
    from ops.bags import Bags

    random = np.random.default_rng(0)
    bags = Bags.of(source.bags.hotness, variable=[True] * source.bags.features)
    writer = SplitWriter(
        folder,
        source.vocab_sizes,
        bags,
        dense_dtype="float32",
        dense_transform="none",
        applied_transform=source.applied_transform,
    )
    with ChunkReader(source) as reader, writer:
        for first in range(0, source.samples, BATCH):
            chunk = reader.read(first, min(BATCH, source.samples - first))
            lists = []
            for ids in chunk.ids:
                lengths = random.integers(0, ids.shape[1], len(ids), endpoint=True)
                lists.append((ids[np.arange(ids.shape[1]) < lengths[:, None]], lengths))
            writer.add(chunk.label, chunk.dense.astype(np.float32), lists)


def read_limit(paths: Sequence[str], threads: int) -> float:
    """Returns bytes/s of reading files from the page cache, block by block."""

    def read(handle: int, offset: int) -> int:
        return os.preadv(handle, [buffers.setdefault(offset // BLOCK % threads, bytearray(BLOCK))],
                         offset)  # fmt: skip

    buffers = {}
    handles = [os.open(path, os.O_RDONLY) for path in paths]
    blocks = [(h, o) for h in handles for o in range(0, os.fstat(h).st_size, BLOCK)]
    began = time.perf_counter()
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        total = sum(pool.map(lambda block: read(*block), blocks))
    seconds = time.perf_counter() - began
    for handle in handles:
        os.close(handle)
    return total / seconds


def write_limit(folder: str, size: int) -> float:
    """Returns bytes/s of large writes into `folder` from two threads, including fsync."""
    block = mmap.mmap(-1, BLOCK)  # page-aligned
    block.write(os.urandom(BLOCK))
    path = os.path.join(folder, "limit")
    flags = os.O_WRONLY | os.O_CREAT
    try:
        handle = os.open(path, flags | os.O_DIRECT, 0o600)
    except OSError:  # no direct I/O in a memory file system
        handle = os.open(path, flags, 0o600)
    offsets = range(0, size // BLOCK * BLOCK, BLOCK)
    began = time.perf_counter()
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        written = sum(pool.map(lambda offset: os.pwrite(handle, block, offset), offsets))
    os.fsync(handle)
    seconds = time.perf_counter() - began
    os.close(handle)
    os.unlink(path)
    return written / seconds


def read_epoch(
    description: DatasetDescription, parallel_reads: int, batch: int = BATCH, **options: Any
) -> tuple[float, float]:
    """Returns (samples/s, processor seconds per million samples) over one epoch."""
    from dataset import reader

    ahead = reader.ReadAhead(parallel_reads=parallel_reads)
    batches = reader.batches(description, batch, ahead=ahead, **options)
    iterator = iter(batches)
    next(iterator)  # warm-up: tracing, opening files, page faults
    count = 0
    began, used = time.perf_counter(), time.process_time()
    for _ in iterator:
        count += batch
    seconds, used = time.perf_counter() - began, time.process_time() - used
    return count / seconds, used / count * 1e6


def _peak_memory(process: int) -> int:
    """Returns the peak resident bytes of a process, or 0 if it has ended."""
    try:
        with open(f"/proc/{process}/status", encoding="ascii") as status:
            lines = [line for line in status if line.startswith("VmHWM")]
    except OSError:
        return 0
    return int(lines[0].split()[1]) * 1024 if lines else 0


def run_tool(command: Sequence[str]) -> tuple[float, float, int]:
    """Runs a tool and returns (seconds, processor seconds, peak resident bytes)."""
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, *command], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    # rusage's peak would include this process, whose memory the fork starts with.
    memory, found = 0, 0
    while not found:
        memory = max(memory, _peak_memory(process.pid))
        time.sleep(0.02)
        found, status, usage = os.wait4(process.pid, os.WNOHANG)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)}: exit status {process.returncode}")
    seconds = time.perf_counter() - began
    return seconds, usage.ru_utime + usage.ru_stime, memory


def _median(runs: Sequence[tuple[float, ...]]) -> list[float]:
    return [statistics.median(column) for column in zip(*runs)]


def bench_reader(
    datasets: Mapping[str, tuple[DatasetDescription, dict[str, Any]]], repeats: int, threads: int
) -> list[dict[str, Any]]:
    """Returns the results of the reader for {name: (description, options)}."""
    runs = {name: [] for name in datasets}
    limits = {name: [] for name in datasets}
    for _ in range(repeats):
        for name, (description, options) in datasets.items():
            limits[name].append((read_limit(_files(description), threads),))
            runs[name].append(read_epoch(description, threads, **options))
    results = []
    for name, (description, options) in datasets.items():
        speed, used = _median(runs[name])
        (limit,) = _median(limits[name])
        # A reader of some tables does not read every byte.
        floor = None if "tables" in options else limit / description.bytes_per_sample
        results.append({
            "case": f"reader {name}", "samples_per_second": speed,
            "bytes_per_sample": description.bytes_per_sample,
            "processor_seconds_per_million_samples": used, "floor_samples_per_second": floor,
            "processor_nanoseconds_per_id":
                used / ids_per_sample(description, options.get("tables")) * 1e3,
        })  # fmt: skip
    return results


def _bytes_in(folder: str) -> int:
    return sum(entry.stat().st_size for entry in os.scandir(folder))


def bench_tools(
    cases: Mapping[str, Sequence[str]],
    sources: Mapping[str, DatasetDescription],
    folders: Mapping[str, str],
    repeats: int,
) -> list[dict[str, Any]]:
    """Returns the results of each command, whose destination is omitted, for each folder.

    `sources` are what the commands read.
    """
    source_bytes = {name: s.samples * s.bytes_per_sample for name, s in sources.items()}
    runs = {(name, where): [] for where in folders for name in cases}
    limits = {where: [] for where in folders}
    written = {}
    for _ in range(repeats):
        for where, folder in folders.items():
            target = os.path.join(folder, "written")
            limits[where].append((write_limit(folder, max(source_bytes.values())),))
            for name, command in cases.items():
                runs[name, where].append(run_tool([*command, target]))
                written[name] = _bytes_in(target)
                shutil.rmtree(target)
    start, start_used, _ = run_tool(["-m", "dataset.convert", "--help"])
    results = []
    for (name, where), measured in runs.items():
        seconds, used, memory = _median(measured)
        (limit,) = _median(limits[where])
        size = source_bytes[name]
        results.append({
            "case": f"{name}, to {where}",
            "gigabytes_per_second": size / 1e9 / (seconds - start),
            "processor_seconds_per_gigabyte": (used - start_used) / size * 1e9,
            "processor_nanoseconds_per_id":
                (used - start_used) * 1e9 / sources[name].samples / ids_per_sample(sources[name]),
            "peak_memory_mib": memory / 2**20,
            "bytes_written_per_byte": written[name] / size,
            "floor_gigabytes_per_second": limit / written[name] * size / 1e9,
        })  # fmt: skip
    return results


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the benchmark and prints a table."""
    parser = argparse.ArgumentParser(
        prog="python3 -m benchmarks.data", description=first_paragraph(__doc__)
    )
    parser.add_argument(
        "--json", metavar="FILE", type=results_file.target, help="file to write the figures to"
    )
    parser.add_argument(
        "--samples",
        type=whole_number(2 * BATCH, 1 << 40),
        default=128 * BATCH,
        help="samples in the dataset",
    )
    parser.add_argument("--repeats", type=whole_number(1), default=5, help="runs of each case")
    parser.add_argument(
        "--threads", type=whole_number(1, 1024), default=2, help="parallel reads of the reader"
    )
    parser.add_argument(
        "--folder",
        type=command_line.path,
        help="folder for the files (default: the system's temporary folder)",
    )
    parsed = parser.parse_args(arguments)
    if parsed.folder is not None and not os.path.isdir(parsed.folder):
        parser.error(f"--folder: expected an existing folder, found {parsed.folder}")
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(dir=parsed.folder))
        folders = {"disk": folder}
        if os.path.isdir(MEMORY) and shutil.disk_usage(MEMORY).free > parsed.samples * 400:
            folders["memory"] = stack.enter_context(tempfile.TemporaryDirectory(dir=MEMORY))
        results = _run(folder, folders, parsed)
    facts = {
        "machine": platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "load_average": os.getloadavg()[0],
        "samples": parsed.samples,
        "repeats": parsed.repeats,
        "results": results,
    }
    _print(facts)
    if parsed.json:
        results_file.write(parsed.json, "data", facts)


def _run(
    folder: str, folders: Mapping[str, str], parsed: argparse.Namespace
) -> list[dict[str, Any]]:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    from dataset import convert, multihot, open_split, synthetic
    from dataset.multihot_maps import MapRule
    from ops.bags import MLPERF_HOTNESS

    # Multi-hot samples have eight times as many ids: an eighth of the samples in as many batches.
    few = parsed.samples // 8
    synthetic.write_dataset(folder, parsed.samples, few, progress=False)
    raw = open_split(os.path.join(folder, "train_data.bin"))
    datasets = {"raw": (raw, {})}
    for layout in ("three_file", "per_table"):
        path = os.path.join(folder, layout)
        convert.convert_split(raw, path, layout, progress=False)
        datasets[layout] = (open_split(path), {})
    per_table = datasets["per_table"][0]
    datasets["per_table, rank 0 of 8"] = (per_table, {"size": 8})
    # Model-parallel input of one rank of 8: its slice, and its tables for every sample.
    datasets["per_table, rank 0 of 8, 3 tables"] = (per_table, {"size": 8, "tables": [0, 9, 19]})
    paths = {name: os.path.join(folder, name) for name in ("wide", "wide_three_file", "lists")}
    rule = MapRule(tuple(raw.vocab_sizes), MLPERF_HOTNESS)
    one_hot = open_split(os.path.join(folder, "test_data.bin"))
    multihot.write_multi_hot([one_hot], paths["wide"], rule, progress=False)
    wide = open_split(paths["wide"])
    convert.convert_split(wide, paths["wide_three_file"], "three_file", progress=False)
    write_lists(wide, paths["lists"])
    wide_three_file, lists = open_split(paths["wide_three_file"]), open_split(paths["lists"])
    datasets["three_file, 214 ids"] = (wide_three_file, {"batch": BATCH // 8})
    datasets["per_table, 214 ids"] = (wide, {"batch": BATCH // 8})
    datasets["per_table, lists"] = (lists, {"batch": BATCH // 8})
    sources = {
        "split_bin": raw,
        "split_bin --split_categories": raw,
        "convert three_file to per_table": datasets["three_file"][0],
        "convert per_table to three_file": per_table,
        "convert three_file to per_table, 214 ids": wide_three_file,
        "convert per_table to three_file, 214 ids": wide,
        "convert per_table to per_table, lists": lists,
    }
    cases = {}
    for name, source in sources.items():
        tool, *words = name.split(",")[0].split()
        command = ["split_bin.py", *words]
        if tool == "convert":
            command = ["-m", "dataset.convert", "--layout", words[-1]]
        cases[name] = [*command, source.path]
    results = bench_reader(datasets, parsed.repeats, parsed.threads)
    return results + bench_tools(cases, sources, folders, parsed.repeats)


def _print(facts: Mapping[str, Any]) -> None:
    print(
        f"{facts['samples']} samples, {facts['cores']} cores, medians of {facts['repeats']}, "
        f"load average at the end {facts['load_average']:.1f}"
    )
    for result in facts["results"]:
        if "samples_per_second" in result:
            limit = result["floor_samples_per_second"]
            print(
                f"{result['case']:52} {result['samples_per_second'] / 1e6:7.2f} M samples/s  "
                f"{result['processor_seconds_per_million_samples'] * 1e3:6.0f} ms of CPU per M "
                f"{result['processor_nanoseconds_per_id']:5.2f} ns per id"
                + ("" if limit is None else f"  (pread alone {limit / 1e6:.1f} M/s)")
            )
        else:
            print(
                f"{result['case']:52} {result['gigabytes_per_second']:7.2f} GB/s  "
                f"{result['processor_seconds_per_gigabyte']:6.2f} s of CPU per GB "
                f"{result['processor_nanoseconds_per_id']:5.2f} ns per id  "
                f"{result['peak_memory_mib']:5.0f} MiB  (writes "
                f"{result['bytes_written_per_byte']:.2f} for each byte: at most "
                f"{result['floor_gigabytes_per_second']:.2f} GB/s)"
            )


if __name__ == "__main__":
    main()
