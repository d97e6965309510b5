"""Which module of the package imports which: without circles, and in one direction."""

import ast
from pathlib import Path

import pytest

import thinc_swa

PACKAGE = Path(thinc_swa.__file__).parent
CORE = ("averaging", "models", "optimizers", "param_groups", "schedules", "serialization")
ON_TOP = ("cli", "comparison", "report", "training")
OPTIONAL = {
    "cupy",
    "filelock",
    "matplotlib",
    "plotly",
    "ray",
    "rich",
    "scipy",
    "sklearn",
    "spacy",
    "torch",
    "typer",
}
# Imported only where there are CuPy arrays.
NEEDS_CUPY = "thinc_swa.averaging.cupy_kernels"


def find_modules():
    """The paths of all modules by their names: {"thinc_swa.optimizers.swa": …}."""
    modules = {}
    for path in PACKAGE.rglob("*.py"):
        parts = ("thinc_swa", *path.relative_to(PACKAGE).with_suffix("").parts)
        modules[".".join(parts).removesuffix(".__init__")] = path
    return modules


MODULES = find_modules()


def imported_names(name, *, at_run_time):
    """Names of what a module imports, also within functions and for type checks.

    at_run_time (bool): Only what is imported as soon as the module is.
    """
    path = MODULES[name]
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]

    def visit(node):
        if isinstance(node, (ast.FunctionDef, ast.Lambda)) and at_run_time:
            return
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")
            base = ".".join(parts[: len(parts) + 1 - node.level]) if node.level else ""
            base = ".".join(filter(None, [base, node.module]))
            for alias in node.names:
                is_module = f"{base}.{alias.name}" in MODULES
                yield f"{base}.{alias.name}" if is_module else base
        for child in ast.iter_child_nodes(node):
            yield from visit(child)

    return set(visit(ast.parse(path.read_text(encoding="utf8"))))


def test_no_circles():
    """Importing a module imports the packages around it first."""
    graph = {
        name: {found for found in imported_names(name, at_run_time=False) if found in MODULES}
        for name in MODULES
    }
    done, path = set(), []

    def visit(name):
        assert name not in path, " -> ".join([*path[path.index(name) :], name])
        if name in done:
            return
        path.append(name)
        for other in sorted(graph[name]):
            visit(other)
        path.pop()
        done.add(name)

    for name in MODULES:
        visit(name)


@pytest.mark.parametrize("name", MODULES)
def test_the_core_knows_nothing_of_trainers_and_commands(name):
    if name.split(".")[1:2] and name.split(".")[1] in CORE:
        above = [f"thinc_swa.{part}" for part in ON_TOP]
        found = imported_names(name, at_run_time=False)
        assert not [other for other in found if other.startswith(tuple(above))]


@pytest.mark.parametrize("name", MODULES)
def test_optional_packages_are_imported_where_they_are_used(name):
    """The core works without them; the command line needs its own."""
    if name != NEEDS_CUPY and name.split(".")[1:2] not in [
        ["cli"],
        ["comparison"],
        ["training"],
    ]:
        found = imported_names(name, at_run_time=True)
        assert not {other.split(".")[0] for other in found} & OPTIONAL
