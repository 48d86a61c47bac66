"""Models that generate synthetic click logs and know the true probability of each label.

    logit = bias + scale * (dense effects + id effects + interactions)

Each table's ids follow a Zipf-Mandelbrot law, p(id) ~ (id + 5)^-1.5, so that a few dozen ids
make up most of a column. Each id has latent scores, which contribute alone (id effects) and
multiplied by those of other tables (interactions). Scale and bias are fitted so that the best
possible AUC is `TARGET_AUC` for any vocabulary.

The interactions of `HiddenModel`, with one id per table, are pairwise: a dot product of embedding
vectors can express them; a sum over features cannot. `dataset.crossed_model` has products of three.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from dataset.describe import DENSE_FEATURES
from ops.bags import Bags

#: Targets of the fit: the AUC of the true probabilities, and the rate of positive labels.
TARGET_AUC = 0.81
TARGET_RATE = 0.25

#: Zipf-Mandelbrot exponent and shift of id popularity.
_EXPONENT = 1.5
_SHIFT = 5.0
#: Latent scores decrease beyond about this id: rarer ids, which cannot be learned, matter little.
_FREQUENT_IDS = 40
#: Tables with fewer rows contribute little: even untrained vectors distinguish their ids.
_SMALL_TABLE = 100
#: Number of tables that contribute strongly, and the relative strength of the others.
_STRONG_TABLES = 8
_WEAK = 0.1
#: Interactions drawn for each strong table.
_PARTNERS = 2
_CALIBRATION_SAMPLES = 60_000


def auc_of_probabilities(probabilities: np.ndarray) -> float:
    """Returns the expected AUC of labels that are drawn with, and ranked by, `probabilities`.

    This is the chance that a positive outranks a negative: the sum of p_i (1 - p_j) over pairs with
    p_i > p_j, plus half the sum over ties, divided by the sum over all pairs i != j.
    """
    p = np.sort(np.asarray(probabilities, np.float64))
    q = 1.0 - p
    below = np.cumsum(q) - q
    # A tie gives two equal terms; any order counts one of them, which is the half credit.
    return float(np.sum(p * below) / (np.sum(p) * np.sum(q) - np.sum(p * q)))


def label_probabilities(logits: np.ndarray) -> np.ndarray:
    """Returns the probabilities of positive labels, of the logits' shape and dtype."""
    with np.errstate(over="ignore"):  # Infinity gives the right probability, 0.
        return 1 / (1 + np.exp(-logits))


