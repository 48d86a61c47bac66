"""DLRM in NumPy float64, forward and backward, as an independent reference for training."""

import numpy as np

from tests.row_optimizers import ReferenceRows


def mlp_forward(x, layers, last_linear):
    """Returns the activations of each layer, the input first."""
    activations = [x]
    for index, (kernel, bias) in enumerate(layers):
        x = x @ kernel + bias
        if not (last_linear and index == len(layers) - 1):
            x = np.maximum(x, 0)
        activations.append(x)
    return activations


def mlp_backward(gradient, activations, layers, last_linear):
    """Returns (gradient of the input, [(kernel gradient, bias gradient), ...])."""
    gradients = []
    for index in reversed(range(len(layers))):
        if not (last_linear and index == len(layers) - 1):
            gradient = gradient * (activations[index + 1] > 0)
        gradients.append((activations[index].T @ gradient, gradient.sum(0)))
        gradient = gradient @ layers[index][0].T
    return gradient, gradients[::-1]


class ReferenceDLRM:
    """Trains with SGD on the dense part, any row optimizer on the tables.

    Args:
        bottom, top: [(kernel, bias), ...].
        tables: [rows, D] arrays.
        optimizer: of the tables, a name in `model.embedding.optimizers.OPTIMIZERS`.
        table_factor: what multiplies the tables' gradients.
        options: hyper-parameters of the optimizer.
    """

    def __init__(self, bottom, top, tables, optimizer="sgd", table_factor=1.0, options=None):
        self.bottom = [(k.astype(np.float64), b.astype(np.float64)) for k, b in bottom]
        self.top = [(k.astype(np.float64), b.astype(np.float64)) for k, b in top]
        self._tables = [ReferenceRows(optimizer, table, options=options) for table in tables]
        self._factor = table_factor

    @property
    def tables(self):
        """The rows of each table, [rows, D]."""
        return [table.rows for table in self._tables]

    def forward(self, dense, ids):
        """Returns the logits [B]."""
        return self._forward(dense, ids)[-1][-1][:, 0]

    def _forward(self, dense, ids):
        bottom = mlp_forward(dense.astype(np.float64), self.bottom, last_linear=False)
        vectors = [table[ids[:, t]] for t, table in enumerate(self.tables)]
        features = np.stack([bottom[-1], *vectors], axis=1)
        pairs = [
            (features[:, i] * features[:, j]).sum(1)
            for i in range(features.shape[1])
            for j in range(i)
        ]
        width = self.top[0][0].shape[0]
        joined = np.zeros((len(dense), width))
        dimension = features.shape[2]
        joined[:, :dimension] = bottom[-1]
        joined[:, dimension : dimension + len(pairs)] = np.stack(pairs, axis=1)
        return features, bottom, mlp_forward(joined, self.top, last_linear=True)

    def step(self, dense, ids, label, learning_rate):
        """Trains on one batch; returns the mean loss before the update."""
        features, bottom, top = self._forward(dense, ids)
        logits, label = top[-1][:, 0], label.astype(np.float64)
        loss = np.mean(np.logaddexp(0, logits) - label * logits)
        gradient = (1 / (1 + np.exp(-logits)) - label)[:, None] / len(label)
        gradient, top_gradients = mlp_backward(gradient, top, self.top, last_linear=True)
        count, dimension = features.shape[1:]
        feature_gradients = np.zeros_like(features)
        feature_gradients[:, 0] += gradient[:, :dimension]
        column = dimension
        for i in range(count):
            for j in range(i):
                feature_gradients[:, i] += gradient[:, column : column + 1] * features[:, j]
                feature_gradients[:, j] += gradient[:, column : column + 1] * features[:, i]
                column += 1
        _, bottom_gradients = mlp_backward(feature_gradients[:, 0], bottom, self.bottom, False)
        for layers, gradients in ((self.bottom, bottom_gradients), (self.top, top_gradients)):
            for index, (kernel, bias) in enumerate(gradients):
                layers[index] = (
                    layers[index][0] - learning_rate * kernel,
                    layers[index][1] - learning_rate * bias,
                )
        for t, table in enumerate(self._tables):
            summed = np.zeros_like(table.rows)
            np.add.at(summed, ids[:, t], self._factor * feature_gradients[:, t + 1])
            table.apply(summed.any(axis=1), summed, learning_rate)
        return loss
