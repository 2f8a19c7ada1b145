"""The canonical layout of a text, which `objdsl fmt` writes. Comments stay, and so does the
formula."""

from __future__ import annotations

import math
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, replace

from objdsl.syntax import tree
from objdsl.syntax.reach import PRODUCT
from objdsl.syntax.tree import Expression

WIDTH = 100
INDENT = 4
DEEPEST_INDENT = WIDTH // 2  # what nests deeper than this is not made readable by line ends

# The precedence of a piece of text; it gets brackets if its place requires a higher one.
IF, OR, AND, NOT, COMPARE, PLUS, TIMES, SIGN, POWER, APPLY, ATOM = range(11)

_LEVELS = {
    "or": OR, "and": AND, "<": COMPARE, "<=": COMPARE, ">": COMPARE, ">=": COMPARE, "==": COMPARE,
    "!=": COMPARE, "+": PLUS, "-": PLUS, "*": TIMES, "/": TIMES, "^": POWER,
}  # fmt: skip


def format(
    file: tree.File, clear: Container[int] = (), aliases: Mapping[int, str] | None = None
) -> str:
    """The canonical text of a file.

    Parsing it gives the same tree, and formatting that gives the same text. One blank line is kept
    where there were any; a comment inside a statement moves in front of it.

    Args:
        file: the parsed file.
        clear: where reductions start whose readings agree, with brackets and without: they get
            brackets if a product follows. Others stay as they are.
        aliases: the standard spellings of names, by where they start.
    """
    rewrite = _Rewrite(clear, aliases or {})
    lines: list[str] = []
    previous_end = 0
    for item in _items(file):
        if lines and item.line > previous_end + 1:
            lines.append("")
        lines += [_comment(comment) for comment in item.inside]
        if item.statement is not None:
            lines += _statement(item.statement, rewrite).split("\n")
            if item.after is not None:
                lines[-1] += "  " + _comment(item.after)
        previous_end = item.end_line
    return "\n".join(lines) + "\n"


@dataclass
class _Item:
    """A statement with its comments, or a comment that stands alone; and its lines in the text."""

    statement: tree.Statement | None
    inside: list[tree.Comment]
    after: tree.Comment | None
    line: int
    end_line: int


def _items(file: tree.File) -> Iterator[_Item]:
    comments = list(file.comments)
    for statement in file.statements:
        span = statement.span
        end_line = span.source.position(max(span.end - 1, 0))[0]
        while comments and comments[0].span.start < span.start:
            yield _alone(comments.pop(0))
        item = _Item(statement, [], None, span.line, end_line)
        while comments and comments[0].span.start < span.end:
            item.inside.append(comments.pop(0))
        if comments and not comments[0].own_line and comments[0].span.line == end_line:
            item.after = comments.pop(0)
        yield item
    yield from (_alone(comment) for comment in comments)


def _alone(comment: tree.Comment) -> _Item:
    return _Item(None, [comment], None, comment.span.line, comment.span.line)


def _comment(comment: tree.Comment) -> str:
    # A ruler (`####`) has no text.
    space = "" if not comment.text or comment.text.startswith("#") else " "
    return f"#{space}{comment.text}"


# --- statements ----------------------------------------------------------------------------------


def _statement(statement: tree.Statement, rewrite: _Rewrite) -> str:
    match statement:
        case tree.Header(name, base):
            return f"objective {name.id}" + (f" from {base.id}" if base else "")
        case tree.Param(name, _, text, domain):
            return f"param {name.id} = {text}" + _domain(domain)
        case tree.Policy(name, source, top):
            follows = f" = {_source(source, rewrite)}" if source else ""
            return f"policy {name.id}{follows}" + (f" top {top}" if top is not None else "")
        case tree.Given(name, indices, domain, role, known):
            where = "" if indices is None else f"[{','.join(index.id for index in indices)}]"
            end = f" as {role.id}" if role else ""
            end += f" {known.word} {known.index.id}" if known else ""
            return f"given {name.id}{where}" + _domain(domain) + end
        case tree.State(name, indices, first, following):
            where = f"[{','.join(index.id for index in indices)}]" if indices else ""
            start = _first(rewrite(first))
            return _with(f"state {name.id}{where} = {start} next ", rewrite(following))
        case tree.Learn(name, _, _, text, domain):
            return f"learn {name.id} = {text}" + _domain(domain)
        case tree.Def(name, arguments, body):
            return _with(f"def {name.id}({', '.join(a.id for a in arguments)}) = ", rewrite(body))
        case tree.Let(name, value):
            return _with(f"{name.id} = ", rewrite(value))
        case tree.Sample(policy, options):
            shown = ", ".join(_option(option) for option in options)
            return f"sample from {rewrite.name(policy).id}" + (f": {shown}" if shown else "")
        case tree.Keep(index, condition):
            return _with(f"keep {index.id} where ", rewrite(condition))
        case tree.Report(name, value):
            return _with(f"report {name.id} = ", rewrite(value))
        case tree.Goal(sense, whose, value):
            word = "" if whose == "policy" else f"{whose} "
            return _with(f"{sense} {word}", rewrite(value))


