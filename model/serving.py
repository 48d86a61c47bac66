"""DLRM for serving: the whole model in TensorFlow's own ops, on one device, in float32.

Shapes: n samples, T tables, D embedding dimension.
"""

import tensorflow as tf

from model.dlrm import no_interaction
from model.mlp import RELU_SLOPE
from ops.dot_interaction import dot_interaction_tensorflow


class ServingDLRM(tf.Module):
    """Maps transformed dense features and ids to click probabilities.

    Args:
        bottom, top: [(kernel, bias), ...] of the MLPs, float32 arrays.
        tables: the embedding tables, a [rows, D] variable each.
        interact: as for `model.dlrm.DenseDLRM`.
        takes_counts: there is `serve_counts` too, next to `serve`.
        log_shift: what `serve_counts` adds to counts before it takes the natural logarithm; None:
            it takes them unchanged.

    Raises:
        ValueError: there is no table.
    """

    def __init__(self, bottom, top, tables, *, interact=True, takes_counts=False, log_shift=None):
        super().__init__(name="dlrm")
        if not tables:
            raise ValueError("a model needs at least one table")
        self.bottom = [_layer(*layer) for layer in bottom]
        self.top = [_layer(*layer) for layer in top]
        self.tables = list(tables)
        self._interact = dot_interaction_tensorflow if interact else no_interaction
        self._log_shift = log_shift
        self.serve = self._signature(self._serve, "dense")
        if takes_counts:
            self.serve_counts = self._signature(self._serve_counts, "counts")

    def _signature(self, function, name):
        dense_features = self.bottom[0][0].shape[0]
        specs = [
            tf.TensorSpec([None, dense_features], tf.float32, name),
            tf.TensorSpec([None, len(self.tables)], tf.int64, "categorical"),
        ]
        return tf.function(function, input_signature=specs, autograph=False)

    def _serve_counts(self, counts, categorical):
        """Returns {"probability": [n, 1] float32}.

        Args:
            counts: [n, dense features] float32, not transformed.
            categorical: [n, T] int64 ids.

        Raises:
            tf.errors.InvalidArgumentError: as `_serve`; a count has no finite logarithm.
        """
        dense = counts
        if self._log_shift is not None:
            dense = tf.math.log(counts + self._log_shift)
        with tf.control_dependencies([_check_counts(counts, dense)]):
            return self._serve(tf.identity(dense), categorical)

    def _serve(self, dense, categorical):
        """Returns {"probability": [n, 1] float32}: NaN where a weight makes it not finite.

        Args:
            dense: [n, dense features] float32, transformed as in training.
            categorical: [n, T] int64 ids.

        Raises:
            tf.errors.InvalidArgumentError: an id is outside its table, a dense feature is NaN or
                infinite, or the two n differ.
        """
        sizes = tf.constant([table.shape[0] for table in self.tables], tf.int64)
        checks = [
            _check_samples(dense, categorical),
            _check_dense(dense),
            _check_ids(categorical, sizes),
        ]
        with tf.control_dependencies(checks):
            dense, categorical = tf.identity(dense), tf.identity(categorical)
        vectors = [tf.gather(table, categorical[:, t]) for t, table in enumerate(self.tables)]
        bottom = _mlp(dense, self.bottom)
        features = self._interact(_relu(bottom), tf.stack(vectors, axis=1))
        logits = _mlp(features, self.top)
        # The sigmoid of an infinity would be 0 or 1.
        logits = tf.where(tf.math.is_finite(logits), logits, float("nan"))
        return {"probability": tf.sigmoid(logits)}


def _layer(kernel, bias):
    return tf.Variable(kernel, trainable=False), tf.Variable(bias, trainable=False)


def _mlp(x, layers):
    """Applies the layers with ReLU between them."""
    for index, (kernel, bias) in enumerate(layers):
        x = tf.matmul(x if index == 0 else _relu(x), kernel) + bias
    return x


def _relu(x):
    """`model.mlp.relu` without its gradient, which a SavedModel would hold too."""
    return tf.nn.leaky_relu(x, alpha=RELU_SLOPE)


def _check_samples(dense, categorical):
    found, expected = tf.shape(categorical)[0], tf.shape(dense)[0]
    text = "dense has {} samples, categorical {}"
    return tf.debugging.Assert(
        tf.equal(found, expected), [tf.strings.format(text, [expected, found])]
    )


def _check_dense(dense):
    """Returns an op that fails at a value that is not finite: nothing can be predicted from it."""
    bad = tf.logical_not(tf.math.is_finite(dense))

    def fail():
        place = tf.where(bad)[0]
        text = tf.strings.format(
            "dense feature {}, sample {}: {} is not finite",
            [place[1], place[0], tf.gather_nd(dense, place)],
        )
        return tf.debugging.Assert(False, [text])

    return tf.cond(tf.reduce_any(bad), fail, tf.no_op)


def _check_counts(counts, dense):
    """Returns an op that fails at a count that becomes no finite number."""
    bad = tf.logical_not(tf.math.is_finite(dense))

    def fail():
        place = tf.where(bad)[0]
        text = tf.strings.format(
            "dense feature {}, sample {}: count {} becomes {} by the model's transform",
            [place[1], place[0], tf.gather_nd(counts, place), tf.gather_nd(dense, place)],
        )
        return tf.debugging.Assert(False, [text])

    return tf.cond(tf.reduce_any(bad), fail, tf.no_op)


def _check_ids(ids, sizes):
    """Returns an op that fails at an id outside its table: elsewhere it would be a wrong row."""
    bad = tf.logical_or(ids < 0, ids >= sizes)

    def fail():
        place = tf.where(bad)[0]
        text = tf.strings.format(
            "table {}, sample {}: id {} is outside [0, {})",
            [place[1], place[0], tf.gather_nd(ids, place), sizes[place[1]]],
        )
        return tf.debugging.Assert(False, [text])

    return tf.cond(tf.reduce_any(bad), fail, tf.no_op)
