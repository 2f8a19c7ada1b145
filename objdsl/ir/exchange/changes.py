"""The parts of a JSON objective that its text in the language cannot express."""

from __future__ import annotations

from collections.abc import Iterator

from objdsl.codes import error
from objdsl.diagnostic import Diagnostic
from objdsl.ir.exchange.faults import shown
from objdsl.ir.exchange.places import place
from objdsl.ir.exchange.reader import Loaded
from objdsl.ir.nodes import Expr, fields_of
from objdsl.ir.objective import Objective
from objdsl.ir.text import text
from objdsl.source import Span


def changes(loaded: Loaded, compiled: Objective) -> list[Diagnostic]:
    """The first formula of each kind in which the text that was written for an objective differs
    from it."""
    had = loaded.objective
    errors: list[Diagnostic] = []
    for what, formula, other in _pairs(had, compiled):
        if other is None or formula != other:
            changed = _changed(loaded, what, formula, other)
            if changed.span not in [known.span for known in errors]:
                errors.append(changed)
    declared = (
        ("params", had.params, compiled.params),
        ("domains", had.domains, compiled.domains),
        ("learned", had.learned, compiled.learned),
        ("policies", had.policies, compiled.policies),
        ("sampling", had.sampling, compiled.sampling),
    )
    for name, before, after in declared:
        if before != after:
            where = place(loaded.json, (name,))
            errors.append(_unwritable(f"`{name}` cannot be written in the language", where))
    return errors


def _pairs(had: Objective, compiled: Objective) -> Iterator[tuple[str, Expr, Expr | None]]:
    yield "goal", had.goal, compiled.goal
    if had.critic is not None:
        yield "critic", had.critic, compiled.critic
    if had.keep is not None:
        yield "keep", had.keep, compiled.keep
    if had.dual is not None:
        yield "dual", had.dual, compiled.dual
    states = {state.name: state for state in compiled.states}
    for state in had.states:
        written = states.get(state.name)
        yield f"state {state.name}", state.start, None if written is None else written.start
        yield f"state {state.name}", state.next, None if written is None else written.next
    for before, after in ((had.bindings, compiled.bindings), (had.reports, compiled.reports)):
        values = {named.name: named.value for named in after}
        for named in before:
            if named.name in values or named.value.children:
                yield named.name, named.value, values.get(named.name)


def _changed(loaded: Loaded, what: str, before: Expr, after: Expr | None) -> Diagnostic:
    """The innermost formula that differs between the two."""
    while after is not None and type(before) is type(after):
        below = [*zip(before.children, after.children, strict=False)]
        differ = [(a, b) for a, b in below if a != b]
        if not differ or _own_fields(before) != _own_fields(after):
            break
        before, after = differ[0]
    kind = type(before).__name__
    message = f"this {kind}, a part of `{what}`, cannot be written in the language"
    if after is None:
        help = f"what is nearest to it, `{_text(before)}`, is a number or a column by itself"
    elif type(after) is not type(before):
        help = f"what is nearest to it, `{_text(after)}`, is a {type(after).__name__}"
    else:
        pairs = zip(
            _own_fields(before).items(),
            _own_fields(after).values(),
            strict=True,
        )
        others = [f"`{name}` {shown(str(y))}" for (name, x), y in pairs if x != y]
        help = f"what is nearest to it, `{_text(after)}`, has {', '.join(others)}"
    return _unwritable(message, loaded.span(before), help)


def _own_fields(node: Expr) -> dict[str, object]:
    """The fields of a node, with operands replaced by whether they are present."""
    values = {name: getattr(node, name) for name in fields_of(type(node))}
    return {name: isinstance(x, Expr) or x for name, x in values.items()}


def _text(node: Expr) -> str:
    return shown(text(node))


def _unwritable(message: str, span: Span, help: str = "") -> Diagnostic:
    return error("not-in-the-language", message, span, help=help)
