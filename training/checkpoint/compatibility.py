"""Checks that a checkpoint matches a job: its model, its data, its position in the data."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from dataset import vocabularies
from model.embedding.optimizers import OptimizerError
from model.interactions import InteractionOptions
from ops.bags import Bags
from training.checkpoint import manifest
from training.checkpoint.reader import Reader
from training.config import Config
from training.config_checks import check_custom_interact
from training.flag_values import read_interaction, read_optimizer_options, read_row_optimizer
from training.runtime.errors import UserError

# The layout of random batches (`training.data`).
SYNTHETIC = "synthetic"

# Flags that define the model: weights fit only if these are equal.
MODEL_FLAGS = (
    "embedding_dim", "bottom_mlp", "top_mlp", "interaction", "cross_layers", "cross_rank",
    "ablation",
)  # fmt: skip
# Flags that define the optimizers' state.
_OPTIMIZER_FLAGS = ("optimizer", "embedding_optimizer")
# Flags, and facts about the data, that define which samples a step reads.
_POSITION_FLAGS = ("global_batch_size", "shuffle_seed", "use_synthetic_dataset")
_POSITION_DATA = ("train_samples", "train_fingerprint")
# Flags that may change when a run resumes; a change is reported.
_CHANGEABLE_FLAGS = (
    "schedule", "lr", "warmup_steps", "decay_start_step", "decay_steps", "decay_power", "end_lr",
    "embedding_lr", "embedding_gradient", "amp", "amp_dtype", "loss_scale", "epochs", "seed",
)  # fmt: skip


def with_model_of(config: Config, reader: Reader) -> Config:
    """Returns a configuration with a checkpoint's model flags, except those that the user gave.

    For a job that does not train: it keeps no optimizer state of the tables.

    Raises:
        UserError: --custom_interact is set, but the checkpoint's interaction has no native op.
    """
    written = model_flags(reader.manifest["flags"])
    adopted = {
        name: written[name] for name in MODEL_FLAGS if name in written and name not in config.given
    }
    config = config.with_values(
        **adopted, embedding_optimizer="sgd", embedding_optimizer_options=None
    )
    check_custom_interact(config)
    return config


def model_flags(flags: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a checkpoint's flags with the name and the options of its interaction.

    Checkpoints older than --interaction have the dot interaction, or none if --ablation says so;
    the options that a checkpoint does not record have no effect on its interaction.
    """
    interaction, ablation = read_interaction(
        flags.get("interaction"), flags.get("ablation", "none")
    )
    options = dataclasses.asdict(InteractionOptions())
    return {**options, **flags, "interaction": interaction, "ablation": ablation}


def check(
    reader: Reader,
    flags: Mapping[str, Any],
    data: Mapping[str, Any],
    vocab_sizes: Sequence[int],
    *,
    resume: bool,
    training: bool = True,
) -> list[str]:
    """Compares a checkpoint with a job.

    Args:
        reader: the checkpoint.
        flags: {name: value} of the job's settings.
        data: facts that identify its data (`training.data.Data.facts`).
        vocab_sizes: rows of its tables.
        resume: whether the job continues from the checkpoint's position in the data.
        training: whether the job loads the optimizers' state too.

    Returns:
        One line per changed flag that is allowed to change.

    Raises:
        UserError: the checkpoint belongs to another model or other data.
    """
    found = {**reader.manifest, "flags": model_flags(reader.manifest["flags"])}
    where = f"checkpoint {reader.folder}"
    wrong = vocabularies.difference(found["vocab_sizes"], vocab_sizes, "the checkpoint", "the data")
    if wrong is not None:
        pairs = enumerate(zip(found["vocab_sizes"], vocab_sizes))
        table = next((table for table, (theirs, ours) in pairs if theirs != ours), None)
        raise UserError(f"{where} has different tables: {wrong}", path=reader.folder, table=table)
    _check_bags(reader, found, data)
    _check_dense(reader, found, data)
    names = MODEL_FLAGS + (_OPTIMIZER_FLAGS if training else ())
    wrong = _differences(found["flags"], flags, names)
    if wrong:
        text = f"{where} belongs to another model: {'; '.join(map(str, wrong))}"
        raise UserError(text, path=reader.folder, **wrong[0].fields)
    if not resume:
        return []
    wrong = _differences(found["flags"], flags, _POSITION_FLAGS)
    wrong += _differences(found["data"], data, _POSITION_DATA, flag=False)
    if wrong:
        raise UserError(
            f"{where} was written with different batches, so the run cannot continue at its "
            f"position in the data: {'; '.join(map(str, wrong))}; give another --checkpoint_dir, "
            f"and --restore={reader.folder} to start from its weights",
            path=reader.folder,
            **wrong[0].fields,
        )
    changed = _differences(found["flags"], flags, _CHANGEABLE_FLAGS)
    for name in ("embedding_optimizer", "optimizer"):
        if _hyperparameters(name, found["flags"]) != _hyperparameters(name, flags):
            changed.append(_difference(f"{name}_options", found["flags"], flags))
    lines = list(map(str, changed))
    if flags.get("optimizer") == "adagrad" and "optimizer_options" not in found["flags"]:
        lines.append(
            "the release that wrote the checkpoint added epsilon of --optimizer=adagrad under the "
            "root, this one adds it to the root"
        )
    return lines


