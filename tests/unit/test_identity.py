"""The secret, the keys, and the proofs of both ends."""

import hmac
import os
from pathlib import Path

import pytest

from byzdist.errors import ConfigError
from byzdist.transport import identity
from byzdist.transport.identity import IdentityError, ServerSide, WorkerSide, seal, unseal, worker_key

SECRET = b"0123456789abcdef"
KEY = worker_key(SECRET, 1)


def test_both_ends_agree_on_a_session() -> None:
    worker = WorkerSide(KEY)
    server = ServerSide(KEY, worker.hello)
    proof, session = worker.prove(server.answer)
    assert server.accept(proof) == session
    assert worker.name == server.name
    assert session not in (proof, KEY) and len(session) == 32


def test_the_proof_is_the_hmac_it_is_said_to_be() -> None:
    worker = WorkerSide(KEY)
    server = ServerSide(KEY, worker.hello)
    proof, _ = worker.prove(server.answer)
    nonces = worker.hello[:16] + server.answer[:16]
    assert proof == hmac.new(KEY, b"proof\0" + nonces, "sha256").digest()
    assert KEY == hmac.new(SECRET, b"worker\x001", "sha256").digest()


@pytest.mark.parametrize("key", [worker_key(SECRET, 2), worker_key(b"another secret..", 1)])
def test_another_rank_or_another_secret_is_found_out_at_every_step(key: bytes) -> None:
    worker, stranger = WorkerSide(KEY), WorkerSide(key)
    with pytest.raises(IdentityError, match="hello"):
        ServerSide(KEY, stranger.hello)
    with pytest.raises(IdentityError, match="answer"):
        worker.prove(ServerSide(key, stranger.hello).answer)
    server = ServerSide(KEY, worker.hello)
    proof, _ = stranger.prove(ServerSide(key, stranger.hello).answer)
    with pytest.raises(IdentityError, match="proof"):
        server.accept(proof)


def test_nothing_overheard_can_be_played_back_or_reflected() -> None:
    worker = WorkerSide(KEY)
    server = ServerSide(KEY, worker.hello)
    proof, session = worker.prove(server.answer)
    again = ServerSide(KEY, worker.hello)  # the hello played back
    with pytest.raises(IdentityError):
        again.accept(proof)
    with pytest.raises(IdentityError):
        WorkerSide(KEY).prove(server.answer)
    with pytest.raises(IdentityError):
        server.accept(server.answer[16:])
    assert identity.confirmation(session, "server") != identity.confirmation(session, "worker")


@pytest.mark.parametrize("text", [b"", b"short", bytes(16), bytes(48), bytes(200)])
def test_random_bytes_are_no_step_of_an_exchange(text: bytes) -> None:
    worker = WorkerSide(KEY)
    with pytest.raises(IdentityError):
        ServerSide(KEY, text)
    with pytest.raises(IdentityError):
        worker.prove(text)
    with pytest.raises(IdentityError):
        ServerSide(KEY, worker.hello).accept(text)
    with pytest.raises(IdentityError):
        unseal(KEY, text)


def test_a_note_is_the_servers_own() -> None:
    sealed = seal(KEY, "the run is over")
    assert unseal(KEY, sealed) == "the run is over"
    with pytest.raises(IdentityError):
        unseal(worker_key(SECRET, 2), sealed)
    with pytest.raises(IdentityError):
        unseal(KEY, sealed[:-1] + b"?")


def test_the_secret_comes_from_a_file_first_then_from_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text("from the file, long enough\n")
    file.chmod(0o600)
    variables = {"BYZDIST_SECRET": "from the environment"}
    assert identity.run_secret(variables) == b"from the environment"
    assert identity.run_secret({**variables, "BYZDIST_SECRET_FILE": str(file)}) == b"from the file, long enough"


def test_a_bad_secret_is_refused_with_the_remedy(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    with pytest.raises(ConfigError, match=r"BYZDIST_SECRET_FILE: cannot read .*: No such file"):
        identity.run_secret({"BYZDIST_SECRET_FILE": str(file)})
    file.write_text("long enough a secret")
    file.chmod(0o640)
    with pytest.raises(ConfigError, match=r"others can read .*; chmod 600"):
        identity.run_secret({"BYZDIST_SECRET_FILE": str(file)})
    with pytest.raises(ConfigError, match=r"BYZDIST_SECRET: a secret of 3 bytes can be guessed; give at least 16"):
        identity.run_secret({"BYZDIST_SECRET": "abc"})
    with pytest.raises(ConfigError, match=r"BYZDIST_SECRET: the star transport needs a run secret"):
        identity.run_secret({"WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2"})


def test_ranks_on_one_machine_share_a_file_of_their_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BYZDIST_CACHE", str(tmp_path / "cache"))
    variables = {"WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "4"}
    secret = identity.run_secret(variables)
    assert len(secret) == 64
    assert identity.run_secret(variables) == secret
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
    assert identity.run_secret(variables) == b"long enough a secret"
    for mode in (0o460, 0o444):
        file.chmod(mode)
        with pytest.raises(ConfigError, match="others can read"):
            identity.run_secret(variables)
