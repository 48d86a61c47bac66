"""Training with the GPU kernels, on an emulated GPU, compared with training on the CPU."""

import concurrent.futures
import json

import numpy as np
import pytest

from ops import loader
from tests.gpu import build
from tests.support.emulated_ops import build as emulated_ops

STEPS, BAD = 100, 50
OPTIMIZERS = {
    "sgd": {"rate": 0.05, "embedding_rate": 100.0},
    "adagrad": {"optimizer": "adagrad", "embedding_optimizer": "adagrad",
                "rate": 0.001, "embedding_rate": 2.0},
    "rowwise": {"optimizer": "adam", "embedding_optimizer": "rowwise_adagrad",
                "rate": 0.0003, "embedding_rate": 2.0},
    "adam": {"optimizer": "adam", "embedding_optimizer": "adam",
             "rate": 0.0003, "embedding_rate": 1.0},
    "ftrl": {"embedding_optimizer": "ftrl", "rate": 0.05, "embedding_rate": 0.02},
}  # fmt: skip
MODELS = {
    "bags": {"multi_hot": True},
    "cross": {"interaction": "cross", "cross_layers": 2, "cross_rank": 6, "custom_interact": False},
}
FLOAT16, BFLOAT16 = {"dtype": "float16", "scale": 1024.0}, {"dtype": "bfloat16"}
SKIPS = {"dtype": "float16", "scale": 2.0**15, "dynamic": True}
GPU = {"emulated": True, "device": "CPU:0", "custom_interact": True}
FUSED = {**GPU, "fused_mlp": True, "tf32": False, "kernels": {"fused": True, "update": True}}
TAPE = {**GPU, "kernels": {"update": True}}
XLA = {**TAPE, "xla": True}
# {case: options of the worker}. The first word names the optimizers, words of MODELS the model, and
# "bad" a step that is not like the others. The cases in SLOW run only with the slow tests.
TRAINING = {
    "sgd fused float32": {**FUSED, "deterministic": True},
    "sgd fused float32 atomics": FUSED,
    "sgd fused float32 side stream": {**FUSED, "deterministic": True, "side_stream": True},
    "sgd fused float16": {**FUSED, **FLOAT16},
    "sgd fused bfloat16": {**FUSED, **BFLOAT16},
    "adagrad fused float32": FUSED,
    "adagrad fused float16": {**FUSED, **FLOAT16},
    "rowwise fused float32": FUSED,
    "rowwise fused float16": {**FUSED, **FLOAT16},
    "adam fused float32": FUSED,
    "sgd tape float16": {**TAPE, **FLOAT16},
    "rowwise tape float32": TAPE,
    "sgd bags fused float32": {**FUSED, "deterministic": True},
    "sgd bags fused float32 atomics": FUSED,
    "sgd bags fused float16 side stream": {**FUSED, **FLOAT16, "side_stream": True},
    "rowwise bags fused float32": FUSED,
    "adam bags fused float16": {**FUSED, **FLOAT16},
    "ftrl bags tape float32": TAPE,
    "sgd bags cross fused float32": FUSED,
    "sgd bags cross fused float16": {**FUSED, **FLOAT16},
    "rowwise bags cross tape float32": TAPE,
    "adagrad bags cross xla float32": XLA,
    "adam bags cross fused float32": FUSED,
}
INFINITE = {**SKIPS, "bad_step": BAD, "bad_value": 1e5}  # in float16
OVERFLOW = {
    "sgd bad fused float16": {**FUSED, **INFINITE},
    "sgd bad fused float16 side stream": {**FUSED, **INFINITE, "side_stream": True},
    "sgd bad tape float16": {**TAPE, **INFINITE},
    "adam bad bags cross fused float16": {**FUSED, **INFINITE},
}
NAN = {
    "sgd bad fused float32 nan": {**FUSED, "bad_step": BAD, "bad_value": "nan"},
    "sgd bad fused float16 nan": {**FUSED, **FLOAT16, "bad_step": BAD, "bad_value": "nan"},
    "sgd bad tape float32 nan": {**TAPE, "bad_step": BAD, "bad_value": "nan"},
}
SLOW = {
    "sgd fused float32 atomics", "sgd fused bfloat16", "adagrad fused float16",
    "rowwise fused float32", "adam fused float32", "sgd tape float16",
    "sgd bags fused float32 atomics", "sgd bags fused float16 side stream",
    "adam bags fused float16", "ftrl bags tape float32", "sgd bags cross fused float16",
    "rowwise bags cross tape float32", "adagrad bags cross xla float32", "sgd bad tape float16",
    "sgd bad fused float16 side stream", "sgd bad fused float32 nan", "sgd bad tape float32 nan",
}  # fmt: skip


