"""States, schedules and learned numbers are constants while the policy learns from a rollout.

A state is known before the responses to which it is applied are sampled. So the checker and the
audit treat a state of the run as a parameter, at its initial value, and a state of a prompt as a
column of prompts. A learned number is a parameter, too, at its start: the expected gradient with
respect to the policy is that at one value of it, and what it minimises plays no part.
"""

from __future__ import annotations

from dataclasses import replace

import objdsl.ir.nodes as n
from objdsl.ir.declarations import Domain, Parameter
from objdsl.ir.evaluate import Batch, evaluate
from objdsl.ir.interval import Interval
from objdsl.ir.objective import Objective
from objdsl.ir.phases import STEPS


def with_frozen_states(
    objective: Objective, step: int | None = None, around: Interval | None = None
) -> Objective:
    """The objective of one rollout.

    Args:
        step: the number of the rollout; half-way by default, long after any warm-up.
        around: the steps for which what is found is to hold; all by default.
    """
    read = {
        node.name: node
        for node in objective.nodes
        if isinstance(node, n.Column) and not node.over and node.role in _FROZEN
    }
    columns = dict(read)
    defaults = {param.name: param.default for param in objective.params}
    values = {"step": float(STEPS // 2 if step is None else step), "steps": float(STEPS)}
    values |= {number.name: number.start for number in objective.learned}
    for state in objective.states:
        if state.name in read:
            (values[state.name],) = evaluate([state.start], Batch((), ()), defaults)
    if around is not None and "step" in read:
        read["step"] = replace(read["step"], lower=around[0], upper=around[1])
    params = [_parameter(read[name], values[name]) for name in sorted(read)]
    instead: dict[n.Expr, n.Expr] = {
        columns[name]: n.Param(name, column.lower, column.upper) for name, column in read.items()
    }
    changed = replace(objective, dual=None).replaced(instead) if read else objective
    return replace(changed, params=(*objective.params, *params))


_FROZEN = ("state", "clock", "learned")


def _parameter(column: n.Column, start: float) -> Parameter:
    """A state or a learned number at its initial value; if that is 0, at which it will not stay, at
    a later value."""
    domain = Domain(column.lower, column.upper)
    return Parameter(column.name, start or max(domain.two, key=abs), domain)
