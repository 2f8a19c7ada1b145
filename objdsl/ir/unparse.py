"""An objective as a text of the language, which `elaborate` turns into the same nodes.

`objdsl.ir.text` writes formulas for people, shorter than they are. Here every operator, every order
of operands and every mask that counts as a number is written exactly.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import fields
from itertools import chain, groupby

import objdsl.ir.nodes as n
from objdsl.ir import build
from objdsl.ir.build import ONE, ZERO
from objdsl.ir.columns import BUILT_IN, column_of
from objdsl.ir.declarations import Branch, Domain, Sampling
from objdsl.ir.indices import decimal
from objdsl.ir.objective import Objective
from objdsl.ir.ops import APPLY, ATOM, BINARY, COMPARE, COUNT, IF, NOT, PLUS, POWER, SIGN, TIMES
from objdsl.ir.text import Text
from objdsl.ir.writer import Names, Piece, Place, names_of, used

_DEEPEST = 50  # nodes inside one another in a statement, and
_LARGEST = 400  # nodes of one: what is more gets a name, as it would of a person
_MOST = 5_000  # nodes of a text in which what stands twice is written twice
_WORTH = 8  # nodes of what gets a name for standing twice


def unparse(objective: Objective) -> str:
    """The statements of an objective: declarations, names, `keep`, and what is maximised.

    What the language cannot express is left out, or replaced by the nearest form; the caller
    compares the two objectives.
    """
    groups = groupby(_statements(objective), _group)
    return "\n\n".join("\n".join(group) for _, group in groups) + "\n"


def declarations(objective: Objective) -> list[str]:
    """The statements that a formula in LaTeX does not show: all but what is maximised, and the
    definitions that it reads."""
    names = names_of(objective.bindings)
    shown = {name for name, _ in used(names, objective.goal, *objective.memory)}
    return [
        line
        for line in _statements(objective)
        if line.partition(" = ")[0] not in shown and not _is_goal(line)
    ]


def _is_goal(statement: str) -> bool:
    """Whether it says what is maximised by the policy, or what the objective is called."""
    kind, what, *_ = statement.split(maxsplit=2)
    return kind == "objective" or (
        kind in ("minimize", "maximize") and what not in ("critic", "learn")
    )


def _group(statement: str) -> str:
    """Statements without empty lines between them."""
    first, second, *_ = statement.split(maxsplit=2)
    if second == "=":
        return "names"
    return "declared" if first in ("param", "policy", "given", "learn") else first


def _statements(objective: Objective) -> Iterator[str]:
    bound = [binding.value for binding in objective.bindings]
    kept = [] if objective.keep is None else [objective.keep]
    before = {*n.topological(*kept)}
    # States change after all prompts, kept or not, so names have other values there.
    memory = () if kept else objective.memory
    everything = n.topological(*kept, *bound, *objective.roots, *memory)
    read = n.topological(*everything, *objective.memory)
    columns = {node.name: node for node in read if isinstance(node, n.Column)}
    words = set(columns)
    words.update(param.name for param in objective.params)
    words.update(policy.name for policy in objective.policies)
    words.update(binding.name for binding in objective.bindings)
    branch = objective.sampling.branch
    words.update(() if branch is None else (branch.name,))
    named = _named(objective, everything, words)
    names: dict[n.Expr, str] = {}
    for name, value in named:
        if value.children:
            names.setdefault(value, name)
    first, then = (_Writer(names, words, keep) for keep in (None, objective.keep))

    if objective.name != "objective":
        yield f"objective {objective.name}"
    for param in objective.params:
        yield f"param {param.name} = {decimal(param.default)}{_domain(param.domain)}"
    for policy in objective.policies:
        yield str(policy)
    for column in columns.values():
        if column.role in ("state", "clock", "ids", "learned"):
            continue
        yield from _given(column, objective.domains.get(column_of(column).name, Domain()))
    if branch is not None and branch.name not in columns:
        yield str(branch)
    yield from map(str, objective.learned)
    everywhere = {k: v for k, v in names.items() if not kept or not _over_prompts(k)}
    remembers = _Writer(everywhere, words, None)
    for state in objective.states:
        head = f"state {_stated(state.column)} = {_first(state.start, remembers)}"
        yield f"{head} next {remembers.part(state.next)}"
    if objective.sampling.span is not None:
        yield _sample(objective.sampling)
    for keep in kept:
        yield f"keep p where {first.part(keep)}"
    for name, value in named:
        writer = first if value in before else then
        yield f"{name} = {writer.whole(value)}"
    for report in objective.reports:
        if report.name != "critic_loss" or report.value != objective.critic:
            yield f"report {report.name} = {then.part(report.value)}"
    if objective.critic is not None:
        yield _goal("critic ", "minimize", "maximize", objective.critic, then)
    if objective.dual is not None:
        yield f"minimize learn {then.part(objective.dual)}"
    yield _goal("", "maximize", "minimize", objective.goal, then)


def _over_prompts(value: n.Expr) -> bool:
    """Whether the value of a formula depends on which prompts are kept."""
    return any("p" in getattr(node, "over", ()) for node in n.topological(value) if node.children)


def _stated(column: n.Column) -> str:
    return f"{column.name}[{','.join(column.over)}]" if column.over else column.name


def _first(start: n.Expr, writer: _Writer) -> str:
    return f"({writer.part(start)})" if start.children else writer.part(start)


def _goal(whose: str, sense: str, other: str, value: n.Expr, writer: _Writer) -> str:
    if isinstance(value, n.Unary) and value.op == "neg" and value not in writer.names:
        sense, value = other, value.x
    return f"{sense} {whose}{writer.part(value)}"


def _domain(domain: Domain) -> str:
    return "" if domain == Domain() else f" in {domain}"


def _given(column: n.Column, domain: Domain) -> Iterator[str]:
    if column.name in BUILT_IN:  # the language declares it; its domain is the file's
        if domain != Domain():
            yield f"given {column.name}{_domain(domain)}"
        return
    role = "" if column.role == "data" else f" as {column.role}"
    known = "" if column.known == "response" else f" {column.known}"
    yield f"given {column.name}[{','.join(column.over)}]{_domain(domain)}{role}{known}"


def _sample(sampling: Sampling) -> str:
    options = [
        _option(option.name, value)
        for option in fields(sampling)
        if option.compare and (value := getattr(sampling, option.name)) != option.default
        if option.name != "policy"
    ]
    return f"sample from {sampling.policy}" + (": " + ", ".join(options) if options else "")


def _option(name: str, value: bool | float | Branch) -> str:
    if value is True:
        return name
    return f"{name} {value.name if isinstance(value, Branch) else decimal(value)}"


def _named(
    objective: Objective, everything: tuple[n.Expr, ...], words: set[str]
) -> list[tuple[str, n.Expr]]:
    """The bindings, and names for parts that would make the text too large, each after those it
    uses."""
    named = [(binding.name, binding.value) for binding in objective.bindings]
    given = {value for _, value in named}
    whose = {node.x for node in everything if isinstance(node, n.Present)}
    uses = Counter(child for node in everything for child in node.children)
    for worth in (_MOST, _WORTH):
        size: dict[n.Expr, int] = {}
        depth: dict[n.Expr, int] = {}
        parts: set[n.Expr] = set()
        for node in everything:
            below = [child for child in node.children if child not in given | parts]
            size[node] = 1 + len(node.children) + sum(size[child] for child in below)
            depth[node] = 1 + max((depth[child] for child in below), default=0)
            large = size[node] > _LARGEST or depth[node] > _DEEPEST
            many = uses[node] > 1 and size[node] > worth
            element = node in whose and not isinstance(node, n.Param | n.Column)
            if not node.paired and ((node.children and (large or many)) or element):
                parts.add(node)
        if sum(size[node] for node in {*given, *parts, *objective.roots}) <= _MOST:
            break
    fresh = (name for k in range(1, len(parts) + len(words) + 2) if (name := f"u{k}") not in words)
    named += [(next(fresh), node) for node in everything if node in parts - given]
    where = {node: k for k, node in enumerate(everything)}
    return sorted(named, key=lambda pair: where[pair[1]])


class _Writer(Text):
    """Writes formulas that are read as the nodes that they were.

    Args:
        names: what stands for a formula, where it is part of another.
        words: the names of the file.
        kept: the prompts that count, which reading adds to every reduction over them.
    """

    def __init__(self, names: Names, words: set[str], kept: n.Expr | None) -> None:
        super().__init__(names, (), limit=10**9)
        self.words = {*words, *names.values()}
        self.kept = kept

    def part(self, expr: n.Expr) -> str:
        """A formula where a number or a condition is read."""
        return self._write(expr)[0]

    def whole(self, expr: n.Expr) -> str:
        """A formula that gets a name."""
        return self._gate(expr) or self.show(expr)

    def _next(self, letters: str, letter: str) -> str:
        after = letters[letters.find(letter) + 1 :]
        more = (f"{letter}_{k}" for k in range(len(self.words) + 1))
        return next(free for free in chain(after, more) if free not in self.words)

    def _inside(self, node: n.Expr) -> Place:
        match node:
            case n.Scan(relation, _, decay) if relation != ">=" or decay is None:
                return self._beside()
            case n.Peers(_, ("t",), relation=relation) if relation:
                return self._beside()
        return self.place

    def _node(self, node: n.Expr) -> Piece:
        match node:
            case n.Const(value) if value != value:
                return "inf - inf", PLUS
            case n.Unary("exp", x):
                return self._probability(x) or (f"exp({self.done[x][0]})", ATOM)
            case n.Unary("not", x):
                return f"not {self.at(x, COMPARE)}", NOT
            case n.Where(m, a, b) if b != ZERO or (a != ONE and build.mul(m, a) != node):
                then, otherwise = self._value(a, IF + 1), self._value(b, IF)
                return f"{then} if {self.at(m, IF + 1)} else {otherwise}", IF
            case n.Where(m, a, _) if a != ONE:
                return f"{self.at(m, POWER)} * {self._value(a, SIGN)}", TIMES
            case n.Reduce("sum", _, x) if x == ONE and COUNT not in self.words:
                return f"{COUNT}[{self._binder(node)}]", ATOM
            case n.Reduce(op, _, x):
                return f"{op}[{self._binder(node)}] {self.at(x, APPLY)}", APPLY
            case n.Scan(relation, x, decay) if relation != ">=" or decay is None:
                inside = self._inside(node)
                with self._at_place(inside):
                    body = self.at(x, APPLY)
                return f"sum[{inside.token} {relation} t] {body}", APPLY
            case n.Shift(x):
                return f"next({self.done[x][0]})", ATOM
        return super()._node(node)

    def _gate(self, node: n.Expr) -> str | None:
        """A mask that counts as a number, where the mask alone would be a condition; None for other
        values."""
        match node:
            case n.Where(m, a, b) if a == ONE and b == ZERO:
                return f"1 if {self.at(m, IF + 1)} else 0"
        return None

    def _value(self, node: n.Expr, level: int) -> str:
        """A factor, or a side of a choice."""
        gate = None if node in self.names else self._gate(node)
        return self.at(node, level) if gate is None else f"({gate})"

    def _infix(self, op: n.BinaryOp, a: n.Expr, b: n.Expr) -> Piece:
        sign, level = BINARY[op].sign, BINARY[op].level
        left, right = level, level + 1
        if level == COMPARE:
            left = right
        if level == POWER:
            left, right = APPLY, POWER
        if level in (TIMES, POWER) and self._open(a):
            left = ATOM
        write = self._value if level == TIMES else self.at
        space = "" if level == POWER else " "
        return f"{write(a, left)}{space}{sign}{space}{write(b, right)}", level

    def _condition(self, node: n.Reduce | n.Peers | n.Quantile | n.Order) -> str:
        """The condition of a reduction without the prompts that are kept."""
        where = node.where
        if where is not None and self.kept is not None and "p" in node.over:
            match where:
                case _ if where == self.kept:
                    return ""
                case n.Binary("and", kept, rest) if kept == self.kept:
                    where = rest
        return "" if where is None else f" | {self.part(where)}"

    def _token_outside(self) -> str:
        return "t"

    def _log_ratio(self, a: n.Expr, b: n.Expr) -> Piece | None:
        return None if a == b else super()._log_ratio(a, b)

    def _probability(self, x: n.Expr) -> Piece | None:
        """`exp(x)`, if a text in terms of probabilities is read as the same nodes; else None."""
        if x in self.names:
            return None
        match x:
            case n.LogProb(policy):
                return self._token(policy), ATOM
            case n.LogDist(policy):
                return self._entry(policy), ATOM
            case n.Stop(inner) if (probability := self._probability(inner)) is not None:
                return f"sg({probability[0]})", ATOM
            case n.Binary("sub", a, b) if build.sub(a, b) == x:
                above, below = self._probability(a), self._probability(b)
                if above is not None and below is not None:
                    return self._quotient(above, below)
            case n.Reduce("sum", _, inner) if (probability := self._probability(inner)) is not None:
                return f"(prod[{self._binder(x)}] {self._held(probability, APPLY)})", ATOM
        return None
