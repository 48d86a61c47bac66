"""DLRM in NumPy float64, forward and backward, as an independent reference for training."""

import numpy as np

from ops.bags import EMPTY, Bags
from tests.support.row_optimizers import ReferenceRows


def mlp_forward(x, layers, last_linear):
    """Returns the activations of each layer, the input first."""
    activations = [x]
    for index, (kernel, bias) in enumerate(layers):
        x = x @ kernel + bias
        if not (last_linear and index == len(layers) - 1):
            x = np.maximum(x, 0)
        activations.append(x)
    return activations


def distance_from_kinks(x, layers, last_linear):
    """Returns the smallest absolute input of a ReLU, for each sample [B].

    If it is small, rounding may switch the unit, which changes the complete gradient.
    """
    distance = np.full(len(x), np.inf)
    for kernel, bias in layers[: len(layers) - last_linear]:
        x = x @ kernel + bias
        distance = np.minimum(distance, np.abs(x).min(axis=1))
        x = np.maximum(x, 0)
    return distance


def mlp_backward(gradient, activations, layers, last_linear):
    """Returns (gradient of the input, [(kernel gradient, bias gradient), ...])."""
    gradients = []
    for index in reversed(range(len(layers))):
        if not (last_linear and index == len(layers) - 1):
            gradient = gradient * (activations[index + 1] > 0)
        gradients.append((activations[index].T @ gradient, gradient.sum(0)))
        gradient = gradient @ layers[index][0].T
    return gradient, gradients[::-1]


class ReferenceInteraction:
    """Maps features [B, F, D], the bottom output first, to the top MLP's input, and gradients back.

    Attributes:
        parameters: the trainable arrays, in the order of their gradients.
    """

    def __init__(self):
        self.parameters = []

    def forward(self, features, width):
        """Returns [B, width]."""
        raise NotImplementedError

    def backward(self, features, gradient):
        """Returns (gradient of the features, [gradient of each parameter])."""
        raise NotImplementedError


class ReferenceDot(ReferenceInteraction):
    """The bottom output, the dot products of all pairs, then zeros."""

    def forward(self, features, width):
        pairs = [
            (features[:, i] * features[:, j]).sum(1)
            for i in range(features.shape[1])
            for j in range(i)
        ]
        joined = np.zeros((len(features), width))
        dimension = features.shape[2]
        joined[:, :dimension] = features[:, 0]
        joined[:, dimension : dimension + len(pairs)] = np.stack(pairs, axis=1)
        return joined

    def backward(self, features, gradient):
        count, dimension = features.shape[1:]
        feature_gradients = np.zeros_like(features)
        feature_gradients[:, 0] += gradient[:, :dimension]
        column = dimension
        for i in range(count):
            for j in range(i):
                feature_gradients[:, i] += gradient[:, column : column + 1] * features[:, j]
                feature_gradients[:, j] += gradient[:, column : column + 1] * features[:, i]
                column += 1
        return feature_gradients, []


class ReferenceCat(ReferenceInteraction):
    """All vectors, one after another."""

    def forward(self, features, width):
        return np.concatenate(list(features.swapaxes(0, 1)), axis=1)

    def backward(self, features, gradient):
        return np.stack(np.split(gradient, features.shape[1], axis=1), axis=1), []


class ReferenceNone(ReferenceInteraction):
    """The bottom output, then zeros."""

    def forward(self, features, width):
        return np.pad(features[:, 0], [(0, 0), (0, width - features.shape[2])])

    def backward(self, features, gradient):
        feature_gradients = np.zeros_like(features)
        feature_gradients[:, 0] = gradient[:, : features.shape[2]]
        return feature_gradients, []


class ReferenceCross(ReferenceInteraction):
    """Layers x = x0 * (x V W + b) + x (or x W) over all vectors, one after another.

    Args:
        weights: [V, W, b] (low rank) or [W, b] of each layer.
    """

    def __init__(self, weights):
        super().__init__()
        self.layers = [[w.astype(np.float64) for w in layer] for layer in weights]
        self.parameters = [w for layer in self.layers for w in layer]

    def _states(self, x0):
        """Returns [(the operands of the layer's kernels, z), ...] and the result."""
        x, states = x0, []
        for *kernels, bias in self.layers:
            operands = [x]
            for kernel in kernels:
                operands.append(operands[-1] @ kernel)
            z = operands.pop() + bias
            states.append((operands, z))
            x = x0 * z + x
        return states, x

    def forward(self, features, width):
        return self._states(features.reshape(len(features), width))[1]

    def backward(self, features, gradient):
        x0 = features.reshape(gradient.shape)
        states, _ = self._states(x0)
        direct, gradients = np.zeros_like(x0), []
        for (*kernels, _), (operands, z) in zip(reversed(self.layers), reversed(states)):
            direct += gradient * z
            change = gradient * x0
            found = [change.sum(0)]
            for kernel, operand in zip(reversed(kernels), reversed(operands)):
                found.append(operand.T @ change)
                change = change @ kernel.T
            gradient = gradient + change
            gradients += found
        return (direct + gradient).reshape(features.shape), gradients[::-1]


