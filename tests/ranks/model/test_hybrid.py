"""Hybrid-parallel training on real ranks against a single-process NumPy float64 DLRM."""

import numpy as np
import pytest

from tests.support import launch
from tests.support.model import hybrid_worker as worker
from tests.support.reference import ReferenceDLRM

# Four ranks train up to 37 models on two cores that may have other work.
pytestmark = pytest.mark.timeout(1000)


@pytest.fixture(
    scope="module",
    params=[
        (1, "all"), (2, "all"), (4, "half"),
        *(pytest.param(job, marks=pytest.mark.slow) for job in ((3, "all"), (4, "all"))),
    ],
    ids="{0[0]}-{0[1]}".format,
)  # fmt: skip
def trained(request, tmp_path_factory):
    """Trains the cases on N ranks; returns (N, {case: [each rank's arrays]})."""
    size, which = request.param
    folder = tmp_path_factory.mktemp(f"ranks{size}")
    result = launch.run(size, "tests/support/model/hybrid_worker.py", folder, which, timeout=900)
    assert result.returncode == 0, result.stdout + result.stderr
    return size, {
        name: [dict(np.load(folder / f"{name}.{rank}.npz")) for rank in range(size)]
        for name in worker.cases(size, which == "half")
    }


def assembled(ranks, prefix, state):
    """Returns whole tables from all ranks' shards."""
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
    """Returns [(kernel, bias), ...] from one row of numbers."""
    result, flat = [], flat.reshape(-1)
    for width in widths:
        result.append(
            (flat[: inputs * width].reshape(inputs, width), flat[inputs * width :][:width])
        )
        flat, inputs = flat[(inputs + 1) * width :], width
    return result


def reference(ranks, optimizer, factor):
    inputs = worker.DIMENSION + len(worker.VOCAB) * (len(worker.VOCAB) + 1) // 2
    inputs = -(-inputs // 8) * 8
    model = ReferenceDLRM(
        layers(ranks[0]["bottom"], worker.DENSE, worker.BOTTOM),
        layers(ranks[0]["top"], inputs, worker.TOP),
        assembled(ranks, "initial", "table"),
        optimizer,
        factor,
        worker.OPTIONS.get(optimizer),
    )
    losses = [
        model.step(dense, ids, label[:, 0], worker.RATE) for dense, ids, label in worker.batches()
    ]
    return model, np.array(losses)


def test_every_case_trains_like_the_reference(trained):
    size, cases = trained
    references = {}
    for name, ranks in cases.items():
        _kind, _compress, dtype, optimizer, gradient = name.split("-")
        factor = size if gradient == "sum" else 1
        if (optimizer, factor) not in references:
            references[optimizer, factor] = reference(ranks, optimizer, factor)
        model, losses = references[optimizer, factor]
        # float32 rounding over 50 steps; bfloat16 keeps 8 bits of each exchanged number.
        exact = dtype == "float32"
        for saved in ranks:
            np.testing.assert_allclose(
                saved["losses"], losses, rtol=1e-5 if exact else 0.02, err_msg=name
            )
        initial = assembled(ranks, "initial", "table")
        final = assembled(ranks, "final", "table")
        for ours, expected, start in zip(final, model.tables, initial):
            if exact:
                np.testing.assert_allclose(ours, expected, atol=1e-5, err_msg=name)
            # Adagrad turns a rounded-off zero into a whole step, so bfloat16 is judged as a whole.
            moved = np.linalg.norm(expected - start)
            assert np.linalg.norm(ours - expected) <= (1e-4 if exact else 0.25) * moved, name


def test_initial_tables_are_the_same_for_every_placement(trained):
    _, cases = trained
    first = assembled(next(iter(cases.values())), "initial", "table")
    for name, ranks in cases.items():
        for ours, expected in zip(assembled(ranks, "initial", "table"), first):
            np.testing.assert_array_equal(ours, expected, err_msg=name)
    for table, rows in zip(first, worker.VOCAB):
        assert np.abs(table).max() <= 1 / np.sqrt(rows)
        assert len(np.unique(table)) > 0.99 * table.size


def test_summed_gradients_are_n_times_the_mean(trained):
    """Seen on the first step alone, where both models still are the same."""
    size, cases = trained
    mean, summed = cases["table-False-float32-sgd-mean"], cases["table-False-float32-sgd-sum"]
    same = np.allclose(mean[0]["losses"], summed[0]["losses"], rtol=1e-6)
    assert same == (size == 1)
    assert mean[0]["losses"][0] == pytest.approx(summed[0]["losses"][0], rel=1e-6)
