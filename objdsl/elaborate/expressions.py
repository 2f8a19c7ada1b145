"""The node of each kind of expression."""

from __future__ import annotations

from dataclasses import replace

from objdsl.elaborate.calls import call, indexed
from objdsl.elaborate.checks import as_mask
from objdsl.elaborate.context import Context
from objdsl.elaborate.names import is_own, value_of
from objdsl.elaborate.readings import judge
from objdsl.elaborate.reductions import reduction
from objdsl.ir import build
from objdsl.ir.columns import IDS
from objdsl.ir.indices import union
from objdsl.ir.nodes import Binary, Const, Expr, Length, Param, Where
from objdsl.ir.ops import SIGNS
from objdsl.syntax import tree


def node_of(ctx: Context, node: tree.Expression) -> Expr:
    """The node of an expression; its parts are asked of the context."""
    match node:
        case tree.Number(value):
            return build.const(value)
        case tree.Name():
            return value_of(ctx, node)
        case tree.Length():
            return Length()
        case tree.Unary("not", operand):
            return build.negation(as_mask(ctx, ctx.expr(operand), operand.span))
        case tree.Unary(sign, operand):
            x = build.real(ctx.expr(operand))
            return build.neg(x) if sign == "-" else x
        case tree.Binary(op, left, right):
            _, reductions = ctx.loose.get(id(node), (node, ()))
            if reductions:
                judge(ctx, node, reductions)
            return _binary(ctx, op, left, right)
        case tree.Conditional(then, condition, otherwise):
            a, b, m = ctx.all(then, otherwise, condition)
            m = as_mask(ctx, m, condition.span)
            chosen = build.where(m, a, b)
            if chosen.indices == union(m.indices, a.indices, b.indices):
                return chosen
            both = a.boolean and b.boolean
            return Where(m, a, b) if both else Where(m, build.real(a), build.real(b))
        case tree.Call():
            return call(ctx, node)
        case tree.Indexed():
            return indexed(ctx, node)
        case tree.Reduction():
            return reduction(ctx, node)


def _binary(ctx: Context, op: str, left: tree.Expression, right: tree.Expression) -> Expr:
    if op in ("==", "!="):
        for side, other in ((left, right), (right, left)):
            if _is_id(ctx, side):
                return _of_id(ctx, op, other)
    a, b = ctx.all(left, right)
    result = _operator(ctx, op, a, b, left, right)
    if result.indices == union(a.indices, b.indices):
        return result
    # `pi / pi` is 1, and still a value for each token: indices come from what is written.
    return Binary(SIGNS[op], build.real(a), build.real(b))


def _is_id(ctx: Context, node: tree.Expression) -> bool:
    return isinstance(node, tree.Name) and node.id == IDS.leaf.name and not is_own(ctx, node.id)


def _of_id(ctx: Context, op: str, other: tree.Expression) -> Expr:
    """`token == 5`: whether a token has an id."""
    value = build.real(ctx.expr(other))
    if not isinstance(value, Const | Param):
        ctx.fail(
            "wrong-type", "a token is compared with one id, a number or a parameter", other.span,
            help="`token == 5 or token == 7` for several",
        )  # fmt: skip
    if isinstance(value, Const) and (value.value < 0 or value.value != int(value.value)):
        ctx.fail("outside-domain", "an id is a whole number, 0 or more", other.span)
    return Binary(SIGNS[op], replace(IDS.leaf), value)


def _operator(
    ctx: Context, op: str, a: Expr, b: Expr, left: tree.Expression, right: tree.Expression
) -> Expr:
    match op:
        case "and" | "or":
            a, b = as_mask(ctx, a, left.span), as_mask(ctx, b, right.span)
            return build.both(a, b) if op == "and" else Binary("or", a, b)
        case "<" | "<=" | ">" | ">=" | "==" | "!=":
            return Binary(SIGNS[op], build.real(a), build.real(b))
        case "*":
            return build.mul(a, b)
        case "/":
            return build.div(a, build.real(b))
    a, b = build.real(a), build.real(b)
    match op:
        case "+":
            return build.add(a, b)
        case "-":
            return build.sub(a, b)
    return build.power(a, b)
