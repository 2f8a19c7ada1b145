"""Text to syntax tree, with every syntax error of the text at once."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import lru_cache
from typing import Any, cast

from lark import Token, Tree
from lark.exceptions import UnexpectedInput

from objdsl.diagnostic import Diagnostic
from objdsl.errors import ObjectiveError
from objdsl.frozen import dataclass
from objdsl.source import Source, Span
from objdsl.spelling import canonical
from objdsl.syntax import messages, tree
from objdsl.syntax.grammar import grammar
from objdsl.syntax.mistakes.rules import explain
from objdsl.syntax.read import verify
from objdsl.syntax.split import DEEPEST, Piece, split

# Nobody fixes more than this before trying again; a hostile text has a mistake in every line.
_MOST_ERRORS = 100

# Characters of one statement, white space aside. The longest published objective has about 300.
_LONGEST = 16 * 1024


def parse(source: Source) -> tree.File:
    """The syntax tree of a text.

    Raises ObjectiveError with every syntax error that the text holds, in order.
    """
    verify(source)
    pieces, comments = split(source)
    if not pieces:
        raise ObjectiveError([messages.empty(source)])
    statements: list[tree.Statement] = []
    errors: list[Diagnostic] = []
    for piece in pieces:
        try:
            statements.append(_statement(source, piece))
        except ObjectiveError as error:
            errors.extend(error.diagnostics)
        if len(errors) == _MOST_ERRORS:
            break
    if errors:
        raise ObjectiveError(errors)
    return tree.File(tuple(statements), comments, source)


def parse_expression(text: str) -> tree.Expression:
    """The syntax tree of one expression, for tests and for expressions given on a command line."""
    binding = parse(Source("<expression>", f"_ = (\n{text}\n)")).statements
    if len(binding) != 1 or not isinstance(binding[0], tree.Let):
        raise ValueError(f"not one expression: {text!r}")
    return binding[0].value


def _statement(source: Source, piece: Piece) -> tree.Statement:
    if piece.too_deep is not None:
        raise ObjectiveError([messages.too_deep(Span(source, piece.too_deep, piece.too_deep + 1))])
    text = source.text[piece.start : piece.end]
    if len("".join(text.split())) > _LONGEST:
        raise ObjectiveError([messages.too_long(Span(source, piece.start, piece.end), _LONGEST)])
    try:
        parsed = lark_tree(text)
    except UnexpectedInput as error:
        raise ObjectiveError([explain(source, piece, error)]) from None
    return _build(parsed, source, piece.start)


@lru_cache(maxsize=1024)
def lark_tree(text: str) -> Tree[Token]:
    """Lark's tree of a statement. Objectives share many statements, and an editor changes one at a
    time."""
    return grammar().parse(text)


@dataclass(frozen=True, slots=True)
class _Word:
    """A token. Few are asked for more than that they are there."""

    token: Token
    source: Source
    start: int

    @property
    def text(self) -> str:
        """Its canonical spelling."""
        return canonical(str(self.token))

    @property
    def span(self) -> Span:
        return Span(self.source, self.start, self.start + len(self.token))


def _build(parsed: Tree[Token], source: Source, offset: int) -> tree.Statement:
    """Lark's tree as ours, leaves first and without recursion: text can be nested without limit."""
    # The result of each subtree (a node, or a value for its parent), its place, and its depth.
    built: dict[int, tuple[Any, Span, int]] = {}
    for subtree in parsed.iter_subtrees():
        rule = str(subtree.data)  # Lark's own strings compare slowly
        parts: list[Any] = []
        first, start, end, depth = -1, -1, -1, 0
        for child in subtree.children:
            part: Any = None  # where an option of the grammar is absent
            if isinstance(child, Tree):
                part, span, below = built.pop(id(child))
                start, end = span.start, span.end
                depth = max(depth, below)
            elif child is not None:
                start = offset + cast(int, child.start_pos)
                end = start + len(child)
                part = _Word(child, source, start)
            parts.append(part)
            if first < 0:
                first = start
        # Brackets make no node: `format` may add and remove them at any depth.
        depth += rule != "group"
        if depth > DEEPEST:
            raise ObjectiveError([messages.too_deep(Span(source, start, end))])
        span = Span(source, first, end)
        built[id(subtree)] = _node(rule, parts, span), span, depth
    return cast(tree.Statement, built.popitem()[1][0])


