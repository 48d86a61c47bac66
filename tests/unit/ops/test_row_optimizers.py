"""Row optimizers with state: native and TensorFlow implementations against float64."""

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.framework import op_def_registry

from model.embedding.optimizers import OPTIMIZERS
from ops import loader
from ops.embedding import (
    RowIds,
    RowRule,
    embedding_update,
    embedding_update_tensorflow,
)
from tests.support.row_optimizers import OPTIONS, ReferenceRows
from tests.unit.ops.test_embedding import (
    BASES,
    DTYPES,
    ROWS,
    SIZES,
    equal_ids,
    random_gradients,
    table_of,
    zipf_ids,
)

STATEFUL = [name for name, optimizer in OPTIMIZERS.items() if optimizer.states]


def start(rng, name, dimension):
    """Returns random (rows, states) that the optimizer could have produced."""
    rows, states = table_of(rng, dimension), []
    for state in OPTIMIZERS[name].states:
        values = rng.uniform(0.25, 1, state.shape(ROWS, dimension)).astype("f4")
        states.append(values - np.float32(0.5) if state.name in ("linear", "m") else values)
    return rows, states


def rule_of(name, options=None):
    options = OPTIONS.get(name, {}) if options is None else options
    return RowRule(name, OPTIMIZERS[name].with_options(options).rule_values)


@pytest.mark.parametrize("name", STATEFUL)
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
def test_native_update_equals_float64(isa, dtype, name, rng):
    for dimension, id_dtype, make_ids in (
        (1, tf.int32, zipf_ids), (33, tf.int64, equal_ids), (127, tf.int64, zipf_ids),
        (128, tf.int32, equal_ids),
    ):  # fmt: skip
        rows, states = start(rng, name, dimension)
        reference = ReferenceRows(name, rows, states, OPTIONS.get(name))
        table, variables = tf.Variable(rows), [tf.Variable(state) for state in states]
        for rate in (0.3, 0.1, 0.0):
            ids = make_ids(rng, 200)
            gradients = random_gradients(rng, ids, dimension, dtype)
            where = RowIds(tf.cast(ids, id_dtype), BASES, SIZES)
            embedding_update(table, variables, where, gradients, rate, 0.5, rule_of(name))
            wide = tf.cast(gradients, tf.float32).numpy()
            reference.scatter(BASES + ids, wide, rate, 0.5)
        np.testing.assert_allclose(table.numpy(), reference.rows, rtol=1e-4, atol=1e-4)
        for variable, expected in zip(variables, reference.states):
            np.testing.assert_allclose(variable.numpy(), expected, rtol=1e-4, atol=1e-4)
        if make_ids is equal_ids:
            untouched = np.setdiff1d(np.arange(ROWS), (BASES + ids).ravel())
            np.testing.assert_array_equal(table.numpy()[untouched], rows[untouched])
        if name == "ftrl":
            touched = np.unique(BASES + ids)
            # Rows are 0 where |z| <= l1; rounding of z decides close to l1.
            z = np.abs(reference.states[1][touched])
            clear = np.abs(z - OPTIONS["ftrl"]["l1"]) > 1e-5
            zeros = table.numpy()[touched] == 0
            np.testing.assert_array_equal(zeros[clear], (reference.rows[touched] == 0)[clear])


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_tensorflow_update_equals_native(name, rng):
    rows, states = start(rng, name, 24)
    rule, formula = rule_of(name), OPTIMIZERS[name].formula
    tables = [tf.Variable(rows) for _ in range(2)]
    variables = [[tf.Variable(state) for state in states] for _ in range(2)]
    for rate in (0.3, 0.1):
        ids = zipf_ids(rng, 64)
        where, gradients = RowIds(ids, BASES, SIZES), random_gradients(rng, ids, 24)
        embedding_update(tables[0], variables[0], where, gradients, rate, 0.5, rule)
        embedding_update_tensorflow(
            tables[1], variables[1], where, gradients, rate, 0.5, formula, rule.hyperparameters
        )
    np.testing.assert_allclose(tables[0].numpy(), tables[1].numpy(), rtol=1e-4, atol=1e-5)
    for ours, theirs in zip(*variables):
        np.testing.assert_allclose(ours.numpy(), theirs.numpy(), rtol=1e-4, atol=1e-6)


