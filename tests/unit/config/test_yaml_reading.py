"""YAML from anybody is read, or refused, in bounded time and memory."""

import resource
import time

import pytest

from byzdist.cli.main import main
from byzdist.config import yaml_reading
from byzdist.config.yaml_reading import MAX_BYTES, read_yaml
from byzdist.errors import ConfigError
from byzdist.reporting.plotting import plot


def bomb(open_, close, refer):
    """Nine levels, each of nine times the one before: 9^9 values where they are written out."""
    levels = [f"a: &a {open_}x: 1{close}" if open_ == "{" else f"a: &a {open_}x{close}"]
    for above, here in zip("abcdefghi", "bcdefghij", strict=True):
        levels.append(f"{here}: &{here} " + refer(above))
    return "\n".join(levels)


HOSTILE = {
    "lists of lists": bomb("[", "]", lambda a: f"[{','.join([f'*{a}'] * 9)}]"),
    "mappings of mappings": bomb("{", "}", lambda a: "{" + ", ".join(f"k{i}: *{a}" for i in range(9)) + "}"),
    "merges of merges": bomb("{", "}", lambda a: f"{{<<: [{','.join([f'*{a}'] * 9)}]}}"),
    "itself": "a: &a [*a]",
    "itself as a value": "a: &a {b: *a}",
    "itself as a merge": "a: &a {<<: *a}",
    "each other": "a: &a [&b [*a, *b]]",
    "a nest": "[" * 100_000,
    "a nest of mappings": "{a: " * 50_000,
    "a nest in blocks": "".join(" " * i + "a:\n" for i in range(1000)),
    "a nest of dashes": "- " * 100_000,
    "a nest of keys": "? " * 100_000,
    "a nest through aliases": "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}]\n" for i in range(1, 200)),
    "too many values": "[" + "1," * 3_000 + "]",
    "too many keys": "\n".join(f"k{i}: 1" for i in range(2000)),
    "too long": "x" * (MAX_BYTES + 1),
    "a long number": "a: " + "9" * 5_000,
    "a long hexadecimal number": "a: 0x" + "f" * 5_000,
    "a long sexagesimal number": "a: " + "1:" * 2_500 + "1",
    "a long exponent": "a: 1e" + "1" * 5_000,
    "code": "!!python/object/apply:os.system ['true']",
    "an odd key": "{[1]: 2}",
    "a mapping for a key": "{{a: 1}: 2}",
    "a key twice": "a: 1\nb: 2\na: 3",
    "a key twice deep down": "a: {b: [{c: 1, c: 2}]}",
    "not a number twice": "{.nan: 1, .nan: 2}",
    "two documents": "a: 1\n---\nb: 2",
    "an alias of nothing": "a: *b",
    "no such day": "a: 9999-99-99",
    "control characters": "a: \x00",
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_hostile_text_is_refused_in_bounded_time_and_memory(text, monkeypatch):
    monkeypatch.setattr(yaml_reading, "_MAX_VALUES", 2_000)  # a second's work less
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    with pytest.raises(ConfigError, match="here: "):
        read_yaml(text, "here")
    assert time.monotonic() - started < 60  # of work that would otherwise not end
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB


def test_long_lists_of_clients_are_read():
    assert len(read_yaml(f"a: [{','.join(['1'] * 3_000)}]", "here")["a"]) == 3_000


HARMLESS = {
    "a long text": ("a: " + "x" * 100_000, lambda found: len(found["a"]) == 100_000),
    "a long comment": ("#" + "x" * 100_000 + "\na: 1", lambda found: found == {"a": 1}),
    "an alias or two": ("a: &a {x: 1}\nb: *a\nc: [*a, *a]", lambda found: found["c"] == [{"x": 1}, {"x": 1}]),
    "a deep merge": (
        "a: &a {x: 1}\nb: &b {<<: *a, y: 2}\nc: {<<: *b, x: 3}",
        lambda found: found["c"] == {"x": 3, "y": 2},
    ),
    "forty levels": ("[" * 40 + "]" * 40, lambda found: len(found) == 1),
}


@pytest.mark.parametrize("name", HARMLESS)
def test_what_a_configuration_may_well_have_is_read(name):
    text, is_right = HARMLESS[name]
    assert is_right(read_yaml(text, "here"))


@pytest.mark.parametrize("name", ["lists of lists", "itself", "too long"])
def test_every_command_that_reads_a_configuration_refuses_it(tmp_path, capsys, name):
    (tmp_path / "config.yaml").write_text(HOSTILE[name])
    (tmp_path / "metrics.jsonl").write_text("")
    for words in (["run", str(tmp_path / "config.yaml")], ["evaluate", str(tmp_path)]):
        assert main(words) == 2
        assert len(capsys.readouterr().err) < 1000
    with pytest.raises(ConfigError):
        plot([tmp_path], tmp_path / "p.png")
    # An override is YAML, too.
    (tmp_path / "config.yaml").write_text("rounds: 1")
    assert main(["run", str(tmp_path / "config.yaml"), f"attack={HOSTILE[name]}"]) == 2


def test_a_huge_file_is_not_read(tmp_path, capsys):
    with (tmp_path / "config.yaml").open("wb") as file:
        file.truncate(1 << 40)
    started = time.monotonic()
    assert main(["run", str(tmp_path / "config.yaml")]) == 2
    assert time.monotonic() - started < 60 and "more than" in capsys.readouterr().err