def reference_of(case):
    """Returns the name of the float32 case of the CPU."""
    return " ".join(w for w in case.split() if w in {*OPTIMIZERS, *MODELS, "bad"})


def reference_options(case):
    """Returns the options of `reference_of`. With fused MLPs the cross network is native, too."""
    bad = {"bad_step": BAD} if "bad" in case else {}
    return {**bad, "fused_mlp": "cross" in case and loader.is_built("mlp")}


REFERENCES = {case: reference_of(case) for case in [*TRAINING, *OVERFLOW]}
CPU = {name: reference_options(name) for name in REFERENCES.values()}
SLOW |= CPU.keys() - {name for case, name in REFERENCES.items() if case not in SLOW}
# Largest deviations from float32: of a loss, and of variables relative to their changes, the median
# and the largest. Adam's average of the gradients of one bias may be close to 0, so that its
# deviation is a hundred times the median.
LOSSES = {"float32": 1e-5, "float16": 1e-3, "bfloat16": 1e-2}
CHANGES = {"float32": (2e-5, 2e-3), "float16": (5e-3, 0.3), "bfloat16": (4e-2, 0.5)}


def options_of(case):
    """Returns the options that the words of a case name."""
    chosen = [{**OPTIMIZERS, **MODELS}.get(word, {}) for word in case.split()]
    return {name: value for options in chosen for name, value in options.items()}


class Trained:
    """Results of the worker by case: {name: array, or list of the arrays name/0, name/1, ...}."""

    def __init__(self, folder, seed):
        self._folder, self._seed, self._results, self._errors = folder, seed, {}, {}

    def __getitem__(self, case):
        slow = case in SLOW
        if case not in self._results and slow not in self._errors:
            self._errors[slow] = "".join(self._run_all(slow))
        assert not self._errors[slow], self._errors[slow]
        return self._results[case]

    def _run_all(self, slow):
        """Runs the cases that are slow, or the others; returns what failed."""
        groups = {"gpu": {**TRAINING, **OVERFLOW, **NAN}, "cpu": CPU}
        chosen = [
            {case: options for case, options in group.items() if (case in SLOW) == slow}
            for group in groups.values()
        ]
        with concurrent.futures.ThreadPoolExecutor() as pool:
            names = [f"{name}{slow}" for name in groups]
            return list(pool.map(self._run, names, chosen))

    def _run(self, name, cases):
        if not cases:
            return ""
        file = self._folder / f"{name}.npz"
        cases = {
            case: {"seed": self._seed, "steps": STEPS, **options, **options_of(case)}
            for case, options in cases.items()
        }
        done = emulated_ops.run_worker("worker", str(file), json.dumps(cases))
        if done.returncode != 0:
            return done.stderr[-5000:]
        with np.load(file) as stored:
            for key in stored.files:
                case, name, *number = key.split("/")
                results = self._results.setdefault(case, {})
                if number:
                    results.setdefault(name, []).append(stored[key])
                else:
                    results[name] = stored[key]
        return ""


