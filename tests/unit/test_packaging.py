"""What the package declares about itself is true."""

import ast
import re
import sys
from functools import cache
from importlib.metadata import metadata, packages_distributions, requires, version
from importlib.resources import files
from pathlib import Path

import pytest
import yaml

import byzdist
from byzdist.errors import ConfigError
from byzdist.loggers import LOGGERS
from byzdist.reporting.plotting import plot

ROOT = Path(__file__).parents[2]
SOURCES = sorted(Path(byzdist.__file__).parent.rglob("*.py"))


def normal(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def declared(extra=None):
    """Return the distributions that the package asks for, or those of an extra alone."""
    asked = [re.match(r"([\w.-]+)(?:.*extra == ['\"](\w+)['\"])?", line).groups() for line in requires("byzdist")]
    return {normal(name) for name, of in asked if of == extra}


@cache
def imported():
    """Return the distributions whose modules are imported, each with the files that do so."""
    found, owners = {}, packages_distributions()
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and not node.level else []
            for module in {name.partition(".")[0] for name in names} - sys.stdlib_module_names - {"byzdist"}:
                (distribution,) = set(owners.get(module, [module]))  # Flower and NVFlare may not be installed
                found.setdefault(normal(distribution), set()).add(path.name)
    return found


def test_what_is_imported_is_declared_and_what_is_declared_is_imported():
    pictures = {"plotting.py", "results.py", "panels.py", "heat.py", "timeline.py", "svg.py"}
    extras = {"plot": pictures, "flower": {"flower.py"}, "nvflare": {"nvflare.py"}}
    for extra, files_of in extras.items():
        (distribution,) = declared(extra)
        assert imported()[distribution] == files_of
    assert set(imported()) - set().union(*map(declared, extras)) == declared()


def test_the_version_is_written_once_and_repeated_where_others_read_it():
    assert version("byzdist") == byzdist.__version__
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == byzdist.__version__


def test_pre_commit_checks_what_ci_checks():
    (local,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    hooks = {hook["name"]: hook for hook in local["hooks"]}
    commands = re.sub(r'"\$venv/bin/([\w-]+)"', r"\1", (ROOT / ".ci" / "run").read_text())
    tools = [re.match(r"\.venv/bin/(\w+(?: check| format)?)", hook["entry"])[1] for hook in hooks.values()]
    assert tools == list(hooks) == re.findall(r"^(ruff check|ruff format|mypy|shellcheck)\b", commands, re.MULTILINE)
    patterns = re.search(r"^shellcheck .* --source-path=SCRIPTDIR (.*)", commands, re.MULTILINE)[1].split()
    files = {str(path.relative_to(ROOT)) for pattern in patterns for path in ROOT.glob(pattern)}
    scripts = [ROOT / ".ci", ROOT / "docker", ROOT / "launch"]
    there = {str(path.relative_to(ROOT)) for folder in scripts for path in folder.rglob("*") if path.is_file()}
    assert {name for name in there if re.search(hooks["shellcheck"]["files"], name)} == files != set()


def test_the_license_is_an_spdx_expression():
    assert metadata("byzdist")["License-Expression"] == "MIT" and metadata("byzdist")["License"] is None


def test_what_new_writes_comes_along():
    assert {"config.yaml", "mine.py", "quickstart.yaml"} <= {
        path.name for path in (files("byzdist") / "cli" / "new").iterdir()
    }


def test_the_pythons_that_are_tried_are_those_that_are_declared():
    known = {line.rpartition(" ")[2] for line in metadata("byzdist").get_all("Classifier") if ":: 3." in line}
    (tried,) = re.findall(r"^for version in (.*); do$", (ROOT / ".ci" / "versions").read_text(), re.MULTILINE)
    assert known == set(tried.split()) == {"3.10", "3.11", "3.12", "3.13"}
    assert metadata("byzdist")["Requires-Python"] == ">=3.10"
    assert re.search(r"^\.ci/versions$", (ROOT / ".ci" / "run").read_text(), re.MULTILINE)


def test_the_newest_torch_that_is_tried_is_within_the_bounds():
    (line,) = (line for line in requires("byzdist") if re.match(r"torch\b", line))
    (newest,) = re.findall(r"^newest_torch=(\S+)$", (ROOT / ".ci" / "versions").read_text(), re.MULTILINE)
    least, bound = (tuple(map(int, re.search(rf"{sign}([\d.]+)", line)[1].split("."))) for sign in (">=", "<"))
    assert least <= tuple(map(int, newest.split(".")))[:2] < bound


def test_what_serves_one_thing_is_an_extra():
    (written,) = re.findall(
        r"^\[project.optional-dependencies\]\n(.*?)^\[", (ROOT / "pyproject.toml").read_text(), re.M | re.S
    )
    extras = set(re.findall(r"^(\w+) = \[", written, re.M))
    assert {"plot", "dev", "docs", "benchmark", "flower", "nvflare"} | set(LOGGERS) <= extras
    assert declared("benchmark") == {"byzfl"} and not {"byzfl", "matplotlib", "pandas"} & declared()
    assert {"scipy", "numpy", "torch"} <= declared()


def test_the_sdist_has_tests_and_configurations():
    grafted = set(re.findall(r"^graft (\S+)$", (ROOT / "MANIFEST.in").read_text(), re.MULTILINE))
    assert {"tests", "configs", "launch", "docs", ".ci"} <= grafted and all((ROOT / name).is_dir() for name in grafted)


def test_torch_has_an_upper_bound():
    (line,) = (line for line in requires("byzdist") if re.match(r"torch\b", line))
    assert re.search(r"<\d", line), "private names are used (byzdist/torch_private.py), which the next release may drop"


def test_a_picture_without_matplotlib_is_refused_with_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ConfigError, match=r"pictures need matplotlib .*pip install 'byzdist\[plot\]'"):
        plot([tmp_path], tmp_path / "x.png")
