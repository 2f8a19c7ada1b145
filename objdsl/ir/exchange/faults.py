"""The mistakes of a JSON that is not an objective, each reported once, at its place."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any

from pydantic import BaseModel, ValidationError

from objdsl.codes import error
from objdsl.diagnostic import Diagnostic, near
from objdsl.ir import schema
from objdsl.ir.exchange.places import Path, at_line, key, place
from objdsl.ir.nodes import NODES, Node
from objdsl.source import Source, Span

MOST_ERRORS = 100
KINDS: dict[str, type[Node]] = {kind.__name__: kind for kind in NODES}
_MODELS: dict[str, type[BaseModel]] = {kind: getattr(schema, kind) for kind in KINDS}


def malformed(message: str, span: Span | None, help: str = "") -> Diagnostic:
    """The error for a JSON that is not an objective."""
    return error("malformed-ir", message, span, help=help)


def diagnosed(source: Source, failure: ValidationError) -> list[Diagnostic]:
    """The errors of pydantic, each mistake once: a misspelt field is also a missing one."""
    errors = failure.errors(include_url=False)
    within = {fault["loc"][:-1] for fault in errors}  # items that are wrong are not counted either
    errors = [
        fault for fault in errors if fault["type"] != "too_short" or fault["loc"] not in within
    ]
    missing: defaultdict[Path, list[str]] = defaultdict(list)
    for fault in errors:
        if fault["type"] == "missing":
            missing[fault["loc"][:-1]].append(str(fault["loc"][-1]))
    meant: dict[Path, str | None] = {}
    for fault in errors:
        if fault["type"] == "extra_forbidden":
            owner, name = fault["loc"][:-1], str(fault["loc"][-1])
            known = _model(owner).model_fields
            meant[fault["loc"]] = guess = near(name, missing[owner]) or near(name, known)
            if guess in missing[owner]:
                missing[owner].remove(guess)
    shown = (
        fault for fault in errors if fault["type"] != "missing" or _lacks(missing, fault["loc"])
    )
    return [
        _error(source, fault["type"], fault["loc"], fault.get("ctx", {}), meant.get(fault["loc"]))
        for fault in islice(shown, MOST_ERRORS)
    ]


def _lacks(missing: Mapping[Path, list[str]], loc: Path) -> bool:
    return loc[-1] in missing[loc[:-1]]


_WANTED = {
    "int_type": "a whole number", "float_type": "a number", "string_type": "a string",
    "bool_type": "true or false", "tuple_type": "a list", "dict_type": "an object",
    "model_type": "an object", "model_attributes_type": "an object",
    "too_short": "a list that is not empty",
    "greater_than_equal": "0 or more", "value_error": "a number, and not NaN",
    "string_pattern_mismatch": "a name: letters of ASCII, digits and `_`",
    "string_too_long": "a shorter name", "int_parsing_size": "a smaller number",
    "layer": "the number of a layer, from 1 on, or the name of a parameter",
}  # fmt: skip


def _error(
    source: Source, type: str, loc: Path, ctx: Mapping[str, Any], meant: str | None
) -> Diagnostic:
    owner, path = loc[:-1], _path(loc)
    match type:
        case "json_invalid":
            reason, _, at = str(ctx["error"]).partition(" at line ")
            return malformed(f"this is no JSON: {reason}", at_line(source, at))
        case "extra_forbidden":
            message = f"{_named(owner)} has no field `{shown(loc[-1])}`"
            help = suggestion(meant, _model(owner).model_fields)
            return malformed(message, key(source, path), help)
        case "missing":
            here = place(source, path[:-1])
            here = Span(source, here.start, here.start + 1)
            return malformed(f"{_named(owner)} lacks the field `{loc[-1]}`", here)
        case "union_tag_not_found":
            help = "an object of `nodes` has the field `node`: " + ", ".join(KINDS)
            return malformed(f"`{written(path)}` does not say its kind", place(source, path), help)
        case "union_tag_invalid":
            kind, where = str(ctx["tag"]), place(source, (*path, "node"))
            guess = suggestion(near(kind, KINDS), KINDS)
            return malformed(f"there is no node `{shown(kind)}`", where, guess)
        case "literal_error":
            where = place(source, path)
            known = re.findall(r"'([^']+)'", ctx["expected"]) or [ctx["expected"]]
            given = where.text.strip('"')
            guess = suggestion(near(given, known), known)
            return malformed(f"`{written(path)}` cannot be `{shown(given)}`", where, guess)
    wanted = _WANTED.get(type, f"a different value ({type})")
    where = key(source, path) if loc[-1:] == ("[key]",) else place(source, path)
    return malformed(f"`{written(path)}` is to be {wanted}", where)


def suggestion(guess: str | None, known: Iterable[str]) -> str:
    return f"did you mean `{guess}`?" if guess else "known are: " + ", ".join(known)


def _model(loc: Path) -> type[BaseModel]:
    """The model of an object."""
    match loc:
        case ("nodes", _, str(kind)):
            return _MODELS[kind]
        case ("params", _):
            return schema.Parameter
        case (("params" | "learned"), _, "domain") | ("domains", _):
            return schema.Domain
        case ("policies", _):
            return schema.Policy
        case ("states", _):
            return schema.State
        case ("learned", _):
            return schema.Learned
        case ("sampling",):
            return schema.Sampling
        case ("sampling", "branch"):
            return schema.Branch
    return schema.Objective


def _named(loc: Path) -> str:
    """A description of an object."""
    match loc:
        case ():
            return "an objective"
        case ("nodes", int(k), str(kind)):
            return f"the {kind} of `nodes[{k}]`"
    return f"`{written(loc)}`"


def _path(loc: Path) -> Path:
    """The place of a pydantic error in the JSON: pydantic's own path also contains kinds of nodes,
    and keys."""
    loc = loc[:-1] if loc[-1:] == ("[key]",) else loc
    return (*loc[:2], *loc[3:]) if loc[:1] == ("nodes",) else loc


def written(path: Path) -> str:
    """`nodes[3].op`."""
    parts = (f"[{step}]" if isinstance(step, int) else f".{shown(step)}" for step in path)
    return "".join(parts).removeprefix(".") or "the JSON"


def shown(text: str | int) -> str:
    """A piece of text from any source, with control characters replaced, and shortened."""
    text = json.dumps(str(text))[1:-1]
    return text if len(text) <= 40 else text[:37] + "..."
