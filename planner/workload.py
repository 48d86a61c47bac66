"""Counts the work of one DLRM training step: operations, memory bytes, exchanged bytes.

All counts follow from shapes; `planner.cost_model` converts them to times.

Shapes: B global batch, b = B/N local batch, N ranks, T tables, D embedding dimension.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from model.embedding.placement import Placement
from model.embedding.row_types import DEFAULT, ROW_TYPES
from model.interactions import Interaction, InteractionOptions, interaction_class

ROW_VALUE_BYTES = ROW_TYPES[DEFAULT]  # of a table
VALUE_BYTES = {"fp32": 4, "tf32": 4, "fp16": 2, "bf16": 2}  # activations and exchanged vectors
GRADIENT_BYTES = 4  # of a replicated table, summed in float32
ID_BYTES = 4  # of an exchanged id or row number: int32


@dataclasses.dataclass(frozen=True)
class ModelShape:
    """The sizes of a DLRM.

    Attributes:
      vocab_sizes: rows of each of the T tables.
      dimension: D, also the width of the last bottom layer.
      dense_features: inputs of the bottom MLP.
      bottom_mlp: widths of its layers.
      top_mlp: widths of its layers.
      interaction: a name in `model.interactions.INTERACTIONS`.
      hotness: ids per sample for each table; empty: one each.
      stored_hotness: those in the dataset; empty: `hotness`. They differ if training adds ids.
      cross_layers, cross_rank: see `model.interactions.InteractionOptions`.
    """

    vocab_sizes: tuple[int, ...]
    dimension: int = 128
    dense_features: int = 13
    bottom_mlp: tuple[int, ...] = (512, 256, 128)
    top_mlp: tuple[int, ...] = (1024, 1024, 512, 256, 1)
    interaction: str = "dot"
    hotness: tuple[int, ...] = ()
    stored_hotness: tuple[int, ...] = ()
    cross_layers: int = 3
    cross_rank: int = 512

    def __post_init__(self):
        if not self.bottom_mlp or self.bottom_mlp[-1] != self.dimension:
            raise ValueError(
                f"bottom MLP: expected a last width of {self.dimension} (embedding dimension), "
                f"found {list(self.bottom_mlp)}"
            )
        if not self.top_mlp:
            raise ValueError("top MLP: expected at least one layer, found none")
        self.make_interaction()
        tables = len(self.vocab_sizes)
        for name in ("hotness", "stored_hotness"):
            found = len(getattr(self, name))
            if found not in (0, tables):
                raise ValueError(f"{name}: expected {tables} numbers, one per table, found {found}")

    @property
    def ids(self) -> tuple[int, ...]:
        """Ids per sample for each table."""
        return self.hotness or (1,) * len(self.vocab_sizes)

    @property
    def stored_ids(self) -> tuple[int, ...]:
        """Ids per sample in the dataset for each table."""
        return self.stored_hotness or self.ids

    def make_interaction(self) -> Interaction:
        """Returns the interaction, which counts its own work."""
        options = InteractionOptions(self.cross_layers, self.cross_rank)
        return interaction_class(self.interaction)(len(self.vocab_sizes), self.dimension, options)

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

        Three matrix products per layer (output, weight gradient, input gradient); the first layer
        has no input gradient.
        """
        macs = [inputs * outputs for inputs, outputs in self.layers]
        return 2 * (3 * sum(macs) - macs[0])

    @property
    def mlp_values(self) -> int:
        """Activation values that the MLPs' matrix products read and write per sample.

        Each product reads its input and writes its output once; assumes fused bias and ReLU.
        """
        values = [inputs + outputs for inputs, outputs in self.layers]
        return 3 * sum(values) - values[0]


