"""The training step: traced once for all batches; planning ahead does not change results."""

import numpy as np
import pytest

from tests.support.training.small_model import VOCAB, batches, build, state, train


@pytest.mark.parametrize(("xla", "custom_interact"), [(False, False), (True, True)])
def test_step_is_traced_once_for_plans_of_any_size(xla, custom_interact, rng, seed):
    options = {"policy": "row", "compress": True, "xla": xla, "custom_interact": custom_interact}
    model, embedding, _, step = build(seed, **options)
    made = batches(12, rng)
    rows = [sum(len(np.unique(b["categorical"][:, t])) for t in range(len(VOCAB))) for b in made]
    assert len(set(rows)) > 2
    assert [int(embedding.plan_ids(b["categorical"]).ids.shape[0]) for b in made] == rows
    losses = train(step, made)
    assert np.isfinite(losses).all()
    assert step.traces() == 1
    compiled = [f for f in vars(model).values() if hasattr(f, "experimental_get_tracing_count")]
    assert len(compiled) == (1 + custom_interact) * xla
    assert all(f.experimental_get_tracing_count() == 1 for f in compiled)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"overlap": False},
        {"policy": "row", "compress": True, "embedding_optimizer": "adagrad"},
        {"optimizer": "adam", "embedding_optimizer": "ftrl"},
    ],
    ids=["default", "no overlap", "rows", "adam"],
)
def test_uploaded_batches_give_the_same_bytes(options, rng, seed):
    """Here the upload goes to memory of the CPU."""
    made, runs = batches(10, rng), []
    for device in (None, "GPU:0"):
        *owners, step = build(seed, device=device, **options)
        runs.append((train(step, made), state(*owners)))
        assert step.traces() == 1
    assert runs[0][0] == runs[1][0]
    for ours, expected in zip(runs[0][1], runs[1][1]):
        assert ours.tobytes() == expected.tobytes()


@pytest.mark.parametrize("compress", [False, True])
def test_planning_ahead_gives_the_same_bytes(compress, rng, seed):
    made, runs = batches(10, rng), []
    for overlap in (True, False):
        *owners, step = build(seed, policy="row", compress=compress, overlap=overlap)
        runs.append((train(step, made), state(*owners)))
    assert runs[0][0] == runs[1][0]
    for ours, expected in zip(runs[0][1], runs[1][1]):
        assert ours.tobytes() == expected.tobytes()
