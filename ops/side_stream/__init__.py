"""The end of a GPU's side stream, on which embedding ops may run beside others."""

from ops.side_stream.native import join_side_stream

__all__ = ["join_side_stream"]
