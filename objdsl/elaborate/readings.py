"""Ambiguous reductions: `sum[t] x * y` may end before the product, or extend over it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from objdsl.codes import error
from objdsl.diagnostic import Diagnostic, Label
from objdsl.elaborate.context import Context, RecordedError
from objdsl.elaborate.scope import Frame
from objdsl.elaborate.wording import cut
from objdsl.ir.indices import SCALAR
from objdsl.ir.nodes import Column, Expr
from objdsl.source import Span
from objdsl.syntax import tree
from objdsl.syntax.reach import PRODUCT, Loose, expressions, loose


def note(ctx: Context, statement: tree.Statement) -> None:
    """Records the loose reductions of a statement, until their indices are known."""
    for expression in expressions(statement):
        for reduction in loose(expression):
            _, here = ctx.loose.setdefault(id(reduction.product), (reduction.product, []))
            here.append(reduction)


def judge(ctx: Context, product: tree.Binary, reductions: Sequence[Loose]) -> None:
    """Raises RecordedError if a reduction in a product is ambiguous."""
    doubts = False
    for reduction in reductions:
        place = (reduction.product.span.source, reduction.start)
        differs, labels = _differs(ctx, reduction)
        if not any(differs):
            ctx.clear.add(place)
        elif not doubts:  # the readings of one reduction settle others
            doubts = True
            _doubt(ctx, reduction, differs, labels)
    if doubts:
        bound = frozenset[str]().union(*(reduction.bound for reduction in reductions))
        ctx.all(*(part for part in _factors(product) if not bound & _free(part)))
        raise RecordedError


def judge_alone(ctx: Context, statement: tree.Statement) -> None:
    """Reports the reductions of a statement that are ambiguous whatever the arguments are: with
    other arguments, a value varies at least with the indices that it varies with for numbers."""
    arguments = statement.arguments if isinstance(statement, tree.Def) else ()
    numbers: dict[str, Expr] = {name.id: Column(name.id, SCALAR) for name in arguments}
    for reduction in (reduction for part in expressions(statement) for reduction in loose(part)):
        reading: tuple[list[bool], tuple[Label, ...]] = [], ()
        with ctx.trial(), ctx.frame(Frame(numbers)):
            reading = _differs(ctx, reduction)
        if any(reading[0]):
            _doubt(ctx, reduction, *reading)


def _differs(ctx: Context, reduction: Loose) -> tuple[list[bool], tuple[Label, ...]]:
    """For each follower of a reduction, whether it matters on which side of the end it is."""
    over = {index for node in reduction.nest for index in _reduced(node.binder)}
    differs: list[bool] = []
    labels: list[Label] = []
    for follower in reduction.followers:
        named = reduction.bound & _free(follower.right)
        if not reduction.distributes or follower.op == "^" or named:
            differs.append(True)
            continue
        try:
            value = ctx.expr(follower.right)
        except RecordedError:  # what it is will be known when its error is gone
            ctx.doubtful.add((reduction.product.span.source, reduction.start))
            differs.append(False)
            continue
        ctx.factors[id(follower.right)] = value
        shared = [index for index in value.indices if index in over]
        differs.append(bool(shared))
        if shared:
            labels.append(Label(follower.right.span, f"varies with `{','.join(shared)}`"))
    if labels and ctx.open and ctx.open[-1][0].endswith("()"):
        labels.append(Label(ctx.open[-1][1], "in this call"))
    return differs, tuple(labels)


def _doubt(
    ctx: Context, reduction: Loose, differs: Sequence[bool], labels: tuple[Label, ...]
) -> None:
    ctx.doubtful.add((reduction.product.span.source, reduction.start))
    ctx.report(two_readings(reduction, differs, labels))


def two_readings(
    reduction: Loose, differs: Sequence[bool], labels: tuple[Label, ...]
) -> Diagnostic:
    """The error for a reduction that may end before the text after it, or extend over it."""
    operator, span = reduction.nest[0].operator.id, reduction.span
    rest = Span(span.source, reduction.nest[0].span.end, span.end).text
    return error(
        "two-readings",
        f"the {_REDUCED.get(operator, operator)} may end before `{cut(rest)}`, or reach over it",
        span, labels=labels, choices=reduction.readings(differs),
        help="brackets say which: on paper it reaches over a product, and here over one operand",
    )  # fmt: skip


_REDUCED = {"prod": "product", "max": "maximum", "min": "minimum", "std": "deviation"}


def _factors(node: tree.Expression, top: bool = True) -> Iterator[tree.Expression]:
    """The factors of a product; for a loose reduction, its operand."""
    bracketed = isinstance(node, tree.Unary | tree.Binary | tree.Reduction) and node.bracketed
    match node:
        case tree.Binary(op, left, right) if op in PRODUCT and (top or not bracketed):
            yield from _factors(left, False)
            yield from _factors(right, False)
        case tree.Unary("-" | "+", operand) if not bracketed:
            yield from _factors(operand, False)
        case tree.Reduction(_, tree.Binder(_, None), (operand,)) if not bracketed:
            yield from _factors(operand, False)
        case tree.Reduction() if not bracketed:
            pass  # its operand may name the index that runs
        case _:
            yield node


def _reduced(binder: tree.Binder) -> tuple[str, ...]:
    """The indices that a reduction removes, or runs along."""
    related = () if binder.relation is None else (binder.relation.index.id,)
    return (*related, *(index.id for index in binder.indices))


def _free(node: tree.Expression) -> set[str]:
    """The names that an expression reads, without its running indices."""
    match node:
        case tree.Name(id):
            return {id}
        case tree.Reduction(_, tree.Binder(_, relation, condition, keys), operands):
            parts = (*operands, *keys, *((condition,) if condition else ()))
            inside = set[str]().union(*map(_free, parts))
            return inside - ({relation.bound.id} if relation else set())
        case tree.Unary(_, operand):
            return _free(operand)
        case tree.Binary(_, left, right):
            return _free(left) | _free(right)
        case tree.Conditional(then, condition, otherwise):
            return _free(then) | _free(condition) | _free(otherwise)
        case tree.Call(_, arguments):
            return set[str]().union(*map(_free, arguments))
        case tree.Indexed(name, binder):
            return {name.id, *(index.id for index in binder.indices)}
        case tree.Number() | tree.Length():
            return set()
