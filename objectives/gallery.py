"""Finds objectives by name: those of the user's folder, and those that come with objdsl."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from objdsl.codes import error
from objdsl.diagnostic import near
from objdsl.errors import ObjectiveError
from objdsl.source import Source, Span
from objdsl.syntax.read import read

PRELUDE = "std"
SUFFIX = ".obj"
IR_SUFFIX = ".json"
"""Of an objective that other tools read and write: see `objdsl.ir.schema`."""

GROUPS = (
    "policy gradient",
    "clipped",
    "sequence-level",
    "KL",
    "off-policy",
    "preferences",
    "distillation",
    "multi-turn",
    "frameworks",
)
"""What the entries are listed under, each by the line `# group:` of its header."""

# The folder that a bundled text names itself by: nobody's file is beside it.
_BUNDLED = "<gallery>"
_FIELD = re.compile(r"(group|use|source): ")


@cache
def names() -> tuple[str, ...]:
    """The bundled objectives, sorted; those of a sub-folder are named `frameworks/trl_grpo`.

    The prelude is not one of them: it defines functions, and no objective.
    """
    found = set(_names(files("objdsl.objectives"), ""))
    return tuple(sorted(found - {PRELUDE}, key=lambda name: ("/" in name, name)))


def _names(folder: Traversable, prefix: str) -> Iterable[str]:
    for entry in folder.iterdir():
        if entry.is_dir():
            yield from _names(entry, f"{prefix}{entry.name}/")
        elif entry.name.endswith(SUFFIX):
            yield prefix + entry.name.removesuffix(SUFFIX)


@cache
def bundled(name: str) -> Source:
    """The text of a bundled objective or of the prelude. Raises KeyError for any other name."""
    if name != PRELUDE and name not in names():
        raise KeyError(name)
    path = f"{name}{SUFFIX}"
    text = files("objdsl.objectives").joinpath(*path.split("/")).read_text(encoding="utf-8")
    return Source(f"{_BUNDLED}/{path}", text)


def heading(source: Source) -> str:
    """The first line of the comment that a file opens with: the paper and the equation."""
    first = source.text.split("\n", 1)[0]
    return first.lstrip("# ").rstrip() if first.startswith("#") else ""


def fields(source: Source) -> dict[str, str]:
    """What the header says by name: the `group`, when to `use` it, the `source` that confirms it.

    A field ends where the next begins, or the instructions to the checker do.
    """
    texts: dict[str, str] = {}
    name = ""
    for line in source.text.splitlines():
        if not line.startswith("#") or line.startswith("# objdsl:"):
            break
        text = line.lstrip("#").strip()
        if match := _FIELD.match(text):
            name = match[1]
            texts[name] = text[match.end() :]
        elif name:
            texts[name] += f" {text}"
    return texts


@cache
def groups() -> dict[str, tuple[str, ...]]:
    """The names of each group, in the order of `GROUPS`."""
    group_of = {name: fields(bundled(name))["group"] for name in names()}
    return {group: tuple(n for n in names() if group_of[n] == group) for group in GROUPS}


def find(name: str | Path) -> Source:
    """The text that a person means by a path (`my/grpo.obj`) or by a gallery name (`grpo`).

    Raises:
        FileNotFoundError: there is no such file and no such name; the message has a near one.
        ObjectiveError: the file is not text, or not an objective at all.
    """
    path = Path(name).expanduser()
    if path.suffix == SUFFIX or path.is_file():
        return read(path)
    if (entry := _entry(str(name))) is not None:
        return bundled(entry)
    guess = _near_entry(str(name))
    hint = f"did you mean `{guess}`?" if guess else "`objdsl gallery` lists the names"
    raise FileNotFoundError(f"there is no file and no gallery entry `{name}`; {hint}")


def _entry(name: str) -> str | None:
    """The entry of a name; that of a sub-folder may be named without it where no other is."""
    if name in (*names(), PRELUDE):
        return name
    alike = [entry for entry in names() if entry.rsplit("/", 1)[-1] == name]
    return alike[0] if len(alike) == 1 else None


def _near_entry(name: str, others: Iterable[str] = ()) -> str | None:
    """The entry that a name is nearest to, by its last part."""
    if (entry := _entry(name)) is not None:
        return entry
    short = {entry.rsplit("/", 1)[-1]: entry for entry in reversed((*names(), *others))}
    guess = near(name, [*short, *names(), *others])
    return None if guess is None else short.get(guess, guess)


def base(name: str, span: Span) -> Source:
    """The text that `from name` means: the file beside the one that says so, else the gallery's.

    The gallery extends only itself: no file of the user's changes what a bundled objective means.

    Args:
        name: what follows `from`.
        span: where it does.

    Raises:
        ObjectiveError: there is neither; names a near one.
    """
    asking = Path(span.source.name)
    local: list[str] = []
    if asking.is_relative_to(_BUNDLED):
        neighbour = asking.with_name(name).relative_to(_BUNDLED).as_posix()
        if neighbour in names():
            return bundled(neighbour)
    else:
        beside = asking.with_name(name + SUFFIX)
        if beside.is_file():
            return read(beside)
        local = [path.stem for path in asking.parent.glob(f"*{SUFFIX}")]
    entry = _entry(name)
    if entry is not None and entry != PRELUDE:
        return bundled(entry)
    guess = _near_entry(name, local)
    help = f"looked for {name}{SUFFIX} beside this file, and in the gallery"
    if name == PRELUDE:
        help = "it holds functions, which every file has without naming it"
    elif guess:
        help = f"did you mean `{guess}`?"
    message = f"there is no objective `{name}`"
    raise ObjectiveError([error("unknown-objective", message, span, help=help)])
