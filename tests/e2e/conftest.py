"""One server, and one set of files, for all tests of a process."""

import pytest

from tests.e2e import workspace
from tests.e2e.command_server import CommandServer


@pytest.fixture(scope="session")
def server():
    """A `CommandServer`."""
    with CommandServer() as made:
        yield made


@pytest.fixture(scope="session")
def files(server, tmp_path_factory):
    """What `workspace.make` writes; not to be changed."""
    folder = tmp_path_factory.mktemp("files")
    workspace.make(server, folder)
    return folder


@pytest.fixture
def here(files, tmp_path):
    """The files once more, with an empty folder `out` for what a command writes."""
    folder = tmp_path / "here"
    workspace.link(files, folder)
    (folder / "out").mkdir()
    return folder
