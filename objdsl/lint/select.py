"""Which rules are asked: by flags, and by `[tool.objdsl]` of the nearest pyproject.toml."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from objdsl.diagnostic import Diagnostic, near
from objdsl.lint.rule import Rule
from objdsl.lint.suppress import COMMENT_RULES


class ConfigError(ValueError):
    """A configuration that cannot be; the message names the place and the near name."""


@dataclass(frozen=True)
class Selection:
    """Rules by name, code, or the beginning of a code (`OBJ3`).

    Attributes:
        select: only these; empty for all.
        ignore: but not these.
        per_file: patterns of paths, each with rules that are not asked there.
        strict: notes count as findings, too.
    """

    select: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    per_file: tuple[tuple[str, tuple[str, ...]], ...] = ()
    strict: bool = False
    folder: Path = field(default=Path())

    def wants(self, finding: Diagnostic, file: str) -> bool:
        """Whether a finding in a file is asked for. What is wrong with a text always is."""
        if finding.severity == "error" and finding.code.startswith("OBJ9"):
            return True
        ignored = [*self.ignore]
        for pattern, rules in self.per_file:
            if fnmatch(_relative(file, self.folder), pattern) or fnmatch(Path(file).name, pattern):
                ignored += rules
        chosen = not self.select or any(_is(finding, one) for one in self.select)
        return chosen and not any(_is(finding, one) for one in ignored)


def _is(finding: Diagnostic, chosen: str) -> bool:
    return chosen in (finding.name, finding.code) or (
        chosen.startswith("OBJ") and finding.code.startswith(chosen)
    )


def _relative(file: str, folder: Path) -> str:
    try:
        return Path(file).resolve().relative_to(folder.resolve()).as_posix()
    except ValueError:
        return file


def checked(names: Iterable[str], rules: Iterable[Rule], where: str) -> tuple[str, ...]:
    """The names, each of which is a rule, a code or the beginning of one.

    Raises:
        ConfigError: for another name.
    """
    codes = {rule.name: rule.code for rule in rules} | COMMENT_RULES
    known = {*codes, *codes.values()}
    names = tuple(names)
    for name in names:
        prefix = name.startswith("OBJ") and any(code.startswith(name) for code in codes.values())
        if name not in known and not prefix:
            guess = near(name, known)
            hint = f"; did you mean `{guess}`?" if guess else ""
            raise ConfigError(f"{where}: there is no rule `{name}`{hint}")
    return names


_KEYS = {"select": list, "ignore": list, "per-file-ignores": dict, "strict": bool}


def configured(folder: Path, rules: Iterable[Rule]) -> Selection:
    """What `[tool.objdsl]` of the nearest pyproject.toml says, from a folder upwards.

    Raises:
        ConfigError: for an unknown key, a value of another type, or an unknown rule.
    """
    rules = list(rules)
    for parent in (folder.resolve(), *folder.resolve().parents):
        file = parent / "pyproject.toml"
        if file.is_file():
            table = _table(file)
            if table is not None:
                return _selection(table, rules, file)
    return Selection()


def _table(file: Path) -> dict[str, Any] | None:
    text = file.read_text(encoding="utf-8")
    if "tool.objdsl" not in text:
        return None
    import tomllib

    try:
        found = tomllib.loads(text).get("tool", {}).get("objdsl")
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{file}: {error}") from None
    return found if isinstance(found, dict) else None


def _selection(table: dict[str, Any], rules: list[Rule], file: Path) -> Selection:
    where = f"{file}: [tool.objdsl]"
    for key, value in table.items():
        if key not in _KEYS:
            guess = near(key, _KEYS)
            hint = f"; did you mean `{guess}`?" if guess else f" (there are {', '.join(_KEYS)})"
            raise ConfigError(f"{where}: there is no `{key}`{hint}")
        if not isinstance(value, _KEYS[key]):
            raise ConfigError(f"{where}: `{key}` is to be a {_KEYS[key].__name__}")
    per_file = {
        pattern: checked(names, rules, f"{where} per-file-ignores")
        for pattern, names in table.get("per-file-ignores", {}).items()
    }
    return Selection(
        checked(table.get("select", ()), rules, f"{where} select"),
        checked(table.get("ignore", ()), rules, f"{where} ignore"),
        tuple(per_file.items()),
        table.get("strict", False),
        file.parent,
    )
