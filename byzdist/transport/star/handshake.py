"""How two ends recognise each other: the server, and a worker that shares a key with it (see transport/keys.py).

The exchange is a challenge each way, keyed with HMAC-SHA256 (RFC 2104). Each end contributes a fresh nonce, and each
proof names its role, so that nothing overheard can be played back or reflected. The answer carries what the worker is told:

    worker -> server   hello  = nonce_w | HMAC(key, "hello", nonce_w)
    server -> worker   answer = nonce_s | HMAC(key, "answer", nonce_w, nonce_s, told) | told
    worker -> server   proof  = HMAC(key, "proof", nonce_w, nonce_s)
    both               session = HMAC(key, "session", nonce_w, nonce_s), known only to these two

The session itself never leaves the two ends; they send only what is derived from it.
"""

import hmac
import os
from hashlib import sha256

_NONCE, _PROOF = 16, 32


class HandshakeError(ValueError):
    """A peer that could not prove who it is."""


def _mac(key: bytes, label: str, *parts: bytes) -> bytes:
    # Every part but the last has a fixed length, so that different inputs never give the same bytes.
    return hmac.digest(key, b"\0".join([label.encode(), b"".join(parts)]), sha256)


def _check(key: bytes, given: bytes, label: str, *parts: bytes) -> None:
    if not hmac.compare_digest(given, _mac(key, label, *parts)):
        raise HandshakeError(f"the {label} was not made with this worker's key")


class WorkerSide:
    """A worker's half of one exchange."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._nonce = os.urandom(_NONCE)
        self.hello = self._nonce + _mac(key, "hello", self._nonce)

    @property
    def store_key(self) -> str:
        """What this exchange is filed under."""
        return self._nonce.hex()

    def prove(self, answer: bytes) -> tuple[bytes, bytes, bytes]:
        """Check the server's answer; return the proof that the server asks for, the session key, and what the server tells.

        Raises:
            HandshakeError: if the other end does not know the key.
        """
        nonces = self._nonce, answer[:_NONCE]
        given, told = answer[_NONCE : _NONCE + _PROOF], answer[_NONCE + _PROOF :]
        _check(self._key, given, "answer", *nonces, told)
        return _mac(self._key, "proof", *nonces), _mac(self._key, "session", *nonces), told


class ServerSide:
    """The server's half of one exchange; ``told`` is what it tells the worker.

    Raises:
        HandshakeError: if the hello was not made with this key.
    """

    def __init__(self, key: bytes, hello: bytes, told: bytes = b"") -> None:
        self._key = key
        self._nonces = hello[:_NONCE], os.urandom(_NONCE)
        _check(key, hello[_NONCE:], "hello", self._nonces[0])
        self.answer = self._nonces[1] + _mac(key, "answer", *self._nonces, told) + told

    @property
    def store_key(self) -> str:
        """What this exchange is filed under."""
        return self._nonces[0].hex()

    def accept(self, proof: bytes) -> bytes:
        """Check the worker's proof; return the session key.

        Raises:
            HandshakeError: if the proof is wrong.
        """
        _check(self._key, proof, "proof", *self._nonces)
        return _mac(self._key, "session", *self._nonces)


def meeting_prefix(session: bytes) -> str:
    """Return the prefix under which both ends meet in the store, where everybody can read it."""
    return _mac(session, "meeting").hex()


def confirmation(session: bytes, role: str) -> bytes:
    """Return the first message on a fresh link, which proves that the link leads to the other end of this exchange."""
    return _mac(session, f"link {role}")


def seal(key: bytes, attempt: str, text: str) -> bytes:
    """Return a note from the server to one worker; only the server can write it, and it is valid only in this attempt of the server."""
    note = text.encode()
    return _mac(key, "note", _digest(attempt), note) + note


def unseal(key: bytes, attempt: str, sealed: bytes) -> str:
    """Return the text of a note.

    Raises:
        HandshakeError: if it was not written with this key in this attempt.
    """
    given, note = sealed[:_PROOF], sealed[_PROOF:]
    _check(key, given, "note", _digest(attempt), note)
    return note.decode()


def _digest(attempt: str) -> bytes:
    return sha256(attempt.encode()).digest()
