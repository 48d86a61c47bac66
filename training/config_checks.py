"""What is wrong with a configuration: values, and combinations that cannot take effect.

Neither TensorFlow nor absl is imported here.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import math
import os

from dataset.layouts import LAYOUTS
from model.embedding.placement import POLICIES
from model.interactions import check_native
from planner.arguments import check_column_split
from storage.install_advice import install_command
from storage.paths import NotLocalError, check_local
from storage.regular import check_regular
from training.config import LARGEST_INTEGER, SETTINGS, Config
from training.flag_values import read_interaction
from training.runtime.errors import UserError
from training.setting import PATH

# Of a setting's value; a longer one is not read back from a checkpoint's manifest.
LONGEST_TEXT = 1 << 16
# Of --mode=plan.
_PLANNED_BATCH_SIZE = 65536


def complete(config: Config) -> Config:
    """Returns the configuration with what its mode implies where the user has not said it.

    The interaction gets its one name.

    Raises:
        UserError: --ablation contradicts --interaction.
    """
    config = _with_interaction(config)
    if config.job.mode == "plan" and config.training.global_batch_size is None:
        return config.with_values(global_batch_size=_PLANNED_BATCH_SIZE)
    if config.job.mode == "inference_benchmark" and config.data.data_dir is None:
        return config.with_values(use_synthetic_dataset=True)
    return config


def _with_interaction(config: Config) -> Config:
    model = config.model
    given = model.interaction if "interaction" in config.given else None
    interaction, ablation = read_interaction(given, model.ablation)
    if model.ablation != "no_interaction":
        return config
    # As given: a checkpoint's does not replace it. --custom_interact is of a command that is
    # otherwise the full model's.
    config = dataclasses.replace(config, given=config.given | {"interaction"})
    return config.with_values(interaction=interaction, ablation=ablation, custom_interact=False)


def check_custom_interact(config: Config) -> None:
    """Raises UserError for --custom_interact with an interaction that has no native op."""
    if config.speed.custom_interact:
        try:
            check_native(config.model.interaction)
        except ValueError as error:
            raise UserError(f"--custom_interact: {error}: leave the flag out") from error


def check(config: Config) -> None:
    """Checks all that can be checked without opening a file of data.

    Args:
        config: as `complete` returns it.

    Raises:
        UserError: one line that names the flag, the value and what to do.
    """
    mode = config.job.mode
    _check_values(config)
    _check_texts(config)
    check_custom_interact(config)
    if config.placement.column_split:
        try:
            check_column_split(config.training.embedding_optimizer)
        except ValueError as error:
            raise UserError(str(error)) from error
    _check_mlperf(config)
    _check_transform(config)
    if mode == "plan":
        return
    for name in ("ranks", "device"):
        if name in config.given:
            raise UserError(
                f"--{name} only goes with --mode=plan: --mode={mode} runs on the ranks that "
                "horovodrun -np N starts, and on the devices that they find"
            )
    _check_mode(config)
    if mode != "export":
        _check_data(config)
        _check_speed(config)
        _check_widths(config)


def _check_values(config: Config) -> None:
    """Checks what a parser's bounds let through: NaN is below no bound, and "" is a path for it."""
    values = config.flags()
    for name, value in values.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"--{name}={value}: expected a finite number")
        if isinstance(value, str) and len(value) > LONGEST_TEXT:
            raise UserError(
                f"--{name}={value[:40]}...: expected at most {LONGEST_TEXT} characters, found "
                f"{len(value)}"
            )
        largest = SETTINGS[name].maximum or LARGEST_INTEGER
        if isinstance(value, int) and value > largest:
            raise UserError(f"--{name}={value}: expected at most {largest}")
    paths = [found for found in SETTINGS.values() if found.path]
    for found in paths:
        # Such as --checkpoint_dir=$UNSET.
        if found.path == PATH and values[found.name] == "":
            raise UserError(f"--{found.name}= is empty: expected a path")
    for found in paths:
        try:
            check_local(values[found.name] or "")
        except NotLocalError as error:
            raise UserError(f"--{found.name}={values[found.name]}: {error}") from error


def _check_texts(config: Config) -> None:
    """Parses the settings that are texts, so that TensorFlow is not imported for a wrong one."""
    data, speed, placement = config.data, config.speed, config.placement.placement
    # Each of these raises UserError for a text that it cannot read.
    _ = config.placement.memory_bytes
    _ = config.checkpoint.interval
    _ = config.output.profiled_steps
    _ = speed.loss_factor
    _ = config.training.row_optimizer
    _ = config.job.global_batch_sizes
    _ = config.model.bottom_widths
    _ = config.model.top_widths
    if data.vocab_sizes is not None:
        data.table_sizes(data.vocab_sizes)
    if placement not in POLICIES and not os.path.isfile(placement):
        raise UserError(
            f"--placement={placement}: expected {', '.join(POLICIES)} or a JSON file; there "
            "is no such file"
        )
    if data.data_layout not in ("auto", *LAYOUTS):
        raise UserError(f"--data_layout={data.data_layout}: expected auto, {', '.join(LAYOUTS)}")
    if data.use_splited_dataset and data.data_layout not in ("auto", "per_table"):
        raise UserError(f"--use_splited_dataset contradicts --data_layout={data.data_layout}")
    if not speed.amp and speed.amp_dtype != "auto":
        raise UserError(f"--amp_dtype={speed.amp_dtype} has no effect without --amp")
    if config.job.mode == "train" and config.training.global_batch_size is not None:
        config.training.learning_rates()


