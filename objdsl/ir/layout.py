"""A whole objective in readable form: its formula, and the definitions that a reader needs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from objdsl.ir.build import ONE
from objdsl.ir.declarations import Domain, Learned, State
from objdsl.ir.indices import decimal
from objdsl.ir.latex import Latex, latex, symbol
from objdsl.ir.nodes import Expr, LogProb, Reduce, live_leaves, topological
from objdsl.ir.objective import Named
from objdsl.ir.text import COUNTS, Text, text
from objdsl.ir.writer import HERE, Names, letters, names_of, used

MEANT = {
    "P": "number of prompts",
    "G": "number of responses to the prompt",
    "N": "number of responses",
}
"""The meanings of the letters for counts."""

WIDTH = 100  # columns of a line of text
LONG = 160  # characters of a formula whose common parts get names
INDENT = 8  # of what a line goes on with
_BREAKS = ("if", "else", "or", "and", "+", "-", "*", "/")
_MOST_PARTS = 9


def formula(
    goal: Expr,
    weights: Mapping[Expr, Expr],
    named: Iterable[Named],
    states: Iterable[State] = (),
    learned: Iterable[Learned] = (),
    dual: Expr | None = None,
    *,
    as_latex: bool = False,
) -> str:
    """An objective, or its weights, with the definitions that a reader needs.

    Args:
        goal: J.
        weights: the derivative of what is maximised by each trained leaf, to be shown instead of J;
            or empty.
        named: the bindings of the file.
        states: those of the file, to be shown beside J.
        learned: the numbers that are learned beside the policy, and `dual`, what they minimise.
        as_latex: LaTeX, as an `aligned` block, instead of text.
    """
    names = names_of(named)
    states = () if weights else tuple(states)
    learned = () if weights else tuple(learned)
    roots = tuple(weights.values()) or (goal, *(state.next for state in states))
    lines = [("J(pi)", r"J(\theta)", goal)]
    if weights:
        dual_leaves = set() if dual is None else {x for x in live_leaves(dual) if not x.current}
        lines = [(*_derivative(x, x in dual_leaves), weight) for x, weight in weights.items()]
    elif dual is not None:
        roots += (dual,)
        leaves = live_leaves(dual)
        letters = [number.column for number in learned if number.column in leaves]
        left, below = (", ".join(write(x) for x in letters) for write in (text, latex))
        lines.append((f"L({left})", f"L({below})", dual))
    if as_latex:
        block = [(left, value) for _, left, value in lines]
        return _in_latex(block, names, roots, states, learned)
    return _in_text([(left, value) for left, _, value in lines], names, roots, states, learned)


def _in_text(
    lines: list[tuple[str, Expr]],
    names: Names,
    roots: tuple[Expr, ...],
    states: tuple[State, ...],
    learned: tuple[Learned, ...],
) -> str:
    names = _with_common_parts(names, roots)
    writer = Text(names, roots)
    shown = [f"{left} = {writer.show(value)}" for left, value in lines]
    defined = [f"    {name} = {writer.show(value)}" for name, value in used(names, *roots)]
    for state in states:
        after = names.get(state.next) or writer.show(state.next)
        meaning = f"{text(state.start, names)} before the first rollout, and after each {after}"
        defined.append(f"    {state.name} = {meaning}")
    minimised = live_leaves(lines[1][1]) if len(lines) > 1 and learned else set()
    for number in learned:
        verb = "minimises L" if number.column in minimised else "maximises J"
        inside = "" if number.domain == Domain() else f" in {number.domain}"
        what = f"{verb}{inside}, from {decimal(number.start)}"
        defined.append(f"    {number.name} {what}")
    defined += [f"    {letter} = {MEANT[letter]}" for letter in _counts(names, *roots)]
    where = ["", "where", *defined] if defined else []
    return "\n".join(map(folded, [*shown, *where])) + "\n"


def _in_latex(
    lines: list[tuple[str, Expr]],
    names: Names,
    roots: tuple[Expr, ...],
    states: tuple[State, ...],
    learned: tuple[Learned, ...],
) -> str:
    minimised = live_leaves(lines[1][1]) if len(lines) > 1 and learned else set()
    writer = Latex(names, roots)
    defined = used(names, *roots)
    lines += [(symbol(name, HERE.subscripts(value.indices)), value) for name, value in defined]
    rows = [f"{left} &= {writer.definition(value)}" for left, value in lines]
    for state in states:
        left, start = writer.show(state.column), writer.show(state.start)
        after = writer.at(state.next, 0) if state.next in names else writer.show(state.next)
        rows.append(f"{left} &\\leftarrow {after} \\quad \\text{{after a rollout, from }} {start}")
    for number in learned:
        best = r"\arg\min L" if number.column in minimised else r"\arg\max J"
        inside = f"\\text{{in }} {_interval(number.domain)} \\text{{, from }} "
        start = r"\text{from } " if number.domain == Domain() else inside
        left = writer.show(number.column)
        rows.append(f"{left} &\\approx {best} \\quad {start}{decimal(number.start)}")
    rows += [f"{letter} &= \\text{{{MEANT[letter]}}}" for letter in _counts(names, *roots)]
    body = " \\\\\n".join("  " + row for row in rows)
    return "\\begin{aligned}\n" + body + "\n\\end{aligned}\n"


def _interval(domain: Domain) -> str:
    return str(domain).replace("inf", r"\infty")


def _derivative(leaf: Expr, minimises: bool) -> tuple[str, str]:
    """The left-hand side of a weight, in text and in LaTeX."""
    below = text(leaf)
    if minimises:
        return f"-dL / d {below}", rf"-\frac{{\partial L}}{{\partial {latex(leaf)}}}"
    above = rf"\frac{{\partial J}}{{\partial {latex(leaf)}}}"
    weight = "w_{i,t} = " if isinstance(leaf, LogProb) and leaf.policy == "pi" else ""
    return f"dJ / d {below}", weight + above


def _counts(names: Names, *roots: Expr) -> list[str]:
    """The letters for counts that occur in the roots."""
    sums = (node for node in topological(*roots) if isinstance(node, Reduce))
    counts = {COUNTS.get(s.over) for s in sums if s.x == ONE and s.op == "sum" and s.where is None}
    return [letter for letter in MEANT if letter in counts - letters(names, *roots)]


def _with_common_parts(names: Names, roots: tuple[Expr, ...]) -> Names:
    """The names, and new ones for parts that occur several times in a long formula."""
    named = dict(names)
    taken = letters(names, *roots)
    fresh = (f"u{k}" for k in range(1, 1000) if f"u{k}" not in taken)
    for _ in range(_MOST_PARTS):
        writer = Text(named, roots)
        written = [
            (writer.show(expr), expr) for expr in (*roots, *(e for _, e in used(named, *roots)))
        ]
        if all(len(text) <= LONG for text, _ in written):
            break
        times: Counter[Expr] = Counter()
        for _, expr in written:  # each definition is a text of its own
            stack, seen = [expr], {expr}
            while stack:
                for child in stack.pop().children:
                    times[child] += 1
                    if child not in seen and child not in named:
                        seen.add(child)
                        stack.append(child)
        saved = {
            node: (many - 1) * (len(writer.done[node][0]) - 2)
            for node, many in times.items()
            if many > 1 and node.children and node not in named
        }
        best = max(saved, key=lambda node: saved[node], default=None)
        if best is None or saved[best] < LONG // 8:
            break
        named[best] = next(fresh)
    fresh = (f"u{k}" for k in range(1, 1000) if f"u{k}" not in taken)
    return named | {node: next(fresh) for _, node in used(named, *roots) if node not in names}


def folded(line: str, width: int = WIDTH) -> str:
    """A line of text, broken into several indented ones if it is wider than `width`.

    A formula is broken before an operator, or after a comma, where the fewest brackets are open.
    """
    margin = " " * (len(line) - len(line.lstrip()) + INDENT)
    lines: list[str] = []
    while len(line) > width and (at := _break(line, width)):
        lines.append(line[:at].rstrip())
        line = margin + line[at:].lstrip()
    return "\n".join([*lines, line])


def _break(line: str, width: int) -> int | None:
    """The best place to break a line, no further than `width` if possible."""
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