@dataclasses.dataclass(frozen=True)
class StepCounts:
    """The work of the busiest rank in one step.

    Attributes:
      matrix_flops: MLPs and interaction, forward and backward.
      mlp_bytes, interaction_bytes: activations through memory.
      lookup_bytes: rows read and vectors written.
      update_bytes: gradients read, rows (and optimizer state) read and written.
      reorder_bytes: copies between the exchange's order (each distinct row, or each bag,
        once) and the samples' order, forward and backward.
      vector_bytes: the larger of vectors sent and received in the forward exchange, including the
        rank's own part; the backward exchange has the same size.
      id_bytes: ids sent to their owners, including the rank's own part.
      allreduce_bytes: gradients in the all-reduce.
      input_bytes: bytes of samples read from the dataset.
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


def exchanged_values(
    placement: Placement, rank: int, global_batch: int, hotness: Sequence[int] = ()
) -> tuple[float, float]:
    """Count the values that a rank exchanges in the forward direction of a step.

    The owner of a table adds the rows of a bag. For a row-wise table each rank adds those that it
    owns: uniform ids of a bag of K are on N (1 - (1 - 1 / N)^K) of the N ranks.

    Args:
      placement: of the tables.
      rank: the rank.
      global_batch: B.
      hotness: ids per sample for each table; empty: one each.

    Returns:
      (sent, received), including the rank's own part and repeated ids. Exact, except that row-wise
      tables contribute expected values: means over ranks and, with several ids, uniform ids.
    """
    hotness = hotness or (1,) * len(placement.vocab_sizes)
    return _exchanged_values(placement, rank, global_batch, _partial_sums(placement, hotness))


def _partial_sums(placement, hotness):
    """Returns the expected partial sums of a bag of each table."""
    sums, ranks = [1.0] * len(hotness), placement.ranks
    for table in placement.row_wise_tables:
        if hotness[table] > 1:
            sums[table] = ranks * (1 - (1 - 1 / ranks) ** hotness[table])
    return sums


def _exchanged_values(placement, rank, global_batch, vectors):
    """Returns `exchanged_values` for a number of vectors per sample for each table."""
    local = global_batch // placement.ranks
    row_wise = local * sum(vectors[t] for t in placement.row_wise_tables) * placement.dimension
    split = {*placement.replicated_tables, *placement.row_wise_tables}
    whole = sum(vectors[t] for t in range(len(vectors)) if t not in split)
    return (
        _served_values(placement, rank, global_batch, vectors),
        local * whole * placement.dimension + row_wise,
    )


def _served_values(placement, rank, global_batch, per_sample):
    """Returns the values that a rank serves, replicated tables excluded.

    Args:
      placement: of the tables.
      rank: the rank.
      global_batch: B.
      per_sample: rows or vectors per sample for each table.
    """
    local = global_batch // placement.ranks
    owned = sum(
        shard.width * per_sample[shard.table]
        for shard in placement.shards_of(rank)
        if shard.kind in ("table", "column")
    )
    row_wise = sum(per_sample[table] for table in placement.row_wise_tables)
    return global_batch * owned + local * row_wise * placement.dimension


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
      global_batch: B, a multiple of N.
      precision: `fp32`, `tf32`, `fp16` or `bf16`; tables and optimizer state are always float32.
      unique_fraction: unique ids of a local batch over all its ids, assumed for each table, if
        duplicates are removed before the exchange, otherwise 1.
      row_imbalance: ids of row-wise tables that the busiest rank serves, over the mean.
      per_table_files: a rank can read the ids of only its own tables. No id is exchanged if also
        every table is on one rank and duplicates are not removed.
      gradient_bytes: bytes of a dense gradient's value in the all-reduce.

    Returns:
      The maximum over ranks of each count.

    Raises:
      ValueError: the placement has other tables, or B is not a multiple of N.
    """
    ranks, tables = placement.ranks, len(shape.vocab_sizes)
    interaction = shape.make_interaction()
    if placement.vocab_sizes != tuple(shape.vocab_sizes):
        raise ValueError(
            f"placement: expected the model's tables {tuple(shape.vocab_sizes)}, found "
            f"{placement.vocab_sizes}"
        )
    if global_batch < 1 or global_batch % ranks:
        raise ValueError(
            f"global batch: expected a multiple of {ranks} (ranks) above 0, found {global_batch}"
        )
    local = global_batch // ranks
    value, dimension = VALUE_BYTES[precision], shape.dimension
    replicated = len(placement.replicated_tables)
    table_wise = len(placement.table_wise_tables) == tables
    compressed = unique_fraction < 1
    own_ids = per_table_files and table_wise and not compressed

    hotness = shape.ids
    ids, vectors = list(map(float, hotness)), _partial_sums(placement, hotness)
    busiest_vectors = list(vectors)
    for table in placement.row_wise_tables:
        busiest_vectors[table] += row_imbalance - 1
    # As `ops.route_rows`: each distinct row of a table travels once, unless they are more than the
    # table's partial sums; these need all ids.
    once = [
        compressed and unique_fraction * ids[table] <= vectors[table] for table in range(tables)
    ]
    for table in range(tables):
        if once[table]:
            distinct = unique_fraction * ids[table]
            skew = row_imbalance if table in placement.row_wise_tables else 1
            ids[table] = vectors[table] = distinct
            busiest_vectors[table] = skew * distinct
    busiest_ids = [
        n * row_imbalance if table in placement.row_wise_tables else n
        for table, n in enumerate(ids)
    ]
    rows = max(_served_values(placement, r, global_batch, busiest_ids) for r in range(ranks))
    sent = max(_served_values(placement, r, global_batch, busiest_vectors) for r in range(ranks))
    received = _exchanged_values(placement, 0, global_batch, vectors)[1]
    replicated_ids = sum(hotness[table] for table in placement.replicated_tables)
    read = rows / dimension + local * replicated_ids  # rows
    made = sent / dimension + local * replicated  # vectors
    state = placement.optimizer_bytes_per_row
    # With a column-wise table, every row is requested as two halves.
    pieces = 2 if placement.column_wise_tables else 1
    # Vectors in the exchange's order and in the samples' order.
    moved = sum(
        1 + (ids[table] if once[table] else 1)
        for table in range(tables)
        if table not in placement.replicated_tables
    )
    moved *= local * dimension if ranks > 1 or compressed else 0
    replicated_rows = sum(shape.vocab_sizes[table] for table in placement.replicated_tables)
    exchanged_ids = sum(
        n for table, n in enumerate(ids) if table not in placement.replicated_tables
    )
    return StepCounts(
        matrix_flops=local * (shape.mlp_flops + interaction.flops),
        mlp_bytes=local * shape.mlp_values * value,
        interaction_bytes=local * interaction.values * value,
        lookup_bytes=dimension * (read * ROW_VALUE_BYTES + made * value),
        update_bytes=made * dimension * value + 2 * read * (ROW_VALUE_BYTES * dimension + state),
        reorder_bytes=2 * moved * value,
        vector_bytes=max(sent, received) * value if ranks > 1 else 0,
        id_bytes=local * exchanged_ids * pieces * ID_BYTES if ranks > 1 and not own_ids else 0,
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
        return local * 4 * (1 + shape.dense_features + sum(shape.stored_ids))
    ids = [_stored_id_bytes(rows) * k for rows, k in zip(shape.vocab_sizes, shape.stored_ids)]
    common = local * (1 + 2 * shape.dense_features)  # bool label, float16 dense features
    if not own_ids:
        return common + local * sum(ids)
    return common + global_batch * max(
        sum(ids[table] for table in placement.tables_of(rank)) for rank in range(placement.ranks)
    )


def _stored_id_bytes(rows):
    """Returns the bytes of an id in a per-table file: int8, int16 or int32."""
    return 1 if rows < 127 else 2 if rows < 32767 else 4


def expected_unique_fraction(
    vocab_sizes: Sequence[int], samples: int, exponent: float, hotness: Sequence[int] = ()
) -> float:
    """Estimate the unique ids of a batch over all its ids for power-law ids.

    Id i of a table (counted from 1) has probability p_i = c / i**exponent, so a batch of b ids has
    the sum over i of 1 - (1 - p_i)**b distinct ids. Beyond the first thousand rows the sum is over
    geometric buckets.

    Args:
      vocab_sizes: rows of each table.
      samples: b, the number of samples whose ids are deduplicated together.
      exponent: exponent of the power law, above 0.
      hotness: ids per sample for each table; empty: one each.

    Returns:
      A number in (0, 1].
    """
    unique = 0.0
    hotness = hotness or (1,) * len(vocab_sizes)
    for rows, ids in zip(vocab_sizes, hotness):
        edges = list(range(1, min(rows, 1000) + 1))
        while edges[-1] <= rows:
            edges.append(max(edges[-1] + 1, min(rows + 1, int(edges[-1] * 1.02))))
        buckets = [(low, high - low) for low, high in zip(edges[:-1], edges[1:])]
        weights = [(low + (count - 1) / 2) ** -exponent for low, count in buckets]
        total = sum(w * count for w, (_, count) in zip(weights, buckets))
        for weight, (_, count) in zip(weights, buckets):
            unique -= count * math.expm1(
                ids * samples * math.log1p(-min(weight / total, 1 - 1e-12))
            )
    return min(1.0, unique / (samples * sum(hotness)))


def row_wise_imbalance(vocab_sizes: Sequence[int], ranks: int, exponent: float) -> float:
    """Estimate the ids of row-wise tables that the busiest rank serves, over the mean.

    Preprocessing gives frequent values small ids, and id i is on rank i mod N, so rank 0 holds the
    most frequent value of every table. Ids follow a power law as in `expected_unique_fraction`.

    Args:
      vocab_sizes: rows of each row-wise table.
      ranks: N.
      exponent: exponent of the power law.

    Returns:
      A number in [1, N].
    """
    loads = [0.0] * ranks
    head = 64 * ranks  # in the tail, the ranks' shares differ by less than 1/64 of the head's
    for rows in vocab_sizes:
        weights = [(i + 1) ** -exponent for i in range(min(rows, head))]
        rest = _tail(len(weights), rows, exponent)
        total = sum(weights) + rest
        for row, weight in enumerate(weights):
            loads[row % ranks] += weight / total
        loads = [load + rest / total / ranks for load in loads]
    return max(loads) / (sum(loads) / ranks)


def _tail(first, rows, exponent):
    """Returns the sum of i**-exponent for first < i <= rows by the midpoint rule."""
    low, high = first + 0.5, rows + 0.5
    if exponent == 1:
        return math.log(high / low)
    return (high ** (1 - exponent) - low ** (1 - exponent)) / (1 - exponent)
