"""NaN and infinity in any input: no path of training, evaluation or serving loses them."""

import os
import subprocess
import sys
import types

import numpy as np
import pytest
import tensorflow as tf

from model.dlrm import DenseDLRM, DLRMConfig
from model.serving import ServingDLRM
from ops import loader
from ops.cpu import instruction_set
from tests.support.paths import ROOT
from tests.support.thread_ranks import ThreadRanks
from tests.support.training.small_model import BATCH, DENSE, VOCAB, batches, build, state, train
from training.evaluation import evaluate
from training.metrics.exact_auc import ScoresNotFiniteError
from training.modes import inference_benchmark
from training.precision import INITIAL, LossScale
from training.runtime.errors import DivergedError
from training.runtime.process_group import SingleProcessGroup
from training.step import Forward

VALUES = (np.nan, np.inf, -np.inf)
# How the dense part is computed, and the options of `small_model.build`.
LAYERS = {
    "tensorflow": {},
    "interaction": {"custom_interact": True},
    "xla": {"xla": True},
    "xla_interaction": {"xla": True, "custom_interact": True},
    "fused": {"fused_mlp": True},
    "fused_interaction": {"fused_mlp": True, "custom_interact": True},
}
DTYPES = ("float32", "bfloat16", "float16")
PATHS = [(layers, dtype) for dtype in DTYPES for layers in LAYERS
         if not (layers.startswith("fused") and dtype == "float16")]  # fmt: skip


def make(layers, dtype, scale=None):
    """A small model, or a skip where a library is not built."""
    options = LAYERS[layers]
    for option, library in (("custom_interact", "ops"), ("fused_mlp", "mlp")):
        if options.get(option) and not loader.is_built(library):
            pytest.skip(f"the library {library} is not built")
    return build(
        int(np.random.default_rng().integers(1 << 30)), dtype=dtype, scale=scale, **options
    )


def with_value(batch, sample, feature, value):
    """The batch with one of its dense values replaced."""
    dense = batch["dense"].numpy()
    dense[sample, feature] = value
    return dict(batch, dense=tf.constant(dense))


def check_places(layers, dtype):
    """Every dense feature, embedding column, kernel and bias: every step's loss is not finite.

    The samples and rows are drawn; a step that is not finite must leave everything as it was.
    """
    rng = np.random.default_rng()
    scale = LossScale(INITIAL if dtype == "float16" else 1.0, skip_nonfinite=True)
    model, embedding, optimizer, step = make(layers, dtype, scale)
    (batch,) = batches(1)
    assert np.isfinite(train(step, [batch])).all()
    forward = Forward(model, embedding)

    def refused(batch, samples, what):
        before = state(model, embedding, optimizer)
        (loss,) = train(step, [batch])
        assert not np.isfinite(loss), (what, loss)
        for ours, expected in zip(state(model, embedding, optimizer), before):
            assert ours.tobytes() == expected.tobytes(), what
        logits = forward(batch).numpy()[:, 0]
        np.testing.assert_array_equal(np.flatnonzero(~np.isfinite(logits)), samples, str(what))

    for value in VALUES:
        for feature in range(DENSE):
            sample = int(rng.integers(BATCH))
            bad = with_value(batch, sample, feature, value)
            refused(bad, [sample], ("dense", feature, value))
        (holder,) = embedding.fused_tables
        table, ids = holder.table, batch["categorical"].numpy()
        whole = table.numpy()
        firsts = {shard.table: first for shard, first in zip(holder.shards, holder._first_rows)}
        for index in range(len(VOCAB)):
            hit = int(ids[rng.integers(BATCH), index])
            spoilt = whole.copy()
            spoilt[firsts[index] + hit, rng.integers(whole.shape[1])] = value
            table.assign(spoilt)
            refused(batch, np.flatnonzero(ids[:, index] == hit), ("table", index, value))
        table.assign(whole)
    # An infinite weight may meet only values that make it a unit that is off: NaN has no such way.
    for variable in model.trainable_variables:
        whole = variable.numpy()
        spoilt = whole.copy()
        spoilt.flat[rng.integers(spoilt.size)] = np.nan
        variable.assign(spoilt)
        refused(batch, np.arange(BATCH), variable.name)
        variable.assign(whole)
    assert np.isfinite(train(step, [batch])).all()


@pytest.mark.parametrize(("layers", "dtype"), PATHS)
def test_no_path_loses_what_is_not_finite(layers, dtype):
    check_places(layers, dtype)


# Our kernels' instruction set, and what makes TensorFlow and oneDNN go with it: a limit for oneDNN,
# or none of it, as TensorFlow chooses where the processor has no VNNI. The best that there is has
# been taken above. Below AVX-512 oneDNN has no bfloat16, which TensorFlow takes from the processor
# and not from the limit.
PROCESSORS = {
    "portable": ({"TF_ENABLE_ONEDNN_OPTS": "0"}, ("float32", "bfloat16")),
    "avx2": ({"TF_ENABLE_ONEDNN_OPTS": "1", "ONEDNN_MAX_CPU_ISA": "AVX2"}, ("float32",)),
    "avx512": ({"TF_ENABLE_ONEDNN_OPTS": "1", "ONEDNN_MAX_CPU_ISA": "AVX512_CORE"},
               ("float32", "bfloat16")),
    "bf16": ({"TF_ENABLE_ONEDNN_OPTS": "1", "ONEDNN_MAX_CPU_ISA": "AVX512_CORE_BF16"},
             ("bfloat16",)),
}  # fmt: skip


