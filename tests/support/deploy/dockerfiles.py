"""Reads the instructions of the project's Dockerfiles."""

import re

from tests.support.paths import ROOT

FILES = sorted(ROOT.glob("Dockerfile*"))


def instructions(path):
    """Returns [(name, arguments)] without comments; joins continued lines."""
    lines = [line for line in path.read_text().splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n", " ", "\n".join(lines))
    return [tuple(line.split(maxsplit=1)) for line in joined.splitlines() if line.strip()]


def arguments(path, name):
    """Returns the arguments of all instructions of one name."""
    return [words for found, words in instructions(path) if found == name]
