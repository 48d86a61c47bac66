"""One training step, and one forward pass, as TensorFlow functions.

The step: lookup and exchange of vectors, dense forward, loss, gradients of the dense variables
(averaged over ranks) and of the vectors (exchanged back), updates. Everything is one
`tf.function` with static shapes, traced once.
"""

import tensorflow as tf

from ops.nvtx import phases, ranges


class TrainStep:
    """Trains on one batch.

    Args:
        dense_model: a `model.dlrm.DenseDLRM`.
        embedding: what `model.embedding.backend.build` returned.
        optimizer: a Keras optimizer for the dense variables.
        cluster: the ranks (`training.runtime.process_group`).
        scale: a `training.precision.LossScale`.
        update_embedding: False freezes the tables at their initial values.
        embedding_rate: the tables' learning rate in units of the dense part's.
        overlap: bring the next batch's ids to where their rows are while this batch computes.
            Ids do not depend on the weights, so the result is the same bytes.
    """

    def __init__(
        self,
        dense_model,
        embedding,
        optimizer,
        cluster,
        scale,
        *,
        update_embedding=True,
        embedding_rate=1.0,
        overlap=True,
    ):
        self._model = dense_model
        self._embedding = embedding
        self._optimizer = optimizer
        self._cluster = cluster
        self._scale = scale
        self._update_embedding = update_embedding
        self._embedding_rate = embedding_rate
        self._overlap = overlap and embedding.routes_ahead
        self._routed_batch, self._routed = None, None
        # The sum of the losses since the last report, so that no step waits for its own loss.
        self._loss_sum = tf.Variable(0.0, dtype=tf.float64, trainable=False, name="loss_sum")
        self._last_loss = tf.Variable(0.0, trainable=False, name="last_loss")
        self._loss_steps = tf.Variable(0, dtype=tf.int64, trainable=False, name="loss_steps")
        optimizer.build(dense_model.trainable_variables)
        # Nothing here is Python that AutoGraph must rewrite; its rewriting would take most of the
        # time to the first step.
        self._route = tf.function(embedding.route, autograph=False)
        self._function = None

    def route(self, batch):
        """Brings a batch's ids to where their rows are, unless that is done already.

        Returns:
            What the embedding's `lookup` and `update` take; the ids, where it does not route ahead.
        """
        if not self._embedding.routes_ahead:
            return batch["categorical"]  # routed within the step
        if self._routed_batch is not batch:
            self._routed = self._route(batch["categorical"])
            self._routed_batch = batch
        return self._routed

    def __call__(self, batch, learning_rate, following=None, votes=(0.0, 0.0)):
        """Runs one step.

        Args:
            batch: {"dense": [b, dense_features], "categorical": [b, T] or [B, T_r],
                "label": [b, 1]}.
            learning_rate: a float.
            following: the batch of the next call, if there is one.
            votes: what this rank asks of all: see `training.runtime.control_votes`.

        Returns:
            (scalar, [2]) float32 tensors: the mean loss over the global batch, before the update;
            the mean of all ranks' votes.
        """
        route = self.route(batch)
        if self._function is None:
            self._function = self._traced(batch)
        # A last batch routes itself once more, for nothing: every step is the same graph.
        following = batch if following is None else following
        loss, heard, routed = self._function(
            batch["dense"], route, batch["label"], tf.constant(learning_rate, tf.float32),
            tf.constant(votes, tf.float32), following["categorical"],
        )  # fmt: skip
        if self._overlap:
            self._routed_batch, self._routed = following, routed
        return loss, heard

    def last_loss(self):
        """Returns the last step's mean loss over the global batch, waiting for it.

        Unless steps that are not finite are left out, the first loss that is not finite stays.
        """
        return float(self._last_loss.numpy())

    def mean_loss(self):
        """Returns the mean loss of the steps since the last call, waiting for them."""
        steps = int(self._loss_steps.numpy())
        mean = float(self._loss_sum.numpy()) / steps if steps else float("nan")
        self._loss_sum.assign(0.0)
        self._loss_steps.assign(0)
        return mean

    def wait(self):
        """Waits until the last step is done."""
        self._last_loss.numpy()

    def pause(self, seconds):
        """Hears of time since the last step that was not spent on steps."""

    def finite(self):
        """Tells whether the dense weights are finite, waiting for the last step.

        All ranks have the same, so that all say the same.
        """
        variables = self._model.trainable_variables
        return all(bool(tf.reduce_all(tf.math.is_finite(variable))) for variable in variables)

    def traces(self):
        """Returns how often the step has been traced: 1 after the first."""
        return self._function.experimental_get_tracing_count()

    def _traced(self, batch):
        """Returns the function of `_step`, for routes of any number of rows."""

        def spec(tensor):
            return tf.TensorSpec(tensor.shape, tensor.dtype)

        categorical = spec(batch["categorical"])
        route = categorical
        if self._embedding.routes_ahead:
            outputs = self._route.get_concrete_function(categorical).structured_outputs
            route = tf.nest.map_structure(spec, outputs)
        signature = (
            spec(batch["dense"]),
            route,
            spec(batch["label"]),
            tf.TensorSpec([], tf.float32),
            tf.TensorSpec([2], tf.float32),
            categorical,
        )
        return tf.function(self._step, input_signature=signature, autograph=False)

    def _step(self, dense, route, label, learning_rate, votes, following):
        # Nothing below waits for this, nor it for anything below: TensorFlow runs both at once.
        next_route = self._embedding.route(following) if self._overlap else ()
        loss, heard = self._train(dense, route, label, learning_rate, votes)
        return loss, heard, next_route

    def _train(self, dense, route, label, learning_rate, votes):
        if not self._embedding.routes_ahead:
            route = self._embedding.route(route)
        vectors = self._embedding.lookup(route)
        # The ranges change nothing about what may run beside what: the bottom MLP does not wait for
        # the vectors, nor do the vectors' gradients, on their way back, for the dense ones.
        mark, vectors = ranges.start(phases.DENSE, vectors)
        loss, gradients, vector_gradients = self._differentiate(dense, vectors, label)
        loss, gradients, _ = ranges.end(mark, (loss, gradients, vector_gradients))
        mark, (loss, gradients) = ranges.start(phases.AVERAGE, (loss, gradients))
        loss, heard, gradients, finite = self._average(loss, gradients, vector_gradients, votes)
        loss, gradients = ranges.end(mark, (loss, gradients))
        mark, (loss, gradients) = ranges.start(phases.UPDATE_DENSE, (loss, gradients))
        scale = self._update_dense(loss, gradients, learning_rate, finite)
        ranges.end_effects(mark)
        if self._update_embedding:
            vector_gradients = finite_or_zero(vector_gradients, finite)
            self._embedding.update(
                route, vector_gradients, self._embedding_rate * learning_rate, 1.0 / scale
            )
        return ranges.settle(loss), heard

    def _differentiate(self, dense, vectors, label):
        """Returns (this rank's loss, dense gradients, gradients of vectors), the latter scaled."""
        variables = self._model.trainable_variables
        with tf.GradientTape() as tape:
            tape.watch(vectors)
            logits = self._model(dense, vectors)
            losses = tf.nn.sigmoid_cross_entropy_with_logits(labels=label, logits=logits)
            loss = tf.reduce_mean(losses)
            scaled = self._scale.tensor() * loss
        *gradients, vector_gradients = tape.gradient(
            scaled, [*variables, vectors], unconnected_gradients=tf.UnconnectedGradients.ZERO
        )
        return loss, gradients, vector_gradients

    def _average(self, loss, gradients, vector_gradients, votes):
        """Returns (loss, votes, unscaled dense gradients) of all ranks, and whether finite.

        The last is None where no step is left out.
        """
        # Loss and votes travel with the gradients: averaged over ranks at no cost of their own.
        travelling = [*gradients, loss, votes]
        if self._scale.skips:
            bad = tf.logical_not(tf.reduce_all(tf.math.is_finite(vector_gradients)))
            travelling.append(tf.cast(bad, tf.float32))
        travelled = self._cluster.all_reduce_mean(travelling, "dense_gradients")
        scale = self._scale.tensor()
        gradients = [gradient / scale for gradient in travelled[: len(gradients)]]
        loss, heard = travelled[len(gradients) : len(gradients) + 2]
        if not self._scale.skips:
            return loss, heard, gradients, None
        numbers = [travelled[-1] == 0, tf.math.is_finite(loss)]
        numbers += [tf.reduce_all(tf.math.is_finite(gradient)) for gradient in gradients]
        return loss, heard, gradients, tf.reduce_all(tf.stack(numbers))

    def _update_dense(self, loss, gradients, learning_rate, finite):
        """Applies the dense gradients and records the loss; returns the step's loss scale."""
        scale = self._scale.tensor()
        self._optimizer.learning_rate.assign(learning_rate)
        self._apply(gradients, self._model.trainable_variables, finite)
        self._record(loss, finite)
        return scale

    def _apply(self, gradients, variables, finite):
        if finite is None:
            self._optimizer.apply_gradients(zip(gradients, variables))
            return

        def apply():
            self._optimizer.apply_gradients(zip(gradients, variables))
            return True

        # Left out whole: a gradient of zeros would still move Adam's averages.
        tf.cond(finite, apply, lambda: False)
        self._scale.after_step(finite)

    def _record(self, loss, finite):
        one = tf.constant(1, tf.int64)
        if finite is None:
            # What is not finite has spoilt the weights: it stays until somebody looks.
            last = self._last_loss.read_value()
            self._last_loss.assign(tf.where(tf.math.is_finite(last), loss, last))
        else:
            self._last_loss.assign(loss)
            loss, one = tf.where(finite, loss, 0.0), tf.cast(finite, tf.int64)
        self._loss_sum.assign_add(tf.cast(loss, tf.float64))
        self._loss_steps.assign_add(one)


def finite_or_zero(gradients, finite):
    """Returns zeros in place of a step's gradients that are not finite; as they are if None."""
    return gradients if finite is None else tf.where(finite, gradients, tf.zeros_like(gradients))


class Forward:
    """Computes logits of one batch without training: the arguments are those of `TrainStep`."""

    def __init__(self, dense_model, embedding):
        self._model = dense_model
        self._embedding = embedding
        self._function = tf.function(self._forward, autograph=False)

    def __call__(self, batch):
        """Returns [b, 1] float32 logits of this rank's samples."""
        return self._function(batch["dense"], batch["categorical"])

    def _forward(self, dense, categorical):
        vectors = self._embedding.lookup(self._embedding.route(categorical))
        mark, vectors = ranges.start(phases.DENSE_FORWARD, vectors)
        return ranges.end(mark, self._model(dense, vectors, for_inference=True))
