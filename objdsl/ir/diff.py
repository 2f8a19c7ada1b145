"""What two objectives differ in, as mathematics: layout, order and spare names do not count."""

from __future__ import annotations

import dataclasses

from objdsl.frozen import dataclass
from objdsl.ir.indices import decimal
from objdsl.ir.objective import Objective, Sampling
from objdsl.ir.show import Names, Text, names_of, used

_ORDER = ("param", "policy", "given", "sample", "define", "maximize", "minimize")


@dataclass(frozen=True, slots=True)
class Change:
    """One line that the two do not share. None where one of them has no such line."""

    left: str | None
    right: str | None


def diff(left: Objective, right: Objective) -> tuple[Change, ...]:
    """The parameters, policies, sampling, definitions and goals that differ; empty if none do.

    A definition is compared by what it stands for: `r = pi / old` in one file and `pi / old`
    written out in the other are the same.
    """
    names = _names(names_of(left.bindings), names_of(right.bindings))
    tables = _lines(left, names[0]), _lines(right, names[1])
    changes = []
    labels = dict.fromkeys([*tables[0], *tables[1]])
    for label in sorted(labels, key=lambda label: _ORDER.index(label.split()[0])):
        a, b = (table.get(label) for table in tables)
        if a != b:
            changes.append(Change(a, b))
    return tuple(changes)


def _names(left: Names, right: Names) -> tuple[Names, Names]:
    """The names to write each side with: one for what both name, and no name for two things."""
    only_left = {left[expr] for expr in left.keys() - right.keys()}
    only_right = {right[expr] for expr in right.keys() - left.keys()}
    common = {}
    for expr in left.keys() & right.keys():
        free = [name for name in (left[expr],) if name not in only_right]
        free += [name for name in (right[expr],) if name not in only_left]
        common[expr] = free[0] if free else f"{left[expr]}'"
    left, right = {**left, **common}, {**right, **common}
    # What only the other side names is known by that name here too, unless it means another thing.
    return _joined(left, right), _joined(right, left)


def _joined(own: Names, other: Names) -> Names:
    taken = set(own.values())
    return {expr: name for expr, name in other.items() if name not in taken} | dict(own)


def _lines(objective: Objective, names: Names) -> dict[str, str]:
    """What an objective says, a line each, by what the line is about."""
    lines = {
        f"param {p.name}": f"param {p.name} = {decimal(p.default)} in {p.domain}"
        for p in objective.used_params
    }
    for policy in objective.policies:
        layer = f" = {policy.of} at layer {policy.layer}" if policy.of else ""
        lines[f"policy {policy.name}"] = f"policy {policy.name}{layer}"
    for column in objective.rewards:
        if column.name != "reward":
            name = f"{column.name}[{','.join(column.over)}]"
            lines[f"given {column.name}"] = f"given {name} as reward"
    lines |= _sampling(objective.sampling)
    roots = [x for x in (objective.goal, objective.critic) if x is not None]
    writer = Text(names, tuple(roots))
    goals = {"maximize": f"maximize {writer.show(objective.goal)}"}
    if objective.critic is not None:
        goals["minimize critic"] = f"minimize critic {writer.show(objective.critic)}"
    for name, expr in used(names, *roots):
        lines[f"define {name}"] = f"{name} = {writer.show(expr)}"
    return lines | goals


def _sampling(sampling: Sampling) -> dict[str, str]:
    lines = {}
    for field in dataclasses.fields(sampling):
        value = getattr(sampling, field.name)
        if field.name != "span" and value != field.default:
            lines[f"sample {field.name}"] = f"sample {field.name} {_written(value)}".rstrip()
    return lines


def _written(value: object) -> str:
    return "" if value is True else decimal(value) if isinstance(value, float) else str(value)
