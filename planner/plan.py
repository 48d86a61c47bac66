"""Print a plan (`--mode=plan`): the placement of tables, the work of a step and its time.

Needs neither data nor TensorFlow. `python3 -m planner.plan --help` describes the direct command.
"""

from __future__ import annotations

import argparse
import sys

from model.embedding.optimizers import OPTIMIZERS
from model.embedding.placement import Placement, PlacementError
from model.embedding.shards import byte_text
from model.interactions import INTERACTIONS
from planner.arguments import read_bytes, read_hotness, read_vocab_sizes, read_widths
from planner.cost_model import ID_EXPONENT, StepCost
from planner.hardware import DEVICES, SOFTWARE
from planner.planned_run import Machines, PlannedRun, Tables
from planner.published_runs import VOCABULARIES
from planner.workload import ModelShape, row_wise_imbalance
from storage.arguments import number, whole_number

SCALES = (1, 2, 4, 8, 16, 32, 64)
# The exit status of argparse for a wrong argument.
_EXIT_USER_ERROR = 2


def render(run: PlannedRun) -> str:
    """Return the plan of a run as text.

    Raises:
      PlacementError: the tables do not fit; lists the numbers of ranks on which they do.
      ValueError: a size or a name is invalid.
    """
    shape, ranks, device = run.shape, run.machines.ranks, run.machines.device
    try:
        placed = run.place(ranks)
    except PlacementError as error:
        if error.missing_bytes is None:
            raise
        raise PlacementError(
            f"{error}; {_where_it_fits(run)}", missing_bytes=error.missing_bytes, **error.fields
        ) from None
    step = run.cost(placed)
    bottom = "-".join(map(str, (shape.dense_features, *shape.bottom_mlp)))
    top = "-".join(map(str, (shape.make_interaction().width, *shape.top_mlp)))
    total = sum(placed.bytes_of(rank) for rank in range(ranks))
    budget = run.machines.table_bytes
    limit = "no memory limit" if budget is None else f"at most {byte_text(budget)} of tables a rank"
    lines = [
        f"model      {len(shape.vocab_sizes)} tables, {sum(shape.vocab_sizes):,} rows of "
        f"{shape.dimension} float32, {byte_text(total)} with {run.tables.optimizer}"
        + (f", {sum(shape.ids)} ids a sample" if shape.hotness else "")
        + f"; MLPs {bottom} and {top}",
        f"run        {ranks} x {device}, {limit}; global batch {run.global_batch_size:,} "
        f"({run.global_batch_size // ranks:,} a rank), {run.precision}, {run.machines.software}"
        + (f", unique ids {step.unique_fraction:.0%}" if run.compress else ""),
        "",
        "Placement",
        placed.describe(),
        "",
        *_step_lines(step, ranks),
        *_imbalance_lines(placed, run.compress),
        "",
        f"The same global batch on other numbers of ranks ({device})",
        *_scale_lines(run, sorted({*SCALES, ranks})),
        "",
        "Predicted from counted work and the constants in planner/hardware.py; docs/placement.md "
        "compares such predictions with published rates.",
    ]
    return "\n".join(lines)


def _where_it_fits(run: PlannedRun) -> str:
    *others, last = [str(count) for count in SCALES if _fits(run, count)] or [""]
    if not last:
        return f"they do not fit on up to {SCALES[-1]} ranks"
    return f"they would fit on {', '.join(others)}{' or ' if others else ''}{last} ranks"


def _fits(run: PlannedRun, count: int) -> bool:
    try:
        run.place(count)
    except PlacementError:
        return False
    return True


