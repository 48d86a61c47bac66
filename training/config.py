"""The configuration of a job: frozen dataclasses of settings, grouped by subject.

A setting is a dataclass field with a help text, bounds, choices and a unit (`training.setting`);
`training.cli` turns each setting into a flag of the same name, so a new field is a new flag.
Configurations are immutable: `Config.with_values` returns a changed copy. This module imports
neither TensorFlow nor absl.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Optional, TypeVar, Union

from dataset.columns import TRANSFORMS
from dataset.transforms import APPLIED_HELP
from model.embedding.optimizers import OPTIMIZERS as ROW_OPTIMIZERS
from model.embedding.optimizers import RowOptimizer
from model.interactions import INTERACTIONS, InteractionOptions
from planner.arguments import read_bytes, read_hotness, read_vocab_sizes, read_widths
from training.flag_values import (
    CheckpointInterval,
    read_interval,
    read_loss_scale,
    read_optimizer_options,
    read_row_optimizer,
    read_steps,
)
from training.modes import MODES
from training.optimizers import OPTIMIZERS
from training.runtime.errors import UserError
from training.schedule import PRESETS, LearningRateSchedule
from training.setting import PATH, PATH_OR_WORD, Setting, setting, settings_of

# Planning for this many ranks takes ten seconds.
_MOST_RANKS = 1 << 16
# TensorFlow starts one thread for each batch that is being read.
_MOST_BATCHES = 1024
# The largest seed that numpy.random.Philox and the initial values of tables accept.
_LARGEST_SEED = 2**63 - 1
# The largest number of steps, samples, rows or seconds.
LARGEST_INTEGER = 2**31 - 1
# The largest width of a layer or an embedding vector: a kernel of twice this width fits no machine.
LARGEST_WIDTH = 1 << 20
# Published cross networks have at most six layers.
_MOST_CROSS_LAYERS = 256

_Value = TypeVar("_Value")


def _read(flag: str, text: str, read: Callable[[str], _Value]) -> _Value:
    """Returns the parsed text of a flag; turns the parser's ValueError into a UserError."""
    try:
        return read(text)
    except ValueError as error:
        prefix = "" if f"--{flag}" in str(error) else f"--{flag}={text:.400}: "
        raise UserError(
            f"{prefix}{error}", **{**getattr(error, "fields", {}), "flag": flag}
        ) from None


def _widths(name: str, text: str, largest: int) -> tuple[int, ...]:
    values = _read(name, text, lambda value: read_widths(name, value))
    if max(values) > largest:
        raise UserError.of_flag(name, text, f"expected numbers up to {largest}", bound=largest)
    return values


def _defaults(optimizers: Mapping[str, Any]) -> str:
    """Returns the names and default values of the optimizers' hyper-parameters as text."""
    return "; ".join(
        f"{name}: " + ",".join(f"{key}={value:g}" for key, value in found.hyperparameters.items())
        for name, found in optimizers.items()
        if found.hyperparameters
    )


