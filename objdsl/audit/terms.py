"""Terms against other policies, removed from an objective so that its rewards alone are judged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import objdsl.ir.nodes as n
from objdsl.analysis.values.dependence import depends
from objdsl.audit.roles import Roles
from objdsl.frozen import dataclass
from objdsl.ir.build import neg
from objdsl.ir.text import text
from objdsl.ir.writer import Names, names_of
from objdsl.objective import Objective


@dataclass(frozen=True, eq=False)
class Removal:
    """The objective that is left, and the terms that were removed from it."""

    objective: Objective
    terms: tuple[n.Expr, ...]

    @property
    def written(self) -> str:
        """The terms, as in the file."""
        names = names_of(self.objective.formula.bindings)
        return " and ".join(dict.fromkeys(f"`{_written(term, names)}`" for term in self.terms))


def without_policy(objective: Objective, policy: str) -> Removal | None:
    """The objective without the largest summands that read a policy and no reward, wherever they
    are. None if there are none, if the policy is read elsewhere, too, or if no gradient is left."""
    removal = _remove(objective, lambda x: policy in n.policies_in(*n.topological(x)))
    if removal is None or policy in n.policies_in(*removal.objective.formula.nodes):
        return None
    return removal


def without_layer_terms(objective: Objective, roles: Roles) -> Removal | None:
    """The objective without the summands that compare policies of several layers, and read no
    reward. None if there are none, or if no gradient is left."""
    layers = {"pi", *roles.learners}

    def compares(x: n.Expr) -> bool:
        return len({roles.family(name) for name in n.policies_in(*n.topological(x))} & layers) > 1

    return _remove(objective, compares) if len(layers) > 1 else None


def trained_in(*terms: n.Expr) -> set[str]:
    """The policies that a gradient reaches in some terms."""
    stack, seen = [term for term in terms if term.live], set[n.Expr]()
    while stack:
        node = stack.pop()
        if node not in seen:
            seen.add(node)
            stack += [child for child in node.children if child.live]
    return n.policies_in(*seen)


def _remove(objective: Objective, matches: Callable[[n.Expr], bool]) -> Removal | None:
    """The objective without the matching summands that read no reward.

    Args:
        matches: holds for an expression wherever it holds for a part of it.
    """
    goal = objective.formula.goal
    removed: dict[n.Expr, n.Expr] = {}
    stack, seen = [goal], set[n.Expr]()
    while stack:
        node = stack.pop()
        if node in seen or not matches(node):
            continue
        seen.add(node)
        match node:
            case n.Binary("add" | "sub", a, b):
                summands = [x for x in (a, b) if matches(x) and not depends(x).expected]
                if len(summands) == 1:
                    removed[node] = summands[0]
                if len(summands) < 2:  # `log pi - log ref` under a product is one term, not two
                    stack += [x for x in (a, b) if x not in summands]
            case _:
                stack += node.children
    rebuilt: dict[n.Expr, n.Expr] = {}
    for node in n.topological(goal):
        match node:
            case n.Binary(op, a, b) if node in removed:
                rest = rebuilt[b] if removed[node] == a else rebuilt[a]
                rebuilt[node] = neg(rest) if op == "sub" and removed[node] == a else rest
            case _:
                rebuilt[node] = node.rebuilt(rebuilt)
    left = rebuilt[goal]
    if not removed or not any(
        isinstance(x, n.LogProb | n.LogDist) and x.live for x in n.topological(left)
    ):
        return None
    formula = replace(objective.formula, goal=left)
    return Removal(Objective(formula, objective.params), tuple(dict.fromkeys(removed.values())))


def _written(x: n.Expr, names: Names) -> str:
    """A term as it is in the file, if it is on a single line there."""
    source = x.span.text if x.span is not None else ""
    return source if source and "\n" not in source else text(x, names)
