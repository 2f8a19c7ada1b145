"""Formulas as people read them: text in the language's own syntax, and LaTeX as papers print it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property

from objdsl.frozen import dataclass
from objdsl.ir.build import ONE, ZERO
from objdsl.ir.indices import Indices, decimal
from objdsl.ir.nodes import (
    Binary,
    BinaryOp,
    Clip,
    Column,
    Const,
    Expr,
    Length,
    LogDist,
    LogProb,
    Others,
    Param,
    Pick,
    Position,
    Reduce,
    Scan,
    Shift,
    Stop,
    Top,
    Unary,
    Where,
    bottom_up,
    topological,
)
from objdsl.ir.objective import Named
from objdsl.ir.ops import (
    APPLY,
    ATOM,
    BINARY,
    COMPARE,
    IF,
    NOT,
    POWER,
    REDUCE,
    SIGN,
    TIMES,
    UNARY,
)

Names = Mapping[Expr, str]

OPPOSITE: dict[BinaryOp, BinaryOp] = {
    "lt": "ge",
    "le": "gt",
    "gt": "le",
    "ge": "lt",
    "eq": "ne",
    "ne": "eq",
}
COUNTS: dict[Indices, str] = {
    ("p",): "P", ("i",): "G", ("p", "i"): "N", ("v",): "|V|", ("i", "t"): "(sum[i] |y|)",
    ("p", "i", "t"): "(sum[p,i] |y|)",
}  # fmt: skip
MEANT = {
    "P": "number of prompts",
    "G": "number of responses to the prompt",
    "N": "number of responses",
}
"""What the letters among the counts stand for."""


def names_of(named: Iterable[Named]) -> dict[Expr, str]:
    """The name that a file gives to each formula; leaves keep their own."""
    names: dict[Expr, str] = {}
    for one in named:
        if one.value.children:
            names.setdefault(one.value, one.name)
    return names


def used(names: Names, *roots: Expr) -> list[tuple[str, Expr]]:
    """The definitions that a reader of the roots needs, each before those that use it."""
    below = set(topological(*(child for root in roots for child in root.children)))
    return [(names[node], node) for node in topological(*roots) if node in names and node in below]


def text(expr: Expr, names: Names | None = None, *, width: int = 10_000) -> str:
    """A formula in the syntax of the language. Formulas in `names` are written by their name,
    except `expr` itself. Sizes are written `P` (prompts), `G` (group), `N` (responses)."""
    return Text(names or {}, (expr,), width).show(expr)


def latex(expr: Expr, names: Names | None = None) -> str:
    """A formula in LaTeX."""
    return _Latex(names or {}, (expr,)).show(expr)


def _letters(names: Names, *roots: Expr) -> set[str]:
    """The names that stand for something of the file."""
    leaves = (node for node in topological(*roots) if isinstance(node, Param | Column))
    return {*names.values(), *(leaf.name for leaf in leaves)}


def _counts(names: Names, *roots: Expr) -> list[str]:
    """The letters for counts that stand in the roots."""
    sums = (node for node in topological(*roots) if isinstance(node, Reduce))
    found = {COUNTS.get(s.over) for s in sums if s.x == ONE and s.op == "sum" and s.where is None}
    return [letter for letter in MEANT if letter in found - _letters(names, *roots)]


RESPONSES, TOKENS = "ijklmn", "tsuqh"
"""The letters that indices run by: each inside the one before."""


@dataclass(frozen=True)
class _Place:
    """Which response and which token of it a formula speaks of."""

    response: str = "i"
    token: str = "t"

    @property
    def length(self) -> str:
        return f"|y_{self.response}|"

    def subscripts(self, indices: Indices) -> str:
        letters = {"i": self.response, "t": self.token, "v": "v"}
        return ",".join(letters[index] for index in indices if index != "p")


HERE = _Place()
"""The response and the token that a weight is of."""


class _Pieces(dict[Expr, tuple[str, int]]):
    """The text of each node, and how tightly it holds together; written when it is asked for."""

    def __init__(self, write: Callable[[Expr], tuple[str, int]]) -> None:
        self._write = write

    def __missing__(self, node: Expr) -> tuple[str, int]:
        return self._write(node)


class Text:
    """Writes formulas, each in terms of those that have names.

    Args:
        names: what stands for a formula, where it is part of another.
        roots: the formulas that are written, for the letters that stand for something in them.
        limit: characters; a formula that is larger ends in dots.

    Attributes:
        place: which response and token are spoken of.
        done: the pieces at hand, of this place.
    """

    def __init__(self, names: Names, roots: tuple[Expr, ...], limit: int = 10_000) -> None:
        self.names = names
        self.roots = roots
        self.limit = limit
        self.done = _Pieces(self._write)
        self.probabilities: dict[Expr, tuple[str, int] | None] = {}
        self.place = HERE
        self._pieces = {HERE: (self.done, self.probabilities)}

    def show(self, expr: Expr) -> str:
        """The text of a formula, itself written out also if it has a name."""
        for child in self._operands(expr):
            self._write(child)
        return self._cut(self._node(expr))[0]

    @contextmanager
    def _at_place(self, place: _Place) -> Iterator[None]:
        """Speaks of another response or token."""
        before, self.place = self.place, place
        fresh: tuple[_Pieces, dict[Expr, tuple[str, int] | None]] = (_Pieces(self._write), {})
        self.done, self.probabilities = self._pieces.setdefault(place, fresh)
        try:
            yield
        finally:
            self.place = before
            self.done, self.probabilities = self._pieces[before]

    def _inside(self, node: Expr) -> _Place:
        """Of which response and token the operand of a node speaks."""
        match node:
            case Scan(relation, _, decay) if relation != ">=" or decay is None:
                return self._beside()
            case Reduce(_, over) if "t" in over:
                return replace(self.place, token=HERE.token)
        return self.place

    def _beside(self) -> _Place:
        """Another token of the same response."""
        return replace(self.place, token=self._next(TOKENS, self.place.token))

    def _next(self, letters: str, letter: str) -> str:
        """The letter for an index that runs beside `letter`: none that is a name of the file."""
        free = [one for one in letters if one not in self.taken]
        after = [one for one in free if letters.index(one) > letters.find(letter)]
        return (after or [f"{letter}{letter}"])[0]

    def _operands(self, node: Expr) -> tuple[Expr, ...]:
        """What is written before a node is: that of the same response and token."""
        if self._inside(node) == self.place:
            return node.children
        return (node.decay,) if isinstance(node, Scan) and node.decay is not None else ()

    def _write(self, root: Expr) -> tuple[str, int]:
        """The text of a part, written from the leaves up; what has a name is not entered."""
        stack = [root]
        while stack:
            node = stack[-1]
            if node not in self.done:
                piece = self._named(node)
                if piece is None:
                    waiting = [one for one in self._operands(node) if one not in self.done]
                    if waiting:
                        stack += waiting[::-1]
                        continue
                    piece = self._cut(self._node(node))
                self.done[node] = piece
            stack.pop()
        return self.done[root]

    def _cut(self, piece: tuple[str, int]) -> tuple[str, int]:
        return piece if len(piece[0]) <= self.limit else ("...", ATOM)

    @cached_property
    def taken(self) -> set[str]:
        return _letters(self.names, *self.roots)

    def _named(self, node: Expr) -> tuple[str, int] | None:
        return (self.names[node], ATOM) if node in self.names else None

    def at(self, node: Expr, level: int) -> str:
        piece, own = self.done[node]
        return f"({piece})" if own < level else piece

    def _node(self, node: Expr) -> tuple[str, int]:
        match node:
            case Const(value):
                return decimal(value), ATOM if value >= 0 else SIGN
            case Param(name) | Column(name):
                return name, ATOM
            case LogProb(policy):
                return f"log({policy})", ATOM
            case LogDist(policy):
                return f"log({policy}[v])", ATOM
            case Length():
                return "|y|", ATOM
            case Position():
                return self.place.token, ATOM
            case Unary("exp", x):
                return self._probability(x) or (f"exp({self.done[x][0]})", ATOM)
            case Unary("neg", x):
                return f"-{self.at(x, SIGN)}", SIGN
            case Unary("not", Binary(op, a, b)) if op in OPPOSITE:
                return self._infix(OPPOSITE[op], a, b)
            case Unary("not", x):
                return f"not {self.at(x, NOT + 1)}", NOT
            case Unary(op, x):
                return f"{op}({self.done[x][0]})", ATOM
            case Binary("min" | "max" as op, a, b):
                return f"{op}({self.done[a][0]}, {self.done[b][0]})", ATOM
            case Binary("sub", a, b) if (ratio := self._log_ratio(a, b)) is not None:
                return ratio
            case Binary(op, a, b):
                return self._infix(op, a, b)
            case Clip(x, lo, hi):
                return f"clip({self.done[x][0]}, {self.done[lo][0]}, {self.done[hi][0]})", ATOM
            case Where(m, a, b) if b == ZERO:
                gate = self.at(m, POWER)
                return (f"{gate} * {self.at(a, SIGN)}", TIMES) if a != ONE else (gate, ATOM)
            case Where(m, a, b):
                then, otherwise = self.at(a, IF + 1), self.at(b, IF)
                return f"{then} if {self.at(m, IF + 1)} else {otherwise}", IF
            case Stop(x):
                return f"sg({self.done[x][0]})", ATOM
            case Reduce():
                return self._reduce(node)
            case Others(op, x):
                j = self._next(RESPONSES, HERE.response)
                return f"{op}[{j} != i] {self.at(x, APPLY)}", APPLY
            case Scan(">=", x, decay) if decay is not None:
                return f"togo({self.done[x][0]}, {self.done[decay][0]})", ATOM
            case Scan(relation, x, decay):
                t, inside = self.place.token, self._inside(node)
                s = inside.token
                with self._at_place(inside):
                    body = self.at(x, APPLY if decay is None else SIGN)
                if decay is None:
                    return f"sum[{s} {relation} {t}] {body}", APPLY
                g = self.at(decay, APPLY)
                return f"sum[{s} {relation} {t}] ({g}^abs({s} - {t}) * {body})", APPLY
            case Shift(x, by):
                return f"{'next' if by > 0 else 'previous'}({self.done[x][0]})", ATOM
            case Top(over, x, fraction):
                arguments = f"{self.done[x][0]}, {self.done[fraction][0]}"
                return f"top[{','.join(over)}]({arguments})", ATOM
            case Pick(over, m, fraction):
                arguments = f"{self.done[m][0]}, {self.done[fraction][0]}"
                return f"pick[{','.join(over)}]({arguments})", ATOM
        raise TypeError(type(node).__name__)

    def _open(self, node: Expr) -> bool:
        """Whether the text of a factor ends in a reduction, which on paper would reach over what
        follows it."""
        while self._named(node) is None:
            match node:
                case Reduce() | Others() | Scan():
                    return self.done[node][1] == APPLY
                case Binary("mul" | "div" | "pow", _, last) | Unary("neg", last):
                    node = last
                case Where(_, last, b) if b == ZERO and last != ONE:
                    node = last
                case _:
                    return False
        return False

    def _infix(self, op: BinaryOp, a: Expr, b: Expr) -> tuple[str, int]:
        sign, level = BINARY[op].sign, BINARY[op].level
        tight = op in ("sub", "div") or level == COMPARE
        least = level + (level in (COMPARE, POWER))
        left = self.at(a, ATOM if level in (TIMES, POWER) and self._open(a) else least)
        right = self.at(b, level + tight)
        if op == "pow":
            return f"{left}^{right}", level
        return f"{left} {sign} {right}", level

    def _reduce(self, node: Reduce) -> tuple[str, int]:
        x, over, mask = node.x, node.over, node.where
        if x == ONE and node.op == "sum" and mask is None:
            spelled = f"sum[{','.join(over)}] 1"
            count = COUNTS.get(over, spelled)
            return (spelled, APPLY) if count in self.taken else (count, ATOM)
        with self._at_place(self._inside(node)):
            where = f" | {self.done[mask][0]}" if mask is not None else ""
            return f"{node.op}[{','.join(over)}{where}] {self.at(x, APPLY)}", APPLY

    def _log_ratio(self, a: Expr, b: Expr) -> tuple[str, int] | None:
        match a, b:
            case LogProb(p), LogProb(q):
                return f"log({p} / {q})", ATOM
            case LogDist(p), LogDist(q):
                return f"log({p}[v] / {q}[v])", ATOM
        return None

    def _probability(self, x: Expr) -> tuple[str, int] | None:
        """`exp(x)` as a product of probabilities, if it is one."""
        return bottom_up(x, self.probabilities, self._product)

    def _product(self, x: Expr) -> tuple[str, int] | None:
        """The same, when it is known of the operands."""
        found = self._joined(x)
        return found if found is None or len(found[0]) <= self.limit else None

    def _joined(self, x: Expr) -> tuple[str, int] | None:
        known = self.probabilities
        match x:
            case LogProb(policy):
                return policy, ATOM
            case LogDist(policy):
                return f"{policy}[v]", ATOM
            case Binary("sub", a, b):
                left, right = known[a], known[b]
                if left and right:
                    return f"{_held(left, TIMES)} / {_held(right, TIMES + 1)}", TIMES
            case Binary("add", a, b):
                left, right = known[a], known[b]
                if left and right:
                    return f"{_held(left, TIMES)} * {_held(right, TIMES)}", TIMES
            case Reduce("sum", over, inner, None):
                with self._at_place(self._inside(x)):
                    body = self._probability(inner)
                if body:
                    return f"prod[{','.join(over)}] {_held(body, APPLY)}", APPLY
            case Binary("div", a, b):
                body = known[a]
                if body:
                    return f"{_held(body, ATOM)}^(1 / {self.at(b, TIMES + 1)})", POWER
            case Binary("mul", a, b):
                body = known[a]
                if body:
                    return f"{_held(body, ATOM)}^{self.at(b, POWER)}", POWER
        return None


def _held(piece: tuple[str, int], level: int) -> str:
    return f"({piece[0]})" if piece[1] < level else piece[0]


def formula(
    goal: Expr,
    weights: Mapping[Expr, Expr],
    named: Iterable[Named],
    *,
    as_latex: bool = False,
) -> str:
    """An objective, or its weights, with the definitions that a reader needs.

    Args:
        goal: J.
        weights: the derivative of J by each trained leaf, to be shown instead of J; or empty.
        named: the bindings of the file.
        as_latex: LaTeX, as an `aligned` block, instead of text.
    """
    names: Names = names_of(named)
    roots = list(weights.values()) or [goal]
    lines = [("J(pi)", r"J(\theta)", goal)]
    if weights:
        lines = [(*_derivative(leaf), weight) for leaf, weight in weights.items()]
    if not as_latex:
        names = _with_common_parts(names, tuple(roots))
        writer = Text(names, tuple(roots))
        shown = [f"{left} = {writer.show(right)}" for left, _, right in lines]
        defined = [f"    {name} = {writer.show(expr)}" for name, expr in used(names, *roots)]
        defined += [f"    {letter} = {MEANT[letter]}" for letter in _counts(names, *roots)]
        where = ["", "where", *defined] if defined else []
        return "\n".join(map(folded, [*shown, *where])) + "\n"
    writer = _Latex(names, tuple(roots))
    rows = [f"{left} &= {writer.show(right)}" for _, left, right in lines]
    rows += [
        f"{subscripted(name, expr.indices)} &= {writer.show(expr)}"
        for name, expr in used(names, *roots)
    ]
    rows += [f"{letter} &= \\text{{{MEANT[letter]}}}" for letter in _counts(names, *roots)]
    body = " \\\\\n".join("  " + row for row in rows)
    return "\\begin{aligned}\n" + body + "\n\\end{aligned}\n"


WIDTH = 100  # columns of a line of text
LONG = 160  # characters of a formula whose common parts get names
INDENT = 8  # of what a line goes on with
_BREAKS = ("if", "else", "or", "and", "+", "-", "*", "/")
_MOST_PARTS = 9


def folded(line: str, width: int = WIDTH) -> str:
    """A line of text over several, the later ones indented, if it is wider than `width`.

    A formula is broken before an operator, or after a comma, where the fewest brackets are open.
    """
    margin = " " * (len(line) - len(line.lstrip()) + INDENT)
    lines: list[str] = []
    while len(line) > width and (at := _break(line, width)):
        lines.append(line[:at].rstrip())
        line = margin + line[at:].lstrip()
    return "\n".join([*lines, line])


def _break(line: str, width: int) -> int | None:
    """Where a line is best broken: no further than `width`, if anywhere."""
    places: list[tuple[bool, int, int, int]] = []
    depth, start = 0, len(line) - len(line.lstrip()) + INDENT
    for at, character in enumerate(line[: width + 1]):
        depth += (character in "([{") - (character in ")]}")
        if character == " " and at > start:
            word = line[at + 1 :].partition(" ")[0]
            rank = _BREAKS.index(word) if word in _BREAKS else len(_BREAKS)
            rank = 0 if line[at - 1] == "," else rank
            places.append((at < width // 3 or rank == len(_BREAKS), depth, rank // 2, -at))
    return -min(places)[3] if places else None


def _with_common_parts(names: Names, roots: tuple[Expr, ...]) -> Names:
    """The names, and new ones for what stands several times in a formula that is long."""
    found = dict(names)
    taken = _letters(names, *roots)
    fresh = (f"u{k}" for k in range(1, 1000) if f"u{k}" not in taken)
    for _ in range(_MOST_PARTS):
        writer = Text(found, roots)
        written = [
            (writer.show(expr), expr) for expr in (*roots, *(e for _, e in used(found, *roots)))
        ]
        if all(len(text) <= LONG for text, _ in written):
            break
        times: Counter[Expr] = Counter()
        for _, expr in written:  # each definition is a text of its own
            stack, seen = [expr], {expr}
            while stack:
                for child in stack.pop().children:
                    times[child] += 1
                    if child not in seen and child not in found:
                        seen.add(child)
                        stack.append(child)
        saved = {
            node: (many - 1) * (len(writer.done[node][0]) - 2)
            for node, many in times.items()
            if many > 1 and node.children and node not in found
        }
        best = max(saved, key=lambda node: saved[node], default=None)
        if best is None or saved[best] < LONG // 8:
            break
        found[best] = next(fresh)
    fresh = (f"u{k}" for k in range(1, 1000) if f"u{k}" not in taken)
    return found | {node: next(fresh) for _, node in used(found, *roots) if node not in names}


def _derivative(leaf: Expr) -> tuple[str, str]:
    """The left-hand side of a weight, in text and in LaTeX."""
    below = text(leaf)
    above = rf"\frac{{\partial J}}{{\partial {latex(leaf)}}}"
    weight = "w_{i,t} = " if isinstance(leaf, LogProb) and leaf.policy == "pi" else ""
    return f"dJ / d {below}", weight + above


# --- LaTeX ---------------------------------------------------------------------------------------

GREEK = {
    "alpha", "beta", "gamma", "delta", "eta", "kappa", "rho", "sigma", "tau", "theta", "phi",
    "omega", "mu", "pi", "nu", "xi", "Delta",
}  # fmt: skip
POLICY = {
    "pi": r"\pi_\theta",
    "old": r"\pi_{\mathrm{old}}",
    "ref": r"\pi_{\mathrm{ref}}",
    "mu": r"\mu",
}
_TEX = {
    "\\": r"\backslash ", "^": r"\wedge ", "~": r"\sim ",
    **{char: f"\\{char}" for char in "_{}$&#%"},
}  # fmt: skip


def symbol(name: str) -> str:
    """A name as a mathematical symbol: `eps_low` is `\\varepsilon_{\\mathrm{low}}`."""
    head, _, tail = name.partition("_")
    if not head or (not tail and head != name):
        return _roman(name)
    if head == "eps":
        head = r"\varepsilon"
    elif head == "lam":
        head = r"\lambda"
    elif head in GREEK:
        head = "\\" + head
    elif len(head) > 1 or not head.isalpha():
        head = _roman(head)
    return head + (rf"_{{{_roman(tail)}}}" if tail else "")


def _roman(text: str) -> str:
    """A word in upright letters, in which TeX reads nothing else."""
    return rf"\mathrm{{{''.join(_TEX.get(char, char) for char in text)}}}"


def subscripted(name: str, indices: Indices, place: _Place = HERE) -> str:
    """A symbol with the indices that its value carries, as papers write them: `A_i`, `r_{i,t}`."""
    plain, below = symbol(name), place.subscripts(indices)
    if not below:
        return plain
    if plain.endswith("}}") and "_{" in plain:
        return f"{plain[:-1]},{below}}}"
    return f"{plain}_{{{below}}}"


class _Latex(Text):
    """Writes formulas in LaTeX."""

    def _inside(self, node: Expr) -> _Place:
        match node:
            case Scan():
                return self._beside()
            case Others():
                return replace(self.place, response=self._next(RESPONSES, self.place.response))
            case Reduce() if _is_of_group(node):
                # A statistic of the group: its index is not the response that is spoken of.
                return replace(self.place, response=self._next(RESPONSES, self.place.response))
            case Reduce(_, over) if "i" in over:
                return HERE if "t" in over else replace(self.place, response=HERE.response)
        return super()._inside(node)

    def _named(self, node: Expr) -> tuple[str, int] | None:
        if node not in self.names:
            return None
        return subscripted(self.names[node], node.indices, self.place), ATOM

    def at(self, node: Expr, level: int) -> str:
        piece, own = self.done[node]
        return rf"\left( {piece} \right)" if own < level else piece

    def _node(self, node: Expr) -> tuple[str, int]:
        match node:
            case Const(value):
                if value != value:
                    return r"\mathrm{NaN}", ATOM
                if value in (float("inf"), float("-inf")):
                    return (r"\infty", ATOM) if value > 0 else (r"-\infty", SIGN)
                return _scientific(value), ATOM if value >= 0 else SIGN
            case Param(name):
                return symbol(name), ATOM
            case Column("reward") if "R" not in self.taken:
                return f"R_{self.place.response}", ATOM
            case Column(name):
                return subscripted(name, node.indices, self.place), ATOM
            case LogProb(policy):
                return rf"\log {self._token(policy)}", APPLY
            case LogDist(policy):
                return rf"\log {self._word(policy)}", APPLY
            case Length():
                return self.place.length, ATOM
            case Position():
                return self.place.token, ATOM
            case Unary("exp", x):
                template, _, level = UNARY["exp"].latex
                return self._probability(x) or (template.format(self.done[x][0]), level)
            case Unary("not", Binary(op, a, b)) if op in OPPOSITE:
                return self._infix(OPPOSITE[op], a, b)
            case Unary(op, x):
                template, level, whole = UNARY[op].latex
                return template.format(self.at(x, level)), whole
            case Binary("min" | "max" | "div" as op, a, b):
                return BINARY[op].latex.format(self.done[a][0], self.done[b][0]), ATOM
            case Binary("mul", a, b):
                return f"{self.at(a, TIMES)} {BINARY['mul'].latex} {self.at(b, TIMES)}", TIMES
            case Binary("pow", a, b):
                return BINARY["pow"].latex.format(self.at(a, ATOM), self.done[b][0]), POWER
            case Clip(x, lo, hi):
                arguments = ",\\; ".join(self.done[part][0] for part in (x, lo, hi))
                return rf"\operatorname{{clip}}\left( {arguments} \right)", ATOM
            case Where(m, a, b) if b == ZERO:
                gate = rf"\mathbb{{1}}\left[ {self.done[m][0]} \right]"
                return (rf"{gate} \, {self.at(a, TIMES)}", TIMES) if a != ONE else (gate, ATOM)
            case Where(m, a, b):
                rows = (
                    rf"{self.done[a][0]} & {self.done[m][0]} \\ {self.done[b][0]} & \text{{else}}"
                )
                return rf"\begin{{cases}} {rows} \end{{cases}}", ATOM
            case Stop(x):
                return rf"\operatorname{{sg}}\left[ {self.done[x][0]} \right]", ATOM
            case Others(op, x):
                i, inside = self.place.response, self._inside(node)
                front = rf"\frac{{1}}{{{self._count('i', 'G')} - 1}} " if op == "mean" else ""
                with self._at_place(inside):
                    body = self.at(x, TIMES)
                return rf"{front}\sum_{{{inside.response} \ne {i}}} {body}", APPLY
            case Scan(relation, x, decay):
                sign = {"<": "<", ">": ">", "<=": r"\le", ">=": r"\ge"}[relation]
                t, inside, factor = self.place.token, self._inside(node), ""
                s = inside.token
                if decay is not None:
                    factor = rf"{self.at(decay, ATOM)}^{{|{s}-{t}|}} \, "
                with self._at_place(inside):
                    body = self.at(x, TIMES)
                return rf"\sum_{{{s} {sign} {t}}} {factor}{body}", APPLY
            case Shift(x, by):
                return rf"{self.at(x, ATOM)}\Big|_{{{self.place.token}{by:+d}}}", ATOM
            case Top(_, x, fraction):
                condition = rf"{self.done[x][0]} \text{{ in the top }} {self.done[fraction][0]}"
                return condition, COMPARE
            case Pick(_, m, fraction):
                condition = (
                    rf"\text{{a random }} {self.done[fraction][0]} \text{{ of }} {self.done[m][0]}"
                )
                return condition, COMPARE
        return super()._node(node)

    def _infix(self, op: BinaryOp, a: Expr, b: Expr) -> tuple[str, int]:
        level = BINARY[op].level
        tight = op == "sub" or level == COMPARE
        left = self.at(a, ATOM if level == TIMES and self._open(a) else level)
        return f"{left} {BINARY[op].latex} {self.at(b, level + tight)}", level

    def _reduce(self, node: Reduce) -> tuple[str, int]:
        x, over, mask = node.x, node.over, node.where
        if x == ONE and node.op == "sum" and mask is None:
            return self._size(over), ATOM if len(over) == 1 else APPLY
        inside = self._inside(node)
        with self._at_place(inside):
            whole, body = self.done[x][0], self.at(x, TIMES)
            condition = self.done[mask][0] if mask is not None else ""
        if mask is not None:
            if node.op == "mean" and over == ("p",):
                return rf"\mathbb{{E}}_{{x \sim \mathcal{{D}} \,:\, {condition}}} {body}", APPLY
            return rf"{REDUCE[node.op].latex}_{{{','.join(over)} \,:\, {condition}}} {body}", APPLY
        if _is_of_group(node):
            name = rf"{REDUCE[node.op].latex}_{{{inside.response}}}"
            return rf"{name}\left( {whole} \right)", ATOM
        match node.op:
            case "sum":
                return f"{self._sums(over)} {body}", APPLY
            case "mean" if over == ("p",):
                return rf"\mathbb{{E}}_{{x \sim \mathcal{{D}}}} {body}", APPLY
            case "mean":
                return rf"\frac{{1}}{{{self._size(over)}}} {self._sums(over)} {body}", APPLY
            case "prod":
                return f"{self._sums(over, 'prod')} {body}", APPLY
        return rf"{REDUCE[node.op].latex}_{{{','.join(over)}}} {body}", APPLY

    def _count(self, index: str, letter: str) -> str:
        """The letter for a number, unless it is a name of the file."""
        return letter if letter not in self.taken else rf"\#{index}"

    def _sums(self, over: Indices, sign: str = "sum") -> str:
        """`\\sum` over the elements of each index, one after the other."""
        length = HERE.length if "i" in over else self.place.length
        ranges = {
            "p": "_{x}",
            "i": rf"_{{i=1}}^{{{self._count('i', 'G')}}}",
            "t": rf"_{{t=1}}^{{{length}}}",
            "v": r"_{v \in \mathcal{V}}",
        }
        return " ".join(rf"\{sign}{ranges[index]}" for index in over)

    def _size(self, over: Indices) -> str:
        """How many elements there are."""
        match over:
            case ("p",):
                return self._count("x", "P")
            case ("i",):
                return self._count("i", "G")
            case ("p", "i"):
                return self._count("(x, i)", "N")
            case ("t",):
                return self.place.length
            case ("v",):
                return r"|\mathcal{V}|"
            case (*outer, "t"):
                return f"{self._sums(tuple(outer))} {HERE.length}"
        return "n"

    def _log_ratio(self, a: Expr, b: Expr) -> tuple[str, int] | None:
        if not isinstance(a, LogProb | LogDist) or not isinstance(b, LogProb | LogDist):
            return None
        ratio = self._probability(Binary("sub", a, b))
        return (rf"\log {ratio[0]}", APPLY) if ratio else None

    def _joined(self, x: Expr) -> tuple[str, int] | None:
        known = self.probabilities
        match x:
            case LogProb(policy):
                return self._token(policy), ATOM
            case LogDist(policy):
                return self._word(policy), ATOM
            case Binary("sub", a, b):
                top, bottom = known[a], known[b]
                if top and bottom:
                    return rf"\frac{{{top[0]}}}{{{bottom[0]}}}", ATOM
            case Binary("add", a, b):
                left, right = known[a], known[b]
                if left and right:
                    return rf"{left[0]} \, {right[0]}", TIMES
            case Reduce("sum", over, inner, None):
                with self._at_place(self._inside(x)):
                    body = self._probability(inner)
                if body:
                    return f"{self._sums(over, 'prod')} {body[0]}", APPLY
            case Binary("div", a, b):
                body = known[a]
                if body:
                    return rf"\left( {body[0]} \right)^{{1 / {self.at(b, ATOM)}}}", POWER
            case Binary("mul", a, b):
                body = known[a]
                if body:
                    return rf"\left( {body[0]} \right)^{{{self.done[b][0]}}}", POWER
        return None

    def _token(self, policy: str) -> str:
        i, t = self.place.response, self.place.token
        return rf"{_policy(policy)}(y_{{{i},{t}}} \mid x, y_{{{i},<{t}}})"

    def _word(self, policy: str) -> str:
        i, t = self.place.response, self.place.token
        return rf"{_policy(policy)}(v \mid x, y_{{{i},<{t}}})"


def _is_of_group(node: Reduce) -> bool:
    """Whether a node is a statistic of the responses to a prompt, which are known."""
    is_plain = node.over == ("i",) and node.where is None and not node.current
    return is_plain and node.op != "sum"


def _policy(name: str) -> str:
    return POLICY.get(name) or rf"\pi_{{{_roman(name)}}}"


def _scientific(value: float) -> str:
    plain = decimal(value)
    if "e" not in plain and (value == 0 or abs(value) >= 1e-2):
        return plain
    exact = f"{value:e}" if float(f"{value:e}") == value else f"{value:.16e}"
    digits, exponent = exact.split("e")
    digits = digits.rstrip("0").rstrip(".")
    front = "" if digits == "1" else rf"{digits} \cdot "
    return rf"{front}10^{{{int(exponent)}}}"