@dataclasses.dataclass(frozen=True)
class JobConfig:
    """What the process is started for."""

    title: ClassVar[str] = "Job"

    mode: str = setting(
        "train",
        "train: train and evaluate. evaluate: score a checkpoint on the test data. "
        "inference_benchmark: time the forward pass. export: convert a checkpoint to a SavedModel "
        "that runs with TensorFlow alone. plan: print the placement of the tables and the "
        "predicted cost of a step and of the run, without reading data",
        choices=MODES,
    )
    batch_sizes: str = setting(
        "1,64,4096,65536",
        "global batch sizes to time with --mode=inference_benchmark, comma-separated",
    )
    ranks: int = setting(
        1, "number of ranks to plan for (--mode=plan)", minimum=1, maximum=_MOST_RANKS, unit="ranks"
    )
    device: str = setting("a100-80gb", "type of GPU or CPU to plan for (--mode=plan)")

    @property
    def global_batch_sizes(self) -> tuple[int, ...]:
        """The numbers of --batch_sizes, in samples."""
        return _widths("batch_sizes", self.batch_sizes, LARGEST_INTEGER)


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Which data is read, and how."""

    title: ClassVar[str] = "Data"

    data_dir: Optional[str] = setting(
        None,
        "dataset folder with train/ and test/ (docs/data.md); required to train and evaluate, "
        "except with --use_synthetic_dataset",
        path=PATH,
    )
    data_layout: str = setting(
        "auto",
        "layout of the files: raw, three_file, per_table, deep_learning_examples, mlperf_v0.7, "
        "torchrec or torchrec_multi_hot (docs/data.md); auto: detect it",
    )
    applied_transform: Optional[str] = setting(
        None,
        f"{APPLIED_HELP}. With --mode=export: the transform of a checkpoint that does not "
        "record one. Default: the transform recorded with the data, else unknown",
        choices=tuple(TRANSFORMS),
    )
    use_splited_dataset: bool = setting(
        False,
        "the dataset has one file per table; the SOK benchmark's flag for --data_layout=per_table",
    )
    use_synthetic_dataset: bool = setting(
        False, "train on random batches in memory: measures speed without a dataset, has no AUC"
    )
    vocab_sizes: Optional[str] = setting(
        None,
        "number of rows of each table, for --use_synthetic_dataset and --mode=plan: a "
        "comma-separated list, a JSON file, or a name such as mlperf; default: the sizes of "
        "--data_dir, else of the demo data (plan: mlperf)",
        path=PATH_OR_WORD,
    )
    hotness: Optional[str] = setting(
        None,
        "ids per sample for each table, for --use_synthetic_dataset and --mode=plan: a "
        "comma-separated list, a JSON file, or mlperf; default: as in --data_dir, else 1",
        path=PATH_OR_WORD,
    )
    multi_hot: Optional[str] = setting(
        None,
        "make MLPerf's synthetic multi-hot data of data with one id per table, while it is read: "
        "ids per sample for each table, as for --hotness; needs memory for the maps "
        "(docs/data.md). Default: read the data as it is",
        path=PATH_OR_WORD,
    )
    shuffle_seed: Optional[int] = setting(
        None,
        "read the batches of each epoch in a random order with this seed; default: file order",
        minimum=0,
        maximum=_LARGEST_SEED,
    )
    prefetch: int = setting(
        4, "batches to read ahead of the step", minimum=1, maximum=_MOST_BATCHES, unit="batches"
    )
    parallel_reads: int = setting(
        2, "batches to read in parallel", minimum=1, maximum=_MOST_BATCHES, unit="batches"
    )

    def table_sizes(self, default: str) -> tuple[int, ...]:
        """Returns the number of rows of each table: --vocab_sizes, else the sizes of `default`."""
        text = default if self.vocab_sizes is None else self.vocab_sizes
        return _read("vocab_sizes", text, read_vocab_sizes)

    def ids_per_sample(self, flag: str, tables: Optional[int]) -> tuple[int, ...]:
        """Returns the ids per sample for each table that a flag gives.

        Args:
            flag: "hotness" or "multi_hot"; without a value: 1.
            tables: number of tables; None: not known yet.

        Raises:
            UserError: the text is invalid, or has another number of tables.
        """
        text = self.hotness if flag == "hotness" else self.multi_hot
        if text is None:
            return (1,) * (tables or 0)
        found = _read(flag, text, lambda given: read_hotness(flag, given))
        if tables is not None and len(found) != tables:
            problem = f"expected {tables} numbers, one per table, found {len(found)}"
            raise UserError.of_flag(flag, text, problem, bound=tables)
        return found


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The model's shape."""

    title: ClassVar[str] = "Model"

    embedding_dim: int = setting(128, "width of an embedding vector", minimum=1)
    bottom_mlp: str = setting(
        "512,256,128",
        "layer widths of the bottom MLP, comma-separated; the last must equal --embedding_dim",
    )
    top_mlp: str = setting(
        "1024,1024,512,256,1", "layer widths of the top MLP, comma-separated; the last must be 1"
    )
    interaction: str = setting(
        "dot",
        "input of the top MLP. "
        + ". ".join(f"{name}: {kind.summary}" for name, kind in INTERACTIONS.items()),
        choices=tuple(INTERACTIONS),
    )
    cross_layers: int = setting(
        InteractionOptions().cross_layers,
        "layers of --interaction=cross",
        minimum=1,
        maximum=_MOST_CROSS_LAYERS,
    )
    cross_rank: int = setting(
        InteractionOptions().cross_rank,
        "rank of the kernels of --interaction=cross; 0: full rank, one square kernel per layer",
        minimum=0,
        maximum=LARGEST_WIDTH,
    )
    ablation: str = setting(
        "none",
        "remove a part of the model to measure its contribution. frozen_embeddings: do not train "
        "the tables. no_interaction: the old name of --interaction=none",
        choices=("none", "frozen_embeddings", "no_interaction"),
    )

    @property
    def bottom_widths(self) -> tuple[int, ...]:
        """Layer widths of the bottom MLP."""
        return _widths("bottom_mlp", self.bottom_mlp, LARGEST_WIDTH)

    @property
    def top_widths(self) -> tuple[int, ...]:
        """Layer widths of the top MLP."""
        return _widths("top_mlp", self.top_mlp, LARGEST_WIDTH)


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """Batches, learning rates, optimizers, initial weights."""

    title: ClassVar[str] = "Training"

    global_batch_size: Optional[int] = setting(
        None,
        "samples per step over all ranks, a multiple of their number; required to train. Default "
        "with --mode=evaluate: the checkpoint's; with --mode=plan: 65536",
        minimum=1,
        unit="samples",
    )
    epochs: int = setting(1, "passes over the training data", minimum=1, unit="epochs")
    early_stop: int = setting(
        -1,
        "stop after this many steps; -1: train all epochs, or 30 steps with "
        "--use_synthetic_dataset",
        unit="steps",
    )
    schedule: str = setting(
        "mlperf",
        "published learning-rate schedule; its steps are scaled to the global batch size. --lr, "
        "--warmup_steps, --decay_start_step and --decay_steps each replace one of its numbers, "
        "unscaled",
        choices=tuple(PRESETS),
    )
    lr: Optional[float] = setting(
        None,
        "learning rate between warm-up and decay; default: from --schedule (mlperf: 24)",
        minimum=0.0,
    )
    warmup_steps: Optional[int] = setting(
        None,
        "length of the linear warm-up; default: from --schedule (mlperf: 2750 x 55296 / global "
        "batch size)",
        minimum=0,
        unit="steps",
    )
    decay_start_step: Optional[int] = setting(
        None,
        "last step before the decay; 0: no decay. Default: from --schedule (mlperf: 49315 x "
        "55296 / global batch size)",
        minimum=0,
        unit="step",
    )
    decay_steps: Optional[int] = setting(
        None,
        "length of the decay; default: from --schedule (mlperf: 27772 x 55296 / global batch size)",
        minimum=0,
        unit="steps",
    )
    decay_power: float = setting(2.0, "exponent of the decay", minimum=0.0)
    end_lr: float = setting(0.0, "learning rate after the decay", minimum=0.0)
    embedding_gradient: str = setting(
        "mean",
        "mean: gradient of the mean loss over the global batch. sum: as in the SOK benchmark, the "
        "table gradients are summed over the ranks, so the learning rate of the tables is in "
        "effect multiplied by the number of ranks",
        choices=("mean", "sum"),
    )
    embedding_lr: Optional[float] = setting(
        None, "learning rate of the tables, with the schedule of --lr; default: --lr", minimum=0.0
    )
    embedding_optimizer: str = setting(
        "sgd", "optimizer of the tables", choices=tuple(ROW_OPTIMIZERS)
    )
    embedding_optimizer_options: Optional[str] = setting(
        None,
        "hyper-parameters of --embedding_optimizer, such as l1=0.001,beta=1; defaults: "
        + _defaults(ROW_OPTIMIZERS),
    )
    optimizer: str = setting("sgd", "optimizer of the MLPs", choices=tuple(OPTIMIZERS))
    optimizer_options: Optional[str] = setting(
        None,
        "hyper-parameters of --optimizer, such as epsilon=1e-8,initial_accumulator=0.1; defaults: "
        + _defaults(OPTIMIZERS),
    )
    seed: int = setting(
        12345,
        "seed of the initial weights and of the batches of --use_synthetic_dataset",
        minimum=0,
        maximum=_LARGEST_SEED,
    )

    @property
    def row_optimizer(self) -> RowOptimizer:
        """The optimizer of the tables with its hyper-parameters."""
        return read_row_optimizer(self.embedding_optimizer, self.embedding_optimizer_options)

    @property
    def optimizer_values(self) -> dict[str, float]:
        """{name: value} of the hyper-parameters of the MLPs' optimizer."""
        return read_optimizer_options(self.optimizer, self.optimizer_options)

    @property
    def batch_size(self) -> int:
        """The global batch size in samples; ValueError while it is None."""
        if self.global_batch_size is None:
            raise ValueError("global_batch_size: expected a number, found None")
        return self.global_batch_size

    def learning_rates(self) -> LearningRateSchedule:
        """Returns the learning-rate schedule.

        Raises:
            UserError: the rates or steps contradict each other.
        """
        preset = PRESETS[self.schedule]
        given = (self.warmup_steps, self.decay_start_step, self.decay_steps)
        warmup, start, decay = (
            scaled if value is None else value
            for scaled, value in zip(preset.steps(self.batch_size), given)
        )
        rate = preset.rate if self.lr is None else self.lr
        try:
            return LearningRateSchedule(
                rate, warmup, start or None, decay if start else 0, self.end_lr, self.decay_power
            )
        except ValueError as error:
            raise UserError(
                f"learning-rate schedule: {error}; check --lr, --end_lr, --warmup_steps, "
                "--decay_start_step, --decay_steps"
            ) from error