def unchecked(reader: Reader, data: Mapping[str, Any]) -> str | None:
    """Returns a line if `check` cannot compare the dense transforms, else None."""
    expected, given = manifest.expected_transform(reader.manifest), data.get("effective_transform")
    if data.get("layout") == SYNTHETIC or None not in (expected, given):
        return None
    where = f"checkpoint {reader.folder}"
    ours = f"expects {expected}" if expected else "does not record its dense transform"
    theirs = f"has {given}" if given else "does not record its own (set --applied_transform)"
    return f"the dense transform is not checked: {where} {ours}, the data {theirs}"


def _check_bags(reader: Reader, found: dict, data: Mapping[str, Any]) -> None:
    """Raises UserError if features have other numbers of ids, or another pooling.

    Random batches have no pooling or lists of their own: only their numbers of ids must be equal.
    """
    is_random = data.get("layout") == SYNTHETIC
    ours = manifest.bags(found, reader.folder)
    theirs = Bags.from_description(data.get("bags"), ours.features)
    for table, (before, now) in enumerate(zip(ours.each(), theirs.each())):
        both_vary = before.variable and now.variable
        one_each = before[::2] == now[::2] == (1, False)  # pooling has no effect
        if one_each or before == now or (both_vary and before.pooling == now.pooling):
            continue
        if is_random and before.hotness == now.hotness:
            continue
        raise UserError(
            f"checkpoint {reader.folder}, table {table}: the model was trained with ids per sample "
            f"{before}, but the data has {now}",
            path=reader.folder,
            table=table,
            expected=str(before),
            found=str(now),
        )


def _check_dense(reader: Reader, found: dict, data: Mapping[str, Any]) -> None:
    """Raises UserError if number or transform of the dense features do not match the model."""
    where = f"checkpoint {reader.folder}"
    features, given = manifest.dense_features(found), data.get("dense_features")
    if None not in (features, given) and features != given:
        text = f"{where} has a model with {features} dense features, but the data has {given}"
        raise UserError(text, path=reader.folder, expected=features, found=given)
    if data.get("layout") == SYNTHETIC:
        return
    expected, given = manifest.expected_transform(found), data.get("effective_transform")
    if expected is not None and given is not None and expected != given:
        raise UserError(
            f"{where} expects dense values with the transform {expected}, found {given} in the "
            f"data: write the data again from the counts, with --dense_transform='{expected}' "
            "(split_bin.py, dataset.convert)",
            flag="dense_transform",
            path=reader.folder,
        )


def _difference(
    name: str, written: Mapping[str, Any], current: Mapping[str, Any], flag: bool = True
) -> UserError:
    """Returns the error for a flag, or a fact about the data, that differs in the checkpoint."""
    before, now = written.get(name), current.get(name)
    text = f"{'--' if flag else ''}{name} was {before!r}, is {now!r}"
    return UserError(text, flag=name if flag else None, expected=before, found=now)


def _differences(
    written: Mapping[str, Any], current: Mapping[str, Any], names: Sequence[str], flag: bool = True
) -> list[UserError]:
    return [
        _difference(name, written, current, flag)
        for name in names
        if name in current and _normalized(written.get(name)) != _normalized(current.get(name))
    ]


def _hyperparameters(flag: str, flags: Mapping[str, Any]) -> Any:
    """Returns the hyper-parameters of --embedding_optimizer or --optimizer."""
    optimizer, options = flags.get(flag) or "", flags.get(f"{flag}_options")
    try:
        if flag == "optimizer":
            return read_optimizer_options(optimizer, options)
        return dict(read_row_optimizer(optimizer, options).hyperparameters)
    except (KeyError, OptimizerError, UserError):  # Another version wrote the checkpoint.
        return optimizer, options


def _normalized(value: Any) -> Any:
    """Returns a value without the characters of a list that `read_widths` ignores."""
    return value.replace(" ", "").strip("[]") if isinstance(value, str) else value
