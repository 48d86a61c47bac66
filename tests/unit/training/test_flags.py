"""Values of flags, aliases, and hints for flags of other trainers."""

import json
import re

import pytest

from planner.arguments import read_bytes, read_widths
from training import cli
from training.config import SETTINGS
from training.flag_values import read_interval, read_steps
from training.foreign_flags import NAMES, WITHOUT, advice
from training.runtime.errors import UserError

REQUIRED = ["main.py", "--use_synthetic_dataset", "--vocab_sizes=30,20", "--global_batch_size=8"]
HUGE = "9" * 20
# (arguments, the flag that the error names)
WRONG = [
    (["--noxla=3"], "noxla"),
    (["--nooverlap=true"], "nooverlap"),
    (["--noamp="], "noamp"),
    (["--xla=maybe"], "xla"),
    (["--memory_per_rank=lots"], "memory_per_rank"),
    ([f"--memory_per_rank={'9' * 400}"], "memory_per_rank"),
    (["--profile_steps=9"], "profile_steps"),
    (["--profile_steps=0-3"], "profile_steps"),
    (["--profile_steps=9-3"], "profile_steps"),
    ([f"--profile_steps=1-{HUGE}"], "profile_steps"),
    (["--checkpoint_dir=x", "--checkpoint_interval=soon"], "checkpoint_interval"),
    (["--checkpoint_dir=x", f"--checkpoint_interval={'9' * 5000}"], "checkpoint_interval"),
    (["--loss_scale=big"], "loss_scale"),
    (["--loss_scale=1e39"], "loss_scale"),
    (["--data_layout=parquet"], "data_layout"),
    (["--use_splited_dataset", "--data_layout=raw"], "use_splited_dataset"),
    (["--placement=rows"], "placement"),
    (["--amp_dtype=float16"], "amp_dtype"),
    (["--vocab_sizes=1,,2"], "vocab_sizes"),
    (["--vocab_sizes=1,2,"], "vocab_sizes"),
    ([f"--vocab_sizes=7,{HUGE}"], "vocab_sizes"),
    ([f"--vocab_sizes={'9,' * 40_000}9"], "vocab_sizes"),
    (["--vocab_sizes=0"], "vocab_sizes"),
    (["--vocab_sizes=docs"], "vocab_sizes"),
    (["--vocab_sizes=README.md"], "vocab_sizes"),
    (["--bottom_mlp=128,,128"], "bottom_mlp"),
    (["--top_mlp=2097152,1"], "top_mlp"),
    (["--batch_sizes=8,x"], "batch_sizes"),
    (["--embedding_optimizer_options=epsilon=1"], "embedding_optimizer_options"),
    (["--interaction=fm"], "interaction"),
    (["--ablation=no_interaction", "--interaction=cat"], "ablation"),
    (["--ablation=no_interaction", "--interaction=dot"], "ablation"),
    (["--interaction=cat", "--custom_interact"], "custom_interact"),
    (["--interaction=none", "--custom_interact"], "custom_interact"),
    (["--mode=plan", "--interaction=cat", "--custom_interact"], "custom_interact"),
    (["--dedup_ids", "--nocompress"], "dedup_ids"),
]  # fmt: skip


def error_of(arguments, required=REQUIRED):
    """Returns the error of a command line; it is one line."""
    with pytest.raises(UserError) as caught:
        cli.parse([*required, *arguments])
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000
    return caught.value


@pytest.mark.parametrize(("arguments", "flag"), WRONG)
def test_wrong_value_is_an_error_of_its_flag(arguments, flag):
    error = error_of(arguments)
    assert error.flag == flag
    assert f"--{flag}" in str(error)


@pytest.mark.parametrize(
    "arguments", [["--warmup_steps=9", "--decay_start_step=3"], ["--end_lr=7", "--lr=1"]]
)
def test_contradicting_schedule_is_an_error(arguments):
    text = str(error_of(arguments))
    for argument in arguments:
        assert argument.split("=")[0] in text


