"""The configuration: settings, their defaults and choices, and values that follow from others."""

import dataclasses
import importlib.util
import json
import types

import pytest

from model.embedding.backend import BACKENDS
from training import config_checks
from training.checkpoint.compatibility import with_model_of
from training.config import GROUPS, SETTINGS, Config, DataConfig
from training.evaluation import METRICS
from training.flag_values import read_interval
from training.setting import setting, settings_of


def test_every_setting_is_in_one_group():
    count = sum(len(dataclasses.fields(group)) for group in GROUPS.values())
    assert count == len(SETTINGS)
    assert list(Config().flags()) == list(SETTINGS)


def test_defaults_are_allowed_values():
    for name, found in SETTINGS.items():
        value = Config().flags()[name]
        if value is not None:
            assert type(value) is found.kind, name
            assert not found.choices or value in found.choices, name
            assert found.minimum is None or value >= found.minimum, name
            assert found.maximum is None or value <= found.maximum, name


def test_choices_equal_the_implementations():
    assert set(SETTINGS["auc"].choices) == set(METRICS)
    assert set(SETTINGS["embedding_backend"].choices) == set(BACKENDS)
    for mode in SETTINGS["mode"].choices:
        assert importlib.util.find_spec(f"training.modes.{mode}") is not None


def changes(before, after):
    return {name: value for name, value in after.flags().items() if value != before.flags()[name]}


def test_with_values_changes_only_the_given_values():
    before = Config(given=frozenset({"lr"}))
    wanted = {"global_batch_size": 64, "top_mlp": "8,1", "data_dir": "x"}
    after = before.with_values(**wanted)
    assert before == Config(given=frozenset({"lr"}))
    assert after.given == {"lr"}
    assert changes(before, after) == wanted
    with pytest.raises(KeyError):
        before.with_values(tpo_mlp="8,1")


def test_settings_of_refuses_an_unknown_type():
    @dataclasses.dataclass(frozen=True)
    class Group:
        sizes: bytes = setting(b"", "sizes")

    with pytest.raises(TypeError, match=r"Group\.sizes.*bytes"):
        settings_of(Group, "group")


def test_properties_parse_the_texts():
    config = Config().with_values(
        bottom_mlp="16, 8", top_mlp="[4,1]", memory_per_rank="2KiB", checkpoint_interval="90min",
        profile_steps="3-5", loss_scale="8", batch_sizes="1,2", vocab_sizes="7,9",
    )  # fmt: skip
    assert config.model.bottom_widths == (16, 8)
    assert config.model.top_widths == (4, 1)
    assert config.placement.memory_bytes == 2048
    assert config.checkpoint.interval == (None, 90.0)
    assert (read_interval("7"), read_interval("0")) == ((7, None), (None, None))
    assert config.output.profiled_steps == (3, 5)
    assert config.speed.loss_factor == 8.0
    assert config.job.global_batch_sizes == (1, 2)
    assert config.data.table_sizes("mlperf") == (7, 9)
    assert len(DataConfig().table_sizes("mlperf")) == 26
    assert DataConfig().ids_per_sample("hotness", 3) == (1, 1, 1)
    assert DataConfig(hotness="2,5").ids_per_sample("hotness", 2) == (2, 5)
    assert (Config().placement.memory_bytes, Config().output.profiled_steps) == (None, None)
    # Journals and checkpoints record the texts.
    assert json.loads(json.dumps(config.flags()))["memory_per_rank"] == "2KiB"


def test_complete_adds_the_defaults_of_the_mode():
    plan = config_checks.complete(Config().with_values(mode="plan"))
    assert plan.training.global_batch_size == 65536
    given = Config().with_values(mode="plan", global_batch_size=64)
    assert config_checks.complete(given) == given
    latency = config_checks.complete(Config().with_values(mode="inference_benchmark"))
    assert latency.data.use_synthetic_dataset
    assert config_checks.complete(Config()) == Config()


def test_checkpoint_replaces_model_flags_that_are_not_given():
    written = {"embedding_dim": 4, "bottom_mlp": "4", "top_mlp": "2,1", "lr": 7.0}
    config = dataclasses.replace(
        Config().with_values(embedding_optimizer="adagrad", top_mlp="8,1"),
        given=frozenset({"top_mlp"}),
    )
    found = with_model_of(config, types.SimpleNamespace(manifest={"flags": written}))
    expected = {"embedding_dim": 4, "bottom_mlp": "4", "embedding_optimizer": "sgd"}
    assert changes(config, found) == expected
    assert found.model.top_mlp == "8,1"