def _check_mlperf(config: Config) -> None:
    path = config.mlperf.mlperf_log
    names = [found.name for found in SETTINGS.values() if found.section == "mlperf"]
    if path is None:
        for name in names:
            if name in config.given:
                raise UserError(f"--{name} only goes with --mlperf_log=FILE")
        return
    if os.path.exists(path):
        try:
            check_regular(path)  # It is renamed.
        except OSError as error:
            raise UserError(f"--mlperf_log={path}: {error.strerror}") from error
    if config.job.mode != "train":
        raise UserError(f"--mlperf_log is of a training, not of --mode={config.job.mode}")
    if config.data.use_synthetic_dataset:
        raise UserError("--mlperf_log needs evaluations: --use_synthetic_dataset has no test data")
    for name in ("mlperf_org", "mlperf_platform"):
        if not getattr(config.mlperf, name).strip():
            raise UserError(f"--{name} is empty: MLPerf's log wants a name")
    if importlib.util.find_spec("mlperf_logging") is None:
        raise UserError(
            "--mlperf_log needs the package mlperf-logging, which is not installed: "
            + install_command("mlperf-logging")
        )


def _check_transform(config: Config) -> None:
    data, mode = config.data, config.job.mode
    if data.applied_transform is None:
        return
    reads_values = data.data_dir is not None or mode == "export"
    if data.use_synthetic_dataset or mode == "plan" or not reads_values:
        raise UserError(
            f"--applied_transform={data.applied_transform} has no effect: it is of a dataset's "
            "stored values, or with --mode=export of a checkpoint's"
        )


def _check_mode(config: Config) -> None:
    """Checks the settings that only some modes take."""
    mode, checkpoint = config.job.mode, config.checkpoint
    if mode == "export" and checkpoint.export_dir is None:
        raise UserError("--export_dir is required: the folder that --mode=export makes")
    if mode != "export" and checkpoint.export_dir is not None:
        raise UserError(f"--export_dir only goes with --mode=export, not with --mode={mode}")
    if mode != "inference_benchmark" and "batch_sizes" in config.given:
        raise UserError("--batch_sizes only goes with --mode=inference_benchmark")
    if mode == "train":
        if checkpoint.checkpoint_dir is None:
            for name in ("checkpoint_interval", "keep"):
                if name in config.given:
                    raise UserError(f"--{name} has no effect without --checkpoint_dir")
        return
    for name in ("profile_steps", "step_breakdown"):
        if getattr(config.output, name):
            raise UserError(f"--{name} is of training's steps, not of --mode={mode}")
    if checkpoint.restore is not None and checkpoint.checkpoint_dir is not None:
        raise UserError(
            f"--mode={mode} reads one checkpoint: give --restore, or --checkpoint_dir for the "
            "newest in it"
        )
    if mode == "inference_benchmark":
        if config.training.global_batch_size is not None:
            raise UserError(
                "--global_batch_size has no effect on --mode=inference_benchmark: give "
                "--batch_sizes"
            )
    elif checkpoint.restore is None and checkpoint.checkpoint_dir is None:
        raise UserError(
            f"--mode={mode} needs a checkpoint: give --restore, or --checkpoint_dir for the newest "
            "in it"
        )
    elif mode == "evaluate" and config.data.use_synthetic_dataset:
        raise UserError("--mode=evaluate scores test data: random batches have no score")


def _check_data(config: Config) -> None:
    data, training = config.data, config.training
    if training.global_batch_size is None and config.job.mode == "train":
        raise UserError("--global_batch_size is required: samples in one step over all ranks")
    if data.data_dir is None and not data.use_synthetic_dataset:
        raise UserError("--data_dir is required (or --use_synthetic_dataset for random batches)")
    if training.early_stop == 0 or training.early_stop < -1:
        raise UserError(f"--early_stop={training.early_stop}: expected a number of steps, or -1")
    if data.vocab_sizes is not None and not data.use_synthetic_dataset:
        raise UserError(
            "--vocab_sizes only goes with --use_synthetic_dataset: a dataset's metadata has its own"
        )


def _check_speed(config: Config) -> None:
    if config.speed.mlp == "fused" and config.speed.xla:
        raise UserError(
            "--mlp=fused goes past XLA, which compiles TensorFlow's layers: leave --xla away, or "
            "take --mlp=tensorflow"
        )
    if config.training.embedding_lr is not None and config.training.lr == 0:
        raise UserError("--embedding_lr is on the schedule of --lr, which is 0: nothing would move")


def _check_widths(config: Config) -> None:
    model = config.model
    bottom, top = model.bottom_widths, model.top_widths
    if bottom[-1] != model.embedding_dim:
        raise UserError(
            f"--bottom_mlp={model.bottom_mlp} ends in {bottom[-1]}, but --embedding_dim is "
            f"{model.embedding_dim}: the interaction needs them equal"
        )
    if top[-1] != 1:
        raise UserError(f"--top_mlp={model.top_mlp} ends in {top[-1]}: the last width must be 1")
