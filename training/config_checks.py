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
from training.config import LARGEST_INTEGER, SETTINGS, Config
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
            raise UserError(
                f"--custom_interact: {error}; leave the flag out",
                flag="custom_interact",
                found=config.model.interaction,
            ) from error


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
    if config.placement.column_split:
        try:
            check_column_split(config.training.embedding_optimizer)
        except ValueError as error:
            raise UserError(str(error), flag="column_split") from error
    _check_mlperf(config)
    _check_transform(config)
    if mode == "plan":
        return
    for name in ("ranks", "device"):
        if name in config.given:
            raise UserError(
                f"--{name} only works with --mode=plan: --mode={mode} runs on the ranks that "
                "horovodrun -np N starts, and on the devices that they find",
                flag=name,
            )
    _check_mode(config)
    if mode != "export":
        _check_data(config)
        _check_speed(config)
        _check_widths(config)


def _check_values(config: Config) -> None:
    """Checks what the parser accepts: NaN passes every bound, and "" is a valid text."""
    values = config.flags()
    for name, value in values.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"--{name}={value}: expected a finite number", flag=name, found=value)
        if isinstance(value, str) and len(value) > LONGEST_TEXT:
            raise UserError(
                f"--{name}={value[:40]}...: expected at most {LONGEST_TEXT} characters, found "
                f"{len(value)}",
                flag=name,
                found=len(value),
                bound=LONGEST_TEXT,
            )
        largest = SETTINGS[name].maximum or LARGEST_INTEGER
        if isinstance(value, int) and value > largest:
            raise UserError(
                f"--{name}={value}: expected at most {largest}",
                flag=name,
                found=value,
                bound=largest,
            )
    for name, found in SETTINGS.items():
        if not found.path:
            continue
        # Such as --checkpoint_dir=$UNSET.
        if found.path == PATH and values[name] == "":
            raise UserError(f"--{name}=: expected a path, found nothing", flag=name)
        try:
            check_local(values[name] or "")
        except NotLocalError as error:
            fields = {**error.fields, "flag": name, "path": values[name]}
            raise UserError(f"--{name}={values[name]}: {error}", **fields) from error


def _check_texts(config: Config) -> None:
    """Parses structured text values, so that a wrong one fails before TensorFlow is imported."""
    data, speed, placement = config.data, config.speed, config.placement.placement
    # Each property raises UserError for text that it cannot parse.
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
            f"--placement={placement}: expected {', '.join(POLICIES)} or an existing JSON file",
            flag="placement",
            path=placement,
            expected=POLICIES,
        )
    if data.data_layout not in ("auto", *LAYOUTS):
        raise UserError(
            f"--data_layout={data.data_layout}: expected auto, {', '.join(LAYOUTS)}",
            flag="data_layout",
            expected=("auto", *LAYOUTS),
            found=data.data_layout,
        )
    if data.use_splited_dataset and data.data_layout not in ("auto", "per_table"):
        raise UserError(
            f"--use_splited_dataset contradicts --data_layout={data.data_layout}: leave one out",
            flag="use_splited_dataset",
            expected="per_table",
            found=data.data_layout,
        )
    if not speed.amp and speed.amp_dtype != "auto":
        raise UserError(
            f"--amp_dtype={speed.amp_dtype} has no effect without --amp", flag="amp_dtype"
        )
    if config.job.mode == "train" and config.training.global_batch_size is not None:
        config.training.learning_rates()


def _check_mlperf(config: Config) -> None:
    path = config.mlperf.mlperf_log
    names = [found.name for found in SETTINGS.values() if found.section == "mlperf"]
    if path is None:
        for name in names:
            if name in config.given:
                raise UserError(f"--{name} only works with --mlperf_log=FILE", flag=name)
        return
    if os.path.exists(path):
        try:
            check_regular(path)  # The existing file is renamed.
        except OSError as error:
            raise UserError(
                f"--mlperf_log={path}: {error.strerror}", flag="mlperf_log", path=path
            ) from error
    if config.job.mode != "train":
        raise UserError(
            f"--mlperf_log only works with --mode=train, found --mode={config.job.mode}",
            flag="mlperf_log",
            expected="train",
            found=config.job.mode,
        )
    if config.data.use_synthetic_dataset:
        raise UserError(
            "--mlperf_log needs evaluations: --use_synthetic_dataset has no test data",
            flag="mlperf_log",
        )
    for name in ("mlperf_org", "mlperf_platform"):
        if not getattr(config.mlperf, name).strip():
            raise UserError(f"--{name}=: expected a name, found nothing", flag=name)
    if importlib.util.find_spec("mlperf_logging") is None:
        raise UserError(
            "--mlperf_log needs the package mlperf-logging, which is not installed: "
            + install_command("mlperf-logging"),
            flag="mlperf_log",
        )


