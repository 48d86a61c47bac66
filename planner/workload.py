"""What one DLRM training step does, counted: operations, bytes of memory, bytes exchanged.

Everything here is a count that follows from shapes; times are `planner.cost_model`'s business.
B global batch, b = B/N local batch, N ranks, T tables, D embedding dimension.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from model.embedding.placement import Placement
from model.embedding.row_types import DEFAULT, ROW_TYPES
from model.interactions import Interaction, interaction_class

ROW_VALUE_BYTES = ROW_TYPES[DEFAULT]  # of a table
VALUE_BYTES = {"fp32": 4, "tf32": 4, "fp16": 2, "bf16": 2}  # activations and exchanged vectors
GRADIENT_BYTES = 4  # of a replicated table, summed in float32
ID_BYTES = 4  # of an id, or a row number of a rank's variable, on its way: int32


@dataclasses.dataclass(frozen=True)
class ModelShape:
    """The sizes of a DLRM.

    Attributes:
      vocab_sizes: rows of each of the T tables.
      dimension: D, the width of the last bottom layer too.
      dense_features: inputs of the bottom MLP.
      bottom_mlp: widths of its layers.
      top_mlp: widths of its layers.
      interaction: a name in `model.interactions.INTERACTIONS`.
    """

    vocab_sizes: tuple[int, ...]
    dimension: int = 128
    dense_features: int = 13
    bottom_mlp: tuple[int, ...] = (512, 256, 128)
    top_mlp: tuple[int, ...] = (1024, 1024, 512, 256, 1)
    interaction: str = "dot"

    def __post_init__(self):
        if not self.bottom_mlp or self.bottom_mlp[-1] != self.dimension:
            raise ValueError(
                f"the last bottom layer must be as wide as an embedding vector ({self.dimension}), "
                f"found {list(self.bottom_mlp)}"
            )
        if not self.top_mlp:
            raise ValueError("the top MLP has no layer")
        interaction_class(self.interaction)

    def make_interaction(self) -> Interaction:
        """Returns what makes the top MLP's input; it counts its own work."""
        return interaction_class(self.interaction)(len(self.vocab_sizes), self.dimension)

    @property
    def layers(self) -> list[tuple[int, int]]:
        """(inputs, outputs) of each dense layer, bottom first."""
        bottom = (self.dense_features, *self.bottom_mlp)
        top = (self.make_interaction().width, *self.top_mlp)
        return [*zip(bottom[:-1], bottom[1:]), *zip(top[:-1], top[1:])]

    @property
    def dense_parameters(self) -> int:
        """Weights and biases of both MLPs, and the interaction's parameters."""
        mlps = sum((inputs + 1) * outputs for inputs, outputs in self.layers)
        return mlps + sum(math.prod(p.shape) for p in self.make_interaction().parameters)

    @property
    def mlp_flops(self) -> int:
        """Floating-point operations of both MLPs per sample, forward and backward.

        Three matrix products a layer (output, weight gradient, input gradient), except that
        nobody needs the gradient of the dense features.
        """
        macs = [inputs * outputs for inputs, outputs in self.layers]
        return 2 * (3 * sum(macs) - macs[0])

    @property
    def mlp_values(self) -> int:
        """Activations that the MLPs' matrix products read and write per sample.

        Each product reads its input and writes its output once; bias and ReLU are taken as fused.
        """
        values = [inputs + outputs for inputs, outputs in self.layers]
        return 3 * sum(values) - values[0]


@dataclasses.dataclass(frozen=True)
class StepCounts:
    """What the busiest rank does in one step (all bytes, operations: per step of one rank).

    Attributes:
      matrix_flops: MLPs and interaction, forward and backward.
      mlp_bytes, interaction_bytes: activations through memory.
      lookup_bytes: rows read and vectors written.
      update_bytes: gradients read, rows (and optimizer state) read and written.
      reorder_bytes: copies between the exchange's order (each vector once where duplicate ids
        were removed) and the samples' order, forward and backward.
      vector_bytes: vectors sent or received, whichever is more, in one direction of the step,
        the rank's own part included; the backward exchange is as large.
      id_bytes: ids sent to their owners, the rank's own part included.
      allreduce_bytes: gradients that every rank must have.
      input_bytes: bytes of samples read from the data set.
    """

    matrix_flops: float
    mlp_bytes: float
    interaction_bytes: float
    lookup_bytes: float
    update_bytes: float
    reorder_bytes: float
    vector_bytes: float
    id_bytes: float
    allreduce_bytes: float
    input_bytes: float


