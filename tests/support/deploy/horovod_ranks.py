"""One rank of tests/ranks/deploy/test_horovod.py: horovod_ranks.py collectives SEED, or
horovod_ranks.py static|elastic FOLDER."""

import os
import pathlib
import sys
import time

import horovod.tensorflow as hvd
import numpy as np
import tensorflow as tf


def values(rank, shape, dtype=np.float32):
    """Returns a rank's contribution, which every rank can compute."""
    rng = np.random.default_rng([int(sys.argv[2]), rank])
    return rng.integers(-99, 99, shape).astype(dtype)


def broadcasts(rank, size):
    for root in range(size):
        for dtype in (np.float32, np.float16, np.int64, np.uint8):
            local = tf.constant(values(rank, (5, 3), dtype))
            got = hvd.broadcast(local, root_rank=root, name=f"broadcast.{root}.{np.dtype(dtype)}")
            yield got, values(root, (5, 3), dtype)


def check(compiled, rank, size):
    """Compares the results of broadcasts with the expected values."""
    expected = []

    def run():
        got = []
        for tensor, value in broadcasts(rank, size):
            got.append(tensor)
            expected.append(value)
        return got

    got = (tf.function(run, autograph=False) if compiled else run)()
    assert len(got) == len(expected) > 0
    for tensor, value in zip(got, expected):
        np.testing.assert_array_equal(tensor.numpy(), value)


def collectives(rank, size):
    for compiled in (False, True):
        check(compiled, rank, size)
    # Variables that differ between ranks.
    variables = [tf.Variable(values(rank, (4, 2))), tf.Variable(values(rank, (3,)))]
    hvd.broadcast_variables(variables, root_rank=size - 1)
    for variable, shape in zip(variables, [(4, 2), (3,)]):
        np.testing.assert_array_equal(variable.numpy(), values(size - 1, shape))
    keras_model(rank, size)
    print(f"rank {rank} of {size}: collectives agree with NumPy", flush=True)


def keras_model(rank, size):
    """Broadcasts the variables and averages the gradients of a Keras 2 or 3 model."""
    model = tf.keras.Sequential([tf.keras.layers.Dense(3, use_bias=False)])
    model.build((None, 2))
    (kernel,) = model.trainable_variables
    kernel.assign(tf.fill([2, 3], float(rank)))
    hvd.broadcast_variables(model.variables, root_rank=size - 1)
    np.testing.assert_array_equal(kernel.numpy(), np.full((2, 3), size - 1))
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(model(tf.fill([4, 2], rank + 1.0)))
    (gradient,) = hvd.DistributedGradientTape(tape).gradient(loss, model.trainable_variables)
    np.testing.assert_allclose(gradient.numpy(), np.full((2, 3), 4 * (size + 1) / 2), rtol=1e-6)
    keras_3 = hasattr(tf.keras, "ops")
    try:
        hvd.SyncBatchNormalization()
        import horovod.tensorflow.keras  # noqa: F401
    except ImportError as error:
        assert keras_3 and "needs Keras 2, found Keras 3" in str(error)
    else:
        assert not keras_3


def die(rank, folder):
    """The last rank dies after three steps; the others record the error that they get."""
    (folder / f"pid.{rank}.{os.getpid()}").touch()
    for step in range(10_000):
        if step == 3 and rank == hvd.size() - 1:
            (folder / "died").write_text(str(time.time()))
            os.kill(os.getpid(), 9)
        try:
            hvd.allreduce(tf.ones([4]), name="step", op=hvd.Sum)
        except tf.errors.OpError as error:
            (folder / f"error.{rank}").write_text(type(error).__name__)
            raise
        time.sleep(0.02)


if __name__ == "__main__":
    hvd.init()
    if sys.argv[1] == "collectives":
        collectives(hvd.rank(), hvd.size())
    elif sys.argv[1] == "static":
        die(hvd.rank(), pathlib.Path(sys.argv[2]))
    else:
        # Survivors would continue here with fewer ranks if --min-np allowed it.
        state = hvd.elastic.TensorFlowState(variables=[tf.Variable(0.0)])
        hvd.elastic.run(lambda state: die(hvd.rank(), pathlib.Path(sys.argv[2])))(state)
