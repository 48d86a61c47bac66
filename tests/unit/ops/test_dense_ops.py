"""The Python faces of the ops that end a training step on a GPU, and what graphs show of them."""

import pytest
import tensorflow as tf

from ops import loader
from ops.dense_update import dense_update, record_loss
from ops.log_loss import all_finite, log_loss
from tests.support.placement.gpu_kernels import GpuKernels

pytestmark = pytest.mark.skipif(not loader.is_built(), reason="the op library is not built")

B, N = 6, 8
DEFAULTS = {"adagrad": (1e-8,), "adam": (0.9, 0.999, 1e-7)}


def variable(shape, dtype=tf.float32):
    return tf.Variable(tf.zeros(shape, dtype))


def update(optimizer="sgd", variables=None, iteration=None, **changes):
    """Calls `dense_update` with arguments that fit SGD, except the given ones."""
    arguments = {
        "variables": [variable([2, 3])] if variables is None else variables, "states": [],
        "iteration": variable([], tf.int64) if iteration is None else iteration,
        "gradients": [tf.ones([6])], "learning_rate": 0.1, "loss_scale": 1.0, "finite": None,
        "optimizer": optimizer, "hyperparameters": DEFAULTS.get(optimizer, ()),
    }  # fmt: skip
    return dense_update(**{**arguments, **changes})


def loss_of(hidden, **changes):
    arguments = {
        "kernel": tf.ones([N, 1]), "bias": tf.ones([1]), "label": tf.ones([B, 1]), "scale": 2.0,
        "relu": True,
    }  # fmt: skip
    return log_loss(hidden, **{**arguments, **changes})


def in_graph(function):
    """Returns (the result of `function` in a graph, the types of the graph's ops)."""
    with tf.Graph().as_default() as graph:
        result = function()
        return result, [operation.type for operation in graph.get_operations()]


@pytest.mark.parametrize("dtype", [tf.float32, tf.float16, tf.bfloat16])
def test_log_loss_has_static_shapes_and_types(dtype):
    result, _ = in_graph(lambda: loss_of(tf.ones([B, N], dtype)))
    assert [tensor.shape.as_list() for tensor in result] == [[], [B, N], [N, 1], [1]]
    assert [tensor.dtype for tensor in result] == [tf.float32, dtype, tf.float32, tf.float32]


@pytest.mark.parametrize(
    "changes",
    [{"kernel": tf.ones([N + 1, 1])}, {"bias": tf.ones([2])}, {"label": tf.ones([B + 1, 1])},
     {"label": tf.ones([B])}, {"scale": tf.ones([1])}],
)  # fmt: skip
def test_log_loss_refuses_other_shapes(changes):
    changes = {name: tensor.numpy() for name, tensor in changes.items()}
    with pytest.raises(ValueError, match=r"[Ss]hape|Dimension|Dim "):
        in_graph(lambda: loss_of(tf.ones([B, N]), **changes))


def test_types_are_checked():
    with pytest.raises(TypeError, match=r"hidden: expected one of float32.*found float64"):
        loss_of(tf.ones([B, N], tf.float64))
    with pytest.raises(TypeError, match=r"tensor 1: expected float16 like tensor 0, found float32"):
        all_finite([tf.ones([2], tf.float16), tf.ones([2])])
    with pytest.raises(TypeError, match=r"tensor 0: expected one of float32.*found int32"):
        all_finite([tf.ones([2], tf.int32)])
    with pytest.raises(TypeError, match=r"variable: expected a tf.Variable of float32, found"):
        update(variables=[tf.ones([6])])
    with pytest.raises(TypeError, match=r"state: expected a tf.Variable of float32, found"):
        update("adagrad", states=[variable([6], tf.float64)])
    with pytest.raises(TypeError, match=r"iteration: expected a tf.Variable of int64, found"):
        update(iteration=variable([]))
    with pytest.raises(TypeError, match=r"total: expected a tf.Variable of float64, found"):
        record_loss(*(variable([], kind) for kind in (tf.float32, tf.float32, tf.int64)),
                    1.0, None, True, False)  # fmt: skip


def test_numbers_are_checked():
    with pytest.raises(ValueError, match=r"expected 1 to 64 tensors, found 0"):
        all_finite([])
    with pytest.raises(ValueError, match=r"expected 1 to 64 tensors, found 65"):
        all_finite([tf.ones([])] * 65)
    with pytest.raises(ValueError, match=r"expected one of sgd, adagrad, adam; found 'lamb'"):
        update("lamb")
    with pytest.raises(ValueError, match=r"expected 1 to 64 variables, found 0"):
        update(variables=[])
    with pytest.raises(ValueError, match=r"expected 1 to 64 gradients, found 65"):
        update(gradients=[tf.ones([])] * 65)
    with pytest.raises(ValueError, match=r"adam of 1 variables: expected 2 states, found 1"):
        update("adam", states=[variable([6])])
    with pytest.raises(ValueError, match=r"adam: expected 3 hyper-parameters \(beta1, beta2, eps"):
        update("adam", states=[variable([6])] * 2, hyperparameters=(0.9, 0.999))
    with pytest.raises(ValueError, match=r"sgd: expected 0 hyper-parameters \(none\), found 1"):
        update(hyperparameters=(1e-8,))


def test_ops_exist_on_gpus_only():
    if tf.config.list_physical_devices("GPU"):
        pytest.skip("there is a GPU: the ops run")
    record = [variable([], kind) for kind in (tf.float64, tf.float32, tf.int64)]
    for call in (lambda: loss_of(tf.ones([B, N])), lambda: all_finite([tf.ones([2])])):
        with pytest.raises(tf.errors.NotFoundError, match=r"Could not find device for node"):
            call()
    for call in (update, lambda: record_loss(*record, 1.0, None, True, False)):
        with pytest.raises(tf.errors.InvalidArgumentError, match=r"No OpKernel was registered"):
            call()


def test_a_function_runs_the_ops_although_nothing_uses_their_results():
    record = [variable([], kind) for kind in (tf.float64, tf.float32, tf.int64)]
    weights, iteration = variable([6]), variable([], tf.int64)

    @tf.function
    def step():
        sound = update(variables=[weights], iteration=iteration)
        record_loss(*record, 1.0, None, sound, False)
        update(variables=[weights], iteration=iteration)

    graph = step.get_concrete_function().graph
    ops = {operation.name: operation for operation in graph.get_operations()}
    updates = [op for op in ops.values() if op.type == "Dlrm>DenseUpdate"]
    (recorded,) = [op for op in ops.values() if op.type == "Dlrm>RecordLoss"]
    assert len(updates) == 2 and updates[0] in updates[1].control_inputs
    assert set(graph.control_outputs) >= {*updates, recorded}


@pytest.mark.parametrize(
    ("name", "host"),
    [
        ("LogLoss", []),
        ("AllFinite", []),
        ("DenseUpdate", ["variables", "states", "iteration"]),
        ("RecordLoss", ["sum", "last", "steps"]),
    ],
)
def test_gpu_kernels_take_only_handles_in_host_memory(name, host):
    assert GpuKernels().host_arguments(f"Dlrm>{name}", {"T": "float32"}) == host