def exchanged_values(placement: Placement, rank: int, global_batch: int) -> tuple[float, float]:
    """Count the values that a rank exchanges in the forward direction of a step.

    Returns:
      (sent, received), the rank's own part included, every id counted as often as it occurs.
      Exact, but for the part of `sent` that is of row-wise tables: there the mean over ranks.
    """
    local = global_batch // placement.ranks
    row_wise = local * len(placement.row_wise_tables) * placement.dimension
    tables = len(placement.vocab_sizes) - len(placement.replicated_tables)
    return (
        global_batch * placement.columns_of(rank) + row_wise,
        local * tables * placement.dimension,
    )


def count_step(
    shape: ModelShape,
    placement: Placement,
    global_batch: int,
    precision: str,
    *,
    unique_fraction: float = 1.0,
    row_imbalance: float = 1.0,
    per_table_files: bool = True,
    gradient_bytes: int = 4,
) -> StepCounts:
    """Count one training step.

    Args:
      shape: the model.
      placement: of its tables.
      global_batch: B; the ranks must divide it.
      precision: `fp32`, `tf32`, `fp16` or `bf16`; tables and optimizer state stay float32.
      unique_fraction: unique ids of a local batch over all its ids, where duplicates are removed
        before they travel; 1 where they are not.
      row_imbalance: ids of row-wise tables that the busiest rank serves, over the mean.
      per_table_files: whether a rank can read the ids of its own tables alone. If it can, every
        table lies whole on one rank and duplicates stay, no id is exchanged.
      gradient_bytes: bytes of a dense gradient's value in the all-reduce.

    Returns:
      The `StepCounts` of the busiest rank, term by term.
    """
    ranks, tables = placement.ranks, len(shape.vocab_sizes)
    interaction = shape.make_interaction()
    if placement.vocab_sizes != tuple(shape.vocab_sizes):
        raise ValueError("the placement is of other tables than the model's")
    if global_batch < 1 or global_batch % ranks:
        raise ValueError(f"{ranks} ranks do not divide a global batch of {global_batch} samples")
    local = global_batch // ranks
    value, dimension = VALUE_BYTES[precision], shape.dimension
    replicated = len(placement.replicated_tables)
    exchanged = tables - replicated if ranks > 1 else 0
    whole = len(placement.table_wise_tables) == tables
    compressed = unique_fraction < 1
    own_ids = per_table_files and whole and not compressed

    traffic = [exchanged_values(placement, rank, global_batch) for rank in range(ranks)]
    skew = (row_imbalance - 1) * local * len(placement.row_wise_tables) * dimension
    sent = unique_fraction * (max(sent for sent, _ in traffic) + skew)
    received = unique_fraction * traffic[0][1]
    looked_up = sent / dimension + local * replicated  # vectors
    state = placement.optimizer_bytes_per_row
    pieces = 2 if placement.column_wise_tables else 1  # beside halves, whole rows are two halves
    moved = local * (tables - replicated) * dimension * value if ranks > 1 or compressed else 0
    replicated_rows = sum(shape.vocab_sizes[table] for table in placement.replicated_tables)
    return StepCounts(
        matrix_flops=local * (shape.mlp_flops + interaction.flops),
        mlp_bytes=local * shape.mlp_values * value,
        interaction_bytes=local * interaction.values * value,
        lookup_bytes=looked_up * dimension * (ROW_VALUE_BYTES + value),
        update_bytes=looked_up * (dimension * value + 2 * (ROW_VALUE_BYTES * dimension + state)),
        reorder_bytes=2 * (1 + unique_fraction) * moved,
        vector_bytes=max(sent, received) * value if ranks > 1 else 0,
        id_bytes=0 if own_ids else unique_fraction * local * exchanged * pieces * ID_BYTES,
        allreduce_bytes=(
            shape.dense_parameters * gradient_bytes + replicated_rows * dimension * GRADIENT_BYTES
            if ranks > 1
            else 0
        ),
        input_bytes=_input_bytes(shape, placement, global_batch, per_table_files, own_ids),
    )


