"""``multipart/form-data`` bodies, from bytes in any split, in bounded memory. Pure.

The grammar is RFC 2046, section 5.1, with the disposition of RFC 7578. Fields are kept up to a
bound; of a file only its first bytes, its name and its size. Nothing is guessed: what isn't
understood makes the form ``unclear``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from email.message import Message
from enum import Enum, auto
from typing import Any

from sentinel_extproc.endpoints.governing import misspelt_field

MAX_FIELD_BYTES = 64 << 10
"""One field: OpenAI's longest, an image prompt, has 32,000 characters."""

MAX_FIELDS_BYTES = 256 << 10
"""All fields of a form together."""

MAX_PARTS = 256
MAX_PART_HEADERS = 8 << 10
HEAD_BYTES = 512
"""Kept of a file: enough for the format's header."""

_NO_FIELD = re.compile(r"^[ \t]|[\x00-\x08\x0a-\x1f\x7f]")
_MAX_BOUNDARY = 70  # RFC 2046, section 5.1.1


@dataclass(slots=True)
class File:
    """One uploaded file.

    Attributes:
        head: its first bytes.
        size: bytes so far.
    """

    name: str
    filename: str
    head: bytes = b""
    size: int = 0


@dataclass(slots=True)
class Form:
    """What is known of a form.

    Attributes:
        unclear: why two readers of it could disagree; empty when they can't.
        complete: its end was seen.
    """

    fields: dict[str, str] = field(default_factory=dict)
    files: list[File] = field(default_factory=list)
    unclear: str = ""
    complete: bool = False


class _At(Enum):
    START = auto()
    DELIMITER = auto()
    HEADERS = auto()
    CONTENT = auto()
    END = auto()


def boundary_of(content_type: str) -> bytes | None:
    """The boundary of a form's content type; None if it is no form, or has no usable one."""
    header = Message()
    header["content-type"] = content_type
    if header.get_content_type() != "multipart/form-data":
        return None
    boundary = header.get_param("boundary")
    if not isinstance(boundary, str) or not 0 < len(boundary) <= _MAX_BOUNDARY:
        return None
    return boundary.encode("latin-1", "replace") if boundary.isprintable() else None


class FormScanner:
    """Reads a form as it passes.

    Holds at most one part's headers, the fields and one chunk. Never raises.
    """

    def __init__(self, boundary: bytes) -> None:
        self.form = Form()
        self._delimiter = b"\r\n--" + boundary
        self._buffer = b"\r\n"  # so that the first delimiter looks like the others
        self._at = _At.START
        self._name = ""
        self._value: list[bytes] | None = None
        self._value_size = 0
        self._kept = 0
        self._parts = 0

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes."""
        if self._at is not _At.END:
            self._buffer += chunk
        while self._step():
            pass

    def _step(self) -> bool:
        """Read one element of the grammar; False when more bytes are needed."""
        match self._at:
            case _At.DELIMITER:
                return self._after_delimiter()
            case _At.HEADERS:
                return self._headers()
            case _At.END:
                return False
            case _:
                return self._content()

    def _content(self) -> bool:
        end = self._buffer.find(self._delimiter)
        if end < 0:
            keep = len(self._delimiter) - 1
            if len(self._buffer) > keep:
                self._take(self._buffer[:-keep])
                self._buffer = self._buffer[-keep:]
            return False
        self._take(self._buffer[:end])
        self._close_part()
        self._buffer = self._buffer[end + len(self._delimiter) :]
        self._at = _At.DELIMITER
        return True

    def _after_delimiter(self) -> bool:
        if self._buffer[:2] == b"--":
            self.form.complete = True
            self._stop()
            return False
        end = self._buffer.find(b"\r\n")
        if end < 0 and len(self._buffer) <= MAX_PART_HEADERS:
            return False
        if end < 0 or self._buffer[:end].strip(b" \t"):
            return self._give_up("bytes behind a boundary")
        # The line end stays: headers may be empty, and then it is the first half of their end.
        self._buffer = self._buffer[end:]
        self._at = _At.HEADERS
        return True

    def _headers(self) -> bool:
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0 and len(self._buffer) <= MAX_PART_HEADERS:
            return False
        if end < 0 or end > MAX_PART_HEADERS:
            return self._give_up("part headers that are too long")
        lines = self._buffer[2:end]
        self._buffer = self._buffer[end + 4 :]
        self._parts += 1
        if self._parts > MAX_PARTS:
            return self._give_up("too many parts")
        self._at = _At.CONTENT
        return self._open_part(lines)

    def _open_part(self, lines: bytes) -> bool:
        part = Message()
        for line in lines.decode("utf-8", "replace").split("\r\n"):
            name, colon, value = line.partition(":")
            if not colon or _NO_FIELD.search(line):
                return self._give_up("a part header that is folded or broken")
            part[name.strip()] = value.strip()
        disposition = part.get_all("content-disposition", [])
        names = _parameters(part, "name")
        if len(disposition) != 1 or len(names) != 1 or part["content-transfer-encoding"]:
            return self._give_up("a part without one clear name")
        if part.get_content_disposition() != "form-data" or misspelt_field(names[0]):
            return self._give_up("a part that some providers would take for another")
        self._name = names[0]
        filenames = _parameters(part, "filename")
        if filenames == [""]:
            return self._give_up("a file without a name, which some providers take for a field")
        if filenames:
            self.form.files.append(File(self._name, filenames[0]))
        else:
            self._value, self._value_size = [], 0
        return True

    def _take(self, content: bytes) -> None:
        if self._at is _At.START:
            if content.strip(b"\r\n"):
                self.form.unclear = self.form.unclear or "bytes before the first boundary"
        elif self._value is not None:
            self._value_size += len(content)
            self._kept += len(content)
            if self._value_size > MAX_FIELD_BYTES or self._kept > MAX_FIELDS_BYTES:
                self.form.unclear = self.form.unclear or "a field that is too long"
            else:
                self._value.append(content)
        elif self.form.files:
            file = self.form.files[-1]
            file.head += content[: HEAD_BYTES - len(file.head)]
            file.size += len(content)

    def _close_part(self) -> None:
        if self._value is None:
            return
        if self._name in self.form.fields and not self._name.endswith("[]"):
            self.form.unclear = self.form.unclear or "a field that is given twice"
        try:
            self.form.fields[self._name] = b"".join(self._value).decode()
        except UnicodeDecodeError:
            self.form.unclear = self.form.unclear or "a field that is not UTF-8"
        self._value = None

    def _give_up(self, why: str) -> bool:
        self.form.unclear = self.form.unclear or why
        self._stop()
        return False

    def _stop(self) -> None:
        self._at = _At.END
        self._buffer = b""


def _parameters(part: Message, name: str) -> list[str]:
    """Every parameter ``name`` of the part's disposition; RFC 2231 forms count as a second one."""
    found: list[Any] = part.get_params(failobj=[], header="content-disposition")
    values = []
    for key, value in found:
        if key.lower() == name:
            values.append(value if isinstance(value, str) else value[2])
    return values
