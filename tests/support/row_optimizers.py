"""An independent reference of the row optimizers, in NumPy float64."""

import numpy as np

from model.embedding.optimizers import OPTIMIZERS

# Options that change results, exactly representable in float32.
OPTIONS = {
    "adagrad": {"epsilon": 2.0**-10},
    "rowwise_adagrad": {"epsilon": 2.0**-10},
    "ftrl": {"l1": 0.125, "l2": 0.25, "beta": 0.5},
    "adam": {"beta1": 0.75, "beta2": 0.875, "epsilon": 2.0**-10},
}


def exact_gradients(rng, shape):
    """Returns float32 gradients whose float32 sums have no rounding: multiples of 1/16.

    The first update of Adagrad divides a sum by its own magnitude. If the sum is close to 0, that
    makes the rounding of its terms, and so the order of adding, visible in the row.
    """
    return (np.rint(16 * rng.standard_normal(shape)) / 16).astype(np.float32)


class ReferenceRows:
    """Rows and their states. FTRL is algorithm 1 of McMahan et al. (KDD 2013).

    There the learning rate alpha is constant. Here alpha is 1, and the learning rate is a factor on
    the gradients that are added to the linear state. The rate of Adam includes `rate_factor`.

    Args:
        name: in `OPTIMIZERS`.
        rows: [rows, D].
        states: the initial states, default: the registry's.
        options: {hyper-parameter: value}, default: the registry's.
    """

    def __init__(self, name, rows, states=None, options=None):
        optimizer = OPTIMIZERS[name]
        self.name, self.options = name, {**optimizer.hyperparameters, **(options or {})}
        self.rows = np.array(rows, "f8")
        if states is None:
            states = [
                np.full(s.shape(*self.rows.shape), self.options.get(s.initial, s.initial))
                for s in optimizer.states
            ]
        self.states = [np.array(state, "f8") for state in states]

    def rate_factor(self, update):
        """Returns the factor on the learning rate of an update, counted from 1."""
        if self.name != "adam":
            return 1.0
        first, second = self.options["beta1"], self.options["beta2"]
        return np.sqrt(1 - second**update) / (1 - first**update)

    def scatter(self, row_numbers, gradients, rate, scale=1.0):
        """Applies gradients [..., D] to the rows `row_numbers` [...], which may repeat."""
        sums = np.zeros_like(self.rows)
        np.add.at(sums, row_numbers, scale * np.asarray(gradients, "f8"))
        self.apply(np.unique(row_numbers), sums, rate)

    def apply(self, touched, sums, rate):
        """Applies the sums of gradients [rows, D] to the rows `touched`."""
        rate, g, w = float(np.float32(rate)), sums[touched], self.rows[touched]
        if self.name == "sgd":
            self.rows[touched] = w - rate * g
        elif self.name == "ftrl":
            l1, l2, beta = (self.options[key] for key in ("l1", "l2", "beta"))
            n, z = (state[touched] for state in self.states)
            sigma = np.sqrt(n + g**2) - np.sqrt(n)
            n, z = n + g**2, z + rate * g - sigma * w
            with np.errstate(invalid="ignore"):
                solved = -(z - np.sign(z) * l1) / (beta + np.sqrt(n) + 2 * l2)
            solved = np.where(np.abs(z) <= l1, 0.0, solved)
            self.rows[touched] = np.where(n == 0, w, solved)
            self.states[0][touched], self.states[1][touched] = n, z
        elif self.name == "adam":
            first, second = self.options["beta1"], self.options["beta2"]
            m = self.states[0][touched] * first + (1 - first) * g
            v = self.states[1][touched] * second + (1 - second) * g**2
            self.rows[touched] = w - rate * m / (np.sqrt(v) + self.options["epsilon"])
            self.states[0][touched], self.states[1][touched] = m, v
        else:
            square = np.mean(g**2, axis=1) if self.name == "rowwise_adagrad" else g**2
            self.states[0][touched] += square
            root = np.sqrt(self.states[0][touched]) + self.options["epsilon"]
            self.rows[touched] = w - rate * g / (root[:, None] if root.ndim == 1 else root)
