"""An objective without its terms against a frozen policy, so that its rewards alone are judged."""

from __future__ import annotations

from dataclasses import replace

from objdsl.analysis.dependence import depends
from objdsl.frozen import dataclass
from objdsl.ir.build import neg
from objdsl.ir.nodes import Binary, Expr, LogDist, LogProb, topological
from objdsl.ir.show import Names, names_of, text
from objdsl.objective import Objective


@dataclass(frozen=True)
class Bare:
    """An objective from which terms were taken away, and these as a reader knows them."""

    objective: Objective
    taken: tuple[str, ...]


def without(objective: Objective, policy: str) -> Bare | None:
    """The objective without the summands that read a policy and no reward; the largest of them,
    wherever in the formula they stand. None if there are none, if the policy is read elsewhere,
    too, or if no gradient is left."""
    goal = objective.formula.goal
    taken: dict[Expr, None] = {}
    bare = _without(goal, policy, taken)
    if not taken or _reads(bare, policy) or not _trains(bare):
        return None
    names = names_of(objective.formula.bindings)
    written = tuple(dict.fromkeys(_written(part, names) for part in taken))
    formula = replace(objective.formula, goal=bare, reports=())
    return Bare(Objective(formula, objective.params), written)


def _without(goal: Expr, policy: str, taken: dict[Expr, None]) -> Expr:
    """The formula with the summands left out, which `taken` collects, outermost first."""
    left_out: dict[Expr, Expr] = {}
    stack, seen = [goal], set[Expr]()
    while stack:
        node = stack.pop()
        if node in seen or not _reads(node, policy):
            continue
        seen.add(node)
        match node:
            case Binary("add" | "sub", a, b):
                gone = [x for x in (a, b) if _is_penalty(x, policy)]
                if len(gone) == 1:
                    left_out[node] = gone[0]
                    taken[gone[0]] = None
                if len(gone) < 2:  # `log pi - log ref` under a product is one term, not two
                    stack += [x for x in (a, b) if x not in gone]
            case _:
                stack += node.children
    done: dict[Expr, Expr] = {}
    for node in topological(goal):
        match node:
            case Binary(op, a, b) if node in left_out:
                rest = done[b] if left_out[node] == a else done[a]
                done[node] = neg(rest) if op == "sub" and left_out[node] == a else rest
            case _:
                done[node] = node.rebuilt(done)
    return done[goal]


def _written(x: Expr, names: Names) -> str:
    """A term as it stands in the file, where it has a line of its own there."""
    found = x.span.text if x.span is not None else ""
    return found if found and "\n" not in found else text(x, names)


def _is_penalty(x: Expr, policy: str) -> bool:
    return _reads(x, policy) and not depends(x).expected


def _reads(x: Expr, policy: str) -> bool:
    return any(isinstance(n, LogProb | LogDist) and n.policy == policy for n in topological(x))


def _trains(x: Expr) -> bool:
    return any(isinstance(n, LogProb | LogDist) and n.live for n in topological(x))
