"""What an objective declares: parameters, columns, policies, states, learned numbers, sampling."""

from __future__ import annotations

import math
from dataclasses import field

from objdsl.frozen import dataclass
from objdsl.ir.indices import TOKEN, Indices, decimal
from objdsl.ir.nodes import Column as ColumnNode
from objdsl.ir.nodes import Expr, Known
from objdsl.source import Span

BUILT_IN_POLICIES = ("pi", "old", "mu", "ref")


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
class Branch:
    """`branch node`: the column that says which responses to a prompt share tokens.

    With the indices p,i,t it names the part of the tree that a token belongs to: responses with a
    part in common share all of its tokens and all before them. With p,i, responses with the same
    value may share tokens from the first on, nobody says how many. No others share any; what is
    not shared is drawn independently.
    """

    name: str
    over: Indices

    @property
    def of_tokens(self) -> bool:
        return self.over == TOKEN

    @property
    def known(self) -> Known:
        return "before t" if self.of_tokens else "before i"

    def __str__(self) -> str:
        """As the file declares the column."""
        return f"given {self.name}[{','.join(self.over)}] {self.known}"


@dataclass(frozen=True)
class Sampling:
    """How the responses were drawn: `sample from mu: group 16, temperature 1`.

    `span` is None if the file does not say. Without a `branch` all responses to a prompt are drawn
    independently.
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
    branch: Branch | None = None
    span: Span | None = field(default=None, compare=False, repr=False)
