"""Checks a configuration: values, and combinations that cannot take effect.

Imports neither TensorFlow nor absl.
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
from training.config import LARGEST_INTEGER, SETTINGS, Config, ModelConfig
from training.flag_values import read_interaction
from training.runtime.errors import UserError
from training.setting import PATH

# Largest length of a value: a checkpoint's manifest cannot hold longer ones.
LONGEST_TEXT = 1 << 16
_PLANNED_BATCH_SIZE = 65536  # default of --mode=plan


def complete(config: Config) -> Config:
    """Returns the configuration with the defaults that its mode implies.

    Replaces --ablation=no_interaction by --interaction=none.

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
    # Marked as given, so that a checkpoint's interaction does not replace it. The flag may be added
    # to the command of the full model: --custom_interact is ignored then.
    config = dataclasses.replace(config, given=config.given | {"interaction"})
    return config.with_values(interaction=interaction, ablation=ablation, custom_interact=False)


def check_custom_interact(config: Config) -> None:
    """Raises UserError for --custom_interact with an interaction that has no native op."""
    if config.speed.custom_interact:
        try:
            check_native(config.model.interaction)
        except ValueError as error:
            text = f"--custom_interact: {error}; leave the flag out"
            raise UserError(text, flag="custom_interact") from error


def check(config: Config) -> None:
    """Checks everything that can be checked without opening a data file.

    Args:
        config: a result of `complete`.

    Raises:
        UserError: one line with the flag, its value and what to do.
    """
    mode = config.job.mode
    _check_values(config)
    _check_texts(config)
    check_custom_interact(config)
    if config.model.interaction != "cross":
        _check_unused(config, "--interaction=cross", "cross_layers", "cross_rank")
    if config.placement.column_split:
        try:
            check_column_split(config.training.embedding_optimizer)
        except ValueError as error:
            raise UserError(str(error), flag="column_split") from error
    _check_mlperf(config)
    _check_transform(config)
    if mode == "plan":
        return
    needed = "--mode=plan: a job uses the ranks of horovodrun -np N and the devices that they find"
    _check_unused(config, needed, "ranks", "device")
    _check_mode(config)
    if mode == "export":
        _check_unused(config, "modes that read data", "hotness", "multi_hot")
    else:
        _check_data(config)
        _check_speed(config)
        _check_widths(config.model)


def _check_unused(config: Config, needed: str, *names: str) -> None:
    """Raises UserError if one of the settings is set: they only work with `needed`."""
    for name in names:
        value = config.flags()[name]
        unset = value is None or value is False  # 0 is a value
        if not unset and (name in config.given or value != SETTINGS[name].default):
            raise UserError.of_flag(name, value, f"only works with {needed}")


def _check_values(config: Config) -> None:
    """Checks what the parser accepts: NaN passes every bound, and "" is a valid text."""
    values = config.flags()
    for name, value in values.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError.of_flag(name, value, "expected a finite number")
        if isinstance(value, str) and len(value) > LONGEST_TEXT:
            problem = f"expected at most {LONGEST_TEXT} characters, found {len(value)}"
            raise UserError.of_flag(name, value, problem, bound=LONGEST_TEXT)
        largest = SETTINGS[name].maximum or LARGEST_INTEGER
        if isinstance(value, int) and value > largest:
            raise UserError.of_flag(name, value, f"expected at most {largest}", bound=largest)
    for name, found in SETTINGS.items():
        if not found.path:
            continue
        # Such as --checkpoint_dir=$UNSET.
        if found.path == PATH and values[name] == "":
            raise UserError.of_flag(name, "", "expected a path, found nothing")
        try:
            check_local(values[name] or "")
        except NotLocalError as error:
            raise UserError.of(error, f"--{name}={values[name]}: ", flag=name) from error


def _check_texts(config: Config) -> None:
    """Parses structured text values, so that a wrong one fails before TensorFlow is imported."""
    data, speed, placement = config.data, config.speed, config.placement.placement
    # Each property raises UserError for text that it cannot parse.
    _ = config.placement.memory_bytes
    _ = config.checkpoint.interval
    _ = config.output.profiled_steps
    _ = speed.loss_factor
    _ = config.training.row_optimizer
    _ = config.training.optimizer_values
    _ = config.job.global_batch_sizes
    _ = config.model.bottom_widths
    _ = config.model.top_widths
    if data.vocab_sizes is not None:
        data.table_sizes(data.vocab_sizes)
    if data.hotness is not None:
        tables = None if data.vocab_sizes is None else len(data.table_sizes(""))
        data.ids_per_sample("hotness", tables)
    if data.multi_hot is not None:
        data.ids_per_sample("multi_hot", None)
        if data.hotness is not None:
            problem = "contradicts --hotness, which is for data without files: leave one out"
            raise UserError.of_flag("multi_hot", data.multi_hot, problem)
    if placement not in POLICIES and not os.path.isfile(placement):
        problem = f"expected {', '.join(POLICIES)} or an existing JSON file"
        raise UserError.of_flag("placement", placement, problem, path=placement)
    if data.data_layout not in ("auto", *LAYOUTS):
        problem = f"expected one of auto, {', '.join(LAYOUTS)}"
        raise UserError.of_flag("data_layout", data.data_layout, problem)
    if data.use_splited_dataset and data.data_layout not in ("auto", "per_table"):
        problem = f"contradicts --data_layout={data.data_layout}: leave one out"
        raise UserError.of_flag("use_splited_dataset", "true", problem)
    if not speed.amp and speed.amp_dtype != "auto":
        raise UserError.of_flag("amp_dtype", speed.amp_dtype, "has no effect without --amp")
    if speed.amp and "tf32" in config.given:
        problem = "has no effect with --amp, whose products are in 16 bits: leave one of them out"
        raise UserError.of_flag("tf32", str(speed.tf32).lower(), problem)
    if config.job.mode == "train" and config.training.global_batch_size is not None:
        config.training.learning_rates()


