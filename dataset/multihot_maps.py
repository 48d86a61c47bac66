"""The random maps from one id to several that make the MLPerf benchmark's multi-hot data.

The benchmark's data set has one id per feature. Its multi-hot version adds, for an id of a table
with hotness K, the K - 1 further ids of that table in a fixed map [rows, K - 1]. The maps of all
tables come from one stream of random numbers: NumPy's legacy generator, seed 0, tables in order,
rows in order. So they can be drawn in parts, but not out of order.

Reference: mlcommons/training, recommendation_v2/torchrec_dlrm/multi_hot.py.
"""

from __future__ import annotations

import dataclasses
import mmap
import os
import tempfile
from collections.abc import Collection, Sequence

import numpy as np
from tqdm import tqdm

from dataset.errors import DatasetError
from dataset.hotness import make_bags
from ops.bags import Bags

#: Distributions of the further ids.
DISTRIBUTIONS = ("uniform", "pareto")
#: Largest seed of NumPy's legacy generator.
MAX_SEED = 2**32 - 1
#: Shape of the Pareto distribution.
_PARETO_SHAPE = 0.25
_NO_IDS = np.zeros(0, np.int32)
#: Ids drawn at a time.
_DRAWN = 1 << 20
#: Alignment in bytes of each map, for tensors that share its memory.
_ALIGNMENT = 64


@dataclasses.dataclass(frozen=True)
class MapRule:
    """How the maps of all tables are drawn.

    Attributes:
        rows: rows of each table, [T].
        hotness: ids per sample of each table, [T].
        distribution: "uniform", or "pareto": floor of a Pareto variable (Lomax, shape 0.25), modulo
            the rows.
        seed: of NumPy's legacy generator; the benchmark's is 0.

    Raises:
        DatasetError: the lengths differ, or a value is out of range.
    """

    rows: tuple[int, ...]
    hotness: tuple[int, ...]
    distribution: str = "uniform"
    seed: int = 0

    def __post_init__(self):
        make_bags(self.hotness, None, len(self.rows), "--hotness", flag="hotness")
        if self.distribution not in DISTRIBUTIONS:
            raise DatasetError.mismatch(None, "distribution", DISTRIBUTIONS, self.distribution)
        if not 0 <= self.seed <= MAX_SEED:
            raise DatasetError(f"seed: expected 0 to {MAX_SEED}, found {self.seed}")

    @property
    def bags(self) -> Bags:
        """The slots of the multi-hot data; their vectors are summed."""
        return Bags.of(self.hotness)

    def nbytes(self, tables: Collection[int] | None = None) -> int:
        """Returns the bytes of the maps of some tables (default: all)."""
        chosen = range(len(self.rows)) if tables is None else tables
        return sum(4 * self.rows[table] * (self.hotness[table] - 1) for table in chosen)


class MultiHotMaps:
    """The maps of a rule, in memory or in an unnamed temporary file.

    The file has no name in its folder, so that it disappears with the process, however that ends.
    """

    def __init__(self, rule: MapRule, arrays: Sequence[np.ndarray | None]):
        """Use `draw`."""
        self.rule = rule
        self._arrays = list(arrays)

    def array(self, table: int) -> np.ndarray:
        """Returns the further ids of each row of a table, int32 [rows, hotness - 1].

        Raises:
            DatasetError: the maps were drawn without this table.
        """
        array = self._arrays[table] if 0 <= table < len(self._arrays) else None
        if array is None:
            drawn = [t for t, a in enumerate(self._arrays) if a is not None]
            raise DatasetError.mismatch(None, "table of a multi-hot map", drawn, table)
        return array

    def expand(self, table: int, ids: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """Returns the bags of one-hot ids: each id modulo the rows, then its row of the map.

        Args:
            table: the table.
            ids: integers [n]; any value, as the benchmark's ids are hashed by the modulo.
            out: int32 [n, hotness] to fill; default: a new array.
        """
        further = self.array(table)
        if out is None:
            out = np.empty((len(ids), self.rule.hotness[table]), np.int32)
        own = np.remainder(ids, self.rule.rows[table], dtype=np.int64)
        out[:, 0] = own
        if further.shape[1]:
            out[:, 1:] = further.take(own, axis=0)
        return out


def draw(
    rule: MapRule,
    tables: Collection[int] | None = None,
    folder: str | None = None,
    progress: bool = False,
) -> MultiHotMaps:
    """Draws the maps of a rule, a few MiB at a time.

    Args:
        rule: the rule.
        tables: tables whose maps are kept; default: all.
        folder: folder for a temporary file that holds the maps; default: they are in memory.
        progress: show a progress bar on a terminal.

    Raises:
        DatasetError: no memory, or no room in the folder; the message gives the bytes needed.
    """
    kept = set(range(len(rule.rows)) if tables is None else tables)
    counts = [rows * (ids - 1) for rows, ids in zip(rule.rows, rule.hotness)]
    arrays = _allocate([n if table in kept else None for table, n in enumerate(counts)], folder)
    # Maps of later tables change nothing in those that are kept.
    last = max((table for table in kept if counts[table]), default=-1)
    random = np.random.RandomState(rule.seed)
    total = 4 * sum(counts[: last + 1])
    quiet = None if progress else True
    with tqdm(total=total, desc="maps", unit="B", unit_scale=True, disable=quiet) as bar:
        for table in range(last + 1):
            array, begin = arrays[table], 0
            for ids in _stream(random, rule, table, counts[table]):
                if array is not None:
                    array[begin : begin + len(ids)] = ids
                begin += len(ids)
                bar.update(4 * len(ids))
    shapes = zip(arrays, rule.rows, rule.hotness)
    return MultiHotMaps(rule, [a if a is None else a.reshape(r, k - 1) for a, r, k in shapes])


def _stream(random: np.random.RandomState, rule: MapRule, table: int, count: int):
    """Yields the `count` further ids of a table, int64, in parts: one stream with any parts."""
    rows = rule.rows[table]
    for begin in range(0, count, _DRAWN):
        size = min(_DRAWN, count - begin)
        if rule.distribution == "uniform":
            yield random.randint(0, rows, size, np.int64)
        else:
            values = random.pareto(_PARETO_SHAPE, size)
            # Values that int32 cannot hold become -2^31, as on the x86 processors that made the
            # published data; other processors convert them differently.
            values[values >= 2**31] = -(2**31)
            yield values.astype(np.int64) % rows


def _allocate(counts, folder):
    """Returns an int32 array for each count, in one allocation; None for None."""
    sizes = [0 if n is None else -(-4 * n // _ALIGNMENT) * _ALIGNMENT for n in counts]
    total = sum(sizes)
    buffer = _allocate_bytes(total, folder) if total else b""
    offsets = np.cumsum([0, *sizes[:-1]])
    return [
        None if n is None else np.frombuffer(buffer, np.int32, n, begin) if n else _NO_IDS
        for n, begin in zip(counts, offsets.tolist())
    ]


def _allocate_bytes(total, folder):
    where, what = ("memory", "free bytes") if folder is None else (folder, "free bytes on the disk")
    advice = " for the maps of the multi-hot data"
    try:
        if folder is None:
            return mmap.mmap(-1, total, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        with tempfile.TemporaryFile(dir=folder) as file:
            # Without this, a full disk would end the process at a write to the mapped memory.
            os.posix_fallocate(file.fileno(), 0, total)
            return mmap.mmap(file.fileno(), total)
    except OSError as error:
        expected = f"{total:,}{advice}"
        raise DatasetError.mismatch(where, what, expected, error.strerror) from error
