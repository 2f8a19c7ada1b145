"""How far a reduction reaches: on paper over the product that follows it, in the grammar over the
next operand alone. Where the two readings differ, the text is refused.

    sum[t] x * y      (sum[t] x) * y    or   sum[t] (x * y)
    mean[i] x^2       (mean[i] x)^2     or   mean[i] (x^2)

The two are the same value only where the reduction is a sum or a mean and what it is multiplied
with, or divided by, carries none of its indices; `elaborate` knows about that.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from objdsl.diagnostic import Edit, Fix
from objdsl.frozen import dataclass
from objdsl.ir.ops import COUNT, REDUCE, REDUCTIONS
from objdsl.source import Span
from objdsl.syntax.tree import (
    Binary,
    Binder,
    Call,
    Conditional,
    Def,
    Expression,
    Goal,
    Indexed,
    Keep,
    Let,
    Name,
    Reduction,
    Report,
    State,
    Statement,
    Unary,
)

PRODUCT = ("*", "/", "^")
_LONGEST = 40  # characters of a part that a message repeats


@dataclass(frozen=True, slots=True)
class Loose:
    """A reduction without brackets around it, and the operators that follow its operand.

    Attributes:
        product: the whole product that contains it.
        nest: the reduction; if its operand is a reduction without brackets, that too, and so on.
        followers: the operators after it, in order; the right side of each is its operand.
        multiplies: whether the rest of the product multiplies it. After `/` and inside an exponent
            it does not, and what follows would be divided by, or raised to, as well.
    """

    product: Binary
    nest: tuple[Reduction, ...]
    followers: tuple[Binary, ...]
    multiplies: bool

    @property
    def start(self) -> int:
        """The offset of its first character."""
        return self.nest[0].span.start

    @property
    def operand(self) -> Expression:
        """The operand of the innermost reduction, according to the grammar."""
        return self.nest[-1].operands[0]

    @property
    def bound(self) -> frozenset[str]:
        """The names of the running indices: `s` of `sum[s >= t] x`."""
        relations = (reduction.binder.relation for reduction in self.nest)
        return frozenset(relation.bound.id for relation in relations if relation)

    @property
    def span(self) -> Span:
        """From the reduction to the end of what may belong to it."""
        return self.nest[0].span.to(self.followers[-1].right.span)

    @property
    def distributes(self) -> bool:
        """Whether a factor that does not vary with its indices may be inside or outside."""
        return self.multiplies and all(_is_linear(reduction) for reduction in self.nest)

    @property
    def certain(self) -> bool:
        """Whether its readings differ, whatever the indices of the followers are."""
        return not self.distributes or any(binary.op == "^" for binary in self.followers)

    def readings(self, differs: Sequence[bool]) -> tuple[Fix, ...]:
        """The possible meanings of the text, as edits that insert the brackets.

        Args:
            differs: for each follower, whether it matters on which side of the end it is.
        """
        many = len(self.followers)
        readings = [self._reading(0, 0, True)]
        if self.followers[0].op == "^" and any(differs[1:]):  # `(sum[t] (x^2)) * y`
            readings.append(self._reading(0, 1, True))
        if self.certain and self.multiplies:  # `mean[p] ((mean[i] x)^2)`
            readings += [self._reading(k, many, False) for k in range(1, len(self.nest))]
        readings.append(self._reading(0, many, False))
        return tuple(readings)

    def _reading(self, closed: int, end: int, outside: bool) -> Fix:
        """The reading in which the operand ends after the follower `end`.

        `closed` is the first reduction of the nest that takes only the next operand (0: if `end` is
        0, all do); `outside` says whether something follows the reduction then.
        """
        source = self.product.span.source
        first, last = self.operand.span.start, self.operand.span.end
        removed: list[Edit] = []
        inserted: dict[int, str] = {}
        if not end:
            inserted = {self.start: "(", last: ")"}
        else:
            stop = self.followers[end - 1].right.span.end
            if closed:
                inner = self.nest[closed].span
                inserted = {inner.start: "((", inner.end: ")", stop: ")"}
            elif _needless(self.operand):  # `mean[p,i] (d)^2` becomes `mean[p,i] (d^2)`
                removed = [Edit(Span(source, last - 1, last), "")]
                inserted = {stop: ")"}
            else:
                inserted = {first: "(", stop: ")"}
            if outside:
                inserted = {self.start: "("} | inserted
                inserted[stop] += ")"
        added = [Edit(Span(source, at, at), text) for at, text in inserted.items()]
        edits = tuple(sorted(removed + added, key=lambda edit: edit.span.start))
        return Fix(f"`{self._shown(edits)}`", edits)

    def _shown(self, edits: tuple[Edit, ...]) -> str:
        """The text from the reduction on, after the edits; long parts are left out."""
        text, start = self.span.text, self.start
        parts = (self.operand, *(binary.right for binary in self.followers))
        long = (part.span for part in parts if len(" ".join(part.span.text.split())) > _LONGEST)
        changes = [*edits, *(Edit(span, "...") for span in long)]
        # Insertions before a part come last here, because the text is changed from its end.
        changes.sort(key=lambda edit: (edit.span.start, edit.span.end))
        for edit in reversed(changes):
            text = text[: edit.span.start - start] + edit.text + text[edit.span.end - start :]
        return " ".join(re.sub(r"#[^\n]*", "", text).split())


def _needless(operand: Expression) -> bool:
    """Whether there are brackets around an operand that needs none."""
    atom = isinstance(operand, Name | Call | Indexed)
    return atom and operand.span.text.startswith("(") and operand.span.text.endswith(")")


def loose(root: Expression) -> Iterator[Loose]:
    """Every loose reduction of an expression, in the order of the text."""
    yield from _loose(root, None, (), True)


def expressions(statement: Statement) -> tuple[Expression, ...]:
    """The formulas of a statement."""
    match statement:
        case Let() | Report() | Goal():
            return (statement.value,)
        case Def(_, _, body):
            return (body,)
        case Keep(_, condition):
            return (condition,)
        case State(_, _, first, following):
            return (first, following)
    return ()


def _loose(
    node: Expression, product: Binary | None, followers: tuple[Binary, ...], multiplies: bool
) -> Iterator[Loose]:
    """`followers` are the operators after the node inside the product that contains it."""
    if isinstance(node, Binary | Unary | Reduction) and node.bracketed:
        product, followers, multiplies = None, (), True
    match node:
        case Binary(op, left, right) if op in PRODUCT:
            product = product or node
            yield from _loose(left, product, (node, *followers), multiplies)
            yield from _loose(right, product, followers, multiplies and op == "*")
        case Unary("-" | "+", operand):
            yield from _loose(operand, product, followers, multiplies)
        case Reduction(_, binder, operands):
            yield from _in_binder(binder)
            if len(operands) == 1:
                nest = _nest(node)
                if followers and product is not None:
                    yield Loose(product, nest, followers, multiplies)
                for inner in nest[1:]:
                    yield from _in_binder(inner.binder)
                operands = nest[-1].operands
            for operand in operands:
                yield from loose(operand)
        case Binary(_, left, right):
            yield from loose(left)
            yield from loose(right)
        case Unary(_, operand):
            yield from loose(operand)
        case Conditional(then, condition, otherwise):
            for part in (then, condition, otherwise):
                yield from loose(part)
        case Call(_, arguments):
            for argument in arguments:
                yield from loose(argument)
        case Indexed(_, binder):
            yield from _in_binder(binder)


def _in_binder(binder: Binder) -> Iterator[Loose]:
    for key in binder.keys:
        yield from loose(key)
    if binder.condition is not None:
        yield from loose(binder.condition)


def _nest(node: Reduction) -> tuple[Reduction, ...]:
    nest = [node]
    while True:
        operands = nest[-1].operands
        inner = operands[0] if len(operands) == 1 else None
        if not isinstance(inner, Reduction) or inner.bracketed:
            return tuple(nest)
        nest.append(inner)


def _is_linear(reduction: Reduction) -> bool:
    name = reduction.operator.id
    return name == COUNT or (name in REDUCTIONS and REDUCE[REDUCTIONS[name]].linear)
