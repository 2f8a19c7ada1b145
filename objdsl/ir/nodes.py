"""The maths IR: what a formula means. Everything after `elaborate` reads and writes these nodes.

A node knows, from the moment that it is made:

    indices   the indices that its value carries
    boolean   whether it is a mask
    live      whether a gradient flows through it to the trained policy, to the critic, or to a
              number that is learned beside them
    current   whether its value changes with the trained policy, gradient or not
    paired    whether it is a value of two elements, of which one is the present: see `Present`
    key       a digest of its structure: equal keys are equal formulas

Two nodes are equal if they are the same formula; where they stand in a text (`span`) does not
count. Policies are kept as log-probabilities: `pi / old` is `exp(log pi - log old)`.

`objdsl.ir.schema` is the same IR as pydantic models: the boundary, where what other tools wrote is
checked. Inside, nodes are plain data classes with slots. A pass makes thousands of them, of
operands that are nodes already and need no check; and to import pydantic and these models takes
0.42 s of CPU time (pydantic alone 0.25 s), where a whole `objdsl check grpo` takes 0.44 s and
imports neither.
"""

from __future__ import annotations

import math
import operator
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import field, fields
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar

from objdsl.frozen import dataclass
from objdsl.ir.indices import (
    RESPONSE,
    SCALAR,
    TOKEN,
    VOCAB,
    Indices,
    over_to,
    remove,
    union,
)
from objdsl.source import Span

T = TypeVar("T")

UnaryOp = Literal[
    "neg", "abs", "exp", "log", "sqrt", "sigmoid", "logsigmoid", "softplus", "log1p",
    "sign", "floor", "not",
]  # fmt: skip
BinaryOp = Literal[
    "add", "sub", "mul", "div", "pow", "min", "max",
    "comb", "lt", "le", "gt", "ge", "eq", "ne", "and", "or",
]  # fmt: skip
ReduceOp = Literal["sum", "mean", "prod", "max", "min", "std", "pstd", "logsumexp"]
OrderOp = Literal["top", "topk", "nucleus", "trim", "rank", "share"]
ScanRelation = Literal["<", "<=", ">", ">="]
Relation = Literal["", "!=", "<", "<=", ">", ">="]
Known = Literal["response", "at t", "before t", "before i"]
Role = Literal["data", "reward", "state", "clock", "ids", "learned"]

COMPARISONS = frozenset({"lt", "le", "gt", "ge", "eq", "ne"})
BOOLEAN_OPS = COMPARISONS | {"and", "or", "not"}


IMPOSSIBLE = -1e12
"""The log-probability of an impossible entry: `exp` of it is 0, and 0 times its powers, which
would be NaN for -inf. A divergence from a policy that rules out what the other says is huge."""

