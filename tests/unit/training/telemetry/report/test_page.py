"""The report's page and pictures: what is in them, and that no journal can harm them."""

import html.parser
import json
import re
import subprocess
import sys

import matplotlib.image
import numpy as np
import pytest

from tests.support.training.telemetry.report.journals import END, make_events, write_run
from training.runtime.errors import EXIT_OK, EXIT_USER_ERROR
from training.telemetry.report.__main__ import main, write
from training.telemetry.report.plots import make_plots
from training.telemetry.report.runs import read_runs

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
    events.append({"event": "message", "time": 1.0, "text": evil})
    next(e for e in events if e["event"] == "checkpoint")["path"] = evil
    # Two folders of one name are told apart by their parents', which brings a slash into a name.
    names = ["p</script><img src=x onerror=alert(2)>", "q</script><img src=x onerror=alert(2)>",
             "_$a_{b}$ \"'&lt;"]  # fmt: skip
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
        dict(re.findall(r"(--[a-z0-9]+): (#[0-9a-f]{6});", block))
        for block in re.findall(r":root \{([^}]*)\}", text)
    )
    assert used <= set(light) == set(dark)
    for values in (light, dark):
        for name in ("--ink", "--muted"):
            assert contrast(values[name], values["--card"]) >= 4.5
            assert contrast(values[name], values["--page"]) >= 4.5
        for number in range(8):
            assert contrast(values[f"--s{number}"], values["--card"]) >= 3.0


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


def test_no_tensorflow_is_imported(tmp_path):
    run = write_run(tmp_path / "run", make_events())
    code = (
        "import sys; from training.telemetry.report.__main__ import main; "
        f"assert main([{str(run)!r}]) == 0; sys.exit('tensorflow' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_missing_package_is_named(tmp_path, capsys, monkeypatch):
    run = write_run(tmp_path / "run", make_events())
    for name in ("jinja2", "training.telemetry.report.page"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.delattr("training.telemetry.report.page", raising=False)
    monkeypatch.setitem(sys.modules, "jinja2", None)
    assert main([str(run)]) == EXIT_USER_ERROR
    assert (
        f"the package jinja2 is missing: {sys.executable} -m pip install" in capsys.readouterr().err
    )
