"""Imports point one way, from the ground to the command line: no room imports from one that comes after it, and none in a circle."""

import ast
from functools import cache
from pathlib import Path

import byzdist

PACKAGE = Path(byzdist.__file__).parent
# From the ground to the command line. A room is a package or, as `participation`, a module; the ground is the modules named below.
ROOMS = (
    "ground",
    "host",
    "aggregation",
    "integrations",
    "compression",
    "problem",
    "methods",
    "participation",
    "attacks",
    "loggers",
    "config",
    "transport",
    "storage",
    "reporting",
    "runtime",
    "planning",
    "scripting",
    "sweeping",
    "cli",
)
GROUND = {"__init__", "errors", "given", "norms", "randomness", "registry", "rounds", "torch_private", "words"}


def modules(package):
    """Return the files of all modules by their names below the package, which itself is `__init__`."""
    names = {path: path.relative_to(package).with_suffix("").parts for path in package.rglob("*.py")}
    return {".".join(name[:-1] if name[1:] and name[-1] == "__init__" else name): path for path, name in names.items()}


@cache
def imports(package):
    """Return what each module imports of the package, wherever in its text: in functions and for type checks, too."""
    files = modules(package)

    def found(name):
        name = name.removeprefix("byzdist").removeprefix(".") or "__init__"
        while name not in files:  # of `module.name` the module
            name = name.rpartition(".")[0] or "__init__"
        return name

    def imported(path):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                assert not node.level, f"{path}: imports are absolute here"
                yield from (f"{node.module}.{alias.name}" for alias in node.names)

    return {
        name: {found(other) for other in imported(path) if other.split(".")[0] == "byzdist"} - {name}
        for name, path in files.items()
    }


def room(module):
    first = module.split(".")[0]
    return "cli" if first == "__main__" else "ground" if first in GROUND else first


def backward(graph):
    return {
        f"{module} -> {other}"
        for module, others in graph.items()
        for other in others
        if ROOMS.index(room(other)) > ROOMS.index(room(module))
    }


def circles(graph):
    """Return the sets of modules each of which imports, by way of others, all of its set."""

    def reached(module):
        seen, ahead = set(), [module]
        while ahead:
            new = graph[ahead.pop()] - seen
            seen |= new
            ahead += new
        return seen

    reach = {module: reached(module) for module in graph}
    sets = {frozenset(m for m in reach[module] if module in reach[m]) for module in graph if module in reach[module]}
    return sorted(map(set, sets), key=min)


def test_every_module_is_in_a_room():
    there = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert there == (set(ROOMS) - {"ground"}) | GROUND | {"__main__"}


def test_no_room_imports_from_one_that_comes_after_it():
    assert backward(imports(PACKAGE)) == set()


def test_no_modules_import_each_other_in_a_circle():
    assert circles(imports(PACKAGE)) == []


def test_what_points_the_wrong_way_is_found_wherever_it_is_written(tmp_path):
    texts = {
        "__init__": "",
        "errors": "def f():\n    import byzdist.cli.main\n",
        "host/__init__": "",
        "host/files": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from byzdist import cli, errors\n",
        "cli/__init__": "",
        "cli/main": "from byzdist.errors import describe_error\nfrom byzdist.host import files\nimport os, torch.nn\n",
    }
    for name, text in texts.items():
        path = tmp_path / f"{name}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    graph = imports(tmp_path)
    assert graph["cli.main"] == {"errors", "host.files"} and graph["host.files"] == {"cli", "errors"}
    assert backward(graph) == {"errors -> cli.main", "host.files -> cli"}
    assert circles(graph) == [{"cli.main", "errors", "host.files"}]
