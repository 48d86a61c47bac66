"""Timings of the embedding kernels on bags of ids, and of PyTorch's embedding_bag.

Bytes are the minimum traffic, as in `embedding_timings`: each id, each vector or gradient of a bag,
and each distinct row once.
"""

import functools

import numpy as np

from ops.bags import Bags
from tests.gpu.bag_cases import DCNV2_HOTNESS
from tests.gpu.clock import torch_dtype
from tests.gpu.embedding_timings import CRITEO_CUT, UNIFORM_ROWS, Tables, time_operation
from tests.gpu.launchers import DTYPE_NAMES, FLOAT16, FLOAT32
from tests.gpu.random_ids import draw_ids, hottest_shares

BATCH = 65_536
_MOST_OPERATIONS = ("lookup", "SGD atomics", "SGD deterministic", "Adagrad")
_FEW_OPERATIONS = ("lookup", "SGD atomics", "SGD deterministic")
_DTYPES = (FLOAT16, FLOAT32)
# {part: (label, rows of each table, ids per sample of each, kinds of ids, operations, dtypes)}
PARTS = {
    # A hotness of 1 takes the kernels for bags, too, to compare them with those for one id.
    "bags of 1": ("26 tables, bags of 1", (UNIFORM_ROWS,) * 26, (1,) * 26, ("uniform",),
                  _FEW_OPERATIONS, (FLOAT16,)),
    "bags of 8": ("26 tables, bags of 8", (UNIFORM_ROWS,) * 26, (8,) * 26, ("uniform",),
                  _MOST_OPERATIONS, _DTYPES),
    "bags of 100": ("2 tables, bags of 100", (10 * UNIFORM_ROWS,) * 2, (100,) * 2, ("uniform",),
                    _MOST_OPERATIONS, _DTYPES),
    "bags of DCNv2": ("DLRM-DCNv2's bags", CRITEO_CUT, DCNV2_HOTNESS, ("uniform", "skewed"),
                      _MOST_OPERATIONS, (FLOAT16,)),
}  # fmt: skip


class BagTables(Tables):
    """Tables whose samples have bags of ids.

    Args:
        library: the launchers.
        memory: a `TorchMemory`.
        part: key of `PARTS`.
        seed: seed of rows, ids and gradients.
    """

    def __init__(self, library, memory, part, seed):
        _, sizes, hotness, *_ = PARTS[part]
        self.bags = Bags.of(hotness)
        super().__init__(library, memory, part, sizes, seed)

    def _ids(self, batch, kind):
        import torch

        tables = self.bags.feature_of_slots()
        offset = torch.from_numpy(self.base[tables]).to(self.place)
        ids, flat, shares = [], [], []
        for _ in range(2):
            drawn = draw_ids(self.rng, self.sizes[tables], batch, kind)
            bags = [drawn[:, first : first + slots].reshape(-1, 1)
                    for first, slots in zip(self.bags.first_slots, self.bags.hotness)]  # fmt: skip
            shares.append([hottest_shares(bag)[0] for bag in bags])
            ids.append(torch.from_numpy(drawn).to(self.place))
            flat.append(ids[-1].long() + offset)
        distinct = float(np.mean([len(torch.unique(f)) for f in flat]))
        return ids, flat, distinct, np.mean(shares, axis=0).round(4).tolist()

    def batches(self, batch, kind, dtype):
        """Returns the sets of ids as the launchers take them."""
        described = super().batches(batch, kind, dtype)
        for description in described:
            description.set_bags(self.bags)
        return described

    def least_bytes(self, operation, kind, batch, dtype):
        """Returns the minimum traffic of an operation."""
        size = self._bytes_of_vectors(operation, kind, batch, dtype)
        return size + batch * self.bags.slots * 4

    def has_peer(self, operation, kind, batch):
        """Whether PyTorch has an equivalent: embedding_bag takes bags of one length."""
        return operation == "lookup" and len(set(self.bags.hotness)) == 1

    def peer(self, operation, kind, batch, dtype):
        """Returns calls of PyTorch's embedding_bag."""
        import torch

        flat = [f.view(-1, self.bags.hotness[0]) for f in self.ids(batch, kind)[1]]
        pool = functools.partial(torch.nn.functional.embedding_bag, weight=self.rows, mode="sum")
        return [lambda f=f: pool(f).to(torch_dtype(dtype)) for f in flat]


def entries(library, memory, seed):
    """Returns [(name, function that returns a result for JSON)], as `embedding_timings.entries`."""
    listed = []
    for part, (label, _, _, kinds, operations, dtypes) in PARTS.items():
        # One entry: the tables of one part at a time.
        tables = functools.partial(_tables, library, memory, part, seed)
        for kind in kinds:
            for dtype in dtypes:
                for operation in operations:
                    name = f"{operation} {DTYPE_NAMES[dtype]}, {label}, {kind} ids"
                    listed.append((name, functools.partial(
                        time_operation, tables, operation, kind, BATCH, dtype
                    )))  # fmt: skip
    return listed


_tables = functools.lru_cache(maxsize=1)(BagTables)
