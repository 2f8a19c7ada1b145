"""Settings read from YAML files and flags, and written as YAML.

Unknown keys are refused, with their location and the nearest known key: ignoring a key silently
would start a different run than the one that was asked for.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from objdsl.diagnostic import near
from objdsl.errors import ObjectiveError
from objdsl.frozen import dataclass
from objdsl.runtime.settings.config import RENAMED, Config, ConfigError
from objdsl.runtime.settings.foreign import pointer


@dataclass(frozen=True, slots=True)
class _Given:
    """The location of each value: path of keys -> `run.yaml:3` or `--learner.lr`."""

    places: dict[tuple[str, ...], str]

    def place(self, path: tuple[str, ...]) -> str:
        while path and path not in self.places:
            path = path[:-1]
        return self.places.get(path, "settings")


def read_config(
    file: Path | None = None, flags: Sequence[str] = (), given: Mapping[str, Any] | None = None
) -> Config:
    """The settings of a run: `flags` over `given` over `file` over defaults.

    Flags are as on the command line, `["--learner.lr", "1e-6"]`; keys of `given` are dotted.

    Raises ConfigError with every unknown key and every bad value.
    """
    settings: dict[str, Any] = {}
    places: dict[tuple[str, ...], str] = {}
    if file is not None:
        _read_yaml(file, settings, places)
    for key, value in (given or {}).items():
        _put(settings, tuple(key.split(".")), value)
        places[tuple(key.split("."))] = f"{key}={value}"
    for flag, text in _pairs(flags):
        path = _path(flag.removeprefix("--"))
        _put(settings, path, _scalar(text))
        places[path] = flag
    try:
        return Config.model_validate(settings)
    except ValidationError as error:
        parameters = _parameters(settings.get("objective"))
        raise ConfigError([*_problems(error, _Given(places), parameters)]) from None


def _parameters(objective: object) -> tuple[str, ...]:
    """The parameters of the objective that a run names, or none if it cannot be read."""
    from objdsl import driver

    name = objective if isinstance(objective, str) else Config.model_fields["objective"].default
    try:
        return tuple(param.name for param in driver.compile_source(driver.read(name)).params)
    except (FileNotFoundError, ObjectiveError):  # reported when the run loads it
        return ()


# No settings have more values; nested aliases can expand to any number.
_MOST_VALUES = 10_000


class _Loader(yaml.SafeLoader):
    """Reads keys as text: a parameter may be called `on`, `null` or `y`, which are YAML values."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        self.flatten_mapping(node)
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                key.tag = self.DEFAULT_SCALAR_TAG
        return super().construct_mapping(node, deep)