@dataclasses.dataclass(frozen=True)
class SpeedConfig:
    """Precision, kernels and exchange."""

    title: ClassVar[str] = "Speed (results are the same up to rounding)"

    amp: bool = setting(
        False,
        "mixed precision: arithmetic and exchange in 16 bits; weights, tables, loss and AUC in "
        "float32",
    )
    amp_dtype: str = setting(
        "auto",
        "16-bit type of --amp; auto: bfloat16 on CPUs, float16 on GPUs",
        choices=("auto", "bfloat16", "float16"),
    )
    loss_scale: str = setting(
        "auto",
        "factor that multiplies the loss before the backward pass: a number of at least 1, auto or "
        "dynamic. auto: 1024 with float16, else 1. dynamic: adjusted during training; steps that "
        "overflow are skipped and counted",
    )
    xla: bool = setting(False, "compile the dense layers with XLA")
    mlp: str = setting(
        "auto",
        "implementation of the MLPs. fused: one op per MLP, by oneDNN on CPUs (not float16; also "
        "one op for --interaction=cross), by cuBLASLt on GPUs. tensorflow: TensorFlow's ops. auto: "
        "fused if the op is built for the device and type and --xla is off, else tensorflow",
        choices=("auto", "fused", "tensorflow"),
    )
    tf32: bool = setting(
        True,
        "let GPUs round the operands of float32 matrix products to TF32 (11 bits of mantissa); no "
        "effect with --amp. The op of --custom_interact keeps float32's accuracy: it computes "
        "three TF32 products for each",
    )
    custom_interact: bool = setting(False, "use this project's dot-interaction op")
    embedding_kernels: str = setting(
        "native",
        "kernels of the tables. native: this project's. tensorflow: TensorFlow's ops",
        choices=("native", "tensorflow"),
    )
    embedding_backend: str = setting(
        "auto",
        "library that holds the tables. native (old name: own): this project's. sok: "
        "SparseOperationKit. auto: sok if it can be imported and there is a GPU, else native",
        choices=("auto", "native", "own", "sok"),
    )
    deterministic: bool = setting(
        False,
        "on GPUs, add the gradients of a row in the order of the batch, and let TensorFlow use "
        "deterministic kernels: a repeated run gives the same bits, but is slower. CPUs always do",
    )
    embedding_stream: bool = setting(
        False,
        "on a GPU, look up rows next to the bottom MLP's forward pass, and update them next to its "
        "backward pass and the dense update, on a CUDA stream of their own. On several ranks, "
        "where lookup and exchange follow each other, only the update, next to the dense update",
    )
    overlap: bool = setting(
        True,
        "exchange the next batch's ids, and upload it to the GPU, while this one computes",
    )
    dedup_ids: bool = setting(
        False,
        "exchange each distinct id of a rank's batch, and its vector, only once",
        alias="compress",
    )

    @property
    def loss_factor(self) -> Union[float, str]:
        """--loss_scale as a number, "auto" or "dynamic"."""
        return read_loss_scale(self.loss_scale)