def test_ftrl_equals_tensorflows_kernel_at_a_constant_rate(isa, rng):
    """`ResourceApplyFtrlV2` with l1 / rate, (l2 + beta / 2) / rate, and linear / rate."""
    rate, (l1, l2, beta) = 0.25, OPTIONS["ftrl"].values()
    rows = table_of(rng, 16)
    ours = [tf.Variable(rows), tf.Variable(tf.zeros_like(rows)), tf.Variable(tf.zeros_like(rows))]
    theirs = [tf.Variable(variable) for variable in ours]
    ids = np.arange(ROWS)[:, None]
    for _ in range(5):
        gradients = rng.standard_normal(rows.shape, dtype=np.float32)
        embedding_update(
            ours[0], ours[1:], RowIds(ids, [0], [ROWS]), gradients[:, None], rate,
            rule=rule_of("ftrl"),
        )  # fmt: skip
        tf.raw_ops.ResourceApplyFtrlV2(
            var=theirs[0].handle, accum=theirs[1].handle, linear=theirs[2].handle, grad=gradients,
            lr=rate, l1=l1 / rate, l2=(l2 + beta / 2) / rate, l2_shrinkage=0.0, lr_power=-0.5,
        )  # fmt: skip
    np.testing.assert_allclose(ours[0].numpy(), theirs[0].numpy(), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(ours[1].numpy(), theirs[1].numpy(), rtol=1e-5)
    np.testing.assert_allclose(ours[2].numpy(), rate * theirs[2].numpy(), rtol=1e-4, atol=1e-5)
    zeros = np.mean(ours[0].numpy() == 0)
    assert 0.01 < zeros < 0.5, zeros


def test_ftrl_without_regularisation_equals_adagrad_on_any_schedule(isa, rng):
    """With nonzero initial rows and a rate that doubles, decays and ends at 0."""
    rows = table_of(rng, 32)
    ftrl, adagrad = tf.Variable(rows), tf.Variable(rows)
    states = [tf.Variable(tf.zeros_like(rows)) for _ in range(2)]
    accumulator = tf.Variable(tf.zeros_like(rows))
    for rate in (0.001, 0.1, 0.2, 0.2, 0.05, 0.0, 0.0):
        ids = zipf_ids(rng, 100)
        where, gradients = RowIds(ids, BASES, SIZES), random_gradients(rng, ids, 32)
        before = ftrl.numpy()
        embedding_update(ftrl, states, where, gradients, rate, rule=RowRule("ftrl", (0, 0, 0)))
        embedding_update(
            adagrad, [accumulator], where, gradients, rate, rule=RowRule("adagrad", (1e-30,))
        )
        np.testing.assert_allclose(ftrl.numpy(), adagrad.numpy(), rtol=1e-4, atol=1e-5)
        if rate == 0:
            np.testing.assert_allclose(ftrl.numpy(), before, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("native", [True, False], ids=["native", "tensorflow"])
def test_ftrl_keeps_columns_without_gradient_and_propagates_nan(isa, native):
    rows = np.full((3, 21), 0.5, np.float32)
    gradients = np.zeros((2, 1, 21), np.float32)
    gradients[:, 0, 3], gradients[1, 0, 4], gradients[0, 0, 20] = 1.0, np.nan, np.inf
    table, states = tf.Variable(rows), [tf.Variable(tf.zeros([3, 21])) for _ in range(2)]
    where, values = RowIds([[1], [2]], [0], [3]), (0.01, 0.01, 1.0)
    if native:
        embedding_update(table, states, where, gradients, 0.1, rule=RowRule("ftrl", values))
    else:
        formula = OPTIMIZERS["ftrl"].formula
        embedding_update_tensorflow(table, states, where, gradients, 0.1, 1.0, formula, values)
    changed = table.numpy() != rows
    np.testing.assert_array_equal(np.argwhere(changed), [[1, 3], [1, 20], [2, 3], [2, 4]])
    assert np.isnan(table.numpy()[1, 20]) and np.isnan(table.numpy()[2, 4])
    assert np.isfinite(table.numpy()[:, :4]).all()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_scale_of_0_checks_ids_and_writes_nothing(isa, name, rng):
    rows, states = start(rng, name, 24)
    table, variables = tf.Variable(rows), [tf.Variable(state) for state in states]
    ids, rule = zipf_ids(rng, 64), rule_of(name)
    where = RowIds(ids, BASES, SIZES)
    for value in (1.0, np.inf, -np.inf, np.nan):
        gradients = rng.standard_normal((*ids.shape, 24)).astype("f4")
        gradients[rng.random(gradients.shape) < 0.1] = value
        for scale in (0.0, -0.0):
            embedding_update(table, variables, where, gradients, 0.3, scale, rule)
            embedding_update_tensorflow(
                table, variables, where, gradients, 0.3, scale, OPTIMIZERS[name].formula,
                rule.hyperparameters,
            )  # fmt: skip
    sample, bad = rng.integers(64), int(rng.choice([-1, SIZES[3]]))
    ids[sample, 3] = bad
    facts = rf"table 3\b.*sample {sample}\b.*id {bad}\b.*\b{SIZES[3]}\b"
    with pytest.raises(tf.errors.InvalidArgumentError, match=facts):
        embedding_update(table, variables, RowIds(ids, BASES, SIZES), gradients, 0.3, 0.0, rule)
    for variable, expected in zip([table, *variables], [rows, *states]):
        np.testing.assert_array_equal(variable.numpy().view("u4"), expected.view("u4"))


def test_native_optimizers_are_those_of_the_registry():
    loader.load()
    definition = op_def_registry.get("Dlrm>EmbeddingUpdate")
    (attribute,) = [a for a in definition.attr if a.name == "optimizer"]
    allowed = [value.decode() for value in attribute.allowed_values.list.s]
    assert allowed == list(OPTIMIZERS)
