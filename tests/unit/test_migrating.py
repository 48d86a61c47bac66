"""Commands and flags in the documentation: the parser of main.py accepts every one of them."""

import re
import shlex

import pytest

from tests.support.paths import ROOT
from training import cli
from training.config import SETTINGS
from training.foreign_flags import NAMES, WITHOUT
from training.runtime.errors import UserError

PAGES = [
    "README.md", "docs/airgap.md", "docs/checkpoints.md", "docs/inference.md",
    "docs/launching.md", "docs/migrating.md", "docs/mlperf.md", "docs/performance.md",
    "docs/training.md",
]  # fmt: skip
LAUNCHERS = ("main.py", "launchers/slurm.sbatch", "launchers/docker.sh")
# Replaces what a page leaves out (`...`).
ELIDED = ["--data_dir=x", "--global_batch_size=64"]
KNOWN = {*SETTINGS, *(found.alias for found in SETTINGS.values() if found.alias)}
ALIASES = {found.alias: name for name, found in SETTINGS.items() if found.alias}


def commands(text):
    """Returns the arguments of every command of a page that starts main.py, flags alone."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    prose = re.sub(r"^```\w*\n.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    lines += [span.replace("\n", " ") for span in re.findall(r"`([^`]+)`", prose)]
    found = []
    for line in lines:
        if not any(name in line for name in LAUNCHERS):
            continue
        words = shlex.split(line.removeprefix("$ "))
        starts = [i for i, word in enumerate(words) if word in LAUNCHERS]
        if not starts or words[0] == "kubectl":
            continue
        arguments = words[starts[-1] + 1 :]
        ends = [i for i, word in enumerate(arguments) if word in ("|", "&&", ";", ">", "#")]
        arguments = arguments[: min(ends, default=len(arguments))]
        if not any(word.startswith("--") for word in arguments) or "--help" in arguments:
            continue
        if any("..." in word for word in arguments):
            arguments = [word for word in arguments if "..." not in word] + ELIDED
        elif words[starts[-1]] == "launchers/docker.sh":
            arguments = [*arguments, "--data_dir=/data"]  # The launcher adds it.
        found.append(arguments)
    return found


@pytest.mark.parametrize("page", PAGES)
def test_documented_commands_parse(page, monkeypatch):
    monkeypatch.chdir(ROOT)
    text = (ROOT / page).read_text()
    found = commands(text)
    for arguments in found:
        try:
            cli.parse(["main.py", *arguments])
        except UserError as error:
            pytest.fail(f"{shlex.join(arguments)}: {error}")
    # Every line that starts our main.py with a flag is among them.
    begun = re.findall(r"python3 main\.py[ \n]--(?!help)\w", text)
    assert len(found) >= len(begun) > 0


@pytest.mark.parametrize("name", ["mlperf-v0.7-nvidia", "iluvatar"])
def test_documented_command_equals_its_flagfile(name, monkeypatch):
    monkeypatch.chdir(ROOT)
    written = commands((ROOT / "docs/migrating.md").read_text())
    short = written.index(["--data_dir=$DATA", f"--flagfile=configs/{name}.flags"])
    long_form, flagfile = (
        cli.parse(["main.py", *written[index]]).flags() for index in (short - 1, short)
    )
    assert long_form == flagfile


def rows():
    """Returns (flags there, our flags) of the tables of flags."""
    text = (ROOT / "docs/migrating.md").read_text()
    tables = re.findall(r"^\| theirs \| ours \| difference \|\n.*?\n\n", text + "\n", re.M | re.S)
    assert len(tables) == 7
    lines = [line for table in tables for line in table.strip().splitlines()[2:]]
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    return [
        ([name.replace("-", "_").lower() for name in re.findall(r"`--([\w-]+)`", there)], here)
        for there, here, *_ in cells
    ]


def test_tables_of_flags_equal_the_hints():
    hinted, without = set(), set()
    for there, here in rows():
        ours = re.findall(r"`--([\w=-]+)`", here)
        assert {name.split("=")[0] for name in ours} <= KNOWN
        if here == "none":
            assert not set(there) & KNOWN
            assert set(there) <= set(WITHOUT), there
            without |= set(there)
            continue
        assert ours
        for name in there:
            expected = NAMES.get(name, ALIASES.get(name, name))
            assert expected.split("=")[0] == ours[0].split("=")[0], name
            hinted.add(name)
    assert set(NAMES) <= hinted
    assert set(WITHOUT) == without


def test_flags_in_prose_exist():
    text = (ROOT / "docs/migrating.md").read_text()
    tools = {"frequency_threshold", "max_table_rows", "train_days", "test_day", "dense_log",
             "dense_transform", "dense_type", "negatives"}  # fmt: skip
    theirs = {name for there, _ in rows() for name in there}
    prose = re.sub(r"^```\n.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    named = {name.replace("-", "_").lower() for name in re.findall(r"--([a-zA-Z][\w-]*)", prose)}
    assert named <= KNOWN | tools | theirs
