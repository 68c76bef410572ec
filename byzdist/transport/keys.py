"""The run's secret, which the server alone holds, and the workers' keys, which derive from it: each worker gets only its own."""

import hmac
import os
import secrets
import stat
from collections.abc import Mapping
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

from byzdist.errors import ConfigError
from byzdist.host.caching import own_file
from byzdist.host.files import read_bytes

SECRET, SECRET_FILE = "BYZDIST_SECRET", "BYZDIST_SECRET_FILE"
KEY, KEY_FILE = "BYZDIST_KEY", "BYZDIST_KEY_FILE"
VARIABLES = SECRET, SECRET_FILE, KEY, KEY_FILE
_FOLDER = "workers"  # the folder of the workers' keys
_SHORTEST = 16
_KEY_BYTES = 32


def new_secret() -> str:
    """Return a fresh run secret."""
    return secrets.token_hex(32)


def worker_key(secret: bytes | bytearray, rank: int) -> bytes:
    """Derive the key that the server shares with one worker."""
    return hmac.digest(secret, b"worker\0" + str(rank).encode(), sha256)


def run_secret(environment: Mapping[str, str] = os.environ) -> bytes:
    """Return the secret of this run, for its server: from the environment or from the file that the environment names.

    If neither is set and all ranks are on this machine, the secret is in a file of this user's, which the first process makes.

    Raises:
        ConfigError: if there is none, if it is too short to be one, or if others can read its file.
    """
    if SECRET_FILE in environment:
        return _checked(_read(Path(environment[SECRET_FILE]), SECRET_FILE), SECRET_FILE)
    if SECRET in environment:
        return _checked(environment[SECRET].encode(), SECRET)
    if _is_local(environment):
        try:
            path = own_file("secret", new_secret().encode())
        except OSError as error:
            raise ConfigError(
                f"{SECRET}: no secret can be kept ({error.strerror}); set it yourself, or BYZDIST_CACHE."
            ) from None
        return _checked(_read(path, SECRET), SECRET)
    raise ConfigError(
        f"{SECRET}: the star transport needs a run secret for its server. Set {SECRET_FILE} to a file that only you can read "
        "(`byzdist keys --workers N` makes one, and the workers' keys); `byzdist run` makes one for a run on one machine."
    )


def own_key(rank: int, environment: Mapping[str, str] = os.environ) -> bytes:
    """Return the key of worker ``rank``, for that worker: from the environment or from the file that the environment names.

    In the file's name ``{rank}`` stands for the rank; in a folder the file is ``worker-{rank}.key``. A worker that was given
    the run's secret instead derives its key.

    Raises:
        ConfigError: if there is no key, if it is malformed, or if others can read its file.
    """
    if KEY_FILE in environment:
        path = Path(environment[KEY_FILE].replace("{rank}", str(rank)))
        return _decoded(_read(path / _file(rank) if path.is_dir() else path, KEY_FILE), KEY_FILE)
    if KEY in environment:
        return _decoded(environment[KEY].encode(), KEY)
    if SECRET_FILE in environment or SECRET in environment or _is_local(environment):
        return worker_key(run_secret(environment), rank)
    raise ConfigError(
        f"{KEY_FILE}: a worker of the star transport needs its own key. Set {KEY_FILE} to its file (`byzdist keys --workers N` on "
        "the server's host makes them; give each worker only its own)."
    )


def write_keys(folder: Path, workers: int) -> None:
    """Write the run's secret into a folder, and the workers' keys into one below it, in files that only this user can read.

    An existing secret stays, and so do existing keys; further workers get theirs.

    Raises:
        ConfigError: if that is not possible, or the folder holds keys of another secret.
    """
    try:
        (folder / _FOLDER).mkdir(parents=True, exist_ok=True, mode=0o700)
        secret, path = new_secret().encode(), folder / "secret"
        if not _write(path, secret.decode()):
            secret = _checked(_read(path, "--out"), "--out")
        for rank in range(1, workers + 1):
            key, path = worker_key(secret, rank), folder / _FOLDER / _file(rank)
            if not _write(path, key.hex()) and _decoded(_read(path, "--out"), "--out") != key:
                raise ConfigError(f"--out: {str(path)!r} is of another secret; remove it or name a new folder.")
    except OSError as error:
        raise ConfigError(f"--out: cannot write to {str(folder)!r}: {error.strerror}.") from None


def _file(rank: int) -> str:
    return f"worker-{rank}.key"


def _write(path: Path, text: str) -> bool:
    """Write a file that only its owner can read; return False, and leave it alone, if it exists already."""
    try:
        number = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return False
    with open(number, "w") as file:
        file.write(text + "\n")
    return True


def _is_local(environment: Mapping[str, str]) -> bool:
    """Return whether all ranks are on this machine."""
    return environment.get("LOCAL_WORLD_SIZE", "local") == environment.get("WORLD_SIZE")


def _read(path: Path, variable: str) -> bytes:
    try:
        facts = path.stat()
        # A secret that a cluster mounts belongs to another user, and this user reads it through its group.
        others = stat.S_IRWXO | (stat.S_IRWXG if facts.st_uid == os.getuid() else stat.S_IWGRP | stat.S_IXGRP)
        if facts.st_mode & others:
            raise ConfigError(f"{variable}: others can read {str(path)!r}; chmod 600 it, and better make a new one.")
        return read_bytes(path, follow=True).strip()
    except OSError as error:
        raise ConfigError(f"{variable}: cannot read {str(path)!r}: {error.strerror}.") from None


def _checked(secret: bytes, variable: str) -> bytes:
    secret = secret.strip()
    if len(secret) < _SHORTEST:
        raise ConfigError(
            f"{variable}: a secret of {len(secret)} bytes can be guessed; give at least {_SHORTEST}, for example the "
            "output of `openssl rand -hex 32`."
        )
    return secret


def _decoded(text: bytes, variable: str) -> bytes:
    with suppress(ValueError):
        if len(key := bytes.fromhex(text.decode())) == _KEY_BYTES:
            return key
    raise ConfigError(f"{variable}: this is not a worker's key, which has {2 * _KEY_BYTES} hexadecimal digits.")
