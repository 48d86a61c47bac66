"""The configuration: settings, their flags, and the checks of values and combinations."""

import dataclasses
import importlib.util
import json
import typing

import pytest

from model.embedding.backend import BACKENDS
from training import cli, config_checks
from training.checkpoint.compatibility import with_model_of
from training.config import GROUPS, SETTINGS, Config, DataConfig
from training.evaluation import METRICS
from training.runtime.errors import UserError
from training.setting import setting, settings_of

TRAIN = {"use_synthetic_dataset": True, "vocab_sizes": "30,20", "global_batch_size": 8}


def test_every_setting_is_in_one_group():
    count = sum(len(dataclasses.fields(group)) for group in GROUPS.values())
    assert count == len(SETTINGS) == len(Config().flags())
    assert list(Config().flags()) == list(SETTINGS)


def test_defaults_are_allowed_values():
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


def test_choices_equal_the_implementations():
    assert set(SETTINGS["auc"].choices) == set(METRICS)
    assert set(SETTINGS["embedding_backend"].choices) == set(BACKENDS)
    for mode in SETTINGS["mode"].choices:
        assert importlib.util.find_spec(f"training.modes.{mode}") is not None


def test_configuration_is_immutable():
    config = Config()
    for section in GROUPS:
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(config, section, None)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.training.global_batch_size = 8


def test_with_values_changes_only_the_given_values():
    before = Config(given=frozenset({"lr"}))
    after = before.with_values(global_batch_size=64, top_mlp="8,1", data_dir="x")
    assert before == Config(given=frozenset({"lr"}))
    assert after.given == {"lr"}
    changed = {n: v for n, v in after.flags().items() if v != before.flags()[n]}
    assert changed == {"global_batch_size": 64, "top_mlp": "8,1", "data_dir": "x"}
    with pytest.raises(KeyError):
        before.with_values(tpo_mlp="8,1")


def test_settings_of_refuses_an_unknown_type():
    @dataclasses.dataclass(frozen=True)
    class Group:
        sizes: bytes = setting(b"", "sizes")

    with pytest.raises(TypeError, match=r"Group\.sizes.*bytes"):
        settings_of(Group, "group")


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
    first = cli.parse([*common, "--lr=3", "--nooverlap"])
    second = cli.parse(common)
    assert (first.training.lr, first.speed.overlap) == (3.0, False)
    assert (second.training.lr, second.speed.overlap) == (None, True)
    assert first.given == {"use_synthetic_dataset", "global_batch_size", "lr", "overlap"}
    assert second.given == {"use_synthetic_dataset", "global_batch_size"}


def test_properties_parse_the_texts():
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
    # Journals and checkpoints record the texts.
    assert json.loads(json.dumps(config.flags()))["memory_per_rank"] == "2KiB"


def error_of(config):
    with pytest.raises(UserError) as caught:
        config_checks.check(config)
    assert f"--{caught.value.flag}" in str(caught.value)
    return caught.value


@pytest.mark.parametrize("changed", [{}, {"seed": 2**63 - 1}])
def test_check_accepts(changed):
    config_checks.check(Config().with_values(**{**TRAIN, **changed}))


@pytest.mark.parametrize(
    ("changed", "fields"),
    [
        ({"global_batch_size": None}, {"flag": "global_batch_size"}),
        ({"use_synthetic_dataset": False, "vocab_sizes": None}, {"flag": "data_dir"}),
        ({"use_synthetic_dataset": False, "data_dir": "x"}, {"flag": "vocab_sizes"}),
        ({"lr": float("nan")}, {"flag": "lr"}),
        ({"epochs": 2**31}, {"flag": "epochs", "found": 2**31, "bound": 2**31 - 1}),
        ({"early_stop": 0}, {"flag": "early_stop", "found": 0}),
        ({"early_stop": -2}, {"flag": "early_stop", "found": -2}),
        ({"run_dir": ""}, {"flag": "run_dir"}),
        ({"restore": "gs://x"}, {"flag": "restore", "path": "gs://x"}),
        ({"run_dir": "x" * 70_000}, {"flag": "run_dir", "found": 70_000, "bound": 65536}),
        ({"mlp": "fused", "xla": True}, {"flag": "mlp"}),
        ({"embedding_lr": 1.0, "lr": 0.0}, {"flag": "embedding_lr"}),
        ({"top_mlp": "4,2"}, {"flag": "top_mlp", "expected": 1, "found": 2}),
        ({"bottom_mlp": "4,2"}, {"flag": "bottom_mlp", "expected": 128, "found": 2}),
        ({"applied_transform": "none"}, {"flag": "applied_transform"}),
        ({"column_split": True, "embedding_optimizer": "rowwise_adagrad"},
         {"flag": "column_split"}),
        ({"mode": "export"}, {"flag": "export_dir"}),
        ({"export_dir": "x"}, {"flag": "export_dir", "expected": "export", "found": "train"}),
        ({"mode": "export", "export_dir": "x"}, {"flag": "restore"}),
        ({"mode": "evaluate"}, {"flag": "restore"}),
        ({"mode": "evaluate", "restore": "x"}, {"flag": "use_synthetic_dataset"}),
        ({"mode": "evaluate", "restore": "x", "checkpoint_dir": "y"}, {"flag": "restore"}),
        ({"mode": "evaluate", "restore": "x", "step_breakdown": True},
         {"flag": "step_breakdown", "expected": "train", "found": "evaluate"}),
        ({"mode": "inference_benchmark"}, {"flag": "global_batch_size"}),
    ],
)  # fmt: skip
def test_check_refuses(changed, fields):
    error = error_of(Config().with_values(**{**TRAIN, **changed}))
    assert {name: getattr(error, name) for name in fields} == fields


@pytest.mark.parametrize("name", ["keep", "ranks", "mlperf_org", "batch_sizes"])
def test_check_refuses_a_given_setting_without_effect_even_at_its_default(name):
    config = dataclasses.replace(Config().with_values(**TRAIN), given=frozenset({name}))
    assert error_of(config).flag == name


def test_complete_adds_the_defaults_of_the_mode():
    plan = config_checks.complete(Config().with_values(mode="plan"))
    assert plan.training.global_batch_size == 65536
    given = Config().with_values(mode="plan", global_batch_size=64)
    assert config_checks.complete(given) == given
    latency = config_checks.complete(Config().with_values(mode="inference_benchmark"))
    assert latency.data.use_synthetic_dataset
    assert config_checks.complete(Config()) == Config()


class _Reader(typing.NamedTuple):
    manifest: dict


def test_checkpoint_replaces_model_flags_that_are_not_given():
    written = {"embedding_dim": 4, "bottom_mlp": "4", "top_mlp": "2,1", "lr": 7.0}
    config = dataclasses.replace(
        Config().with_values(embedding_optimizer="adagrad", top_mlp="8,1"),
        given=frozenset({"top_mlp"}),
    )
    found = with_model_of(config, _Reader({"flags": written}))
    changed = {n: v for n, v in found.flags().items() if v != config.flags()[n]}
    assert changed == {"embedding_dim": 4, "bottom_mlp": "4", "embedding_optimizer": "sgd"}
    assert found.model.top_mlp == "8,1"