def _node(rule: str, parts: list[Any], span: Span) -> Any:
    """The node of one rule of the grammar, from the tokens and the nodes that the rule names."""
    match rule, parts:
        case "name", [word]:
            return tree.Name(word.text, span)
        case "literal", [word]:
            return tree.Number(_number(word), word.text, span)
        case "length", _:
            return tree.Length(span)
        case "group", [_, inner, _]:
            # The brackets belong to the node's place in the text: an edit replaces them too.
            if isinstance(inner, tree.Unary | tree.Binary | tree.Reduction):
                return replace(inner, span=span, bracketed=True)
            return replace(inner, span=span)
        case "unary", [op, operand]:
            return tree.Unary(op.text, operand, span)
        case "binary", [left, op, right]:
            return tree.Binary(op.text, left, right, span)
        case "conditional", [then, _, condition, _, otherwise]:
            return tree.Conditional(then, condition, otherwise, span)
        case "call", [function, _, arguments, _]:
            return tree.Call(_name(function), arguments or (), span)
        case "indexed", [name, _, binder, _]:
            return tree.Indexed(_name(name), binder, span)
        case "reduction", [operator, _, binder, _, operand]:
            return tree.Reduction(_name(operator), binder, (operand,), span)
        case "reduction", [operator, _, binder, _, _, first, _, others, _]:
            return tree.Reduction(_name(operator), binder, (first, *others), span)
        case "binder", [tuple() as indices, _, keys, _, condition]:
            return tree.Binder(indices, None, condition, keys or (), span)
        case "binder", [relation, _, indices, _, keys, _, condition]:
            return tree.Binder(indices or (), relation, condition, keys or (), span)
        case "relation", [bound, op, index]:
            if op.text == "==":
                raise ObjectiveError([messages.equal_in_binder(op.span)])
            return tree.Relation(_name(bound), op.text, _name(index), span)
        case "names", words:
            return tuple(_name(word) for word in words[::2])
        case "arguments" | "options", items:
            return tuple(items[::2])
        case "let", [name, _, value]:
            return tree.Let(_name(name), value, span)
        case "param", [_, name, _, default, _, domain]:
            return tree.Param(_name(name), default.value, default.text, domain, span)
        case "number", [sign, word]:
            negative = sign is not None and sign.text == "-"
            value = -_number(word) if negative else _number(word)
            return tree.Number(value, "-" * negative + word.text, span)
        case "interval", [opening, lower, _, upper, closing]:
            closed = opening.text == "[", closing.text == "]"
            return tree.Interval(lower.value, upper.value, *closed, span)
        case "choice", [_, *numbers, _]:
            return tree.Choice(tuple(number.value for number in numbers[::2]), span)
        case "header", [_, name, _, base]:
            return tree.Header(_name(name), base and _name(base), span)
        case "policy", [_, name, _, source, _, top]:
            return tree.Policy(_name(name), source, top and _whole(top), span)
        case "at_layer", [of, _, _, layer, without, norm]:
            if without and (without.text, norm.text) != ("without", "norm"):
                raise ObjectiveError([messages.not_without_norm(without.span.to(norm.span))])
            at = _name(layer) if layer.text.isidentifier() else _whole(layer)
            return tree.Layer(_name(of), at, without is None, span)
        case "every", [of, _, many, unit]:
            if unit.text not in ("step", "steps"):
                raise ObjectiveError([messages.not_steps(unit.span)])
            return tree.Every(_name(of), _steps(many), span)
        case "average", [function, _, of, _, decay, _]:
            if function.text != "ema":
                raise ObjectiveError([messages.not_an_average(function.span)])
            return tree.Average(_name(of), decay.value, span)
        case "given", [_, name, _, indices, _, _, domain, _, role, word, index]:
            known = word and tree.When(word.text, _name(index), word.span.to(index.span))
            return tree.Given(_name(name), indices, domain, role and _name(role), known, span)
        case "state", [_, name, _, indices, _, _, first, _, following]:
            return tree.State(_name(name), indices or (), first, following, span)
        case "learn", [_, name, _, indices, _, _, start, _, domain]:
            return tree.Learn(_name(name), indices or (), start.value, start.text, domain, span)
        case "def", [_, name, _, arguments, _, _, body]:
            return tree.Def(_name(name), arguments or (), body, span)
        case "sample", [_, _, policy, _, options]:
            return tree.Sample(_name(policy), options or (), span)
        case "option", [name, value]:
            value = _name(value) if isinstance(value, _Word) else value and value.value
            return tree.Option(_name(name), value, span)
        case "keep", [_, index, _, condition]:
            return tree.Keep(_name(index), condition, span)
        case "report", [_, name, _, value]:
            return tree.Report(_name(name), value, span)
        case "goal", [sense, *word, value]:
            whose = next((w.text for w in word if w is not None), "policy")
            return tree.Goal(sense.text, cast(tree.Whose, whose), value, span)
    raise AssertionError(f"no node for {rule} of {len(parts)} parts")


def _name(word: _Word) -> tree.Name:
    return tree.Name(word.text, word.span)


def _number(word: _Word) -> float:
    value = float(word.text)
    if math.isinf(value) and word.text != "inf":
        raise ObjectiveError([messages.out_of_range(word.span)])
    return value


def _steps(word: _Word) -> int:
    if not word.text.isdigit() or not int(word.text[:9]) > 0 or len(word.text) > 9:
        raise ObjectiveError([messages.not_steps(word.span)])
    return int(word.text)


def _whole(word: _Word) -> int:
    if not word.text.isdigit() or len(word.text) > 4:
        raise ObjectiveError([messages.not_a_whole_number(word.span)])
    return int(word.text)
