"""The mathematical differences of two objectives: layout, order and names do not count."""

from __future__ import annotations

from collections import deque
from dataclasses import fields, replace

from objdsl.frozen import dataclass
from objdsl.ir.declarations import Branch, Sampling
from objdsl.ir.indices import decimal
from objdsl.ir.nodes import Expr, Param, topological
from objdsl.ir.objective import Named, Objective
from objdsl.ir.text import Text
from objdsl.ir.writer import Names, names_of, used

_ORDER = ("param", "policy", "given", "state", "learn", "sample", "define", "maximize", "minimize")


@dataclass(frozen=True, slots=True)
class Change:
    """One line that the two do not share. None where one of them has no such line."""

    left: str | None
    right: str | None


def diff(left: Objective, right: Objective) -> tuple[Change, ...]:
    """The parameters, policies, sampling, definitions and goals that differ; empty if none do.

    Definitions are compared by their formulas: `r = pi / old` in one file and `pi / old` written
    out in the other are the same. So are parameters with the same value and domain at the same
    places.
    """
    right, _ = aligned(left, right)
    names = _names(names_of(left.bindings), names_of(right.bindings))
    tables = _lines(left, names[0]), _lines(right, names[1])
    changes = []
    labels = dict.fromkeys([*tables[0], *tables[1]])
    for label in sorted(labels, key=lambda label: _ORDER.index(label.split()[0])):
        a, b = (table.get(label) for table in tables)
        if a != b:
            changes.append(Change(a, b))
    return tuple(changes)


def renamed(left: Objective, right: Objective) -> dict[str, str]:
    """The other names of the right side for parameters and definitions that `diff` shows under the
    left side's names."""
    alike, _ = aligned(left, right)
    params = {a.name: b.name for a, b in zip(alike.params, right.params, strict=True)}
    ours, theirs = names_of(left.bindings), names_of(right.bindings)
    theirs = dict(zip(names_of(alike.bindings), theirs.values(), strict=True))
    goals = [x for x in (left.goal, left.critic, left.dual) if x is not None]
    shared = {name: theirs[node] for name, node in used(ours, *goals) if node in theirs}
    return {here: there for here, there in (params | shared).items() if here != there}


def aligned(left: Objective, right: Objective) -> tuple[Objective, dict[str, str]]:
    """The right side with the left side's names for parameters at the same places, and these names:
    the left's, the right's.

    Equal whole goals decide first, then formulas with the same name on both sides, then other equal
    formulas; of each kind, the larger ones.
    """
    shapes = _shapes(left), _shapes(right)
    alike: dict[Expr, deque[Expr]] = {}
    for node in reversed(shapes[1]):
        alike.setdefault(shapes[1][node], deque()).append(node)
    pairs = [(left.goal, right.goal)] if shapes[0][left.goal] == shapes[1][right.goal] else []
    nodes = [node for node in reversed(shapes[0]) if not isinstance(node, Param)]
    pairs += [(x, x) for x in nodes if shapes[0][x] == shapes[1].get(x)]
    for node in nodes:
        if others := alike.get(shapes[0][node]):
            pairs.append((node, others.popleft()))
    there = _layers(left, right)
    here = {b: a for a, b in there.items()}
    matched: set[Expr] = set()
    for node, other in pairs:
        pairing = None if node in matched else _paired(node, other, there, here)
        if pairing is not None:
            there |= pairing
            here |= {b: a for a, b in pairing.items()}
            matched.update(topological(node))
    return _with_params(right, here), there


def _layers(left: Objective, right: Objective) -> dict[str, str]:
    """The parameters of one value and domain that say which layer the same policy is read off."""
    meant = _meant(left), _meant(right)
    layers = {policy.name: policy.layer for policy in right.policies}
    partners: dict[str, str] = {}
    for policy in left.policies:
        mine, its = policy.layer, layers.get(policy.name)
        if not isinstance(mine, str) or not isinstance(its, str):
            continue
        is_new = mine not in partners and its not in partners.values()
        if is_new and meant[0][mine] == meant[1][its]:
            partners[mine] = its
    return partners


def _meant(objective: Objective) -> dict[str, str]:
    """The value and the domain of each parameter that is read."""
    return {p.name: f"{decimal(p.default)} in {p.domain}" for p in objective.used_params}


def _shapes(objective: Objective) -> dict[Expr, Expr]:
    """All nodes, with parameters named after their value and domain; the goal comes last."""
    meant = _meant(objective)
    shapes: dict[Expr, Expr] = {}
    for node in topological(*objective.memory, *reversed(objective.roots)):
        shapes[node] = _called(node, meant, shapes)
    return shapes


def _called(node: Expr, names: dict[str, str], done: dict[Expr, Expr]) -> Expr:
    """A node whose operands have renamed parameters already."""
    return replace(node, name=names[node.name]) if isinstance(node, Param) else node.rebuilt(done)


