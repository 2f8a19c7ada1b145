"""The selection of findings: by flags, and by `[tool.objdsl]` of the nearest pyproject.toml."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import field, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from objdsl.diagnostic import Diagnostic, near
from objdsl.errors import ObjdslError
from objdsl.frozen import dataclass
from objdsl.lint.run import pages


class SelectionError(ObjdslError, ValueError):
    """An invalid configuration; the message names the place and a similar name."""


@dataclass(frozen=True)
class Selection:
    """Rules by name, code, or the beginning of a code (`OBJ3`).

    Attributes:
        select: only these; empty for all.
        ignore: but not these.
        per_file: patterns of paths, each with rules that are not asked there.
        strict: notes count as findings, too.
        folder: what the patterns are relative to.
    """

    select: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    per_file: tuple[tuple[str, tuple[str, ...]], ...] = ()
    strict: bool = False
    folder: Path = field(default=Path())

    def with_flags(
        self, select: tuple[str, ...], ignore: tuple[str, ...], strict: bool
    ) -> Selection:
        """The selection with the flags of a command line: `--select` shows only the rules that it
        names."""
        refused = ignore if select else (*self.ignore, *ignore)
        return replace(
            self, select=select or self.select, ignore=refused, strict=strict or self.strict
        )

    def wants(self, finding: Diagnostic, file: str) -> bool:
        """Whether a finding in a file is selected. Errors of a text always are."""
        if finding.severity == "error" and finding.code.startswith("OBJ9"):
            return True
        ignored = [*self.ignore]
        for pattern, rules in self.per_file:
            if fnmatch(_relative(file, self.folder), pattern) or fnmatch(Path(file).name, pattern):
                ignored += rules
        chosen = not self.select or any(_is(finding, name) for name in self.select)
        return chosen and not any(_is(finding, name) for name in ignored)


def _is(finding: Diagnostic, chosen: str) -> bool:
    return chosen in (finding.name, finding.code) or (
        chosen.startswith("OBJ") and finding.code.startswith(chosen)
    )


def _relative(file: str, folder: Path) -> str:
    try:
        return Path(file).resolve().relative_to(folder).as_posix()
    except ValueError:
        return file


def checked(names: Iterable[str], where: str) -> tuple[str, ...]:
    """The names, each of which is a rule, a code or the beginning of one.

    Raises:
        SelectionError: for any other name.
    """
    codes = {page.name: page.code for page in pages()}
    known = {*codes, *codes.values()}
    names = tuple(names)
    for name in names:
        prefix = name.startswith("OBJ") and any(code.startswith(name) for code in codes.values())
        if name not in known and not prefix:
            guess = near(name, known)
            hint = f"; did you mean `{guess}`?" if guess else ""
            raise SelectionError(f"{where}: there is no rule `{name}`{hint}")
    return names


def configured(folder: Path) -> Selection:
    """The selection of `[tool.objdsl]` in the nearest pyproject.toml, from a folder upwards.

    `folder` is absolute.

    Raises:
        SelectionError: for an unknown key, a value of the wrong type, or an unknown rule.
    """
    file = folder / "pyproject.toml"
    table = _table(file)
    if table is not None:
        return _selection(table, file)
    return Selection() if folder == folder.parent else configured(folder.parent)


def _table(file: Path) -> Any:
    """The table of a file, or None if there is none."""
    try:
        text = file.read_bytes()
    except OSError:
        return None
    if b"objdsl" not in text:
        return None
    import tomllib

    try:
        tool = tomllib.loads(text.decode()).get("tool")
    except ValueError as error:
        raise SelectionError(f"{file}: {error}") from None
    return tool.get("objdsl") if isinstance(tool, dict) else None


def _selection(given: Any, file: Path) -> Selection:
    from objdsl.lint.config import table

    where = f"{file}: [tool.objdsl]"
    try:
        config = table(given)
    except ValueError as error:
        raise SelectionError(f"{where}: {error}") from None
    per_file = {
        pattern: checked(names, f"{where} per-file-ignores")
        for pattern, names in config.per_file_ignores.items()
    }
    return Selection(
        checked(config.select, f"{where} select"),
        checked(config.ignore, f"{where} ignore"),
        tuple(per_file.items()),
        config.strict,
        file.parent,
    )
