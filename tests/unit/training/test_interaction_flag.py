"""--interaction, its old spelling, and checkpoints from before it."""

import re
import types

import pytest

from planner.workload import ModelShape
from tests.support import launch
from tests.unit.test_migrating import parse as parse_all
from training import cli
from training.checkpoint.compatibility import check, model_flags, with_model_of
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
        # The full model's command with the interaction cut out.
        (["--custom_interact", "--ablation=no_interaction"], "none", False),
    ],
)
def test_old_and_new_spelling_give_one_interaction(arguments, interaction, custom):
    config = parse(*arguments)
    assert (config.model.interaction, config.speed.custom_interact) == (interaction, custom)
    frozen = "--ablation=frozen_embeddings" in arguments
    assert config.model.ablation == ("frozen_embeddings" if frozen else "none")


WRONG = [
    (["--interaction=fm"], "--interaction=fm: value should be one of <dot|cat|none>"),
    (
        ["--ablation=no_interaction", "--interaction=cat"],
        "--ablation=no_interaction, an old spelling of --interaction=none, contradicts "
        "--interaction=cat: leave one of them out",
    ),
    (["--ablation=no_interaction", "--interaction=dot"], "contradicts --interaction=dot"),
    (
        ["--interaction=cat", "--custom_interact"],
        "--custom_interact: the interaction 'cat' has no native op, which dot has: leave the flag",
    ),
    (["--interaction=none", "--custom_interact"], "interaction 'none' has no native op"),
    (["--mode=plan", "--interaction=cat", "--custom_interact"], "'cat' has no native op"),
]


def test_wrong_values_are_refused_before_tensorflow_is_imported():
    answer = parse_all([[*REQUIRED[1:], *arguments] for arguments, _ in WRONG])
    assert not answer["tensorflow"]
    for (arguments, message), said in zip(WRONG, answer["said"]):
        assert said is not None, arguments
        assert message in said


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


def fits(written, config):
    job = {name: config.flags()[name] for name in ("interaction", "bottom_mlp")}
    check(reader_of(written), job, {}, (30, 20), resume=False, training=False)


@pytest.mark.parametrize(("written", "interaction"), CHECKPOINTS)
def test_a_checkpoints_interaction_is_adopted(written, interaction):
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
def test_a_given_interaction_must_be_the_checkpoints(written, interaction, given, wanted):
    config = with_model_of(parse(given), reader_of(written))
    assert config.model.interaction == wanted
    if wanted == interaction:
        fits(written, config)
    else:
        message = f"another model: --interaction was '{interaction}', is '{wanted}'"
        with pytest.raises(UserError, match=message):
            fits(written, config)


def test_custom_interact_needs_a_checkpoint_whose_interaction_has_the_op():
    config = parse("--custom_interact")
    with_model_of(config, reader_of(OLD))
    with pytest.raises(UserError, match="--custom_interact: the interaction 'none' has no native"):
        with_model_of(config, reader_of({**OLD, "ablation": "no_interaction"}))


@pytest.mark.parametrize(
    ("flag", "width"),
    [
        ("--interaction=dot", 480),
        ("--interaction=cat", 3456),
        ("--interaction=none", 480),
        ("--ablation=no_interaction", 480),
    ],
)
def test_a_plan_is_of_the_interaction(flag, width):
    done = launch.run(1, "main.py", "--mode=plan", "--vocab_sizes=mlperf", "--ranks=8", flag)
    assert done.returncode == 0, done.stderr
    assert f"and {width}-1024-1024-512-256-1" in done.stdout
    # Without products of pairs there is less arithmetic, but for the wider first layer of cat.
    found = re.search(r"MLP and interaction arithmetic +([\d.]+) GFLOP", done.stdout)
    flops = ModelShape((9,) * 26, interaction={480: "none", 3456: "cat"}[width]).mlp_flops
    flops += 2 * 2 * 27**2 * 128 * (flag == "--interaction=dot")
    assert float(found[1]) == pytest.approx(65536 / 8 * flops / 1e9, abs=0.06)
