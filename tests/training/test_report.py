"""The report of runs: what it reads, what it draws, and that nothing in a journal can harm it."""

import html.parser
import json
import re
import subprocess
import sys

import matplotlib.image
import numpy as np
import pytest

from model.published_runs import PUBLISHED_RUNS, VOCABULARIES
from tests.training.journals import END, make_events, write_run
from training.errors import EXIT_OK, EXIT_USER_ERROR, UserError
from training.report import facts, published, series
from training.report.__main__ import main, write
from training.report.plots import make_plots
from training.report.runs import read_runs

PLOTS = ["auc", "loss", "throughput", "memory", "breakdown", "learning-rate"]
_VOID = {"meta", "br", "img", "link", "input", "hr"}


class Page(html.parser.HTMLParser):
    """A page as its tags: fails on one that is not closed, or closed where it is not open."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.tags, self.texts, self.scripts = [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in _VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, f"</{tag}> in {self.open}"
        self.open.pop()

    def handle_data(self, data):
        (self.scripts if self.open[-1:] == ["script"] else self.texts).append(data)

    def of(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def text(self):
        return re.sub(r"\s+", " ", " ".join(self.texts))


def page_of(folders, tmp_path, **options):
    write([str(f) for f in folders], str(tmp_path / "page.html"), **options)
    return Page((tmp_path / "page.html").read_text(encoding="utf-8"))


def test_a_whole_run_has_every_plot_twice_and_all_tables(tmp_path):
    run = write_run(tmp_path / "run", make_events(), END)
    page = page_of([run], tmp_path)
    figures = {a["id"] for a in page.of("figure")}
    assert figures == {f"plot-{key}" for key in PLOTS}
    assert {a["id"] for a in page.of("section") if "id" in a} == {
        "published", "events", "settings",
    }  # fmt: skip
    drawings = [a["aria-label"] for a in page.of("svg") if "aria-label" in a]
    titles = [plot.title for plot in make_plots(read_runs([run]))]
    assert sorted(drawings) == sorted(2 * titles)
    for text in ("million samples", "log loss (nats per sample)", "area under the ROC curve",
                 "seconds of running", "per second", "milliseconds per step", "GiB"):  # fmt: skip
        assert text in page.text
    assert "1,234.5" not in page.text
    assert "samples per second" in page.text
    assert "all epochs done" in page.text


def test_a_run_without_events_says_what_is_missing(tmp_path):
    run = write_run(tmp_path / "run", make_events()[:1])
    page = page_of([run], tmp_path)
    assert not [a for a in page.of("svg") if "aria-label" in a]
    for text in ("No step has been reported.", "No evaluation has been made.", "--step_breakdown",
                 "No step has been timed.", "The journal has no memory event.",
                 "no result: killed, or still running; last seen at step 0"):  # fmt: skip
        assert text in page.text


def test_a_cut_last_line_is_left_out_and_said(tmp_path):
    events = make_events()
    whole = read_runs([write_run(tmp_path / "whole", events)])[0]
    cut = write_run(tmp_path / "cut", events, tail='{"event": "step", "seconds": 1')
    run = read_runs([cut])[0]
    assert run.events == whole.events
    assert run.cut == (str(cut),)
    assert whole.cut == ()
    assert "is cut and left out" in page_of([cut], tmp_path).text


def test_a_whole_last_line_without_line_end_is_kept(tmp_path):
    events = make_events()
    path = write_run(tmp_path / "run", events) / "journal.jsonl"
    path.write_bytes(path.read_bytes()[:-1])
    run = read_runs([path.parent])[0]
    assert not run.cut
    assert sum(map(len, run.events.values())) == len(events)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"event": "step", "sec', "not JSON"),
        (b"\xff\xfe\x00", "not JSON"),
        (b"[1, 2]", "not an event"),
        (b'{"event": 3}', "not an event"),
        (b'{"event": "evaluation", "step": 3}', "has no 'auc'"),
        (b'{"event": "message", "text": 5}', "'text' is '5', which is of the wrong type"),
        (b'{"event": "config", "flags": {}, "versions": {}, "data": {}, "ranks": 1, "steps": 1}',
         "global_batch_size is None"),
        (b'{"event": "breakdown", "step": 1, "phases": [7], "step_milliseconds": 1, '
         b'"whole_milliseconds": 1}', "a phase"),
    ],
)  # fmt: skip
def test_a_damaged_line_is_named(tmp_path, capsys, line, reason):
    events = make_events()
    path = write_run(tmp_path / "run", events) / "journal.jsonl"
    lines = path.read_bytes().split(b"\n")
    at = np.random.default_rng().integers(1, len(lines) - 2)
    path.write_bytes(b"\n".join([*lines[:at], line, *lines[at:]]))
    assert main([str(path.parent)]) == EXIT_USER_ERROR
    message = capsys.readouterr().err
    assert f"{path}: line {at + 1}: " in message
    assert reason in message
    assert not (path.parent / "report.html").exists()


def test_folders_that_are_no_run(tmp_path, capsys):
    (tmp_path / "runs" / "a").mkdir(parents=True)
    cases = {tmp_path / "none": "no such folder", tmp_path / "runs" / "a": "no journal.jsonl"}
    write_run(tmp_path / "runs" / "b", make_events())
    cases[tmp_path / "runs"] = f"give {tmp_path / 'runs' / 'b'}"
    cases[tmp_path / "runs" / "b" / "journal.jsonl"] = "is a file"
    cases[write_run(tmp_path / "early", [{"event": "message", "text": "x"}])] = "no config event"
    cases[write_run(tmp_path / "late", make_events()[1:] + make_events()[:1])] = "before the first"
    for folder, reason in cases.items():
        assert main([str(folder)]) == EXIT_USER_ERROR
        message = capsys.readouterr().err
        assert str(folder) in message
        assert reason in message
    run = write_run(tmp_path / "twice", make_events())
    with pytest.raises(UserError, match="given twice"):
        read_runs([run, tmp_path / "runs" / ".." / "twice"])
    (run / "result.json").write_text('{"auc"')
    with pytest.raises(UserError, match=r"result\.json: damaged"):
        read_runs([run])


def test_unknown_kinds_of_events_are_left_out(tmp_path):
    events = make_events()
    newer = [*events[:3], {"event": "epoch", "epoch": 0}, *events[3:]]
    runs = [read_runs([write_run(tmp_path / n, e)])[0] for n, e in (("a", events), ("b", newer))]
    assert runs[0].events == runs[1].events


@pytest.mark.parametrize("folders", [1, 2])
def test_a_resumed_run_is_one_line(tmp_path, folders):
    flags = {"checkpoint_dir": "/checkpoints"}
    first = make_events(stop=60, flags=flags)
    second = make_events(start=40, stop=100, flags=flags)
    if folders == 1:
        given = [write_run(tmp_path / "a", first + second)]
    else:
        given = [write_run(tmp_path / "a", first), write_run(tmp_path / "b", second, END)]
    (run,) = read_runs(given)
    steps = [e["step"] for e in run.of("step")]
    expected = [e["step"] for e in first if e["event"] == "step" and e["step"] <= 40]
    expected += [e["step"] for e in second if e["event"] == "step"]
    assert steps == expected == sorted(set(expected))
    assert [e["step"] for e in run.redone] == [
        e["step"] for e in first if e["event"] == "step" and e["step"] > 40
    ]
    everything = sorted([*run.redone, *run.of("step")], key=lambda e: e["clock"])
    lengths = [max(e["seconds"] for e in part if e["event"] == "step") for part in (first, second)]
    assert everything[-1]["clock"] >= sum(lengths)
    ((clock, step),) = run.resumes
    assert step == 40
    assert max(e["clock"] for e in run.redone) <= clock
    assert clock < min(e["clock"] for e in run.of("step") if e["step"] > 40)
    assert run.name == ("a" if folders == 1 else "a + 1 resumed")


def test_runs_that_did_not_resume_from_each_other_stay_apart(tmp_path):
    first = write_run(tmp_path / "x" / "run", make_events(flags={"checkpoint_dir": "/one"}))
    other = make_events(start=40, stop=100, flags={"checkpoint_dir": "/two"})
    second = write_run(tmp_path / "y" / "run", other)
    assert [run.name for run in read_runs([first, second])] == ["x/run", "y/run"]


def test_evaluations_and_checkpoints_are_placed_between_steps(tmp_path):
    run = read_runs([write_run(tmp_path / "run", make_events())])[0]
    for event in run.of("evaluation") + run.of("checkpoint"):
        before = [e["clock"] for e in run.of("step") if e["step"] <= event["step"]]
        after = [e["clock"] for e in run.of("step") if e["step"] > event["step"]]
        assert max(before, default=0) <= event["clock"] <= min(after, default=np.inf)


def test_two_runs_lie_over_each_other_with_a_legend(tmp_path):
    folders = [write_run(tmp_path / name, make_events(), END) for name in ("one", "two")]
    page = page_of(folders, tmp_path)
    runs = read_runs(folders)
    for plot in make_plots(runs):
        if plot.bars:
            assert [name for name, _ in plot.bars] == ["one", "two"]
            continue
        named = [layer for layer in plot.layers if layer.label is not None]
        for name in ("one", "two"):
            assert [n for n in named if n.label.startswith(name)], (plot.key, name)
        lines = [layer for layer in named if layer.kind == "line"]
        assert len({layer.colour for layer in lines}) == 2
    legends = [a for a in page.of("ul") if a.get("class") == "legend"]
    assert len(legends) == len(PLOTS)
    hovered = json.loads(page.scripts[0])
    assert [line["name"] for line in hovered] == ["one: AUC", "two: AUC"]
    for line, run in zip(hovered, runs):
        assert line["y"] == pytest.approx([e["auc"] for e in run.of("evaluation")], rel=1e-5)


def test_text_of_a_journal_never_becomes_markup(tmp_path):
    evil = '"></td></script><script>alert(1)</script><img src=x onerror=alert(1)>&amp;$x_1$'
    events = make_events(flags={"data_dir": evil, "--<b>": evil}, phase=evil)
    events[0]["versions"][evil] = evil
    events.append({"event": "message", "seconds": 1.0, "text": evil})
    next(e for e in events if e["event"] == "checkpoint")["path"] = evil
    names = ["<script>alert(1)<", "_$a_{b}$ \"'&lt;"]
    folders = [write_run(tmp_path / name, events) for name in names]
    page = page_of(folders, tmp_path, png=str(tmp_path / "png"))
    assert len(page.of("script")) == len(PLOTS) + 1
    assert not page.of("img") and not page.of("b")
    assert not [a for _, a in page.tags if any(name.startswith("on") for name in a)]
    for text in (evil, *names):
        assert text in page.text
    for script in page.scripts[: len(PLOTS)]:
        json.loads(script)


def test_nothing_is_loaded_from_elsewhere_and_references_resolve(tmp_path):
    folders = [write_run(tmp_path / name, make_events(), END) for name in ("one", "two")]
    page = page_of(folders, tmp_path)
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert not re.findall(r"\b(?:https?|ftp|file|wss?):|@import|//[a-z]+\.[a-z]", text)
    ids = [a["id"] for _, a in page.tags if "id" in a]
    assert len(ids) == len(set(ids))
    assert not [a for _, a in page.tags if "src" in a or "data" in a or "srcset" in a]
    references = [a[name] for _, a in page.tags for name in ("href", "xlink:href") if name in a]
    references += [f"#{name}" for name in re.findall(r"url\(#([^)]*)\)", text)]
    assert references
    assert {reference[:1] for reference in references} == {"#"}
    assert {reference[1:] for reference in references} <= set(ids)
    assert len(re.findall(r"url\(", text)) == len(re.findall(r"url\(#", text))


def test_colours_of_plots_follow_the_mode(tmp_path):
    page_of([write_run(tmp_path / "run", make_events())], tmp_path)
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    drawn = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
    assert drawn
    assert not re.findall(r"#[0-9a-f]{6}\b", "".join(drawn))
    used = set(re.findall(r"var\((--[a-z0-9]+)\)", text))
    light, dark = (
        {name: value for name, value in re.findall(r"(--[a-z0-9]+): (#[0-9a-f]{6});", block)}
        for block in re.findall(r":root \{([^}]*)\}", text)
    )
    assert used <= set(light) == set(dark)
    for values in (light, dark):
        for name in ("--ink", "--muted"):
            assert contrast(values[name], values["--card"]) >= 4.5
            assert contrast(values[name], values["--page"]) >= 4.5
        for number in range(8):
            assert contrast(values[f"--s{number}"], values["--card"]) >= 2.7


def contrast(first, second):
    """Returns WCAG 2's contrast ratio of two colours."""
    levels = []
    for colour in (first, second):
        channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        levels.append(0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2])
    return (max(levels) + 0.05) / (min(levels) + 0.05)


