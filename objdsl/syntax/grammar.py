"""The parser that Lark makes from `objective.lark`, cached between runs."""

from __future__ import annotations

import os
import sys
from functools import cache
from importlib.resources import files
from pathlib import Path
from zlib import crc32

import lark
from lark import Lark


@cache
def grammar() -> Lark:
    """The LALR parser of one statement.

    Its tables take ten times longer to compute than to read back, and every `objdsl check` would
    pay for it, so they are kept in the user's cache. Lark computes them again when the cached file
    is missing or damaged.
    """
    text = (files("objdsl.grammars") / "objective.lark").read_text(encoding="utf-8")
    # Keywords are whole words (`order` is not `or der`), hence the basic lexer.
    return Lark(
        text,
        parser="lalr",
        lexer="basic",
        keep_all_tokens=True,
        maybe_placeholders=True,
        cache=cache_file(text) or False,
    )


def cache_file(text: str) -> str | None:
    """The path of the cached tables of a grammar; None if the user has no folder for caches.

    Environments with different versions of Lark, Python or the grammar each have a file.
    """
    if sys.platform == "win32":
        home = os.environ.get("LOCALAPPDATA")
    else:
        home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    if not home or not os.path.isabs(home):
        return None
    folder = Path(home) / "objdsl"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    return str(folder / f"grammar-{crc32(text.encode()):08x}-lark-{lark.__version__}-py{python}")