@dataclasses.dataclass(frozen=True)
class PlacementConfig:
    """Which rank owns which rows."""

    title: ClassVar[str] = "Embedding placement"

    placement: str = setting(
        "auto",
        "auto: each table on one rank; tables that do not fit are sharded by rows over all "
        "ranks. table: every table on one rank. row: every table sharded by rows. Or a JSON file "
        "with the placement of each table (docs/placement.md)",
        path=PATH_OR_WORD,
    )
    memory_per_rank: Optional[str] = setting(
        None,
        "memory for tables on one rank, such as 70GiB; default: 80 % of the free memory of the "
        "rank's GPU; without a GPU, 80 % of the machine's free memory divided by the number of "
        "ranks on it",
    )
    replicate_below_rows: int = setting(
        0, "replicate tables with fewer rows than this on every rank", minimum=0, unit="rows"
    )
    column_split: bool = setting(
        False, "let --placement=auto split tables in two by columns where that balances the ranks"
    )

    @property
    def memory_bytes(self) -> Optional[int]:
        """The bytes of --memory_per_rank, or None."""
        if self.memory_per_rank is None:
            return None
        name = "memory_per_rank"
        return _read(name, self.memory_per_rank, lambda text: read_bytes(name, text))


@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
    """When and how the test data is scored, and which AUC ends training."""

    title: ClassVar[str] = "Evaluation and stopping"

    evals_per_epoch: int = setting(20, "evaluations per epoch", minimum=1, unit="evaluations")
    eval_interval: Optional[int] = setting(
        None,
        "steps between evaluations; default: set by --evals_per_epoch",
        minimum=1,
        unit="steps",
    )
    eval_in_last: bool = setting(False, "evaluate only once, at the end")
    auc_threshold: float = setting(
        0.8025,
        "stop when the AUC of an evaluation is above this; 1: never",
        minimum=0.0,
        maximum=1.0,
    )
    auc: str = setting(
        "exact",
        "exact: from all scores, equal to scikit-learn's. binned: from 8000 thresholds, as in the "
        "SOK benchmark",
        choices=("exact", "binned"),
    )
    cache_eval_data: bool = setting(
        True, "keep the test batches in memory after the first evaluation if they fit"
    )


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
    """Which checkpoints are written, read and exported."""

    title: ClassVar[str] = "Checkpoints"

    checkpoint_dir: Optional[str] = setting(
        None,
        "folder for checkpoints, on storage that all ranks share; default: write none. A run "
        "starts from the newest complete checkpoint in this folder, else from --restore, else "
        "from initial weights",
        path=PATH,
    )
    restore: Optional[str] = setting(
        None,
        "checkpoint, or folder of checkpoints, to start from: its weights and optimizer state, at "
        "step 0; ignored if --checkpoint_dir has a complete checkpoint. With --mode=evaluate, "
        "export and inference_benchmark: the checkpoint to load. Default: none",
        path=PATH,
    )
    checkpoint_interval: str = setting(
        "30min",
        "steps between checkpoints, or minutes such as 30min; 0: write one at the end only",
    )
    keep: int = setting(2, "number of newest checkpoints to keep", minimum=1, unit="checkpoints")
    export_dir: Optional[str] = setting(
        None, "folder that --mode=export creates; required with it", path=PATH
    )

    @property
    def interval(self) -> CheckpointInterval:
        """--checkpoint_interval in steps or minutes."""
        return read_interval(self.checkpoint_interval)


