"""What a change of a key file means. Pure.

A file that was replaced whole (a rename, or the swapped link of a Kubernetes Secret) is read at
once. One that was written in place may be half written, and half a key looks like a key: it is read
when two looks in a row find it the same.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from sentinel_extproc.credentials.facts import CredentialFact, KeysRefused, KeysTaken

MAX_BYTES = 64 << 10
"""Of a file; a wrong one must not be read whole."""

MAX_KEYS = 16
MAX_KEY_CHARS = 4096
"""Some providers' tokens are JWTs; Envoy's bound on all headers is 60 KiB."""

_KEY = re.compile(r"[\x21-\x7e]+")
_WRITABLE_BY_ALL = 0o002


class KeyFileError(ValueError):
    """A file that holds no usable keys; the message says why, and never what is in it."""


@dataclass(frozen=True, slots=True)
class Stamp:
    """By what a changed file is known.

    Attributes:
        file: device and inode, which change when the file is replaced.
        mode: permission bits.
    """

    file: tuple[int, int]
    modified_ns: int
    size: int
    mode: int = 0o600


def parse_keys(raw: bytes, mode: int = 0o600) -> tuple[str, ...]:
    """The keys in a file, one a line; blanks around them and empty lines don't count.

    Args:
        mode: permission bits of the file.

    Raises:
        KeyFileError: no key, too many, one that can't stand in a header, or a file that everybody
            may write.
    """
    if mode & _WRITABLE_BY_ALL:
        raise KeyFileError("everybody may write it")
    if len(raw) > MAX_BYTES:
        raise KeyFileError(f"it is larger than {MAX_BYTES} bytes")
    try:
        lines = [line.strip(" \t\r") for line in raw.decode("ascii").split("\n")]
    except UnicodeDecodeError:
        raise KeyFileError("it isn't plain ASCII") from None
    keys = tuple(line for line in lines if line)
    if not keys:
        raise KeyFileError("there is no key in it")
    if len(keys) > MAX_KEYS:
        raise KeyFileError(f"there are more than {MAX_KEYS} lines in it")
    for key in keys:
        if len(key) > MAX_KEY_CHARS or _KEY.fullmatch(key) is None:
            raise KeyFileError("a line in it is no key: blanks, control characters, or too long")
    if len(set(keys)) != len(keys):
        raise KeyFileError("a key is there twice")
    return keys


class Rotation:
    """What is known of one provider's key file.

    Attributes:
        keys: those in use; never empty once a file was taken.
    """

    def __init__(self, provider: str) -> None:
        self.keys: tuple[str, ...] = ()
        self._provider = provider
        self._known: Stamp | None = None
        self._seen: Stamp | None = None
        self._complaint: str | None = None

    def wants(self, stamp: Stamp) -> bool:
        """Whether a file with that stamp is to be read now."""
        if stamp == self._known:
            self._seen = stamp
            return False
        settled = stamp == self._seen
        self._seen = stamp
        return settled or self._known is None or stamp.file != self._known.file

    def take(self, stamp: Stamp, raw: bytes) -> CredentialFact | None:
        """Take what was read; None if that makes no difference."""
        try:
            keys = parse_keys(raw, stamp.mode)
        except KeyFileError as error:
            self._known = stamp
            return self.complain(str(error))
        self._known, self._complaint = stamp, None
        if keys == self.keys:
            return None
        self.keys = keys
        return KeysTaken(self._provider, len(keys))

    def complain(self, reason: str) -> KeysRefused | None:
        """The file can't be used; None if that was said already."""
        if reason == self._complaint:
            return None
        self._complaint = reason
        return KeysRefused(self._provider, reason)