_set = object.__setattr__  # while a frozen node is made
_pack = struct.Struct("<d").pack


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Node:
    """A value of the formula. Subclasses list their operands as fields, in reading order."""

    span: Span | None = field(default=None, repr=False)
    children: tuple[Expr, ...] = field(init=False, repr=False)
    """The operands, in reading order."""
    key: bytes = field(init=False, repr=False)
    indices: Indices = field(init=False, repr=False)
    boolean: bool = field(init=False, repr=False)
    live: bool = field(init=False, repr=False)
    current: bool = field(init=False, repr=False)
    paired: bool = field(init=False, repr=False)
    _below: tuple[Expr, ...] | None = field(init=False, repr=False)  # see `topological`
    _bounds: tuple[float, float] | None = field(init=False, repr=False)  # see `build.bounds`

    def __post_init__(self) -> None:
        children: list[Expr] = []
        state = [type(self).__name__.encode()]
        for name in fields_of(type(self)):
            value = getattr(self, name)
            if isinstance(value, Node):
                children.append(value)  # type: ignore[arg-type]
                state.append(value.key)
            elif isinstance(value, tuple) and value and isinstance(value[0], Node):
                children += value
                state += [b"(", *(x.key for x in value), b")"]
            elif isinstance(value, float):
                state.append(_pack(value) if value == value else b"NaN")
            else:
                state.append(repr(value).encode())
        _set(self, "children", tuple(children))
        _set(self, "key", blake2b(b"\0".join(state), digest_size=16).digest())
        boolean = self._is_boolean()
        _set(self, "boolean", boolean)
        _set(self, "indices", self._indices())
        _set(self, "live", not boolean and self._live())
        _set(self, "current", self._current())
        _set(self, "paired", self._paired())
        _set(self, "_below", None)
        _set(self, "_bounds", None)

    def _indices(self) -> Indices:
        return union(*[child.indices for child in self.children])

    def _is_boolean(self) -> bool:
        return False

    def _live(self) -> bool:
        return True in [child.live for child in self.children]

    def _current(self) -> bool:
        return True in [child.current for child in self.children]

    def _paired(self) -> bool:
        return True in [child.paired for child in self.children]

    def rebuilt(self, children: dict[Expr, Expr]) -> Self:
        """The same node with other operands (those that `children` does not name stay)."""
        values: dict[str, Any] = {name: getattr(self, name) for name in fields_of(type(self))}
        changed = False
        for name, value in values.items():
            other: Any
            if isinstance(value, Node):
                other = children.get(value, value)  # type: ignore[call-overload]
            elif isinstance(value, tuple) and value and isinstance(value[0], Node):
                other = tuple(children.get(x, x) for x in value)
                other = value if all(map(operator.is_, other, value)) else other
            else:
                continue
            if other is not value:
                values[name] = other
                changed = True
        return type(self)(**values, span=self.span) if changed else self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self  # nothing of it changes

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Node) and self.key == other.key)

    def __hash__(self) -> int:
        return hash(self.key)


_BASE = {
    "span", "children", "key", "indices", "boolean", "live", "current", "paired", "_below",
    "_bounds",
}  # fmt: skip
_OWN: dict[type, tuple[str, ...]] = {}


def fields_of(cls: type) -> tuple[str, ...]:
    """The names of the fields that a node class adds to `Expr`."""
    if cls not in _OWN:
        _OWN[cls] = tuple(f.name for f in fields(cls) if f.name not in _BASE)
    return _OWN[cls]


# --- leaves --------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False, slots=True)
class Const(Node):
    """A number of the formula."""

    value: float

    def _indices(self) -> Indices:
        return SCALAR


@dataclass(frozen=True, eq=False, slots=True)
class Param(Node):
    """A hyper-parameter: a number that is given when the objective is used. `lower` and `upper`
    bound its domain."""

    name: str
    lower: float = float("-inf")
    upper: float = float("inf")

    def _indices(self) -> Indices:
        return SCALAR


@dataclass(frozen=True, eq=False, slots=True)
class Column(Node):
    """A column of the data, `reward` or `V_old` or one that the file declares with `given`; or a
    state, which the objective itself remembers; or the number of rollouts; or a number that is
    learned beside the policy.

    Attributes:
        trained: whether it is the critic's `V`, or learned.
        values: the values of a declared `{0, 1}`; empty if none are declared.
        lower, upper: the ends of the declared domain.
        role: whether its expectation is to be raised, it is a state, `step` or `steps`, learned, or
            data of any other kind.
        known: since when, for each of its values: before the response is drawn, before its token
            is, with the token, or with the whole response.
    """

    name: str
    over: Indices
    mask: bool = False
    trained: bool = False
    values: tuple[float, ...] = ()
    lower: float = -math.inf
    upper: float = math.inf
    role: Role = "data"
    known: Known = "response"

    def _indices(self) -> Indices:
        return self.over

    def _is_boolean(self) -> bool:
        return self.mask

    def _live(self) -> bool:
        return self.trained

    def _current(self) -> bool:
        return self.trained and self.role != "learned"


@dataclass(frozen=True, eq=False, slots=True)
class LogProb(Node):
    """`log policy(y_t | x, y_<t)`: the log-probability of the sampled token."""

    policy: str
    trained: bool = False

    def _indices(self) -> Indices:
        return TOKEN

    def _live(self) -> bool:
        return self.trained

    def _current(self) -> bool:
        return self.trained


