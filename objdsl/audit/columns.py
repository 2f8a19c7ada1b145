"""The columns that an objective declares with `given`, as tables of the small language."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import isfinite
from typing import Literal

import torch
from torch import Tensor

from objdsl.audit.instance import UnauditableError
from objdsl.audit.plan import Plan
from objdsl.audit.world import World
from objdsl.ir.columns import IDS, Data, State, column_of
from objdsl.ir.declarations import Domain
from objdsl.ir.indices import PROMPT, RESPONSE, TOKEN, VOCAB, Indices
from objdsl.ir.nodes import Binary, Column, Const, Param, Peers, topological
from objdsl.objective import Objective

Given = float | Literal["random"] | Callable[[tuple[int, ...]], float]
"""A column: a number, random numbers, or a function of tokens (0 is EOS). For a column of responses
these are the response's; for one of tokens, those up to the token, or before it for one that is
known `before t`; for one of the vocabulary, those before a token and the vocabulary entry."""

_SHAPES: dict[Indices, Callable[[World], tuple[int, ...]]] = {
    PROMPT: lambda world: (1,),
    RESPONSE: lambda world: (world.responses,),
    TOKEN: lambda world: (world.responses, world.horizon),
    VOCAB: lambda world: (world.responses, world.horizon, world.vocabulary),
}


def tables_of(objective: Objective, plan: Plan, given: Mapping[str, Given]) -> dict[str, Tensor]:
    """The tables of the declared columns that are not rewards: `[P, Y]`, or `[P, 1]` for prompts,
    `[P, Y, T]` for tokens and `[P, Y, T, K]` for the vocabulary. States of prompts that are not
    given are random.

    Raises UnauditableError for a column that is not given, or outside of its domain.
    """
    generator = torch.Generator().manual_seed(plan.seed - 1)
    world = plan.world
    tables: dict[str, Tensor] = {}
    keys = keys_of(objective)
    branch = objective.sample.branch
    for name, column in _declared(objective).items():
        if plan.tree is not None and branch is not None and name == branch.name:
            if name in given:
                raise UnauditableError(
                    f"the column {name!r} says which responses share tokens: it is that of the "
                    "tree that the audit draws from, and cannot be given"
                )
            parts = plan.tree.nodes if branch.of_tokens else plan.tree.trees
            tables[name] = parts.expand(plan.prompts, *parts.shape)
            continue
        if name not in given and column.role != "state":
            raise UnauditableError(
                f"{objective.name} reads the column {name!r}: pass a number, or `random`, as in "
                f"--given {name}=random (in Python also a function of the response's tokens)"
            )
        shape = (plan.prompts, *_SHAPES[column.over](world))
        if name in plan.slots:
            shape = (plan.prompts, plan.group)
        value = given.get(name, "random")
        if value == "random":
            table = torch.rand(shape, dtype=torch.float64, generator=generator)
            if is_bounded(column):
                table = in_domain(column, torch.special.ndtri(table))
            elif name in keys:
                table = (2 * table).floor()  # of continuous numbers each would be alone
            table = _as_known(column, table, world)
        elif callable(value) and name in plan.slots:
            raise UnauditableError(
                f"the column {name!r} is known before the response is drawn, so it is no function "
                "of its tokens: pass a number, or `random`"
            )
        elif callable(value):
            table = _of_responses(column, world, value).expand(shape)
        else:
            table = torch.full(shape, float(value), dtype=torch.float64)
        domain = plan.domains.get(name, Domain())
        of_tokens = column.over in (TOKEN, VOCAB) and name not in plan.slots
        drawn = table[:, world.mask] if of_tokens else table
        outside = [x for x in drawn.flatten().tolist() if not domain.holds(x)]
        if outside:
            raise UnauditableError(
                f"the column {name!r} is {outside[0]:g}, outside of its domain {domain}"
            )
        tables[name] = table
    if IDS.name in objective.columns:
        ids = _ids(objective, world.vocabulary)
        tables[IDS.name] = ids[world.tokens].expand(plan.prompts, *world.tokens.shape)
    return tables


def _ids(objective: Objective, vocabulary: int) -> Tensor:
    """The id of each entry of the vocabulary: those that the formula asks for, from the first
    entry that is not EOS, and others that it does not ask for."""
    ids: set[float] = set()
    for node in objective.formula.nodes:
        match node:
            case Binary("eq" | "ne", Column(role="ids"), Const(value)):
                ids.add(value)
            case Binary("eq" | "ne", Column(role="ids"), Param(name)):
                ids.add(float(objective.params[name]))
    others = (x for x in map(float, range(vocabulary + len(ids))) if x not in ids)
    entries = [*sorted(ids)[:vocabulary], *others][:vocabulary]
    return torch.tensor([entries[-1], *entries[:-1]], dtype=torch.float64)


def _declared(objective: Objective) -> dict[str, Column]:
    nodes = (node for node in objective.formula.nodes if isinstance(node, Column))
    return {node.name: node for node in nodes if isinstance(column_of(node).role, Data | State)}


def keys_of(objective: Objective) -> set[str]:
    """The columns by which reductions group."""
    keys = (key for node in objective.formula.nodes if isinstance(node, Peers) for key in node.keys)
    return {node.name for node in topological(*keys) if isinstance(node, Column)}


def _as_known(column: Column, table: Tensor, world: World) -> Tensor:
    """Random numbers of tokens as a function of what the column is known with: of the prefix, or of
    that and the token. Those of the last token are as many as responses."""
    if column.over != TOKEN or column.known not in ("before t", "at t"):
        return table
    places = torch.arange(table.shape[1] * table.shape[2]).view(table.shape[1:])
    key = (
        world.state
        if column.known == "before t"
        else (world.state * world.vocabulary + world.tokens)
    )
    first = torch.full((int(key.max()) + 1,), places.numel()).scatter_reduce(
        0, key[world.mask], places[world.mask], "amin"
    )
    return table.flatten(1)[:, torch.where(world.mask, first[key], 0)]


def _of_responses(
    column: Column, world: World, function: Callable[[tuple[int, ...]], float]
) -> Tensor:
    """A column that is a function of tokens: `[Y]`, `[Y, T]` or `[Y, T, K]`; 0 in the padding."""
    rows = zip(world.tokens.tolist(), world.lengths.tolist(), strict=True)
    responses = [tuple(row[:length]) for row, length in rows]
    if column.over == PROMPT:
        raise UnauditableError(
            f"the column {column.name!r} is of a prompt, which has no tokens here: pass a number, "
            "or `random`"
        )
    if column.over == RESPONSE:
        return torch.tensor([float(function(y)) for y in responses], dtype=torch.float64)
    table = torch.zeros(_SHAPES[column.over](world), dtype=torch.float64)
    for k, y in enumerate(responses):
        for t in range(len(y)):
            if column.over == TOKEN:
                table[k, t] = float(function(y[: t + (column.known != "before t")]))
            else:
                entries = [float(function((*y[:t], v))) for v in range(world.vocabulary)]
                table[k, t] = table.new_tensor(entries)
    return table


def in_domain(column: Column | Domain, normal: Tensor) -> Tensor:
    """Normally distributed numbers, mapped into a domain, or that of a column."""
    quantile = torch.special.ndtr(normal)
    if column.values:
        values = torch.tensor(sorted(set(column.values)), dtype=torch.float64)
        index = (quantile * len(values)).long().clamp(max=len(values) - 1)
        chosen: Tensor = values[index]
        return chosen
    if isfinite(column.lower) and isfinite(column.upper):
        uniform: Tensor = quantile * (column.upper - column.lower)
        return uniform + column.lower
    if isfinite(column.lower):
        exponential: Tensor = -torch.log1p(-quantile)
        return exponential + column.lower
    if isfinite(column.upper):
        return column.upper + torch.log(quantile)
    return normal


def is_bounded(column: Column) -> bool:
    """Whether a domain is declared, so that the column cannot be shifted by a constant."""
    return bool(column.values) or isfinite(column.lower) or isfinite(column.upper)
