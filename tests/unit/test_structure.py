"""Which package may import which, and that no imports run in a circle."""

import ast

import pytest

from tests.support.paths import ROOT

# {package: the project's packages that it may import, besides itself}.
MAY_IMPORT = {
    "storage": set(),
    "ops": set(),
    "dataset": {"ops", "storage"},
    "model": {"ops", "storage"},
    "planner": {"ops", "model", "storage"},
    "training": {"planner", "model", "dataset", "ops", "storage"},
}


def modules():
    """Returns {name: path} of the product's modules."""
    paths = [path for package in MAY_IMPORT for path in (ROOT / package).rglob("*.py")]
    names = {}
    for path in paths:
        parts = path.relative_to(ROOT).with_suffix("").parts
        names[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return names


class _Imports(ast.NodeVisitor):
    """Collects import statements, except those for type checkers alone: they do not run."""

    def __init__(self):
        self.found = []

    def visit_Import(self, node):
        self.found.append(node)

    visit_ImportFrom = visit_Import

    def visit_If(self, node):
        if ast.unparse(node.test) != "TYPE_CHECKING":
            self.generic_visit(node)


def imports(path, known):
    """Yields the name of each module of the project that a file imports."""
    visitor = _Imports()
    visitor.visit(ast.parse(path.read_text(encoding="utf-8")))
    for node in visitor.found:
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            both = [f"{node.module}.{alias.name}" for alias in node.names]
            found = [name if name in known else node.module for name in both]
        else:
            continue
        for name in found:
            if name.split(".")[0] in MAY_IMPORT:
                yield name


MODULES = modules()


@pytest.mark.parametrize("package", sorted(MAY_IMPORT))
def test_package_imports_only_what_it_may(package):
    wrong = {
        f"{name} imports {found}"
        for name, path in MODULES.items()
        if name.split(".")[0] == package
        for found in imports(path, MODULES)
        if found.split(".")[0] not in {package, *MAY_IMPORT[package]}
    }
    assert not wrong


def test_no_imports_in_a_circle():
    """Imports within functions included: they hide a circle, they do not remove it."""
    graph = {name: {*imports(path, MODULES)} - {name} for name, path in MODULES.items()}
    done, path, circles = set(), [], []

    def visit(name):
        if name in path:
            circles.append(" -> ".join([*path[path.index(name) :], name]))
            return
        if name in done:
            return
        path.append(name)
        for found in sorted(graph.get(name, ())):
            visit(found)
        path.pop()
        done.add(name)

    for name in sorted(graph):
        visit(name)
    assert not circles


@pytest.mark.parametrize("package", ["planner", "storage"])
def test_package_does_not_import_tensorflow(package):
    wrong = [
        name
        for name, path in MODULES.items()
        if name.split(".")[0] == package and "import tensorflow" in path.read_text("utf-8")
    ]
    assert not wrong


def _uses_keras(node):
    if isinstance(node, ast.Import):
        return any("keras" in alias.name.split(".") for alias in node.names)
    if isinstance(node, ast.ImportFrom):
        return "keras" in (node.module or "").split(".")
    return isinstance(node, ast.Attribute) and node.attr == "keras"


def test_the_product_uses_no_keras():
    """Keras 2 and 3 differ, and TensorFlow starts faster without either."""
    wrong = [
        f"{name}, line {node.lineno}"
        for name, path in MODULES.items()
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if _uses_keras(node)
    ]
    assert not wrong
