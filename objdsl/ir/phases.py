"""Phases: the objective between two changes of its conditions on `step`.

`eps = 0.2 if step < 100 else 0.1` has two phases: steps 0 to 99, and from step 100 on.

A condition that reads only `step`, parameters and numbers is decided before anything else looks at
the formula, so that a phase reads no column and no policy that it does not need. A phase also ends
where a number of this kind changes its sign: what `1 - step / 200` multiplies is raised up to step
199, and lowered from step 201 on.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import objdsl.ir.nodes as n
from objdsl.frozen import dataclass
from objdsl.ir import build
from objdsl.ir.bounds import bounds
from objdsl.ir.columns import CLOCK
from objdsl.ir.decide import decided
from objdsl.ir.evaluate import Batch, evaluate
from objdsl.ir.interval import Interval
from objdsl.ir.objective import Objective
from objdsl.ir.ops import BINARY

STEPS = 2000
"""The number of rollouts of a run, if a formula reads it and it is not given."""
_LONGEST = 1_000_000  # steps that are looked at
_POWERS = [2**k for k in range(20)]
_MOST_INTERVALS = 800  # after which a search for changes of a sign ends
_SHOWN = 4  # ranges of steps that are named

Pattern = tuple[bool, ...]


Steps = tuple[int, int | None]  # the first and the last; None if no other follow


@dataclass(frozen=True)
class Phase:
    """An objective while its conditions on `step`, and the signs of its schedules, do not change.

    Attributes:
        ranges: the steps, in order, of a run of STEPS if it reads `steps`.
        relative: whether it reads `steps`.
        drifted: whether it begins where only the sign of a schedule changes, and never ends: a
            run may be over before.
    """

    objective: Objective
    ranges: tuple[Steps, ...] = ((0, None),)
    relative: bool = False
    drifted: bool = False

    @property
    def first(self) -> int:
        return self.ranges[0][0]

    @property
    def end(self) -> float:
        """The last step; infinity if no other phase follows."""
        return max(math.inf if last is None else last for _, last in self.ranges)

    @property
    def step(self) -> int:
        """A step in the middle of the longest range, or long after the beginning of the last."""
        first, last = max(self.ranges, key=_length)
        return max(1000, 2 * first) if last is None else (first + last) // 2

    @property
    def around(self) -> tuple[float, float]:
        """The first and the last step of the range that `step` is in."""
        first, last = max(self.ranges, key=_length)
        return float(first), math.inf if last is None else float(last)

    def holds(self, step: int) -> bool:
        return any(first <= step and (last is None or step <= last) for first, last in self.ranges)

    def __str__(self) -> str:
        """`steps 0 to 99`, or `0 to 5 % of the run`."""
        return together([self])


def _length(steps: Steps) -> float:
    first, last = steps
    return math.inf if last is None else last - first


def together(some: Sequence[Phase]) -> str:
    """A description of several phases; consecutive ones are joined."""
    joined: list[Steps] = []
    for first, last in sorted((x for phase in some for x in phase.ranges), key=lambda x: x[0]):
        if joined and joined[-1][1] is not None and joined[-1][1] + 1 == first:
            joined[-1] = joined[-1][0], last
        else:
            joined.append((first, last))
    words = [_in_words(steps, some[0].relative) for steps in joined[:_SHOWN]]
    return ", ".join(words) + (" and so on" if len(joined) > _SHOWN else "")


def _in_words(steps: Steps, relative: bool) -> str:
    first, last = steps
    if relative:
        end = STEPS - 1 if last is None else last
        return f"{100 * first / STEPS:g} to {100 * (end + 1) / STEPS:g} % of the run"
    if last is None:
        return f"from step {first} on"
    return f"step {first}" if first == last else f"steps {first} to {last}"


@dataclass(frozen=True)
class Phases:
    """The phases of an objective.

    Attributes:
        every: in the order of their first steps.
        known: how many steps of a run were looked at; None if all are decided.
        loose: the schedules whose signs change within phases, because conditions count rollouts
            and these schedules parts of a run, or the reverse.
    """

    every: tuple[Phase, ...]
    known: int | None = None
    loose: tuple[n.Expr, ...] = ()


def conditions(objective: Objective) -> tuple[n.Expr, ...]:
    """The masks that read `step`, and otherwise only `steps`, parameters and numbers; of nested
    ones, the outermost."""
    return _largest(objective.nodes, lambda node: node.boolean)


def schedules(objective: Objective) -> tuple[n.Expr, ...]:
    """The numbers in what is maximised that read the same; of nested ones, the outermost. The two
    bounds of a clip count as their difference."""
    widths = [
        n.Binary("sub", node.hi, node.lo, span=node.span)
        for node in objective.nodes
        if isinstance(node, n.Clip)
    ]
    goals = [x for x in (objective.goal, objective.critic) if x is not None]
    largest = _largest(n.topological(*goals, *widths), lambda _: True)
    return tuple(node for node in largest if not node.boolean)


def _largest(nodes: tuple[n.Expr, ...], wanted: Callable[[n.Expr], bool]) -> tuple[n.Expr, ...]:
    """The wanted nodes that read `step`, and otherwise only `steps`, parameters and numbers; of
    nested ones, the outermost."""
    fixed: set[n.Expr] = set()
    for node in nodes:
        leaf = isinstance(node, n.Const | n.Param) or _is_clock(node)
        if leaf or (isinstance(node, _POINTWISE) and fixed.issuperset(node.children)):
            fixed.add(node)
    timed = n.holding(lambda node: _is_clock(node, "step"), *nodes) & fixed
    chosen = {node for node in timed if wanted(node)}
    inner = {child for node in chosen for child in n.topological(*node.children)}
    return tuple(node for node in nodes if node in chosen - inner)


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
    return phases_of(objective).every


def phases_of(objective: Objective) -> Phases:
    """The phases of an objective, and up to which step they are known."""
    masks, numbers = conditions(objective), schedules(objective)
    if not masks and not numbers:
        return Phases((Phase(objective),))
    params = {param.name: param.default for param in objective.params}
    search = _Search(params)
    turning = [x for x in numbers if _turns(x, search, params)]
    relative = any(map(reads_steps, masks or turning[:1]))
    counted = [x for x in turning if reads_steps(x) is relative]
    loose = tuple(x for x in turning if reads_steps(x) is not relative)
    turns = {0} | {step for gap in (*_gaps(masks), *counted) for step in search.turns(gap)}
    last = STEPS - 1 if relative else None
    end = min(math.inf if last is None else last + 1, search.known or math.inf)
    ranges = _ranges(sorted(step for step in turns if step < end), last, masks, counted, params)
    steps: dict[tuple[Pattern, Signs], list[Steps]] = {}
    for part in ranges:
        steps.setdefault((part.holds, part.signs), []).append(part.steps)
    if len(steps) == 1 and not masks:
        return Phases((Phase(objective),), search.known, loose)
    whole = {holds: decided(objective, dict(zip(masks, holds, strict=True))) for holds, _ in steps}
    alike = Counter(holds for holds, _ in steps)
    every = tuple(
        Phase(whole[holds], tuple(some), relative, _is_drifted(some) and alike[holds] > 1)
        for (holds, _), some in steps.items()
    )
    return Phases(every, search.known, loose)


def _turns(x: n.Expr, search: _Search, params: Mapping[str, float]) -> bool:
    """Whether the sign of a schedule changes."""
    parts = _ranges(sorted(search.turns(x)), _LONGEST, (), (x,), params)
    return len({part.signs for part in parts}) > 1


def _is_drifted(steps: Sequence[Steps]) -> bool:
    return len(steps) == 1 and steps[0][0] > 0 and steps[0][1] is None


def reads_steps(x: n.Expr) -> bool:
    """Whether a value counts parts of a run, and not rollouts."""
    return any(_is_clock(node, "steps") for node in n.topological(x))


def _gaps(masks: Iterable[n.Expr]) -> list[n.Expr]:
    """The differences whose signs decide the comparisons in some masks."""
    return [
        n.Binary("sub", build.real(node.a), build.real(node.b))
        for node in n.topological(*masks)
        if isinstance(node, n.Binary) and node.op in n.COMPARISONS
    ]


Signs = tuple[int, ...]


@dataclass(frozen=True)
class _Part:
    """Consecutive steps at which the same conditions hold, and schedules have the same signs."""

    steps: Steps
    holds: Pattern
    signs: Signs


def _ranges(
    turns: Sequence[int],
    last: int | None,
    masks: Sequence[n.Expr],
    numbers: Sequence[n.Expr],
    params: Mapping[str, float],
) -> list[_Part]:
    """The steps between turns. A schedule that is 0 at a single step keeps the sign that it had
    before, or at step 0 takes the one that follows."""
    parts: list[_Part] = []
    for first, after in zip(turns, [*turns[1:], None], strict=True):
        end = last if after is None else after - 1
        clock = {CLOCK["step"].name: first, CLOCK["steps"].name: STEPS}
        values = evaluate([*masks, *numbers], Batch((), (), clock), params)
        signs = tuple(_sign(x) for x in values[len(masks) :])
        parts.append(_Part((first, end), tuple(map(bool, values[: len(masks)])), signs))
    parts = _joined(parts)
    for k, part in enumerate(parts):
        if part.steps[0] == part.steps[1] and 0 in part.signs and len(parts) > 1:
            beside = parts[k - 1 if k else 1].signs
            pairs = zip(part.signs, beside, strict=True)
            parts[k] = replace(part, signs=tuple(x or y for x, y in pairs))
    return _joined(parts)


def _joined(parts: Iterable[_Part]) -> list[_Part]:
    """The parts, with consecutive ones of the same kind joined."""
    joined: list[_Part] = []
    for part in parts:
        if joined and (joined[-1].holds, joined[-1].signs) == (part.holds, part.signs):
            joined[-1] = replace(part, steps=(joined[-1].steps[0], part.steps[1]))
        else:
            joined.append(part)
    return joined


def _sign(x: float) -> int:
    return (x > 0) - (x < 0)


# --- where formulas of `step` turn ---------------------------------------------------------------


class _Search:
    """Finds the steps at which formulas of `step` change their signs, by interval arithmetic:
    whole ranges of steps are excluded at once.

    Args:
        params: the values of the parameters.

    Attributes:
        known: how many steps were looked at before a search was given up; None if none was.
    """

    def __init__(self, params: Mapping[str, float]) -> None:
        self.params = params
        self.known: int | None = None

    def turns(self, x: n.Expr) -> Iterator[int]:
        """Steps that include all at which the sign of a number differs from that before."""
        last = STEPS - 1 if reads_steps(x) else _LONGEST
        waiting = [(size, min(2 * size - 1, last)) for size in _POWERS if size <= last]
        waiting = [*reversed(waiting), (0, 0)]
        for _ in range(_MOST_INTERVALS):
            if not waiting:
                return
            first, end = waiting.pop()
            low, high = self._bounds(x, first, end)
            if low > 0 or high < 0 or low == high == 0 or first == end:
                yield first
            else:
                middle = (first + end) // 2
                waiting += [(middle + 1, end), (first, middle)]
        if waiting:
            self.known = min(waiting[-1][0], self.known or waiting[-1][0])

    def _bounds(self, x: n.Expr, first: int, last: int) -> Interval:
        done: dict[n.Expr, n.Expr] = {}
        for node in n.topological(x):
            if isinstance(node, n.Param):
                done[node] = build.const(self.params[node.name])
            elif _is_clock(node, "step"):
                done[node] = n.Param("step", float(first), float(last))
            elif _is_clock(node, "steps"):
                done[node] = build.const(STEPS)
            else:
                other = done[node] = node.rebuilt(done)
                if isinstance(other, n.Where) and (holds := _surely(other.m)) is not None:
                    done[node] = other.a if holds else other.b
        return bounds(done[x])


def _surely(mask: n.Expr) -> bool | None:
    """Whether a mask holds, if the bounds of what it compares decide that."""
    match mask:
        case n.Unary("not", x):
            return None if (holds := _surely(x)) is None else not holds
        case n.Binary("and" | "or" as op, a, b):
            sides = {_surely(a), _surely(b)}
            if (op == "or") in sides:
                return op == "or"
            return None if None in sides else op == "and"
        case n.Binary("lt" | "le" | "gt" | "ge" as op, a, b):
            low, high = bounds(n.Binary("sub", build.real(a), build.real(b)))
            signs = {_sign(low), _sign(high)} | ({0} if low < 0 < high else set())
            results = {bool(BINARY[op].value(float(sign), 0.0)) for sign in signs}
            return results.pop() if len(results) == 1 else None
    return None


# --- deciding ------------------------------------------------------------------------------------


def at(objective: Objective, step: int, steps: int | None = None) -> Objective:
    """The objective of the phase that a step is in, at its parameters' defaults."""
    masks = conditions(objective)
    params = {param.name: param.default for param in objective.params}
    return decided(objective, dict(zip(masks, pattern(masks, step, steps, params), strict=True)))
