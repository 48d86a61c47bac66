"""The configuration: its settings, the flags made of them, and what replaces a value."""

import dataclasses
import importlib.util
import json
import random
import re
import subprocess
import sys
import typing

import pytest

from model.embedding.backend import BACKENDS
from tests.support.paths import ROOT
from training import cli, config_checks
from training.checkpoint.compatibility import with_model_of
from training.config import GROUPS, SETTINGS, Config, DataConfig
from training.evaluation import METRICS
from training.runtime.errors import UserError
from training.setting import setting, settings_of

TRAIN = {"use_synthetic_dataset": True, "vocab_sizes": "30,20", "global_batch_size": 8}


def test_each_setting_is_in_one_group():
    count = sum(len(dataclasses.fields(group)) for group in GROUPS.values())
    assert count == len(SETTINGS) == len(Config().flags())
    assert list(Config().flags()) == list(SETTINGS)


def test_defaults_are_values_that_their_settings_allow():
    for name, found in SETTINGS.items():
        value = Config().flags()[name]
        assert value == found.default
        if value is not None:
            assert type(value) is found.kind, name
            assert not found.choices or value in found.choices, name
            assert found.minimum is None or value >= found.minimum, name
            assert found.maximum is None or value <= found.maximum, name
        assert found.help
        assert not found.help.endswith("."), name


def test_choices_are_what_the_program_has():
    assert set(SETTINGS["auc"].choices) == set(METRICS)
    assert set(SETTINGS["embedding_backend"].choices) == set(BACKENDS)
    for mode in SETTINGS["mode"].choices:
        assert importlib.util.find_spec(f"training.modes.{mode}") is not None


def test_configuration_cannot_be_assigned_to():
    config = Config()
    for section in GROUPS:
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(config, section, None)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.training.global_batch_size = 8


def test_with_values_changes_these_alone():
    before = Config(given=frozenset({"lr"}))
    after = before.with_values(global_batch_size=64, top_mlp="8,1", data_dir="x")
    assert before == Config(given=frozenset({"lr"}))
    assert after.given == {"lr"}
    changed = {n: v for n, v in after.flags().items() if v != before.flags()[n]}
    assert changed == {"global_batch_size": 64, "top_mlp": "8,1", "data_dir": "x"}
    with pytest.raises(KeyError, match="tpo_mlp"):
        before.with_values(tpo_mlp="8,1")


def test_unknown_type_is_refused():
    @dataclasses.dataclass(frozen=True)
    class Group:
        sizes: bytes = setting(b"", "sizes")

    with pytest.raises(TypeError, match=r"Group.sizes: expected bool, int, float or str"):
        settings_of(Group, "group")


def test_a_field_is_a_flag():
    """Every setting, given as a flag with a random value that it allows, arrives as that value."""
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")
    generator = random.Random(seed)
    values = cli._flag_values()
    arguments, expected = ["main.py"], {}
    for name, found in SETTINGS.items():
        if found.choices:
            value = generator.choice(found.choices)
        elif found.kind is bool:
            value = generator.random() < 0.5
        elif found.kind is str:
            value = f"word-{generator.randrange(100)}"
        else:
            most = 1000 if found.maximum is None else found.maximum
            value = found.kind(generator.uniform(found.minimum or 0, most))
        expected[name] = value
        arguments.append(
            f"--{'' if value else 'no'}{name}" if found.kind is bool else f"--{name}={value!s}"
        )
    assert values(arguments) == ["main.py"]
    assert {name: values[name].value for name in SETTINGS} == expected


def test_parsing_leaves_nothing_behind():
    common = ["main.py", "--use_synthetic_dataset", "--global_batch_size=8"]
    first = cli.parse([*common, "--lr=3", "--nooverlap"])
    second = cli.parse(common)
    assert (first.training.lr, first.speed.overlap) == (3.0, False)
    assert (second.training.lr, second.speed.overlap) == (None, True)
    assert first.given == {"use_synthetic_dataset", "global_batch_size", "lr", "overlap"}
    assert second.given == {"use_synthetic_dataset", "global_batch_size"}


