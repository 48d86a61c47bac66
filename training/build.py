"""Builds what every job needs from the flags: data, placement, dense part, embedding."""

import dataclasses
import pathlib

import tensorflow as tf

from model.dlrm import DenseDLRM, DLRMConfig
from model.embedding import backend
from model.embedding.own import reads_own_tables
from model.embedding.placement import POLICIES, Placement, check_optimizer, plan
from model.embedding.shards import OPTIMIZER_STATE_BYTES
from training import dense_layers, precision
from training.data import open_data
from training.flag_values import read_bytes
from training.flags import widths
from training.runtime import environment
from training.runtime.errors import UserError


@dataclasses.dataclass(frozen=True)
class Parts:
    """What a job is made of.

    Attributes:
        data: a `training.data.Data`.
        dense_model: a `model.dlrm.DenseDLRM`, the same values on all ranks.
        embedding: what `model.embedding.backend.build` returned.
        dtype: of arithmetic and exchange, a `tf.DType`.
    """

    data: "object"
    dense_model: "object"
    embedding: "object"
    dtype: "object"


def build(flags, cluster, dense_features=None):
    """Returns the `Parts` of the job that the flags describe, with initial weights.

    Args:
        flags: the parsed flags.
        cluster: the ranks.
        dense_features: of random batches that no dataset describes; default: 13.

    Raises:
        UserError: the batch is not divisible by the ranks, or a flag has no effect.
        dataset.DatasetError, PlacementError, BackendError, LibraryNotBuiltError: as they say.
    """
    batch, size = flags.global_batch_size, cluster.size
    if batch % size:
        raise UserError(
            f"--global_batch_size={batch} is not divisible by the {size} ranks: the nearest that "
            f"are: {batch // size * size or size} and {(batch // size + 1) * size}"
        )
    gpus = len(tf.config.list_physical_devices("GPU"))
    dtype = precision.compute_dtype(flags, gpus)
    sizes = open_data(flags, dense_features)
    chosen = backend.choose(flags.embedding_backend)
    placement = _placement(flags, cluster, sizes.vocab_sizes, chosen)
    # Where every table has files of its own, a rank reads its tables' ids for all samples.
    own_tables = list(placement.tables_of(cluster.rank))
    model_parallel_input = (
        size > 1
        and sizes.separate_tables
        and chosen.name == "own"
        and reads_own_tables(placement, flags.compress)
    )
    data = sizes.load(own_tables if model_parallel_input else None, cluster)
    config = DLRMConfig(
        dense_features=data.dense_features,
        tables=len(data.vocab_sizes),
        bottom_mlp=widths("bottom_mlp"),
        top_mlp=widths("top_mlp"),
        interaction=flags.interaction,
        seed=flags.seed,
        custom_interact=flags.custom_interact,
        xla=flags.xla,
        fused_mlp=dense_layers.fused(flags, dtype, gpus, cluster.rank),
        dtype=f"mixed_{dtype.name}" if flags.amp else "float32",
    )
    dense_model = DenseDLRM(config)
    cluster.broadcast(dense_model.variables)
    embedding = backend.build(
        chosen,
        placement,
        cluster,
        batch // size,
        seed=flags.seed,
        exchange_dtype=dtype,
        gradient=flags.embedding_gradient,
        native=flags.embedding_kernels == "native",
        model_parallel_input=model_parallel_input,
        compress=flags.compress,
        optimizer=flags.embedding_optimizer,
    )
    return Parts(data, dense_model, embedding, dtype)


def _placement(flags, cluster, vocab_sizes, chosen):
    per_column, per_row = OPTIMIZER_STATE_BYTES[flags.embedding_optimizer]
    limits = {
        "optimizer_bytes_per_row": per_column * flags.embedding_dim + per_row,
        "bytes_per_rank": _budget(flags, cluster),
    }
    if flags.placement not in POLICIES:
        placement = Placement.from_json(
            pathlib.Path(flags.placement), vocab_sizes=vocab_sizes, dimension=flags.embedding_dim,
            ranks=cluster.size, **limits,
        )  # fmt: skip
        check_optimizer(placement, flags.embedding_optimizer, flags.placement)
        return placement
    return plan(
        vocab_sizes, flags.embedding_dim, cluster.size, policy=chosen.policy(flags.placement),
        replicate_below_rows=flags.replicate_below_rows,
        column_split="auto" if flags.column_split else False, **limits,
    )  # fmt: skip


def _budget(flags, cluster):
    if flags.memory_per_rank is not None:
        return read_bytes("memory_per_rank", flags.memory_per_rank)
    return environment.memory_per_rank(cluster.local_size)