def _source(source: tree.Layer | tree.Every | tree.Average, rewrite: _Rewrite) -> str:
    match source:
        case tree.Layer(of, layer, norm):
            at = rewrite.name(layer).id if isinstance(layer, tree.Name) else layer
            return f"{of.id} at layer {at}" + ("" if norm else " without norm")
        case tree.Every(of, steps):
            return f"{of.id} every {steps} step{'s' if steps != 1 else ''}"
        case tree.Average(of, decay):
            return f"ema({of.id}, {_number(decay)})"


def _first(node: Expression) -> str:
    """The initial value of a state: a number, a name and a call need no brackets."""
    match node:
        case tree.Number() | tree.Name() | tree.Call():
            return _flat(node)
    return f"({_flat(node)})"


def _domain(domain: tree.Interval | tree.Choice | None) -> str:
    match domain:
        case None:
            return ""
        case tree.Choice(values):
            return " in {" + ", ".join(map(_number, values)) + "}"
        case tree.Interval(lower, upper, lower_closed, upper_closed):
            left, right = "[" if lower_closed else "(", "]" if upper_closed else ")"
            return f" in {left}{_number(lower)}, {_number(upper)}{right}"


def _option(option: tree.Option) -> str:
    match option.value:
        case None:
            return option.name.id
        case tree.Name(id):
            return f"{option.name.id} {id}"
        case float(value):
            return f"{option.name.id} {_number(value)}"


def _number(value: float) -> str:
    if math.isinf(value):
        return "inf" if value > 0 else "-inf"
    return str(int(value)) if value == int(value) and abs(value) < 1e15 else repr(value)


def _with(head: str, value: Expression) -> str:
    """A statement of one expression, on one line if it fits."""
    flat = head + _flat(value)
    return flat if len(flat) <= WIDTH else head + _broken(value, 0, bracketed=False)


@dataclass(frozen=True)
class _Rewrite:
    """The canonical form of an expression: the brackets that it keeps, and one spelling of each
    name.

    Attributes:
        clear: where reductions start that get brackets if a product follows.
        aliases: the standard spellings of names, by where they start.
    """

    clear: Container[int]
    aliases: Mapping[int, str]

    def name(self, name: tree.Name) -> tree.Name:
        return replace(name, id=self.aliases.get(name.span.start, name.id))

    def __call__(self, node: Expression, follows: bool = False, inside: bool = False) -> Expression:
        """The expression, in which only those reductions are bracketed that keep their brackets.

        Args:
            node: the expression, with all brackets of the text.
            follows: whether an operator of a product follows the node.
            inside: whether brackets end between the node and that operator.
        """
        match node:
            case tree.Number() | tree.Length():
                return node
            case tree.Name():
                return self.name(node)
            case tree.Binary(op, left, right) if op in PRODUCT:
                inside = inside or node.bracketed
                return replace(node, left=self(left, True), right=self(right, follows, inside))
            case tree.Unary("-" | "+", operand):
                return replace(node, operand=self(operand, follows, inside or node.bracketed))
            case tree.Reduction():
                return self._reduction(node, follows, inside)
            case tree.Binary(_, left, right):
                return replace(node, left=self(left), right=self(right))
            case tree.Unary(_, operand):
                return replace(node, operand=self(operand))
            case tree.Conditional(then, condition, otherwise):
                return tree.Conditional(self(then), self(condition), self(otherwise), node.span)
            case tree.Call(function, arguments):
                return replace(
                    node, function=self.name(function), arguments=tuple(map(self, arguments))
                )
            case tree.Indexed(name, binder):
                return replace(node, name=self.name(name), binder=self._binder(binder))

    def _reduction(self, node: tree.Reduction, follows: bool, inside: bool) -> tree.Reduction:
        operands = node.operands
        known = node.span.start in self.clear
        closed = follows and len(operands) == 1 and (inside or node.bracketed or known)
        if len(operands) == 1 and isinstance(operands[0], tree.Reduction):
            # The text of the inner one ends where that of the outer one does.
            operands = (self(operands[0], follows and not closed),)
        else:
            operands = tuple(map(self, operands))
        binder = self._binder(node.binder)
        return replace(node, binder=binder, operands=operands, bracketed=closed)

    def _binder(self, binder: tree.Binder) -> tree.Binder:
        condition = None if binder.condition is None else self(binder.condition)
        return replace(binder, condition=condition, keys=tuple(map(self, binder.keys)))


# --- expressions on one line ---------------------------------------------------------------------


def _level(node: Expression) -> int:
    match node:
        case tree.Conditional():
            return IF
        case tree.Binary(op):
            return _LEVELS[op]
        case tree.Unary(op):
            return NOT if op == "not" else SIGN
        case tree.Reduction():
            return ATOM if node.bracketed else APPLY
    return ATOM


def _flat(node: Expression, level: int = IF) -> str:
    text = _bare(node)
    return f"({text})" if _level(node) < level else text