def cross_layers(variables):
    """Returns the variables of a cross network, [V, W, b] (or [W, b]) of each layer, by layer."""
    arrays = [np.asarray(v) for v in variables]
    ends = [i + 1 for i, a in enumerate(arrays) if a.ndim == 1]
    return [arrays[i:j] for i, j in zip([0, *ends], ends)]


REFERENCE_INTERACTIONS = {"dot": ReferenceDot, "cat": ReferenceCat, "none": ReferenceNone}


class ReferenceDLRM:
    """Trains with SGD on the dense part, any row optimizer on the tables.

    Args:
        bottom, top: [(kernel, bias), ...].
        tables: [rows, D] arrays.
        optimizer: of the tables, a name in `model.embedding.optimizers.OPTIMIZERS`.
        table_factor: factor on the tables' gradients.
        interaction: a `ReferenceInteraction`; default: dot.
        options: hyper-parameters of the optimizer.
        bags: `ops.bags.Bags`; default: one id per table.
        table_rate: learning rate of the tables over that of the dense part.
    """

    def __init__(
        self,
        bottom,
        top,
        tables,
        optimizer="sgd",
        table_factor=1.0,
        options=None,
        *,
        interaction=None,
        bags=None,
        table_rate=1.0,
    ):
        self._table_rate = table_rate
        self.bags = bags or Bags.one_hot(len(tables))
        self.interaction = interaction or ReferenceDot()
        self.bottom = [(k.astype(np.float64), b.astype(np.float64)) for k, b in bottom]
        self.top = [(k.astype(np.float64), b.astype(np.float64)) for k, b in top]
        self._tables = [ReferenceRows(optimizer, table, options=options) for table in tables]
        self._factor, self._updates = table_factor, 0

    @property
    def tables(self):
        """The rows of each table, [rows, D]."""
        return [table.rows for table in self._tables]

    def forward(self, dense, ids):
        """Returns the logits [B]."""
        return self._forward(dense, ids)[-1][-1][:, 0]

    def distance_from_kinks(self, dense, ids):
        """Returns the smallest absolute input of a ReLU of both MLPs, for each sample [B]."""
        _, _, top = self._forward(dense, ids)
        bottom = distance_from_kinks(dense.astype(np.float64), self.bottom, last_linear=False)
        return np.minimum(bottom, distance_from_kinks(top[0], self.top, last_linear=True))

    def _forward(self, dense, ids):
        bottom = mlp_forward(dense.astype(np.float64), self.bottom, last_linear=False)
        vectors = [
            sum(share * self.look_up(table, chosen) for chosen, share in self._slots(t, ids))
            for t, table in enumerate(self.tables)
        ]
        features = np.stack([bottom[-1], *vectors], axis=1)
        joined = self.interaction.forward(features, self.top[0][0].shape[0])
        return features, bottom, mlp_forward(joined, self.top, last_linear=True)

    def _slots(self, table, ids):
        """Yields (ids [B], their shares of the vector [B, 1]) for each slot of a table."""
        feature, first = self.bags.each()[table], self.bags.first_slots[table]
        own = ids[:, first : first + feature.hotness]
        filled = own != EMPTY
        counts = np.maximum(filled.sum(1), 1) if feature.pooling == "mean" else np.ones(len(own))
        for slot in range(feature.hotness):
            yield np.where(filled, own, 0)[:, slot], (filled[:, slot] / counts)[:, None]

    def look_up(self, rows, ids):
        """Returns the vectors of ids."""
        return rows[ids]

    def sum_gradients(self, rows, ids, gradients):
        """Returns the sums of gradients by row."""
        summed = np.zeros_like(rows)
        np.add.at(summed, ids, gradients)
        return summed

    def step(self, dense, ids, label, learning_rate):
        """Trains on one batch; returns the mean loss before the update."""
        self._updates += 1
        features, bottom, top = self._forward(dense, ids)
        logits, label = top[-1][:, 0], label.astype(np.float64)
        loss = np.mean(np.logaddexp(0, logits) - label * logits)
        gradient = (1 / (1 + np.exp(-logits)) - label)[:, None] / len(label)
        gradient, top_gradients = mlp_backward(gradient, top, self.top, last_linear=True)
        feature_gradients, gradients = self.interaction.backward(features, gradient)
        for parameter, change in zip(self.interaction.parameters, gradients):
            parameter -= learning_rate * change
        _, bottom_gradients = mlp_backward(feature_gradients[:, 0], bottom, self.bottom, False)
        for layers, gradients in ((self.bottom, bottom_gradients), (self.top, top_gradients)):
            for index, (kernel, bias) in enumerate(gradients):
                layers[index] = (
                    layers[index][0] - learning_rate * kernel,
                    layers[index][1] - learning_rate * bias,
                )
        for t, table in enumerate(self._tables):
            slots = list(self._slots(t, ids))
            summed = self._factor * sum(
                self.sum_gradients(table.rows, chosen, share * feature_gradients[:, t + 1])
                for chosen, share in slots
            )
            # Adam changes a row that occurs even if its gradient is 0.
            touched = np.unique(
                np.concatenate([chosen[share[:, 0] > 0] for chosen, share in slots])
            )
            rate = self._table_rate * learning_rate * table.rate_factor(self._updates)
            table.apply(touched, summed, rate)
        return loss
