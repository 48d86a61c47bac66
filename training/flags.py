"""The command line, parsed and checked before anything is loaded.

Importing this module imports no TensorFlow, so that a wrong flag is an error within a second.
"""

import importlib.util
import math
import os
import re
import sys
import textwrap

from absl import flags

from dataset.layouts import LAYOUTS
from model.embedding.placement import POLICIES
from model.interactions import check_native
from planner.arguments import check_column_split, read_vocab_sizes, read_widths
from storage.paths import NotLocalError, check_local
from storage.regular import check_regular
from training import flag_files, schedule
from training.flag_definitions import GROUPS
from training.flag_values import (
    read_bytes,
    read_interaction,
    read_interval,
    read_loss_scale,
    read_steps,
)
from training.foreign_flags import advice
from training.runtime.errors import UserError

FLAGS = flags.FLAGS

# The vocabulary of the demo data (`dataset.synthetic`).
DEMO_VOCAB_SIZES = (
    "203931,18598,14092,7012,18977,4,6385,1245,49,186213,71328,67288,11,2168,7338,61,4,932,15,"
    "204515,141526,199433,60919,9137,71,34"
)

# Of a number of steps, samples, rows or seconds.
LARGEST_INTEGER = 2**31 - 1
LONGEST_TEXT = 1 << 16
# Of a layer or an embedding vector; no machine has the memory for a kernel of two such.
LARGEST_WIDTH = 1 << 20
# Flags that are paths.
_PATHS = ("data_dir", "checkpoint_dir", "restore", "export_dir", "run_dir", "mlperf_log")
_PATHS_OR_WORDS = ("placement", "vocab_sizes")

# What Python says of a text that is no number.
_CONVERSIONS = (
    (r"invalid literal for int\(\) with base 10: .*", "expected a whole number"),
    (r"could not convert string to float: .*", "expected a number"),
    (r"\('Non-boolean argument to boolean flag', .*\)", "expected true or false"),
    (r"(--no(\w+)=.*) does not take an argument", r"\1 takes no value: expected --no\2 or --\2"),
)


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
        rest = FLAGS(flag_files.expand(arguments))
    except flags.UnrecognizedFlagError as error:
        known = [name for names in GROUPS.values() for name in names]
        hint = advice(error.flagname, known, [name for name in known if FLAGS[name].boolean])
        raise UserError(f"unknown flag --{error.flagname}{hint} (--help lists all)") from error
    except (flags.Error, ValueError) as error:  # The latter of --noNAME with a value.
        raise UserError(_in_words(str(error))) from error
    if rest[1:]:
        raise UserError(f"unexpected arguments {' '.join(rest[1:]):.80}: flags start with --")
    _check(FLAGS)
    return FLAGS


def _in_words(text):
    """Returns absl's message about a flag's value without Python's words for it."""
    for pattern, what in _CONVERSIONS:
        text = re.sub(pattern, what, text)
    return text


def chosen():
    """Returns {name: value} of this project's flags, without absl's own."""
    return {name: getattr(FLAGS, name) for names in GROUPS.values() for name in names}


def help_text():
    """Returns the flags in groups, each with its default and what it means."""
    lines = [
        "usage: python3 main.py --data_dir=DIR --global_batch_size=N [flag ...]",
        "       horovodrun -np N ./hvd_wrapper.sh python3 main.py ...",
        "",
        "Trains DLRM. --flagfile=FILE reads flags from a file, one a line; flags after it replace",
        "its own. Defaults stand in brackets. --NAME turns a true/false flag on, --noNAME off.",
    ]
    for group, names in GROUPS.items():
        lines += ["", f"{group}:"]
        for name in names:
            flag = FLAGS[name]
            default = "" if flag.default is None else f" [{flag.default_as_str}]"
            lines.append(f"  --{name}{default}".replace("['", "[").replace("']", "]"))
            # absl puts the values of an enum before its help: "<a|b>: ".
            choices, text = getattr(flag.parser, "enum_values", ()), flag.help
            if choices:
                lines.append(f"      one of {', '.join(choices)}")
                text = text.split(">: ", 1)[1]
            lines += textwrap.wrap(
                text, 94, initial_indent=" " * 6, subsequent_indent=" " * 6,
                break_long_words=False, break_on_hyphens=False,
            )  # fmt: skip
    return "\n".join(lines)