def _bare(node: Expression) -> str:
    match node:
        case tree.Number(_, text):
            return text
        case tree.Name(id):
            return id
        case tree.Length():
            return "|y|"
        case tree.Unary("not", operand):
            return f"not {_flat(operand, NOT)}"
        case tree.Unary(op, operand):
            return op + _flat(operand, SIGN)
        case tree.Binary(op, left, right):
            first, second = _operands(op, left, right)
            return f"{first}^{second}" if op == "^" else f"{first} {op} {second}"
        case tree.Conditional(then, condition, otherwise):
            return f"{_flat(then, OR)} if {_flat(condition, OR)} else {_flat(otherwise)}"
        case tree.Call(function, arguments):
            return f"{function.id}({', '.join(map(_flat, arguments))})"
        case tree.Indexed(name, binder):
            return name.id + _binder(binder)
        case tree.Reduction(_, _, (operand,)):
            text = f"{_head(node)} {_flat(operand, APPLY)}"
            return f"({text})" if node.bracketed else text
        case tree.Reduction(_, _, operands):
            return f"{_head(node)}({', '.join(map(_flat, operands))})"


def _operands(op: str, left: Expression, right: Expression) -> tuple[str, str]:
    for_left, for_right = _places(op, left, right)
    if op == "^" and isinstance(right, tree.Unary):
        return _flat(left, for_left), _exponent(right)
    return _flat(left, for_left), _flat(right, for_right)


def _places(op: str, left: Expression, right: Expression) -> tuple[int, int]:
    """The precedence that each side of an operator needs to be written without brackets."""
    level = _LEVELS[op]
    match op:
        case "^":
            # A reduction followed by a power stays ambiguous here.
            return APPLY if isinstance(left, tree.Reduction) else ATOM, POWER
        case "or":
            # Readers need not remember which of `and` and `or` binds tighter.
            return NOT if _is_and(left) else OR, NOT if _is_and(right) else AND
    return level + (level == COMPARE), level + 1


def _is_and(node: Expression) -> bool:
    return isinstance(node, tree.Binary) and node.op == "and"


def _exponent(node: Expression) -> str:
    """`x^-1` needs no brackets, however many signs there are."""
    if isinstance(node, tree.Unary) and node.op != "not":
        return node.op + _exponent(node.operand)
    return _flat(node, POWER)


def _head(node: tree.Reduction) -> str:
    return node.operator.id + _binder(node.binder)


def _binder(binder: tree.Binder) -> str:
    inside = ",".join(index.id for index in binder.indices)
    if binder.relation is not None:
        relation = binder.relation
        related = f"{relation.bound.id} {relation.op} {relation.index.id}"
        inside = f"{related}, {inside}" if inside else related
    if binder.keys:
        inside += f" by {', '.join(map(_flat, binder.keys))}"
    if binder.condition is not None:
        inside += f" | {_flat(binder.condition)}"
    return f"[{inside}]"


# --- expressions on several lines ----------------------------------------------------------------


def _broken(node: Expression, indent: int, *, bracketed: bool, level: int = IF) -> str:
    """An expression over several lines. Lines may end only inside brackets."""
    inner = indent + INDENT
    pad = " " * inner

    def part(piece: Expression, level: int, at: int) -> str:
        flat = _flat(piece, level)
        if at + len(flat) <= WIDTH or at > DEEPEST_INDENT:
            return flat
        return _broken(piece, at, bracketed=True, level=level)

    def block(piece: Expression) -> str:
        return f"(\n{pad}{part(piece, IF, inner)}\n{' ' * indent})"

    match node:
        case tree.Reduction() if node.bracketed:
            return block(replace(node, bracketed=False))
        case tree.Reduction(_, _, (operand,)):
            if _level(operand) >= APPLY:
                rest = _broken(operand, indent, bracketed=bracketed, level=APPLY)
                return f"{_head(node)} {rest}"
            return f"{_head(node)} {block(operand)}"
        case tree.Call() | tree.Reduction():
            arguments = node.arguments if isinstance(node, tree.Call) else node.operands
            name = node.function.id if isinstance(node, tree.Call) else _head(node)
            if not arguments:
                return _flat(node)
            lines = f",\n{pad}".join(part(argument, IF, inner) for argument in arguments)
            return f"{name}(\n{pad}{lines}\n{' ' * indent})"
    if level > _level(node) or (not bracketed and _level(node) < ATOM):
        return block(node)
    here = " " * indent
    match node:
        case tree.Binary(op, left, right) if op != "^":
            for_left, for_right = _places(op, left, right)
            first = part(left, for_left, indent)
            second = part(right, for_right, indent + len(op) + 1)
            return f"{first}\n{here}{op} {second}"
        case tree.Conditional(then, condition, otherwise):
            first = part(then, OR, indent)
            test = part(condition, OR, indent + 3)
            return f"{first}\n{here}if {test}\n{here}else {part(otherwise, IF, indent + 5)}"
    return _flat(node, level)
