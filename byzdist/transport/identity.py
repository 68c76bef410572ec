"""Who may join: a run secret, a key for each worker that derives from it, and how two ends recognise each other.

The exchange is a challenge each way, keyed with HMAC-SHA256 (RFC 2104). Each end contributes a fresh nonce, and each
proof names its role, so that nothing overheard can be played back or reflected:

    worker -> server   hello  = nonce_w | HMAC(key, "hello", nonce_w)
    server -> worker   answer = nonce_s | HMAC(key, "answer", nonce_w, nonce_s)
    worker -> server   proof  = HMAC(key, "proof", nonce_w, nonce_s)
    both               session = HMAC(key, "session", nonce_w, nonce_s), known to nobody else

The session itself never leaves the two ends; what they show of it derives from it.
"""

import hmac
import os
import secrets
import stat
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

from byzdist.caching import own_file
from byzdist.errors import ConfigError
from byzdist.files import read_bytes

VARIABLE, FILE_VARIABLE = "BYZDIST_SECRET", "BYZDIST_SECRET_FILE"
_SHORTEST = 16
_NONCE, _PROOF = 16, 32


class IdentityError(ValueError):
    """A peer that could not prove who it is."""


def new_secret() -> str:
    """Return a fresh run secret, for a run on this machine."""
    return secrets.token_hex(32)


def run_secret(environment: Mapping[str, str] = os.environ) -> bytes:
    """Return the secret of this run, from the environment or from the file that the environment names.

    Where neither is set and all ranks are on this machine, it is a file of this user's, made by whoever comes first.

    Raises:
        ConfigError: if there is none, if it is too short to be one, or if others can read its file.
    """
    if FILE_VARIABLE in environment:
        return _checked(_read(Path(environment[FILE_VARIABLE])), FILE_VARIABLE)
    if VARIABLE in environment:
        return _checked(environment[VARIABLE].encode(), VARIABLE)
    if environment.get("LOCAL_WORLD_SIZE", "local") == environment.get("WORLD_SIZE"):
        try:
            path = own_file("secret", new_secret().encode())
        except OSError as error:
            raise ConfigError(
                f"{VARIABLE}: no secret can be kept ({error.strerror}); set it yourself, or BYZDIST_CACHE."
            ) from None
        return _checked(_read(path), VARIABLE)
    raise ConfigError(
        f"{VARIABLE}: the star transport needs a run secret that server and workers share. Set {VARIABLE}, or "
        f"{FILE_VARIABLE} to a file that only you can read; `byzdist run` makes one for a run on one machine."
    )


def _read(path: Path) -> bytes:
    try:
        facts = path.stat()
        # A secret that a cluster mounts belongs to somebody else, and reaches this user through its group.
        others = stat.S_IRWXO | (stat.S_IRWXG if facts.st_uid == os.getuid() else stat.S_IWGRP | stat.S_IXGRP)
        if facts.st_mode & others:
            raise ConfigError(
                f"{FILE_VARIABLE}: others can read {str(path)!r}; chmod 600 it, and better make a new secret."
            )
        return read_bytes(path, follow=True)
    except OSError as error:
        raise ConfigError(f"{FILE_VARIABLE}: cannot read {str(path)!r}: {error.strerror}.") from None


def _checked(secret: bytes, variable: str) -> bytes:
    secret = secret.strip()
    if len(secret) < _SHORTEST:
        raise ConfigError(
            f"{variable}: a secret of {len(secret)} bytes can be guessed; give at least {_SHORTEST}, for example the "
            "output of `openssl rand -hex 32`."
        )
    return secret


def _mac(key: bytes, label: str, *parts: bytes) -> bytes:
    # Every part has a fixed length but the last, so that two different inputs never read the same.
    return hmac.digest(key, b"\0".join([label.encode(), b"".join(parts)]), sha256)


def _check(key: bytes, given: bytes, label: str, *parts: bytes) -> None:
    if not hmac.compare_digest(given, _mac(key, label, *parts)):
        raise IdentityError(f"the {label} is not made with this run's secret")


def worker_key(secret: bytes, rank: int) -> bytes:
    """Derive the key that the server shares with one worker."""
    return _mac(secret, "worker", str(rank).encode())


class WorkerSide:
    """A worker's half of one exchange."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._nonce = os.urandom(_NONCE)
        self.hello = self._nonce + _mac(key, "hello", self._nonce)

    @property
    def name(self) -> str:
        """What this exchange is filed under."""
        return self._nonce.hex()

    def prove(self, answer: bytes) -> tuple[bytes, bytes]:
        """Check the server's answer; return the proof that it asks for and the session key.

        Raises:
            IdentityError: if whoever answered does not know the key.
        """
        server_nonce, given = answer[:_NONCE], answer[_NONCE:]
        nonces = self._nonce, server_nonce
        _check(self._key, given, "answer", *nonces)
        return _mac(self._key, "proof", *nonces), _mac(self._key, "session", *nonces)


class ServerSide:
    """The server's half of one exchange.

    Raises:
        IdentityError: if the hello was not made with this key.
    """

    def __init__(self, key: bytes, hello: bytes) -> None:
        self._key = key
        self._nonces = hello[:_NONCE], os.urandom(_NONCE)
        _check(key, hello[_NONCE:], "hello", self._nonces[0])
        self.answer = self._nonces[1] + _mac(key, "answer", *self._nonces)

    @property
    def name(self) -> str:
        """What this exchange is filed under."""
        return self._nonces[0].hex()

    def accept(self, proof: bytes) -> bytes:
        """Check the worker's proof; return the session key.

        Raises:
            IdentityError: if the proof is wrong.
        """
        _check(self._key, proof, "proof", *self._nonces)
        return _mac(self._key, "session", *self._nonces)


def meeting(session: bytes) -> str:
    """Return the name under which both ends meet in the store, where everybody can read it."""
    return _mac(session, "meeting").hex()


def confirmation(session: bytes, role: str) -> bytes:
    """Return the first message on a fresh link, which shows that it leads to whoever took part in the exchange."""
    return _mac(session, f"link {role}")


def seal(key: bytes, text: str) -> bytes:
    """Return a note from the server to one worker that only the server can have written."""
    note = text.encode()
    return _mac(key, "note", note) + note


def unseal(key: bytes, sealed: bytes) -> str:
    """Return the text of a note.

    Raises:
        IdentityError: if it was not written with this key.
    """
    given, note = sealed[:_PROOF], sealed[_PROOF:]
    _check(key, given, "note", note)
    return note.decode()
