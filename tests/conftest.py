"""One seed for every random test; fixtures that several folders share."""

import ast
import functools
import hashlib
import secrets

import numpy as np
import pytest

pytest_plugins = [
    "tests.support.dataset.fixtures",
    "tests.support.deploy.fixtures",
    "tests.support.ops.fixtures",
    "tests.support.training.fixtures",
]
# Fixtures that take complete runs to make, and their scope. `make test` runs the files that use one
# on one worker (module: each file, session: all of them), so that it is made once.
EXPENSIVE = {
    "checkpoint": "module", "emulated": "module", "imports": "module", "learnable_run": "session",
    "phase_runs": "module", "served_models": "module", "spark": "module", "step_calls": "module",
    "thirty_steps": "module", "trained": "module", "two_ranks": "module", "undisturbed": "module",
}  # fmt: skip


def pytest_addoption(parser):
    parser.addoption(
        "--seed", type=int, help="seed of every random test; a failed run prints the one it used"
    )
    parser.addoption(
        "--seeds",
        type=int,
        default=1,
        help="run each random test with this many seeds, and make the fixtures that it shares with "
        "others for each (finds outcomes that depend on the seed)",
    )


def pytest_configure(config):
    # Workers take the seed of the process that started them.
    given = getattr(config, "workerinput", {}).get("seed", config.getoption("--seed"))
    config.test_seed = secrets.randbits(32) if given is None else given


def pytest_report_header(config):
    return f"seed: {config.test_seed} (--seed={config.test_seed} draws the same numbers)"


def pytest_generate_tests(metafunc):
    count = metafunc.config.getoption("--seeds")
    if count > 1 and "seed_of" in metafunc.fixturenames:
        names = [f"draw{number}" for number in range(count)]
        metafunc.parametrize("draw", range(count), indirect=True, ids=names, scope="session")


@pytest.fixture(scope="session")
def draw(request):
    """The number of the draw, under `--seeds`; else 0."""
    return getattr(request, "param", 0)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node):
    node.workerinput["seed"] = node.config.test_seed


def pytest_runtest_makereport(item, call):
    if call.excinfo and not call.excinfo.errisinstance(pytest.skip.Exception):
        count = item.config.getoption("--seeds")
        options = f"--seed={item.config.test_seed}" + (f" --seeds={count}" if count > 1 else "")
        item.add_report_section(call.when, "seed", options)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Groups by file: pytest-xdist 3.8 loses the marks of its groups with pytest 9.2."""
    from xdist.scheduler import LoadScopeScheduling

    class Scheduler(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            return _group_of(config.rootpath / nodeid.partition("::")[0]) or nodeid

    return Scheduler(config, log)


@functools.cache
def _group_of(file):
    """Returns the name of the group of a file that uses an expensive fixture, else None."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    used = {argument.arg for argument in ast.walk(tree) if isinstance(argument, ast.arg)}
    groups = [name if scope == "session" else str(file) for name, scope in EXPENSIVE.items()
              if name in used]  # fmt: skip
    return groups[0] if groups else None


@pytest.fixture(scope="session")
def seed_of(request, draw):
    """Returns a function (*names) -> a seed of 32 bits, another for other names.

    For fixtures that several tests share. A test takes `rng` or `seed`.
    """

    def seed(*names):
        text = "/".join(map(str, (request.config.test_seed, draw, *names)))
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "little")

    return seed


@pytest.fixture
def seed(request, seed_of):
    """A seed of 32 bits for this test alone: the same in any order, on any worker."""
    return seed_of(request.node.nodeid)


@pytest.fixture
def rng(seed):
    """A `numpy.random.Generator` for this test alone."""
    return np.random.default_rng(seed)
