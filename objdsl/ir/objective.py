"""An objective: its formula J, and what the file declares around it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field, replace
from functools import cached_property
from hashlib import blake2b
from typing import Literal

from objdsl.diagnostic import near, sharing_words
from objdsl.errors import ObjdslError
from objdsl.frozen import dataclass
from objdsl.ir.columns import Column, columns_in
from objdsl.ir.declarations import (
    Declared,
    Domain,
    Hidden,
    Learned,
    Parameter,
    Policy,
    Sampling,
    State,
    is_layer,
)
from objdsl.ir.indices import decimal
from objdsl.ir.nodes import Column as ColumnNode
from objdsl.ir.nodes import Expr, Param, all_replaced, live_leaves, topological
from objdsl.source import Source, Span
from objdsl.spelling import canonical

ARGUMENTS = (
    "mask", "lengths", "prompt", "dtype", "generator", "check", "group", "step",
)  # fmt: skip
"""Names that a column cannot have: the other arguments of `prepare`."""


class SettingError(ObjdslError, ValueError):
    """A parameter that an objective does not have, or a value that it does not allow."""


@dataclass(frozen=True)
class Named:
    """A formula that the file gives a name to."""

    name: str
    value: Expr
    span: Span | None = field(default=None, compare=False, repr=False)


UnreadKind = Literal[
    "parameter", "column", "reward", "policy", "learned number", "definition", "function"
]  # fmt: skip


@dataclass(frozen=True)
class Unread:
    """A name that the file declares or defines, and nothing reads."""

    kind: UnreadKind
    name: str
    span: Span


@dataclass(frozen=True)
class Objective:
    """The content of one `.obj` file.

    Attributes:
        goal: J, a scalar to be *maximised* (a `minimize` is stored with the opposite sign).
        critic: the critic's loss, a scalar to be minimised, or None.
        dual: a scalar that is minimised by the learned numbers that a gradient reaches from it, and
            by nothing else; or None. In the goal these are constants of the step.
        bindings: the names of the file, in the order in which their values can be computed.
        calls: results of functions, under the function's name.
        unread: names that have no effect.
        keep: the prompts that count, or None for all. It is already part of every reduction over
            prompts; it is kept here for the sampler, which may draw again.
    """

    name: str
    goal: Expr
    critic: Expr | None
    reports: tuple[Named, ...]
    bindings: tuple[Named, ...]
    calls: tuple[Named, ...]
    params: tuple[Parameter, ...]
    declared: tuple[Declared, ...]
    policies: tuple[Policy, ...]
    sampling: Sampling
    keep: Expr | None
    states: tuple[State, ...] = ()
    learned: tuple[Learned, ...] = ()
    dual: Expr | None = None
    base: str | None = None
    unread: tuple[Unread, ...] = field(default=(), compare=False, repr=False)
    source: Source | None = field(default=None, compare=False, repr=False)

    def __getstate__(self) -> tuple[tuple[Expr, ...], dict[str, object]]:
        """Lists operands before their users, so that pickling a long chain takes no deep
        recursion."""
        named = (binding.value for binding in (*self.bindings, *self.calls))
        return topological(*self.roots, *self.memory, *named), {**vars(self)}

    def __setstate__(self, state: tuple[tuple[Expr, ...], dict[str, object]]) -> None:
        vars(self).update(state[1])

    @cached_property
    def roots(self) -> tuple[Expr, ...]:
        """Everything that is computed: J, the critic's loss, what learned numbers minimise, the
        prompts kept, the reports."""
        optional = [x for x in (self.critic, self.dual, self.keep) if x is not None]
        return (self.goal, *optional, *(report.value for report in self.reports))

    @cached_property
    def nodes(self) -> tuple[Expr, ...]:
        return topological(*self.roots)

    @cached_property
    def columns(self) -> dict[str, Column]:
        """The columns of data that it reads, trained ones included, by their names."""
        return columns_in(self.nodes)

    @cached_property
    def memory(self) -> tuple[Expr, ...]:
        """The initial values of the states, and their next ones."""
        return tuple(x for state in self.states for x in (state.start, state.next))

    @cached_property
    def sampled_columns(self) -> dict[str, Column]:
        """The columns that the states start from, and those that their next values are computed
        from."""
        return columns_in(topological(*self.memory))

    @cached_property
    def domains(self) -> dict[str, Domain]:
        """The declared domains of the columns of data."""
        return {column.name: column.domain for column in self.declared}

    @cached_property
    def rewards(self) -> tuple[ColumnNode, ...]:
        """The columns whose expectation is to be raised, by name: `reward`, and those that the
        file declares `as reward`."""
        rewards = {x for x in self.nodes if isinstance(x, ColumnNode) and x.role == "reward"}
        return tuple(sorted(rewards, key=lambda column: column.name))

    @cached_property
    def layer_params(self) -> set[str]:
        """The parameters that say which layer a policy is read off."""
        return {policy.layer for policy in self.policies if isinstance(policy.layer, str)}

    @cached_property
    def hidden(self) -> dict[str, Hidden]:
        """The hidden layers of policies, at the parameters' defaults."""
        number = {param.name: param.default for param in self.params}
        return {
            policy.name: Hidden(policy.of, int(number.get(str(at), at)), policy.norm)
            for policy in self.policies
            if policy.of is not None and (at := policy.layer) is not None
        }

    @cached_property
    def trained(self) -> tuple[str, ...]:
        """The columns through which a gradient flows, `log_pi` first, learned numbers last."""
        columns = (column for column in self.columns.values() if column.trained)
        order = sorted(columns, key=lambda x: (not x.indices, x.name != "log_pi", x.name))
        return tuple(column.name for column in order)

    @cached_property
    def minimising(self) -> frozenset[str]:
        """The learned numbers that have a goal of their own, `dual`."""
        leaves = set() if self.dual is None else live_leaves(self.dual)
        return frozenset(x.name for x in self.learned if x.column in leaves)

    @cached_property
    def used_params(self) -> tuple[Parameter, ...]:
        nodes = topological(*self.roots, *self.memory)
        used = {node.name for node in nodes if isinstance(node, Param)}
        used |= self.layer_params
        return tuple(param for param in self.params if param.name in used)

    @cached_property
    def digest(self) -> str:
        """A hash of the formula: equal digests compute the same numbers from the same data."""
        state = blake2b(digest_size=8)
        for expr in (*self.roots, *self.memory):
            state.update(expr.key)
        return state.hexdigest()

    def replaced(self, instead: Mapping[Expr, Expr]) -> Objective:
        """The same objective with some nodes replaced in all formulas except those of states."""

        parts = (*self.reports, *self.bindings, *self.calls)
        whole = (self.goal, self.critic, self.dual, self.keep, *(part.value for part in parts))
        done = all_replaced((root for root in whole if root is not None), instead)

        def named(many: tuple[Named, ...]) -> tuple[Named, ...]:
            return tuple(replace(part, value=done[part.value]) for part in many)

        return replace(
            self,
            goal=done[self.goal],
            critic=self.critic and done[self.critic],
            dual=self.dual and done[self.dual],
            keep=self.keep and done[self.keep],
            reports=named(self.reports),
            bindings=named(self.bindings),
            calls=named(self.calls),
        )

    def at(self, settings: Mapping[str, float]) -> Objective:
        """The same formula with other defaults of its parameters.

        Names may be spelled in Greek, as in the file.

        Raises:
            SettingError: for an unknown name, a value that is not a number, or one outside the
                declared domain.
        """
        declared = {param.name: param for param in self.params}
        values = {canonical(name): _number(name, value) for name, value in settings.items()}
        for name, value in values.items():
            if name not in declared:
                guess = near(name, declared) or sharing_words(name, declared)
                has = ", ".join(sorted(declared)) or "none"
                hint = f"did you mean {guess!r}? It has {has}" if guess else f"it has {has}"
                raise SettingError(f"{self.name} has no parameter {name!r}; {hint}")
            if not declared[name].domain.holds(value):
                raise SettingError(f"{name} = {decimal(value)} is outside {declared[name].domain}")
            if name in self.layer_params and not is_layer(value):
                raise SettingError(
                    f"{name} = {decimal(value)} is no layer: whole numbers from 1 on are"
                )
        params = (replace(p, default=values.get(p.name, p.default)) for p in self.params)
        return replace(self, params=tuple(params))


def _number(name: str, value: object) -> float:
    """A setting as a Python number; NumPy's and torch's scalars are accepted."""
    try:
        if isinstance(value, str | bytes):  # `float` would read them
            raise TypeError
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError, RuntimeError):
        raise SettingError(f"{name} must be a number, not {value!r:.100}") from None
    if number != number:
        raise SettingError(f"{name} must be a number, not NaN")
    return number