@dataclass(frozen=True, eq=False, slots=True)
class LogDist(Node):
    """`log policy(v | x, y_<t)` for every entry `v` of the vocabulary.

    `IMPOSSIBLE` stands for the logarithm of 0, so that `p log p`, and its derivative, are 0 there.
    """

    policy: str
    trained: bool = False

    def _indices(self) -> Indices:
        return VOCAB

    def _live(self) -> bool:
        return self.trained

    def _current(self) -> bool:
        return self.trained


@dataclass(frozen=True, eq=False, slots=True)
class Length(Node):
    """`|y|`: the number of tokens of the response, EOS counted."""

    def _indices(self) -> Indices:
        return RESPONSE


@dataclass(frozen=True, eq=False, slots=True)
class Position(Node):
    """`t`: the position of the token in its response, 1 to `|y|`."""

    def _indices(self) -> Indices:
        return TOKEN


# --- element by element --------------------------------------------------------------------------


@dataclass(frozen=True, eq=False, slots=True)
class Unary(Node):
    """`op(x)`. `sign` has no gradient."""

    op: UnaryOp
    x: Expr

    def _is_boolean(self) -> bool:
        return self.op == "not"

    def _live(self) -> bool:
        return self.x.live and self.op != "sign"


@dataclass(frozen=True, eq=False, slots=True)
class Binary(Node):
    """`a op b`. `min` and `max` are elementwise and split the gradient of a tie in halves; `comb`
    counts, and has none."""

    op: BinaryOp
    a: Expr
    b: Expr

    def _is_boolean(self) -> bool:
        return self.op in BOOLEAN_OPS

    def _live(self) -> bool:
        return (self.a.live or self.b.live) and self.op != "comb"


@dataclass(frozen=True, eq=False, slots=True)
class Clip(Node):
    """`x` held between `lo` and `hi`; the gradient passes where `lo <= x <= hi`."""

    x: Expr
    lo: Expr
    hi: Expr


@dataclass(frozen=True, eq=False, slots=True)
class Where(Node):
    """`a` where the mask `m` holds, else `b`. The side that is not taken has no effect, even if it
    is NaN or infinite."""

    m: Expr
    a: Expr
    b: Expr

    def _is_boolean(self) -> bool:
        return self.a.boolean and self.b.boolean

    def _live(self) -> bool:
        return self.a.live or self.b.live


@dataclass(frozen=True, eq=False, slots=True)
class Stop(Node):
    """`sg(x)`: the value of `x`, as a constant."""

    x: Expr

    def _is_boolean(self) -> bool:
        return self.x.boolean

    def _live(self) -> bool:
        return False


# --- along indices -------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False, slots=True)
class Reduce(Node):
    """`op[over | where] x`: over all combinations of the indices `over`, where the mask holds.

    An index of `over` that `x` does not have counts repetitions: `mean[i,t] reward` weights every
    reward by the length of its response. Over no elements an op is its row's `empty`. `std` divides
    by n - 1, `pstd` by n. Ties of `max` and `min` share the gradient evenly.
    """

    op: ReduceOp
    over: Indices
    x: Expr
    where: Expr | None = None

    def like(self, op: ReduceOp, x: Expr, where: Expr | None) -> Reduce:
        """A value of the same elements."""
        return Reduce(op, self.over, x, where)

    def seen(self, value: Expr) -> Expr:
        """A value of the reduction, as one of its elements reads it."""
        return value

    def _live(self) -> bool:
        return self.x.live

    def _indices(self) -> Indices:
        carried = union(self.x.indices, self.where.indices if self.where else SCALAR)
        return remove(union(carried, over_to(self.over)), self.over)


