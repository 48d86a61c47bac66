"""DLRM for serving: the complete model in TensorFlow's ops, on one device, in float32.

Shapes: n samples, T tables, D embedding dimension.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import tensorflow as tf

from model.dlrm import DenseDLRM


class ServingDLRM(tf.Module):
    """Maps transformed dense features and ids to click probabilities.

    Args:
        dense_model: the dense part, in float32, without native ops and without XLA.
        tables: the embedding tables, one [rows, D] variable each.
        takes_counts: also define `serve_counts`, which takes dense features as counts.
        log_shift: `serve_counts` computes log(counts + log_shift); None: it uses counts unchanged.

    Attributes:
        dense_variables: variables of the dense part, in its order.
        tables: the argument `tables`.

    Raises:
        ValueError: the number of tables differs from the dense part's.
    """

    def __init__(
        self,
        dense_model: DenseDLRM,
        tables: Sequence[tf.Variable],
        *,
        takes_counts: bool = False,
        log_shift: float | None = None,
    ) -> None:
        super().__init__(name="dlrm")
        if len(tables) != dense_model.tables:
            raise ValueError(f"expected {dense_model.tables} tables, found {len(tables)}")
        # Only the dense part's variables become attributes, so that the order of a SavedModel's
        # variables does not depend on the dense part's modules.
        self.dense_variables = list(dense_model.variables)
        self.tables = list(tables)
        self._logits = functools.partial(dense_model, for_inference=True)
        self._dense_features = dense_model.dense_features
        self._log_shift = log_shift
        self.serve = self._signature(self._serve, "dense")
        if takes_counts:
            self.serve_counts = self._signature(self._serve_counts, "counts")

    def _signature(self, function, name):
        specs = [
            tf.TensorSpec([None, self._dense_features], tf.float32, name),
            tf.TensorSpec([None, len(self.tables)], tf.int64, "categorical"),
        ]
        return tf.function(function, input_signature=specs, autograph=False)

    def _serve_counts(self, counts, categorical):
        """Returns {"probability": [n, 1] float32}.

        Args:
            counts: [n, dense features] float32, not transformed.
            categorical: [n, T] int64 ids.

        Raises:
            tf.errors.InvalidArgumentError: as for `_serve`, or a count has no finite logarithm.
        """
        dense = counts
        if self._log_shift is not None:
            dense = tf.math.log(counts + self._log_shift)
        with tf.control_dependencies([_check_counts(counts, dense)]):
            return self._serve(tf.identity(dense), categorical)

    def _serve(self, dense, categorical):
        """Returns {"probability": [n, 1] float32}; NaN if the logit is not finite.

        Args:
            dense: [n, dense features] float32, transformed as in training.
            categorical: [n, T] int64 ids.

        Raises:
            tf.errors.InvalidArgumentError: an id is outside its table, a dense feature is NaN or
                infinite, or the numbers of samples differ.
        """
        sizes = tf.constant([int(table.shape[0] or 0) for table in self.tables], tf.int64)
        checks = [
            _check_samples(dense, categorical),
            _check_dense(dense),
            _check_ids(categorical, sizes),
        ]
        with tf.control_dependencies(checks):
            dense, categorical = tf.identity(dense), tf.identity(categorical)
        vectors = [tf.gather(table, categorical[:, t]) for t, table in enumerate(self.tables)]
        logits = self._logits(dense, tf.stack(vectors, axis=1))
        # The sigmoid of infinity would be a valid probability.
        logits = tf.where(tf.math.is_finite(logits), logits, float("nan"))
        return {"probability": tf.sigmoid(logits)}


def _check_samples(dense, categorical):
    found, expected = tf.shape(categorical)[0], tf.shape(dense)[0]
    text = "categorical: expected the {} samples of dense, found {}"
    return tf.debugging.Assert(
        tf.equal(found, expected), [tf.strings.format(text, [expected, found])]
    )


def _check_dense(dense):
    """Returns an op that fails if a value is not finite."""
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
    """Returns an op that fails if the transform of a count is not finite."""
    bad = tf.logical_not(tf.math.is_finite(dense))

    def fail():
        place = tf.where(bad)[0]
        text = tf.strings.format(
            "dense feature {}, sample {}: count {} has the transform {}, which is not finite",
            [place[1], place[0], tf.gather_nd(counts, place), tf.gather_nd(dense, place)],
        )
        return tf.debugging.Assert(False, [text])

    return tf.cond(tf.reduce_any(bad), fail, tf.no_op)


def _check_ids(ids, sizes):
    """Returns an op that fails if an id is outside its table."""
    bad = tf.logical_or(ids < 0, ids >= sizes)

    def fail():
        place = tf.where(bad)[0]
        text = tf.strings.format(
            "table {}, sample {}: id {} is outside [0, {})",
            [place[1], place[0], tf.gather_nd(ids, place), sizes[place[1]]],
        )
        return tf.debugging.Assert(False, [text])

    return tf.cond(tf.reduce_any(bad), fail, tf.no_op)
