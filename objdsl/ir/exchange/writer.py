"""An objective as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from objdsl.ir import schema
from objdsl.ir.columns import column_of
from objdsl.ir.declarations import Branch, Domain, Parameter, Policy, Sampling
from objdsl.ir.nodes import Column, Expr, Param, fields_of, topological
from objdsl.ir.objective import Objective

OWN_ROLES = ("state", "clock", "learned")
"""The roles of columns that are not data, and have no declared domain of data."""


def dumps(objective: Objective, weights: Mapping[str, Expr] | None = None) -> str:
    """An objective as JSON, one line per node. Parameters that nothing reads, which a base may
    declare, are left out.

    Args:
        objective: of any text.
        weights: the derivatives of its goal, by the column that each belongs to.
    """
    weights = weights or {}
    named = {binding.name: binding.value for binding in objective.bindings}
    places: dict[Expr, int] = {}
    nodes: list[dict[str, Any]] = []
    states = [x for state in objective.states for x in (state.column, state.start, state.next)]
    states += [number.column for number in objective.learned]
    for expr in topological(*objective.roots, *states, *named.values(), *weights.values()):
        values = ((name, getattr(expr, name)) for name in fields_of(type(expr)))
        node = {name: _placed(x, places) for name, x in values}
        places[expr] = len(nodes)
        nodes.append({"node": type(expr).__name__} | node)
    columns = [node for node in places if isinstance(node, Column)]
    params = {node.name for node in places if isinstance(node, Param)}
    params |= objective.layer_params
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
            "learned": tuple(
                {
                    "column": places[number.column],
                    "start": number.start,
                    "domain": _plain(number.domain),
                }
                for number in objective.learned
            ),
            "dual": None if objective.dual is None else places[objective.dual],
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


def _plain(record: Parameter | Domain | Policy | Sampling | Branch) -> dict[str, Any]:
    """The fields of a declaration, without its place in the text."""
    values = {field.name: getattr(record, field.name) for field in fields(record) if field.compare}
    return {name: _plain(x) if isinstance(x, Domain | Branch) else x for name, x in values.items()}