def widths(name):
    """Returns the comma-separated flag `name` as a list of positive integers."""
    try:
        values = list(read_widths(name, getattr(FLAGS, name)))
    except ValueError as error:
        raise UserError(str(error)) from None
    largest = LARGEST_INTEGER if name == "batch_sizes" else LARGEST_WIDTH
    if max(values) > largest:
        raise UserError(f"--{name}={getattr(FLAGS, name):.80}: expected numbers up to {largest}")
    return values


def vocab_sizes(default):
    """Returns the sizes that --vocab_sizes names, else those that `default` names."""
    try:
        return list(read_vocab_sizes(default if FLAGS.vocab_sizes is None else FLAGS.vocab_sizes))
    except ValueError as error:
        raise UserError(str(error)) from error


def _check(values):
    _check_values(values)
    _check_texts(values)
    _check_interaction(values)
    if values.column_split:
        try:
            check_column_split(values.embedding_optimizer)
        except ValueError as error:
            raise UserError(str(error)) from error
    _check_mlperf(values)
    if values.applied_transform is not None and (
        values.use_synthetic_dataset or values.mode == "plan" or not _reads_values(values)
    ):
        raise UserError(
            f"--applied_transform={values.applied_transform} has no effect: it is of a dataset's "
            "stored values, or with --mode=export of a checkpoint's"
        )
    if values.mode == "plan":
        if values.global_batch_size is None:
            values.global_batch_size = 65536
        return
    for name in ("ranks", "device"):
        if values[name].present:
            raise UserError(
                f"--{name} only goes with --mode=plan: --mode={values.mode} runs on the ranks that "
                "horovodrun -np N starts, and on the devices that they find"
            )
    _check_mode(values)
    if values.mode == "export":
        return
    if values.global_batch_size is None and values.mode == "train":
        raise UserError("--global_batch_size is required: samples in one step over all ranks")
    if values.data_dir is None and not values.use_synthetic_dataset:
        raise UserError("--data_dir is required (or --use_synthetic_dataset for random batches)")
    if values.early_stop == 0 or values.early_stop < -1:
        raise UserError(f"--early_stop={values.early_stop}: expected a number of steps, or -1")
    if values.vocab_sizes is not None and not values.use_synthetic_dataset:
        raise UserError(
            "--vocab_sizes only goes with --use_synthetic_dataset: a dataset's metadata has its own"
        )
    if values.mlp == "fused" and values.xla:
        raise UserError(
            "--mlp=fused goes past XLA, which compiles TensorFlow's layers: leave --xla away, or "
            "take --mlp=tensorflow"
        )
    if values.embedding_lr is not None and values.lr == 0:
        raise UserError("--embedding_lr is on the schedule of --lr, which is 0: nothing would move")
    bottom, top = widths("bottom_mlp"), widths("top_mlp")
    if bottom[-1] != values.embedding_dim:
        raise UserError(
            f"--bottom_mlp={values.bottom_mlp} ends in {bottom[-1]}, but --embedding_dim is "
            f"{values.embedding_dim}: the interaction needs them equal"
        )
    if top[-1] != 1:
        raise UserError(f"--top_mlp={values.top_mlp} ends in {top[-1]}: the last width must be 1")


def _check_interaction(values):
    """Gives the interaction its one name, and checks that --custom_interact has an effect on it."""
    cut = values.ablation == "no_interaction"
    given = values.interaction if values["interaction"].present else None
    interaction, values.ablation = read_interaction(given, values.ablation)
    if not cut:
        check_custom_interact(values)
        return
    if given is None:
        values["interaction"].parse(interaction)  # As given: a checkpoint's does not replace it.
    # Of a command that is otherwise the full model's.
    values.custom_interact = False


def check_custom_interact(values) -> None:
    """Raises UserError for --custom_interact with an interaction that has no native op."""
    if values.custom_interact:
        try:
            check_native(values.interaction)
        except ValueError as error:
            raise UserError(f"--custom_interact: {error}: leave the flag out") from error


def _reads_values(values):
    return values.data_dir is not None or values.mode == "export"


def _check_values(values):
    """Checks what absl's bounds let through: NaN is below no bound, and "" is a path for it."""
    for name, value in chosen().items():
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"--{name}={value}: expected a finite number")
        # So long a text is not read back from a checkpoint's manifest.
        if isinstance(value, str) and len(value) > LONGEST_TEXT:
            raise UserError(
                f"--{name}={value[:40]}...: expected at most {LONGEST_TEXT} characters, found "
                f"{len(value)}"
            )
        # Seeds have bounds of their own.
        if isinstance(value, int) and value > LARGEST_INTEGER and "seed" not in name:
            raise UserError(f"--{name}={value}: expected at most {LARGEST_INTEGER}")
    for name in _PATHS:
        # Such as --checkpoint_dir=$UNSET.
        if getattr(values, name) == "":
            raise UserError(f"--{name}= is empty: expected a path")
    for name in (*_PATHS, *_PATHS_OR_WORDS):
        try:
            check_local(getattr(values, name) or "")
        except NotLocalError as error:
            raise UserError(f"--{name}={getattr(values, name)}: {error}") from error


