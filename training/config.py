"""The configuration of a job: frozen dataclasses of settings, grouped by subject.

A setting is a field with its help text, bounds, choices and unit (`training.setting`);
`training.cli` makes a flag of each, of the same name. Adding a flag is adding a field. Nothing is
assigned to a configuration: `Config.with_values` returns another one. Neither TensorFlow nor absl
is imported here.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, Optional, TypeVar, Union

from dataset.columns import TRANSFORMS
from dataset.transforms import APPLIED_HELP
from model.embedding.optimizers import OPTIMIZERS as ROW_OPTIMIZERS
from model.embedding.optimizers import RowOptimizer
from model.interactions import INTERACTIONS
from planner.arguments import read_bytes, read_vocab_sizes, read_widths
from training.flag_values import (
    CheckpointInterval,
    read_interval,
    read_loss_scale,
    read_row_optimizer,
    read_steps,
)
from training.modes import MODES
from training.optimizers import OPTIMIZERS
from training.runtime.errors import UserError
from training.schedule import PRESETS, LearningRateSchedule
from training.setting import PATH, PATH_OR_WORD, Setting, setting, settings_of

# A plan for so many takes ten seconds.
_MOST_RANKS = 1 << 16
# TensorFlow starts a thread for each batch that is read at the same time.
_MOST_BATCHES = 1024
# What numpy.random.Philox and the initial values of tables take.
_LARGEST_SEED = 2**63 - 1
# Of a number of steps, samples, rows or seconds.
LARGEST_INTEGER = 2**31 - 1
# Of a layer or an embedding vector; no machine has the memory for a kernel of two such.
LARGEST_WIDTH = 1 << 20

_Value = TypeVar("_Value")


def _read(read: Callable[..., _Value], *arguments: str) -> _Value:
    """Calls a parser of a text; what is wrong with the text is the user's error."""
    try:
        return read(*arguments)
    except ValueError as error:
        raise UserError(str(error)) from None


def _widths(name: str, text: str, largest: int) -> tuple[int, ...]:
    values = _read(read_widths, name, text)
    if max(values) > largest:
        raise UserError(f"--{name}={text:.80}: expected numbers up to {largest}")
    return values


