"""The command line: values of flags, aliases, --help, and hints for flags of other trainers."""

import re

import pytest

from dataset.layouts import LAYOUTS
from training import cli
from training.config import SETTINGS
from training.foreign_flags import NAMES, WITHOUT, advice
from training.runtime.errors import UserError

REQUIRED = ["main.py", "--use_synthetic_dataset", "--vocab_sizes=30,20", "--global_batch_size=8"]
HUGE = "9" * 20
EVALUATE = "--mode=evaluate --restore=x"
ROWWISE = "--column_split --embedding_optimizer=rowwise_adagrad"
# {flag: command lines whose error names it}. Those that begin with --data_dir, --mode or
# --global_batch_size are complete, others are added to REQUIRED.
_WRONG = {
    "ablation": ["--ablation=no_interaction --interaction=cat",
                 "--ablation=no_interaction --interaction=dot"],
    "amp_dtype": ["--amp_dtype=float16"],
    "applied_transform": ["--applied_transform=none",
                          "--mode=plan --data_dir=x --applied_transform=none",
                          "--mode=inference_benchmark --applied_transform=none"],
    # A given setting without effect is an error also at its default.
    "batch_sizes": ["--batch_sizes=8,x", "--batch_sizes=1,64,4096,65536"],
    "bottom_mlp": ["--bottom_mlp=128,,128", "--bottom_mlp=true,128", "--embedding_dim=64"],
    "checkpoint_dir": ["--checkpoint_dir="],
    "checkpoint_interval": ["--checkpoint_dir=x --checkpoint_interval=soon",
                            f"--checkpoint_dir=x --checkpoint_interval={'9' * 5000}",
                            "--checkpoint_interval=9"],
    "column_split": [ROWWISE, f"--mode=plan {ROWWISE}"],
    "cross_layers": ["--cross_layers=2", "--cross_layers=3", "--interaction=cat --cross_layers=2",
                     "--mode=plan --cross_layers=2", "--interaction=cross --cross_layers=0",
                     "--interaction=cross --cross_layers=257"],
    "cross_rank": ["--cross_rank=0", "--interaction=cross --cross_rank=-1",
                   "--interaction=cross --cross_rank=1048577"],
    "custom_interact": ["--interaction=cat --custom_interact",
                        "--interaction=cross --custom_interact",
                        "--interaction=none --custom_interact",
                        "--mode=plan --interaction=cat --custom_interact"],
    "data_dir": ["--global_batch_size=64"],
    "data_layout": ["--data_layout=parquet"],
    "dedup_ids": ["--dedup_ids --nocompress"],
    "device": ["--device=h100-80gb"],
    "early_stop": ["--early_stop=0", "--early_stop=-2"],
    "embedding_lr": ["--embedding_lr=1 --lr=0"],
    "embedding_optimizer_options": [
        "--embedding_optimizer_options=epsilon=1",
        "--embedding_optimizer=ftrl --embedding_optimizer_options=l1=-1"],
    "optimizer_options": [
        "--optimizer_options=epsilon=1",
        "--optimizer=adagrad --optimizer_options=beta1=0.5",
        "--optimizer=adagrad --optimizer_options=epsilon=0",
        "--optimizer=adam --optimizer_options=beta2=1"],
    "embedding_stream": [f"{EVALUATE} --data_dir=x --embedding_stream",
                         "--embedding_stream --step_breakdown"],
    "export_dir": ["--mode=export --restore=x", "--export_dir=x"],
    "flagfile": ["--flagfile=missing", "--flagfile=docs/report.png"],
    "global_batch_size": ["--data_dir=x", "--mode=inference_benchmark --global_batch_size=8"],
    "interaction": ["--interaction=fm"],
    "keep": ["--keep=2"],
    "loss_scale": [f"--loss_scale={text}" for text in ("big", "1e39", "0.5", "inf", "nan", "")],
    "memory_per_rank": ["--memory_per_rank=lots", f"--memory_per_rank={'9' * 400}"],
    "hotness": ["--hotness=1,,2", "--hotness=0,1", "--hotness=1,2,3", "--hotness=",
                "--hotness=docs", f"--hotness=1,{HUGE}",
                "--data_dir=x --global_batch_size=8 --hotness=2,3"],
    "multi_hot": ["--multi_hot=2,3",
                  "--mode=plan --vocab_sizes=3,4 --hotness=1,2 --multi_hot=1,2",
                  "--data_dir=x --global_batch_size=8 --multi_hot=2,,3"],
    "mlp": ["--mlp=fused --xla"],
    "mlperf_log": [f"{EVALUATE} --data_dir=x --mlperf_log=y", "--mlperf_log=y"],
    "mlperf_org": ["--mlperf_org=unnamed"],
    "noamp": ["--noamp="],
    "nooverlap": ["--nooverlap=true"],
    "noxla": ["--noxla=3"],
    "placement": ["--placement=rows"],
    "profile_steps": ["--profile_steps=9", "--profile_steps=0-3", "--profile_steps=9-3",
                      f"--profile_steps=1-{HUGE}"],
    "ranks": ["--ranks=1"],
    "restore": ["--mode=evaluate --data_dir=x", "--mode=export --export_dir=x", "--restore=",
                f"{EVALUATE} --data_dir=x --checkpoint_dir=y"],
    "run_dir": ["--run_dir=", f"--run_dir={'x' * 70_000}"],
    "step_breakdown": [f"{EVALUATE} --data_dir=x --step_breakdown"],
    "tf32": ["--amp --tf32", "--amp --notf32", "--mode=plan --amp --notf32"],
    "top_mlp": ["--top_mlp=2097152,1", "--top_mlp=8,2", "--top_mlp=8,x"],
    "use_splited_dataset": ["--use_splited_dataset --data_layout=raw"],
    "use_synthetic_dataset": [f"{EVALUATE} --use_synthetic_dataset"],
    "vocab_sizes": ["--vocab_sizes=1,,2", "--vocab_sizes=1,2,", f"--vocab_sizes=7,{HUGE}",
                    f"--vocab_sizes={'9,' * 40_000}9", "--vocab_sizes=0", "--vocab_sizes=docs",
                    "--vocab_sizes=README.md",
                    "--data_dir=x --global_batch_size=8 --vocab_sizes=3,4"],
}  # fmt: skip
# (command line, flag)
WRONG = [
    ([*(REQUIRED[:1] if re.match("--(data_dir|mode|global)", line) else REQUIRED), *line.split()],
     flag)
    for flag, lines in _WRONG.items() for line in lines
]  # fmt: skip


