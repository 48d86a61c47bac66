"""What main.py's command line refuses before it imports TensorFlow: the error names the flag."""

import pytest

from dataset.layouts import LAYOUTS
from training import cli
from training.config import SETTINGS
from training.runtime.errors import UserError

# No number, and no list of numbers.
NO_NUMBER = ("", "abc", "nan", "1e400", "1,,2", "5 6")
# Values that some numbers may have.
EXTREME = ("-1", "0", "2147483648", "99999999999999999999")
WRONG = {"int": (*NO_NUMBER, "1.5"), "float": NO_NUMBER, "bool": ("maybe", "3", ""),
         "choice": ("", "nonsense")}  # fmt: skip
DATA = ("--data_dir=x", "--global_batch_size=8")
SYNTHETIC = ("--use_synthetic_dataset", "--vocab_sizes=30,20", "--global_batch_size=8")


def kind_of(setting):
    """Returns a key of `WRONG`, or "str"."""
    return "choice" if setting.choices else setting.kind.__name__


def refused(*arguments):
    """Returns the error that the arguments end in."""
    with pytest.raises(UserError) as raised:
        cli.parse(["main.py", *arguments])
    assert "\n" not in str(raised.value)
    return raised.value


@pytest.mark.parametrize("name", [name for name in SETTINGS if kind_of(SETTINGS[name]) != "str"])
def test_wrong_value_is_refused(name):
    kind = kind_of(SETTINGS[name])
    for value in WRONG[kind]:
        assert refused(*DATA, f"--{name}={value}").flag == name, value
    if kind == "bool":
        assert refused(*DATA, f"--no{name}=3").flag in (name, f"no{name}")


@pytest.mark.parametrize(
    "name", [name for name in SETTINGS if kind_of(SETTINGS[name]) in ("int", "float")]
)
def test_extreme_number_is_refused_with_its_flag_or_accepted(name):
    for value in EXTREME:
        try:
            config = cli.parse(["main.py", *DATA, f"--{name}={value}"])
        except UserError as error:
            # A schedule's limits concern several flags.
            assert error.flag == name or (error.flag is None and f"--{name}" in str(error))
        else:
            assert config.flags()[name] == float(value)


@pytest.mark.parametrize(
    ("arguments", "flag"),
    [
        (["--data_dir=x"], "global_batch_size"),
        (["--global_batch_size=64"], "data_dir"),
        (["--flagfile=missing"], "flagfile"),
        (["--flagfile=docs/report.png"], "flagfile"),
        ([*SYNTHETIC, "--keep=3"], "keep"),
        ([*SYNTHETIC, "--checkpoint_interval=9"], "checkpoint_interval"),
        ([*SYNTHETIC, "--checkpoint_dir=x", "--checkpoint_interval=soon"], "checkpoint_interval"),
        (["--mode=inference_benchmark", "--step_breakdown"], "step_breakdown"),
        ([*DATA, "--early_stop=0"], "early_stop"),
        ([*DATA, "--top_mlp=8,2"], "top_mlp"),
        ([*DATA, "--top_mlp=8,x"], "top_mlp"),
        ([*SYNTHETIC, "--bottom_mlp=true,128"], "bottom_mlp"),
        ([*DATA, "--embedding_dim=64"], "bottom_mlp"),
        ([*DATA, "--vocab_sizes=3,4"], "vocab_sizes"),
        ([*SYNTHETIC, "--ranks=8"], "ranks"),
        ([*SYNTHETIC, "--device=h100-80gb"], "device"),
        ([*SYNTHETIC, "--checkpoint_dir="], "checkpoint_dir"),
        ([*SYNTHETIC, "--restore="], "restore"),
        ([*SYNTHETIC, "--run_dir="], "run_dir"),
        ([*SYNTHETIC, "--column_split", "--embedding_optimizer=rowwise_adagrad"], "column_split"),
        (["--mode=plan", "--column_split", "--embedding_optimizer=rowwise_adagrad"],
         "column_split"),
        ([*SYNTHETIC, "--embedding_optimizer_options=l1=1"], "embedding_optimizer_options"),
        ([*SYNTHETIC, "--embedding_optimizer=ftrl", "--embedding_optimizer_options=l1=-1"],
         "embedding_optimizer_options"),
        ([*SYNTHETIC, "--applied_transform=none"], "applied_transform"),
        (["--mode=plan", "--data_dir=x", "--applied_transform=none"], "applied_transform"),
        (["--mode=inference_benchmark", "--applied_transform=none"], "applied_transform"),
    ],
)  # fmt: skip
def test_flag_without_effect_or_sense_is_named(arguments, flag):
    assert refused(*arguments).flag == flag


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("globl_batch_size", "--global_batch_size"),
        ("max_steps", "--early_stop"),
        ("qqqq", "--help"),
    ],
)
def test_unknown_flag_is_answered_with_the_nearest(name, hint):
    error = refused(f"--{name}=64")
    assert error.flag == name
    assert hint in str(error)


def test_stray_argument_is_named():
    assert refused(*DATA, "stray").found == ["stray"]


@pytest.mark.parametrize("address", ["gs://bucket/data", "file:///data"])
@pytest.mark.parametrize("name", [name for name in SETTINGS if SETTINGS[name].path])
def test_address_is_no_path(tmp_path, monkeypatch, name, address):
    monkeypatch.chdir(tmp_path)
    error = refused("--global_batch_size=8", f"--{name}={address}")
    assert (error.flag, error.path) == (name, address)
    assert list(tmp_path.iterdir()) == []


def test_help_explains_every_flag():
    lines = cli.help_text().splitlines()
    assert max(map(len, lines)) <= 100
    for name, found in SETTINGS.items():
        assert sum(line.startswith(f"  --{name}") and line.split()[0] == f"--{name}"
                   for line in lines) == 1  # fmt: skip
        if found.default is None:
            assert "default" in found.help.lower() or "required" in found.help, name
    assert all(layout in SETTINGS["data_layout"].help for layout in LAYOUTS)
    at = lines.index("  --auc [exact]")
    assert lines[at + 1] == "      one of exact, binned"
    assert "  --stall_timeout [60] (seconds)" in lines
