"""The state of elaborating a file: values, the definition that is being read, errors."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import NoReturn

from objdsl.codes import ErrorName, error
from objdsl.diagnostic import Diagnostic, Edit, Fix, Label, same_letters, spelled
from objdsl.elaborate.scope import Frame, Scope
from objdsl.errors import ObjdslError, ObjectiveError
from objdsl.ir.declarations import Parameter
from objdsl.ir.indices import MEANING
from objdsl.ir.nodes import Column, Expr
from objdsl.ir.objective import Named
from objdsl.source import Source, Span
from objdsl.syntax import tree
from objdsl.syntax.foreign import translation, without_indices
from objdsl.syntax.reach import Loose

Find = Callable[[str, Span], tree.File]
"""Finds the file of a base objective; raises ObjectiveError where there is none."""

MAX_NODES = 20_000
# The deepest nesting of definitions that are used before their place in the file, and of calls.
MAX_OPEN = 64
# Stop after this many errors.
MAX_ERRORS = 100

SHALLOWER = (
    f"at most {MAX_OPEN} definitions are opened one inside the other; "
    "one that stands above its use is not opened again"
)


class RecordedError(ObjdslError):
    """An error that has been recorded; anything that depends on it fails silently."""


@dataclass
class Context:
    """What is known while a file is elaborated, and the errors so far.

    Attributes:
        prelude: the parsed `std.obj`.
        find: looks up the file after `from`.
        build: makes the node of an expression.
        scope: the statements that names stand for.
        params: the hyper-parameters by their names.
        givens: the declared columns.
        states: the columns that are remembered.
        learned: the numbers that are learned beside the policy.
        kept: the condition of `keep p where ...`.
        values: the values of definitions; None for one that is begun, or that is wrong.
        order: the definitions, each after those that it uses.
        calls: the calls of functions.
        read: the names that something reads, of functions, definitions, parameters, columns,
            policies.
        open: the definitions and functions that are begun, with where they are used.
        frames: what the arguments of functions and running indices stand for.
        site: the call in the file of the function of the prelude that is open.
        nodes: how many nodes were built.
        loose: the reductions that may read two ways, by the product that they stand in.
        factors: values of factors that were looked at before their product.
        clear: where loose reductions start that read one way.
        doubtful: where loose reductions start that read two ways.
        aliases: names that are read as others, by where they start.
    """

    prelude: tree.File
    find: Find
    build: Callable[[Context, tree.Expression], Expr]
    scope: Scope = field(default_factory=Scope)
    params: dict[str, Parameter] = field(default_factory=dict)
    givens: dict[str, Column] = field(default_factory=dict)
    states: dict[str, Column] = field(default_factory=dict)
    learned: dict[str, Column] = field(default_factory=dict)
    kept: Expr | None = None
    values: dict[str, Expr | None] = field(default_factory=dict)
    order: list[Named] = field(default_factory=list)
    calls: list[Named] = field(default_factory=list)
    read: set[str] = field(default_factory=set)
    open: list[tuple[str, Span]] = field(default_factory=list)
    frames: list[Frame] = field(default_factory=lambda: [Frame()])
    site: Span | None = None
    nodes: int = 0
    loose: dict[int, tuple[tree.Binary, list[Loose]]] = field(default_factory=dict)
    factors: dict[int, Expr] = field(default_factory=dict)
    clear: set[tuple[Source, int]] = field(default_factory=set)
    doubtful: set[tuple[Source, int]] = field(default_factory=set)
    aliases: dict[tuple[Source, int], str] = field(default_factory=dict)
    errors: list[Diagnostic] = field(default_factory=list)

    # --- values ----------------------------------------------------------------------------------

    def expr(self, node: tree.Expression) -> Expr:
        """The value of an expression; raises RecordedError if it has none."""
        if (value := self.factors.pop(id(node), None)) is not None:
            return value
        self.nodes += 1
        if self.nodes > MAX_NODES:
            message = "the formula is too large once its functions are put in"
            self.record("too-large", message, node.span)
            raise ObjectiveError(self.errors)
        return _located(self.build(self, node), self.site or node.span)

    def all(self, *nodes: tree.Expression) -> list[Expr]:
        """The values of several expressions; the errors of each, where one has any."""
        values: list[Expr] = []
        for node in nodes:
            with suppress(RecordedError):
                values.append(self.expr(node))
        if len(values) < len(nodes):
            raise RecordedError
        return values

    @contextmanager
    def then(self, *nodes: tree.Expression) -> Iterator[None]:
        """Reports the errors of some expressions as well, after that of the expression that
        contains them."""
        try:
            yield
        finally:
            with suppress(RecordedError):
                self.all(*nodes)

    # --- places ----------------------------------------------------------------------------------

    def enter(self, name: str, use: Span) -> None:
        """Begins a definition or a function, inside those that are being read."""
        if len(self.open) == MAX_OPEN:
            message = f"definitions are nested more than {MAX_OPEN} deep here"
            self.record("nested-too-deeply", message, use, help=SHALLOWER)
            raise ObjectiveError(self.errors)
        self.open.append((name, use))

    @contextmanager
    def frame(self, frame: Frame) -> Iterator[None]:
        """Reads with additional names for values."""
        self.frames.append(frame)
        try:
            yield
        finally:
            self.frames.pop()

    @contextmanager
    def statement(self) -> Iterator[None]:
        """Reads one statement; its errors are recorded, and the next one is read."""
        try:
            yield
        except RecordedError:
            self.frames, self.open, self.site = [Frame()], [], None
            self.factors.clear()

    @contextmanager
    def trial(self) -> Iterator[None]:
        """Reads something provisionally: errors end it, and are not reported; no call is
        recorded."""
        errors, calls, order, nodes = self.errors, [*self.calls], [*self.order], self.nodes
        self.errors = []
        with suppress(ObjectiveError, RecordedError, RecursionError):
            yield
        self.errors, self.calls, self.order, self.nodes = errors, calls, order, nodes
        self.frames, self.open, self.site = [Frame()], [], None
        self.factors.clear()

    # --- errors ----------------------------------------------------------------------------------

    def record(
        self,
        name: ErrorName,
        message: str,
        span: Span | None,
        *,
        help: str = "",
        labels: tuple[Label, ...] = (),
        near_to: tuple[str, Iterable[str]] | None = None,
        choices: tuple[Fix, ...] = (),
        fix: Fix | None = None,
    ) -> None:
        """Records an error. With `near_to`, an unknown name and the known ones, the near one is the
        help, or what a name of other languages is called here."""
        if near_to is not None:
            unknown, known = near_to[0], [*near_to[1]]
            near, sentence = spelled(unknown, known), translation(unknown)
            # `R` besides a defined `r` is a different name; `T` besides the index `t` is a slip.
            alike = near is not None and same_letters(unknown, near)
            alike = alike and (len(unknown) > 1 or near in MEANING)
            if (bare := without_indices(unknown)) != unknown and bare in known:
                help = f"indices are implied: write `{bare}`"
                if span is not None:
                    fix = Fix(f"write `{bare}`", (Edit(span, bare),))
            elif near is not None and (sentence is None or alike):
                help = f"did you mean `{near}`?"
                if span is not None:
                    fix = Fix(f"write `{near}`", (Edit(span, near),))
            elif sentence is not None:
                help = sentence
        if self.site is not None and span is not None and span.source is self.prelude.source:
            span = self.site
        self.report(error(name, message, span, labels=labels, help=help, fix=fix, choices=choices))

    def report(self, error: Diagnostic) -> None:
        """Adds an error once: a function may be called, and a factor examined, several times."""
        if any(e.message == error.message and e.span == error.span for e in self.errors):
            return
        self.errors.append(error)
        if len(self.errors) == MAX_ERRORS:
            raise ObjectiveError(self.errors)

    def refuse(self, error: Diagnostic) -> NoReturn:
        """Records an error, and raises RecordedError."""
        self.report(error)
        raise RecordedError

    def fail(
        self,
        name: ErrorName,
        message: str,
        span: Span | None,
        *,
        help: str = "",
        labels: tuple[Label, ...] = (),
        near_to: tuple[str, Iterable[str]] | None = None,
        choices: tuple[Fix, ...] = (),
        fix: Fix | None = None,
    ) -> NoReturn:
        """Records an error, and raises RecordedError."""
        self.record(
            name, message, span, help=help, labels=labels, near_to=near_to, choices=choices, fix=fix
        )
        raise RecordedError


def _located(expr: Expr, span: Span) -> Expr:
    """The node with its place, if it has none yet. Leaves may be shared, so they are copied."""
    if expr.span is not None:
        return expr
    if not expr.children:
        expr = copy.copy(expr)
    object.__setattr__(expr, "span", span)
    return expr
