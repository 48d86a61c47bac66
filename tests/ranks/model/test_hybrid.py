"""Hybrid-parallel training under horovodrun against a single-process NumPy float64 DLRM."""

import numpy as np
import pytest
import tensorflow as tf

from tests.support import launch
from tests.support.model import hybrid_worker as worker
from tests.support.reference import ReferenceDLRM

# Four ranks train up to 37 models on two cores, possibly next to other work.
pytestmark = pytest.mark.timeout(1000)


@pytest.fixture(
    scope="module",
    params=[
        (2, "half"), (4, "quarter"),
        *(pytest.param((size, "all"), marks=pytest.mark.slow) for size in (1, 2, 3, 4)),
    ],
    ids="{0[0]}-{0[1]}".format,
)  # fmt: skip
def trained(request, tmp_path_factory, seed_of):
    """Trains the cases on N ranks; returns (N, seed, {case: [each rank's arrays]})."""
    size, which = request.param
    folder, seed = tmp_path_factory.mktemp(f"ranks{size}"), seed_of("hybrid", size, which)
    result = launch.run(
        size, "tests/support/model/hybrid_worker.py", folder, which, seed, timeout=900
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return (
        size,
        seed,
        {
            name: [dict(np.load(folder / f"{name}.{rank}.npz")) for rank in range(size)]
            for name in worker.cases(size, which)
        },
    )


def assembled(ranks, prefix, state):
    """Returns the complete tables from all ranks' shards."""
    tables = []
    for t, rows in enumerate(worker.VOCAB):
        parts = [(s, k) for s in ranks for k in s if k.startswith(f"{prefix}_{state}_{t}_")]
        flat = parts[0][0][parts[0][1]].ndim == 1
        table = np.full((rows,) if flat else (rows, worker.DIMENSION), np.nan)
        for saved, key in parts:
            column, values = int(key.rpartition("_")[2]), saved[key]
            ids = saved[f"ids_table_{t}_{column}"]
            if flat:
                table[ids] = values
            else:
                table[ids, column : column + values.shape[1]] = values
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
        assembled(ranks, "initial", "table"),
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


def test_every_case_trains_like_the_reference(trained):
    size, seed, cases = trained
    references = {}
    for name, ranks in cases.items():
        _kind, compress, dtype, optimizer, gradient = name.split("-")
        # In float32, deduplication changes only the order of sums.
        rounded = dtype, compress == "True" and dtype == "bfloat16"
        key = optimizer, size if gradient == "sum" else 1, *rounded
        if key not in references:
            references[key] = reference(ranks, seed, *key)
        model, losses = references[key]
        # Float32 rounds to 2^-24. A difference in the last bit may round to another bfloat16
        # (2^-9) and switch a ReLU.
        exact = dtype == "float32"
        for saved in ranks:
            np.testing.assert_allclose(
                saved["losses"], losses, rtol=1e-5 if exact else 5e-3, err_msg=name
            )
        start, final, expected = (
            np.concatenate([table.reshape(-1) for table in tables])
            for tables in (
                assembled(ranks, "initial", "table"),
                assembled(ranks, "final", "table"),
                model.tables,
            )
        )
        if exact:
            np.testing.assert_allclose(final, expected, atol=1e-5, err_msg=name)
        moved = np.linalg.norm(expected - start)
        assert np.linalg.norm(final - expected) <= (1e-4 if exact else 0.05) * moved, name


def test_initial_tables_are_equal_for_every_placement(trained):
    _, _, cases = trained
    first = assembled(next(iter(cases.values())), "initial", "table")
    for name, ranks in cases.items():
        for ours, expected in zip(assembled(ranks, "initial", "table"), first):
            np.testing.assert_array_equal(ours, expected, err_msg=name)
    for table, rows in zip(first, worker.VOCAB):
        assert np.abs(table).max() <= 1 / np.sqrt(rows)
        assert len(np.unique(table)) > 0.99 * table.size


def test_summed_gradients_differ_from_the_mean_on_several_ranks(trained):
    """Losses are equal only before the first update."""
    size, _, cases = trained
    mean, summed = cases["table-False-float32-sgd-mean"], cases["table-False-float32-sgd-sum"]
    same = np.allclose(mean[0]["losses"], summed[0]["losses"], rtol=1e-6)
    assert same == (size == 1)
    assert mean[0]["losses"][0] == pytest.approx(summed[0]["losses"][0], rel=1e-6)
