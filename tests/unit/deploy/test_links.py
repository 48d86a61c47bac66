"""Run paths for libraries of a bundle, with invented headers."""

import pytest

from deploy.airgap import BundleError, elf, interpreter, links


@pytest.fixture
def tree(tmp_path):
    """Returns a function (name, needed, run path) that adds a file; and all headers so far."""
    (tmp_path / "python" / "lib").mkdir(parents=True)
    headers = {}

    def add(name, *needed, run_path=None, kind="RUNPATH"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        lines = [f"  NEEDED               {name}" for name in needed]
        if run_path:
            lines.append(f"  {kind}              {run_path}")
        headers[path] = f"{path}:     file format elf64-x86-64\n" + "\n".join(lines) + "\n"
        return path

    return add, headers, tmp_path / "python" / "lib"


def test_plan_adds_run_path_to_libraries_of_python(tree):
    add, headers, lib = tree
    add("python/lib/libz.so.1", "libc.so.6")
    user = add("site/numpy.libs/libgfortran.so", "libz.so.1", "libm.so.6", run_path="$ORIGIN")
    without = add("site/b.so", "libz.so.1")
    add("site/c.so", "libz.so.1", run_path="/x:${ORIGIN}/../python/lib", kind="RPATH")
    assert links.plan(headers, lib) == (sorted([user, without]), [])


def test_plan_ignores_libraries_that_are_found(tree):
    add, headers, lib = tree
    add("python/lib/libz.so.1")
    add("site/a.libs/libz.so.1")
    add("site/a.so", "libz.so.1", "libstdc++.so.6", "libcuda.so.1", run_path="$ORIGIN/a.libs")
    add("site/tf/libframework.so.2")
    add("ops/libours.so", "libframework.so.2")
    assert links.plan(headers, lib) == ([], [])


def test_complete_adds_folders_of_file_and_python(tree, tmp_path, monkeypatch):
    add, headers, lib = tree
    add("python/lib/libz.so.1")
    user = add("site/a.libs/liba.so", "libz.so.1", "libneighbour.so")
    add("site/a.libs/libneighbour.so")
    monkeypatch.setattr(elf, "files", lambda folder: sorted(headers))
    monkeypatch.setattr(elf, "headers", lambda paths: {path: headers[path] for path in paths})
    calls = []
    monkeypatch.setattr(interpreter, "set_run_path", lambda *arguments: calls.append(arguments))
    assert links.complete(tmp_path, lib, "patchelf") == [user]
    # A file with a run path no longer inherits its loader's: it needs its own folder as well.
    assert calls == [("patchelf", user, "$ORIGIN:$ORIGIN/../../python/lib", "--add-rpath")]
    other = add("site/b.so", "libgone.so.3")
    with pytest.raises(BundleError) as caught:
        links.complete(tmp_path, lib, "patchelf")
    assert caught.value.found == [(other, "libgone.so.3")]