@dataclasses.dataclass(frozen=True)
class OutputConfig:
    """What a run writes and prints, and how it reacts to faults."""

    title: ClassVar[str] = "Output and faults"

    run_dir: str = setting("runs", "folder for output; each run creates a folder in it", path=PATH)
    profile_steps: Optional[str] = setting(
        None,
        "range of steps to record with TensorFlow's profiler, such as 100-110; the profile is "
        "written into the run's folder. Default: none",
    )
    step_breakdown: bool = setting(
        False,
        "time each phase of a step separately, in 7 of the first 25 steps, and print the times",
    )
    print_interval: Optional[int] = setting(
        None,
        "steps between progress lines if the output is not a terminal; default: one line every "
        "ten seconds",
        minimum=1,
        unit="steps",
    )
    stall_timeout: int = setting(
        60, "end the job when a rank makes no progress for this long", minimum=1, unit="seconds"
    )
    nan_policy: str = setting(
        "stop",
        "what to do with a loss that is NaN or infinite. stop: end the run. skip: skip the step "
        "and count it",
        choices=("stop", "skip"),
    )

    @property
    def profiled_steps(self) -> Optional[tuple[int, int]]:
        """(first step, last step) of --profile_steps, or None."""
        return read_steps(self.profile_steps)


@dataclasses.dataclass(frozen=True)
class MLPerfConfig:
    """The log in MLPerf's format."""

    title: ClassVar[str] = "MLPerf log"

    mlperf_log: Optional[str] = setting(
        None,
        "file for the run's log in MLPerf's format (docs/mlperf.md); an existing file is renamed. "
        "Default: none",
        path=PATH,
    )
    mlperf_org: str = setting("unnamed", "submitting organization, for --mlperf_log")
    mlperf_platform: str = setting("unnamed", "name of the machine, for --mlperf_log")
    mlperf_division: str = setting(
        "closed", "MLPerf division, for --mlperf_log", choices=("closed", "open")
    )
    mlperf_status: str = setting(
        "research",
        "availability of the system, for --mlperf_log",
        choices=("cloud", "onprem", "preview", "research"),
    )
    mlperf_cache_cleared: bool = setting(
        False, "the operating system's caches were cleared before the run, for --mlperf_log"
    )


