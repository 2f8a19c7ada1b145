"""Values that the field has a name for, in their lowered form: means, deviations, log-ratios."""

from __future__ import annotations

import objdsl.ir.nodes as n
from objdsl.ir.build import ONE, ZERO

COUNTS = {"p": "n_prompts", "i": "group_size", "it": "group_tokens", "t": "length",
          "pi": "n_responses", "pit": "n_tokens"}  # fmt: skip
UNITS = {"n_prompts": "prompt", "group_size": "response", "group_tokens": "token",
         "length": "token", "n_responses": "response", "n_tokens": "token"}  # fmt: skip
"""The names of sums of ones, and what they count."""


def match_log_ratio(node: n.Expr) -> str | None:
    """The two policies of a log-ratio, as a part of a name; None for other values."""
    match node:
        case n.Binary("sub", n.LogProb(a) | n.LogDist(a), n.LogProb(b) | n.LogDist(b)):
            return f"{a}_{b}"
    return None


def is_clipping(node: n.Expr) -> bool:
    """Whether a mask holds where a clipped surrogate has no gradient: the ratio is beyond the bound
    on the side that the sign of the advantage decides."""
    match _bare(node):
        case n.Binary("or", a, b):
            return all(_is_side(_bare(side)) for side in (a, b))
    return False


def _is_side(node: n.Expr) -> bool:
    match node:
        case n.Binary("and", sign, beyond):
            pair = _bare(sign), _bare(beyond)
            zero = [isinstance(x, n.Binary) and x.op in ("lt", "gt") and x.b == ZERO for x in pair]
            return any(zero) and all(isinstance(x, n.Binary) for x in pair)
    return False


def match_sum(node: n.Expr) -> tuple[str, n.Expr]:
    """The indices that nested sums run over, and their summand."""
    over = ""
    while isinstance(node, n.Reduce) and node.op == "sum":
        over += "".join(node.over)
        node = node.x
    return over, node


def match_count(over: str, x: n.Expr) -> str | None:
    """What a sum of ones counts; None for other values."""
    if isinstance(x, n.Length):
        return COUNTS.get(f"{over}t")
    return COUNTS.get(over) if x == ONE else None


def match_size(node: n.Expr) -> str | None:
    """What a product of sizes counts; None if it has other factors."""
    sizes: set[str] = set()
    stack = [node]
    while stack:
        x = stack.pop()
        counted = match_count(*match_sum(x))
        match x:
            case _ if counted is not None:
                sizes.add(UNITS[counted])
            case n.Binary("mul" | "max", a, b):
                stack += (a, b)
            case n.Const(2.0):
                sizes.add("twice")
            case n.Const() | n.Param():
                sizes.add("scaled")
            case _:
                return None
    order = ("twice", "scaled", "token", "response", "prompt")
    present = [size for size in order if size in sizes]
    return present[0] if sizes - {"twice", "scaled"} else None


def match_mean(node: n.Expr) -> n.Expr | None:
    """The operand of a mean; None for other values."""
    match node:
        case n.Reduce("mean", _, x):
            return x
        case n.Binary("div", n.Reduce("sum") as total, size):
            over, x = match_sum(total)
            counted = match_count(*match_sum(size))
            match x:
                case n.Binary("mul", a, b) if counted == match_count(over, b) is not None:
                    return a
            return x if counted == match_count(over, ONE) is not None else None
    return None


def match_deviation(node: n.Expr) -> n.Expr | None:
    """The operand of a variance or a standard deviation; None for other values."""
    match node:
        case n.Unary("sqrt", variance):
            return match_deviation(variance)
        case n.Binary("div", n.Reduce("sum") as squares, _):
            match match_sum(squares)[1]:
                case n.Binary("pow", n.Binary("sub", x, m), n.Const(2.0)) if match_mean(m) == x:
                    return x
    return None


def _bare(node: n.Expr) -> n.Expr:
    return node.x if isinstance(node, n.Stop) else node