class LabelModel(abc.ABC):
    """Draws samples with their true logits.

    A subclass draws its parameters in `_draw_parameters` and the ids in `_add_ids`.

    Args:
        vocab_sizes: rows of each table.
        bags: the ids of each table, in lists of fixed lengths.
        seed: seed of the model's parameters.
    """

    #: Shares of the logit's variance: of the dense effects, the id effects, and the interactions.
    shares: ClassVar[tuple[float, float, float]]

    def __init__(self, vocab_sizes: Sequence[int], bags: Bags, seed: int):
        self.vocab_sizes, self.bags = list(vocab_sizes), bags
        random = np.random.default_rng([seed, 0])
        # Dense features: zero where missing, else a rounded log-normal count.
        self._missing = random.uniform(0.02, 0.4, DENSE_FEATURES).astype(np.float32)
        self._log_median = random.uniform(0.0, 2.0, DENSE_FEATURES).astype(np.float32)
        self._log_spread = random.uniform(0.7, 1.5, DENSE_FEATURES).astype(np.float32)
        self._dense_slope = random.normal(0, 1, DENSE_FEATURES).astype(np.float32)
        self._draw_parameters(random)
        self._factors = np.ones(3, np.float32)
        self._scale, self._bias = 1.0, 0.0
        self._calibrate(np.random.default_rng([seed, 1]))

    @abc.abstractmethod
    def _draw_parameters(self, random: np.random.Generator) -> None:
        """Draws the parameters of the id effects and the interactions."""

    @abc.abstractmethod
    def _add_ids(
        self, random: np.random.Generator, ids: np.ndarray, effects: np.ndarray, crosses: np.ndarray
    ) -> None:
        """Draws ids, and adds what they contribute.

        Args:
            random: the generator to draw from.
            ids: int32 [n, W], to fill.
            effects: float32 [n], zeros: the id effects, up to their factor.
            crosses: float32 [n], zeros: the interactions, up to their factor.
        """

    def _calibrate(self, random):
        """Fits the factors of the parts, then scale and bias, on samples drawn for that purpose."""
        _, parts = self._sample_parts(random, _CALIBRATION_SAMPLES)
        deviation = parts.std(axis=1)
        factors = np.sqrt(self.shares) / np.where(deviation > 0, deviation, 1.0)
        self._factors = factors.astype(np.float32)
        logits = self._factors @ (parts - parts.mean(axis=1, keepdims=True))
        low, high = 0.0, 20.0
        for _ in range(25):
            scale = (low + high) / 2
            bias = _fit_bias(scale * logits)
            auc = auc_of_probabilities(label_probabilities(scale * logits + bias))
            low, high = (scale, high) if auc < TARGET_AUC else (low, scale)
        self._scale = scale
        self._bias = bias - scale * float(self._factors @ parts.mean(axis=1))

    def sample(self, random: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Draws samples.

        Args:
            random: the generator to draw from.
            count: number of samples, n.

        Returns:
            (features int32 [n, 13 + W], logits float32 [n]); W ids per sample.
        """
        features, parts = self._sample_parts(random, count)
        logits = np.float32(self._scale) * (self._factors @ parts) + np.float32(self._bias)
        return features, logits

    def _sample_parts(self, random, count):
        features = np.empty((count, DENSE_FEATURES + self.bags.slots), np.int32)
        parts = np.zeros((3, count), np.float32)
        for feature in range(DENSE_FEATURES):
            logs = random.standard_normal(count, np.float32)
            logs *= self._log_spread[feature]
            logs += self._log_median[feature]
            values = np.minimum(np.exp(logs), np.float32(1e6)).astype(np.int32)
            values[random.random(count, np.float32) < self._missing[feature]] = 0
            features[:, feature] = values
            logs = np.log1p(values.astype(np.float32)) - self._log_median[feature]
            parts[0] += self._dense_slope[feature] * np.tanh(logs / 2)
        self._add_ids(random, features[:, DENSE_FEATURES:], parts[1], parts[2])
        return features, parts


class HiddenModel(LabelModel):
    """A model with one id per table and interactions of pairs of tables.

    Args:
        vocab_sizes: rows of each table.
        seed: seed of the model's parameters.
    """

    shares = (0.2, 0.4, 0.4)

    def __init__(self, vocab_sizes: Sequence[int], seed: int):
        super().__init__(vocab_sizes, Bags.one_hot(len(vocab_sizes)), seed)

    def _draw_parameters(self, random):
        self._latents = [draw_latents(random, (rows,)) for rows in self.vocab_sizes]
        strong = self._choose_strong()
        self._strength = np.full(len(self.vocab_sizes), _WEAK, np.float32)
        self._strength[strong] = 1.0
        self._pairs = self._draw_pairs(random, strong)

    def _choose_strong(self):
        """Returns the strong tables: the smallest of those with at least `_SMALL_TABLE` rows."""
        by_size = sorted(range(len(self.vocab_sizes)), key=self.vocab_sizes.__getitem__)
        large = [table for table in by_size if self.vocab_sizes[table] >= _SMALL_TABLE]
        return np.array((large if len(large) > 1 else by_size)[:_STRONG_TABLES])

    def _draw_pairs(self, random, strong):
        """Returns a symmetric [T, T] matrix of interaction signs; zero means no interaction."""
        signs = np.zeros((len(self.vocab_sizes),) * 2, np.float32)
        for table in strong:
            others = strong[strong != table]
            for other in random.choice(others, min(_PARTNERS, len(others)), replace=False):
                signs[table, other] = signs[other, table] = random.choice([-1.0, 1.0])
        return signs

    def _add_ids(self, random, ids, effects, crosses):
        scores = np.empty((len(self.vocab_sizes), len(ids)), np.float32)
        for table, rows in enumerate(self.vocab_sizes):
            column = power_law_ids(random.random(len(ids), np.float32), rows)
            ids[:, table] = column
            np.take(self._latents[table], column, out=scores[table])
            effects += self._strength[table] * scores[table]
        for table in range(len(self.vocab_sizes)):
            partners = np.flatnonzero(self._pairs[table, :table])
            if len(partners):
                crosses += scores[table] * (self._pairs[table, partners] @ scores[partners])


def draw_latents(random: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Returns latent scores, float32 [rows, ...]: of either sign, smaller for rare ids."""
    fade = 1.0 / np.sqrt(1.0 + (np.arange(shape[0]) / _FREQUENT_IDS) ** 2)
    fade = fade.reshape((-1,) + (1,) * (len(shape) - 1))
    return (random.choice([-1.0, 1.0], shape) * random.uniform(0.5, 1.5, shape) * fade).astype(
        np.float32
    )


def power_law_ids(uniform: np.ndarray, rows: int) -> np.ndarray:
    """Returns int32 ids below `rows` that follow the Zipf-Mandelbrot law.

    Args:
        uniform: float32 values from 0 to 1, of any shape.
        rows: rows of the table.
    """
    power = 1.0 - _EXPONENT
    first, last = _SHIFT**power, (_SHIFT + rows) ** power
    ids = (np.float32(first) + np.float32(last - first) * uniform) ** np.float32(1.0 / power)
    ids -= np.float32(_SHIFT)
    return np.clip(ids.astype(np.int32), 0, rows - 1)


def cumulative_power_law(ids: np.ndarray, rows: int) -> np.ndarray:
    """Returns the probabilities that `power_law_ids` returns an id below each of `ids`."""
    power = 1.0 - _EXPONENT
    first, last = _SHIFT**power, (_SHIFT + rows) ** power
    return ((_SHIFT + ids) ** power - first) / (last - first)


def _fit_bias(logits):
    low, high = -30.0, 30.0
    for _ in range(25):
        bias = (low + high) / 2
        rate = np.mean(label_probabilities(logits + bias))
        low, high = (bias, high) if rate < TARGET_RATE else (low, bias)
    return bias
