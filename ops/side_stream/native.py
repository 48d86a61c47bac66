"""Python wrapper of `Dlrm>JoinSideStream`."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from ops import loader


def join_side_stream(
    variables: Sequence[tf.Variable], values: Sequence[tf.Tensor] = (), name: str | None = None
) -> list[tf.Tensor]:
    """Orders all later ops after those of the side stream (``side_stream=True``).

    Between such an op and the next join no other op may use its results or its variables, also not
    in another function. A GPU runs it beside the ops that are executed on the host after it and
    before the join: in a `tf.function`, control dependencies on its results decide which these are.
    A CPU has no side stream: there this does nothing.

    Args:
        variables: at least one, on one device: the variables of the ops of the side stream, and of
            other ops that shall come before the join if they are before it in the program.
        values: float tensors on that device that the join waits for.
        name: name of the op.

    Returns:
        The values, unchanged, for the ops that come after the join.

    Raises:
        ops.loader.LibraryNotBuiltError: the native library is not built.
    """
    handles = [variable.handle for variable in variables]
    joined = loader.load().dlrm_join_side_stream(tables=handles, values=list(values), name=name)
    # In a graph, an op without outputs returns itself.
    return list(joined) if values else []
