"""The locks pin what pyproject.toml asks for, on every supported Python; no script has a list."""

import re
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


def pins_of(tensorflow, python):
    """Returns {package: version} of a lock on one Python; a package pinned twice is an error."""
    pins = {}
    for line in requirements.lock_path(tensorflow).read_text().splitlines():
        if line.startswith("#"):
            continue
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate(environment(python)):
            (pin,) = requirement.specifier
            assert pin.operator == "==", line
            name = canonicalize_name(requirement.name)
            assert name not in pins, f"{name} is pinned twice for Python {python}"
            pins[name] = pin.version
    return pins


def asked_for(tensorflow):
    """Yields the requirements that a lock answers."""
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]
    left = list(locks.groups(tensorflow))
    while left:
        for line in groups[left.pop()]:
            if isinstance(line, dict):
                left.append(line["include-group"])
            else:
                yield Requirement(line)


def test_each_supported_tensorflow_has_a_lock_and_no_other():
    found = {path.name for path in requirements.MATRIX.parent.glob("tensorflow-*.txt")}
    assert found == {requirements.lock_path(version).name for version in ROWS}
    assert requirements.default_tensorflow() in ROWS


@pytest.mark.parametrize("tensorflow", ROWS)
def test_a_lock_is_of_todays_groups(tensorflow):
    text = requirements.lock_path(tensorflow).read_text()
    assert text.startswith(locks.header(tensorflow)), (
        "pyproject.toml's dependency groups or locks/matrix.txt have changed since the lock was "
        "written: python3 -m deploy.locks"
    )


@pytest.mark.parametrize("tensorflow, python", [(t, p) for t, row in ROWS.items() for p in row])
def test_a_lock_pins_what_the_groups_ask_for(tensorflow, python):
    pins = pins_of(tensorflow, python)
    for requirement in asked_for(tensorflow):
        if requirement.marker is None or requirement.marker.evaluate(environment(python)):
            version = pins.get(canonicalize_name(requirement.name))
            assert version is not None, f"{requirement.name} is not pinned"
            assert requirement.specifier.contains(version, prereleases=True), requirement
    assert pins["tensorflow"] == pins["tensorflow-cpu"] == tensorflow
    assert ("nvidia-cublas-cu12" in pins) == ("gpu" in locks.groups(tensorflow))


def test_no_script_has_pins_of_its_own():
    scripts = [ROOT / "Makefile", ROOT / "bootstrap.sh", ROOT / "setup.py"]
    scripts += [*ROOT.glob("Dockerfile*"), *(ROOT / "deploy").glob("**/Dockerfile*")]
    scripts += [*(ROOT / "deploy").glob("**/*.sh"), *(ROOT / "deploy").glob("**/*.py")]
    assert len(scripts) > 10
    for script in scripts:
        found = re.findall(r"^[^#\n]*\b[\w.-]+==\d[\w.]*", script.read_text(), re.MULTILINE)
        assert not found, f"{script}: {found}"


def test_an_unknown_tensorflow_is_one_line(capsys):
    with pytest.raises(SystemExit):
        locks.main(["2.11.0"])
    assert "TensorFlow 2.11.0: expected one of 2.12.1, 2.13.1" in capsys.readouterr().err


@pytest.mark.parametrize("tensorflow, python", [(t, p) for t, row in ROWS.items() for p in row])
def test_pyarrow_imports_with_the_numpy_beside_it(tensorflow, python):
    """Wheels of pyarrow 26 refuse NumPy 1, and no resolver knows."""
    pins = pins_of(tensorflow, python)
    major = {name: int(pins[name].partition(".")[0]) for name in ("numpy", "pyarrow")}
    assert major["numpy"] >= 2 or major["pyarrow"] < 26, major