def _check_mlperf(config: Config) -> None:
    path = config.mlperf.mlperf_log
    if path is None:
        names = [found.name for found in SETTINGS.values() if found.section == "mlperf"]
        _check_unused(config, "--mlperf_log=FILE", *names)
        return
    if os.path.exists(path):
        try:
            check_regular(path)  # The existing file is renamed.
        except OSError as error:
            raise UserError.of_flag("mlperf_log", path, str(error.strerror), path=path) from error
    if config.job.mode != "train":
        _check_unused(config, "--mode=train", "mlperf_log")
    if config.data.use_synthetic_dataset:
        problem = "needs evaluations: --use_synthetic_dataset has no test data"
        raise UserError.of_flag("mlperf_log", path, problem)
    for name in ("mlperf_org", "mlperf_platform"):
        if not getattr(config.mlperf, name).strip():
            raise UserError.of_flag(name, "", "expected a name, found nothing")
    if importlib.util.find_spec("mlperf_logging") is None:
        problem = "needs the package mlperf-logging, which is not installed: "
        problem += install_command("mlperf-logging")
        raise UserError.of_flag("mlperf_log", path, problem)


def _check_transform(config: Config) -> None:
    data, mode = config.data, config.job.mode
    reads_values = data.data_dir is not None or mode == "export"
    if data.use_synthetic_dataset or mode == "plan" or not reads_values:
        needed = "--data_dir, whose stored values it describes, or with --mode=export"
        _check_unused(config, needed, "applied_transform")


def _check_mode(config: Config) -> None:
    """Checks the settings that only some modes use."""
    mode, checkpoint = config.job.mode, config.checkpoint
    if mode != "export":
        _check_unused(config, "--mode=export", "export_dir")
    elif checkpoint.export_dir is None:
        text = "--export_dir is required with --mode=export: the folder to create"
        raise UserError(text, flag="export_dir")
    if mode != "inference_benchmark":
        _check_unused(config, "--mode=inference_benchmark", "batch_sizes")
    if mode == "train":
        if checkpoint.checkpoint_dir is None:
            _check_unused(config, "--checkpoint_dir", "checkpoint_interval", "keep")
        return
    _check_unused(config, "--mode=train", "profile_steps", "step_breakdown", "embedding_stream")
    if checkpoint.restore is not None and checkpoint.checkpoint_dir is not None:
        problem = f"--mode={mode} reads one checkpoint: leave out --restore or --checkpoint_dir"
        raise UserError.of_flag("restore", checkpoint.restore, problem)
    if mode == "inference_benchmark":
        _check_unused(
            config,
            "modes other than inference_benchmark; use --batch_sizes instead",
            "global_batch_size",
        )
    elif checkpoint.restore is None and checkpoint.checkpoint_dir is None:
        text = "a checkpoint: give --restore, or --checkpoint_dir for the newest in a folder"
        raise UserError(f"--mode={mode} needs {text}", flag="restore")
    elif mode == "evaluate" and config.data.use_synthetic_dataset:
        text = "--mode=evaluate needs test data: --use_synthetic_dataset has none"
        raise UserError(text, flag="use_synthetic_dataset")


def _check_data(config: Config) -> None:
    data, training = config.data, config.training
    if training.global_batch_size is None and config.job.mode == "train":
        text = "--global_batch_size is required: samples per step over all ranks"
        raise UserError(text, flag="global_batch_size")
    if data.data_dir is None and not data.use_synthetic_dataset:
        text = "--data_dir is required (or --use_synthetic_dataset for random batches)"
        raise UserError(text, flag="data_dir")
    if training.early_stop == 0 or training.early_stop < -1:
        raise UserError.of_flag(
            "early_stop", training.early_stop, "expected a number of steps, or -1"
        )
    if data.use_synthetic_dataset:
        _check_unused(config, "--data_dir; use --hotness", "multi_hot")
    else:
        reason = "the metadata of --data_dir has the sizes of its tables"
        needed = f"--use_synthetic_dataset or --mode=plan: {reason}"
        _check_unused(config, needed, "vocab_sizes")
        reason = "--data_dir has its own numbers of ids; dataset.convert --hotness records them"
        _check_unused(config, f"--use_synthetic_dataset or --mode=plan: {reason}", "hotness")


def _check_speed(config: Config) -> None:
    if config.speed.mlp == "fused" and config.speed.xla:
        problem = "contradicts --xla, which compiles TensorFlow's layers: leave one of them out"
        raise UserError.of_flag("mlp", "fused", problem)
    if config.speed.embedding_stream and config.output.step_breakdown:
        problem = (
            "contradicts --step_breakdown, which runs one phase at a time: leave one of them out"
        )
        raise UserError.of_flag("embedding_stream", "true", problem)
    rate = config.training.embedding_lr
    if rate is not None and config.training.lr == 0:
        problem = "has no effect with --lr=0: it follows the schedule of --lr"
        raise UserError.of_flag("embedding_lr", rate, problem)


def _check_widths(model: ModelConfig) -> None:
    bottom, top = model.bottom_widths[-1], model.top_widths[-1]
    if bottom != model.embedding_dim:
        problem = f"expected the last width to equal --embedding_dim={model.embedding_dim}"
        raise UserError.of_flag("bottom_mlp", model.bottom_mlp, problem, bound=model.embedding_dim)
    if top != 1:
        raise UserError.of_flag("top_mlp", model.top_mlp, "expected the last width to be 1")