@pytest.fixture(scope="module")
def trained(tmp_path_factory, seed_of):
    """The `Trained` models."""
    if build.cuda_include() is None:
        pytest.skip("CUDA's headers were not found: the GPU kernels are not run, even emulated")
    if not loader.is_built():
        pytest.skip("the op library is not built")
    return Trained(tmp_path_factory.mktemp("emulated"), seed_of("emulated_gpu_step"))


def each(cases):
    """Returns the test's parameter `case`, with the mark of slow ones."""
    marked = [pytest.param(c, marks=[pytest.mark.slow] * (c in SLOW)) for c in cases]
    return pytest.mark.parametrize("case", marked)


def dtype_of(case):
    return next(word for word in case.split() if word in LOSSES)


def loss_deviation(ours, expected):
    return np.abs(ours - expected).max()


def change_deviations(ours, expected):
    """Returns |ours - expected| / |expected - initial| of each variable, 0 if it did not change."""
    return [
        np.linalg.norm(found - after) / max(np.linalg.norm(after - before), 1e-30)
        for found, after, before in zip(ours["after"], expected["after"], expected["before"])
    ]


def assert_same_changes(ours, expected, dtype):
    deviations = change_deviations(ours, expected)
    median, largest = CHANGES[dtype]
    assert np.median(deviations) <= median and max(deviations) <= largest, deviations


@each(CPU)
def test_no_rounding_error_switches_a_unit(trained, case):
    assert min(trained[case]["distances"]) > 0.5


@each(TRAINING)
def test_training_equals_the_cpu(trained, case):
    ours, expected, dtype = trained[case], trained[reference_of(case)], dtype_of(case)
    for found, initial in zip(ours["before"], expected["before"]):
        np.testing.assert_array_equal(found, initial)
    assert loss_deviation(ours["losses"], expected["losses"]) <= LOSSES[dtype]
    np.testing.assert_array_equal(ours["recorded"], ours["losses"])
    assert_same_changes(ours, expected, dtype)


def test_side_stream_changes_no_value(trained):
    ours, expected = trained["sgd fused float32 side stream"], trained["sgd fused float32"]
    np.testing.assert_array_equal(ours["losses"], expected["losses"])
    for found, after in zip(ours["after"], expected["after"]):
        np.testing.assert_array_equal(found, after)


@each(OVERFLOW)
def test_overflow_skips_the_step_and_halves_the_scale(trained, case):
    ours, expected = trained[case], trained[reference_of(case)]
    for after, before in zip(ours["bad_after"], ours["bad_before"]):
        assert after.tobytes() == before.tobytes()
    initial = OVERFLOW[case]["scale"]
    np.testing.assert_array_equal(ours["scales"][:BAD], initial)
    np.testing.assert_array_equal(ours["scales"][BAD:], initial / 2)
    np.testing.assert_array_equal(ours["skipped"], np.arange(STEPS) >= BAD)
    losses = np.delete(ours["losses"], BAD)
    assert loss_deviation(losses, expected["losses"]) <= LOSSES["float16"]
    assert_same_changes(ours, expected, "float16")


@each(NAN)
def test_nan_is_recorded_in_its_step(trained, case):
    ours = trained[case]
    np.testing.assert_array_equal(np.isnan(ours["recorded"]), np.arange(STEPS) >= BAD)
    # The stand-in for cuBLASLt turns NaN into 0, so that the loss itself does not show it.
    assert np.isnan(ours["losses"][BAD]) == ("tape" in case)


@each([*TRAINING, *OVERFLOW, *NAN])
def test_every_step_launches_the_counted_kernels(trained, case):
    ours = trained[case]
    assert ours["launches"].min() == ours["launches"].max()
    options = {**TRAINING, **OVERFLOW, **NAN}[case]
    if "sgd" in case and not (options.get("deterministic") or options.get("xla")):
        # Other updates sort rows with kernels that the emulation does not have, and XLA's kernels
        # are not known.
        assert ours["launches"][0] == ours["counted"]
