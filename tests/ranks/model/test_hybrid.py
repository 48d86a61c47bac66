"""Hybrid-parallel training under horovodrun against a single-process NumPy float64 DLRM."""

import numpy as np
import pytest
import tensorflow as tf

from tests.support import launch
from tests.support.model import hybrid_worker as worker
from tests.support.reference import ReferenceDLRM

# Four ranks train up to 37 models on two cores, possibly next to other work.
pytestmark = pytest.mark.timeout(1000)


def assembled(ranks, prefix):
    """Returns the complete tables from all ranks' shards."""
    tables = []
    for t, rows in enumerate(worker.VOCAB):
        table = np.full((rows, worker.DIMENSION), np.nan)
        for saved in ranks:
            for key in (k for k in saved if k.startswith(f"{prefix}_{t}_")):
                column = int(key.rpartition("_")[2])
                values = saved[key]
                table[saved[f"ids_{t}_{column}"], column : column + values.shape[1]] = values
        assert not np.isnan(table).any()
        tables.append(table)
    return tables


def layers(flat, inputs, widths):
    """Returns [(kernel, bias), ...] from one row of their values."""
    result, flat = [], flat.reshape(-1)
    for width in widths:
        result.append(
            (flat[: inputs * width].reshape(inputs, width), flat[inputs * width :][:width])
        )
        flat, inputs = flat[(inputs + 1) * width :], width
    return result


class Bfloat16Exchange(ReferenceDLRM):
    """Rounds vectors and gradients to bfloat16 where they are exchanged."""

    ranks, compress = 1, False

    @staticmethod
    def round(values):
        return values.astype(tf.bfloat16.as_numpy_dtype).astype(np.float64)

    def look_up(self, rows, ids):
        return self.round(rows[ids])

    def sum_gradients(self, rows, ids, gradients):
        """Ranks exchange gradients of their mean losses; with `compress`, sums of repeated ids."""
        gradients = self.round(self.ranks * gradients)
        if not self.compress:
            return super().sum_gradients(rows, ids, gradients) / self.ranks
        shares = zip(np.split(ids, self.ranks), np.split(gradients, self.ranks))
        sums = [super(Bfloat16Exchange, self).sum_gradients(rows, *share) for share in shares]
        return sum(map(self.round, sums)) / self.ranks


def reference(ranks, seed, optimizer, factor, dtype, compress):
    inputs = worker.DIMENSION + len(worker.VOCAB) * (len(worker.VOCAB) + 1) // 2
    inputs = -(-inputs // 8) * 8
    model = (ReferenceDLRM if dtype == "float32" else Bfloat16Exchange)(
        layers(ranks[0]["bottom"], worker.DENSE, worker.BOTTOM),
        layers(ranks[0]["top"], inputs, worker.TOP),
        assembled(ranks, "initial"),
        optimizer,
        factor,
        worker.OPTIONS.get(optimizer),
    )
    model.ranks, model.compress = len(ranks), compress
    losses = [
        model.step(dense, ids, label[:, 0], worker.RATE)
        for dense, ids, label in worker.batches(seed)
    ]
    return model, np.array(losses)


@pytest.mark.parametrize(
    ("size", "which"),
    [
        (2, "first"), (3, "second"),
        *(pytest.param(size, "all", marks=pytest.mark.slow) for size in (1, 2, 3, 4)),
    ],
)  # fmt: skip
def test_every_case_trains_like_the_reference(size, which, tmp_path, seed):
    result = launch.run(
        size, "tests/support/model/hybrid_worker.py", tmp_path, which, seed, timeout=900
    )
    assert result.returncode == 0, result.stdout + result.stderr
    references = {}
    for name, (_, compress, dtype, optimizer, gradient) in worker.cases(size, which).items():
        ranks = [dict(np.load(tmp_path / f"{name}.{rank}.npz")) for rank in range(size)]
        # In float32, deduplication changes only the order of sums.
        rounded = dtype, compress and dtype == "bfloat16"
        key = optimizer, size if gradient == "sum" else 1, *rounded
        if key not in references:
            references[key] = reference(ranks, seed, *key)
        model, losses = references[key]
        # Float32 rounds to 2^-24. A difference in the last bit may round to another bfloat16, 2^-9
        # away.
        exact = dtype == "float32"
        for saved in ranks:
            np.testing.assert_allclose(
                saved["losses"], losses, rtol=1e-5 if exact else 5e-3, err_msg=name
            )
        start, final, expected = (
            np.concatenate([table.reshape(-1) for table in tables])
            for tables in (assembled(ranks, "initial"), assembled(ranks, "final"), model.tables)
        )
        if exact:
            np.testing.assert_allclose(final, expected, atol=1e-5, err_msg=name)
        # Rounding does not shrink with the move: each of a row's additions, one for every sample if
        # a table has one row, rounds by up to 2^-24 of the row, in both directions.
        additions = worker.STEPS * worker.BATCH
        rounding = 2.0**-24 * np.sqrt(additions) * np.linalg.norm(expected)
        limit = (1e-4 if exact else 0.01) * np.linalg.norm(expected - start) + rounding
        assert np.linalg.norm(final - expected) <= limit, name
