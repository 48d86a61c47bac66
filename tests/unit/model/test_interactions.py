"""Every interaction against a float64 reference."""

import math

import numpy as np
import pytest
import tensorflow as tf

from model.dlrm import DenseDLRM, DLRMConfig
from ops import loader
from ops.dot_interaction import output_width
from planner.workload import ModelShape
from tests.support.model.interaction_checks import (
    BOTTOM,
    DENSE,
    DIMENSION,
    TABLES,
    TOP,
    check_logits_and_gradients,
)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["dot", "cat", "none"])
def test_logits_and_gradients_match_the_reference(name, dtype, seed, rng):
    check_logits_and_gradients(name, dtype, seed, rng)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("fused", [False, True], ids=["plain", "fused"])
@pytest.mark.parametrize("sizes", [(3, 5), (1, 100), (2, 0)], ids=str)
def test_logits_and_gradients_of_cross_networks_match_the_reference(sizes, fused, dtype, seed, rng):
    if fused and not loader.is_built("mlp"):
        pytest.skip("the library of the MLP ops is not built: it needs oneDNN")
    layers, rank = sizes
    check_logits_and_gradients(
        "cross", dtype, seed, rng, cross_layers=layers, cross_rank=rank, fused_mlp=fused
    )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("option", ["fused_mlp", "custom_interact"])
def test_logits_and_gradients_of_native_ops_match_the_reference(option, dtype, seed, rng):
    if option == "fused_mlp" and not loader.is_built("mlp"):
        pytest.skip("the library of the MLP ops is not built: it needs oneDNN")
    check_logits_and_gradients("dot", dtype, seed, rng, **{option: True})


@pytest.mark.parametrize(
    "options", [{}, {"xla": True}, {"fused_mlp": True}, {"fused_mlp": True, "for_inference": True}]
)
def test_cross_network_uses_its_op_if_the_mlps_are_fused(options):
    if not loader.is_built("mlp"):
        pytest.skip("the library of the MLP ops is not built: it needs oneDNN")
    fused, inference = "fused_mlp" in options, options.pop("for_inference", False)
    model = DenseDLRM(DLRMConfig(DENSE, TABLES, BOTTOM, TOP, interaction="cross", **options))
    traced = tf.function(lambda *arrays: model(*arrays, for_inference=inference), autograph=False)
    arrays = tf.zeros([3, DENSE]), tf.zeros([3, TABLES, DIMENSION])
    operations = traced.get_concrete_function(*arrays).graph.get_operations()
    found = [o for o in operations if o.type == "Dlrm>CrossForward"]
    assert len(found) == fused
    for operation in found:
        assert operation.get_attr("M") == (0 if inference else 3)


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


@pytest.mark.parametrize("rank", [13, 0])
def test_initial_values_depend_on_the_seed_only(rank, seed):
    """Kernels are Xavier-normal, biases zero."""

    def made(seed):
        config = DLRMConfig(
            DENSE, TABLES, BOTTOM, TOP, interaction="cross", cross_rank=rank, seed=seed
        )
        return [v.numpy() for v in DenseDLRM(config).interaction.variables]

    width = (TABLES + 1) * DIMENSION
    kernels = [(width, rank), (rank, width)] if rank else [(width, width)]
    found = made(seed)
    assert [v.shape for v in found] == [*kernels, (width,)] * 3
    for ours, again, other in zip(found, made(seed), made(seed + 1)):
        np.testing.assert_array_equal(ours, again)
        if ours.ndim == 1:
            assert not ours.any()
            continue
        assert np.mean(ours == other) < 0.01
        # At least 520 values: the standard error is 3.1 %.
        assert np.std(ours) == pytest.approx(math.sqrt(2 / sum(ours.shape)), rel=0.2)


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"interaction": "fm"}, "'fm'.* dot, cat, cross, none"),
        ({"cross_layers": 0}, "cross_layers.* 1, found 0"),
        ({"cross_rank": -1}, "cross_rank.* 0, found -1"),
        ({"interaction": "cross", "custom_interact": True}, "'cross'.* fused"),
        ({"interaction": "cat", "custom_interact": True}, "'cat'.* dot"),
        ({"bottom_mlp": ()}, "bottom MLP"),
        ({"top_mlp": (4, 2)}, r"\[4, 2\]"),
        ({"fused_mlp": True, "xla": True}, "fused_mlp.* xla"),
    ],
)
def test_config_refuses_invalid_options(options, names):
    with pytest.raises(ValueError, match=names):
        DLRMConfig(DENSE, TABLES, **{"bottom_mlp": BOTTOM, "top_mlp": TOP, **options})
