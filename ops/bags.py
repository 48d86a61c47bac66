"""Which ids of a sample belong to which categorical feature, and how their vectors are pooled.

A *bag* is the ids of one sample for one feature. A batch holds the bags of B samples and F features
in an int32 matrix [B, W]: feature f has `hotness[f]` adjacent columns, its *slots*, W in all. A
feature whose lists vary in length has as many slots as its longest list; `EMPTY` fills the slots
after a shorter list. With one id per feature, [B, W] is [B, F].

This module does not import TensorFlow.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

#: The content of a slot without an id, after the ids of a bag.
EMPTY = -1
#: Ids per sample of each table of MLPerf's DLRM-DCNv2 (mlcommons/training,
#: recommendation_v2/torchrec_dlrm).
MLPERF_HOTNESS = (
    3, 2, 1, 2, 6, 1, 1, 1, 1, 7, 3, 8, 1, 6, 9, 5, 1, 1, 1, 12, 100, 27, 10, 3, 1, 1,
)  # fmt: skip
#: Largest supported hotness: more ids of a sample than any published data has. A batch has a
#: column for each.
MAX_HOTNESS = 1 << 16
#: How the vectors of a bag become one: their sum, or their mean (zeros for an empty bag).
POOLING = ("sum", "mean")


class Feature(NamedTuple):
    """The bags of one feature; see `Bags`."""

    hotness: int
    pooling: str
    variable: bool

    def __str__(self) -> str:
        most = "at most " if self.variable else ""
        return f"{most}{self.hotness} ({self.pooling})"


@dataclasses.dataclass(frozen=True)
class Bags:
    """The slots of all features of a batch; each feature has a table.

    Attributes:
        hotness: slots of each feature, from 1 to `MAX_HOTNESS`.
        pooling: name in `POOLING` for each feature.
        variable: for each feature, whether its slots may be empty.

    Raises:
        ValueError: the lengths differ, a hotness is out of range, or a pooling is unknown.
    """

    hotness: tuple[int, ...]
    pooling: tuple[str, ...]
    variable: tuple[bool, ...]

    def __post_init__(self):
        lengths = {len(self.hotness), len(self.pooling), len(self.variable)}
        if len(lengths) != 1:
            raise ValueError(f"bags: expected lists of one length, found {sorted(lengths)}")
        for feature, (ids, pooling) in enumerate(zip(self.hotness, self.pooling)):
            if not 1 <= ids <= MAX_HOTNESS:
                bounds = f"1 to {MAX_HOTNESS}"
                raise ValueError(f"feature {feature}: hotness: expected {bounds}, found {ids}")
            if pooling not in POOLING:
                names = " or ".join(POOLING)
                raise ValueError(f"feature {feature}: pooling: expected {names}, found {pooling!r}")

    @classmethod
    def of(
        cls,
        hotness: Sequence[int],
        pooling: str | Sequence[str] = "sum",
        variable: Sequence[bool] | None = None,
    ) -> Bags:
        """Returns the bags of features with this hotness.

        Args:
            hotness: slots of each feature.
            pooling: of all features, or of each.
            variable: default: no slot is ever empty.
        """
        hotness = tuple(hotness)
        names = (pooling,) * len(hotness) if isinstance(pooling, str) else tuple(pooling)
        return cls(hotness, names, tuple(variable or (False,) * len(hotness)))

    @classmethod
    def one_hot(cls, features: int) -> Bags:
        """Returns the bags of features with one id each."""
        return cls.of((1,) * features)

    @classmethod
    def joined(cls, parts: Iterable[Bags]) -> Bags:
        """Returns the bags of the features of all parts, in order."""
        parts = list(parts)
        return cls(
            tuple(ids for part in parts for ids in part.hotness),
            tuple(pooling for part in parts for pooling in part.pooling),
            tuple(variable for part in parts for variable in part.variable),
        )

    @property
    def features(self) -> int:
        """F, the number of features."""
        return len(self.hotness)

    @property
    def slots(self) -> int:
        """W, the ids of one sample, empty slots included."""
        return sum(self.hotness)

    @property
    def first_slots(self) -> tuple[int, ...]:
        """The column of each feature's first slot."""
        return tuple(itertools.accumulate(self.hotness[:-1], initial=0)) if self.hotness else ()

    def each(self) -> list[Feature]:
        """Returns the features one by one."""
        return [Feature(*values) for values in zip(self.hotness, self.pooling, self.variable)]

    @property
    def is_one_hot(self) -> bool:
        """Whether every bag is one id, so that pooling changes nothing."""
        return all(ids == 1 for ids in self.hotness) and not any(self.variable)

    def description(self) -> dict[str, list] | None:
        """Returns the bags for a JSON file, None if one-hot; `from_description` reads it."""
        if self.is_one_hot:
            return None
        return {
            "hotness": list(self.hotness),
            "pooling": list(self.pooling),
            "variable": list(self.variable),
        }

    @classmethod
    def from_description(cls, description: Mapping[str, Any] | None, features: int) -> Bags:
        """Returns the bags of a result of `description`.

        Args:
            description: the result.
            features: number of features.

        Raises:
            ValueError: the description is not of so many features, or its bags are invalid.
        """
        if description is None:
            return cls.one_hot(features)
        lists = (description[name] for name in ("hotness", "pooling", "variable"))
        found = cls(*(tuple(values) for values in lists))
        if found.features != features:
            raise ValueError(f"bags: expected {features} features, found {found.features}")
        return found

    def select(self, features: Sequence[int]) -> Bags:
        """Returns the bags of some features, in the given order."""
        return Bags(
            tuple(self.hotness[f] for f in features),
            tuple(self.pooling[f] for f in features),
            tuple(self.variable[f] for f in features),
        )

    def slots_of(self, features: Sequence[int]) -> list[int]:
        """Returns the columns of some features' slots, in the given order."""
        first = self.first_slots
        return [first[f] + slot for f in features for slot in range(self.hotness[f])]

    def feature_of_slots(self) -> list[int]:
        """Returns the feature of each of the W slots."""
        return [f for f, ids in enumerate(self.hotness) for _ in range(ids)]
