"""The registry of row optimizers and its users."""

import numpy as np
import pytest

from model.embedding import optimizers
from model.embedding.optimizers import OPTIMIZERS, OptimizerError, RowOptimizer, RowState
from model.embedding.placement import Assignment, Placement, PlacementError, check_optimizer
from model.embedding.tables import FusedTables


@pytest.mark.parametrize(
    ("name", "states", "state_bytes"),
    [
        ("sgd", {}, 0),
        ("adagrad", {"accumulator": [7, 16]}, 64),
        ("rowwise_adagrad", {"accumulator": [7]}, 4),
        ("ftrl", {"accumulator": [7, 16], "linear": [7, 16]}, 128),
    ],
)
def test_states_have_the_registrys_shapes_and_bytes(name, states, state_bytes, seed):
    optimizer = OPTIMIZERS[name]
    assert {state.name: state.shape(7, 16) for state in optimizer.states} == states
    assert optimizer.bytes_per_row(16) == state_bytes
    placement = Placement((7,), 16, 1, (Assignment("table", (0,)),), state_bytes)
    assert placement.bytes_of(0) == 7 * (64 + state_bytes)
    fused = FusedTables(placement, placement.shards_of(0), [0], 7, 16, seed=seed, optimizer=name)
    assert list(fused.states) == ["table", *states]
    held = sum(np.prod(v.shape) * v.dtype.size for v in fused.states.values())
    assert held == placement.bytes_of(0)
    for state, shape in states.items():
        assert fused.states[state].shape == shape
        np.testing.assert_array_equal(fused.read(0, 0, 7, state), 0)


@pytest.mark.parametrize("native", [True, False], ids=["native", "tensorflow"])
def test_options_change_the_update(native):
    """One update of one row depends on the initial accumulator, l1 and beta."""
    placement = Placement((3,), 4, 1, (Assignment("table", (0,)),))
    options = {"l1": 0.125, "beta": 0.5, "initial_accumulator": 4.0}
    fused = FusedTables(
        placement, placement.shards_of(0), [0], 3, 4, seed=0, native=native,
        optimizer=OPTIMIZERS["ftrl"].with_options(options),
    )  # fmt: skip
    np.testing.assert_array_equal(fused.read(0, 0, 3, "accumulator"), 4.0)
    row = np.array([0.25, -0.25, 0.125, 0.5])
    fused.write(0, 1, row[None].astype("f4"))
    gradient = np.array([3.0, -2.0, 0.5, 0.0])
    fused.update(
        np.array([[1]]), gradient[None, None].astype("f4"), np.zeros(1, np.int64),
        np.full(1, 3, np.int64), 0.25, 1.0,
    )  # fmt: skip
    n = 4 + gradient**2
    z = 0.25 * gradient - (np.sqrt(n) - 2) * row
    expected = np.where(abs(z) <= 0.125, 0, (np.sign(z) * 0.125 - z) / (np.sqrt(n) + 0.5))
    np.testing.assert_allclose(fused.read(0, 1, 1)[0], expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(fused.read(0, 1, 1, "linear")[0], z, rtol=1e-5, atol=1e-6)
    assert expected[3] == 0 and expected[0] != 0


def test_column_wise_tables_require_states_per_column():
    placement = Placement((9,), 8, 2, (Assignment("column", (0, 1)),))
    for name, optimizer in OPTIMIZERS.items():
        if optimizer.per_row_states:
            with pytest.raises(PlacementError) as caught:
                check_optimizer(placement, name)
            assert (caught.value.table, caught.value.found) == (0, name)
            assert caught.value.expected == ("sgd", "adagrad", "ftrl")
        else:
            check_optimizer(placement, name)


@pytest.mark.parametrize(
    ("name", "text", "found"),
    [
        ("ftrl", "l3=1", "l3"),
        ("sgd", "l1=1", "l1"),
        ("ftrl", "l1=-0.1", -0.1),
        ("ftrl", "beta=1e39", 1e39),
        ("adagrad", "epsilon=0", 0.0),
        ("adagrad", "epsilon=1e-60", 1e-60),
        ("ftrl", "l1=a", "l1=a"),
        ("ftrl", "l1=1,", ""),
        ("ftrl", "", ""),
        ("ftrl", "l1", "l1"),
        ("ftrl", "l1=1,l1=2", "l1"),
    ],
)
def test_wrong_options_are_refused(name, text, found):
    with pytest.raises(OptimizerError) as caught:
        OPTIMIZERS[name].with_options(optimizers.parse_options(text))
    assert caught.value.found == found


def test_option_that_is_nan_is_refused():
    with pytest.raises(OptimizerError, match=r"beta.* nan"):
        OPTIMIZERS["ftrl"].with_options({"beta": float("nan")})


def test_with_options_does_not_change_the_registry():
    changed = OPTIMIZERS["ftrl"].with_options(optimizers.parse_options(" beta = 1 , l1=2e-3"))
    assert changed.rule_values == (0.002, 0.0, 1.0)
    assert OPTIMIZERS["ftrl"].rule_values == (0.0, 0.0, 0.0)


def test_find_accepts_names_and_optimizers():
    changed = OPTIMIZERS["ftrl"].with_options({"l1": 1.0})
    assert optimizers.find(changed) is changed and optimizers.find("sgd") is OPTIMIZERS["sgd"]
    with pytest.raises(OptimizerError) as caught:
        optimizers.find("adam")
    assert (caught.value.expected, caught.value.found) == (tuple(OPTIMIZERS), "adam")


def test_states_per_row_must_come_last():
    with pytest.raises(ValueError, match=r"per column .* per row"):
        RowOptimizer("x", "X", (RowState("a", per="row"), RowState("b")))