def _check_texts(values):
    """Parses the flags that are texts, so that TensorFlow is not imported for a wrong one."""
    if values.memory_per_rank is not None:
        read_bytes("memory_per_rank", values.memory_per_rank)
    read_interval(values.checkpoint_interval)
    read_steps(values.profile_steps)
    read_loss_scale(values.loss_scale)
    for name in ("batch_sizes", "bottom_mlp", "top_mlp"):
        widths(name)
    if values.vocab_sizes is not None:
        vocab_sizes(values.vocab_sizes)
    if values.placement not in POLICIES and not os.path.isfile(values.placement):
        raise UserError(
            f"--placement={values.placement}: expected {', '.join(POLICIES)} or a JSON file; there "
            "is no such file"
        )
    if values.data_layout not in ("auto", *LAYOUTS):
        raise UserError(f"--data_layout={values.data_layout}: expected auto, {', '.join(LAYOUTS)}")
    if values.use_splited_dataset and values.data_layout not in ("auto", "per_table"):
        raise UserError(f"--use_splited_dataset contradicts --data_layout={values.data_layout}")
    if not values.amp and values.amp_dtype != "auto":
        raise UserError(f"--amp_dtype={values.amp_dtype} has no effect without --amp")
    if values.mode == "train" and values.global_batch_size is not None:
        schedule.from_flags(values)


def _check_mode(values):
    """Checks the flags that only some modes take."""
    mode = values.mode
    if mode == "export" and values.export_dir is None:
        raise UserError("--export_dir is required: the folder that --mode=export makes")
    if mode != "export" and values.export_dir is not None:
        raise UserError(f"--export_dir only goes with --mode=export, not with --mode={mode}")
    if mode != "inference_benchmark" and values["batch_sizes"].present:
        raise UserError("--batch_sizes only goes with --mode=inference_benchmark")
    if mode == "train":
        if values.checkpoint_dir is None:
            for name in ("checkpoint_interval", "keep"):
                if values[name].present:
                    raise UserError(f"--{name} has no effect without --checkpoint_dir")
        return
    for name in ("profile_steps", "step_breakdown"):
        if getattr(values, name):
            raise UserError(f"--{name} is of training's steps, not of --mode={mode}")
    if values.restore is not None and values.checkpoint_dir is not None:
        raise UserError(
            f"--mode={mode} reads one checkpoint: give --restore, or --checkpoint_dir for the "
            "newest in it"
        )
    if mode == "inference_benchmark":
        widths("batch_sizes")
        if values.global_batch_size is not None:
            raise UserError(
                "--global_batch_size has no effect on --mode=inference_benchmark: give "
                "--batch_sizes"
            )
        if values.data_dir is None:
            values.use_synthetic_dataset = True
    elif values.restore is None and values.checkpoint_dir is None:
        raise UserError(
            f"--mode={mode} needs a checkpoint: give --restore, or --checkpoint_dir for the newest "
            "in it"
        )
    elif mode == "evaluate" and values.use_synthetic_dataset:
        raise UserError("--mode=evaluate scores test data: random batches have no score")


def _check_mlperf(values):
    if values.mlperf_log is None:
        for name in GROUPS["MLPerf log"]:
            if values[name].present:
                raise UserError(f"--{name} only goes with --mlperf_log=FILE")
        return
    if os.path.exists(values.mlperf_log):
        try:
            check_regular(values.mlperf_log)  # It is renamed.
        except OSError as error:
            raise UserError(f"--mlperf_log={values.mlperf_log}: {error.strerror}") from error
    if values.mode != "train":
        raise UserError(f"--mlperf_log is of a training, not of --mode={values.mode}")
    if values.use_synthetic_dataset:
        raise UserError("--mlperf_log needs evaluations: --use_synthetic_dataset has no test data")
    for name in ("mlperf_org", "mlperf_platform"):
        if not getattr(values, name).strip():
            raise UserError(f"--{name} is empty: MLPerf's log wants a name")
    if importlib.util.find_spec("mlperf_logging") is None:
        raise UserError(
            "--mlperf_log needs the package mlperf-logging, which is not installed: "
            "python3 -m pip install -c constraints.txt mlperf-logging"
        )