def test_every_integer_flag_has_a_largest_value():
    modes = {"ranks": ["--mode=plan"], "keep": ["--checkpoint_dir=x"]}
    for name, found in SETTINGS.items():
        if found.kind is int:
            assert error_of([*modes.get(name, []), f"--{name}={HUGE}"]).flag == name


@pytest.mark.parametrize("name", ["dedup_ids", "compress"])
def test_alias_sets_the_flag(name):
    config = cli.parse([*REQUIRED, f"--{name}"])
    assert config.speed.dedup_ids
    assert config.flags()["dedup_ids"]
    assert "dedup_ids" in config.given
    assert not cli.parse([*REQUIRED, f"--no{name}"]).speed.dedup_ids


def test_flag_and_alias_with_equal_values_are_accepted():
    assert cli.parse([*REQUIRED, "--compress", "--dedup_ids"]).speed.dedup_ids
    assert not cli.parse([*REQUIRED, "--nocompress", "--nodedup_ids"]).speed.dedup_ids


def test_help_names_every_flag_and_alias():
    text = cli.help_text()
    for name, found in SETTINGS.items():
        assert re.search(rf"^  --{name}\b", text, re.MULTILINE)
        assert not found.alias or f"--{found.alias}" in text


def test_flag_of_another_trainer_gets_the_hint(rng):
    known = {*SETTINGS, *(found.alias for found in SETTINGS.values())}
    for name in [*NAMES, *WITHOUT]:
        spelled = name if rng.random() < 0.5 else name.replace("_", "-")
        hint = advice(spelled, list(SETTINGS), ["xla"])
        if name in NAMES:
            assert f"--{NAMES[name]}" in hint
            assert NAMES[name].partition("=")[0] in known
        else:
            assert WITHOUT[name] in hint
            named = set(re.findall(r"--(\w+)", WITHOUT[name])) - {"max_table_rows"}
            assert named <= known, name
    assert not set(WITHOUT) & set(NAMES)
    assert not (set(WITHOUT) | set(NAMES)) & known


def test_hinted_value_is_valid():
    for ours in NAMES.values():
        name, _, value = ours.partition("=")
        if value and SETTINGS[name].choices:
            assert value in SETTINGS[name].choices
        elif name == "embedding_optimizer_options":
            cli.parse([*REQUIRED, "--embedding_optimizer=adagrad", f"--{ours}"])
        elif value:
            cli.parse([*REQUIRED, f"--{ours}"])


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("no_xla", "--noxla"),
        ("Global-Batch-Size", "--global_batch_size"),
        ("global_batch_sizes", "--global_batch_size"),
        ("arch-mlp-top", "--top_mlp"),
    ],
)
def test_unknown_flag_gets_a_hint(name, hint):
    error = error_of([f"--{name}"])
    assert error.flag == name
    assert hint in str(error)


def test_unknown_flag_without_a_near_one_gets_no_hint():
    error = error_of(["--qqqq"])
    assert error.flag == "qqqq"
    assert "did you mean" not in str(error)


def test_parsers_accept_what_they_print(rng):
    widths = [int(width) for width in rng.integers(1, 1 << 20, rng.integers(1, 9))]
    assert read_widths("top_mlp", ",".join(map(str, widths))) == tuple(widths)
    assert read_widths("top_mlp", json.dumps(widths)) == tuple(widths)
    first = int(rng.integers(1, 10**6))
    assert read_steps(f"{first}-{first + 7}") == (first, first + 7)
    assert read_interval(str(first)) == (first, None)
    assert read_interval(f"{first}min") == (None, float(first))
    assert read_interval("0") == (None, None)
    assert read_bytes("memory_per_rank", f"{first} KiB") == first << 10
    assert read_bytes("memory_per_rank", "1.5G") == 3 << 29
