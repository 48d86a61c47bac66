"""DLRM for serving: the complete model in TensorFlow's ops, on one device, in float32.

Shapes: n samples, T tables, W slots of a sample's ids (`ops.bags`; T with one id per table), D
embedding dimension.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import tensorflow as tf

from model.dlrm import DenseDLRM
from ops.bags import EMPTY, Bags


class ServingDLRM(tf.Module):
    """Maps transformed dense features and ids to click probabilities.

    Args:
        dense_model: the dense part, in float32, without native ops and without XLA.
        tables: the embedding tables, one [rows, D] variable each.
        takes_counts: also define `serve_counts`, which takes dense features as counts.
        log_shift: `serve_counts` computes log(counts + log_shift); None: it uses counts unchanged.
        bags: the slots of each table's ids; None: one id per table.

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
        bags: Bags | None = None,
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
        self._bags = bags or Bags.one_hot(len(self.tables))
        self.serve = self._signature(self._serve, "dense")
        if takes_counts:
            self.serve_counts = self._signature(self._serve_counts, "counts")

    def _signature(self, function, name):
        specs = [
            tf.TensorSpec([None, self._dense_features], tf.float32, name),
            tf.TensorSpec([None, self._bags.slots], tf.int64, "categorical"),
        ]
        return tf.function(function, input_signature=specs, autograph=False)

    def _serve_counts(self, counts, categorical):
        """Returns {"probability": [n, 1] float32}.

        Args:
            counts: [n, dense features] float32, not transformed.
            categorical: [n, W] int64 ids; `ops.bags.EMPTY` in empty slots of variable features.

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
            categorical: [n, W] int64 ids; `ops.bags.EMPTY` in empty slots of variable features.

        Raises:
            tf.errors.InvalidArgumentError: an id is outside its table, a dense feature is NaN or
                infinite, or the numbers of samples differ.
        """
        sizes = [int(table.shape[0] or 0) for table in self.tables]
        checks = [
            _check_samples(dense, categorical),
            _check_dense(dense),
            _check_ids(categorical, sizes, self._bags),
        ]
        with tf.control_dependencies(checks):
            dense, categorical = tf.identity(dense), tf.identity(categorical)
        parts = tf.split(categorical, self._bags.hotness, axis=1)
        vectors = [
            _pooled(table, ids, feature)
            for table, ids, feature in zip(self.tables, parts, self._bags.each())
        ]
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


def _check_ids(ids, sizes, bags):
    """Returns an op that fails if an id is outside its table."""
    features = tf.constant(bags.feature_of_slots(), tf.int64)
    bounds = tf.gather(tf.constant(sizes, tf.int64), features)
    bad = tf.logical_or(ids < 0, ids >= bounds)
    if any(bags.variable):
        may_be_empty = tf.gather(tf.constant(bags.variable), features)
        bad = tf.logical_and(bad, tf.logical_not(tf.logical_and(may_be_empty, ids == EMPTY)))

    def fail():
        place = tf.where(bad)[0]
        text = tf.strings.format(
            "table {}, sample {}: id {} is outside [0, {})",
            [features[place[1]], place[0], tf.gather_nd(ids, place), bounds[place[1]]],
        )
        return tf.debugging.Assert(False, [text])

    return tf.cond(tf.reduce_any(bad), fail, tf.no_op)


def _pooled(table, ids, feature):
    """Returns the vectors [n, D] of one feature's checked ids [n, slots]."""
    if feature.hotness == 1 and not feature.variable:
        return tf.gather(table, ids[:, 0])
    filled = ids != EMPTY
    places = tf.where(filled)
    rows = tf.gather_nd(ids, places)
    samples = tf.shape(ids, tf.int64)[0]
    # Adds the rows of a sample without a copy of all of them.
    sums = tf.raw_ops.SparseSegmentSumWithNumSegments(
        data=table, indices=rows, segment_ids=places[:, 0], num_segments=samples
    )
    if feature.pooling == "sum":
        return sums
    counts = tf.reduce_sum(tf.cast(filled, sums.dtype), axis=1, keepdims=True)
    return tf.math.divide_no_nan(sums, counts)
