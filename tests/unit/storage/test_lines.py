import json

import pytest

from byzdist.errors import ConfigError
from byzdist.storage.lines import read_lines


def read(folder, text):
    (folder / "metrics.jsonl").write_text(text, encoding="utf-8")
    return read_lines(folder)


def test_each_line_is_a_round(tmp_path):
    assert read(tmp_path, '{"round": 0}\n{"round": 1, "loss": NaN}\n')[0] == {"round": 0}


@pytest.mark.parametrize("rest", ["", "{", '{"round": 1, "lo'])
def test_a_last_line_that_a_kill_has_cut_short_is_left_out(tmp_path, rest):
    assert read(tmp_path, '{"round": 0}\n' + rest) == [{"round": 0}]


def test_a_line_separator_inside_a_text_does_not_end_the_line(tmp_path):
    line = {"round": 0, "news": ["first\u2028second\x85third"]}
    assert read(tmp_path, json.dumps(line, ensure_ascii=False) + "\n") == [line]


@pytest.mark.parametrize("line", ["x", "", "[1]", "3", '{"loss": 1}', '{"round": "1"}', '{"round": true}'])
def test_what_no_run_writes_is_refused_with_the_lines_number(tmp_path, line):
    with pytest.raises(ConfigError, match=r"metrics\.jsonl: line 2 is not a metrics line"):
        read(tmp_path, f'{{"round": 0}}\n{line}\n{{"round": 2}}\n')


def test_a_missing_file_is_a_users_mistake(tmp_path):
    with pytest.raises(ConfigError, match="not what a run writes"):
        read_lines(tmp_path)
