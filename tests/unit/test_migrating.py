"""Commands and flags in the documentation: main.py takes every one of them. No TensorFlow."""

import json
import re
import shlex
import subprocess
import sys

import pytest

from tests.support.paths import ROOT
from training.foreign_flags import NAMES, WITHOUT

PAGES = [
    "README.md", "docs/airgap.md", "docs/checkpoints.md", "docs/inference.md",
    "docs/launching.md", "docs/migrating.md", "docs/mlperf.md", "docs/performance.md",
    "docs/training.md",
]  # fmt: skip
LAUNCHERS = ("main.py", "launchers/slurm.sbatch", "launchers/docker.sh")
# Stand in for what a page leaves out (`...`).
ELIDED = ["--data_dir=x", "--global_batch_size=64"]

# Parses each list of arguments as main.py does.
_PARSE = """
import json, sys
from training import cli
from training.config import SETTINGS
from training.runtime.errors import UserError
said, values = [], []
for arguments in json.load(sys.stdin):
    try:
        values.append(cli.parse(["main.py", *arguments]).flags())
        said.append(None)
    except UserError as error:
        said.append(str(error))
        values.append(None)
defaults = {name: found.default for name, found in SETTINGS.items()}
print(json.dumps({"said": said, "values": values, "flags": list(defaults), "defaults": defaults,
                  "tensorflow": "tensorflow" in sys.modules}))
"""


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
            arguments = [*arguments, "--data_dir=/data"]  # which the launcher adds
        found.append(arguments)
    return found


def parse(lists):
    """Returns what the parser says of each list: None, or its error."""
    result = subprocess.run(
        [sys.executable, "-c", _PARSE], cwd=ROOT, input=json.dumps(lists), text=True,
        capture_output=True, timeout=300, check=True,
    )  # fmt: skip
    return json.loads(result.stdout)


@pytest.fixture(scope="module")
def documented():
    """{page: its commands} and what the parser says of all of them, then of two wrong ones."""
    found = {page: commands((ROOT / page).read_text()) for page in PAGES}
    lists = [arguments for page in PAGES for arguments in found[page]]
    wrong = [[*ELIDED, "--max_steps=3"], [*ELIDED, "--qqqq"]]
    return found, lists, parse(lists + wrong)


def test_every_documented_command_is_taken(documented):
    _, lists, told = documented
    refused = {shlex.join(a): e for a, e in zip(lists, told["said"]) if e is not None}
    assert not refused
    assert not told["tensorflow"]


def test_wrong_flags_would_be_seen(documented):
    _, lists, told = documented
    of_another, of_none = told["said"][len(lists) :]
    assert of_another.startswith("unknown flag --max_steps; did you mean --early_stop?")
    assert of_none.startswith("unknown flag --qqqq (")


@pytest.mark.parametrize("page", PAGES)
def test_no_command_is_overlooked(documented, page):
    # Every line that starts our main.py with a flag of its own.
    begun = re.findall(r"python3 main\.py[ \n]--(?!help)\w", (ROOT / page).read_text())
    assert len(documented[0][page]) >= len(begun) > 0


@pytest.mark.parametrize("name", ["mlperf-v0.7-nvidia", "iluvatar"])
def test_the_long_command_says_what_the_flagfile_does(documented, name):
    found, lists, told = documented
    written = found["docs/migrating.md"]
    short = written.index(["--data_dir=$DATA", f"--flagfile=configs/{name}.flags"])
    values = [told["values"][lists.index(written[i])] for i in (short - 1, short)]
    assert values[0] == values[1]


def rows():
    """Returns (flags there, what stands for them here) of the tables of flags."""
    text = (ROOT / "docs/migrating.md").read_text()
    tables = re.findall(r"^\| theirs \| ours \| difference \|\n.*?\n\n", text + "\n", re.M | re.S)
    assert len(tables) == 7
    lines = [line for table in tables for line in table.strip().splitlines()[2:]]
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    return [
        ([name.replace("-", "_").lower() for name in re.findall(r"`--([\w-]+)`", there)], here)
        for there, here, *_ in cells
    ]


def test_tables_of_flags_and_the_hints_agree(documented):
    known = set(documented[2]["flags"])
    hinted, without = set(), set()
    for there, here in rows():
        ours = re.findall(r"`--([\w=-]+)`", here)
        assert {name.split("=")[0] for name in ours} <= known
        if here == "none":
            assert not set(there) & known
            assert set(there) <= set(WITHOUT), there
            without |= set(there)
            continue
        assert ours
        for name in there:
            assert NAMES.get(name, name).split("=")[0] == ours[0].split("=")[0], name
            hinted.add(name)
    assert set(NAMES) <= hinted
    assert set(WITHOUT) == without
    assert not set(NAMES) & known


def test_every_flag_named_in_passing_is_ours_or_explained(documented):
    text = (ROOT / "docs/migrating.md").read_text()
    tools = {"frequency_threshold", "max_table_rows", "train_days", "test_day", "dense_log",
             "dense_transform", "dense_type", "negatives"}  # fmt: skip
    theirs = {name for there, _ in rows() for name in there}
    prose = re.sub(r"^```\n.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    named = {name.replace("-", "_").lower() for name in re.findall(r"--([a-zA-Z][\w-]*)", prose)}
    assert named <= set(documented[2]["flags"]) | tools | theirs
