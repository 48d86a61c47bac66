"""A model of multi-hot click logs whose labels need products of three features.

    logit = bias + scale * (dense effects + id effects + products of three scores)

A feature's *score* is the pooled latent score of its bag of ids. Each *triple* multiplies scores of
three features, and each id has a separate latent score for every triple of its feature. A dot
interaction passes one number for each pair of features to the top MLP, which must find the scores
and their products in these numbers. A cross network sees whole embedding vectors, and two cross
layers express a product of three scores.

The id effects are sums of the same scores. From them, training finds the latent scores; the
products alone give tables near zero hardly a gradient.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dataset.errors import DatasetError
from dataset.hidden_model import LabelModel, cumulative_power_law, draw_latents, power_law_ids
from ops.bags import Bags

#: Features of a triple.
_ORDER = 3
#: Triples per feature: each feature has two latent scores. In trials with a million samples, a dot
#: interaction with a top MLP of 256-128-1 found the products of features with one score as well as
#: a cross network did; with three scores, neither found all.
_TRIPLES_PER_FEATURE = 2 / 3


class CrossedModel(LabelModel):
    """A model with bags of ids and interactions of three features.

    Args:
        vocab_sizes: rows of each table.
        bags: the ids of each table, in lists of fixed lengths.
        seed: seed of the model's parameters.

    Attributes:
        triples: (feature, score) three times for each triple.
        signs: float32 [triples], of each triple's product.
        latents: for each feature, the latent scores of its ids, float32 [rows, scores].

    Raises:
        DatasetError: there are fewer than three features.
    """

    shares = (0.1, 0.3, 0.6)

    def __init__(self, vocab_sizes: Sequence[int], bags: Bags, seed: int):
        if len(vocab_sizes) < _ORDER:
            what = f"crossed labels: expected at least {_ORDER} categorical features"
            raise DatasetError(f"{what}, found {len(vocab_sizes)}", found=len(vocab_sizes))
        super().__init__(vocab_sizes, bags, seed)

    def _draw_parameters(self, random):
        scores = [0] * len(self.vocab_sizes)
        self.triples = []
        for _ in range(max(1, round(_TRIPLES_PER_FEATURE * len(scores)))):
            # The features with the fewest scores so far, in random order.
            features = sorted(random.permutation(len(scores)).tolist(), key=scores.__getitem__)
            self.triples.append([(feature, scores[feature]) for feature in features[:_ORDER]])
            for feature in features[:_ORDER]:
                scores[feature] += 1
        self.signs = random.choice([-1.0, 1.0], len(self.triples)).astype(np.float32)
        # A feature of no triple has id effects only.
        widths = [max(1, number) for number in scores]
        self._slopes = [random.choice([-1.0, 1.0], n).astype(np.float32) for n in widths]
        self.latents = [
            self._draw_feature(random, feature, width) for feature, width in enumerate(widths)
        ]

    def _draw_feature(self, random, feature, width):
        """Returns latents [rows, width] whose pooled scores have mean 0 and variance 1."""
        rows, ids = self.vocab_sizes[feature], self.bags.hotness[feature]
        latents = draw_latents(random, (rows, width)).astype(np.float64)
        law = np.diff(cumulative_power_law(np.arange(rows + 1), rows))
        latents -= law @ latents
        variance = law @ latents**2
        # The variance of a sum of independent ids is `ids` times theirs, that of their mean 1/ids.
        variance *= ids if self.bags.pooling[feature] == "sum" else 1 / ids
        # A table of one row has one score, 0.
        return (latents / np.sqrt(np.where(variance > 0, variance, 1.0))).astype(np.float32)

    def _add_ids(self, random, ids, effects, crosses):
        scores, first = [], self.bags.first_slots
        for feature, rows in enumerate(self.vocab_sizes):
            width = self.bags.hotness[feature]
            bags = power_law_ids(random.random((len(ids), width), np.float32), rows)
            ids[:, first[feature] : first[feature] + width] = bags
            pooled = self.latents[feature][bags].sum(axis=1)
            if self.bags.pooling[feature] == "mean":
                pooled /= width
            effects += pooled @ self._slopes[feature]
            scores.append(pooled)
        for sign, triple in zip(self.signs, self.triples):
            crosses += sign * np.prod([scores[feature][:, s] for feature, s in triple], axis=0)
