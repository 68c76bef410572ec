"""The examples in docstrings run, each from its own imports, and every interface that people implement has one."""

import doctest
import importlib
from pathlib import Path

import pytest

import byzdist
from byzdist.config.settings import KINDS

INTERFACES = {
    "byzdist.aggregation.rules",
    "byzdist.attacks.base",
    "byzdist.compression.base",
    "byzdist.methods.base",
    "byzdist.methods.schedules",
    "byzdist.methods.server_optimizers",
    "byzdist.participation",
    "byzdist.problem.data.base",
    "byzdist.problem.data.splits",
    "byzdist.problem.models.base",
    "byzdist.problem.task",
}


def with_examples():
    """Return the names of the modules whose text has examples; nothing is imported for that."""
    package = Path(byzdist.__file__).parent
    files = [path for path in package.rglob("*.py") if ">>>" in path.read_text(encoding="utf-8")]
    return sorted(".".join(path.relative_to(package.parent).with_suffix("").parts) for path in files)


WITH_EXAMPLES = with_examples()


def test_every_interface_has_an_example():
    assert set(WITH_EXAMPLES) >= INTERFACES


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_examples_do_what_they_show_and_register_nothing(name):
    module = importlib.import_module(name)
    before = [list(kind.registry) for kind in KINDS.values()]
    examples = [test for test in doctest.DocTestFinder().find(module, globs={}) if test.examples]
    assert examples, "its examples are in no docstring"
    said = []
    for test in examples:
        doctest.DocTestRunner().run(test, out=said.append)
    assert not said, "".join(said)
    assert [list(kind.registry) for kind in KINDS.values()] == before