def _paired(
    left: Expr, right: Expr, there: dict[str, str], here: dict[str, str]
) -> dict[str, str] | None:
    """Which parameters of the right side correspond to those of the left, in two formulas of the
    same shape; None if one of them would have two names.

    Args:
        there: the known names of the left side's parameters; `here` those of the right's.
    """
    partners: dict[str, str] = {}
    back: dict[str, str] = {}
    stack, seen = [(left, right)], {(left, right)}
    while stack:
        a, b = stack.pop()
        if isinstance(a, Param) and isinstance(b, Param):
            mine = there.get(a.name) or partners.setdefault(a.name, b.name)
            its = here.get(b.name) or back.setdefault(b.name, a.name)
            if (mine, its) != (b.name, a.name):
                return None
        stack += [two for two in zip(a.children, b.children, strict=True) if two not in seen]
        seen.update(stack)
    return partners


def _with_params(objective: Objective, names: dict[str, str]) -> Objective:
    """The same objective with other names for some parameters; other things that have such a name
    are marked with a prime."""
    taken = {new for old, new in names.items() if new != old}

    def free(name: str) -> str:
        return f"{name}'" if name in taken else name

    called = {p.name: names.get(p.name) or free(p.name) for p in objective.params}
    new: dict[Expr, Expr] = {}
    bound = (binding.value for binding in objective.bindings)
    for node in topological(*objective.roots, *objective.memory, *bound):
        new[node] = _called(node, called, new)
    return replace(
        objective,
        goal=new[objective.goal],
        critic=objective.critic and new[objective.critic],
        dual=objective.dual and new[objective.dual],
        keep=objective.keep and new[objective.keep],
        reports=tuple(replace(report, value=new[report.value]) for report in objective.reports),
        states=tuple(
            replace(state, start=new[state.start], next=new[state.next])
            for state in objective.states
        ),
        params=tuple(replace(p, name=called[p.name]) for p in objective.params),
        policies=tuple(
            replace(policy, layer=called.get(str(policy.layer), policy.layer))
            for policy in objective.policies
        ),
        bindings=tuple(Named(free(b.name), new[b.value]) for b in objective.bindings),
    )


def _names(left: Names, right: Names) -> tuple[Names, Names]:
    """The names that each side is written with: the same for what both name, and never one name for
    two things."""
    only_left = {left[expr] for expr in left.keys() - right.keys()}
    only_right = {right[expr] for expr in right.keys() - left.keys()}
    common = {}
    for expr in left.keys() & right.keys():
        free = [name for name in (left[expr],) if name not in only_right]
        free += [name for name in (right[expr],) if name not in only_left]
        common[expr] = free[0] if free else f"{left[expr]}'"
    left, right = {**left, **common}, {**right, **common}
    # A name that only the other side has is used here too, unless it means something else.
    return _joined(left, right), _joined(right, left)


def _joined(names: Names, other: Names) -> Names:
    taken = set(names.values())
    return {expr: name for expr, name in other.items() if name not in taken} | dict(names)


def _lines(objective: Objective, names: Names) -> dict[str, str]:
    """The lines of an objective, by their subject."""
    lines = {
        f"param {p.name}": f"param {p.name} = {decimal(p.default)} in {p.domain}"
        for p in objective.used_params
    }
    for policy in objective.policies:
        lines[f"policy {policy.name}"] = str(policy)
    for column in objective.rewards:
        if column.name != "reward":
            name = f"{column.name}[{','.join(column.over)}]"
            lines[f"given {column.name}"] = f"given {name} as reward"
    lines |= _sampling(objective.sampling)
    roots = [x for x in (objective.goal, objective.critic, objective.dual) if x is not None]
    roots += objective.memory
    writer = Text(names, tuple(roots))
    for state in objective.states:
        name = f"{state.name}[p]" if state.column.over else state.name
        values = (names.get(x) or writer.show(x) for x in (state.start, state.next))
        lines[f"state {state.name}"] = f"state {name} = {' next '.join(values)}"
    lines |= {f"learn {number.name}": str(number) for number in objective.learned}
    goals = {"maximize": f"maximize {writer.show(objective.goal)}"}
    if objective.critic is not None:
        goals["minimize critic"] = f"minimize critic {writer.show(objective.critic)}"
    if objective.dual is not None:
        goals["minimize learn"] = f"minimize learn {writer.show(objective.dual)}"
    for name, expr in used(names, *roots):
        lines[f"define {name}"] = f"{name} = {writer.show(expr)}"
    return lines | goals


def _sampling(sampling: Sampling) -> dict[str, str]:
    lines = {}
    for field in fields(sampling):
        value = getattr(sampling, field.name)
        if field.name != "span" and value != field.default:
            lines[f"sample {field.name}"] = f"sample {field.name} {_written(value)}".rstrip()
    return lines


def _written(value: object) -> str:
    if isinstance(value, Branch):
        return value.name
    return "" if value is True else decimal(value) if isinstance(value, float) else str(value)
