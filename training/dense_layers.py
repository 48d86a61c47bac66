"""Which layers the MLPs are made of: the project's fused op, or TensorFlow's own."""

import sys

import tensorflow as tf

from ops import loader
from training.runtime.errors import UserError


def fused(flags, dtype, gpus, rank):
    """Returns whether the MLPs are computed by the fused op.

    Where --mlp=auto would take it but cannot load it, rank 0 says so.

    Args:
        flags: the parsed flags.
        dtype: of arithmetic, a `tf.DType`.
        gpus: number of GPUs that this process sees.
        rank: this process's.

    Raises:
        UserError: --mlp=fused, which this device or type does not have.
        ops.loader.LibraryNotBuiltError: --mlp=fused without its library.
    """
    if flags.mlp == "tensorflow" or (flags.mlp == "auto" and flags.xla):
        return False
    why_not = None
    if gpus:
        why_not = "runs on CPUs alone, and this rank has a GPU"
    elif dtype == tf.float16:
        why_not = "has float32 and bfloat16, not --amp_dtype=float16"
    if why_not is not None:
        if flags.mlp == "fused":
            raise UserError(f"--mlp=fused {why_not}: take --mlp=tensorflow")
        return False
    try:
        loader.load("mlp")
    except loader.LibraryNotBuiltError as error:
        if flags.mlp == "fused":
            raise
        if rank == 0:
            print(
                f"warning: the MLPs are TensorFlow's own layers, which are slower: {error}",
                file=sys.stderr, flush=True,
            )  # fmt: skip
        return False
    return True
