"""Files that a configuration names: expanded, found beside it, kept absolute."""

import os
import re

import pytest
import yaml

from byzdist.config.reading import dump, load, parse
from byzdist.errors import ConfigError
from tests.support.cases import BASE
from tests.unit.problem.data.test_data import LINES


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home and a working folder that are elsewhere than the configuration, each with a file of its own."""
    for folder in ("home", "here", "configs"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / f"{folder}.svm").write_text(LINES)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("DATA", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path


@pytest.mark.parametrize(
    "written, found",
    [
        ("~/home.svm", "home/home.svm"),
        ("$HOME/home.svm", "home/home.svm"),
        ("${DATA}/home.svm", "home/home.svm"),
        ("$DATA/../configs/configs.svm", "configs/configs.svm"),
        ("here.svm", "here/here.svm"),
        ("./here.svm", "here/here.svm"),
        ("configs.svm", "configs/configs.svm"),
        ("../home/home.svm", "home/home.svm"),
        ("$UNKNOWN/x.svm", None),
        ("nowhere.svm", None),
        ("~nobody-of-that-name/x", None),
        ("x" * 5000, None),
    ],
)
def test_paths_are_expanded_and_found_beside_the_configuration_and_kept_absolute(home, written, found):
    path = home / "configs" / "config.yaml"
    for override in (False, True):
        section = {"name": "libsvm", "path": "home.svm" if override else written, "test_path": "~/home.svm"}
        path.write_text(yaml.safe_dump(BASE | {"data": section}))
        overrides = [f"data.path={written}"] if override else []
        if found is None:
            with pytest.raises(ConfigError, match=re.escape(written[:20])):
                load(path, overrides)
            continue
        config = load(path, overrides)
        assert config.data.parameters["path"] == str(home / found) and config.data.parameters["test_path"] == str(
            home / "home" / "home.svm"
        )
        assert str(home / found) in dump(config) and found not in dump(config, paths=False)
        (home / "again.yaml").write_text(dump(config))
        assert load(home / "again.yaml") == config


def test_where_the_user_stands_comes_before_the_configurations_folder(home):
    (home / "configs" / "here.svm").write_text(LINES)
    (home / "configs" / "config.yaml").write_text(
        yaml.safe_dump(BASE | {"data": {"name": "libsvm", "path": "here.svm"}})
    )
    assert load(home / "configs" / "config.yaml").data.parameters["path"] == str(home / "here" / "here.svm")


def test_other_words_that_look_like_paths_are_left(home):
    (home / "here" / "digits").write_text("")
    tree = BASE | {"name": "here.svm", "data": {"name": "digits"}, "model": {"name": "mlp", "hidden": [3]}}
    (home / "configs" / "config.yaml").write_text(yaml.safe_dump(tree))
    assert load(home / "configs" / "config.yaml") == parse(tree)


def test_traces_are_found_likewise(home):
    (home / "configs" / "trace.txt").write_text("0 1 2\n3 4 5\n")
    clients = {"clients": {**BASE["clients"], "availability": {"name": "trace", "path": "trace.txt"}}}
    (home / "configs" / "config.yaml").write_text(yaml.safe_dump(BASE | clients))
    assert load(home / "configs" / "config.yaml").clients.availability.parameters["path"] == str(
        home / "configs" / "trace.txt"
    )


@pytest.mark.parametrize(
    "content, complaint",
    [(b"0 1\xff", "more than client ids"), (b"99999999999999999999", "more than"), (b"", "empty"), (None, "FIFO")],
)
def test_a_trace_that_is_none_is_refused(home, content, complaint):
    path = home / "trace"
    os.mkfifo(path) if content is None else path.write_bytes(content)
    with pytest.raises(ConfigError, match=rf"availability\.path: .*{complaint}"):
        parse(BASE | {"clients": {**BASE["clients"], "availability": {"name": "trace", "path": str(path)}}})