def refused(arguments):
    """Returns the error of a command line; it is one line."""
    with pytest.raises(UserError) as caught:
        cli.parse(arguments)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000
    return caught.value


@pytest.mark.parametrize(("arguments", "flag"), WRONG)
def test_wrong_value_is_an_error_of_its_flag(arguments, flag):
    error = refused(arguments)
    assert error.flag == flag
    assert f"--{flag}" in str(error)


NO_NUMBER = ("", "abc", "nan", "1e400", "1,,2", "5 6")
# {type: values that no flag of this type accepts}
NO_VALUE = {int: (*NO_NUMBER, "1.5", HUGE), float: NO_NUMBER,
            bool: ("maybe", "3", ""), "choice": ("", "nonsense")}  # fmt: skip


@pytest.mark.parametrize("name", [n for n, s in SETTINGS.items() if s.choices or s.kind is not str])
def test_value_of_another_type_is_refused(name):
    found = SETTINGS[name]
    needed = {"ranks": ["--mode=plan"], "keep": ["--checkpoint_dir=x"]}.get(name, [])
    for value in NO_VALUE["choice" if found.choices else found.kind]:
        assert refused([*REQUIRED, *needed, f"--{name}={value}"]).flag == name, value
    if found.kind is bool:
        assert refused([*REQUIRED, f"--no{name}=3"]).flag in (name, f"no{name}")


@pytest.mark.parametrize("name", [n for n, s in SETTINGS.items() if s.kind in (int, float)])
def test_extreme_number_is_refused_with_its_flag_or_accepted(name):
    for value in ("-1", "0", "2147483648"):
        try:
            config = cli.parse([*REQUIRED, f"--{name}={value}"])
        except UserError as error:
            # A schedule's limits concern several flags.
            assert error.flag == name or (error.flag is None and f"--{name}" in str(error))
        else:
            assert config.flags()[name] == float(value)


@pytest.mark.parametrize(
    "arguments", [["--warmup_steps=9", "--decay_start_step=3"], ["--end_lr=7", "--lr=1"]]
)
def test_contradicting_schedule_is_an_error(arguments):
    text = str(refused([*REQUIRED, *arguments]))
    for argument in arguments:
        assert argument.split("=")[0] in text


