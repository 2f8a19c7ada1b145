"""An objective: its formula J, and what the file declares around it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import field, replace
from functools import cached_property
from hashlib import blake2b
from typing import Literal

from objdsl.diagnostic import near, sharing_words
from objdsl.errors import ObjdslError
from objdsl.frozen import dataclass
from objdsl.ir.columns import Column, columns_in
from objdsl.ir.indices import decimal
from objdsl.ir.nodes import Column as ColumnNode
from objdsl.ir.nodes import Expr, Param, all_replaced, live_leaves, topological
from objdsl.source import Source, Span
from objdsl.spelling import canonical

BUILT_IN_POLICIES = ("pi", "old", "mu", "ref")
ARGUMENTS = (
    "mask", "lengths", "prompt", "dtype", "generator", "check", "group", "step",
)  # fmt: skip
"""Names that a column cannot have: the other arguments of `prepare`."""


class SettingError(ObjdslError, ValueError):
    """A parameter that an objective does not have, or a value that it does not allow."""


@dataclass(frozen=True)
class Domain:
    """The values that a parameter or a column may have: an interval, or a few values."""

    lower: float = -math.inf
    upper: float = math.inf
    lower_closed: bool = True
    upper_closed: bool = True
    values: tuple[float, ...] = ()

    @property
    def empty(self) -> bool:
        """Whether it contains no number: `(1, 0)`, or `(0, 0]`, which excludes one end."""
        if self.values or self.lower < self.upper:
            return False
        return self.lower > self.upper or not (self.lower_closed and self.upper_closed)

    def holds(self, x: float) -> bool:
        if self.values:
            return x in self.values
        above = x >= self.lower if self.lower_closed else x > self.lower
        below = x <= self.upper if self.upper_closed else x < self.upper
        return above and below

    @property
    def two(self) -> tuple[float, float]:
        """Two of its numbers, if it has two: 0 and 1 if it contains them, else two that are at most
        1 apart."""
        if self.values:
            return min(self.values), max(self.values)
        if self.holds(0.0) and self.holds(1.0):
            return 0.0, 1.0
        inside = min(self.upper - self.lower, 2.0) / 4
        low = self.lower if self.lower_closed else self.lower + inside
        high = self.upper if self.upper_closed else self.upper - inside
        return (low, min(high, low + 1)) if math.isfinite(low) else (high - 1, high)

    def __str__(self) -> str:
        if self.values:
            return "{" + ", ".join(map(decimal, self.values)) + "}"
        left, right = "[" if self.lower_closed else "(", "]" if self.upper_closed else ")"
        return f"{left}{decimal(self.lower)}, {decimal(self.upper)}{right}"


@dataclass(frozen=True)
class Parameter:
    """`param eps = 0.2 in (0, 1)`."""

    name: str
    default: float
    domain: Domain
    span: Span | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class Declared:
    """`given chosen[p,i] in {0, 1}`: a column of the data whose values lie in a domain."""

    name: str
    domain: Domain


@dataclass(frozen=True)
class Policy:
    """A policy besides `pi`, `old`, `mu`, `ref`: frozen; read off a hidden layer of `of`; or one
    that follows `pi`.

    Attributes:
        layer: its number from 1, or the parameter that says it.
        norm: whether the state of the layer goes through the model's last norm before the head.
        top: how many entries of the vocabulary it is known for, the most probable ones.
        every: after so many rollouts it becomes what `pi` is.
        decay: after each rollout its weights move to `decay * w + (1 - decay) * w_pi`.
    """

    name: str
    of: str | None = None
    layer: int | str | None = None
    top: int | None = None
    every: int | None = None
    decay: float | None = None
    norm: bool = True

    @property
    def follows(self) -> bool:
        return self.every is not None or self.decay is not None

    def __str__(self) -> str:
        """As the file declares it."""
        source = ""
        if self.of is not None:
            norm = "" if self.norm else " without norm"
            source = f" = {self.of} at layer {self.layer or 0}{norm}"
        elif self.every is not None:
            source = f" = pi every {self.every} step{'s' if self.every != 1 else ''}"
        elif self.decay is not None:
            source = f" = ema(pi, {decimal(self.decay)})"
        top = "" if self.top is None else f" top {self.top}"
        return f"policy {self.name}{source}{top}"


@dataclass(frozen=True)
class Hidden:
    """The layer that a policy is read off.

    Attributes:
        of: the policy whose layer it is.
        layer: its number, from 1.
        norm: as in `Policy`.
    """

    of: str
    layer: int
    norm: bool

    @property
    def depth(self) -> float:
        """The order of layers. Without the norm a state has other logits: it counts as a separate
        layer, right above."""
        return self.layer + (0.0 if self.norm else 0.5)


def is_layer(x: float) -> bool:
    return x >= 1 and float(x).is_integer()


@dataclass(frozen=True)
class State:
    """`state base[p] = 0 next 0.9 * base + 0.1 * mean[i] reward`: what is remembered from rollout
    to rollout.

    Attributes:
        column: what formulas read.
        start: its value before the first rollout; of a prompt, before the first with that prompt.
        next: its value after a rollout, from all that was sampled.
    """

    column: ColumnNode
    start: Expr
    next: Expr
    span: Span | None = field(default=None, compare=False, repr=False)

    @property
    def name(self) -> str:
        return self.column.name


@dataclass(frozen=True)
class Learned:
    """`learn beta = 0.1 in [0, inf)`: a number that the optimizer trains beside the policy.

    Attributes:
        column: what formulas read.
        start: its value before the first step of the optimizer.
        domain: an interval, into which it is put back after each of them.
    """

    column: ColumnNode
    start: float
    domain: Domain
    span: Span | None = field(default=None, compare=False, repr=False)

    @property
    def name(self) -> str:
        return self.column.name

    def __str__(self) -> str:
        """As the file declares it."""
        domain = "" if self.domain == Domain() else f" in {self.domain}"
        return f"learn {self.name} = {decimal(self.start)}{domain}"


@dataclass(frozen=True)
class Sampling:
    """How the responses were drawn: `sample from mu: group 16, temperature 1`.

    `span` is None if the file does not say.
    """

    policy: str = "mu"
    group: int | None = None
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int | None = None
    staleness: int | None = None
    keep_mask: bool = False
    keep_routing: bool = False
    experts: bool = False
    span: Span | None = field(default=None, compare=False, repr=False)


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
