"""What `--mode=plan` prints: where tables lie, what a step moves and computes, how long it takes.

Touches neither data nor TensorFlow. `python3 -m planner.plan --help` lists the direct command.
"""

from __future__ import annotations

import argparse
import sys

from model.embedding.placement import (
    POLICIES,
    Placement,
    PlacementError,
    check_optimizer,
    plan,
)
from model.embedding.shards import OPTIMIZER_STATE_BYTES, byte_text
from model.interactions import INTERACTIONS
from planner.arguments import (
    check_column_split,
    precision_of,
    read_vocab_sizes,
    read_widths,
)
from planner.cost_model import ID_EXPONENT, RunConfig, predict
from planner.hardware import DEVICES, SOFTWARE, TABLE_MEMORY_SHARE
from planner.workload import ModelShape, row_wise_imbalance
from storage.arguments import number, whole_number
from training.flag_values import read_bytes
from training.runtime.errors import EXIT_OK, EXIT_USER_ERROR, UserError

SCALES = (1, 2, 4, 8, 16, 32, 64)


def render(
    vocab_sizes,
    *,
    ranks=1,
    device="a100-80gb",
    global_batch_size=65536,
    amp=False,
    dimension=128,
    dense_features=13,
    bottom_mlp=(512, 256, 128),
    top_mlp=(1024, 1024, 512, 256, 1),
    interaction="dot",
    optimizer="sgd",
    placement="auto",
    column_split=False,
    replicate_below_rows=0,
    memory_per_rank=None,
    compress=False,
    unique_fraction=None,
    per_table_files=True,
    software="tensorflow",
    network_bandwidth=None,
):
    """Return the plan of a run as text.

    Args:
      vocab_sizes: rows of each table.
      ranks: N.
      device: a name in `planner.hardware.DEVICES`.
      global_batch_size: B.
      amp: mixed precision: float16 on a GPU, bfloat16 on a CPU.
      dimension: D.
      dense_features: inputs of the bottom MLP.
      bottom_mlp: widths of the bottom layers, the last of them D.
      top_mlp: widths of the top layers.
      interaction: a name in `model.interactions.INTERACTIONS`.
      optimizer: of the tables, a name in `OPTIMIZER_STATE_BYTES`.
      placement: `auto`, `table`, `row`, or the path of a placement file for N ranks.
      column_split: see `model.embedding.placement.plan`.
      replicate_below_rows: see `model.embedding.placement.plan`.
      memory_per_rank: bytes for tables on one rank; None: a share of the device's memory.
      compress: duplicate ids are removed before they and their vectors travel.
      unique_fraction: measured share of unique ids in a local batch, or None.
      per_table_files: ranks read the ids of their own tables alone.
      software: a name in `planner.hardware.SOFTWARE`.
      network_bandwidth: bytes per second between nodes, per rank; None: the device's.

    Raises:
      PlacementError: if the tables do not fit; says on how many ranks they would.
      ValueError: for sizes or names that cannot be.
    """
    if device not in DEVICES:
        raise ValueError(f"unknown device {device!r}, expected one of {', '.join(DEVICES)}")
    if optimizer not in OPTIMIZER_STATE_BYTES:
        raise ValueError(
            f"unknown optimizer {optimizer!r}, expected one of {', '.join(OPTIMIZER_STATE_BYTES)}"
        )
    if column_split:
        check_column_split(optimizer)
    shape = ModelShape(
        tuple(vocab_sizes),
        dimension,
        dense_features,
        tuple(bottom_mlp),
        tuple(top_mlp),
        interaction,
    )
    budget = memory_per_rank
    if budget is None and DEVICES[device].memory_bytes is not None:
        budget = int(DEVICES[device].memory_bytes * TABLE_MEMORY_SHARE)
    per_column, per_row = OPTIMIZER_STATE_BYTES[optimizer]
    state = per_column * dimension + per_row
    precision = precision_of(device, amp)
    run = RunConfig(
        device,
        global_batch_size,
        precision,
        compress=compress,
        software=software,
        unique_fraction=unique_fraction,
        per_table_files=per_table_files,
        network_bandwidth=network_bandwidth,
    )

    def place(count):
        limits = {"bytes_per_rank": budget, "optimizer_bytes_per_row": state}
        if placement not in POLICIES and count == ranks:
            read = Placement.from_json(
                placement,
                vocab_sizes=shape.vocab_sizes,
                dimension=dimension,
                ranks=ranks,
                **limits,
            )
            check_optimizer(read, optimizer, placement)
            return read
        return plan(
            shape.vocab_sizes,
            dimension,
            count,
            policy=placement if placement in POLICIES else "auto",
            column_split=column_split,
            replicate_below_rows=replicate_below_rows,
            **limits,
        )

    def cost(placed):
        return predict(shape, placed, run)

    try:
        placed = place(ranks)
    except PlacementError as error:
        if error.missing_bytes is None:
            raise
        enough = [str(count) for count in SCALES if _fits(place, count)]
        hint = (
            f"They fit on {', '.join(enough)} ranks."
            if enough
            else (f"They fit on none of {', '.join(map(str, SCALES))} ranks.")
        )
        raise PlacementError(f"{error}\n{hint}", error.table, error.missing_bytes) from None
    step = cost(placed)
    bottom = "-".join(map(str, (dense_features, *bottom_mlp)))
    top = "-".join(map(str, (shape.make_interaction().width, *top_mlp)))
    total = sum(placed.bytes_of(rank) for rank in range(ranks))
    limit = "no limit given" if budget is None else f"at most {byte_text(budget)} of tables a rank"
    lines = [
        f"model      {len(vocab_sizes)} tables, {sum(vocab_sizes):,} rows of {dimension} float32, "
        f"{byte_text(total)} with {optimizer}; MLPs {bottom} and {top}",
        f"run        {ranks} x {device}, {limit}; global batch {global_batch_size:,} "
        f"({global_batch_size // ranks:,} a rank), {precision}, {software}"
        + (f", unique ids {step.unique_fraction:.0%}" if compress else ""),
        "",
        "Placement",
        placed.describe(),
        "",
        *_step_lines(step, ranks),
        *_imbalance_lines(placed, compress),
        "",
        f"The same global batch on other numbers of ranks ({device})",
        *_scale_lines(place, cost, global_batch_size, sorted({*SCALES, ranks})),
        "",
        "Predicted from counted work and the constants of planner/hardware.py; docs/placement.md "
        "shows how far such predictions are off.",
    ]
    return "\n".join(lines)


