"""Whether a checkpoint fits a job: its model, its data, its place in the data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dataset import vocabularies
from model.embedding.optimizers import OptimizerError
from training.checkpoint import manifest
from training.checkpoint.reader import Reader
from training.config import Config
from training.config_checks import check_custom_interact
from training.flag_values import read_interaction, read_row_optimizer
from training.runtime.errors import UserError

# Layout of random batches (`training.data`).
SYNTHETIC = "synthetic"

# Flags that a model's weights are for: another value is another model.
MODEL_FLAGS = ("embedding_dim", "bottom_mlp", "top_mlp", "interaction", "ablation")
# Flags that the optimizers' state is for.
_OPTIMIZER_FLAGS = ("optimizer", "embedding_optimizer")
# Flags that say which sample comes at which step.
_POSITION_FLAGS = ("global_batch_size", "shuffle_seed", "use_synthetic_dataset")
_POSITION_DATA = ("train_samples", "train_fingerprint")
# Flags whose change alters what is learned from here on: allowed, and told.
_COURSE_FLAGS = (
    "schedule", "lr", "warmup_steps", "decay_start_step", "decay_steps", "decay_power", "end_lr",
    "embedding_lr", "embedding_gradient", "amp", "amp_dtype", "loss_scale", "epochs", "seed",
)  # fmt: skip


def with_model_of(config: Config, reader: Reader) -> Config:
    """Returns a configuration with a checkpoint's model, except what the user has given.

    It is for a job that does not train, which keeps no state of the tables' optimizer.

    Args:
        config: the job's.
        reader: the checkpoint.

    Raises:
        UserError: --custom_interact, and the checkpoint's interaction has no native op.
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
    """Returns a checkpoint's flags with its interaction by name.

    Checkpoints from before --interaction have the dot interaction, or none where --ablation says
    so.

    Args:
        flags: {name: value} of a manifest.
    """
    interaction, ablation = read_interaction(
        flags.get("interaction"), flags.get("ablation", "none")
    )
    return {**flags, "interaction": interaction, "ablation": ablation}


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
        data: what identifies its data (`facts` of a `training.data.Data`).
        vocab_sizes: rows of its tables.
        resume: the job goes on where the checkpoint was made, at the same place in the data.
        training: the optimizers' state is wanted too.

    Returns:
        Lines about flags that have changed and may.

    Raises:
        UserError: the checkpoint is of another model, or of other data.
    """
    found = {**reader.manifest, "flags": model_flags(reader.manifest["flags"])}
    where = f"checkpoint {reader.folder}"
    wrong = vocabularies.difference(found["vocab_sizes"], vocab_sizes, "the checkpoint", "the data")
    if wrong is not None:
        raise UserError(f"{where} is of other tables: {wrong}")
    _check_dense(where, found, data)
    names = MODEL_FLAGS + (_OPTIMIZER_FLAGS if training else ())
    wrong = _differences(found["flags"], flags, names)
    if wrong:
        raise UserError(f"{where} is of another model: {'; '.join(wrong)}")
    if not resume:
        return []
    wrong = _differences(found["flags"], flags, _POSITION_FLAGS)
    wrong += _differences(found["data"], data, _POSITION_DATA, flag="")
    if wrong:
        raise UserError(
            f"{where} was made with other batches, so that its place in the data means nothing: "
            f"{'; '.join(wrong)}; give another --checkpoint_dir, and --restore={reader.folder} to "
            "begin from its weights"
        )
    return _differences(found["flags"], flags, _COURSE_FLAGS) + _option_differences(
        found["flags"], flags
    )


def unchecked(reader: Reader, data: Mapping[str, Any]) -> str | None:
    """Returns a line about what `check` cannot compare, None where it compares everything.

    Args:
        reader: the checkpoint.
        data: what identifies the job's data.
    """
    expected, given = manifest.expected_transform(reader.manifest), data.get("effective_transform")
    if data.get("layout") == SYNTHETIC or None not in (expected, given):
        return None
    where = f"checkpoint {reader.folder}"
    ours = f"expects {expected}" if expected else "does not say which dense transform it expects"
    theirs = f"has {given}" if given else "does not say what its dense values have been through"
    return f"the dense transform is not checked: {where} {ours}, the data {theirs}" + (
        "" if given else " (state it with --applied_transform)"
    )


def _check_dense(where: str, found: dict, data: Mapping[str, Any]) -> None:
    """Raises UserError where the data's dense features are not those that the model expects."""
    features, given = manifest.dense_features(found), data.get("dense_features")
    if None not in (features, given) and features != given:
        raise UserError(
            f"{where} is of another model: it takes {features} dense features, the data has {given}"
        )
    # Random values are as good as any other.
    if data.get("layout") == SYNTHETIC:
        return
    expected, given = manifest.expected_transform(found), data.get("effective_transform")
    if expected is not None and given is not None and expected != given:
        raise UserError(
            f"{where} expects dense values that are {_of_counts(expected)}, the data gives "
            f"{_of_counts(given)}: make the data from its counts with --dense_transform="
            f"'{expected}' (split_bin.py, dataset.convert)"
        )


def _of_counts(transform: str) -> str:
    return "counts" if transform == "none" else f"{transform} of counts"


def _differences(
    found: Mapping[str, Any], wanted: Mapping[str, Any], names: Sequence[str], flag: str = "--"
) -> list[str]:
    return [
        f"{flag}{name} was {found.get(name)!r}, is {wanted.get(name)!r}"
        for name in names
        if name in wanted and _plain(found.get(name)) != _plain(wanted.get(name))
    ]


def _option_differences(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """As `_differences`, of the hyper-parameters that --embedding_optimizer_options leaves."""
    name = "embedding_optimizer_options"
    same = _hyperparameters(found) == _hyperparameters(wanted)
    return [] if same else [f"--{name} was {found.get(name)!r}, is {wanted.get(name)!r}"]


def _hyperparameters(flags: Mapping[str, Any]) -> Any:
    optimizer, options = flags.get("embedding_optimizer"), flags.get("embedding_optimizer_options")
    try:
        return dict(read_row_optimizer(optimizer or "", options).hyperparameters)
    except (OptimizerError, UserError):  # of a checkpoint by another version
        return optimizer, options


def _plain(value: Any) -> Any:
    """Returns a value without what `planner.arguments.read_widths` overlooks in a list."""
    return value.replace(" ", "").strip("[]") if isinstance(value, str) else value