@dataclasses.dataclass(frozen=True)
class Config:
    """All settings of a job.

    Attributes:
        given: names of the settings that the user set, also to their default values.
    """

    # In the order of --help.
    job: JobConfig = dataclasses.field(default_factory=JobConfig)
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    training: TrainingConfig = dataclasses.field(default_factory=TrainingConfig)
    speed: SpeedConfig = dataclasses.field(default_factory=SpeedConfig)
    placement: PlacementConfig = dataclasses.field(default_factory=PlacementConfig)
    evaluation: EvaluationConfig = dataclasses.field(default_factory=EvaluationConfig)
    checkpoint: CheckpointConfig = dataclasses.field(default_factory=CheckpointConfig)
    output: OutputConfig = dataclasses.field(default_factory=OutputConfig)
    mlperf: MLPerfConfig = dataclasses.field(default_factory=MLPerfConfig)
    given: frozenset[str] = frozenset()

    def flags(self) -> dict[str, Any]:
        """Returns {name: value} of all settings, as recorded in journals and checkpoints."""
        return {name: getattr(getattr(self, s.section), name) for name, s in SETTINGS.items()}

    def with_values(self, **values: Any) -> "Config":
        """Returns a copy with new values of some settings.

        Args:
            **values: {name of a setting: value}.

        Raises:
            KeyError: a name is not a setting.
        """
        by_section: dict[str, dict[str, Any]] = {}
        for name, value in values.items():
            by_section.setdefault(SETTINGS[name].section, {})[name] = value
        return dataclasses.replace(
            self,
            **{
                section: dataclasses.replace(getattr(self, section), **changed)
                for section, changed in by_section.items()
            },
        )


#: {name of the group's field in `Config`: its dataclass}, in the order of --help.
GROUPS: dict[str, type[Any]] = {
    field.name: type(getattr(Config(), field.name))
    for field in dataclasses.fields(Config)
    if field.name != "given"
}
#: {name: `Setting`}, in the order of --help.
SETTINGS: dict[str, Setting] = {
    found.name: found for section, group in GROUPS.items() for found in settings_of(group, section)
}