def _fits(place, count):
    try:
        place(count)
    except PlacementError:
        return False
    return True


def _step_lines(step, ranks):
    counts = step.counts
    lines = ["One step (the busiest rank)", f"  {'':44}{'work':>12}{'ms':>9}  limited by"]
    for phase in step.phases:
        work = ""
        if phase.bound == "arithmetic":
            work = f"{phase.amount / 1e9:.1f} GFLOP"
        elif phase.amount:
            work = byte_text(phase.amount)
        beside = " (beside the rest)" if phase.hidden else ""
        lines.append(
            f"  {phase.name:44}{work:>12}{phase.seconds * 1e3:>9.3f}  {phase.bound}{beside}"
        )
    share = step.bounds[step.bound] / step.seconds
    exchanged = 2 * counts.vector_bytes + counts.id_bytes
    return [
        *lines,
        f"  {'step':44}{'':12}{step.seconds * 1e3:>9.3f}  {step.bound} ({share:.0%} of it)",
        f"  {step.samples_per_second / 1e6:.3f} M samples/s; exchanged {byte_text(exchanged)} a "
        f"rank, all-reduced {byte_text(counts.allreduce_bytes)}; arithmetic "
        f"{counts.matrix_flops * ranks / 1e12:.3f} TFLOP on all ranks; input "
        f"{byte_text(counts.input_bytes * ranks / step.seconds)}/s",
    ]


def _imbalance_lines(placed, compress):
    if compress or placed.ranks == 1 or not placed.row_wise_tables:
        return []
    sizes = [placed.vocab_sizes[table] for table in placed.row_wise_tables]
    imbalance = row_wise_imbalance(sizes, placed.ranks, ID_EXPONENT)
    return [
        f"  Ids of row-wise tables are taken as evenly spread. If small ids are the frequent ones "
        f"(power law {ID_EXPONENT}),",
        f"  the busiest rank serves {imbalance:.2f} times the mean of them; --compress evens that "
        "out.",
    ]


