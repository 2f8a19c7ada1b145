"""An objective without its terms against other policies, so that its rewards alone are judged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import objdsl.ir.nodes as n
from objdsl.analysis.values.dependence import depends
from objdsl.audit.cast import Cast, policies_in
from objdsl.frozen import dataclass
from objdsl.ir.build import neg
from objdsl.ir.text import text
from objdsl.ir.writer import Names, names_of
from objdsl.objective import Objective


@dataclass(frozen=True, eq=False)
class Bare:
    """An objective from which terms were taken away, and these."""

    objective: Objective
    terms: tuple[n.Expr, ...]

    @property
    def written(self) -> str:
        """The terms as a reader knows them."""
        names = names_of(self.objective.formula.bindings)
        return " and ".join(dict.fromkeys(f"`{_written(term, names)}`" for term in self.terms))


def without(objective: Objective, policy: str) -> Bare | None:
    """The objective without the summands that read a policy and no reward; the largest of them,
    wherever in the formula they stand. None if there are none, if the policy is read elsewhere,
    too, or if no gradient is left."""
    bare = _without(objective, lambda x: policy in policies_in(*n.topological(x)))
    return bare if bare and policy not in policies_in(*bare.objective.formula.nodes) else None


def apart(objective: Objective, cast: Cast) -> Bare | None:
    """The objective without the summands that hold policies of several layers against each other,
    and read no reward. None if there are none, or if no gradient is left."""
    layers = {"pi", *cast.learners}

    def compares(x: n.Expr) -> bool:
        return len({cast.family(name) for name in policies_in(*n.topological(x))} & layers) > 1

    return _without(objective, compares) if len(layers) > 1 else None


def trained_in(*terms: n.Expr) -> set[str]:
    """The policies that a gradient reaches in some terms."""
    stack, seen = [term for term in terms if term.live], set[n.Expr]()
    while stack:
        node = stack.pop()
        if node not in seen:
            seen.add(node)
            stack += [child for child in node.children if child.live]
    return policies_in(*seen)


def _without(objective: Objective, holds: Callable[[n.Expr], bool]) -> Bare | None:
    """The objective without the summands that read no reward and of which something holds that
    holds of whatever they are part of."""
    goal = objective.formula.goal
    left_out: dict[n.Expr, n.Expr] = {}
    stack, seen = [goal], set[n.Expr]()
    while stack:
        node = stack.pop()
        if node in seen or not holds(node):
            continue
        seen.add(node)
        match node:
            case n.Binary("add" | "sub", a, b):
                gone = [x for x in (a, b) if holds(x) and not depends(x).expected]
                if len(gone) == 1:
                    left_out[node] = gone[0]
                if len(gone) < 2:  # `log pi - log ref` under a product is one term, not two
                    stack += [x for x in (a, b) if x not in gone]
            case _:
                stack += node.children
    done: dict[n.Expr, n.Expr] = {}
    for node in n.topological(goal):
        match node:
            case n.Binary(op, a, b) if node in left_out:
                rest = done[b] if left_out[node] == a else done[a]
                done[node] = neg(rest) if op == "sub" and left_out[node] == a else rest
            case _:
                done[node] = node.rebuilt(done)
    bare = done[goal]
    if not left_out or not any(
        isinstance(x, n.LogProb | n.LogDist) and x.live for x in n.topological(bare)
    ):
        return None
    formula = replace(objective.formula, goal=bare)
    return Bare(Objective(formula, objective.params), tuple(dict.fromkeys(left_out.values())))


def _written(x: n.Expr, names: Names) -> str:
    """A term as it stands in the file, where it has a line of its own there."""
    found = x.span.text if x.span is not None else ""
    return found if found and "\n" not in found else text(x, names)