@dataclass(frozen=True, eq=False, slots=True)
class Peers(Node):
    """`op[over by keys | where] x`: over the elements along `over` that share the keys with the
    present one, in the same outer index, where the mask holds. An element outside the mask receives
    a value, too.

    With a relation, only over the elements for which it holds: `!=`, of the first index of `over`,
    are the other responses; `<=` and the like are the tokens so far, or from here on. Over no
    elements an op is its row's `empty`, and a deviation of a single element is, too.
    """

    op: ReduceOp
    over: Indices
    x: Expr
    keys: tuple[Expr, ...] = ()
    relation: Relation = ""
    where: Expr | None = None

    @property
    def elements(self) -> Indices:
        """The indices of the elements that it runs over."""
        return over_to(self.over)

    @property
    def outer(self) -> Indices:
        """The indices that an element shares with its peers."""
        return remove(self.elements, self.over)

    @property
    def others(self) -> bool:
        """Whether it runs over all other responses to the prompt."""
        every = not self.keys and self.where is None
        return every and self.relation == "!=" and self.over == ("i",)

    def like(self, op: ReduceOp, x: Expr, where: Expr | None) -> Peers:
        """A value of the same elements."""
        return Peers(op, self.over, x, self.keys, self.relation, where)

    def seen(self, value: Expr) -> Expr:
        """A value of the present element, as the running one reads it: the same, unless a relation
        makes it differ between elements."""
        return Present(value) if self.relation else value

    def _live(self) -> bool:
        return self.x.live

    def _paired(self) -> bool:
        return False

    def _indices(self) -> Indices:
        first = (*self.outer, self.over[0]) if self.relation else self.outer
        return union(first, *(key.indices for key in self.keys))


@dataclass(frozen=True, eq=False, slots=True)
class Present(Node):
    """`x[i]`: the value of the present element, inside a `Peers` over others."""

    x: Expr

    def _is_boolean(self) -> bool:
        return self.x.boolean

    def _paired(self) -> bool:
        return True


@dataclass(frozen=True, eq=False, slots=True)
class Scan(Node):
    """`sum[s R t] d(s, t) x_s` with the relation R between `s` and `t`, over one response.

    `>=` is the return-to-go, `<` the sum before the token. `d(s, t)` is the product of `decay` from
    the earlier of the two positions up to the one before the later: `decay^|s - t|` for a number.
    """

    relation: ScanRelation
    x: Expr
    decay: Expr | None = None

    def _live(self) -> bool:
        return self.x.live

    def _indices(self) -> Indices:
        return TOKEN


@dataclass(frozen=True, eq=False, slots=True)
class Shift(Node):
    """`x` at `t + by`, and 0 outside the response. `next(V)` is a shift by 1."""

    x: Expr
    by: int

    def _indices(self) -> Indices:
        return TOKEN


@dataclass(frozen=True, eq=False, slots=True)
class Quantile(Node):
    """`quantile[over | where](x, at)`: with the elements in increasing order, numbered from 0 to n
    - 1, the one at `at * (n - 1)`, interpolated linearly between two elements. Over no elements it
    is 0. Ties share the gradient evenly, and NaN is the largest."""

    over: Indices
    x: Expr
    at: Expr
    where: Expr | None = None

    def _live(self) -> bool:
        return self.x.live

    def _indices(self) -> Indices:
        return remove(over_to(self.over), self.over)

    @property
    def shares(self) -> Order:
        """The weight of each element in the quantile: numbers that add up to 1."""
        return Order("share", self.over, self.x, self.at, self.where)


@dataclass(frozen=True, eq=False, slots=True)
class Order(Node):
    """A function of the position of each element in the order of the values `x` along `over`, where
    the mask holds. Ties are treated alike, NaN is the largest, and nothing has a gradient.

    `top` is the mask of the largest, at most the fraction `at` of them, rounded down, and `topk` of
    at most `at` of them; `trim` that of as many of the smallest as have a mean of at most `at`.
    Elements that tie at the cut of these masks are all left out. `nucleus` is the mask of the
    elements whose larger ones add up to less than `at`, so that ties are all in it. `rank` is 1
    plus the number of smaller elements. `share` is the weight of an element in the quantile `at`.
    """

    op: OrderOp
    over: Indices
    x: Expr
    at: Expr | None = None
    where: Expr | None = None

    def _indices(self) -> Indices:
        return over_to(self.over)

    def _is_boolean(self) -> bool:
        return self.op not in ("rank", "share")

    def _live(self) -> bool:
        return False


@dataclass(frozen=True, eq=False, slots=True)
class Pick(Node):
    """A random part of the mask `m`: `fraction` of all elements along `over` (rounded up), drawn
    among those where `m` holds, by the generator that the caller seeds."""

    over: Indices
    m: Expr
    fraction: Expr

    def _is_boolean(self) -> bool:
        return True


