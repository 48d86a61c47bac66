"""The registry of row optimizers, and what reads it."""

import subprocess
import sys

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
def test_states_and_their_bytes(name, states, state_bytes):
    optimizer = OPTIMIZERS[name]
    assert {state.name: state.shape(7, 16) for state in optimizer.states} == states
    assert optimizer.bytes_per_row(16) == state_bytes
    placement = Placement((7,), 16, 1, (Assignment("table", (0,)),), state_bytes)
    assert placement.bytes_of(0) == 7 * (64 + state_bytes)
    fused = FusedTables(placement, placement.shards_of(0), [0], 7, 16, seed=1, optimizer=name)
    assert list(fused.states) == ["table", *states]
    held = sum(np.prod(v.shape) * v.dtype.size for v in fused.states.values())
    assert held == placement.bytes_of(0)
    for state, shape in states.items():
        assert fused.states[state].shape == shape
        np.testing.assert_array_equal(fused.read(0, 0, 7, state), 0)


@pytest.mark.parametrize("native", [True, False], ids=["native", "tensorflow"])
def test_options_reach_the_rows(native):
    """One update of one row: the initial accumulator, l1 and beta all show in it."""
    placement = Placement((3,), 4, 1, (Assignment("table", (0,)),))
    options = {"l1": 0.125, "beta": 0.5, "initial_accumulator": 4.0}
    fused = FusedTables(
        placement, placement.shards_of(0), [0], 3, 4, seed=1, native=native,
        optimizer=OPTIMIZERS["ftrl"].with_options(options),
    )  # fmt: skip
    np.testing.assert_array_equal(fused.read(0, 0, 3, "accumulator"), 4.0)
    row = fused.read(0, 1, 1)[0].astype("f8")
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


def test_column_halves_go_with_states_per_column_alone():
    placement = Placement((9,), 8, 2, (Assignment("column", (0, 1)),))
    for name, optimizer in OPTIMIZERS.items():
        if optimizer.per_row_states:
            with pytest.raises(PlacementError, match=r"row-wise Adagrad keeps one number .* ftrl"):
                check_optimizer(placement, name)
        else:
            check_optimizer(placement, name)
    assert optimizers.divisible_optimizers() == ["sgd", "adagrad", "ftrl"]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("ftrl", "l3=1", "ftrl has no option 'l3': expected l1, l2, beta, initial_accumulator"),
        ("sgd", "l1=1", "sgd has no option 'l1': expected none"),
        ("ftrl", "l1=-0.1", "ftrl option l1 is -0.1, expected a float32 number of at least 0"),
        ("ftrl", "beta=nan", "beta is nan"),
        ("ftrl", "beta=1e39", r"beta is 1e\+39"),
        ("adagrad", "epsilon=0", "adagrad option epsilon is 0.0, expected .* above 0"),
        ("adagrad", "epsilon=1e-60", "epsilon is 1e-60"),
        ("ftrl", "l1=a", "expected name=number, comma-separated, found 'l1=a'"),
        ("ftrl", "l1=1,", "found ''"),
        ("ftrl", "", "found ''"),
        ("ftrl", "l1", "found 'l1'"),
        ("ftrl", "l1=1,l1=2", "l1 is given twice"),
    ],
)
def test_wrong_options_are_named(name, text, message):
    with pytest.raises(OptimizerError, match=message):
        OPTIMIZERS[name].with_options(optimizers.parse_options(text))


def test_options_leave_the_registry_alone():
    changed = OPTIMIZERS["ftrl"].with_options(optimizers.parse_options(" beta = 1 , l1=2e-3"))
    assert changed.rule_values == (0.002, 0.0, 1.0)
    assert OPTIMIZERS["ftrl"].rule_values == (0.0, 0.0, 0.0)
    assert optimizers.find(changed) is changed and optimizers.find("sgd") is OPTIMIZERS["sgd"]
    with pytest.raises(OptimizerError, match=r"optimizer 'adam': expected one of sgd, .*ftrl"):
        optimizers.find("adam")


def test_states_per_row_come_last():
    with pytest.raises(ValueError, match="states per column must come before states per row"):
        RowOptimizer("x", "X", (RowState("a", per="row"), RowState("b")))


def test_the_registry_imports_no_tensorflow():
    code = "import sys, model.embedding.optimizers; assert 'tensorflow' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
