"""Phases: the objective between two changes of its conditions on `step`.

`eps = 0.2 if step < 100 else 0.1` has two phases: steps 0 to 99, and from step 100 on.

A condition that reads only `step`, parameters and numbers is decided before anything else looks at
the formula, so that a phase reads no column and no policy that it does not need.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import objdsl.ir.nodes as n
from objdsl.frozen import dataclass
from objdsl.ir import build
from objdsl.ir.build import ONE, ZERO
from objdsl.ir.columns import CLOCK
from objdsl.ir.evaluate import Batch, evaluate
from objdsl.ir.objective import Named, Objective
from objdsl.ir.ops import BINARY, REDUCE

STEPS = 2000
"""The number of rollouts of a run, if a formula reads it and it is not given."""
_SCANNED = 500  # steps at which a condition that is no line in `step` is looked at

Pattern = tuple[bool, ...]


@dataclass(frozen=True)
class Phase:
    """An objective while its conditions on `step` stay as they are.

    Attributes:
        first, last: the steps, of a run of STEPS if it reads `steps`; `last` is None if no other
            phase follows.
    """

    objective: Objective
    first: int = 0
    last: int | None = None
    relative: bool = False

    @property
    def step(self) -> int:
        """A step in the middle, or long after the first one."""
        return max(1000, 2 * self.first) if self.last is None else (self.first + self.last) // 2

    def holds(self, step: int) -> bool:
        return self.first <= step and (self.last is None or step <= self.last)

    def __str__(self) -> str:
        """`steps 0 to 99`, or `0 to 5 % of the run`."""
        if self.last is None and not self.relative:
            return f"from step {self.first} on"
        if not self.relative:
            single = self.first == self.last
            return f"step {self.first}" if single else f"steps {self.first} to {self.last}"
        last = STEPS - 1 if self.last is None else self.last
        first, end = (100 * x / STEPS for x in (self.first, last + 1))
        return f"{first:g} to {end:g} % of the run"


def together(some: Sequence[Phase]) -> str:
    """A description of several phases; consecutive ones are joined."""
    joined: list[Phase] = []
    for phase in some:
        if joined and joined[-1].last is not None and joined[-1].last + 1 == phase.first:
            joined[-1] = replace(joined[-1], last=phase.last)
        else:
            joined.append(phase)
    return ", ".join(map(str, joined))


def conditions(objective: Objective) -> tuple[n.Expr, ...]:
    """The masks that read `step`, and otherwise only `steps`, parameters and numbers; of nested
    ones, the outermost."""
    nodes = objective.nodes
    fixed: set[n.Expr] = set()
    for node in nodes:
        leaf = isinstance(node, n.Const | n.Param) or _is_clock(node)
        if leaf or (isinstance(node, _POINTWISE) and fixed.issuperset(node.children)):
            fixed.add(node)
    timed = n.holding(lambda node: _is_clock(node, "step"), *nodes) & fixed
    decided = {node for node in timed if node.boolean}
    inner = {child for node in decided for child in n.topological(*node.children)}
    return tuple(node for node in nodes if node in decided - inner)


_POINTWISE = n.Unary | n.Binary | n.Clip | n.Where | n.Stop


def _is_clock(node: n.Expr, name: str = "") -> bool:
    return isinstance(node, n.Column) and node.role == "clock" and name in ("", node.name)


def pattern(
    masks: Iterable[n.Expr], step: int, steps: int | None, params: Mapping[str, float]
) -> Pattern:
    """The conditions that hold at a step."""
    clock = {CLOCK["step"].name: step, CLOCK["steps"].name: STEPS if steps is None else steps}
    return tuple(bool(x) for x in evaluate(list(masks), Batch((), (), clock), params))


def phases(objective: Objective) -> tuple[Phase, ...]:
    """The phases of an objective at its parameters' defaults, in order."""
    masks = conditions(objective)
    if not masks:
        return (Phase(objective),)
    params = {param.name: param.default for param in objective.params}
    relative = any(_is_clock(node, "steps") for node in n.topological(*masks))
    last = STEPS - 1 if relative else None
    starts: list[tuple[int, Pattern]] = []
    for step in sorted(_candidates(masks, params)):
        if last is None or step <= last:
            now = pattern(masks, step, None, params)
            if not starts or starts[-1][1] != now:
                starts.append((step, now))
    ends = [*(first - 1 for first, _ in starts[1:]), last]
    return tuple(
        Phase(decided(objective, dict(zip(masks, holds, strict=True))), first, end, relative)
        for (first, holds), end in zip(starts, ends, strict=True)
    )


