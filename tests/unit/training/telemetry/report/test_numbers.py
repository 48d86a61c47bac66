"""The report's numbers: means, limits, texts, and the comparison with published runs."""

import json

import numpy as np
import pytest

from ops.bags import MLPERF_HOTNESS
from planner.published_runs import DLE_DCNV2, MLPERF_DCNV2, PUBLISHED_RUNS, VOCABULARIES
from tests.support.training.telemetry.report.journals import END, make_events, write_run
from training.telemetry.report import facts, published, series
from training.telemetry.report.plots import make_plots
from training.telemetry.report.runs import read_runs


def test_published_curves_are_drawn_only_for_criteo_terabyte(tmp_path, rng):
    counts = {"layout": "raw", "train_samples": 4195197692, "test_samples": 89137319}
    sizes = [size + (size > 3e7) for size in VOCABULARIES["mlperf"]]
    cases = [(counts, True), ({"layout": "raw", "vocab_sizes": sizes}, True),
             ({"layout": "synthetic", "vocab_sizes": sizes}, False),
             ({"layout": "raw", "train_samples": 4195197691}, False)]  # fmt: skip
    for number, (data, expected) in enumerate(cases):
        events = make_events(rng, data=data)
        runs = read_runs([write_run(tmp_path / str(number), events)])
        assert published.is_terabyte(runs[0]) is expected
        plot = make_plots(runs)[0]
        assert plot.key == "auc"
        labels = [layer.label for layer in plot.layers]
        assert (labels[-1] == "MLPerf's target: 0.8025") is expected
        assert sum("MLPerf" in label for label in labels) == (3 if expected else 0)
    samples, aucs = published.curve_points(published.DLRM.curves["MLPerf, HugeCTR on 8 x A100"])
    assert (samples[-1], aucs[-1]) == (pytest.approx(0.9 * 4195197692), 0.8026)
    # The published evaluations are 3,793 steps of 55,296 samples apart.
    assert samples[0] == pytest.approx(3793 * 55296, rel=2e-4)


def test_cross_runs_are_drawn_with_dlrm_dcnv2(tmp_path, rng):
    data = {"layout": "raw", "train_samples": 4195197692, "bags": {"hotness": [3, 2]}}
    flags = {"interaction": "cross", "global_batch_size": 60000}
    cross = write_run(tmp_path / "cross", make_events(rng, data=data, flags=flags))
    plot = make_plots(read_runs([cross]))[0]
    labels = [layer.label for layer in plot.layers if "MLPerf" in layer.label]
    assert labels == [
        "MLPerf v4.0 DLRM-DCNv2, HugeCTR on 8 x H200",
        "MLPerf's reference at batch 55,296: least, mean and most of 50 runs",
        "MLPerf's target: 0.80275",
    ]
    (points,) = [layer for layer in plot.layers if layer.label == labels[1]]
    (curve,) = [layer for layer in plot.layers if layer.label == labels[0]]
    assert points.y == [0.80275] * 3
    # 0.75 of the epoch is the last point of the submission and close to the reference's mean.
    np.testing.assert_allclose(points.x[1], curve.x[-1] * 0.763 / 0.75)
    assert curve.y[-2] < 0.80275 <= curve.y[-1]
    assert "learning rate 0.004" in plot.note
    dot = write_run(tmp_path / "dot", make_events(rng, data={**data, "bags": None}))
    labels = [layer.label for layer in make_plots(read_runs([cross, dot]))[0].layers]
    assert sum("MLPerf's target" in label for label in labels) == 2
    one_hot = write_run(
        tmp_path / "one_hot", make_events(rng, data={**data, "bags": None}, flags=flags)
    )
    assert published.benchmark(read_runs([one_hot])[0]) is published.DLRM


def test_reference_convergence_equals_the_packages():
    folder = pytest.importorskip("mlperf_logging").__path__[0]
    path = f"{folder}/rcp_checker/training_6.0.0/rcps_dlrm_dcnv2.json"
    with open(path, encoding="utf-8") as file:
        points = json.load(file).values()
    assert {point["BS"] for point in points} == set(published.DCNV2.convergence)
    for point in points:
        epochs = point["Epochs to converge"]
        expected = len(epochs), min(epochs), np.mean(epochs), max(epochs)
        assert published.DCNV2.convergence[point["BS"]] == pytest.approx(expected, abs=5e-5)
    (rate,) = {p["Hyperparams"]["opt_base_learning_rate"] for p in points if p["BS"] == 55296}
    assert rate == published.DCNV2.learning_rate