def _check_transform(config: Config) -> None:
    data, mode = config.data, config.job.mode
    if data.applied_transform is None:
        return
    reads_values = data.data_dir is not None or mode == "export"
    if data.use_synthetic_dataset or mode == "plan" or not reads_values:
        raise UserError(
            f"--applied_transform={data.applied_transform} has no effect: it describes the stored "
            "values of --data_dir, or with --mode=export the values that a checkpoint expects",
            flag="applied_transform",
        )


def _check_mode(config: Config) -> None:
    """Checks the settings that only some modes use."""
    mode, checkpoint = config.job.mode, config.checkpoint
    if mode == "export" and checkpoint.export_dir is None:
        raise UserError(
            "--export_dir is required with --mode=export: the folder to create", flag="export_dir"
        )
    if mode != "export" and checkpoint.export_dir is not None:
        raise UserError(
            f"--export_dir only works with --mode=export, found --mode={mode}",
            flag="export_dir",
            expected="export",
            found=mode,
        )
    if mode != "inference_benchmark" and "batch_sizes" in config.given:
        raise UserError(
            f"--batch_sizes only works with --mode=inference_benchmark, found --mode={mode}",
            flag="batch_sizes",
            expected="inference_benchmark",
            found=mode,
        )
    if mode == "train":
        if checkpoint.checkpoint_dir is None:
            for name in ("checkpoint_interval", "keep"):
                if name in config.given:
                    raise UserError(f"--{name} has no effect without --checkpoint_dir", flag=name)
        return
    for name in ("profile_steps", "step_breakdown"):
        if getattr(config.output, name):
            raise UserError(
                f"--{name} only works with --mode=train, found --mode={mode}",
                flag=name,
                expected="train",
                found=mode,
            )
    if checkpoint.restore is not None and checkpoint.checkpoint_dir is not None:
        raise UserError(
            f"--mode={mode} reads one checkpoint: give --restore, or --checkpoint_dir for the "
            "newest in a folder",
            flag="restore",
        )
    if mode == "inference_benchmark":
        if config.training.global_batch_size is not None:
            raise UserError(
                "--global_batch_size has no effect with --mode=inference_benchmark: give "
                "--batch_sizes",
                flag="global_batch_size",
            )
    elif checkpoint.restore is None and checkpoint.checkpoint_dir is None:
        raise UserError(
            f"--mode={mode} needs a checkpoint: give --restore, or --checkpoint_dir for the newest "
            "in a folder",
            flag="restore",
        )
    elif mode == "evaluate" and config.data.use_synthetic_dataset:
        raise UserError(
            "--mode=evaluate needs test data: --use_synthetic_dataset has none",
            flag="use_synthetic_dataset",
        )


def _check_data(config: Config) -> None:
    data, training = config.data, config.training
    if training.global_batch_size is None and config.job.mode == "train":
        raise UserError(
            "--global_batch_size is required: samples per step over all ranks",
            flag="global_batch_size",
        )
    if data.data_dir is None and not data.use_synthetic_dataset:
        raise UserError(
            "--data_dir is required (or --use_synthetic_dataset for random batches)",
            flag="data_dir",
        )
    if training.early_stop == 0 or training.early_stop < -1:
        raise UserError(
            f"--early_stop={training.early_stop}: expected a number of steps, or -1",
            flag="early_stop",
            found=training.early_stop,
        )
    if data.vocab_sizes is not None and not data.use_synthetic_dataset:
        raise UserError(
            "--vocab_sizes only works with --use_synthetic_dataset: the metadata of --data_dir has "
            "the sizes of its tables",
            flag="vocab_sizes",
        )


def _check_speed(config: Config) -> None:
    if config.speed.mlp == "fused" and config.speed.xla:
        raise UserError(
            "--mlp=fused contradicts --xla, which compiles TensorFlow's layers: leave --xla out, "
            "or use --mlp=tensorflow",
            flag="mlp",
        )
    if config.training.embedding_lr is not None and config.training.lr == 0:
        raise UserError(
            "--embedding_lr has no effect with --lr=0: it follows the schedule of --lr",
            flag="embedding_lr",
        )


def _check_widths(config: Config) -> None:
    model = config.model
    bottom, top = model.bottom_widths, model.top_widths
    if bottom[-1] != model.embedding_dim:
        raise UserError(
            f"--bottom_mlp={model.bottom_mlp}: expected the last width to equal "
            f"--embedding_dim={model.embedding_dim}, found {bottom[-1]}",
            flag="bottom_mlp",
            expected=model.embedding_dim,
            found=bottom[-1],
        )
    if top[-1] != 1:
        raise UserError(
            f"--top_mlp={model.top_mlp}: expected the last width to be 1, found {top[-1]}",
            flag="top_mlp",
            expected=1,
            found=top[-1],
        )
