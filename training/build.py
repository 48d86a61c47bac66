"""Builds what every job needs from a configuration: data, placement, dense part, embedding."""

from __future__ import annotations

import dataclasses
import pathlib

import tensorflow as tf

from model.dlrm import DenseDLRM, DLRMConfig
from model.embedding import backend
from model.embedding.interface import Embedding, EmbeddingOptions
from model.embedding.optimizers import OPTIMIZERS
from model.embedding.placement import POLICIES, Placement, check_optimizer, plan
from model.embedding.placement_file import read_placement
from model.embedding.sharded import exchanges_whole_tables
from ops import loader
from training import precision
from training.config import Config, SpeedConfig
from training.data import Data, open_data
from training.runtime import environment
from training.runtime.console import warn
from training.runtime.errors import UserError
from training.runtime.process_group import ProcessGroup


@dataclasses.dataclass(frozen=True)
class Parts:
    """What a job is made of.

    Attributes:
        data: the batches.
        dense_model: the same values on all ranks.
        embedding: what `model.embedding.backend.build` returned.
        dtype: of arithmetic and exchange.
    """

    data: Data
    dense_model: DenseDLRM
    embedding: Embedding
    dtype: tf.DType


def build(config: Config, cluster: ProcessGroup, dense_features: int | None = None) -> Parts:
    """Returns the `Parts` of the job that a configuration describes, with initial weights.

    Args:
        config: the job's; the global batch size must be known.
        cluster: the ranks.
        dense_features: of random batches that no dataset describes; default: 13.

    Raises:
        UserError: the batch is not divisible by the ranks, the training data has no whole batch, or
            a flag has no effect.
        dataset.DatasetError, PlacementError, BackendError, LibraryNotBuiltError: as they say.
    """
    model, speed, training = config.model, config.speed, config.training
    batch, size = training.batch_size, cluster.size
    if batch % size:
        raise UserError(
            f"--global_batch_size={batch} is not divisible by the {size} ranks: the nearest that "
            f"are: {batch // size * size or size} and {(batch // size + 1) * size}"
        )
    gpus = len(tf.config.list_physical_devices("GPU"))
    dtype = precision.compute_dtype(speed, gpus)
    source = open_data(config.data, training, dense_features)
    chosen = backend.choose(speed.embedding_backend)
    placement = _placement(config, cluster, source.vocab_sizes, chosen)
    # Where every table has files of its own, a rank reads its tables' ids for all samples.
    own_tables = list(placement.tables_of(cluster.rank))
    model_parallel_input = (
        size > 1
        and source.separate_tables
        and chosen.name == "native"
        and exchanges_whole_tables(placement, speed.compress)
    )
    data = source.load(own_tables if model_parallel_input else None, cluster)
    if config.job.mode == "train" and not data.steps_per_epoch:
        raise UserError(
            f"{config.data.data_dir}/train has {data.facts['train_samples']} samples, fewer than "
            f"one global batch of {batch}: no step can be made; lower --global_batch_size"
        )
    dense_config = DLRMConfig(
        dense_features=data.dense_features,
        tables=len(data.vocab_sizes),
        bottom_mlp=model.bottom_widths,
        top_mlp=model.top_widths,
        interaction=model.interaction,
        seed=training.seed,
        custom_interact=speed.custom_interact,
        xla=speed.xla,
        fused_mlp=fused_mlp(speed, dtype, gpus, cluster.rank),
        compute_dtype=dtype.name,
    )
    dense_model = DenseDLRM(dense_config)
    cluster.broadcast(dense_model.variables)
    embedding = backend.build(
        chosen,
        placement,
        cluster,
        batch // size,
        EmbeddingOptions(
            seed=training.seed,
            optimizer=training.row_optimizer,
            exchange_dtype=dtype,
            gradient=training.embedding_gradient,
            compress=speed.compress,
            model_parallel_input=model_parallel_input,
            native_kernels=speed.embedding_kernels == "native",
        ),
    )
    return Parts(data, dense_model, embedding, dtype)


def fused_mlp(speed: SpeedConfig, dtype: tf.DType, gpus: int, rank: int) -> bool:
    """Returns whether the MLPs are computed by the project's fused op, not by TensorFlow's layers.

    Where --mlp=auto would take it but cannot load it, rank 0 prints a warning.

    Args:
        speed: the layers asked for.
        dtype: of arithmetic.
        gpus: number of GPUs that this process sees.
        rank: this process's.

    Raises:
        UserError: --mlp=fused, which this device or type does not have.
        ops.loader.LibraryNotBuiltError: --mlp=fused without its library.
    """
    if speed.mlp == "tensorflow" or (speed.mlp == "auto" and speed.xla):
        return False
    why_not = None
    if gpus:
        why_not = "runs on CPUs alone, and this rank has a GPU"
    elif dtype == tf.float16:
        why_not = "has float32 and bfloat16, not --amp_dtype=float16"
    if why_not is not None:
        if speed.mlp == "fused":
            raise UserError(f"--mlp=fused {why_not}: take --mlp=tensorflow")
        return False
    try:
        loader.load("mlp")
    except loader.LibraryNotBuiltError as error:
        if speed.mlp == "fused":
            raise
        if rank == 0:
            warn(f"the MLPs are TensorFlow's own layers, which are slower: {error}")
        return False
    return True


def _placement(
    config: Config, cluster: ProcessGroup, vocab_sizes: list[int], chosen: backend.Choice
) -> Placement:
    placement, dimension = config.placement, config.model.embedding_dim
    optimizer = config.training.embedding_optimizer
    budget = placement.memory_bytes
    if budget is None:
        budget = environment.memory_per_rank(cluster.local_size)
    limits = {
        "optimizer_bytes_per_row": OPTIMIZERS[optimizer].bytes_per_row(dimension),
        "bytes_per_rank": budget,
    }
    if placement.placement not in POLICIES:
        read = read_placement(
            pathlib.Path(placement.placement), vocab_sizes=vocab_sizes, dimension=dimension,
            ranks=cluster.size, **limits,
        )  # fmt: skip
        check_optimizer(read, optimizer, placement.placement)
        return read
    return plan(
        vocab_sizes, dimension, cluster.size, policy=chosen.policy(placement.placement),
        replicate_below_rows=placement.replicate_below_rows,
        column_split="auto" if placement.column_split else False, **limits,
    )  # fmt: skip