def test_comparison_includes_interaction_and_ids(tmp_path, rng):
    data = {"layout": "raw", "train_samples": 4195197692, "bags": {"hotness": [*MLPERF_HOTNESS]}}
    flags = {"global_batch_size": 55296, "amp": True, "interaction": "cross"}
    events = make_events(rng, data=data, flags=flags, ranks=8, gpu=True)
    nearest, *others = published.compare(read_runs([write_run(tmp_path / "run", events)])[0])
    assert nearest.differences == () and nearest.row.source == MLPERF_DCNV2
    one_hot = next(c for c in others if c.row.source == DLE_DCNV2 and c.row.ranks == 8)
    assert "214 ids per sample, not one id per feature" in one_hot.differences
    dot = next(c for c in others if c.row.interaction == "dot")
    assert "interaction cross, not dot" in dot.differences


def test_comparison_has_differences_and_ratio(tmp_path, rng):
    rate = float(rng.uniform(5e6, 20e6))
    data = {"layout": "raw", "train_samples": 4195197692}
    flags = {"global_batch_size": 65536, "amp": True, "amp_dtype": "auto", "embedding_dim": 128}
    events = make_events(rng, data=data, flags=flags, ranks=8, gpu=True)
    run = read_runs([write_run(tmp_path / "run", events, {**END, "samples_per_second": rate})])[0]
    found = published.compare(run)
    assert len(found) == len(PUBLISHED_RUNS)
    nearest = found[0]
    assert nearest.differences == ()
    assert (nearest.row.ranks, nearest.row.global_batch) == (8, 65536)
    assert nearest.row.precision == "fp16"
    for comparison in found:
        assert comparison.ratio == pytest.approx(rate / comparison.row.rate)
    row = next(c for c in found if c.row.system == "16 x V100" and c.row.precision == "fp32")
    assert row.differences == ("8 ranks on GPU, not 16 x V100", "float16, not fp32")
    events = make_events(rng, flags={"embedding_dim": 16})
    small = read_runs([write_run(tmp_path / "small", events)])[0]
    differences = published.compare(small)[0].differences
    assert "other data" in differences and "other model" in differences
    assert any(text.startswith("1 rank on CPU, not ") for text in differences)


@pytest.mark.parametrize(
    ("flags", "gpu", "expected"),
    [
        ({}, True, "float32 or tf32"),
        ({"tf32": True}, True, "float32 or tf32"),
        ({"tf32": False}, True, "float32"),
        ({"tf32": True}, False, "float32"),
        ({"amp": True, "tf32": True}, True, "float16"),
    ],
)
def test_precision_depends_on_flags_and_device(flags, gpu, expected, tmp_path, rng):
    write_run(tmp_path / "run", make_events(rng, flags=flags, gpu=gpu))
    (run,) = read_runs([tmp_path / "run"])
    assert published.precision(run) == expected


def test_thin_and_running_mean_compute_weighted_means(rng):
    n = int(rng.integers(2000, 3000))
    x, y, weight = np.sort(rng.random(n)), rng.normal(size=n), rng.random(n) + 0.1
    thin_x, thin_y, sums, size = series.thin(x, y, weight)
    assert len(thin_x) <= series.MAX_POINTS < n <= len(thin_x) * size
    assert np.dot(thin_y, sums) == pytest.approx(np.dot(y, weight))
    assert thin_x[-1] == x[-1]
    mean, window = series.running_mean(y[:100], weight[:100])
    half = window // 2
    for i in range(100):
        around = slice(max(0, i - half), i + half + 1)
        expected = np.average(y[:100][around], weights=weight[:100][around])
        assert mean[i] == pytest.approx(expected)


def test_limits_omit_only_rare_outliers(rng):
    values = rng.uniform(0.4, 0.5, 200)
    low, high, above = series.limits([*values, 9.0, 8.0])
    assert low < values.min() and values.max() < high < 1 and above == 2
    low, high, above = series.limits(values, extra=[0.9])
    assert high > 0.9 and above == 0
    assert series.limits([])[2] == 0


def test_numbers_and_durations_are_formatted():
    assert facts.number(1234567.8) == "1,234,568"
    assert facts.number(None) == facts.duration(None) == "\u2013"
    assert [facts.duration(s) for s in (1.25, 59.97, 125, 7265)] == [
        "1.2 s", "60.0 s", "2 min 05 s", "2 h 01 min",
    ]  # fmt: skip