@dataclass(frozen=True, eq=False, slots=True)
class Symbol(Node):
    """A value that an analysis puts into a formula. No file has one, and nothing computes it; its
    `str` is how a message writes it."""


if TYPE_CHECKING:
    Expr = (
        Const | Param | Column | LogProb | LogDist | Length | Position
        | Unary | Binary | Clip | Where | Stop | Reduce | Quantile | Peers | Present | Scan | Shift
        | Order
        | Pick | Symbol
    )  # fmt: skip
    """Any node. A `match` over all kinds ends in `assert_never`, and mypy names a kind that it
    forgets."""
else:
    Expr = Node

NODES: tuple[type[Node], ...] = (
    Const, Param, Column, LogProb, LogDist, Length, Position,
    Unary, Binary, Clip, Where, Stop, Reduce, Quantile, Peers, Present, Scan, Shift, Order, Pick,
)  # fmt: skip


def topological(*roots: Expr) -> tuple[Expr, ...]:
    """Every node under the roots once, operands before their users, in a fixed order.

    A node remembers its order, because rules ask for it again and again.
    """
    if len(roots) == 1 and roots[0]._below is not None:
        return roots[0]._below
    order: dict[bytes, Expr] = {}
    stack = list(reversed(roots))
    while stack:
        expr = stack[-1]
        if expr.key not in order:
            waiting = [child for child in expr.children if child.key not in order]
            if waiting:
                stack += waiting[::-1]
                continue
            order[expr.key] = expr
        stack.pop()
    nodes = tuple(order.values())
    if len(roots) == 1:
        _set(roots[0], "_below", nodes)
    return nodes


def bottom_up(root: Expr, known: dict[Expr, T], find: Callable[[Expr], T]) -> T:
    """The results of `find` for the root and for everything under it that is not yet in `known`:
    operands first, so that `find` may look them up there."""
    stack = [root]
    while stack:
        node = stack[-1]
        if node not in known:
            waiting = [child for child in node.children if child not in known]
            if waiting:
                stack += waiting[::-1]
                continue
            known[node] = find(node)
        stack.pop()
    return known[root]


def holding(wanted: Callable[[Expr], bool], *roots: Expr) -> set[Expr]:
    """The nodes under the roots that satisfy a condition, and those with such a node under them."""
    holders: set[Expr] = set()
    for node in topological(*roots):
        if wanted(node) or not holders.isdisjoint(node.children):
            holders.add(node)
    return holders


def occurrences(*roots: Expr) -> Iterator[Expr]:
    """Every node under the roots, including equal ones, which have different places in the text."""
    stack, seen = list(roots), set[int]()
    while stack:
        node = stack.pop()
        if id(node) not in seen:
            seen.add(id(node))
            stack += node.children
            yield node


def learned_in(*roots: Expr) -> dict[str, Column]:
    """The numbers that formulas read which are learned beside the policy, by name."""
    columns = (node for node in topological(*roots) if isinstance(node, Column))
    return {column.name: column for column in columns if column.role == "learned"}


def live_leaves(root: Expr) -> set[Expr]:
    """The trained leaves that a gradient reaches from a value."""
    leaves, seen, waiting = set[Expr](), {root}, [root] if root.live else []
    while waiting:
        node = waiting.pop()
        if not node.children:
            leaves.add(node)
        below = [child for child in node.children if child.live and child not in seen]
        seen.update(below)
        waiting += below
    return leaves


def policies_in(*nodes: Expr) -> set[str]:
    """The policies that nodes read themselves, without their children."""
    return {node.policy for node in nodes if isinstance(node, LogProb | LogDist)}


def replaced(expr: Expr, instead: Mapping[Expr, Expr]) -> Expr:
    """A formula in which some of its nodes are replaced; the replacements stay as they are."""
    return all_replaced((expr,), instead)[expr]


def all_replaced(roots: Iterable[Expr], instead: Mapping[Expr, Expr]) -> dict[Expr, Expr]:
    """The replacement of every node under the roots, each rebuilt once."""
    done: dict[Expr, Expr] = {}
    for node in topological(*roots):
        done[node] = instead[node] if node in instead else node.rebuilt(done)
    return done
