"""Formulas as JSON, and back. This is the boundary, so pydantic checks whatever comes in.

A formula is a graph: `nodes` lists every node once, operands before their users, and an operand is
the place of a node in the list. Sharing survives, and depth costs nothing.
"""

from __future__ import annotations

import dataclasses
from functools import cache
from typing import Annotated, Any, Literal, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, create_model

from objdsl.ir.nodes import NODES, Expr, topological

_NAME = Annotated[str, Field(pattern=r"\A[A-Za-z_][A-Za-z0-9_]*\z", max_length=16 * 1024)]
"""A name of a file: generated code and LaTeX are written with it."""

_BASE = {field.name for field in dataclasses.fields(Expr)}


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="strings")


@cache
def _models() -> dict[type[Expr], type[BaseModel]]:
    """A pydantic model for each kind of node, with places instead of operands."""
    models: dict[type[Expr], type[BaseModel]] = {}
    for kind in NODES:
        hints = get_type_hints(kind)
        fields: dict[str, Any] = {"node": (Literal[kind.__name__], ...)}
        for field in dataclasses.fields(kind):
            if field.name in _BASE:
                continue
            hint = hints[field.name]
            if field.name in ("name", "policy"):
                fields[field.name] = (_NAME, ...)
            elif hint == Expr:
                fields[field.name] = (int, Field(ge=0))
            elif hint == Expr | None:
                fields[field.name] = (int | None, None)
            else:
                default = ... if field.default is dataclasses.MISSING else field.default
                fields[field.name] = (hint, default)
        models[kind] = create_model(kind.__name__, __base__=_Strict, **fields)
    return models


@cache
def _graph() -> TypeAdapter[Any]:
    union: Any = None
    for model in _models().values():
        union = model if union is None else union | model
    graph = create_model(
        "Graph",
        __base__=_Strict,
        version=(Literal[1], 1),
        nodes=(list[union], ...),
        roots=(dict[str, int], ...),
    )
    return TypeAdapter(graph)


def dumps(roots: dict[str, Expr], *, indent: int | None = None) -> str:
    """Named formulas as one JSON text."""
    places: dict[Expr, int] = {}
    nodes: list[BaseModel] = []
    for expr in topological(*roots.values()):
        values: dict[str, Any] = {"node": type(expr).__name__}
        for field in dataclasses.fields(expr):
            if field.name not in _BASE:
                value = getattr(expr, field.name)
                values[field.name] = places[value] if isinstance(value, Expr) else value
        places[expr] = len(nodes)
        nodes.append(_models()[type(expr)](**values))
    graph = {"nodes": nodes, "roots": {name: places[root] for name, root in roots.items()}}
    adapter = _graph()
    return adapter.dump_json(adapter.validate_python(graph), indent=indent).decode()


def loads(text: str) -> dict[str, Expr]:
    """The formulas of a JSON text.

    Raises:
        pydantic.ValidationError: a field is unknown, missing or of the wrong type.
        ValueError: an operand stands after its user, or does not exist.
    """
    graph = _graph().validate_json(text)
    made: list[Expr] = []
    kinds = {kind.__name__: kind for kind in NODES}
    for k, model in enumerate(graph.nodes):
        kind = kinds[model.node]
        hints = get_type_hints(kind)
        values = {}
        for name in type(model).model_fields:
            if name == "node":
                continue
            value = getattr(model, name)
            if hints[name] in (Expr, Expr | None) and value is not None:
                if not 0 <= value < k:
                    raise ValueError(f"node {k} has the operand {value}, which is not before it")
                value = made[value]
            values[name] = value
        made.append(kind(**values))
    for name, place in graph.roots.items():
        if not 0 <= place < len(made):
            raise ValueError(f"the root {name!r} is node {place}, which does not exist")
    return {name: made[place] for name, place in graph.roots.items()}


def schema() -> dict[str, Any]:
    """The JSON schema of what `dumps` writes."""
    return _graph().json_schema()
