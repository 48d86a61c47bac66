"""The command line: absl flags in groups, checked before anything is loaded.

Importing this module imports no TensorFlow, so that a wrong flag is an error within a second.
"""

import difflib
import json
import sys

from absl import flags

from training.errors import UserError
from training.plan_arguments import read_vocab_sizes

FLAGS = flags.FLAGS
MODES = ("train", "plan")
OPTIMIZERS = ("sgd", "adagrad", "rowwise_adagrad")
GROUPS = {}

# The vocabulary of the demo data (`dataset.synthetic`).
DEMO_VOCAB_SIZES = (
    "203931,18598,14092,7012,18977,4,6385,1245,49,186213,71328,67288,11,2168,7338,61,4,932,15,"
    "204515,141526,199433,60919,9137,71,34"
)


def _define(group, kind, name, default, description, **options):
    getattr(flags, f"DEFINE_{kind}")(name, default, help=description, **options)
    GROUPS.setdefault(group, []).append(name)


def _define_all():
    job, data, model, train, placement, speed, evaluation, output = (
        "Job",
        "Data", "Model", "Training", "Embedding placement",
        "Speed (never changes the result beyond rounding)",
        "Evaluation and stopping", "Output and faults",
    )  # fmt: skip
    _define(
        job, "enum", "mode", "train",
        "train: train and evaluate. plan: print where tables go, what a step costs and how long it "
        "would take, without touching data",
        enum_values=list(MODES),
    )  # fmt: skip
    _define(job, "integer", "ranks", 1, "ranks to plan for (--mode=plan)", lower_bound=1)
    _define(job, "string", "device", "a100-80gb", "device to plan for (--mode=plan)")

    _define(data, "string", "data_dir", None, "dataset folder, holding train/ and test/")
    _define(data, "string", "data_layout", "auto", "layout of the files; auto recognises it")
    _define(
        data, "bool", "use_splited_dataset", False,
        "the dataset has one file per table (the seed benchmark's spelling; auto finds out too)",
    )  # fmt: skip
    _define(
        data, "bool", "use_synthetic_dataset", False,
        "random batches in memory: speed without a dataset, no AUC",
    )  # fmt: skip
    _define(
        data, "string", "vocab_sizes", None,
        "rows of each table, for --use_synthetic_dataset and --mode=plan: comma-separated, a JSON "
        "file, or a name such as mlperf; default: those of --data_dir, else the demo's (plan: "
        "mlperf)",
    )  # fmt: skip
    _define(
        data, "integer", "shuffle_seed", None,
        "read the batches of each epoch in an order drawn from this seed; default: file order",
    )  # fmt: skip
    _define(data, "integer", "prefetch", 4, "batches read ahead of the step", lower_bound=1)
    _define(data, "integer", "parallel_reads", 2, "batches read at the same time", lower_bound=1)

    _define(model, "integer", "embedding_dim", 128, "embedding dimension D", lower_bound=1)
    _define(
        model, "string", "bottom_mlp", "512,256,128",
        "layer widths of the bottom MLP, comma-separated; the last must be --embedding_dim",
    )  # fmt: skip
    _define(
        model, "string", "top_mlp", "1024,1024,512,256,1",
        "layer widths of the top MLP, comma-separated; the last must be 1",
    )  # fmt: skip
    _define(
        model, "enum", "ablation", "none",
        "cut a part out, to see what it contributes",
        enum_values=["none", "frozen_embeddings", "no_interaction"],
    )  # fmt: skip

    _define(
        train, "integer", "global_batch_size", None,
        "samples in one step over all ranks; required", lower_bound=1,
    )  # fmt: skip
    _define(train, "integer", "epochs", 1, "passes over the training data", lower_bound=1)
    _define(
        train, "integer", "early_stop", -1,
        "stop after this many steps; -1: do not. With --use_synthetic_dataset the default is 30",
    )  # fmt: skip
    _define(train, "float", "lr", 24.0, "learning rate between warm-up and decay", lower_bound=0.0)
    _define(
        train, "integer", "warmup_steps", None,
        "steps of linear warm-up; default: MLPerf's 2750 x 55296 / global batch", lower_bound=0,
    )  # fmt: skip
    _define(
        train, "integer", "decay_start_step", None,
        "step at which the decay begins, 0: no decay; default: 49315 x 55296 / global batch",
        lower_bound=0,
    )  # fmt: skip
    _define(
        train, "integer", "decay_steps", None,
        "steps of quadratic decay; default: 27772 x 55296 / global batch", lower_bound=0,
    )  # fmt: skip
    _define(train, "float", "end_lr", 0.0, "learning rate after the decay", lower_bound=0.0)
    _define(
        train, "enum", "embedding_gradient", "mean",
        "mean: the loss is the mean over the global batch. sum: the SOK benchmark's behaviour, an "
        "embedding learning rate as many times larger as there are ranks",
        enum_values=["mean", "sum"],
    )  # fmt: skip
    _define(
        train, "float", "embedding_lr", None,
        "learning rate of the tables, on the same schedule; default: --lr", lower_bound=0.0,
    )  # fmt: skip
    _define(
        train, "enum", "embedding_optimizer", "sgd", "optimizer of the tables",
        enum_values=list(OPTIMIZERS),
    )  # fmt: skip
    _define(train, "integer", "seed", 12345, "seed of the initial weights", lower_bound=0)

    _define(
        speed, "bool", "amp", False,
        "mixed precision: bfloat16 arithmetic and exchange, float32 weights, tables and loss",
    )  # fmt: skip
    _define(speed, "bool", "xla", False, "compile the dense layers with XLA")
    _define(speed, "bool", "custom_interact", False, "take the project's dot-interaction op")
    _define(
        speed, "enum", "embedding_kernels", "native",
        "kernels of the tables: the project's, or TensorFlow's formulation of them",
        enum_values=["native", "tensorflow"],
    )  # fmt: skip
    _define(
        placement, "string", "placement", "auto",
        "auto: whole tables if they fit, else large ones row by row over all ranks. table, row: "
        "all of them so. Or a JSON file that says it for each table",
    )  # fmt: skip
    _define(
        placement, "string", "memory_per_rank", None,
        "memory that tables may take on one rank, e.g. 70GiB; default: 80 % of what the machine "
        "has free",
    )  # fmt: skip
    _define(
        placement, "integer", "replicate_below_rows", 0,
        "keep tables of fewer rows whole on every rank", lower_bound=0,
    )  # fmt: skip
    _define(
        placement, "bool", "column_split", False,
        "--placement=auto may halve tables by columns where that evens out the ranks",
    )  # fmt: skip
    _define(
        speed, "enum", "embedding_backend", "auto",
        "own: this project's kernels. sok: SparseOperationKit. auto: SOK where it imports and a "
        "GPU is there, else own",
        enum_values=["auto", "own", "sok"],
    )  # fmt: skip
    _define(
        speed, "bool", "overlap", True,
        "exchange the next batch's ids while this one computes",
    )  # fmt: skip
    _define(
        speed, "bool", "compress", False,
        "remove duplicate ids before they and their vectors travel",
    )  # fmt: skip

    _define(
        evaluation, "integer", "evals_per_epoch", 20, "evaluations in each epoch", lower_bound=1
    )
    _define(
        evaluation, "integer", "eval_interval", None,
        "steps between evaluations; overrides --evals_per_epoch", lower_bound=1,
    )  # fmt: skip
    _define(evaluation, "bool", "eval_in_last", False, "evaluate once, at the end")
    _define(
        evaluation, "float", "auc_threshold", 0.8025,
        "stop when an evaluation's AUC is above this; 1 never stops",
        lower_bound=0.0, upper_bound=1.0,
    )  # fmt: skip

    _define(output, "string", "run_dir", "runs", "folder in which each run gets a folder")
    _define(
        output, "integer", "print_interval", None,
        "steps between lines where the output is no terminal; default: one every ten seconds",
        lower_bound=1,
    )  # fmt: skip
    _define(
        output, "integer", "stall_timeout", 60,
        "seconds without progress after which a rank is given up", lower_bound=1,
    )  # fmt: skip