def test_pictures_are_valid_and_not_blank(tmp_path):
    run = write_run(tmp_path / "run", make_events(), END)
    assert main([str(run), "--png", str(tmp_path / "png")]) == EXIT_OK
    assert (run / "report.html").is_file()
    files = {path.name for path in (tmp_path / "png").iterdir()}
    assert files == {f"{key}.png" for key in (*PLOTS, "overview")}
    for name in files:
        pixels = matplotlib.image.imread(tmp_path / "png" / name)
        assert min(pixels.shape[:2]) >= 300
        assert len(np.unique(pixels.reshape(-1, pixels.shape[2]), axis=0)) > 50


def test_published_curves_only_beside_criteo_terabyte(tmp_path):
    counts = {"layout": "raw", "train_samples": 4195197692, "test_samples": 89137319}
    sizes = [size + (size > 3e7) for size in VOCABULARIES["mlperf"]]
    cases = [(counts, True), ({"layout": "raw", "vocab_sizes": sizes}, True),
             ({"layout": "synthetic", "vocab_sizes": sizes}, False),
             ({"layout": "raw", "train_samples": 4195197691}, False)]  # fmt: skip
    for number, (data, expected) in enumerate(cases):
        events = make_events(data=data)
        runs = read_runs([write_run(tmp_path / str(number), events)])
        assert published.is_terabyte(runs[0]) is expected
        plot = make_plots(runs)[0]
        assert plot.key == "auc"
        labels = [layer.label for layer in plot.layers]
        assert (labels[-1] == "MLPerf's target: 0.8025") is expected
        assert sum("MLPerf" in label for label in labels) == (3 if expected else 0)
    samples, aucs = published.curve_points(published.AUC_CURVES["MLPerf, HugeCTR on 8 x A100"])
    assert (samples[-1], aucs[-1]) == (pytest.approx(0.9 * 4195197692), 0.8026)
    # The published evaluations are 3,793 steps of 55,296 samples apart.
    assert samples[0] == pytest.approx(3793 * 55296, rel=2e-4)


