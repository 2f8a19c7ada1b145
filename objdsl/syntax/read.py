"""Files to text: a file may come from anyone, and `.obj` is the suffix of two other formats."""

from __future__ import annotations

import codecs
import os
import re
import stat
from pathlib import Path
from typing import BinaryIO

from objdsl.errors import ObjectiveError
from objdsl.source import STEERS, Source, Span
from objdsl.syntax import messages

# Bytes. No objective comes near this size; a longer text is a mistake or an attack.
LARGEST = 256 * 1024

_FOREIGN = {
    b"\x7fELF": "object code (ELF)",
    b"\xfe\xed\xfa": "object code (Mach-O)",
    b"\xce\xfa\xed\xfe": "object code (Mach-O)",
    b"\xcf\xfa\xed\xfe": "object code (Mach-O)",
    b"\x64\x86": "object code (COFF for x86-64)",
    b"\x4c\x01": "object code (COFF for x86)",
    b"\x64\xaa": "object code (COFF for ARM64)",
    b"\x00\x00\xff\xff": "object code (COFF)",
    b"\xff\xfe": "text in UTF-16",
    b"\xfe\xff": "text in UTF-16",
}

# A vertex, a face or a material. One line is enough: no statement looks like any of them.
_MESH = re.compile(
    r"^[ \t]*(?:v[nt]?(?:[ \t]+[-+]?[\d.]\S*){2,}"
    r"|f(?:[ \t]+-?\d+(?:/-?\d*){0,2}){3,}"
    r"|(?:mtllib|usemtl)[ \t]+\S+)[ \t\r]*$",
    re.MULTILINE,
)

# Characters that an editor does not show, or shows at a different place.
_INVISIBLE = re.compile(rf"(?![\f\r]){STEERS.pattern}")


def read(path: str | Path, largest: int = LARGEST) -> Source:
    """The text of a file, which is UTF-8.

    Raises ObjectiveError when the file cannot be read, is too large or holds something else.
    """
    path = Path(path)
    try:
        with open(path, "rb", opener=_without_waiting) as file:
            mode = os.fstat(file.fileno()).st_mode
            if not stat.S_ISREG(mode):
                raise ObjectiveError([messages.no_file(path, mode)])
            content = file.read(largest + 1)
    except OSError as error:
        raise ObjectiveError([messages.unreadable(path, error)]) from None
    return decoded(str(path), content, largest)


def _without_waiting(path: str, flags: int) -> int:
    """Opens a file, even a named pipe, without waiting for a writer."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def read_from(stream: BinaryIO, name: str, largest: int = LARGEST) -> Source:
    """The text of a stream, which is UTF-8. Raises ObjectiveError as `read` does."""
    return decoded(name, stream.read(largest + 1), largest)


def decoded(name: str, content: bytes, largest: int = LARGEST) -> Source:
    """The text of some bytes, of which there is at most one more than the `largest` text has."""
    for magic, kind in _FOREIGN.items():
        if content.startswith(magic):
            raise ObjectiveError([messages.foreign(name, kind)])
    whole = len(content) <= largest
    try:
        # The limit may split the last character, which is not an error.
        text = codecs.getincrementaldecoder("utf-8")().decode(content, final=whole)
    except UnicodeDecodeError as error:
        raise ObjectiveError([messages.not_utf8(name, content, error)]) from None
    source = written(name, text)
    verify(source, largest)
    if not whole:
        raise ObjectiveError([messages.too_large(source, largest)])
    return source


def written(name: str, text: str) -> Source:
    """A text with our line ends, without the byte order mark that some editors put before it."""
    return Source(name, text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n"))


def verify(source: Source, largest: int = LARGEST) -> None:
    """Raise ObjectiveError where a text is not worth parsing: not an objective, or too large."""
    text = source.text
    if "\0" in text:
        raise ObjectiveError([messages.foreign(source.name, "binary data")])
    if mesh := _MESH.search(text):
        raise ObjectiveError([messages.mesh(Span(source, *mesh.span()))])
    if len(text.encode("utf-8", "surrogatepass")) > largest:
        raise ObjectiveError([messages.too_large(source, largest)])
    if invisible := _INVISIBLE.search(text):
        raise ObjectiveError([messages.invisible(Span(source, *invisible.span()))])
