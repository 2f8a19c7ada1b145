"""Settings of a framework's configuration, each with its place in the file."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from math import isfinite
from typing import Any, TypeVar

from objdsl.codes import error
from objdsl.diagnostic import Diagnostic, near
from objdsl.errors import ObjdslError, ObjectiveError
from objdsl.frozen import dataclass
from objdsl.source import Source, Span

T = TypeVar("T")


@dataclass(frozen=True)
class Setting:
    """The value of a setting, and where it is set."""

    value: Any
    span: Span


class Settings:
    """What a configuration sets; everything else stands at the framework's default.

    Reading a value checks its type, so that a wrong one is an error at its place. Errors are
    collected: `finish` raises all of them at once.

    Args:
        framework: its name and the version that was read, for messages: `TRL 1.16.0`.
        defaults: the settings with a say in the objective, with their defaults.
        others: all other settings that the framework has.
        sections: beginnings of names under which a setting may have any name.
    """

    def __init__(
        self,
        source: Source,
        values: Mapping[str, Setting],
        framework: str,
        defaults: Mapping[str, Any],
        others: Collection[str],
        sections: tuple[str, ...] = (),
    ) -> None:
        self.source, self.values, self.framework = source, values, framework
        self.defaults = defaults
        self.errors: list[Diagnostic] = []
        known = sorted({*defaults, *others})  # of several that are as near, the first
        for name, setting in values.items():
            if name not in known and not name.startswith(sections):
                guess = near(name, known) or _ending(name, known)
                self.refuse(
                    name,
                    f"{framework} has no setting `{name}`",
                    f"did you mean `{guess}`?" if guess else "what it does to the loss is unknown",
                    setting.span,
                )

    def is_set(self, name: str) -> bool:
        """Whether the configuration mentions the setting, with a value other than the default."""
        return name in self.values and self.values[name].value != self.defaults.get(name)

    def first(self, *names: str) -> str:
        """The first of some settings that the configuration mentions, as the place of an error."""
        return next((name for name in names if name in self.values), names[0])

    def refuse(self, name: str, message: str, help: str, span: Span | None = None) -> None:
        """Record an error at the place of a setting."""
        if span is None:
            place = self.values.get(name)
            span = Span(self.source, 0, 0) if place is None else place.span
        diagnostic = error("unreadable-config", message, span, help=help)
        if diagnostic not in self.errors:  # a setting may be read more than once
            self.errors.append(diagnostic)

    def finish(self) -> None:
        """Raises ObjectiveError if anything was wrong."""
        if self.errors:
            raise ObjectiveError(sorted(self.errors, key=lambda x: x.span.start if x.span else 0))

    # --- values by type --------------------------------------------------------------------------

    def value(self, name: str) -> Any:
        """Whatever it is."""
        return self.values[name].value if name in self.values else self.defaults[name]

    def number(self, name: str) -> float:
        """A finite number."""
        value = self.value(name)
        if isinstance(value, str):  # YAML 1.1 reads 1e-6 as text, as frameworks' parsers do not
            try:
                value = float(value)
            except ValueError:
                return self._wrong(name, "a number", 0.0)
        if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
            return self._wrong(name, "a number", 0.0)
        return value

    def optional(self, name: str) -> float | None:
        """A finite number, or None."""
        return None if self.value(name) is None else self.number(name)

    def count(self, name: str) -> int:
        """An integer of at least 1."""
        value = self.number(name)
        if value != int(value) or value < 1:
            return self._wrong(name, "a positive integer", 1)
        return int(value)

    def flag(self, name: str) -> bool:
        """True or false."""
        value = self.value(name)
        if isinstance(value, str) and value.lower() in ("true", "false"):
            value = value.lower() == "true"
        return value if isinstance(value, bool) else self._wrong(name, "true or false", False)

    def choice(self, name: str, choices: Collection[str]) -> str:
        """One of several words."""
        value = self.value(name)
        if value in choices:
            return str(value)
        *first, last = (f"`{choice}`" for choice in choices)
        wanted = f"{', '.join(first)} or {last}"
        if guess := near(str(value), choices):
            wanted += f"; did you mean `{guess}`?"
        return self._wrong(name, wanted, next(iter(choices)))

    def numbers(self, name: str) -> list[float] | None:
        """A list of finite numbers, or None."""
        value = self.value(name)
        if value is None:
            return None
        right = isinstance(value, list | tuple) and all(
            isinstance(x, int | float) and not isinstance(x, bool) and isfinite(x) for x in value
        )
        return [*value] if right else self._wrong(name, "a list of numbers", None)

    def words(self, name: str) -> list[str]:
        """A list of words; None and a single word are lists, too."""
        value = self.value(name)
        if value is None:
            return []
        if isinstance(value, str):
            return value.split()
        if isinstance(value, list | tuple) and all(isinstance(x, str) for x in value):
            return [*value]
        return self._wrong(name, "a list of names", [])

    def _wrong(self, name: str, wanted: str, instead: T) -> T:
        shown = self.value(name)
        self.refuse(name, f"`{name}` cannot be {shown!r}", f"{self.framework} takes {wanted}")
        return instead


# --- where settings come from --------------------------------------------------------------------


def from_yaml(source: Source, nested: bool = False) -> dict[str, Setting]:
    """The settings of a YAML or JSON file.

    Args:
        nested: whether a mapping is a section, whose settings are called `section.name`.

    Raises:
        ObjectiveError: the file is not YAML, not a mapping, or sets a setting twice.
        MissingYamlError: PyYAML is not installed.
    """
    yaml = _yaml()
    try:
        root = yaml.compose(source.text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as problem:
        mark = problem.problem_mark or problem.context_mark
        start = 0 if mark is None else min(mark.index, max(len(source.text) - 1, 0))
        what = problem.problem or "it cannot be parsed"
        raise _failure(f"this is not YAML: {what}", Span(source, start, start + 1)) from None
    except yaml.YAMLError as problem:
        raise _failure(f"this is not YAML: {problem}", Span(source, 0, 1)) from None
    if root is None:
        return {}
    if not isinstance(root, yaml.MappingNode):
        raise _failure("a configuration is a mapping of settings", _span(source, root))
    constructor = yaml.SafeLoader("")
    values: dict[str, Setting] = {}

    def collect(section: Any, prefix: str) -> None:
        for key, node in section.value:
            if not isinstance(key, yaml.ScalarNode):
                raise _failure("the name of a setting is a word", _span(source, key))
            name = prefix + key.value
            if name in values:
                raise _failure(f"`{name}` is set twice", _span(source, key))
            if nested and isinstance(node, yaml.MappingNode) and node.value:
                collect(node, f"{name}.")
                continue
            try:
                value = constructor.construct_object(node, deep=True)
            except yaml.YAMLError as problem:
                raise _failure(f"`{name}` cannot be read: {problem}", _span(source, node)) from None
            values[name] = Setting(value, Span(source, key.start_mark.index, node.end_mark.index))

    collect(root, "")
    return values


def from_mapping(values: Mapping[str, Any], name: str) -> tuple[Source, dict[str, Setting]]:
    """The settings of a Python mapping, as a text that messages can point into."""
    lines = [f"{key}: {value!r}" for key, value in values.items()]
    source = Source(name, "\n".join(lines) + "\n")
    settings: dict[str, Setting] = {}
    start = 0
    for line, (key, value) in zip(lines, values.items(), strict=True):
        settings[key] = Setting(value, Span(source, start, start + len(line)))
        start += len(line) + 1
    return source, settings


def from_overrides(source: Source) -> dict[str, Setting]:
    """The settings of Hydra's overrides, `section.name=value`, as a shell script passes them.

    Variables that the script assigns are replaced by what it assigns to them; others are left in
    the value. Of settings that are given twice, the last counts.

    Raises:
        MissingYamlError: PyYAML is not installed.
    """
    yaml = _yaml()
    text = _COMMENT.sub(lambda match: " " * len(match[0]), source.text)
    variables: dict[str, str] = {}
    values: dict[str, Setting] = {}
    for match in _ASSIGNMENT.finditer(text):
        name, written = match["name"], _expanded(match["value"], variables)
        if "." not in name:
            variables[name] = written
            continue
        try:
            value = yaml.safe_load(written)
        except yaml.YAMLError:  # a template of a prompt, say
            value = written
        values[name] = Setting(value, Span(source, match.start("name"), match.end()))
    return values


_COMMENT = re.compile(r"(?m)(?:^|(?<=\s))#.*$")
_ASSIGNMENT = re.compile(
    r"""(?<![^\s(])(?P<quote>['"])?\+{0,2}(?P<name>[A-Za-z_]\w*(?:\.\w+)*)="""
    r"""(?P<value>(?(quote)[^'"\n]*|(?:"[^"\n]*"|'[^'\n]*'|[^\s\\'"])*))"""
)
_VARIABLE = re.compile(r"\$(?:(\w+)|\{(\w+)(?::?-([^}]*))?\})")
_QUOTED = re.compile(r"'([^']*)'|\"([^\"]*)\"")


def _expanded(written: str, variables: Mapping[str, str]) -> str:
    """A word of a shell: quotes are removed, and variables that are known are replaced."""

    def value(match: re.Match[str]) -> str:
        return variables.get(match[1] or match[2], match[0] if match[3] is None else match[3])

    replaced = _VARIABLE.sub(value, written)
    return _QUOTED.sub(lambda match: match[1] if match[1] is not None else match[2], replaced)


def _yaml() -> Any:
    try:
        import yaml
    except ImportError:
        raise MissingYamlError from None
    return yaml


class MissingYamlError(ObjdslError, ImportError):
    """PyYAML, which reads configurations, is not installed."""

    def __init__(self) -> None:
        super().__init__("a configuration is read with PyYAML: pip install pyyaml")


def _ending(name: str, known: Collection[str]) -> str | None:
    """The known setting of a section that is called so, if there is only one."""
    names = [other for other in known if other.endswith(f".{name}")]
    return names[0] if len(names) == 1 else None


def _span(source: Source, node: Any) -> Span:
    return Span(source, node.start_mark.index, max(node.end_mark.index, node.start_mark.index + 1))


def _failure(message: str, span: Span) -> ObjectiveError:
    return ObjectiveError([error("unreadable-config", message, span)])
