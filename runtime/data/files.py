"""Examples read from files, folders and the hub."""

from __future__ import annotations

import codecs
import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from objdsl.runtime.data.example import Example
from objdsl.runtime.data.judge import shown
from objdsl.runtime.settings.config import ConfigError, TaskSection

# Files that `datasets` reads, by their suffix.
_TABLES = {".parquet": "parquet", ".csv": "csv"}

# Python and the process of the reward functions cannot read rows that are nested deeper.
_DEEPEST = 100


class _Long(str):
    """A number with more digits than Python reads."""


def read_rows(
    config: TaskSection,
) -> tuple[list[Mapping[str, Any]], list[Mapping[str, Any]] | None]:
    """The rows of the training split, and those of the held-out split where one is named."""
    path = Path(config.name)
    if path.suffix in {".jsonl", ".json"} or (path.is_file() and path.suffix not in _TABLES):
        return _json_rows(path), None
    return _data_set_rows(config, path)


def _json_rows(path: Path) -> list[Mapping[str, Any]]:
    """The rows of a file: an object per line, or, in a `.json`, possibly a list of objects."""
    if path.exists() and not path.is_file():
        raise ConfigError([f"{path}: cannot be read: it is not a file"])
    try:
        # Lines end at newlines only, not at every character that ends a line for Python.
        content = path.read_bytes().removeprefix(codecs.BOM_UTF8)
        lines = [line.decode("utf-8") for line in content.split(b"\n")]
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([f"{path}: cannot be read: {error}"]) from None
    if path.suffix == ".json" and content.lstrip()[:1] == b"[":
        whole = _parsed("\n".join(lines), str(path))
        return [_row(row, f"{path} row {k}") for k, row in enumerate(whole, start=1)]
    numbered = ((f"{path}:{k}", line) for k, line in enumerate(lines, start=1) if line.strip())
    return [_row(_parsed(line, place), place) for place, line in numbered]


def _parsed(text: str, place: str) -> Any:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        row = dict(pairs)
        if len(row) < len(pairs):
            counts = Counter(name for name, _ in pairs)
            raise ConfigError([f"{place}: `{counts.most_common(1)[0][0]}` occurs twice"])
        return row

    def whole(digits: str) -> int | _Long:
        try:
            return int(digits)
        except ValueError:  # Python's limit of 4300 digits
            return _Long(digits)

    try:
        return json.loads(text, object_pairs_hook=once, parse_int=whole)
    except json.JSONDecodeError as error:
        raise ConfigError([f"{place}: not JSON: {error.msg}"]) from None
    except RecursionError:
        raise ConfigError([f"{place}: JSON that is nested more than {_DEEPEST} deep"]) from None


def _row(row: Any, place: str) -> Mapping[str, Any]:
    if not isinstance(row, dict):
        raise ConfigError([f'{place}: a row is an object such as {{"prompt": ...}}'])
    return row


def _data_set_rows(
    config: TaskSection, path: Path
) -> tuple[list[Mapping[str, Any]], list[Mapping[str, Any]] | None]:
    """The rows of a table, a folder (of files, or by `save_to_disk`), or a hub data set."""
    try:
        from datasets import DatasetDict, load_dataset, load_from_disk
    except ImportError:
        raise ConfigError(
            [f"task.name {config.name}: data sets need `pip install datasets`"]
        ) from None

    def load(split: str) -> Any:
        if path.is_file():
            return load_dataset(_TABLES[path.suffix], data_files={"train": str(path)}, split=split)
        if any((path / name).is_file() for name in ("dataset_dict.json", "state.json")):
            whole = load_from_disk(str(path))
            return whole[split] if isinstance(whole, DatasetDict) else whole
        return load_dataset(config.name, config.subset, split=split, revision=config.revision)

    def rows(split: str) -> list[Mapping[str, Any]]:
        try:
            return list(load(split))
        except Exception as error:  # the library's own classes differ from version to version
            where = f"split `{split}`: " if path.exists() else "neither a file nor a hub data set: "
            raise ConfigError([f"task.name {config.name}: {where}{error}"]) from None

    return rows(config.split), rows(config.held_out_split) if config.held_out_split else None


def example_of(row: Mapping[str, Any], config: TaskSection, place: str) -> Example:
    """The example of a row. Raises ConfigError with the name of the field where it is invalid."""
    if config.prompt not in row:
        raise ConfigError(
            [f"{place}: no column `{config.prompt}` (task.prompt); it has {', '.join(row)}"]
        )
    for name, value in row.items():
        problem = _unreadable(name) or _unreadable(value)
        if problem:
            raise ConfigError([f"{place}: `{shown(name)[1:-1]}` {problem}"])
    prompt = row[config.prompt]
    columns = {name: value for name, value in row.items() if name != config.prompt}
    if config.answer in columns:
        columns["answer"] = columns.pop(config.answer)
    system = [] if config.system is None else [{"role": "system", "content": config.system}]
    if isinstance(prompt, str):
        chat = [*system, {"role": "user", "content": prompt}]
        return Example(chat if config.chat or system else prompt, columns, place)
    if not isinstance(prompt, list):
        raise ConfigError([f"{place}: `{config.prompt}` is neither a text nor a list of messages"])
    if not prompt:
        raise ConfigError([f"{place}: `{config.prompt}` is a list without a message"])
    for number, message in enumerate(prompt, start=1):
        texts = [message.get(k) for k in ("role", "content")] if isinstance(message, dict) else []
        if not texts or not all(isinstance(text, str) for text in texts):
            raise ConfigError(
                [
                    f"{place}: `{config.prompt}` is neither a text nor a list of messages: message "
                    f"{number} is {shown(message)}, and needs the texts `role` and `content`"
                ]
            )
    return Example([*system, *prompt], columns, place)


def _unreadable(value: Any, depth: int = 0) -> str:
    """Why a value of a row cannot be read, or an empty string."""
    if isinstance(value, _Long):
        return f"holds a number of {len(value)} digits"
    if isinstance(value, str):
        half = next((letter for letter in value if "\ud800" <= letter <= "\udfff"), None)
        return "" if half is None else f"holds half a character (U+{ord(half):04X})"
    if not isinstance(value, (list, dict)):
        return ""
    if depth > _DEEPEST:
        return f"is nested more than {_DEEPEST} deep"
    inner = value if isinstance(value, list) else [*value, *value.values()]
    return next(filter(None, (_unreadable(x, depth + 1) for x in inner)), "")