@pytest.mark.parametrize("isa", PROCESSORS)
def test_no_instruction_set_loses_what_is_not_finite(isa):
    """oneDNN reads its variable when it is first used: a process each."""
    if not loader.is_built() or isa not in instruction_set.available():
        pytest.skip(f"this processor or build does not have {isa}")
    limits, dtypes = PROCESSORS[isa]
    own = "fused_interaction" if loader.is_built("mlp") else "interaction"
    cases = [(layers, dtype) for layers in ("tensorflow", own) for dtype in dtypes]
    script = (
        "from ops.cpu import instruction_set\n"
        "from tests.unit.training.test_not_finite import check_places\n"
        f"assert instruction_set.current() == {isa!r}\n"
        f"for case in {cases}:\n"
        "    check_places(*case)\n"
        "    print('checked', *case)\n"
    )
    environment = {**os.environ, **limits, "DLRM_CPU_ISA": isa}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, env=environment,
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("checked") == len(cases)


@pytest.mark.parametrize("value", VALUES)
def test_a_loss_that_is_not_finite_is_still_there_when_somebody_looks(value):
    """The loop looks every 20 steps: until then the weights may have become finite again."""
    model, embedding, _optimizer, step = build(7)
    weights = [variable.numpy() for variable in model.trainable_variables]
    good, bad = batches(2)
    bad = with_value(bad, 3, 1, value)
    losses = train(step, [good, bad])
    assert np.isfinite(losses[0])
    assert not np.isfinite(losses[1])
    for variable, whole in zip(model.trainable_variables, weights):
        variable.assign(whole)
    (holder,) = embedding.fused_tables
    holder.table.assign(tf.where(tf.math.is_finite(holder.table), holder.table, 0.0))
    assert np.isfinite(train(step, [good])[0])
    assert not np.isfinite(step.last_loss())


def test_latencies_of_a_model_that_is_not_finite_are_no_result(monkeypatch):
    monkeypatch.setattr(inference_benchmark, "_SECONDS", 0.01)
    monkeypatch.setattr(inference_benchmark, "_WARM_UP_SECONDS", 0.01)
    model, embedding, *_ = build(3)
    (batch,) = batches(1)
    watch = types.SimpleNamespace(pause=lambda: None, heartbeat=lambda activity: None)
    data = types.SimpleNamespace(one_batch=lambda samples: batch)
    parts = types.SimpleNamespace(data=data, dense_model=model, embedding=embedding)

    def measure():
        return inference_benchmark._measure(parts, SingleProcessGroup(), 16, watch)

    assert len(measure()) >= 20
    model.trainable_variables[0].assign(np.nan * model.trainable_variables[0])
    with pytest.raises(DivergedError, match=r"\d+ calls with 16 samples .* NaN or infinite"):
        measure()


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize("spoilt", ["score", "label"])
@pytest.mark.parametrize("auc", ["exact", "binned"])
def test_an_evaluation_is_refused_on_all_ranks(auc, spoilt, size, value):
    def body(cluster):
        score = np.linspace(-1, 1, 10, dtype=np.float32)[:, None]
        label = (score > 0.3).astype(np.float32)
        if cluster.rank == size - 1:
            {"score": score, "label": label}[spoilt][4] = value
        # The last two rows are padding, where anything may be.
        score[8:] = np.nan
        batch = {"score": tf.constant(score), "label": tf.constant(label), "valid": 8}
        data = types.SimpleNamespace(test=lambda: [batch])
        with pytest.raises(
            ScoresNotFiniteError, match=f"score or label of 1 of {8 * size} samples is NaN or inf"
        ):
            evaluate(lambda batch: batch["score"], data, cluster, auc=auc)

    ThreadRanks(size).run(body)


class Served:
    """A small model for serving with random weights, and samples for it."""

    def __init__(self):
        rng = np.random.default_rng()

        def normal(*shape):
            return rng.normal(size=shape).astype(np.float32)

        self.tables = [tf.Variable(normal(rows, 8), trainable=False) for rows in VOCAB]
        dense = DenseDLRM(DLRMConfig(DENSE, len(VOCAB), (16, 8), (16, 1)))
        for variable in dense.variables:
            variable.assign(normal(*variable.shape))
        self.model = ServingDLRM(dense, self.tables)
        self.dense = normal(40, DENSE)
        self.ids = np.stack([rng.integers(0, rows, 40) for rows in VOCAB], axis=1)

    def answer(self):
        answer = self.model.serve(tf.constant(self.dense), tf.constant(self.ids, tf.int64))
        return answer["probability"].numpy()[:, 0]


@pytest.mark.parametrize("value", VALUES)
def test_a_served_model_gives_no_probability_of_what_is_not_finite(value):
    served = Served()
    expected = served.answer()
    assert np.isfinite(expected).all()
    served.dense[17, 3] = value
    with pytest.raises(
        tf.errors.InvalidArgumentError, match=f"dense feature 3, sample 17: {value} is not finite"
    ):
        served.answer()
    served.dense[17, 3] = 0.5
    whole = served.answer()
    for index, table in enumerate(served.tables):
        row = int(served.ids[23, index])
        rows = table.numpy()
        table.scatter_nd_update([[row, 5]], [value])
        answer, hit = served.answer(), served.ids[:, index] == row
        assert np.isnan(answer[hit]).all()
        np.testing.assert_array_equal(answer[~hit], whole[~hit])
        table.assign(rows)
    for variable in served.model.dense_variables:
        values = variable.numpy()
        variable.assign(np.full_like(values, np.nan))
        assert np.isnan(served.answer()).all()
        variable.assign(values)
    np.testing.assert_array_equal(served.answer(), whole)