def _input_bytes(shape, placement, global_batch, per_table_files, own_ids):
    local = global_batch // placement.ranks
    if not per_table_files:  # 32-bit label, dense features and ids
        return local * 4 * (1 + shape.dense_features + len(shape.vocab_sizes))
    ids = [_stored_id_bytes(rows) for rows in shape.vocab_sizes]
    common = local * (1 + 2 * shape.dense_features)  # bool label, float16 dense features
    if not own_ids:
        return common + local * sum(ids)
    return common + global_batch * max(
        sum(ids[table] for table in placement.tables_of(rank)) for rank in range(placement.ranks)
    )


def _stored_id_bytes(rows):
    """Bytes of an id in a per-table file: int8, int16 or int32 by the table's size."""
    return 1 if rows < 127 else 2 if rows < 32767 else 4


def expected_unique_fraction(vocab_sizes: Sequence[int], samples: int, exponent: float) -> float:
    """Estimate the unique ids of a batch over all its ids, if ids follow a power law.

    Id i of a table (counted from 1) has probability c / i**exponent, so a batch of b ids has
    sum over i of 1 - (1 - p_i)**b distinct ones. Beyond the first thousand rows the sum is taken
    over geometric buckets.

    Args:
      vocab_sizes: rows of each table.
      samples: b, the ids that are made unique together, per table.
      exponent: of the power law, above 0.

    Returns:
      A number in (0, 1].
    """
    unique = 0.0
    for rows in vocab_sizes:
        edges = list(range(1, min(rows, 1000) + 1))
        while edges[-1] <= rows:
            edges.append(max(edges[-1] + 1, min(rows + 1, int(edges[-1] * 1.02))))
        buckets = [(low, high - low) for low, high in zip(edges[:-1], edges[1:])]
        weights = [(low + (count - 1) / 2) ** -exponent for low, count in buckets]
        total = sum(w * count for w, (_, count) in zip(weights, buckets))
        for weight, (_, count) in zip(weights, buckets):
            unique -= count * math.expm1(samples * math.log1p(-min(weight / total, 1 - 1e-12)))
    return min(1.0, unique / (samples * len(vocab_sizes)))


def row_wise_imbalance(vocab_sizes: Sequence[int], ranks: int, exponent: float) -> float:
    """Estimate the ids that the busiest rank of row-wise tables serves, over the mean.

    Preprocessing gives frequent values small ids, and id i lies on rank i mod N: rank 0 holds the
    most frequent value of every table. Ids follow a power law as in `expected_unique_fraction`.

    Args:
      vocab_sizes: rows of each row-wise table.
      ranks: N.
      exponent: of the power law.

    Returns:
      A number in [1, N].
    """
    loads = [0.0] * ranks
    head = 64 * ranks  # beyond, the ranks' shares differ by less than 1/64 of the head's
    for rows in vocab_sizes:
        weights = [(i + 1) ** -exponent for i in range(min(rows, head))]
        rest = _tail(len(weights), rows, exponent)
        total = sum(weights) + rest
        for row, weight in enumerate(weights):
            loads[row % ranks] += weight / total
        loads = [load + rest / total / ranks for load in loads]
    return max(loads) / (sum(loads) / ranks)


def _tail(first, rows, exponent):
    """Sum of i**-exponent for first < i <= rows, by the midpoint rule over unit intervals."""
    low, high = first + 0.5, rows + 0.5
    if exponent == 1:
        return math.log(high / low)
    return (high ** (1 - exponent) - low ** (1 - exponent)) / (1 - exponent)
