"""The proofs of both ends."""

import hmac
from hashlib import sha256

import pytest

from byzdist.transport.keys import worker_key
from byzdist.transport.star import handshake
from byzdist.transport.star.handshake import HandshakeError, ServerSide, WorkerSide, seal, unseal

SECRET = b"0123456789abcdef"
KEY = worker_key(SECRET, 1)


def test_both_ends_agree_on_a_session() -> None:
    worker = WorkerSide(KEY)
    server = ServerSide(KEY, worker.hello, b"what the run is")
    proof, session, told = worker.prove(server.answer)
    assert server.accept(proof) == session
    assert told == b"what the run is"
    assert worker.store_key == server.store_key
    assert session not in (proof, KEY) and len(session) == 32


def test_the_proof_is_the_hmac_it_is_said_to_be() -> None:
    worker = WorkerSide(KEY)
    server = ServerSide(KEY, worker.hello)
    proof, _, told = worker.prove(server.answer)
    assert told == b""
    nonces = worker.hello[:16] + server.answer[:16]
    assert proof == hmac.new(KEY, b"proof\0" + nonces, "sha256").digest()
    assert KEY == hmac.new(SECRET, b"worker\x001", "sha256").digest()


@pytest.mark.parametrize("key", [worker_key(SECRET, 2), worker_key(b"another secret..", 1)])
def test_another_rank_or_another_secret_is_found_out_at_every_step(key: bytes) -> None:
    worker, stranger = WorkerSide(KEY), WorkerSide(key)
    with pytest.raises(HandshakeError, match="hello"):
        ServerSide(KEY, stranger.hello)
    with pytest.raises(HandshakeError, match="answer"):
        worker.prove(ServerSide(key, stranger.hello).answer)
    server = ServerSide(KEY, worker.hello)
    proof, _, _ = stranger.prove(ServerSide(key, stranger.hello).answer)
    with pytest.raises(HandshakeError, match="proof"):
        server.accept(proof)


def test_nothing_overheard_can_be_played_back_or_reflected() -> None:
    worker = WorkerSide(KEY)
    server = ServerSide(KEY, worker.hello)
    proof, session, _ = worker.prove(server.answer)
    again = ServerSide(KEY, worker.hello)  # the hello played back
    with pytest.raises(HandshakeError):
        again.accept(proof)
    with pytest.raises(HandshakeError):
        WorkerSide(KEY).prove(server.answer)
    with pytest.raises(HandshakeError):
        server.accept(server.answer[16:])
    assert handshake.confirmation(session, "server") != handshake.confirmation(session, "worker")


def test_what_the_worker_is_told_cannot_be_changed_or_told_again() -> None:
    worker = WorkerSide(KEY)
    answer = ServerSide(KEY, worker.hello, b"the rounds are 100").answer
    for forged in (answer[:-1], answer[:-1] + b"1", answer + b"0", answer[:47] + answer[48:]):
        with pytest.raises(HandshakeError):
            worker.prove(forged)
    assert worker.prove(answer)[2] == b"the rounds are 100"
    with pytest.raises(HandshakeError):
        WorkerSide(KEY).prove(answer)


@pytest.mark.parametrize("text", [b"", b"short", bytes(16), bytes(48), bytes(200)])
def test_random_bytes_are_no_step_of_an_exchange(text: bytes) -> None:
    worker = WorkerSide(KEY)
    with pytest.raises(HandshakeError):
        ServerSide(KEY, text)
    with pytest.raises(HandshakeError):
        worker.prove(text)
    with pytest.raises(HandshakeError):
        ServerSide(KEY, worker.hello).accept(text)
    with pytest.raises(HandshakeError):
        unseal(KEY, "attempt", text)


def test_a_note_is_the_servers_own_and_of_one_life() -> None:
    sealed = seal(KEY, "attempt", "the run is over")
    assert unseal(KEY, "attempt", sealed) == "the run is over"
    assert sealed[:32] == hmac.new(KEY, b"note\0" + sha256(b"attempt").digest() + b"the run is over", "sha256").digest()
    for key, attempt, note in (
        (worker_key(SECRET, 2), "attempt", sealed),
        (KEY, "another attempt", sealed),
        (KEY, "attempt", sealed[:-1] + b"?"),
        (KEY, "lif", seal(KEY, "attempt", "ethe run is over")),
    ):
        with pytest.raises(HandshakeError):
            unseal(key, attempt, note)
