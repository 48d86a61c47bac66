"""The registry of row optimizers and its users."""

import math

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


def test_column_wise_tables_require_states_per_column():
    placement = Placement((9,), 8, 2, (Assignment("column", (0, 1)),))
    for name, optimizer in OPTIMIZERS.items():
        if optimizer.per_row_states:
            with pytest.raises(PlacementError) as caught:
                check_optimizer(placement, name)
            assert (caught.value.table, caught.value.flag) == (0, "placement")
        else:
            check_optimizer(placement, name)


@pytest.mark.parametrize(
    ("name", "text", "found"),
    [
        ("ftrl", "l3=1", "l3"),
        ("sgd", "l1=1", "l1"),
        ("ftrl", "l1=-0.1", -0.1),
        ("ftrl", "beta=1e39", 1e39),
        ("ftrl", "beta=-inf", -math.inf),
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


def test_with_options_does_not_change_the_registry():
    changed = OPTIMIZERS["ftrl"].with_options(optimizers.parse_options(" beta = 1 , l1=2e-3"))
    assert changed.rule_values == (0.002, 0.0, 1.0)
    assert OPTIMIZERS["ftrl"].rule_values == (0.0, 0.0, 0.0)


def test_find_accepts_names_and_optimizers():
    changed = OPTIMIZERS["ftrl"].with_options({"l1": 1.0})
    assert optimizers.find(changed) is changed and optimizers.find("sgd") is OPTIMIZERS["sgd"]
    with pytest.raises(OptimizerError) as caught:
        optimizers.find("lamb")
    assert caught.value.found == "lamb"


def test_states_per_row_must_come_last():
    with pytest.raises(ValueError, match=r"per column .* per row"):
        RowOptimizer("x", "X", (RowState("a", per="row"), RowState("b")))
