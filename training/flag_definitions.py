"""The flags, in groups: one definition each, with its unit and its default.

Importing this module imports no TensorFlow, so that a wrong flag is an error within a second.
"""

from absl import flags

from dataset import transforms
from dataset.columns import TRANSFORMS
from model.embedding.shards import OPTIMIZER_STATE_BYTES
from model.interactions import INTERACTIONS
from training.schedule import PRESETS

MODES = ("train", "evaluate", "inference_benchmark", "export", "plan")
# A plan for so many takes ten seconds.
_MOST_RANKS = 1 << 16
# TensorFlow starts a thread for each batch that is read at the same time.
_MOST_BATCHES = 1024
# What numpy.random.Philox and the initial values of tables take.
_LARGEST_SEED = 2**63 - 1
# {subject: names of its flags}, in the order of --help.
GROUPS = {}


def _define(group, kind, name, default, description, **options):
    getattr(flags, f"DEFINE_{kind}")(name, default, help=description, **options)
    GROUPS.setdefault(group, []).append(name)


def _define_all():
    job, data, model, train, placement, speed, evaluation, checkpoint, output, mlperf = (
        "Job",
        "Data", "Model", "Training", "Embedding placement",
        "Speed (never changes the result beyond rounding)",
        "Evaluation and stopping", "Checkpoints", "Output and faults", "MLPerf log",
    )  # fmt: skip
    _define(
        job, "enum", "mode", "train",
        "train: train and evaluate. evaluate: score a checkpoint on the test data. "
        "inference_benchmark: time the forward pass. export: write a checkpoint as a SavedModel "
        "that needs nothing but TensorFlow. plan: print where tables go, what a step costs and how "
        "long it would take, without touching data",
        enum_values=list(MODES),
    )  # fmt: skip
    _define(
        job, "string", "batch_sizes", "1,64,4096,65536",
        "global batch sizes of --mode=inference_benchmark, comma-separated",
    )  # fmt: skip
    _define(
        job, "integer", "ranks", 1, "ranks to plan for (--mode=plan)",
        lower_bound=1, upper_bound=_MOST_RANKS,
    )  # fmt: skip
    _define(job, "string", "device", "a100-80gb", "GPU or CPU to plan for (--mode=plan)")

    _define(
        data, "string", "data_dir", None,
        "dataset folder, holding train/ and test/ (docs/data.md); required to train and "
        "evaluate, but for --use_synthetic_dataset",
    )  # fmt: skip
    _define(
        data, "string", "data_layout", "auto",
        "layout of the files: raw, three_file, per_table, deep_learning_examples, mlperf_v0.7 "
        "or torchrec (docs/data.md); auto recognises it",
    )  # fmt: skip
    _define(
        data, "enum", "applied_transform", None,
        f"{transforms.APPLIED_HELP}. With --mode=export, of a checkpoint that does not say. "
        "Default: what the data says, else unknown",
        enum_values=list(TRANSFORMS),
    )  # fmt: skip
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
        lower_bound=0, upper_bound=_LARGEST_SEED,
    )  # fmt: skip
    _define(
        data, "integer", "prefetch", 4, "batches read ahead of the step",
        lower_bound=1, upper_bound=_MOST_BATCHES,
    )  # fmt: skip
    _define(
        data, "integer", "parallel_reads", 2, "batches read at the same time",
        lower_bound=1, upper_bound=_MOST_BATCHES,
    )  # fmt: skip

    _define(model, "integer", "embedding_dim", 128, "numbers in a row of a table", lower_bound=1)
    _define(
        model, "string", "bottom_mlp", "512,256,128",
        "layer widths of the bottom MLP, comma-separated; the last must be --embedding_dim",
    )  # fmt: skip
    _define(
        model, "string", "top_mlp", "1024,1024,512,256,1",
        "layer widths of the top MLP, comma-separated; the last must be 1",
    )  # fmt: skip
    _define(
        model, "enum", "interaction", "dot",
        "what the top MLP takes: dot: the bottom MLP's output and the products of all pairs of "
        "vectors. cat: all vectors. none: the bottom MLP's output alone",
        enum_values=list(INTERACTIONS),
    )  # fmt: skip
    _define(
        model, "enum", "ablation", "none",
        "cut a part out, to see what it contributes; no_interaction: an old spelling of "
        "--interaction=none",
        enum_values=["none", "frozen_embeddings", "no_interaction"],
    )  # fmt: skip

    _define(
        train, "integer", "global_batch_size", None,
        "samples in one step over all ranks, which divide it; required to train. Default of "
        "--mode=evaluate: the checkpoint's, of plan: 65536", lower_bound=1,
    )  # fmt: skip
    _define(train, "integer", "epochs", 1, "passes over the training data", lower_bound=1)
    _define(
        train, "integer", "early_stop", -1,
        "stop after this many steps; -1: do not. With --use_synthetic_dataset the default is 30",
    )  # fmt: skip
    _define(
        train, "enum", "schedule", "mlperf",
        "a published learning rate with its steps, these scaled to the global batch; --lr, "
        "--warmup_steps, --decay_start_step and --decay_steps replace one number each, unscaled",
        enum_values=list(PRESETS),
    )  # fmt: skip
    _define(
        train, "float", "lr", None,
        "learning rate between warm-up and decay; default: the schedule's, 24 for mlperf",
        lower_bound=0.0,
    )  # fmt: skip
    _define(
        train, "integer", "warmup_steps", None,
        "steps of linear warm-up; default: the schedule's (mlperf: 2750 x 55296 / global batch)",
        lower_bound=0,
    )  # fmt: skip
    _define(
        train, "integer", "decay_start_step", None,
        "last step before the decay, 0: no decay; default: the schedule's (mlperf: 49315 x "
        "55296 / global batch)",
        lower_bound=0,
    )  # fmt: skip
    _define(
        train, "integer", "decay_steps", None,
        "steps of decay; default: the schedule's (mlperf: 27772 x 55296 / global batch)",
        lower_bound=0,
    )  # fmt: skip
    _define(train, "float", "decay_power", 2.0, "exponent of the decay", lower_bound=0.0)
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
        enum_values=list(OPTIMIZER_STATE_BYTES),
    )  # fmt: skip
    _define(
        train, "enum", "optimizer", "sgd", "optimizer of the MLPs",
        enum_values=["sgd", "adagrad", "adam"],
    )  # fmt: skip
    _define(
        train, "integer", "seed", 12345, "seed of the initial weights",
        lower_bound=0, upper_bound=_LARGEST_SEED,
    )  # fmt: skip

    _define(
        speed, "bool", "amp", False,
        "mixed precision: 16-bit arithmetic and exchange, float32 weights, tables, loss and AUC",
    )  # fmt: skip
    _define(
        speed, "enum", "amp_dtype", "auto",
        "16-bit type of --amp; auto: bfloat16 on CPUs, float16 on GPUs",
        enum_values=["auto", "bfloat16", "float16"],
    )  # fmt: skip
    _define(
        speed, "string", "loss_scale", "auto",
        "factor on the loss before the backward pass, 1 or more, or dynamic: found while training, "
        "steps that overflow are skipped and counted. auto: 1024 with float16, else 1",
    )  # fmt: skip
    _define(speed, "bool", "xla", False, "compile the dense layers with XLA")
    _define(
        speed, "enum", "mlp", "auto",
        "layers of the MLPs. fused: each MLP is one op (CPUs, needs oneDNN). tensorflow: "
        "TensorFlow's own. auto: fused on a CPU where its library is built, without --xla",
        enum_values=["auto", "fused", "tensorflow"],
    )  # fmt: skip
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
        "memory that tables may take on one rank, such as 70GiB; default: 80 % of what the machine "
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
        "steps between evaluations; default: as --evals_per_epoch says", lower_bound=1,
    )  # fmt: skip
    _define(evaluation, "bool", "eval_in_last", False, "evaluate once, at the end")
    _define(
        evaluation, "float", "auc_threshold", 0.8025,
        "stop when an evaluation's AUC is above this; 1 never stops",
        lower_bound=0.0, upper_bound=1.0,
    )  # fmt: skip

    _define(
        evaluation, "enum", "auc", "exact",
        "exact: from all scores, equal to scikit-learn's. binned: from 8000 thresholds, as the SOK "
        "benchmark's",
        enum_values=["exact", "binned"],
    )  # fmt: skip
    _define(
        evaluation, "bool", "cache_eval_data", True,
        "keep the test batches in memory after the first evaluation, where they fit",
    )  # fmt: skip

    _define(
        checkpoint, "string", "checkpoint_dir", None,
        "folder of checkpoints, on storage that all ranks see; default: none are written. A run "
        "begins with the first of: the newest whole checkpoint in here; --restore; the initial "
        "weights",
    )  # fmt: skip
    _define(
        checkpoint, "string", "restore", None,
        "a checkpoint or a folder of them: its weights and optimizer state, from step 0, where "
        "--checkpoint_dir holds none; default: the initial weights. Also the checkpoint of "
        "--mode=evaluate, export and inference_benchmark",
    )  # fmt: skip
    _define(
        checkpoint, "string", "checkpoint_interval", "30min",
        "between two checkpoints: a number of steps, or minutes such as 30min; 0: only at the end",
    )  # fmt: skip
    _define(checkpoint, "integer", "keep", 2, "checkpoints to keep, the newest", lower_bound=1)
    _define(
        checkpoint, "string", "export_dir", None,
        "folder that --mode=export makes; required with it",
    )  # fmt: skip

    _define(output, "string", "run_dir", "runs", "folder in which each run gets a folder")
    _define(
        output, "string", "profile_steps", None,
        "steps of which TensorFlow's profiler writes a profile into the run's folder, such as "
        "100-110; default: none",
    )  # fmt: skip
    _define(
        output, "bool", "step_breakdown", False,
        "time the phases of a step (7 steps of the first 25), each by itself, and print them",
    )  # fmt: skip
    _define(
        output, "integer", "print_interval", None,
        "steps between lines where the output is no terminal; default: one line every ten seconds",
        lower_bound=1,
    )  # fmt: skip
    _define(
        output, "integer", "stall_timeout", 60,
        "seconds without progress after which a rank is given up", lower_bound=1,
    )  # fmt: skip
    _define(
        output, "enum", "nan_policy", "stop",
        "stop: a loss that is no number ends the run. skip: the step is left out and counted",
        enum_values=["stop", "skip"],
    )  # fmt: skip

    _define(
        mlperf, "string", "mlperf_log", None,
        "file that gets the run as MLPerf's log lines (docs/mlperf.md), an old one is renamed; "
        "default: none",
    )  # fmt: skip
    _define(mlperf, "string", "mlperf_org", "unnamed", "who ran it, for --mlperf_log")
    _define(mlperf, "string", "mlperf_platform", "unnamed", "machine in words, for --mlperf_log")
    _define(
        mlperf, "enum", "mlperf_division", "closed", "division, for --mlperf_log",
        enum_values=["closed", "open"],
    )  # fmt: skip
    _define(
        mlperf, "enum", "mlperf_status", "research", "availability, for --mlperf_log",
        enum_values=["cloud", "onprem", "preview", "research"],
    )  # fmt: skip
    _define(
        mlperf, "bool", "mlperf_cache_cleared", False,
        "the operating system's caches were cleared before the start, for --mlperf_log",
    )  # fmt: skip


_define_all()