def test_comparison_names_differences_and_ratio(tmp_path):
    rate = float(np.random.default_rng().uniform(5e6, 20e6))
    data = {"layout": "raw", "train_samples": 4195197692}
    flags = {"global_batch_size": 65536, "amp": True, "amp_dtype": "auto", "embedding_dim": 128}
    events = make_events(data=data, flags=flags, ranks=8, gpu=True)
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
    small = read_runs([write_run(tmp_path / "small", make_events(flags={"embedding_dim": 16}))])[0]
    differences = published.compare(small)[0].differences
    assert "other data" in differences and "other model" in differences
    assert any(text.startswith("1 rank on CPU, not ") for text in differences)


def test_thinning_and_smoothing_keep_weighted_means():
    rng = np.random.default_rng()
    n = int(rng.integers(2000, 3000))
    x, y, weight = np.sort(rng.random(n)), rng.normal(size=n), rng.random(n) + 0.1
    thin_x, thin_y, sums, size = series.thin(x, y, weight)
    assert len(thin_x) <= series.MOST_POINTS < n <= len(thin_x) * size
    assert np.dot(thin_y, sums) == pytest.approx(np.dot(y, weight))
    assert thin_x[-1] == x[-1]
    mean, window = series.running_mean(y[:100], weight[:100])
    half = window // 2
    for i in range(100):
        around = slice(max(0, i - half), i + half + 1)
        expected = np.average(y[:100][around], weights=weight[:100][around])
        assert mean[i] == pytest.approx(expected)


def test_axis_limits_leave_out_rare_outliers_only():
    rng = np.random.default_rng()
    values = rng.uniform(0.4, 0.5, 200)
    low, high, above = series.limits([*values, 9.0, 8.0])
    assert low < values.min() and values.max() < high < 1 and above == 2
    low, high, above = series.limits(values, extra=[0.9])
    assert high > 0.9 and above == 0
    assert series.limits([])[2] == 0


def test_text_of_numbers():
    assert facts.number(1234567.8) == "1,234,568"
    assert facts.number(None) == facts.duration(None) == "\u2013"
    assert [facts.duration(s) for s in (1.25, 59.97, 125, 7265)] == [
        "1.2 s", "60.0 s", "2 min 05 s", "2 h 01 min",
    ]  # fmt: skip


def test_no_tensorflow_is_imported(tmp_path):
    run = write_run(tmp_path / "run", make_events())
    code = (
        "import sys; from training.report.__main__ import main; "
        f"assert main([{str(run)!r}]) == 0; sys.exit('tensorflow' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