def test_texts_are_parsed_into_values():
    config = Config().with_values(
        bottom_mlp="16, 8", top_mlp="[4,1]", memory_per_rank="2KiB", checkpoint_interval="90min",
        profile_steps="3-5", loss_scale="8", batch_sizes="1,2", vocab_sizes="7,9",
    )  # fmt: skip
    assert config.model.bottom_widths == (16, 8)
    assert config.model.top_widths == (4, 1)
    assert config.placement.memory_bytes == 2048
    assert config.checkpoint.interval == (None, 90.0)
    assert config.output.profiled_steps == (3, 5)
    assert config.speed.loss_factor == 8.0
    assert config.job.global_batch_sizes == (1, 2)
    assert config.data.table_sizes("mlperf") == (7, 9)
    assert len(DataConfig().table_sizes("mlperf")) == 26
    assert (Config().placement.memory_bytes, Config().output.profiled_steps) == (None, None)
    # What is recorded are the texts.
    assert json.loads(json.dumps(config.flags()))["memory_per_rank"] == "2KiB"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({}, None),
        ({"global_batch_size": None}, "--global_batch_size is required"),
        ({"lr": float("nan")}, "--lr=nan: expected a finite number"),
        ({"epochs": 2**31}, "--epochs=2147483648: expected at most 2147483647"),
        ({"seed": 2**63 - 1}, None),
        ({"run_dir": ""}, "--run_dir= is empty: expected a path"),
        ({"restore": "gs://x"}, "--restore=gs://x: only local paths"),
        ({"mlp": "fused", "xla": True}, "--mlp=fused goes past XLA"),
        ({"embedding_lr": 1.0, "lr": 0.0}, "nothing would move"),
        ({"top_mlp": "4,2"}, "--top_mlp=4,2 ends in 2"),
        ({"mode": "export"}, "--export_dir is required"),
        ({"mode": "evaluate"}, "--mode=evaluate needs a checkpoint"),
        ({"mode": "evaluate", "restore": "x"}, "random batches have no score"),
        ({"mode": "inference_benchmark"}, "--global_batch_size has no effect"),
    ],
)
def test_checks_need_no_command_line(changed, message):
    config = Config().with_values(**{**TRAIN, **changed})
    if message is None:
        config_checks.check(config)
        return
    with pytest.raises(UserError, match=re.escape(message)):
        config_checks.check(config)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("keep", "--keep has no effect without --checkpoint_dir"),
        ("ranks", "--ranks only goes with --mode=plan"),
        ("mlperf_org", "--mlperf_org only goes with --mlperf_log=FILE"),
        ("batch_sizes", "--batch_sizes only goes with --mode=inference_benchmark"),
    ],
)
def test_a_given_setting_without_effect_is_refused_even_at_its_default(given, message):
    config = dataclasses.replace(Config().with_values(**TRAIN), given=frozenset({given}))
    with pytest.raises(UserError, match=message):
        config_checks.check(config)


def test_a_mode_completes_the_configuration():
    plan = config_checks.complete(Config().with_values(mode="plan"))
    assert plan.training.global_batch_size == 65536
    given = Config().with_values(mode="plan", global_batch_size=64)
    assert config_checks.complete(given) == given
    latency = config_checks.complete(Config().with_values(mode="inference_benchmark"))
    assert latency.data.use_synthetic_dataset
    assert config_checks.complete(Config()) == Config()


class _Reader(typing.NamedTuple):
    manifest: dict


def test_a_checkpoints_model_replaces_what_the_user_has_not_given():
    written = {"embedding_dim": 4, "bottom_mlp": "4", "top_mlp": "2,1", "lr": 7.0}
    config = dataclasses.replace(
        Config().with_values(embedding_optimizer="adagrad", top_mlp="8,1"),
        given=frozenset({"top_mlp"}),
    )
    found = with_model_of(config, _Reader({"flags": written}))
    changed = {n: v for n, v in found.flags().items() if v != config.flags()[n]}
    assert changed == {"embedding_dim": 4, "bottom_mlp": "4", "embedding_optimizer": "sgd"}
    assert found.model.top_mlp == "8,1"


def test_neither_tensorflow_nor_absl_is_imported():
    code = (
        "import sys; from training import config, config_checks; c = config.Config(); "
        "config_checks.complete(c); loaded = {'tensorflow', 'absl', 'horovod'} & set(sys.modules); "
        "sys.exit(str(loaded) if loaded else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_absl_is_imported_in_one_file():
    """So no other module reads a flag."""
    root = ROOT
    rooms = ("benchmarks", "dataset", "deploy", "model", "ops", "planner", "storage", "training")
    files = [*root.glob("*.py"), *(f for room in rooms for f in (root / room).rglob("*.py"))]
    assert len(files) > 200
    found = [
        str(file.relative_to(root))
        for file in files
        if re.search(r"^\s*(from|import) absl", file.read_text(), re.MULTILINE)
    ]
    assert found == ["training/cli.py"]