@pytest.mark.parametrize("name", [name for name in SETTINGS if SETTINGS[name].path])
def test_address_is_no_path(name):
    for address in ("gs://bucket/data", "file:///data"):
        error = refused(["main.py", "--global_batch_size=8", f"--{name}={address}"])
        assert (error.flag, error.path) == (name, address)


def test_stray_argument_is_named():
    assert "stray" in str(refused([*REQUIRED, "stray"]))


def test_every_setting_is_a_flag(rng):
    values = cli._flag_values()
    arguments, expected = ["main.py"], {}
    for name, found in SETTINGS.items():
        if found.choices:
            value = str(rng.choice(found.choices))
        elif found.kind is bool:
            value = bool(rng.random() < 0.5)
        elif found.kind is str:
            value = f"word-{rng.integers(100)}"
        else:
            most = 1000 if found.maximum is None else found.maximum
            value = found.kind(rng.uniform(found.minimum or 0, most))
        expected[name] = value
        arguments.append(
            f"--{'' if value else 'no'}{name}" if found.kind is bool else f"--{name}={value!s}"
        )
    assert values(arguments) == ["main.py"]
    assert {name: values[name].value for name in SETTINGS} == expected


def test_parse_keeps_no_state():
    common = ["main.py", "--use_synthetic_dataset", "--global_batch_size=8"]
    first = cli.parse([*common, "--lr=3", "--nooverlap", f"--seed={2**63 - 1}"])
    second = cli.parse(common)
    assert (first.training.lr, first.speed.overlap) == (3.0, False)
    assert (second.training.lr, second.speed.overlap) == (None, True)
    assert first.given == {"use_synthetic_dataset", "global_batch_size", "lr", "overlap", "seed"}
    assert second.given == {"use_synthetic_dataset", "global_batch_size"}


@pytest.mark.parametrize("words", [["dedup_ids"], ["compress"], ["compress", "dedup_ids"]])
def test_alias_sets_the_flag(words):
    config = cli.parse([*REQUIRED, *(f"--{word}" for word in words)])
    assert config.flags()["dedup_ids"]
    assert "dedup_ids" in config.given
    assert not cli.parse([*REQUIRED, *(f"--no{word}" for word in words)]).speed.dedup_ids


def test_help_explains_every_flag():
    lines = cli.help_text().splitlines()
    assert max(map(len, lines)) <= 100
    for name, found in SETTINGS.items():
        (line,) = [line for line in lines if re.match(rf"  --{name}\b", line)]
        assert not found.alias or f"--{found.alias}" in line
        if found.default is None:
            assert "default" in found.help.lower() or "required" in found.help, name
    assert all(layout in SETTINGS["data_layout"].help for layout in LAYOUTS)
    assert lines[lines.index("  --auc [exact]") + 1] == "      one of exact, binned"
    assert "  --stall_timeout [60] (seconds)" in lines


def test_flag_of_another_trainer_gets_the_hint(rng):
    known = {*SETTINGS, *(found.alias for found in SETTINGS.values())}
    assert len({*NAMES, *WITHOUT, *known}) == len(NAMES) + len(WITHOUT) + len(known)
    for name in [*NAMES, *WITHOUT]:
        spelled = name if rng.random() < 0.5 else name.replace("_", "-")
        hint = advice(spelled, list(SETTINGS), ["xla"])
        assert (f"--{NAMES[name]}" if name in NAMES else WITHOUT[name]) in hint
        assert set(re.findall(r"--(\w+)", hint)) <= known | {"max_table_rows"}, name


def test_hinted_value_is_valid():
    for ours in NAMES.values():
        name, _, value = ours.partition("=")
        if value and SETTINGS[name].choices:
            assert value in SETTINGS[name].choices
        elif value:
            adagrad = ["--embedding_optimizer=adagrad"] * (name == "embedding_optimizer_options")
            cli.parse([*REQUIRED, *adagrad, f"--{ours}"])


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("no_xla", "mean --noxla?"),
        ("Global-Batch-Size", "mean --global_batch_size?"),
        ("globl_batch_size", "mean --global_batch_size?"),
        ("arch-mlp-top", "mean --top_mlp "),
        ("qqqq", "--qqqq (--help"),
    ],
)
def test_unknown_flag_gets_a_hint(name, hint):
    error = refused([*REQUIRED, f"--{name}=64"])
    assert error.flag == name
    assert hint in str(error)
