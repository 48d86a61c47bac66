"""One training step, and one forward pass, as TensorFlow functions.

The step: lookup and exchange of vectors, dense forward, loss, gradients of the dense variables
(averaged over ranks) and of the vectors (exchanged back), updates. Everything is one
`tf.function` with static shapes, traced once.
"""

import tensorflow as tf


class TrainStep:
    """Trains on one batch.

    Args:
        dense_model: a `model.dlrm.DenseDLRM`.
        embedding: a `model.embedding.own.OwnEmbedding`.
        optimizer: a Keras optimizer for the dense variables.
        cluster: the ranks (`training.cluster`).
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
        *,
        update_embedding=True,
        embedding_rate=1.0,
        overlap=True,
    ):
        self._model = dense_model
        self._embedding = embedding
        self._optimizer = optimizer
        self._cluster = cluster
        self._update_embedding = update_embedding
        self._embedding_rate = embedding_rate
        self._overlap = overlap and embedding.routes_ahead
        self._routed_batch, self._routed = None, None
        # The sum of the losses since the last report, so that no step waits for its own loss.
        self._loss_sum = tf.Variable(0.0, dtype=tf.float64, trainable=False, name="loss_sum")
        self._last_loss = tf.Variable(0.0, trainable=False, name="last_loss")
        self._loss_steps = tf.Variable(0, dtype=tf.int64, trainable=False, name="loss_steps")
        optimizer.build(dense_model.trainable_variables)
        self._route = tf.function(embedding.route)
        self._function = None if self._overlap else tf.function(self._step)

    def __call__(self, batch, learning_rate, following=None):
        """Runs one step.

        Args:
            batch: {"dense": [b, dense_features], "categorical": [b, T] or [B, T_r],
                "label": [b, 1]}.
            learning_rate: a float.
            following: the batch of the next call, if there is one.

        Returns:
            A scalar tensor: the mean loss over the global batch, before the update.
        """
        rate = tf.constant(learning_rate, tf.float32)
        if not self._overlap:
            return self._function(batch["dense"], batch["categorical"], batch["label"], rate)
        if self._function is None:
            self._function = self._overlapped_function(batch)
        if self._routed_batch is not batch:
            self._routed = self._route(batch["categorical"])
        # A last batch routes itself once more, for nothing: every step is the same graph.
        following = batch if following is None else following
        loss, self._routed = self._function(
            batch["dense"], self._routed, batch["label"], rate, following["categorical"]
        )
        self._routed_batch = following
        return loss

    def last_loss(self):
        """Returns the last step's mean loss over the global batch, waiting for it."""
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

    def traces(self):
        """Returns how often the step has been traced: 1 after the first."""
        return self._function.experimental_get_tracing_count()

    def _overlapped_function(self, batch):
        """Returns the function of `_overlapped`, traced for routes of any number of rows."""

        def spec(tensor):
            return tf.TensorSpec(tensor.shape, tensor.dtype)

        categorical = spec(batch["categorical"])
        route = self._route.get_concrete_function(categorical).structured_outputs
        signature = (
            spec(batch["dense"]),
            tf.nest.map_structure(spec, route),
            spec(batch["label"]),
            tf.TensorSpec([], tf.float32),
            categorical,
        )
        return tf.function(self._overlapped, input_signature=signature)

    def _overlapped(self, dense, route, label, learning_rate, following):
        # Nothing below waits for this, nor it for anything below: TensorFlow runs both at once.
        next_route = self._embedding.route(following)
        return self._train(dense, route, label, learning_rate), next_route

    def _step(self, dense, categorical, label, learning_rate):
        return self._train(dense, self._embedding.route(categorical), label, learning_rate)

    def _train(self, dense, route, label, learning_rate):
        vectors = self._embedding.lookup(route)
        variables = self._model.trainable_variables
        with tf.GradientTape() as tape:
            tape.watch(vectors)
            logits = self._model(dense, vectors)
            losses = tf.nn.sigmoid_cross_entropy_with_logits(labels=label, logits=logits)
            loss = tf.reduce_mean(losses)
        *gradients, vector_gradients = tape.gradient(
            loss, [*variables, vectors], unconnected_gradients=tf.UnconnectedGradients.ZERO
        )
        # The loss travels with the gradients: averaged over ranks at no cost of its own.
        *gradients, loss = self._cluster.average([*gradients, loss], "dense_gradients")
        self._optimizer.learning_rate.assign(learning_rate)
        self._optimizer.apply_gradients(zip(gradients, variables))
        if self._update_embedding:
            self._embedding.update(route, vector_gradients, self._embedding_rate * learning_rate)
        self._last_loss.assign(loss)
        self._loss_sum.assign_add(tf.cast(loss, tf.float64))
        self._loss_steps.assign_add(1)
        return loss


class Forward:
    """Computes logits of one batch without training: the arguments are those of `TrainStep`."""

    def __init__(self, dense_model, embedding):
        self._model = dense_model
        self._embedding = embedding
        self._function = tf.function(self._forward)

    def __call__(self, batch):
        """Returns [b, 1] float32 logits of this rank's samples."""
        return self._function(batch["dense"], batch["categorical"])

    def _forward(self, dense, categorical):
        return self._model(dense, self._embedding.lookup(self._embedding.route(categorical)))
