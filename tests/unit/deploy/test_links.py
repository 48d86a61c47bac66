"""Which library finds which within a bundle, on headers written here."""

import pytest

from deploy.airgap import elf, links


@pytest.fixture
def tree(tmp_path):
    """Returns a function (name, needed, run path) that adds a file; and all headers so far."""
    (tmp_path / "python" / "lib").mkdir(parents=True)
    told = {}

    def add(name, *needed, run_path=None, kind="RUNPATH"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        lines = [f"  NEEDED               {name}" for name in needed]
        if run_path:
            lines.append(f"  {kind}              {run_path}")
        told[path] = f"{path}:     file format elf64-x86-64\n" + "\n".join(lines) + "\n"
        return path

    return add, told, tmp_path / "python" / "lib"


def test_finds_what_the_python_brought(tree):
    add, told, lib = tree
    add("python/lib/libz.so.1", "libc.so.6")
    user = add("site/numpy.libs/libgfortran.so", "libz.so.1", "libm.so.6", run_path="$ORIGIN")
    without = add("site/b.so", "libz.so.1")
    add("site/c.so", "libz.so.1", run_path="/x:${ORIGIN}/../python/lib", kind="RPATH")
    assert links.plan(told, lib) == (sorted([user, without]), [])


def test_leaves_alone_what_is_found(tree):
    add, told, lib = tree
    add("python/lib/libz.so.1")
    add("site/a.libs/libz.so.1")
    add("site/a.so", "libz.so.1", "libstdc++.so.6", "libcuda.so.1", run_path="$ORIGIN/a.libs")
    add("site/tf/libframework.so.2")
    add("ops/libours.so", "libframework.so.2")
    assert links.plan(told, lib) == ([], [])


def test_names_what_is_nowhere(tree):
    add, told, lib = tree
    first = add("site/a.so", "libgone.so.3", "libc.so.6", "libm.so.6.1")
    second = add("site/b.so", "libgone.so.3", run_path="$ORIGIN")
    assert links.plan(told, lib) == (
        [],
        [(first, "libgone.so.3"), (second, "libgone.so.3")],
    )


def test_a_changed_file_keeps_its_own_folder(tree, tmp_path, monkeypatch):
    """Without it, a library would lose the neighbours that its loader's path had led it to."""
    add, told, lib = tree
    add("python/lib/libz.so.1")
    user = add("site/a.libs/liba.so", "libz.so.1", "libneighbour.so")
    add("site/a.libs/libneighbour.so")
    monkeypatch.setattr(elf, "files", lambda folder: sorted(told))
    monkeypatch.setattr(elf, "headers", lambda paths: {path: told[path] for path in paths})
    patchelf = tmp_path / "patchelf"
    patchelf.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" >{tmp_path}/asked\n')
    patchelf.chmod(0o755)
    assert links.complete(tmp_path, lib, patchelf) == [user]
    asked = (tmp_path / "asked").read_text().splitlines()
    assert asked == ["--add-rpath", "$ORIGIN:$ORIGIN/../../python/lib", str(user)]
    add("site/b.so", "libgone.so.3")
    with pytest.raises(RuntimeError, match=r"lacks 1 libraries:\n  .*b\.so needs libgone\.so\.3"):
        links.complete(tmp_path, lib, patchelf)
