"""The locks pin the groups of pyproject.toml for every supported Python."""

import functools
import sys

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from deploy import locks, requirements

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = requirements.ROOT
ROWS = requirements.supported()


def environment(python):
    return {
        "python_version": python, "python_full_version": f"{python}.0",
        "implementation_name": "cpython", "platform_python_implementation": "CPython",
        "sys_platform": "linux", "platform_system": "Linux", "platform_machine": "x86_64",
        "os_name": "posix",
    }  # fmt: skip


@functools.cache
def requirements_of(tensorflow):
    lines = requirements.lock_path(tensorflow).read_text().splitlines()
    return [Requirement(line) for line in lines if not line.startswith("#")]


def pins_of(tensorflow, python):
    """Returns {package: version} of a lock on one Python; asserts that names are unique."""
    pins = {}
    for requirement in requirements_of(tensorflow):
        if requirement.marker is None or requirement.marker.evaluate(environment(python)):
            (pin,) = requirement.specifier
            assert pin.operator == "==", requirement
            name = canonicalize_name(requirement.name)
            assert name not in pins, f"{name} is pinned twice for Python {python}"
            pins[name] = pin.version
    return pins


def asked_for(tensorflow):
    """Yields the requirements of a lock's groups."""
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]
    left = list(locks.groups(tensorflow))
    while left:
        for line in groups[left.pop()]:
            if isinstance(line, dict):
                left.append(line["include-group"])
            else:
                yield Requirement(line)


def test_exactly_the_supported_tensorflows_have_locks():
    found = {path.name for path in requirements.MATRIX.parent.glob("tensorflow-*.txt")}
    assert found == {requirements.lock_path(version).name for version in ROWS}
    assert requirements.default_tensorflow() in ROWS


@pytest.mark.parametrize("tensorflow", ROWS)
def test_lock_is_up_to_date(tensorflow):
    text = requirements.lock_path(tensorflow).read_text()
    assert text.startswith(locks.header(tensorflow)), (
        "pyproject.toml's dependency groups or locks/matrix.txt have changed since the lock was "
        "written: python3 -m deploy.locks"
    )


@pytest.mark.parametrize("tensorflow, python", [(t, p) for t, row in ROWS.items() for p in row])
def test_lock_satisfies_groups(tensorflow, python):
    pins = pins_of(tensorflow, python)
    for requirement in asked_for(tensorflow):
        if requirement.marker is None or requirement.marker.evaluate(environment(python)):
            version = pins.get(canonicalize_name(requirement.name))
            assert version is not None, f"{requirement.name} is not pinned"
            assert requirement.specifier.contains(version, prereleases=True), requirement
    assert pins["tensorflow"] == pins["tensorflow-cpu"] == tensorflow
    assert ("nvidia-cublas-cu12" in pins) == ("gpu" in locks.groups(tensorflow))
    # pyarrow 26 does not import with NumPy 1, which its metadata does not state.
    numpy, pyarrow = (int(pins[name].partition(".")[0]) for name in ("numpy", "pyarrow"))
    assert numpy >= 2 or pyarrow < 26


def test_unknown_tensorflow_is_rejected(capsys):
    with pytest.raises(SystemExit):
        locks.main(["2.11.0"])
    message = capsys.readouterr().err
    assert "2.11.0" in message and "2.12.1, 2.13.1" in message