def _read_yaml(file: Path, settings: dict[str, Any], places: dict[tuple[str, ...], str]) -> None:
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([f"{file}: cannot be read: {error}"]) from None
    try:
        root, loaded = _loaded(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise ConfigError([f"{file}{line}: not YAML: {getattr(error, 'problem', error)}"]) from None
    if loaded is None:
        return
    if not isinstance(root, yaml.MappingNode):
        raise ConfigError([f"{file}:1: settings are `key: value` lines"])
    repeated = list(_note_lines(root, (), str(file), places))
    if repeated:
        raise ConfigError(repeated)
    settings.update(loaded)


def _loaded(text: str) -> tuple[yaml.Node | None, Any]:
    """A text of YAML, as nodes and as values. Raises YAMLError."""
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        if root is not None and _size(root, {}) > _MOST_VALUES:
            raise yaml.YAMLError(f"it expands to more than {_MOST_VALUES} values")
        return root, yaml.load(text, Loader=_Loader)
    except (RecursionError, ValueError, OverflowError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise yaml.YAMLError(reason) from None


def _size(node: yaml.Node, sizes: dict[int, int]) -> int:
    """The number of values of a node, with aliases expanded."""
    known = sizes.get(id(node))
    if known is not None:
        return known
    sizes[id(node)] = _MOST_VALUES + 1  # until it is known: a node may contain itself
    inner: Iterable[yaml.Node] = ()
    if isinstance(node, yaml.MappingNode):
        inner = [part for pair in node.value for part in pair]
    elif isinstance(node, yaml.SequenceNode):
        inner = node.value
    sizes[id(node)] = 1 + sum(_size(part, sizes) for part in inner)
    return sizes[id(node)]


def _note_lines(
    node: yaml.MappingNode,
    path: tuple[str, ...],
    file: str,
    places: dict[tuple[str, ...], str],
) -> Iterator[str]:
    """Adds the line of every key to `places`; yields a problem for a duplicate key."""
    for key, value in node.value:
        here = (*path, str(key.value))
        place = f"{file}:{key.start_mark.line + 1}"
        if here in places:
            yield f"{place}: `{'.'.join(here)}` is set twice, first at {places[here]}"
        places[here] = place
        if isinstance(value, yaml.MappingNode):
            yield from _note_lines(value, here, file, places)


def _pairs(flags: Sequence[str]) -> Iterator[tuple[str, str]]:
    """`--a.b 1` and `--a.b=1`, both as (`--a.b`, `1`)."""
    rest = iter(flags)
    for flag in rest:
        if not flag.startswith("--") or flag == "--":
            raise ConfigError(
                [f"`{flag}` is not a setting; settings are given as `--learner.lr 1e-6`"]
            )
        name, equals, text = flag.partition("=")
        if not equals:
            following = next(rest, None)
            if following is None or following.startswith("--"):
                raise ConfigError([f"{name} has no value"])
            text = following
        yield name, text


def _path(name: str) -> tuple[str, ...]:
    """`learner.lr` -> ("learner", "lr"); the keys of a table (`rewards`) may have dots."""
    section, _, key = name.partition(".")
    field = Config.model_fields.get(section)
    if key and field is not None and get_origin(field.annotation) is dict:
        return section, key
    return tuple(name.replace("-", "_").split("."))


def _scalar(text: str) -> Any:
    try:
        return _loaded(text)[1]
    except yaml.YAMLError:
        return text


def _put(settings: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    for key in path[:-1]:
        inner = settings.get(key)
        if not isinstance(inner, dict):
            inner = settings[key] = {}
        settings = inner
    settings[path[-1]] = value


def _problems(error: ValidationError, given: _Given, parameters: Collection[str]) -> Iterator[str]:
    for problem in error.errors():
        path = tuple(str(part) for part in problem["loc"])
        place = given.place(path)
        renamed = RENAMED.get(".".join(path))
        if renamed is not None:
            yield f"{place}: `{'.'.join(path)}` is called `{renamed}` now"
        elif problem["type"] == "extra_forbidden":
            foreign = [*_foreign(path, problem["input"], given, parameters)]
            yield from foreign or [
                f"{place}: unknown setting `{'.'.join(path)}`{_suggestion(path)}"
            ]
        elif not path:
            yield f"{place}: {problem['msg'].removeprefix('Value error, ')}"
        else:
            message = problem["msg"].removeprefix("Value error, ")
            message = message[0].lower() + message[1:]
            yield f"{place}: `{'.'.join(path)}` is {problem['input']!r}: {message}"


def _foreign(
    path: tuple[str, ...], value: Any, given: _Given, parameters: Collection[str]
) -> Iterator[str]:
    """Pointers for a setting of a different framework, and for all settings below it."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _foreign((*path, str(key)), inner, given, parameters)
    elif hint := pointer(path, value, parameters):
        yield f"{given.place(path)}: unknown setting `{'.'.join(path)}`; {hint}"


def _suggestion(path: tuple[str, ...]) -> str:
    section: type[BaseModel] = Config
    for key in path[:-1]:
        if key not in section.model_fields:  # the name of a set
            continue
        inner = section.model_fields[key].annotation
        if get_origin(inner) is dict:
            inner = get_args(get_args(inner)[1])[0]
        assert isinstance(inner, type) and issubclass(inner, BaseModel)
        section = inner
    prefix = "".join(f"{key}." for key in path[:-1])
    sibling = near(path[-1], section.model_fields)
    if sibling:
        return f"; did you mean `{prefix}{sibling}`?"
    # `lr` alone is `learner.lr`: the same name elsewhere in the tree is the next best guess.
    everywhere: dict[str, str] = {}
    for name, _, _ in documented():
        # If a name occurs twice (`learner.lr`, `warm_start.lr`), the first one is meant.
        everywhere.setdefault(name.rsplit(".", 1)[-1], name)
    cousin = near(path[-1], everywhere)
    if cousin:
        return f"; did you mean `{everywhere[cousin]}`?"
    return f"; known here: {', '.join(section.model_fields)}"


# --- writing -------------------------------------------------------------------------------------


def documented(
    section: type[BaseModel] = Config, prefix: str = ""
) -> Iterator[tuple[str, Any, str]]:
    """Every setting: its dotted name, its default, its documentation."""
    for name, field in section.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from documented(kind, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", field.default, " ".join((field.description or "").split())


def config_yaml(config: Config) -> str:
    """The resolved configuration as YAML; `read_config` reads the same run back."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def commented_yaml(config: Config) -> str:
    """The same with the documentation of every setting above it."""
    return "\n".join(_commented(config, 0)) + "\n"


def _commented(section: BaseModel, depth: int) -> Iterator[str]:
    margin = "  " * depth
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(value, BaseModel):
            yield ""
            yield f"{margin}# {(type(value).__doc__ or '').splitlines()[0]}"
            yield f"{margin}{name}:"
            yield from _commented(value, depth + 1)
            continue
        note = " ".join((field.description or "").split())
        choices = _choices(field.annotation)
        yield f"{margin}# {note}{f' One of {choices}.' if choices else ''}"
        shown = section.model_dump(mode="json", include={name})[name]
        dumped = yaml.safe_dump(shown, default_flow_style=True, allow_unicode=True)
        yield f"{margin}{name}: {dumped.removesuffix(chr(10)).removesuffix(chr(10) + '...')}"


def _choices(annotation: Any) -> str:
    if get_origin(annotation) is Literal:
        return ", ".join(str(choice) for choice in get_args(annotation))
    return ""
