"""Builds the data, the placement, the dense model and the embedding of a configuration."""

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
from model.embedding.sharded import exchanges_complete_tables
from ops import loader
from training import precision
from training.config import Config, SpeedConfig
from training.data import Data, SampleShape, open_data
from training.runtime import environment
from training.runtime.console import warn
from training.runtime.errors import UserError
from training.runtime.process_group import ProcessGroup


@dataclasses.dataclass(frozen=True)
class Parts:
    """The parts of a job.

    Attributes:
        data: the batches.
        dense_model: the data-parallel part, equal on all ranks.
        embedding: the model-parallel part.
        dtype: type of arithmetic and exchange.
    """

    data: Data
    dense_model: DenseDLRM
    embedding: Embedding
    dtype: tf.DType


def build(config: Config, cluster: ProcessGroup, shape: SampleShape | None = None) -> Parts:
    """Returns the `Parts` of a configuration, with initial weights.

    Args:
        config: the configuration; its global batch size must be set.
        cluster: the ranks.
        shape: of the samples of random batches, where neither flags nor a dataset give it.

    Raises:
        UserError: the ranks do not divide the batch, the training data is smaller than one batch,
            or a flag has no effect.
        dataset.DatasetError: the folder is not a dataset, or is damaged.
        PlacementError: the tables do not fit.
        BackendError: the embedding backend cannot be used.
        LibraryNotBuiltError: a native library is missing.
    """
    model, speed, training = config.model, config.speed, config.training
    batch, size = training.batch_size, cluster.size
    if batch % size:
        nearest = f"{batch // size * size or size} or {(batch // size + 1) * size}"
        problem = f"expected a multiple of the number of ranks ({size}); try {nearest}"
        raise UserError.of_flag("global_batch_size", batch, problem, bound=size)
    gpus = len(tf.config.list_physical_devices("GPU"))
    if speed.embedding_stream and not gpus:
        problem = "needs a GPU, found none; leave it out"
        raise UserError.of_flag("embedding_stream", "true", problem)
    dtype = precision.compute_dtype(speed, gpus)
    if gpus and speed.deterministic:
        tf.config.experimental.enable_op_determinism()
    if gpus:
        tf.config.experimental.enable_tensor_float_32_execution(speed.tf32)
    elif speed.tf32 and "tf32" in config.given:
        problem = "needs a GPU: CPUs do not round the operands of float32 products; leave it out"
        raise UserError.of_flag("tf32", "true", problem)
    source = open_data(config.data, training, shape)
    chosen = backend.choose(speed.embedding_backend, multi_hot=not source.bags.is_one_hot)
    placement = _placement(config, cluster, source.vocab_sizes, chosen)
    # If every table's ids are stored apart, each rank reads the ids of its tables for all samples.
    own_tables = list(placement.tables_of(cluster.rank))
    model_parallel_input = (
        size > 1
        and source.separate_tables
        and chosen.name == "native"
        and exchanges_complete_tables(placement, speed.dedup_ids)
    )
    data = source.load(
        own_tables if model_parallel_input else None, cluster,
        environment.host_bytes(cluster.local_size, placement.bytes_of(cluster.rank)),
    )  # fmt: skip
    if config.job.mode == "train" and not data.steps_per_epoch:
        samples = data.facts["train_samples"]
        problem = f"larger than the {samples} samples in {config.data.data_dir}/train"
        raise UserError.of_flag("global_batch_size", batch, problem, bound=samples)
    dense_config = DLRMConfig(
        dense_features=data.dense_features,
        tables=len(data.vocab_sizes),
        bottom_mlp=model.bottom_widths,
        top_mlp=model.top_widths,
        interaction=model.interaction,
        cross_layers=model.cross_layers,
        cross_rank=model.cross_rank,
        seed=training.seed,
        custom_interact=speed.custom_interact,
        xla=speed.xla,
        fused_mlp=fused_mlp(speed, dtype, gpus, cluster.rank),
        tf32=speed.tf32,
        compute_dtype=dtype.name,
    )
    if speed.embedding_stream and not dense_config.fused_mlp:
        # The parts of TensorFlow's MLPs cannot be ordered relative to the tables' kernels.
        problem = "needs the fused MLPs, found TensorFlow's layers; use --mlp=fused without --xla"
        raise UserError.of_flag("embedding_stream", "true", problem)
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
            compress=speed.dedup_ids,
            model_parallel_input=model_parallel_input,
            native_kernels=speed.embedding_kernels == "native",
            deterministic=speed.deterministic,
            side_stream=speed.embedding_stream,
            bags=data.bags,
        ),
    )
    return Parts(data, dense_model, embedding, dtype)


def fused_mlp(speed: SpeedConfig, dtype: tf.DType, gpus: int, rank: int) -> bool:
    """Returns whether to compute the MLPs with the fused op instead of TensorFlow's layers.

    If --mlp=auto cannot use the op because of how the libraries were built, rank 0 prints a
    warning.

    Args:
        speed: the settings.
        dtype: type of arithmetic.
        gpus: number of GPUs that this process sees.
        rank: this process's rank.

    Raises:
        UserError: --mlp=fused does not support `dtype` on the device, or the op library has no
            CUDA kernels.
        ops.loader.LibraryNotBuiltError: --mlp=fused, but its library is not built.
    """
    required = speed.mlp == "fused"
    if speed.mlp == "tensorflow" or (not required and speed.xla):
        return False
    if not gpus and dtype == tf.float16:
        if required:
            problem = "expected float32 or bfloat16 on a CPU, found float16; use --mlp=tensorflow"
            raise UserError.of_flag("mlp", "fused", problem)
        return False
    try:
        if not gpus:
            loader.load("mlp")
        elif not loader.has_cuda():
            problem = (
                "the op library has no CUDA kernels: install a CUDA toolkit and build it again"
            )
            raise UserError.of_flag("mlp", speed.mlp, f"{problem}, or use --mlp=tensorflow")
    except (loader.LibraryNotBuiltError, UserError) as error:
        if required:
            raise
        if rank == 0:
            warn(f"the MLPs use TensorFlow's layers, which are slower than the fused op: {error}")
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
