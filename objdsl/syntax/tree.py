"""The syntax tree: the content of a text, before any name has a meaning.

Nodes are frozen; `span` is their place in the text, including brackets around them, and `bracketed`
says whether there are any. Neither takes part in equality, so that `parse(format(tree)) == tree` is
a statement about the formula alone.
"""

from __future__ import annotations

from dataclasses import field
from typing import Literal

from objdsl.frozen import dataclass
from objdsl.source import Source, Span


def _span() -> Span:
    return field(compare=False, repr=False)  # type: ignore[no-any-return]


# --- expressions ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Number:
    """`0.2`, `1e-4`, `inf`. `text` is the number as it was written."""

    value: float
    text: str = field(compare=False)
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Name:
    """`reward`. `id` is the canonical spelling (`pi` for `π`)."""

    id: str
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Length:
    """`|y|`."""

    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Unary:
    """`-x`, `+x`, `not x`."""

    op: Literal["-", "+", "not"]
    operand: Expression
    span: Span = _span()
    bracketed: bool = field(default=False, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Binary:
    """`x + y` and the like; comparisons and `and`/`or` too."""

    op: Literal["+", "-", "*", "/", "^", "<", "<=", ">", ">=", "==", "!=", "and", "or"]
    left: Expression
    right: Expression
    span: Span = _span()
    bracketed: bool = field(default=False, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Conditional:
    """`then if condition else otherwise`."""

    then: Expression
    condition: Expression
    otherwise: Expression
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Call:
    """`clip(r, lo, hi)`."""

    function: Name
    arguments: tuple[Expression, ...]
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Relation:
    """`s >= t` (a running reduction) or `j != i` (over the others)."""

    bound: Name
    op: Literal["<", "<=", ">", ">=", "!="]
    index: Name
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Binder:
    """The content of the square brackets: `p,i,t`, `t | M`, `j != i`, `s >= t`, `j != i, t by
    turn`.

    `indices` or `relation` is given; if both are, `indices` come second. `condition` is the part
    after `|`, and `keys` are those after `by`.
    """

    indices: tuple[Name, ...]
    relation: Relation | None
    condition: Expression | None
    keys: tuple[Expression, ...]
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Indexed:
    """`pi[v]`, `reward[j]`: a name with an index and no operand."""

    name: Name
    binder: Binder
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Reduction:
    """`mean[t] x`, `top[p,i,t](x, 0.2)`: an operator with a binder, applied to its operands."""

    operator: Name
    binder: Binder
    operands: tuple[Expression, ...]
    span: Span = _span()
    bracketed: bool = field(default=False, compare=False, repr=False)


Expression = Number | Name | Length | Unary | Binary | Conditional | Call | Indexed | Reduction


# --- statements ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Header:
    """`objective dr_grpo from grpo`."""

    name: Name
    base: Name | None
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Interval:
    """`[0, inf)`: a domain with its ends open or closed."""

    lower: float
    upper: float
    lower_closed: bool
    upper_closed: bool
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Choice:
    """`{0, 1}`: a domain of separate values."""

    values: tuple[float, ...]
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Param:
    """`param eps = 0.2 in (0, 1)`. `default` is a number, which may be negative."""

    name: Name
    default: float
    default_text: str = field(compare=False)
    domain: Interval | Choice | None
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Layer:
    """`pi at layer 6`, `pi at layer n without norm`."""

    of: Name
    layer: int | Name
    norm: bool
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Every:
    """`pi every 200 steps`."""

    of: Name
    steps: int
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Average:
    """`ema(pi, 0.999)`."""

    of: Name
    decay: float
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Policy:
    """`policy teacher`, `policy teacher top 64`, `policy inner = pi at layer 6`,
    `policy anchor = pi every 200 steps` or `policy anchor = ema(pi, 0.999)`."""

    name: Name
    source: Layer | Every | Average | None
    top: int | None
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class When:
    """`before t`, `at t`: the part of a response of which a column is a function."""

    word: str
    index: Name
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Given:
    """`given correct[p,i] in {0, 1} as reward`; without brackets it declares the domain of a known
    column. `role` is the word after `as`, `known` is `before t` and the like."""

    name: Name
    indices: tuple[Name, ...] | None
    domain: Interval | Choice | None
    role: Name | None
    known: When | None
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class State:
    """`state base[p] = 0 next 0.9 * base + 0.1 * mean[i] reward`; without brackets it is one
    number."""

    name: Name
    indices: tuple[Name, ...]
    first: Expression
    next: Expression
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Learn:
    """`learn tau = 1 in (0, inf)`. What is learned is one number: `indices` are a mistake."""

    name: Name
    indices: tuple[Name, ...]
    start: float
    start_text: str = field(compare=False)
    domain: Interval | Choice | None
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Def:
    """`def k2(p, q) = log(q / p)^2 / 2`."""

    name: Name
    arguments: tuple[Name, ...]
    body: Expression
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Let:
    """`A = reward - mean[i] reward`."""

    name: Name
    value: Expression
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Option:
    """`group 16`, `branch node` or the bare flag `keep_mask` of a `sample` statement."""

    name: Name
    value: float | Name | None
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Sample:
    """`sample from mu: group 16, temperature 1`."""

    policy: Name
    options: tuple[Option, ...]
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Keep:
    """`keep p where std[i] reward > 0`."""

    index: Name
    condition: Expression
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Report:
    """`report clip_fraction = mean[p,i,t] (r > 1 + eps)`."""

    name: Name
    value: Expression
    span: Span = _span()


Whose = Literal["policy", "critic", "learn"]
"""What a goal trains; `learn` are the numbers that are learned beside the policy."""


@dataclass(frozen=True, slots=True)
class Goal:
    """`maximize J`, `minimize J`, `minimize critic J`, `minimize learn J`."""

    sense: Literal["maximize", "minimize"]
    whose: Whose
    value: Expression
    span: Span = _span()


Statement = (
    Header | Param | Policy | Given | State | Learn | Def | Let | Sample | Keep | Report | Goal
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Comment:
    """`# text`. `own_line` is false for a comment after a statement."""

    text: str
    own_line: bool
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class File:
    """A parsed file: its statements in order, and its comments in order."""

    statements: tuple[Statement, ...]
    comments: tuple[Comment, ...]
    source: Source = field(compare=False, repr=False)