def _candidates(masks: Iterable[n.Expr], params: Mapping[str, float]) -> Iterator[int]:
    """Steps that include all at which a condition changes; for one that is not linear in `step`,
    the first few hundred."""
    yield 0
    for node in n.topological(*masks):
        if not isinstance(node, n.Binary) or node.op not in n.COMPARISONS:
            continue
        gap = n.Binary("sub", build.real(node.a), build.real(node.b))
        values = []
        for step in (0, 1, 2, 1000):
            clock = {CLOCK["step"].name: step, CLOCK["steps"].name: STEPS}
            values += evaluate([gap], Batch((), (), clock), params)
        slope = values[1] - values[0]
        straight = all(
            math.isclose(y, values[0] + slope * x, rel_tol=1e-9, abs_tol=1e-9)
            for x, y in zip((0, 1, 2, 1000), values, strict=True)
        )
        if not straight:
            yield from range(_SCANNED)
        elif slope:
            root = math.floor(-values[0] / slope)
            yield from range(max(root - 1, 0), max(root + 3, 0))


# --- deciding ------------------------------------------------------------------------------------


def at(objective: Objective, step: int, steps: int | None = None) -> Objective:
    """The objective of the phase that a step is in, at its parameters' defaults."""
    masks = conditions(objective)
    params = {param.name: param.default for param in objective.params}
    return decided(objective, dict(zip(masks, pattern(masks, step, steps, params), strict=True)))


def decided(objective: Objective, holds: Mapping[n.Expr, bool]) -> Objective:
    """The objective in which some masks are replaced by whether they hold."""
    if not holds:
        return objective
    fold = _Fold(holds)
    critic, keep = objective.critic, objective.keep

    def named(many: tuple[Named, ...]) -> tuple[Named, ...]:
        return tuple(replace(part, value=fold(part.value)) for part in many)

    return replace(
        objective,
        goal=fold(objective.goal),
        critic=None if critic is None else fold(critic),
        keep=None if keep is None or fold.mask(keep) is True else fold(keep),
        reports=named(objective.reports),
        bindings=named(objective.bindings),
        calls=named(objective.calls),
    )


class _Fold:
    """Formulas in which masks are decided."""

    def __init__(self, holds: Mapping[n.Expr, bool]) -> None:
        self.holds = dict(holds)
        self.known: dict[n.Expr, n.Expr] = {}

    def __call__(self, root: n.Expr) -> n.Expr:
        return n.bottom_up(root, self.known, self._folded)

    def mask(self, root: n.Expr) -> bool | None:
        """Whether a mask holds, if that is decided."""
        self(root)
        return self.holds.get(root)

    def _folded(self, node: n.Expr) -> n.Expr:
        if node in self.holds:
            return node
        if all(self.known[child] is child for child in node.children) and not any(
            child in self.holds for child in node.children
        ):
            return node
        match node:
            case n.Where(m, a, b) if m in self.holds:
                return self._taken(node, a if self.holds[m] else b)
            case n.Unary("not", m) if m in self.holds:
                return self._decide(node, not self.holds[m])
            case n.Stop(m) if m in self.holds:
                return self._decide(node, self.holds[m])
            case n.Binary("and" | "or" as op, a, b) if a in self.holds or b in self.holds:
                first, other = (a, b) if a in self.holds else (b, a)
                if self.holds[first] is (op == "or"):
                    return self._decide(node, op == "or")
                return self._taken(node, other)
            case n.Reduce(op, over, x, m) if m is not None and m in self.holds:
                empty = build.const(REDUCE[op].empty)
                return n.Reduce(op, over, self.known[x], span=node.span) if self.holds[m] else empty
            case n.Order() | n.Pick():  # they choose among all indices of their operands
                same = {
                    child: self.known[child]
                    for child in node.children
                    if self.known[child].indices == child.indices
                }
                return node.rebuilt(same)
        return _simpler(node.rebuilt(self.known))

    def _taken(self, node: n.Expr, side: n.Expr) -> n.Expr:
        if side in self.holds:
            return self._decide(node, self.holds[side])
        return self.known[side]

    def _decide(self, node: n.Expr, holds: bool) -> n.Expr:
        self.holds[node] = holds
        return node


def _simpler(node: n.Expr) -> n.Expr:
    """A value without the terms that are multiplied by 0, so that they are not computed."""
    match node:
        case n.Binary("add" | "sub" | "mul" as op, n.Const(p), n.Const(q)):
            return build.const(BINARY[op].value(p, q))
        case n.Binary("mul", a, b) if ZERO in (a, b):
            return ZERO
        case n.Binary("mul", a, b) if ONE in (a, b):
            return b if a == ONE else a
        case n.Binary("add", a, b) if ZERO in (a, b):
            return b if a == ZERO else a
        case n.Binary("sub", a, b) if ZERO in (a, b):
            return a if b == ZERO else build.neg(b)
        case n.Binary("div", a, _) if a == ZERO:
            return ZERO
        case n.Unary("neg", x) | n.Stop(x) if x == ZERO:
            return ZERO
        case n.Where(_, a, b) if a == b:
            return a
        case n.Reduce("sum" | "mean" | "max" | "min", _, x) if x == ZERO:
            return ZERO
    return node
