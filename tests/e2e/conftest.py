"""One command server and one set of files for all tests of a worker."""

import numpy as np
import pytest

from tests.e2e import workspace
from tests.e2e.command_server import CommandServer


@pytest.fixture(scope="session")
def server():
    """A `CommandServer`."""
    with CommandServer() as made:
        yield made


@pytest.fixture(scope="session")
def files(server, tmp_path_factory, seed_of):
    """The folder that `workspace.make` writes. Tests must not change it."""
    folder = tmp_path_factory.mktemp("files")
    workspace.make(server, folder, np.random.default_rng(seed_of("files")))
    return folder


@pytest.fixture
def here(files, tmp_path):
    """A copy of `files`, with an empty folder `out` that commands write to."""
    folder = tmp_path / "here"
    workspace.link(files, folder)
    (folder / "out").mkdir()
    return folder
