"""Every interaction, and one defined in a test, against a float64 reference."""

import math

import numpy as np
import pytest
import tensorflow as tf

from model.dlrm import DenseDLRM, DLRMConfig
from model.interactions import INTERACTIONS
from ops import loader
from ops.dot_interaction import output_width
from planner.workload import ModelShape
from tests.support.model.interaction_checks import (
    BOTTOM,
    DENSE,
    DIMENSION,
    TABLES,
    TOP,
    Cross,
    check_logits_and_gradients,
)


@pytest.fixture(autouse=True)
def cross(monkeypatch):
    monkeypatch.setitem(INTERACTIONS, "cross", Cross)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["dot", "cat", "none", "cross"])
def test_logits_and_gradients_match_the_reference(name, dtype, seed, rng):
    check_logits_and_gradients(name, dtype, seed, rng)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("option", ["fused_mlp", "custom_interact"])
def test_logits_and_gradients_of_native_ops_match_the_reference(option, dtype, seed, rng):
    if option == "fused_mlp" and not loader.is_built("mlp"):
        pytest.skip("the library of the MLP ops is not built: it needs oneDNN")
    check_logits_and_gradients("dot", dtype, seed, rng, **{option: True})


@pytest.mark.parametrize("name", ["dot", "cat", "none", "cross"])
def test_variable_shapes_and_width_match_the_model(name, rng):
    tables, dimension = (int(n) for n in rng.integers(1, 12, 2))
    config = DLRMConfig(3, tables, (7, dimension), (6, 1), interaction=name, seed=1)
    model = DenseDLRM(config)
    assert [tuple(v.shape) for v in model.variables] == config.variable_shapes()
    shape = ModelShape((9,) * tables, dimension, 3, (7, dimension), (6, 1), name)
    assert shape.dense_parameters == sum(math.prod(s) for s in config.variable_shapes())
    interaction = config.make_interaction()
    vectors = tf.zeros([2, tables, dimension])
    parameters = {p.name: tf.zeros(p.shape) for p in interaction.parameters}
    made = interaction.compute(tf.zeros([2, dimension]), vectors, parameters)
    assert made.shape == (2, interaction.width)
    if name == "dot":
        assert interaction.width == output_width(tables + 1, dimension)


def test_initial_values_depend_on_the_seed_only(seed):
    def made(seed):
        config = DLRMConfig(DENSE, TABLES, BOTTOM, TOP, interaction="cross", seed=seed)
        return [v.numpy() for v in DenseDLRM(config).interaction.variables]

    kernel, bias = made(seed)
    for ours, again, other in zip((kernel, bias), made(seed), made(seed + 1)):
        np.testing.assert_array_equal(ours, again)
        assert np.mean(ours == other) < 0.01
    deviation = math.sqrt(1 / (TABLES + 1) / DIMENSION)
    # 1600 values: the standard error is 1.8 %.
    assert np.std(kernel) == pytest.approx(deviation, rel=0.1)
    assert np.abs(bias).max() < 0.7  # 7 standard deviations


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"interaction": "fm"}, "'fm'.* dot, cat, none"),
        ({"interaction": "cat", "custom_interact": True}, "'cat'.* dot"),
        ({"bottom_mlp": ()}, "bottom MLP"),
        ({"top_mlp": (4, 2)}, r"\[4, 2\]"),
        ({"fused_mlp": True, "xla": True}, "fused_mlp.* xla"),
    ],
)
def test_config_refuses_invalid_options(options, names):
    with pytest.raises(ValueError, match=names):
        DLRMConfig(DENSE, TABLES, **{"bottom_mlp": BOTTOM, "top_mlp": TOP, **options})