def _scale_lines(place, cost, global_batch, counts):
    lines = [
        f"{'ranks':>7}{'table/row/column':>18}{'fullest rank':>14}{'exchanged':>12}{'step ms':>10}"
        f"{'M samples/s':>13}{'a rank':>9}  largest part"
    ]
    for count in counts:
        try:
            placed = place(count)
        except PlacementError as error:
            if error.missing_bytes is None:
                raise
            lines.append(
                f"{count:>7}  does not fit: {byte_text(error.missing_bytes)} missing on a rank "
                f"(table {error.table})"
            )
            continue
        if global_batch % count:
            lines.append(f"{count:>7}  does not divide the global batch of {global_batch:,}")
            continue
        step = cost(placed)
        kinds = (placed.table_wise_tables, placed.row_wise_tables, placed.column_wise_tables)
        fullest = max(placed.bytes_of(rank) for rank in range(count))
        rate = step.samples_per_second / 1e6
        lines.append(
            f"{count:>7}{'/'.join(str(len(kind)) for kind in kinds):>18}{byte_text(fullest):>14}"
            f"{byte_text(2 * step.counts.vector_bytes + step.counts.id_bytes):>12}"
            f"{step.seconds * 1e3:>10.3f}{rate:>13.3f}{rate / count:>9.3f}  "
            f"{step.bound} {step.bounds[step.bound] / step.seconds:.0%}"
        )
    return lines


def main(arguments=None):
    """Print a plan; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python3 -m planner.plan", description=__doc__.split("\n")[0]
    )
    add = parser.add_argument
    add("--ranks", type=whole_number(1, 1 << 16), default=1, help="number of ranks")
    add("--device", default="a100-80gb", choices=list(DEVICES))
    add("--global_batch_size", type=whole_number(1), default=65536,
        help="samples of a step on all ranks")  # fmt: skip
    add("--amp", action="store_true", help="mixed precision")
    add("--vocab_sizes", default="mlperf", help="name, comma-separated sizes or JSON file")
    add("--embedding_dim", type=whole_number(1, 1 << 20), default=128)
    add("--bottom_mlp", default="512,256,128", help="layer widths")
    add("--top_mlp", default="1024,1024,512,256,1", help="layer widths")
    add("--interaction", default="dot", choices=list(INTERACTIONS))
    add("--optimizer", default="sgd", choices=list(OPTIMIZER_STATE_BYTES), help="of the tables")
    add("--placement", default="auto", help="auto, table, row or a JSON file")
    add("--column_split", action="store_true", help="halve tables where that balances better")
    add("--replicate_below_rows", type=whole_number(), default=0)
    add("--memory_per_rank", help="for tables, such as 40GiB")
    add("--compress", action="store_true", help="remove duplicate ids before they travel")
    add("--unique_fraction", type=number(0, 1),
        help="measured unique ids over ids of a local batch")  # fmt: skip
    add("--software", default="tensorflow", choices=list(SOFTWARE))
    add("--network_bandwidth", help="bytes per second of a rank between nodes, such as 20GiB")
    flags = parser.parse_args(arguments)
    try:
        text = render(
            read_vocab_sizes(flags.vocab_sizes),
            ranks=flags.ranks,
            device=flags.device,
            global_batch_size=flags.global_batch_size,
            amp=flags.amp,
            dimension=flags.embedding_dim,
            bottom_mlp=read_widths("bottom_mlp", flags.bottom_mlp),
            top_mlp=read_widths("top_mlp", flags.top_mlp),
            interaction=flags.interaction,
            optimizer=flags.optimizer,
            placement=flags.placement,
            column_split="auto" if flags.column_split else False,
            replicate_below_rows=flags.replicate_below_rows,
            memory_per_rank=_bytes(flags, "memory_per_rank"),
            compress=flags.compress,
            unique_fraction=flags.unique_fraction,
            software=flags.software,
            network_bandwidth=_bytes(flags, "network_bandwidth"),
        )
    except (ValueError, UserError) as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    print(text)
    return EXIT_OK


def _bytes(flags, name):
    text = getattr(flags, name)
    return None if text is None else read_bytes(name, text)


if __name__ == "__main__":
    sys.exit(main())
