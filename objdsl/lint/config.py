"""Reads `[tool.objdsl]` of pyproject.toml.

Imported only if there is such a table: importing pydantic takes longer than checking a file.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from objdsl.diagnostic import near


class Table(BaseModel):
    """The keys of the table."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    select: list[str] = []
    ignore: list[str] = []
    per_file_ignores: dict[str, list[str]] = Field({}, alias="per-file-ignores")
    strict: bool = False


def table(raw: Any) -> Table:
    """The table of a file.

    Raises:
        ValueError: with a sentence for each key that is unknown or holds something else.
    """
    try:
        return Table.model_validate(raw)
    except ValidationError as error:
        raise ValueError("; ".join(_problems(error))) from None


def _problems(error: ValidationError) -> Iterator[str]:
    known = [field.alias or name for name, field in Table.model_fields.items()]
    for problem in error.errors():
        key = ".".join(map(str, problem["loc"]))
        if problem["type"] == "extra_forbidden":
            guess = near(key, known)
            hint = f"; did you mean `{guess}`?" if guess else f" (there are {', '.join(known)})"
            yield f"there is no `{key}`{hint}"
        else:
            message = problem["msg"]
            yield f"`{key}`: {message[:1].lower()}{message[1:]}" if key else message