_define_all()


def parse(arguments):
    """Parses and checks the command line; returns the absl flag values.

    Args:
        arguments: like sys.argv.

    Raises:
        UserError: an unknown flag (with the nearest known one), a bad value, a combination that
            cannot take effect.
    """
    if any(a in ("--help", "-help", "-h", "--helpfull") for a in arguments[1:]):
        print(help_text())
        sys.exit(0)
    try:
        rest = FLAGS(arguments)
    except flags.UnrecognizedFlagError as error:
        known = [name for names in GROUPS.values() for name in names]
        near = difflib.get_close_matches(error.flagname, known, n=1)
        hint = f"; did you mean --{near[0]}?" if near else ""
        raise UserError(f"unknown flag --{error.flagname}{hint} (--help lists all)") from error
    except flags.Error as error:
        raise UserError(str(error)) from error
    if rest[1:]:
        raise UserError(f"unexpected arguments {' '.join(rest[1:])}: flags start with --")
    _check(FLAGS)
    return FLAGS


def chosen():
    """Returns {name: value} of this project's flags, without absl's own."""
    return {name: getattr(FLAGS, name) for names in GROUPS.values() for name in names}


def help_text():
    """Returns the flags in groups, each with its default and what it means."""
    lines = [
        "usage: python3 main.py --data_dir=DIR --global_batch_size=N [flag ...]",
        "       horovodrun -np N ./hvd_wrapper.sh python3 main.py ...",
        "",
        "Trains DLRM. --flagfile=FILE reads flags from a file, one a line.",
    ]
    for group, names in GROUPS.items():
        lines += ["", f"{group}:"]
        for name in names:
            flag = FLAGS[name]
            default = "" if flag.default is None else f" [{flag.default_as_str}]"
            lines.append(f"  --{name}{default}".replace("['", "[").replace("']", "]"))
            lines.append(f"      {flag.help}")
    return "\n".join(lines)


