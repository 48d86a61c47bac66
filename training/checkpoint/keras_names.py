"""What is different in checkpoints of releases whose dense optimizers were Keras 2's."""

from __future__ import annotations

import re
from collections.abc import Iterable


def without_momentum(names: Iterable[str]) -> set[str]:
    """Returns the names of an optimizer's variables in a checkpoint, but not a momentum of SGD.

    Keras' Adagrad and Adam had the variables of `training.optimizers`, of the same names, values
    and order. Its SGD without momentum kept one all the same, which nothing read: "01.m_kernel".

    Args:
        names: the keys of the manifest's "optimizer".
    """
    names = set(names)
    adam = any(re.match(r"\d+\.v_", name) for name in names)
    return names if adam else {name for name in names if not re.match(r"\d+\.m_", name)}
