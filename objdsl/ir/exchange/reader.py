"""Reading an objective from JSON."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields
from typing import Any

from pydantic import ValidationError

from objdsl.diagnostic import Diagnostic, near
from objdsl.errors import ObjectiveError
from objdsl.frozen import dataclass
from objdsl.ir import schema
from objdsl.ir.columns import CLOCK, column_of
from objdsl.ir.declarations import (
    BUILT_IN_POLICIES,
    Branch,
    Declared,
    Domain,
    Learned,
    Parameter,
    Policy,
    Sampling,
    State,
)
from objdsl.ir.exchange.faults import (
    KINDS,
    MOST_ERRORS,
    diagnosed,
    malformed,
    shown,
    suggestion,
    written,
)
from objdsl.ir.exchange.places import Path, key, place
from objdsl.ir.exchange.writer import OWN_ROLES
from objdsl.ir.nodes import NODES, Column, Expr, fields_of, topological
from objdsl.ir.objective import Named, Objective
from objdsl.source import Source, Span

_HINTS = ("Expr", "Expr | None", "tuple[Expr, ...]")
_OPERANDS = {
    kind: tuple(field.name for field in fields(kind) if field.init and field.type in _HINTS)
    for kind in NODES
}


@dataclass(frozen=True)
class Loaded:
    """An objective from a JSON, and the places of its nodes."""

    objective: Objective
    places: Mapping[Expr, int]
    json: Source

    def span(self, node: Expr) -> Span:
        return place(self.json, ("nodes", self.places[node]))


def loads(source: Source) -> Loaded:
    """The objective of a JSON.

    Raises:
        ObjectiveError: with every mistake in it.
    """
    try:
        model = schema.Objective.model_validate_json(source.text)
    except ValidationError as failure:
        raise ObjectiveError(diagnosed(source, failure)) from None
    nodes = _nodes(source, model.nodes)
    errors = [*_beyond(source, model), *_undeclared(source, model)]
    errors += _stateless(source, model) if not errors else ()
    if errors:
        raise ObjectiveError(errors[:MOST_ERRORS])

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
        options = model.sampling.model_dump()
        branch = options.pop("branch")
        options["branch"] = None if branch is None else Branch(**branch)
        sampling = Sampling(**options, span=Span(source, 0, 1))
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
        learned=tuple(
            Learned(nodes[x.column], x.start, Domain(**x.domain.model_dump()))  # type: ignore[arg-type]
            for x in model.learned
        ),
        dual=None if model.dual is None else nodes[model.dual],
    )
    places = {node: k for k, node in reversed([*enumerate(nodes)])}
    return Loaded(objective, places, source)


def _nodes(source: Source, models: Iterable[Any]) -> list[Expr]:
    """The nodes of a list, each made from those before it."""
    nodes: list[Expr] = []
    for k, model in enumerate(models):
        kind = KINDS[model.node]
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
    """References to places outside the list."""
    for path, at in _roots(model):
        if at >= len(model.nodes):
            message = f"`{written(path)}` is node {at}, and there are {len(model.nodes)}"
            yield malformed(message, place(source, path), "nodes are counted from 0")


_TABLES = {"state": "states", "learned": "learned"}


def _stateless(source: Source, model: schema.Objective) -> Iterator[Diagnostic]:
    """Columns of role `state` or `learned` without a declaration, and declarations of other
    columns."""
    columns = {
        "state": [state.column for state in model.states],
        "learned": [number.column for number in model.learned],
    }
    declared = {model.nodes[column] for table in columns.values() for column in table}
    for role, table in columns.items():
        for k, column in enumerate(table):
            node = model.nodes[column]
            if not isinstance(node, schema.Column) or node.role != role:
                where = place(source, (_TABLES[role], k, "column"))
                yield malformed(f"node {column} is no Column of role `{role}`", where)
    for k, node in enumerate(model.nodes):
        if not isinstance(node, schema.Column):
            continue
        where = place(source, ("nodes", k, "name"))
        if node.role in _TABLES and node not in declared:
            what = "state of `states`" if node.role == "state" else "number of `learned`"
            yield malformed(f"`{shown(node.name)}` is no {what}", where)
        if node.role == "clock" and node.name not in CLOCK:
            guess = suggestion(near(node.name, CLOCK), CLOCK)
            yield malformed(f"`{shown(node.name)}` is no number of rollouts", where, guess)


def _undeclared(source: Source, model: schema.Objective) -> Iterator[Diagnostic]:
    """The names that are not declared."""
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
    wanted += [
        (("policies", k, "layer"), policy.layer, "parameter of `params`", params)
        for k, policy in enumerate(model.policies)
        if isinstance(policy.layer, str)
    ]
    for path, name, what, known in wanted:
        if name not in known:
            where = key(source, path) if path[0] == "domains" else place(source, path)
            guess = suggestion(near(name, known), known)
            yield malformed(f"`{shown(name)}` is no {what}", where, guess if known else "")


def _roots(model: schema.Objective) -> Iterator[tuple[Path, int]]:
    for name in ("goal", "critic", "dual", "keep"):
        if (at := getattr(model, name)) is not None:
            yield (name,), at
    for k, state in enumerate(model.states):
        for name in ("column", "start", "next"):
            yield ("states", k, name), getattr(state, name)
    for k, number in enumerate(model.learned):
        yield ("learned", k, "column"), number.column
    for table in ("reports", "bindings", "weights"):
        for name, at in getattr(model, table).items():
            yield (table, name), at