def widths(name):
    """Returns the comma-separated flag `name` as a list of positive integers."""
    text = getattr(FLAGS, name)
    try:
        values = json.loads(f"[{text.strip().strip('[]')}]")
        if not values or not all(isinstance(v, int) and v > 0 for v in values):
            raise ValueError
    except ValueError:
        raise UserError(f"--{name}={text}: expected positive integers, comma-separated") from None
    return values


def vocab_sizes(default):
    """Returns the sizes that --vocab_sizes names, else those that `default` names."""
    try:
        return list(read_vocab_sizes(FLAGS.vocab_sizes or default))
    except ValueError as error:
        raise UserError(f"--vocab_sizes: {error}") from error


def _check(values):
    if values.mode == "plan":
        if values.global_batch_size is None:
            values.global_batch_size = 65536
        return
    if values.global_batch_size is None:
        raise UserError("--global_batch_size is required: samples in one step over all ranks")
    if values.data_dir is None and not values.use_synthetic_dataset:
        raise UserError("--data_dir is required (or --use_synthetic_dataset for random batches)")
    if values.early_stop == 0 or values.early_stop < -1:
        raise UserError(f"--early_stop={values.early_stop}: expected a number of steps, or -1")
    if values.vocab_sizes is not None and not values.use_synthetic_dataset:
        raise UserError(
            "--vocab_sizes only goes with --use_synthetic_dataset: a dataset's metadata has its own"
        )
    if values.embedding_lr is not None and not values.lr:
        raise UserError("--embedding_lr is on the schedule of --lr, which is 0: nothing would move")
    bottom, top = widths("bottom_mlp"), widths("top_mlp")
    if bottom[-1] != values.embedding_dim:
        raise UserError(
            f"--bottom_mlp={values.bottom_mlp} ends in {bottom[-1]}, but --embedding_dim is "
            f"{values.embedding_dim}: the interaction needs them equal"
        )
    if top[-1] != 1:
        raise UserError(f"--top_mlp={values.top_mlp} ends in {top[-1]}: the last width must be 1")
