"""The maths IR as JSON: what other tools read and write. docs/ir.schema.json is made from these
models; tests hold them against the data classes of `objdsl.ir.nodes`.

A formula is a graph. `nodes` lists every node once, operands before their users, and an operand is
the place of a node in the list: sharing survives, and depth costs nothing.
"""

from __future__ import annotations

import math
import re
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    WithJsonSchema,
    field_validator,
)
from pydantic_core import PydanticCustomError

from objdsl.ir.indices import Index
from objdsl.ir.nodes import (
    BinaryOp,
    Known,
    OrderOp,
    ReduceOp,
    Relation,
    Role,
    ScanRelation,
    UnaryOp,
)

_NOT_FINITE = {"Infinity": math.inf, "-Infinity": -math.inf, "NaN": math.nan}


def _read(x: Any) -> Any:
    return _NOT_FINITE.get(x, x) if isinstance(x, str) else x


def _ordered(x: float) -> float:
    if x != x:
        raise ValueError("a number that is not NaN")
    return x


_number: dict[str, Any] = {"anyOf": [{"type": "number"}, {"enum": [*_NOT_FINITE]}]}
_real: dict[str, Any] = {"anyOf": [{"type": "number"}, {"enum": [*_NOT_FINITE][:2]}]}

Number = Annotated[float, BeforeValidator(_read), WithJsonSchema(_number)]
"""JSON has no infinity, and no NaN: they are strings."""
Real = Annotated[float, BeforeValidator(_read), AfterValidator(_ordered), WithJsonSchema(_real)]
"""Any of them but NaN."""
Place = Annotated[int, Field(ge=0)]
"""Where a node stands in `nodes`, counted from 0."""
_NAME = r"^[A-Za-z_][A-Za-z0-9_]*$"
Name = Annotated[str, Field(pattern=_NAME, max_length=16 * 1024)]
"""A name of the file: generated code and LaTeX are written with it."""
Over = Annotated[tuple[Index, ...], Field(min_length=1)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, ser_json_inf_nan="strings")


# --- leaves --------------------------------------------------------------------------------------


class Const(_Strict):
    """A number."""

    node: Literal["Const"]
    value: Number


class Param(_Strict):
    """A hyper-parameter of `params`, with the ends of its domain."""

    node: Literal["Param"]
    name: Name
    lower: Real = -math.inf
    upper: Real = math.inf


class Column(_Strict):
    """A column of the data, with the ends of its domain, or all its values; a state, the number of
    rollouts (`clock`), or a number that is `learned` beside the policy, without indices."""

    node: Literal["Column"]
    name: Name
    over: tuple[Index, ...]
    mask: bool = False
    trained: bool = False
    values: tuple[Real, ...] = ()
    lower: Real = -math.inf
    upper: Real = math.inf
    role: Role = "data"
    known: Known = "response"


class LogProb(_Strict):
    """`log policy`: the log-probability of the sampled token."""

    node: Literal["LogProb"]
    policy: Name
    trained: bool = False


class LogDist(_Strict):
    """`log policy[v]`: that of every entry of the vocabulary."""

    node: Literal["LogDist"]
    policy: Name
    trained: bool = False


class Length(_Strict):
    """`|y|`: the number of tokens of the response."""

    node: Literal["Length"]


class Position(_Strict):
    """`t`: the position of the token, from 1."""

    node: Literal["Position"]


# --- element by element --------------------------------------------------------------------------


class Unary(_Strict):
    """`op(x)`."""

    node: Literal["Unary"]
    op: UnaryOp
    x: Place


class Binary(_Strict):
    """`a op b`."""

    node: Literal["Binary"]
    op: BinaryOp
    a: Place
    b: Place


class Clip(_Strict):
    """`clip(x, lo, hi)`."""

    node: Literal["Clip"]
    x: Place
    lo: Place
    hi: Place


class Where(_Strict):
    """`a if m else b`."""

    node: Literal["Where"]
    m: Place
    a: Place
    b: Place


class Stop(_Strict):
    """`sg(x)`: the value of `x`, as a constant."""

    node: Literal["Stop"]
    x: Place


# --- along indices -------------------------------------------------------------------------------


class Reduce(_Strict):
    """`op[over | where] x`."""

    node: Literal["Reduce"]
    op: ReduceOp
    over: Over
    x: Place
    where: Place | None = None


class Peers(_Strict):
    """`op[over by keys | where] x`: over the elements that share the keys with the present one, or
    stand in a relation to it: `!=` of the first index of `over` are the other responses."""

    node: Literal["Peers"]
    op: ReduceOp
    over: Over
    x: Place
    keys: tuple[Place, ...] = ()
    relation: Relation = ""
    where: Place | None = None


class Present(_Strict):
    """`x[i]`: the value of the present element, inside of a `Peers` over others."""

    node: Literal["Present"]
    x: Place


