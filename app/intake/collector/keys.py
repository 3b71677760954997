"""The write keys that allow sending calls. Several are valid at once, so keys can be rotated without downtime."""

import hashlib
import hmac
from collections.abc import Iterable
from pathlib import Path

from app.core import console
from app.core.errors import CaratError, SettingsError
from app.core.variables import secret_file
from app.settings import Settings, load_settings

_SHORT = 16
_SCHEME = b"bearer "


class WriteKeys:
    """The valid keys. Only their hashes are kept, and every check compares all of them in constant time."""

    def __init__(self, settings: Settings) -> None:
        self._file = secret_file("write_keys")
        self._changed_at = _changed_at(self._file)
        self._digests = _digests(_keys(settings))

    def admits(self, authorization: bytes) -> bool:
        """Whether an Authorization header contains a valid key."""
        if authorization[: len(_SCHEME)].lower() != _SCHEME:
            return False
        sent = _digest(authorization[len(_SCHEME) :].strip())
        return any([hmac.compare_digest(sent, digest) for digest in self._digests])  # noqa: C419  no early exit

    def reload(self) -> None:
        """Read the keys again. If that fails or no key is left, the previous keys stay valid."""
        self._changed_at = _changed_at(self._file)
        try:
            digests = _digests(_keys(load_settings()))
        except CaratError as error:
            console.log.error("write keys could not be read again: the previous keys stay valid", error=str(error))
            return
        console.log.info("write keys read", keys=len(digests), new=len(set(digests) - set(self._digests)))
        self._digests = digests

    def reload_if_changed(self) -> None:
        """Read the keys again if their file has changed."""
        if self._file and _changed_at(self._file) not in {self._changed_at, None}:
            self.reload()


def _keys(settings: Settings) -> list[bytes]:
    text = settings.write_keys.get_secret_value() if settings.write_keys else ""
    keys = [key.encode() for key in text.replace(",", " ").split()]
    if not keys:
        raise SettingsError(
            "CARAT_WRITE_KEYS is not set: set it to the write keys, or CARAT_WRITE_KEYS_FILE to a file with them. "
            "`openssl rand -hex 24` generates a key"
        )
    if any(len(key) < _SHORT for key in keys):
        console.log.warning(f"a write key has fewer than {_SHORT} characters: it could be guessed")
    return keys


def _digests(keys: Iterable[bytes]) -> list[bytes]:
    return [_digest(key) for key in dict.fromkeys(keys)]


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


def _changed_at(path: Path | None) -> tuple[int, int] | None:
    """The modification time and inode of a file: they differ after a change or a replacement."""
    try:
        found = path.stat() if path else None
    except OSError:
        return None
    return (found.st_mtime_ns, found.st_ino) if found else None
