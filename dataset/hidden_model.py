"""The model that generates synthetic click logs and knows the true probability of each label.

    logit = bias + scale * (dense effects + id effects + pairwise interactions)

Each table's ids follow a Zipf-Mandelbrot law, p(id) ~ (id + 5)^-1.5, so that a few dozen ids
make up most of a column. Each id has a latent score. It contributes alone (id effect) and
multiplied by the latent scores of other tables' ids (interaction). A dot product of embedding
vectors can express the interaction; a sum over features cannot. Scale and bias are fitted so that
the best possible AUC is `TARGET_AUC` for any vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dataset.describe import DENSE_FEATURES

#: Targets of the fit: the AUC of the true probabilities, and the rate of positive labels.
TARGET_AUC = 0.81
TARGET_RATE = 0.25

#: Zipf-Mandelbrot exponent and shift of id popularity.
_EXPONENT = 1.5
_SHIFT = 5.0
#: Latent scores decrease beyond about this id: rarer ids, which cannot be learned, matter little.
_FREQUENT_IDS = 40
#: Shares of the logit's variance.
_DENSE_SHARE, _ID_SHARE, _PAIR_SHARE = 0.2, 0.4, 0.4
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


class HiddenModel:
    """Draws samples with their true logits.

    Args:
        vocab_sizes: rows of each table.
        seed: seed of the model's parameters.
    """

    def __init__(self, vocab_sizes: Sequence[int], seed: int):
        self.vocab_sizes = list(vocab_sizes)
        random = np.random.default_rng([seed, 0])
        # Dense features: zero where missing, else a rounded log-normal count.
        self._missing = random.uniform(0.02, 0.4, DENSE_FEATURES).astype(np.float32)
        self._log_median = random.uniform(0.0, 2.0, DENSE_FEATURES).astype(np.float32)
        self._log_spread = random.uniform(0.7, 1.5, DENSE_FEATURES).astype(np.float32)
        self._dense_slope = random.normal(0, 1, DENSE_FEATURES).astype(np.float32)
        self._latents = [self._draw_latents(random, rows) for rows in self.vocab_sizes]
        strong = self._choose_strong()
        self._strength = np.full(len(self.vocab_sizes), _WEAK, np.float32)
        self._strength[strong] = 1.0
        self._pairs = self._draw_pairs(random, strong)
        self._shares = np.ones(3, np.float32)
        self._scale, self._bias = 1.0, 0.0
        self._calibrate(np.random.default_rng([seed, 1]))

    @staticmethod
    def _draw_latents(random, rows):
        fade = 1.0 / np.sqrt(1.0 + (np.arange(rows) / _FREQUENT_IDS) ** 2)
        return (random.choice([-1.0, 1.0], rows) * random.uniform(0.5, 1.5, rows) * fade).astype(
            np.float32
        )

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

    def _calibrate(self, random):
        """Fits the shares, then scale and bias, on samples drawn for that purpose."""
        _, parts = self._sample_parts(random, _CALIBRATION_SAMPLES)
        shares = np.sqrt([_DENSE_SHARE, _ID_SHARE, _PAIR_SHARE])
        deviation = parts.std(axis=1)
        self._shares = (shares / np.where(deviation > 0, deviation, 1.0)).astype(np.float32)
        logits = self._shares @ (parts - parts.mean(axis=1, keepdims=True))
        low, high = 0.0, 20.0
        for _ in range(25):
            scale = (low + high) / 2
            bias = _fit_bias(scale * logits)
            auc = auc_of_probabilities(1 / (1 + np.exp(-(scale * logits + bias))))
            low, high = (scale, high) if auc < TARGET_AUC else (low, scale)
        self._scale = scale
        self._bias = bias - scale * float(self._shares @ parts.mean(axis=1))

    def sample(self, random: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Draws samples.

        Args:
            random: the generator to draw from.
            count: number of samples, n.

        Returns:
            (features int32 [n, 13 + T], logits float32 [n]).
        """
        features, parts = self._sample_parts(random, count)
        return features, np.float32(self._scale) * (self._shares @ parts) + np.float32(self._bias)

    def _sample_parts(self, random, count):
        features = np.empty((count, DENSE_FEATURES + len(self.vocab_sizes)), np.int32)
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
        scores = np.empty((len(self.vocab_sizes), count), np.float32)
        for table, rows in enumerate(self.vocab_sizes):
            ids = _power_law_ids(random.random(count, np.float32), rows)
            features[:, DENSE_FEATURES + table] = ids
            np.take(self._latents[table], ids, out=scores[table])
            parts[1] += self._strength[table] * scores[table]
        for table in range(len(self.vocab_sizes)):
            partners = np.flatnonzero(self._pairs[table, :table])
            if len(partners):
                parts[2] += scores[table] * (self._pairs[table, partners] @ scores[partners])
        return features, parts


def _power_law_ids(uniform, rows):
    """Returns ids below `rows` by inverting the cumulative Zipf-Mandelbrot distribution."""
    power = 1.0 - _EXPONENT
    first, last = _SHIFT**power, (_SHIFT + rows) ** power
    ids = (np.float32(first) + np.float32(last - first) * uniform) ** np.float32(1.0 / power)
    ids -= np.float32(_SHIFT)
    return np.clip(ids.astype(np.int32), 0, rows - 1)


def _fit_bias(logits):
    low, high = -30.0, 30.0
    for _ in range(25):
        bias = (low + high) / 2
        rate = np.mean(1 / (1 + np.exp(-(logits + bias))))
        low, high = (bias, high) if rate < TARGET_RATE else (low, bias)
    return bias