class Scan(_Strict):
    """`sum[s relation t] x`, and `togo(x, decay)`."""

    node: Literal["Scan"]
    relation: ScanRelation
    x: Place
    decay: Place | None = None


class Shift(_Strict):
    """`x` at `t + by`, and 0 outside the response: `next(x)` is a shift by 1."""

    node: Literal["Shift"]
    x: Place
    by: int


class Quantile(_Strict):
    """`quantile[over | where](x, at)`; `median[over] x` is that at 0.5."""

    node: Literal["Quantile"]
    over: Over
    x: Place
    at: Place
    where: Place | None = None


class Order(_Strict):
    """`op[over | where](x, at)`, and `rank[over | where] x`: what the order of the elements says of
    each. `share`, which stands in weights alone, is the part that an element has in a quantile."""

    node: Literal["Order"]
    op: OrderOp
    over: Over
    x: Place
    at: Place | None = None
    where: Place | None = None


class Pick(_Strict):
    """`pick[over](m, fraction)`: a random part of a mask."""

    node: Literal["Pick"]
    over: Over
    m: Place
    fraction: Place


Node = Annotated[
    Const | Param | Column | LogProb | LogDist | Length | Position
    | Unary | Binary | Clip | Where | Stop | Reduce | Quantile | Peers | Present | Scan | Shift
    | Order | Pick,
    Field(discriminator="node"),
]  # fmt: skip


# --- the objective -------------------------------------------------------------------------------


class Domain(_Strict):
    """An interval, or a few values."""

    lower: Real = -math.inf
    upper: Real = math.inf
    lower_closed: bool = True
    upper_closed: bool = True
    values: tuple[Real, ...] = ()


class Parameter(_Strict):
    """`param name = default in domain`."""

    name: Name
    default: Real
    domain: Domain = Domain()


class Policy(_Strict):
    """`policy name`, which is frozen; `policy name = of at layer 6`, where the layer may be a
    parameter, and `without norm` if `norm` is false; or one that follows `pi`:
    `policy name = pi every 200 steps`, `policy name = ema(pi, decay)`. With a
    `top`, it is known at each token for that many entries of the vocabulary."""

    name: Name
    of: Name | None = None
    layer: int | str | None = None
    top: int | None = None
    every: int | None = None
    decay: float | None = None
    norm: bool = True

    @field_validator("layer", mode="before")
    @classmethod
    def _layer(cls, x: Any) -> Any:
        number = type(x) is int and x >= 1
        if x is not None and not number and not (isinstance(x, str) and re.fullmatch(_NAME, x)):
            raise PydanticCustomError("layer", "no layer")
        return x


class State(_Strict):
    """`state column = start next next`: the Column of role `state`, where it starts, and what it
    becomes after a rollout."""

    column: Place
    start: Place
    next: Place


class Learned(_Strict):
    """`learn column = start in domain`: the Column of role `learned`, without indices and
    `trained`, its value before the first step of the optimizer, and the interval it stays in."""

    column: Place
    start: Real
    domain: Domain = Domain()


class Branch(_Strict):
    """`branch name`: the column that says which responses to a prompt share tokens, and its
    indices: those of tokens, or of responses."""

    name: Name
    over: tuple[Index, ...]

    @field_validator("over")
    @classmethod
    def _over(cls, x: tuple[Index, ...]) -> tuple[Index, ...]:
        if x not in (("p", "i"), ("p", "i", "t")):
            raise PydanticCustomError("branch", "no indices of tokens or responses")
        return x


class Sampling(_Strict):
    """`sample from policy: ...`."""

    policy: Name
    group: int | None = None
    temperature: Real = 1.0
    top_p: Real = 1.0
    top_k: int | None = None
    staleness: int | None = None
    keep_mask: bool = False
    keep_routing: bool = False
    experts: bool = False
    branch: Branch | None = None


class Objective(_Strict):
    """What `objdsl compile --stage ir` writes, and every command reads from a `.json` file.

    `goal` is maximised, `critic` minimised, and `dual` by the `learned` numbers alone that a
    gradient reaches from it, which the goal does not train then. `keep` is the mask of the prompts
    that count, and part of every reduction over `p`. `bindings` are the names of formulas,
    `domains` those of columns of the data. `weights` are the derivatives of what is maximised, by
    the column that each belongs to; they are written for other tools, and derived anew from an
    objective that is read.
    """

    version: Literal[1]
    name: Name
    params: tuple[Parameter, ...] = ()
    domains: dict[Name, Domain] = {}
    policies: tuple[Policy, ...] = ()
    sampling: Sampling | None = None
    goal: Place
    critic: Place | None = None
    keep: Place | None = None
    states: tuple[State, ...] = ()
    learned: tuple[Learned, ...] = ()
    dual: Place | None = None
    reports: dict[Name, Place] = {}
    bindings: dict[Name, Place] = {}
    weights: dict[Name, Place] = {}
    nodes: tuple[Node, ...]