def _step_lines(step: StepCost, ranks: int) -> list[str]:
    counts = step.counts
    lines = ["One step (the busiest rank)", f"  {'':44}{'work':>12}{'ms':>9}  limited by"]
    for phase in step.phases:
        work = ""
        if phase.bound == "arithmetic":
            work = f"{phase.amount / 1e9:.1f} GFLOP"
        elif phase.amount:
            work = byte_text(phase.amount)
        parallel = " (in parallel)" if phase.hidden else ""
        lines.append(
            f"  {phase.name:44}{work:>12}{phase.seconds * 1e3:>9.3f}  {phase.bound}{parallel}"
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


def _imbalance_lines(placed: Placement, compress: bool) -> list[str]:
    if compress or placed.ranks == 1 or not placed.row_wise_tables:
        return []
    sizes = [placed.vocab_sizes[table] for table in placed.row_wise_tables]
    imbalance = row_wise_imbalance(sizes, placed.ranks, ID_EXPONENT)
    return [
        "  Assumes evenly distributed ids of row-wise tables. If small ids are the most frequent "
        f"(power law {ID_EXPONENT}),",
        f"  the busiest rank serves {imbalance:.2f} times the mean; --dedup_ids balances them.",
    ]


def _scale_lines(run: PlannedRun, counts: list[int]) -> list[str]:
    global_batch = run.global_batch_size
    lines = [
        f"{'ranks':>7}{'table/row/column':>18}{'fullest rank':>14}{'exchanged':>12}{'step ms':>10}"
        f"{'M samples/s':>13}{'a rank':>9}  largest part"
    ]
    for count in counts:
        try:
            placed = run.place(count)
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
        step = run.cost(placed)
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


def main(arguments: list[str] | None = None) -> int:
    """Print a plan; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python3 -m planner.plan", description=(__doc__ or "").split("\n")[0]
    )
    add = parser.add_argument
    # fmt: off
    add("--ranks", type=whole_number(1, 1 << 16), default=1, help="number of ranks")
    add("--device", default="a100-80gb", choices=list(DEVICES))
    add("--global_batch_size", type=whole_number(1), default=65536,
        help="samples of a step over all ranks")
    add("--amp", action="store_true", help="mixed precision")
    add("--vocab_sizes", default="mlperf",
        help=f"table sizes: {', '.join(VOCABULARIES)}, a comma-separated list or a JSON file")
    add("--hotness", help="ids per sample for each table: mlperf, a comma-separated list or a JSON "
        "file (default: 1)")
    add("--embedding_dim", type=whole_number(1, 1 << 20), default=128,
        help="columns of an embedding vector")
    add("--bottom_mlp", default="512,256,128", help="layer widths")
    add("--top_mlp", default="1024,1024,512,256,1", help="layer widths")
    add("--interaction", default="dot", choices=list(INTERACTIONS))
    add("--cross_layers", type=whole_number(1, 256), help="of --interaction=cross; default: 3")
    add("--cross_rank", type=whole_number(0, 1 << 20),
        help="of --interaction=cross; 0: full rank; default: 512")
    add("--optimizer", default="sgd", choices=list(OPTIMIZERS), help="row optimizer of the tables")
    add("--placement", default="auto", help="auto, table, row or a JSON file")
    add("--column_split", action="store_true",
        help="split tables by column if that balances the ranks better")
    add("--replicate_below_rows", type=whole_number(), default=0,
        help="replicate tables with fewer rows than this")
    add("--memory_per_rank", help="bytes for tables, such as 40GiB")
    add("--dedup_ids", "--compress", dest="compress", action="store_true",
        help="remove duplicate ids before the exchange")
    add("--unique_fraction", type=number(0, 1),
        help="measured unique ids over all ids of a local batch")
    add("--software", default="tensorflow", choices=list(SOFTWARE))
    add("--network_bandwidth", help="bytes per second per rank between nodes, such as 20GiB")
    # fmt: on
    flags = parser.parse_args(arguments)
    options = {n: getattr(flags, n) for n in ("cross_layers", "cross_rank")}
    options = {name: value for name, value in options.items() if value is not None}
    if options and flags.interaction != "cross":
        parser.error(f"--{', --'.join(options)}: only works with --interaction=cross")
    try:
        run = PlannedRun(
            ModelShape(
                read_vocab_sizes(flags.vocab_sizes),
                dimension=flags.embedding_dim,
                bottom_mlp=read_widths("bottom_mlp", flags.bottom_mlp),
                top_mlp=read_widths("top_mlp", flags.top_mlp),
                interaction=flags.interaction,
                hotness=() if flags.hotness is None else read_hotness("hotness", flags.hotness),
                **options,
            ),
            Machines(
                flags.ranks,
                flags.device,
                flags.software,
                _bytes(flags, "memory_per_rank"),
                _bytes(flags, "network_bandwidth"),
            ),
            Tables(
                flags.optimizer, flags.placement, flags.column_split, flags.replicate_below_rows
            ),
            global_batch_size=flags.global_batch_size,
            amp=flags.amp,
            compress=flags.compress,
            unique_fraction=flags.unique_fraction,
        )
        text = render(run)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return _EXIT_USER_ERROR
    print(text)
    return 0


def _bytes(flags: argparse.Namespace, name: str) -> int | None:
    text = getattr(flags, name)
    return None if text is None else read_bytes(name, text)


if __name__ == "__main__":
    sys.exit(main())
