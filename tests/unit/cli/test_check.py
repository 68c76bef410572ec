"""`byzdist check`: the complete configuration is shown, and what cannot run is refused."""

import yaml

from byzdist.cli.main import main
from byzdist.config.reading import parse
from byzdist.config.yaml_reading import read_yaml
from tests.support.cases import BASE


def test_check_shows_a_complete_configuration_that_runs_again(tmp_path, capsys):
    tree = {key: value for key, value in BASE.items() if key != "evaluate"}
    tree["method"] = {key: value for key, value in BASE["method"].items() if key != "p"}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(tree))
    assert main(["check", str(tmp_path / "config.yaml"), "rounds=7"]) == 0
    text = capsys.readouterr().out
    complete = parse(read_yaml(text, "check"))
    method = complete.method.parameters
    assert complete.rounds == 7 and complete.evaluate.every == 50
    assert method["p"] == min(5 / 9, 8 / 90, 1.0) and method["full_cohort"] == 9
    assert "# clients: 9, 4 of them Byzantine; each holds 90 samples" in text
    assert "# data: 90 samples of 12 features, 2 classes" in text and "# model: 12 parameters in float64" in text
    assert "# rounds: 7; a sampled round asks 5 clients, a full one 9" in text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.yaml"], "it writes nothing"


def test_check_refuses_what_can_be_seen_only_with_the_data(tmp_path, capsys):
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(BASE))
    assert main(["check", str(tmp_path / "config.yaml"), "model=cnn"]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and "'cnn' wants images" in captured.err
