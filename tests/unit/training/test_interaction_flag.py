"""--interaction, its old name, and checkpoints that do not record it."""

import types

import pytest

from training import cli
from training.checkpoint.compatibility import check, model_flags, with_model_of
from training.modes import plan
from training.runtime.errors import UserError

REQUIRED = ("main.py", "--use_synthetic_dataset", "--vocab_sizes=30,20", "--global_batch_size=8")


def parse(*arguments):
    return cli.parse([*REQUIRED, *arguments])


@pytest.mark.parametrize(
    ("arguments", "interaction", "custom"),
    [
        ([], "dot", False),
        (["--custom_interact"], "dot", True),
        (["--interaction=cat"], "cat", False),
        (["--interaction=none", "--ablation=frozen_embeddings"], "none", False),
        (["--ablation=no_interaction"], "none", False),
        (["--ablation=no_interaction", "--interaction=none"], "none", False),
        # Added to the command of the full model.
        (["--custom_interact", "--ablation=no_interaction"], "none", False),
    ],
)
def test_old_and_new_flag_select_one_interaction(arguments, interaction, custom):
    config = parse(*arguments)
    assert (config.model.interaction, config.speed.custom_interact) == (interaction, custom)
    frozen = "--ablation=frozen_embeddings" in arguments
    assert config.model.ablation == ("frozen_embeddings" if frozen else "none")


OLD = {"embedding_dim": 128, "bottom_mlp": "128", "top_mlp": "1"}
# (flags of a checkpoint, its interaction)
CHECKPOINTS = [
    ({**OLD, "ablation": "none"}, "dot"),
    ({**OLD, "ablation": "no_interaction"}, "none"),
    ({**OLD, "ablation": "none", "interaction": "none"}, "none"),
    ({**OLD, "ablation": "frozen_embeddings", "interaction": "cat"}, "cat"),
    (OLD, "dot"),
]


def reader_of(written):
    manifest = {"vocab_sizes": [30, 20], "flags": written, "data": {}, "dense": {}}
    return types.SimpleNamespace(folder="CHECKPOINT", manifest=manifest)


_COMPARED = ("interaction", "cross_layers", "cross_rank", "bottom_mlp")


def fits(written, config):
    job = {name: config.flags()[name] for name in _COMPARED}
    check(reader_of(written), job, {}, (30, 20), resume=False, training=False)


@pytest.mark.parametrize(("written", "interaction"), CHECKPOINTS)
def test_interaction_of_the_checkpoint_is_the_default(written, interaction):
    assert model_flags(written)["interaction"] == interaction
    config = with_model_of(parse(), reader_of(written))
    assert config.model.interaction == interaction
    assert config.model.ablation in ("none", "frozen_embeddings")
    fits(written, config)


@pytest.mark.parametrize(("written", "interaction"), CHECKPOINTS)
@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("--interaction=dot", "dot"),
        ("--interaction=cat", "cat"),
        ("--interaction=none", "none"),
        ("--ablation=no_interaction", "none"),
    ],
)
def test_given_interaction_must_equal_the_checkpoint(written, interaction, given, wanted):
    config = with_model_of(parse(given), reader_of(written))
    assert config.model.interaction == wanted
    if wanted == interaction:
        fits(written, config)
    else:
        with pytest.raises(UserError) as caught:
            fits(written, config)
        for word in ("--interaction", interaction, wanted):
            assert word in str(caught.value)


def test_custom_interact_needs_a_checkpoint_with_a_native_interaction():
    config = parse("--custom_interact")
    with_model_of(config, reader_of(OLD))
    with pytest.raises(UserError) as caught:
        with_model_of(config, reader_of({**OLD, "ablation": "no_interaction"}))
    assert caught.value.flag == "custom_interact"


def test_cross_network_of_the_checkpoint_is_the_default():
    written = {**OLD, "interaction": "cross", "cross_layers": 2, "cross_rank": 0}
    config = with_model_of(parse(), reader_of(written))
    assert (config.model.cross_layers, config.model.cross_rank) == (2, 0)
    fits(written, config)


@pytest.mark.parametrize(
    ("given", "before", "now"), [("--cross_layers=4", 2, 4), ("--cross_rank=64", 16, 64)]
)
def test_another_cross_network_is_refused(given, before, now):
    written = {**OLD, "interaction": "cross", "cross_layers": 2, "cross_rank": 16}
    config = with_model_of(parse("--interaction=cross", given), reader_of(written))
    with pytest.raises(UserError) as caught:
        fits(written, config)
    flag = given.partition("=")[0]
    assert f"{flag} was {before}, is {now}" in str(caught.value)
    assert caught.value.flag == flag.removeprefix("--")


def test_plan_uses_the_interaction():
    words = ["main.py", "--mode=plan", "--vocab_sizes=mlperf"]
    for flag, name in (("--interaction=cat", "cat"), ("--ablation=no_interaction", "none")):
        assert plan.planned_run(cli.parse([*words, flag])).shape.interaction == name
    flags = ["--interaction=cross", "--cross_layers=2", "--cross_rank=0"]
    shape = plan.planned_run(cli.parse([*words, *flags])).shape
    assert (shape.cross_layers, shape.cross_rank) == (2, 0)
