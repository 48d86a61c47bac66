"""What is wrong with a command line is said before TensorFlow is imported."""

import json
import random
import re

import pytest

from planner.arguments import read_bytes, read_widths
from tests.unit.test_migrating import parse
from training.flag_values import read_interval, read_steps
from training.foreign_flags import NAMES, WITHOUT

REQUIRED = ["--use_synthetic_dataset", "--vocab_sizes=30,20", "--global_batch_size=8"]
HUGE = "9" * 20
# (arguments, what the message has)
WRONG = [
    (["--noxla=3"], "--noxla=3 takes no value: expected --noxla or --xla"),
    (["--nooverlap=true"], "--nooverlap=true takes no value"),
    (["--noamp="], "--noamp= takes no value"),
    (["--xla=maybe"], "--xla=maybe: expected true or false"),
    (["--memory_per_rank=lots"], "--memory_per_rank=lots: expected a size such as 70GiB"),
    ([f"--memory_per_rank={'9' * 400}"], "expected a size such as 70GiB"),
    (["--profile_steps=9"], "--profile_steps=9: expected a range of steps"),
    (["--profile_steps=0-3"], "--profile_steps=0-3: expected a range of steps"),
    ([f"--profile_steps=1-{HUGE}"], "expected a range of steps"),
    (["--checkpoint_dir=x", "--checkpoint_interval=soon"], "--checkpoint_interval=soon: expected"),
    (["--checkpoint_dir=x", f"--checkpoint_interval={'9' * 5000}"], "expected a number of steps"),
    (["--loss_scale=big"], "--loss_scale=big: expected auto, dynamic or a number of at least 1"),
    (["--loss_scale=1e39"], "--loss_scale=1e39: expected auto, dynamic or a number"),
    (["--data_layout=parquet"], "--data_layout=parquet: expected auto, raw, three_file"),
    (["--use_splited_dataset", "--data_layout=raw"], "--use_splited_dataset contradicts"),
    (["--placement=rows"], "--placement=rows: expected auto, table, row or a JSON file"),
    (["--amp_dtype=float16"], "--amp_dtype=float16 has no effect without --amp"),
    (["--vocab_sizes=1,,2"], "--vocab_sizes=1,,2: expected positive integers of at most"),
    (["--vocab_sizes=1,2,"], "--vocab_sizes=1,2,: expected positive integers"),
    ([f"--vocab_sizes=7,{HUGE}"], f"--vocab_sizes=7,{HUGE}: expected positive integers"),
    ([f"--vocab_sizes={'9,' * 40_000}9"], "...: expected at most 65536 characters, found 80001"),
    (["--vocab_sizes=0"], "--vocab_sizes=0: expected positive integers"),
    (["--vocab_sizes=docs"], "--vocab_sizes=docs: expected a file, a comma-separated list"),
    (["--vocab_sizes=README.md"], "README.md: is not JSON"),
    (["--bottom_mlp=128,,128"], "--bottom_mlp=128,,128: expected positive integers"),
    (["--top_mlp=2097152,1"], "--top_mlp=2097152,1: expected numbers up to 1048576"),
    (["--batch_sizes=8,x"], "--batch_sizes=8,x: expected positive integers"),
    (["--warmup_steps=9", "--decay_start_step=3"], "the decay starts at step 3, before"),
    (["--end_lr=7", "--lr=1"], "end_rate 7.0 is above base_rate 1.0"),
]  # fmt: skip
# A mode in which each flag may be given.
INTEGERS = {
    "ranks": ["--mode=plan"], "shuffle_seed": [], "prefetch": [], "parallel_reads": [],
    "embedding_dim": [], "global_batch_size": [], "epochs": [], "early_stop": [],
    "warmup_steps": [], "decay_start_step": [], "decay_steps": [], "seed": [],
    "replicate_below_rows": [], "evals_per_epoch": [], "eval_interval": [],
    "keep": ["--checkpoint_dir=x"], "print_interval": [], "stall_timeout": [],
}  # fmt: skip


