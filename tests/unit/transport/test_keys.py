"""The secret of a run, and the workers' keys: where they come from, and that they are refused where others can read them."""

import os
from pathlib import Path

import pytest

from byzdist.cli.main import main
from byzdist.errors import ConfigError
from byzdist.transport import keys
from byzdist.transport.keys import own_key, worker_key

SECRET = b"0123456789abcdef"
KEY = worker_key(SECRET, 3)


def test_the_secret_comes_from_a_file_first_then_from_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text("from the file, long enough\n")
    file.chmod(0o600)
    variables = {"BYZDIST_SECRET": "from the environment"}
    assert keys.run_secret(variables) == b"from the environment"
    assert keys.run_secret({**variables, "BYZDIST_SECRET_FILE": str(file)}) == b"from the file, long enough"


def test_a_bad_secret_is_refused_with_the_remedy(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    with pytest.raises(ConfigError, match=r"BYZDIST_SECRET_FILE: cannot read .*: No such file"):
        keys.run_secret({"BYZDIST_SECRET_FILE": str(file)})
    file.write_text("long enough a secret")
    file.chmod(0o640)
    with pytest.raises(ConfigError, match=r"others can read .*; chmod 600"):
        keys.run_secret({"BYZDIST_SECRET_FILE": str(file)})
    with pytest.raises(ConfigError, match=r"BYZDIST_SECRET: a secret of 3 bytes can be guessed; give at least 16"):
        keys.run_secret({"BYZDIST_SECRET": "abc"})
    with pytest.raises(ConfigError, match=r"BYZDIST_SECRET: the star transport needs a run secret"):
        keys.run_secret({"WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2"})


def test_ranks_on_one_machine_share_a_file_of_their_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BYZDIST_CACHE", str(tmp_path / "cache"))
    variables = {"WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "4"}
    secret = keys.run_secret(variables)
    assert len(secret) == 64
    assert keys.run_secret(variables) == secret
    assert os.listdir(tmp_path / "cache") == ["secret"]
    assert (tmp_path / "cache" / "secret").stat().st_mode & 0o777 == 0o600


def test_a_secret_that_a_cluster_mounts_may_reach_its_user_through_the_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "secret"
    file.write_text("long enough a secret")
    monkeypatch.setattr(os, "getuid", lambda: file.stat().st_uid + 1)
    variables = {"BYZDIST_SECRET_FILE": str(file)}
    file.chmod(0o440)
    assert keys.run_secret(variables) == b"long enough a secret"
    for mode in (0o460, 0o444):
        file.chmod(mode)
        with pytest.raises(ConfigError, match="others can read"):
            keys.run_secret(variables)


def file(path: Path, text: str, mode: int = 0o600) -> str:
    path.write_text(text)
    path.chmod(mode)
    return str(path)


def test_a_worker_needs_its_own_key_alone(tmp_path: Path) -> None:
    (tmp_path / "keys").mkdir()
    file(tmp_path / "keys" / "worker-3.key", KEY.hex() + "\n")
    pattern = file(tmp_path / "w3", KEY.hex()).replace("w3", "w{rank}")
    for environment in (
        {"BYZDIST_KEY": KEY.hex()},
        {"BYZDIST_KEY_FILE": str(tmp_path / "w3")},
        {"BYZDIST_KEY_FILE": pattern, "BYZDIST_KEY": "0" * 64},  # the file comes first
        {"BYZDIST_KEY_FILE": str(tmp_path / "keys"), "BYZDIST_SECRET": "another secret, unused"},
        {"BYZDIST_SECRET": SECRET.decode()},  # it was given too much
    ):
        assert own_key(3, environment) == KEY, environment


def test_a_bad_key_is_refused_with_the_remedy(tmp_path: Path) -> None:
    for environment, complaint in (
        ({"WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2"}, "BYZDIST_KEY_FILE: a worker .* needs its own key"),
        ({"BYZDIST_KEY": "abc"}, "BYZDIST_KEY: this is not a worker's key"),
        ({"BYZDIST_KEY": "z" * 64}, "BYZDIST_KEY: this is not a worker's key"),
        ({"BYZDIST_KEY_FILE": str(tmp_path)}, "BYZDIST_KEY_FILE: cannot read .*worker-3.key"),
        ({"BYZDIST_KEY_FILE": file(tmp_path / "k", KEY.hex(), 0o644)}, "BYZDIST_KEY_FILE: others can read"),
    ):
        with pytest.raises(ConfigError, match=complaint):
            own_key(3, environment)


def test_the_command_writes_what_server_and_workers_need(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "new" / "keys"
    assert main(["keys", "--workers", "2", "--out", str(folder)]) == 0
    assert str(folder) in capsys.readouterr().out
    assert sorted(os.listdir(folder)) == ["secret", "workers"]
    assert sorted(os.listdir(folder / "workers")) == ["worker-1.key", "worker-2.key"]
    files = [folder / "secret", *(folder / "workers").iterdir()]
    assert {path.stat().st_mode & 0o777 for path in files} == {0o600}
    secret = keys.run_secret({"BYZDIST_SECRET_FILE": str(folder / "secret")})
    before = {path: path.read_bytes() for path in files}
    assert main(["keys", "--workers", "3", "--out", str(folder)]) == 0  # one more; what was there stays
    for rank in (1, 2, 3):
        assert own_key(rank, {"BYZDIST_KEY_FILE": str(folder / "workers")}) == worker_key(secret, rank)
    assert before == {path: path.read_bytes() for path in files}
    file(folder / "workers" / "worker-1.key", KEY.hex())
    assert main(["keys", "--workers", "2", "--out", str(folder)]) == 2
    assert "worker-1.key' is of another secret" in capsys.readouterr().err


def test_keys_are_written_through_no_link_that_somebody_has_planted(tmp_path: Path) -> None:
    folder, target = tmp_path / "keys", tmp_path / "theirs"
    (folder / "workers").mkdir(parents=True)
    (folder / "workers" / "worker-1.key").symlink_to(target)
    with pytest.raises(ConfigError):
        keys.write_keys(folder, 1)
    assert not target.exists()