@dataclasses.dataclass(frozen=True)
class JobConfig:
    """What the process is started for."""

    title: ClassVar[str] = "Job"

    mode: str = setting(
        "train",
        "train: train and evaluate. evaluate: score a checkpoint on the test data. "
        "inference_benchmark: time the forward pass. export: write a checkpoint as a SavedModel"
        " that needs nothing but TensorFlow. plan: print where tables go, what a step costs and"
        " how long it would take, without touching data",
        choices=MODES,
    )
    batch_sizes: str = setting(
        "1,64,4096,65536", "global batch sizes of --mode=inference_benchmark, comma-separated"
    )
    ranks: int = setting(
        1, "ranks to plan for (--mode=plan)", minimum=1, maximum=_MOST_RANKS, unit="ranks"
    )
    device: str = setting("a100-80gb", "GPU or CPU to plan for (--mode=plan)")

    @property
    def global_batch_sizes(self) -> tuple[int, ...]:
        """The numbers of --batch_sizes, in samples."""
        return _widths("batch_sizes", self.batch_sizes, LARGEST_INTEGER)


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """The data, and how it is read."""

    title: ClassVar[str] = "Data"

    data_dir: Optional[str] = setting(
        None,
        "dataset folder, holding train/ and test/ (docs/data.md); required to train and "
        "evaluate, but for --use_synthetic_dataset",
        path=PATH,
    )
    data_layout: str = setting(
        "auto",
        "layout of the files: raw, three_file, per_table, deep_learning_examples, mlperf_v0.7 "
        "or torchrec (docs/data.md); auto recognises it",
    )
    applied_transform: Optional[str] = setting(
        None,
        f"{APPLIED_HELP}. With --mode=export, of a checkpoint that does not say. "
        "Default: what the data says, else unknown",
        choices=tuple(TRANSFORMS),
    )
    use_splited_dataset: bool = setting(
        False,
        "the dataset has one file per table (the seed benchmark's spelling; auto finds out too)",
    )
    use_synthetic_dataset: bool = setting(
        False, "random batches in memory: speed without a dataset, no AUC"
    )
    vocab_sizes: Optional[str] = setting(
        None,
        "rows of each table, for --use_synthetic_dataset and --mode=plan: comma-separated, a "
        "JSON file, or a name such as mlperf; default: those of --data_dir, else the demo's "
        "(plan: mlperf)",
        path=PATH_OR_WORD,
    )
    shuffle_seed: Optional[int] = setting(
        None,
        "read the batches of each epoch in an order drawn from this seed; default: file order",
        minimum=0,
        maximum=_LARGEST_SEED,
    )
    prefetch: int = setting(
        4, "batches read ahead of the step", minimum=1, maximum=_MOST_BATCHES, unit="batches"
    )
    parallel_reads: int = setting(
        2, "batches read at the same time", minimum=1, maximum=_MOST_BATCHES, unit="batches"
    )

    def table_sizes(self, default: str) -> tuple[int, ...]:
        """Returns the rows of each table that --vocab_sizes names, else those `default` names."""
        return _read(read_vocab_sizes, default if self.vocab_sizes is None else self.vocab_sizes)


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The model's shape."""

    title: ClassVar[str] = "Model"

    embedding_dim: int = setting(128, "numbers in a row of a table", minimum=1, unit="numbers")
    bottom_mlp: str = setting(
        "512,256,128",
        "layer widths of the bottom MLP, comma-separated; the last must be --embedding_dim",
    )
    top_mlp: str = setting(
        "1024,1024,512,256,1", "layer widths of the top MLP, comma-separated; the last must be 1"
    )
    interaction: str = setting(
        "dot",
        "what the top MLP takes: "
        + ". ".join(f"{name}: {kind.summary}" for name, kind in INTERACTIONS.items()),
        choices=tuple(INTERACTIONS),
    )
    ablation: str = setting(
        "none",
        "cut a part out, to see what it contributes; no_interaction: an old spelling of "
        "--interaction=none",
        choices=("none", "frozen_embeddings", "no_interaction"),
    )

    @property
    def bottom_widths(self) -> tuple[int, ...]:
        """Widths of the bottom MLP's layers."""
        return _widths("bottom_mlp", self.bottom_mlp, LARGEST_WIDTH)

    @property
    def top_widths(self) -> tuple[int, ...]:
        """Widths of the top MLP's layers."""
        return _widths("top_mlp", self.top_mlp, LARGEST_WIDTH)


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """Batches, learning rates, optimizers, initial weights."""

    title: ClassVar[str] = "Training"

    global_batch_size: Optional[int] = setting(
        None,
        "samples in one step over all ranks, which divide it; required to train. Default of "
        "--mode=evaluate: the checkpoint's, of plan: 65536",
        minimum=1,
        unit="samples",
    )
    epochs: int = setting(1, "passes over the training data", minimum=1, unit="epochs")
    early_stop: int = setting(
        -1,
        "stop after this many steps; -1: do not. With --use_synthetic_dataset the default is 30",
        unit="steps",
    )
    schedule: str = setting(
        "mlperf",
        "a published learning rate with its steps, these scaled to the global batch; --lr, "
        "--warmup_steps, --decay_start_step and --decay_steps replace one number each, unscaled",
        choices=tuple(PRESETS),
    )
    lr: Optional[float] = setting(
        None,
        "learning rate between warm-up and decay; default: the schedule's, 24 for mlperf",
        minimum=0.0,
    )
    warmup_steps: Optional[int] = setting(
        None,
        "steps of linear warm-up; default: the schedule's (mlperf: 2750 x 55296 / global batch)",
        minimum=0,
        unit="steps",
    )
    decay_start_step: Optional[int] = setting(
        None,
        "last step before the decay, 0: no decay; default: the schedule's (mlperf: 49315 x "
        "55296 / global batch)",
        minimum=0,
        unit="step",
    )
    decay_steps: Optional[int] = setting(
        None,
        "steps of decay; default: the schedule's (mlperf: 27772 x 55296 / global batch)",
        minimum=0,
        unit="steps",
    )
    decay_power: float = setting(2.0, "exponent of the decay", minimum=0.0)
    end_lr: float = setting(0.0, "learning rate after the decay", minimum=0.0)
    embedding_gradient: str = setting(
        "mean",
        "mean: the loss is the mean over the global batch. sum: the SOK benchmark's behaviour, "
        "an embedding learning rate as many times larger as there are ranks",
        choices=("mean", "sum"),
    )
    embedding_lr: Optional[float] = setting(
        None, "learning rate of the tables, on the same schedule; default: --lr", minimum=0.0
    )
    embedding_optimizer: str = setting(
        "sgd", "optimizer of the tables", choices=tuple(ROW_OPTIMIZERS)
    )
    embedding_optimizer_options: Optional[str] = setting(
        None,
        "hyper-parameters of --embedding_optimizer, such as l1=0.001,beta=1; default: "
        + "; ".join(
            f"{name} " + ",".join(f"{key}={value:g}" for key, value in o.hyperparameters.items())
            for name, o in ROW_OPTIMIZERS.items()
            if o.hyperparameters
        ),
    )
    optimizer: str = setting("sgd", "optimizer of the MLPs", choices=tuple(OPTIMIZERS))
    seed: int = setting(12345, "seed of the initial weights", minimum=0, maximum=_LARGEST_SEED)

    @property
    def row_optimizer(self) -> RowOptimizer:
        """The optimizer of the tables, with its hyper-parameters."""
        return read_row_optimizer(self.embedding_optimizer, self.embedding_optimizer_options)

    @property
    def batch_size(self) -> int:
        """The global batch size, in samples, of a mode that has one."""
        if self.global_batch_size is None:
            raise ValueError("the global batch size is not known yet")
        return self.global_batch_size

    def learning_rates(self) -> LearningRateSchedule:
        """Returns the learning rate of each step.

        Raises:
            UserError: the steps do not fit together.
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
                f"learning-rate schedule: {error} (--lr, --end_lr, --warmup_steps, "
                "--decay_start_step, --decay_steps)"
            ) from error


@dataclasses.dataclass(frozen=True)
class SpeedConfig:
    """Precision, kernels and exchange."""

    title: ClassVar[str] = "Speed (never changes the result beyond rounding)"

    amp: bool = setting(
        False,
        "mixed precision: 16-bit arithmetic and exchange, float32 weights, tables, loss and AUC",
    )
    amp_dtype: str = setting(
        "auto",
        "16-bit type of --amp; auto: bfloat16 on CPUs, float16 on GPUs",
        choices=("auto", "bfloat16", "float16"),
    )
    loss_scale: str = setting(
        "auto",
        "factor on the loss before the backward pass, 1 or more, or dynamic: found while "
        "training, steps that overflow are skipped and counted. auto: 1024 with float16, else 1",
    )
    xla: bool = setting(False, "compile the dense layers with XLA")
    mlp: str = setting(
        "auto",
        "layers of the MLPs. fused: each MLP is one op (CPUs, needs oneDNN). tensorflow: "
        "TensorFlow's own. auto: fused on a CPU where its library is built, without --xla",
        choices=("auto", "fused", "tensorflow"),
    )
    custom_interact: bool = setting(False, "take the project's dot-interaction op")
    embedding_kernels: str = setting(
        "native",
        "kernels of the tables: the project's, or TensorFlow's formulation of them",
        choices=("native", "tensorflow"),
    )
    embedding_backend: str = setting(
        "auto",
        "native (or own): this project's kernels. sok: SparseOperationKit. auto: SOK where it "
        "imports and a GPU is there, else native",
        choices=("auto", "native", "own", "sok"),
    )
    overlap: bool = setting(True, "exchange the next batch's ids while this one computes")
    compress: bool = setting(False, "remove duplicate ids before they and their vectors travel")

    @property
    def loss_factor(self) -> Union[float, str]:
        """What --loss_scale means: a number, "auto" or "dynamic"."""
        return read_loss_scale(self.loss_scale)


@dataclasses.dataclass(frozen=True)
class PlacementConfig:
    """Which rank holds which rows."""

    title: ClassVar[str] = "Embedding placement"

    placement: str = setting(
        "auto",
        "auto: whole tables if they fit, else large ones row by row over all ranks. table, row:"
        " all of them so. Or a JSON file that says it for each table",
        path=PATH_OR_WORD,
    )
    memory_per_rank: Optional[str] = setting(
        None,
        "memory that tables may take on one rank, such as 70GiB; default: 80 % of what the "
        "machine has free",
    )
    replicate_below_rows: int = setting(
        0, "keep tables of fewer rows whole on every rank", minimum=0, unit="rows"
    )
    column_split: bool = setting(
        False, "--placement=auto may halve tables by columns where that evens out the ranks"
    )

    @property
    def memory_bytes(self) -> Optional[int]:
        """The bytes of --memory_per_rank, or None."""
        if self.memory_per_rank is None:
            return None
        return _read(read_bytes, "memory_per_rank", self.memory_per_rank)


@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
    """When the test data is scored, how, and when that ends training."""

    title: ClassVar[str] = "Evaluation and stopping"

    evals_per_epoch: int = setting(20, "evaluations in each epoch", minimum=1, unit="evaluations")
    eval_interval: Optional[int] = setting(
        None,
        "steps between evaluations; default: as --evals_per_epoch says",
        minimum=1,
        unit="steps",
    )
    eval_in_last: bool = setting(False, "evaluate once, at the end")
    auc_threshold: float = setting(
        0.8025,
        "stop when an evaluation's AUC is above this; 1 never stops",
        minimum=0.0,
        maximum=1.0,
    )
    auc: str = setting(
        "exact",
        "exact: from all scores, equal to scikit-learn's. binned: from 8000 thresholds, as the "
        "SOK benchmark's",
        choices=("exact", "binned"),
    )
    cache_eval_data: bool = setting(
        True, "keep the test batches in memory after the first evaluation, where they fit"
    )


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
    """Checkpoints that are written and read, and what is made of one."""

    title: ClassVar[str] = "Checkpoints"

    checkpoint_dir: Optional[str] = setting(
        None,
        "folder of checkpoints, on storage that all ranks see; default: none are written. A run"
        " begins with the first of: the newest whole checkpoint in here; --restore; the initial"
        " weights",
        path=PATH,
    )
    restore: Optional[str] = setting(
        None,
        "a checkpoint or a folder of them: its weights and optimizer state, from step 0, where "
        "--checkpoint_dir holds none; default: the initial weights. Also the checkpoint of "
        "--mode=evaluate, export and inference_benchmark",
        path=PATH,
    )
    checkpoint_interval: str = setting(
        "30min",
        "between two checkpoints: a number of steps, or minutes such as 30min; 0: only at the end",
    )
    keep: int = setting(2, "checkpoints to keep, the newest", minimum=1, unit="checkpoints")
    export_dir: Optional[str] = setting(
        None, "folder that --mode=export makes; required with it", path=PATH
    )

    @property
    def interval(self) -> CheckpointInterval:
        """What --checkpoint_interval means."""
        return read_interval(self.checkpoint_interval)


@dataclasses.dataclass(frozen=True)
class OutputConfig:
    """What a run writes and prints, and what it does about faults."""

    title: ClassVar[str] = "Output and faults"

    run_dir: str = setting("runs", "folder in which each run gets a folder", path=PATH)
    profile_steps: Optional[str] = setting(
        None,
        "steps of which TensorFlow's profiler writes a profile into the run's folder, such as "
        "100-110; default: none",
    )
    step_breakdown: bool = setting(
        False, "time the phases of a step (7 steps of the first 25), each by itself, and print them"
    )
    print_interval: Optional[int] = setting(
        None,
        "steps between lines where the output is no terminal; default: one line every ten seconds",
        minimum=1,
        unit="steps",
    )
    stall_timeout: int = setting(
        60, "seconds without progress after which a rank is given up", minimum=1, unit="seconds"
    )
    nan_policy: str = setting(
        "stop",
        "stop: a loss that is no number ends the run. skip: the step is left out and counted",
        choices=("stop", "skip"),
    )

    @property
    def profiled_steps(self) -> Optional[tuple[int, int]]:
        """The (first, last) step of --profile_steps, or None."""
        return read_steps(self.profile_steps)


@dataclasses.dataclass(frozen=True)
class MLPerfConfig:
    """The run as MLPerf's log lines."""

    title: ClassVar[str] = "MLPerf log"

    mlperf_log: Optional[str] = setting(
        None,
        "file that gets the run as MLPerf's log lines (docs/mlperf.md), an old one is renamed; "
        "default: none",
        path=PATH,
    )
    mlperf_org: str = setting("unnamed", "who ran it, for --mlperf_log")
    mlperf_platform: str = setting("unnamed", "machine in words, for --mlperf_log")
    mlperf_division: str = setting(
        "closed", "division, for --mlperf_log", choices=("closed", "open")
    )
    mlperf_status: str = setting(
        "research",
        "availability, for --mlperf_log",
        choices=("cloud", "onprem", "preview", "research"),
    )
    mlperf_cache_cleared: bool = setting(
        False, "the operating system's caches were cleared before the start, for --mlperf_log"
    )


@dataclasses.dataclass(frozen=True)
class Config:
    """All settings of a job.

    Attributes:
        given: names of the settings that the user has given, even if they equal the defaults.
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
        """Returns {name: value} of all settings, as journals and checkpoints record them."""
        return {name: getattr(getattr(self, s.section), name) for name, s in SETTINGS.items()}

    def with_values(self, **values: Any) -> "Config":
        """Returns a configuration with other values of some settings.

        Args:
            **values: {name of a setting: value}.

        Raises:
            KeyError: there is no setting of such a name.
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