@pytest.fixture(scope="module")
def told():
    """What the parser says of each list of arguments, in one process."""
    lists = [[*REQUIRED, *arguments] for arguments, _ in WRONG]
    lists += [[*REQUIRED, *rest, f"--{name}={HUGE}"] for name, rest in INTEGERS.items()]
    lists += [[*REQUIRED, f"--{_spelled(name)}=1"] for name in [*NAMES, *WITHOUT]]
    lists += [[f"--{ours}"] if "=" in ours else [] for ours in NAMES.values()]
    return lists, parse(lists)


def _spelled(name):
    """Returns a name with dashes or underscores, as its trainer may have it."""
    return random.Random(name).choice([name, name.replace("_", "-")])


def test_wrong_values_are_refused_before_tensorflow_is_imported(told):
    _lists, answer = told
    assert not answer["tensorflow"]
    for (arguments, message), said in zip(WRONG, answer["said"]):
        assert said is not None, arguments
        assert message in said, (arguments, said)
        assert "\n" not in said


def test_every_integer_flag_has_a_largest_value(told):
    _lists, answer = told
    assert set(INTEGERS) == {
        name for name in answer["flags"] if isinstance(_default(answer, name), int)
    } | {"shuffle_seed", "global_batch_size", "warmup_steps", "decay_start_step", "decay_steps",
         "eval_interval", "print_interval"}  # fmt: skip
    begin = len(WRONG)
    for name, said in zip(INTEGERS, answer["said"][begin : begin + len(INTEGERS)]):
        assert said is not None, name
        assert f"--{name}={HUGE}: " in said


def _default(answer, name):
    value = answer["defaults"][name]
    return None if isinstance(value, bool) else value


def test_flags_of_other_trainers_get_the_right_hint(told):
    _lists, answer = told
    begin = len(WRONG) + len(INTEGERS)
    for (name, ours), said in zip(NAMES.items(), answer["said"][begin:]):
        assert said.startswith(f"unknown flag --{_spelled(name)}; did you mean --{ours}"), said
        assert ours.partition("=")[0] in answer["flags"]
    for (name, why), said in zip(WITHOUT.items(), answer["said"][begin + len(NAMES) :]):
        assert said.startswith(f"unknown flag --{_spelled(name)} of another trainer: "), said
        assert why in said
    assert not set(WITHOUT) & set(NAMES)
    assert not (set(WITHOUT) | set(NAMES)) & set(answer["flags"])


def test_hinted_values_are_values_of_the_flag(told):
    _lists, answer = told
    for ours, said in zip(NAMES.values(), answer["said"][-len(NAMES) :]):
        if "=" in ours:
            # Whatever else is missing, it is not the value that is wrong.
            assert said is None or not said.startswith(f"flag --{ours}"), said


def test_hints_name_flags_that_exist(told):
    _, answer = told
    for why in WITHOUT.values():
        named = set(re.findall(r"--(\w+)", why)) - {"max_table_rows"}
        assert named <= set(answer["flags"]), why


@pytest.mark.parametrize("seed", range(3))
def test_parsers_of_texts_accept_what_they_print(seed):
    random.seed(seed)
    widths = [random.randint(1, 1 << 20) for _ in range(random.randint(1, 9))]
    assert read_widths("top_mlp", ",".join(map(str, widths))) == tuple(widths)
    assert read_widths("top_mlp", json.dumps(widths)) == tuple(widths)
    first = random.randint(1, 10**6)
    assert read_steps(f"{first}-{first + 7}") == (first, first + 7)
    assert read_interval(str(first)) == (first, None)
    assert read_interval(f"{first}min") == (None, float(first))
    assert read_interval("0") == (None, None)
    assert read_bytes("memory_per_rank", f"{first} KiB") == first << 10
    assert read_bytes("memory_per_rank", "1.5G") == 3 << 29
