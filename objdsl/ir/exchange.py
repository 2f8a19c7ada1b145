"""Objectives to JSON and back, by the models of `objdsl.ir.schema`.

What is wrong with a JSON is said once, where it stands.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields
from itertools import islice
from typing import Any

from pydantic import BaseModel, ValidationError

from objdsl.codes import error
from objdsl.diagnostic import Diagnostic, near
from objdsl.errors import ObjectiveError
from objdsl.frozen import dataclass
from objdsl.ir import schema
from objdsl.ir.columns import CLOCK, column_of
from objdsl.ir.nodes import NODES, Column, Expr, Node, Param, fields_of, topological
from objdsl.ir.objective import (
    BUILT_IN_POLICIES,
    Declared,
    Domain,
    Named,
    Objective,
    Parameter,
    Policy,
    Sampling,
    State,
)
from objdsl.ir.text import text
from objdsl.source import Source, Span

_MOST_ERRORS = 100
OWN_ROLES = ("state", "clock")
"""Of columns that no data holds, and no file gives a domain to."""
_KINDS: dict[str, type[Node]] = {kind.__name__: kind for kind in NODES}
_MODELS: dict[str, type[BaseModel]] = {kind: getattr(schema, kind) for kind in _KINDS}
_HINTS = ("Expr", "Expr | None", "tuple[Expr, ...]")
_OPERANDS = {
    kind: tuple(field.name for field in fields(kind) if field.init and field.type in _HINTS)
    for kind in NODES
}

Path = tuple[str | int, ...]


# --- to JSON -------------------------------------------------------------------------------------


def dumps(objective: Objective, weights: Mapping[str, Expr] | None = None) -> str:
    """An objective as JSON, one line a node. Parameters that nothing reads, as a base may declare,
    are left out.

    Args:
        objective: of any text.
        weights: the derivatives of its goal, by the column that each belongs to.
    """
    weights = weights or {}
    named = {binding.name: binding.value for binding in objective.bindings}
    places: dict[Expr, int] = {}
    nodes: list[dict[str, Any]] = []
    states = [x for state in objective.states for x in (state.column, state.start, state.next)]
    for expr in topological(*objective.roots, *states, *named.values(), *weights.values()):
        values = ((name, getattr(expr, name)) for name in fields_of(type(expr)))
        node = {name: _placed(x, places) for name, x in values}
        places[expr] = len(nodes)
        nodes.append({"node": type(expr).__name__} | node)
    columns = [node for node in places if isinstance(node, Column)]
    params = {node.name for node in places if isinstance(node, Param)}
    model = schema.Objective.model_validate(
        {
            "version": 1,
            "name": objective.name,
            "params": tuple(_plain(x) for x in objective.params if x.name in params),
            "domains": {
                column.name: _plain(domain)
                for column in columns
                if column.role not in OWN_ROLES
                and (domain := objective.domains.get(column_of(column).name)) is not None
            },
            "policies": tuple(_plain(policy) for policy in objective.policies),
            "sampling": _plain(objective.sampling) if objective.sampling.span else None,
            "goal": places[objective.goal],
            "critic": None if objective.critic is None else places[objective.critic],
            "keep": None if objective.keep is None else places[objective.keep],
            "states": tuple(
                {
                    name: places[x]
                    for name, x in (
                        ("column", state.column),
                        ("start", state.start),
                        ("next", state.next),
                    )
                }
                for state in objective.states
            ),
            "reports": {report.name: places[report.value] for report in objective.reports},
            "bindings": {name: places[value] for name, value in named.items()},
            "weights": {name: places[value] for name, value in weights.items()},
            "nodes": tuple(nodes),
        }
    )
    written = json.loads(model.model_dump_json(exclude_defaults=True))
    rows = ",\n".join(f"    {json.dumps(node)}" for node in written.pop("nodes"))
    head = [f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in written.items()]
    return "{\n" + ",\n".join([*head, f'  "nodes": [\n{rows}\n  ]']) + "\n}\n"


def _placed(value: Any, places: Mapping[Expr, int]) -> Any:
    """A field of a node, with the places of operands."""
    if isinstance(value, tuple):
        return tuple(_placed(x, places) for x in value)
    return places[value] if isinstance(value, Expr) else value


def _plain(record: Parameter | Domain | Policy | Sampling) -> dict[str, Any]:
    """The fields of what a file declares; where it stands in a text is none of them."""
    values = {field.name: getattr(record, field.name) for field in fields(record) if field.compare}
    return {name: _plain(x) if isinstance(x, Domain) else x for name, x in values.items()}


# --- from JSON -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Loaded:
    """An objective that a JSON holds, and where in it the nodes stand."""

    objective: Objective
    places: Mapping[Expr, int]
    json: Source

    def span(self, node: Expr) -> Span:
        return place(self.json, ("nodes", self.places[node]))


def loads(source: Source) -> Loaded:
    """The objective that a JSON holds.

    Raises:
        ObjectiveError: with what is wrong in it.
    """
    try:
        model = schema.Objective.model_validate_json(source.text)
    except ValidationError as failure:
        raise ObjectiveError(_diagnosed(source, failure)) from None
    nodes = _nodes(source, model.nodes)
    errors = [*_beyond(source, model), *_undeclared(source, model)]
    errors += _stateless(source, model) if not errors else ()
    if errors:
        raise ObjectiveError(errors[:_MOST_ERRORS])

    def named(table: Mapping[str, int]) -> tuple[Named, ...]:
        return tuple(Named(name, nodes[at]) for name, at in table.items())

    roots = [at for path, at in _roots(model) if path[0] != "weights"]
    read = topological(*(nodes[at] for at in roots))
    columns = [x for x in read if isinstance(x, Column) and x.role not in OWN_ROLES]
    domains = {}
    for column in columns:
        declared = model.domains.get(column.name)
        ends = {} if column.values else {"lower": column.lower, "upper": column.upper}
        domain = Domain(**(declared.model_dump() if declared else {"values": column.values} | ends))
        if domain != Domain():
            domains[column_of(column).name] = domain
    sampling = Sampling()
    if model.sampling is not None:  # it is said, wherever that is
        sampling = Sampling(**model.sampling.model_dump(), span=Span(source, 0, 1))
    objective = Objective(
        name=model.name,
        goal=nodes[model.goal],
        critic=None if model.critic is None else nodes[model.critic],
        reports=named(model.reports),
        bindings=named(model.bindings),
        calls=(),
        params=tuple(
            Parameter(param.name, param.default, Domain(**param.domain.model_dump()))
            for param in model.params
        ),
        declared=tuple(Declared(name, x) for name, x in domains.items()),
        policies=tuple(Policy(**policy.model_dump()) for policy in model.policies),
        sampling=sampling,
        keep=None if model.keep is None else nodes[model.keep],
        states=tuple(
            State(nodes[state.column], nodes[state.start], nodes[state.next])  # type: ignore[arg-type]
            for state in model.states
        ),
    )
    places = {node: k for k, node in reversed([*enumerate(nodes)])}
    return Loaded(objective, places, source)


def _nodes(source: Source, models: Iterable[Any]) -> list[Expr]:
    """The nodes of a list, each made of those before it."""
    nodes: list[Expr] = []
    for k, model in enumerate(models):
        kind = _KINDS[model.node]
        values = {name: getattr(model, name) for name in fields_of(kind)}
        for name in _OPERANDS[kind]:
            read = values[name]
            several = read if isinstance(read, tuple) else () if read is None else (read,)
            for at in several:
                if at >= k:
                    where = place(source, ("nodes", k, name))
                    help = "operands stand before their users, so that there is no cycle"
                    message = f"node {at} is not before node {k}"
                    raise ObjectiveError([malformed(message, where, help)])
            if isinstance(read, tuple):
                values[name] = tuple(nodes[at] for at in several)
            elif read is not None:
                values[name] = nodes[read]
        nodes.append(kind(**values))  # type: ignore[arg-type]
    return nodes


def _beyond(source: Source, model: schema.Objective) -> Iterator[Diagnostic]:
    """The places that are none."""
    for path, at in _roots(model):
        if at >= len(model.nodes):
            message = f"`{_written(path)}` is node {at}, and there are {len(model.nodes)}"
            yield malformed(message, place(source, path), "nodes are counted from 0")


def _stateless(source: Source, model: schema.Objective) -> Iterator[Diagnostic]:
    """The states that none declares, and declarations of what is none."""
    declared = {model.nodes[state.column] for state in model.states}
    for k, state in enumerate(model.states):
        node = model.nodes[state.column]
        if not isinstance(node, schema.Column) or node.role != "state":
            where = place(source, ("states", k, "column"))
            yield malformed(f"node {state.column} is no Column of role `state`", where)
    for k, node in enumerate(model.nodes):
        if not isinstance(node, schema.Column):
            continue
        where = place(source, ("nodes", k, "name"))
        if node.role == "state" and node not in declared:
            yield malformed(f"`{_shown(node.name)}` is no state of `states`", where)
        if node.role == "clock" and node.name not in CLOCK:
            guess = _guess(near(node.name, CLOCK), CLOCK)
            yield malformed(f"`{_shown(node.name)}` is no number of rollouts", where, guess)


def _undeclared(source: Source, model: schema.Objective) -> Iterator[Diagnostic]:
    """The names that nothing declares."""
    params = [param.name for param in model.params]
    policies = [*BUILT_IN_POLICIES, *(policy.name for policy in model.policies)]
    columns = [node.name for node in model.nodes if isinstance(node, schema.Column)]
    wanted: list[tuple[Path, str, str, list[str]]] = [
        (("domains", name), name, "column of `nodes`", columns) for name in model.domains
    ]
    for k, node in enumerate(model.nodes):
        if isinstance(node, schema.Param):
            wanted.append((("nodes", k, "name"), node.name, "parameter of `params`", params))
        if isinstance(node, schema.LogProb | schema.LogDist):
            wanted.append((("nodes", k, "policy"), node.policy, "policy", policies))
    for path, name, what, known in wanted:
        if name not in known:
            where = key(source, path) if path[0] == "domains" else place(source, path)
            guess = _guess(near(name, known), known)
            yield malformed(f"`{_shown(name)}` is no {what}", where, guess if known else "")


def _roots(model: schema.Objective) -> Iterator[tuple[Path, int]]:
    for name in ("goal", "critic", "keep"):
        if (at := getattr(model, name)) is not None:
            yield (name,), at
    for k, state in enumerate(model.states):
        for name in ("column", "start", "next"):
            yield ("states", k, name), getattr(state, name)
    for table in ("reports", "bindings", "weights"):
        for name, at in getattr(model, table).items():
            yield (table, name), at


# --- what it would be in the language ------------------------------------------------------------


def changes(loaded: Loaded, compiled: Objective) -> list[Diagnostic]:
    """What the text that was written of an objective says otherwise: the first formula of each."""
    had = loaded.objective
    errors: list[Diagnostic] = []
    for what, formula, other in _pairs(had, compiled):
        if other is None or formula != other:
            changed = _changed(loaded, what, formula, other)
            if changed.span not in [known.span for known in errors]:
                errors.append(changed)
    declared = (
        ("params", had.params, compiled.params),
        ("domains", had.domains, compiled.domains),
        ("policies", had.policies, compiled.policies),
        ("sampling", had.sampling, compiled.sampling),
    )
    for name, before, after in declared:
        if before != after:
            where = place(loaded.json, (name,))
            errors.append(_unwritable(f"`{name}` cannot be said in the language", where))
    return errors


def _pairs(had: Objective, compiled: Objective) -> Iterator[tuple[str, Expr, Expr | None]]:
    yield "goal", had.goal, compiled.goal
    if had.critic is not None:
        yield "critic", had.critic, compiled.critic
    if had.keep is not None:
        yield "keep", had.keep, compiled.keep
    states = {state.name: state for state in compiled.states}
    for state in had.states:
        written = states.get(state.name)
        yield f"state {state.name}", state.start, None if written is None else written.start
        yield f"state {state.name}", state.next, None if written is None else written.next
    for before, after in ((had.bindings, compiled.bindings), (had.reports, compiled.reports)):
        values = {named.name: named.value for named in after}
        for named in before:
            if named.name in values or named.value.children:
                yield named.name, named.value, values.get(named.name)


def _changed(loaded: Loaded, what: str, before: Expr, after: Expr | None) -> Diagnostic:
    """The innermost formula that the two do not share."""
    while after is not None and type(before) is type(after):
        below = [*zip(before.children, after.children, strict=False)]
        differ = [(a, b) for a, b in below if a != b]
        if not differ or _fields_of(before) != _fields_of(after):
            break
        before, after = differ[0]
    kind = type(before).__name__
    message = f"this {kind}, a part of `{what}`, cannot be written in the language"
    if after is None:
        help = f"what is nearest to it, `{_text(before)}`, is a number or a column by itself"
    elif type(after) is not type(before):
        help = f"what is nearest to it, `{_text(after)}`, is a {type(after).__name__}"
    else:
        pairs = zip(_fields_of(before).items(), _fields_of(after).values(), strict=True)
        others = [f"`{name}` {_shown(str(y))}" for (name, x), y in pairs if x != y]
        help = f"what is nearest to it, `{_text(after)}`, has {', '.join(others)}"
    return _unwritable(message, loaded.span(before), help)


def _fields_of(node: Expr) -> dict[str, object]:
    """The fields of a node but for its operands, of which it says which are there."""
    values = {name: getattr(node, name) for name in fields_of(type(node))}
    return {name: isinstance(x, Expr) or x for name, x in values.items()}


def _text(node: Expr) -> str:
    return _shown(text(node))


def _unwritable(message: str, span: Span, help: str = "") -> Diagnostic:
    return error("not-in-the-language", message, span, help=help)


# --- what is wrong with it -----------------------------------------------------------------------


def malformed(message: str, span: Span | None, help: str = "") -> Diagnostic:
    """A JSON that holds no objective."""
    return error("malformed-ir", message, span, help=help)


def _diagnosed(source: Source, failure: ValidationError) -> list[Diagnostic]:
    """What pydantic found, each mistake once: a field that is misspelt is a missing one, too."""
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
        for fault in islice(shown, _MOST_ERRORS)
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
}  # fmt: skip


def _error(
    source: Source, type: str, loc: Path, ctx: Mapping[str, Any], meant: str | None
) -> Diagnostic:
    owner, path = loc[:-1], _path(loc)
    match type:
        case "json_invalid":
            reason, _, at = str(ctx["error"]).partition(" at line ")
            return malformed(f"this is no JSON: {reason}", _at(source, at))
        case "extra_forbidden":
            message = f"{_named(owner)} has no field `{_shown(loc[-1])}`"
            return malformed(message, key(source, path), _guess(meant, _model(owner).model_fields))
        case "missing":
            here = place(source, path[:-1])
            here = Span(source, here.start, here.start + 1)
            return malformed(f"{_named(owner)} lacks the field `{loc[-1]}`", here)
        case "union_tag_not_found":
            help = "an object of `nodes` has the field `node`: " + ", ".join(_KINDS)
            return malformed(f"`{_written(path)}` does not say its kind", place(source, path), help)
        case "union_tag_invalid":
            kind, where = str(ctx["tag"]), place(source, (*path, "node"))
            guess = _guess(near(kind, _KINDS), _KINDS)
            return malformed(f"there is no node `{_shown(kind)}`", where, guess)
        case "literal_error":
            where = place(source, path)
            known = re.findall(r"'([^']+)'", ctx["expected"]) or [ctx["expected"]]
            given = where.text.strip('"')
            guess = _guess(near(given, known), known)
            return malformed(f"`{_written(path)}` cannot be `{_shown(given)}`", where, guess)
    wanted = _WANTED.get(type, f"another value ({type})")
    where = key(source, path) if loc[-1:] == ("[key]",) else place(source, path)
    return malformed(f"`{_written(path)}` is to be {wanted}", where)


def _guess(guess: str | None, known: Iterable[str]) -> str:
    return f"did you mean `{guess}`?" if guess else "known are: " + ", ".join(known)


def _model(loc: Path) -> type[BaseModel]:
    """The model of an object."""
    match loc:
        case ("nodes", _, str(kind)):
            return _MODELS[kind]
        case ("params", _):
            return schema.Parameter
        case ("params", _, "domain") | ("domains", _):
            return schema.Domain
        case ("policies", _):
            return schema.Policy
        case ("states", _):
            return schema.State
        case ("sampling",):
            return schema.Sampling
    return schema.Objective


def _named(loc: Path) -> str:
    """An object in words."""
    match loc:
        case ():
            return "an objective"
        case ("nodes", int(k), str(kind)):
            return f"the {kind} of `nodes[{k}]`"
    return f"`{_written(loc)}`"


def _path(loc: Path) -> Path:
    """Where pydantic speaks of in the JSON: it names the kind of a node, too, and keys."""
    loc = loc[:-1] if loc[-1:] == ("[key]",) else loc
    return (*loc[:2], *loc[3:]) if loc[:1] == ("nodes",) else loc


def _written(path: Path) -> str:
    """`nodes[3].op`."""
    parts = (f"[{step}]" if isinstance(step, int) else f".{_shown(step)}" for step in path)
    return "".join(parts).removeprefix(".") or "the JSON"


def _shown(text: str | int) -> str:
    """A piece of a text from anywhere, so that it shows itself and ends."""
    text = json.dumps(str(text))[1:-1]
    return text if len(text) <= 40 else text[:37] + "..."


# --- places --------------------------------------------------------------------------------------

_DECODER = json.JSONDecoder(parse_int=str, parse_float=str)  # of any length
_SPACE = re.compile(r"[ \t\n\r]*")


def place(source: Source, path: Path) -> Span:
    """The characters of a value of a JSON that can be read."""
    return _key_and_value(source, path)[1]


def key(source: Source, path: Path) -> Span:
    """The characters of the key that a value has in its object."""
    return _key_and_value(source, path)[0]


def _key_and_value(source: Source, path: Path) -> tuple[Span, Span]:
    """The last key of a path, and its value; of what is not there, the object that lacks it."""
    text = source.text
    at = _space(text, 0)
    name = whole = _value(source, at)
    for step in path:
        at = _space(text, at + 1)
        if isinstance(step, int):
            for _ in range(step):
                at = _next(text, _value(source, at).end)
        else:
            while text[at] != "}" and (name := _value(source, at)).text != json.dumps(step):
                colon = _space(text, name.end)
                at = _next(text, _value(source, _space(text, colon + 1)).end)
            if text[at] == "}":
                return whole, whole
            at = _space(text, _space(text, name.end) + 1)
        whole = _value(source, at)
    return name, whole


def _value(source: Source, start: int) -> Span:
    return Span(source, start, _DECODER.raw_decode(source.text, start)[1])


def _next(text: str, end: int) -> int:
    """Where the next item begins, behind the comma; else the bracket that closes."""
    at = _space(text, end)
    return _space(text, at + 1) if text[at] == "," else at


def _space(text: str, at: int) -> int:
    blanks = _SPACE.match(text, at)
    assert blanks is not None
    return blanks.end()


def _at(source: Source, place: str) -> Span:
    """`3 column 7`, as the parser says it; it counts bytes."""
    line, _, column = place.partition(" column ")
    lines = source.text.split("\n")
    before = sum(len(text) + 1 for text in lines[: int(line) - 1])
    start = min(before + max(int(column) - 1, 0), max(len(source.text) - 1, 0))
    return Span(source, start, start + 1)
