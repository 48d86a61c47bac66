"""The report's page and pictures: what they contain, and that a journal's text cannot harm them."""

import html.parser
import json
import re
import sys
import types

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
    """Parses a page into tags and texts; asserts that tags are balanced."""

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


def page_of(folders, tmp_path):
    write([str(f) for f in folders], str(tmp_path / "page.html"))
    return Page((tmp_path / "page.html").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def report(seed_of, tmp_path_factory):
    """A report on two runs: .folders, .runs, .text (HTML), .page, .png (folder)."""
    folder = tmp_path_factory.mktemp("report")
    rng = np.random.default_rng(seed_of("report"))
    folders = [write_run(folder / name, make_events(rng), END) for name in ("one", "two")]
    assert main([*map(str, folders), "--png", str(folder / "png")]) == EXIT_OK
    text = (folders[0] / "report.html").read_text(encoding="utf-8")
    return types.SimpleNamespace(
        folders=folders, runs=read_runs(folders), text=text, page=Page(text), png=folder / "png"
    )


def test_page_has_tables_and_each_plot_in_two_sizes(report):
    page = report.page
    assert {a["id"] for a in page.of("figure")} == {f"plot-{key}" for key in PLOTS}
    assert {a["id"] for a in page.of("section") if "id" in a} == {
        "published", "events", "settings",
    }  # fmt: skip
    drawings = [a["aria-label"] for a in page.of("svg") if "aria-label" in a]
    assert sorted(drawings) == sorted(2 * [plot.title for plot in make_plots(report.runs)])
    for unit in ("million samples", "log loss (nats per sample)", "area under the ROC curve",
                 "seconds of run time", "per second", "milliseconds per step", "GiB"):  # fmt: skip
        assert unit in page.text
    assert "all epochs done" in page.text


def test_page_of_run_without_events_explains_empty_plots(tmp_path, rng):
    run = write_run(tmp_path / "run", make_events(rng)[:1])
    page = page_of([run], tmp_path)
    assert not [a for a in page.of("svg") if "aria-label" in a]
    for missing in ("step event", "evaluation event", "memory event", "--step_breakdown"):
        assert missing in page.text


def test_plots_of_two_runs_share_axes_and_have_legends(report):
    for plot in make_plots(report.runs):
        if plot.bars:
            assert [name for name, _ in plot.bars] == ["one", "two"]
            continue
        named = [layer for layer in plot.layers if layer.label is not None]
        for name in ("one", "two"):
            assert [n for n in named if n.label.startswith(name)], (plot.key, name)
        lines = [layer for layer in named if layer.kind == "line"]
        assert len({layer.colour for layer in lines}) == 2
    legends = [a for a in report.page.of("ul") if a.get("class") == "legend"]
    assert len(legends) == len(PLOTS)
    hovered = json.loads(report.page.scripts[0])
    assert [line["name"] for line in hovered] == ["one: AUC", "two: AUC"]
    for line, run in zip(hovered, report.runs):
        assert line["y"] == pytest.approx([e["auc"] for e in run.of("evaluation")], rel=1e-5)


def test_text_of_journal_is_escaped(tmp_path, rng):
    evil = '"></td></script><script>alert(1)</script><img src=x onerror=alert(1)>&amp;$x_1$'
    events = make_events(rng, flags={"data_dir": evil, "--<b>": evil}, phase=evil)[:40]
    events[0]["versions"][evil] = evil
    events.append({"event": "message", "time": 1.0, "text": evil})
    events.append({"event": "checkpoint", "step": 1, "path": evil, "bytes": 1, "seconds": 1.0,
                   "pause_seconds": 0.0})  # fmt: skip
    # Runs with equal folder names are named with their parents, which puts a slash into the names.
    names = ["p</script><img src=x onerror=alert(2)>", "q</script><img src=x onerror=alert(2)>",
             "_$a_{b}$ \"'&lt;"]  # fmt: skip
    folders = [write_run(tmp_path / name, events) for name in names]
    page = page_of(folders, tmp_path)
    assert len(page.of("script")) == len(PLOTS) + 1
    assert not page.of("img") and not page.of("b")
    assert not [a for _, a in page.tags if any(name.startswith("on") for name in a)]
    for text in (evil, *names):
        assert text in page.text
    for script in page.scripts[: len(PLOTS)]:
        json.loads(script)


def test_page_is_self_contained(report):
    page, text = report.page, report.text
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


def test_plots_use_colours_of_page_mode(report):
    drawn = re.findall(r"<svg.*?</svg>", report.text, re.DOTALL)
    assert drawn
    assert not re.findall(r"#[0-9a-f]{6}\b", "".join(drawn))
    used = set(re.findall(r"var\((--[a-z0-9]+)\)", report.text))
    light, dark = (
        dict(re.findall(r"(--[a-z0-9]+): (#[0-9a-f]{6});", block))
        for block in re.findall(r":root \{([^}]*)\}", report.text)
    )
    assert used <= set(light) == set(dark)


def test_pictures_are_not_blank(report):
    files = {path.name for path in report.png.iterdir()}
    assert files == {f"{key}.png" for key in (*PLOTS, "overview")}
    for name in files:
        pixels = matplotlib.image.imread(report.png / name)
        assert min(pixels.shape[:2]) >= 300
        colours = (255 * pixels[..., :3]).astype(np.uint32) @ np.array([1, 2**8, 2**16], np.uint32)
        assert len(np.unique(colours)) > 50


def test_missing_package_is_named(tmp_path, rng, capsys, monkeypatch):
    run = write_run(tmp_path / "run", make_events(rng))
    for name in ("jinja2", "training.telemetry.report.page"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.delattr("training.telemetry.report.page", raising=False)
    monkeypatch.setitem(sys.modules, "jinja2", None)
    assert main([str(run)]) == EXIT_USER_ERROR
    message = capsys.readouterr().err
    assert "jinja2" in message and f"{sys.executable} -m pip install" in message
