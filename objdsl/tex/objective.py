"""The equations of a paper as the text of an objective."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from lark import Token

from objdsl.ir.indices import VOCAB
from objdsl.source import Source
from objdsl.spelling import identifier
from objdsl.syntax import tree
from objdsl.syntax.format import format
from objdsl.syntax.parse import parse
from objdsl.tex.factors import first_script
from objdsl.tex.lexer import unreadable
from objdsl.tex.names import INDICES, accented, parts_of, word
from objdsl.tex.parse import Equation, declared_in, equations
from objdsl.tex.pieces import Piece, reduced, resolved
from objdsl.tex.reading import Reading
from objdsl.tex.symbols import define
from objdsl.tex.translate import formula, product

_GOALS = {"J", "L", "mathcal", "loss", "objective", "U", "ell", "F"}
_NUMBERS = {
    "number of responses to the prompt": ("i",),
    "number of responses": ("p", "i"),
    "number of prompts": ("p",),
}


def imported(source: Source, name: str = "imported") -> str:
    """The text of the objective that a LaTeX text prints.

    What the formula does not say, and is guessed, has a comment behind it. Lines of the text such
    as `% objdsl: param eps = 0.2 in (0, 1)` are taken as they are.

    Raises:
        ObjectiveError: with the places that are not read.
    """
    statements = declared_in(source)
    reading = Reading(source, formula, product)
    reading.declared, reading.masks, reading.kept = _declared(statements)
    goal: Equation | None = None
    for equation in equations(source):
        reading.sizes.update(_sizes(equation))
    for equation in equations(source):
        if equation.update:
            _check_declared(equation, reading)
            continue
        number = "".join(str(token) for token in equation.right)
        if number in _NUMBERS and len(equation.left) == 1:
            reading.sizes[str(equation.left[0])] = _NUMBERS[number]
            continue
        if goal is None and _is_goal(equation):
            goal = equation
            continue
        defined = _defined(equation)
        if defined is not None and defined not in reading.definitions:
            reading.definitions[defined] = equation
            reading.sizes.pop(defined, None)
    if goal is None and reading.definitions:
        goal = reading.definitions.pop(next(iter(reading.definitions)))
    if goal is None:
        raise unreadable("nothing is maximised here", equations(source)[0].span)
    sense, right = _sense(goal)
    value = resolved(reading.value(right))
    reading.note_again(goal)
    if value.minus is not None:
        sense, value = ("maximize" if sense == "minimize" else "minimize"), value.minus
    value = _whole(reading, value)
    for read in _names_in(statements):
        if read in reading.definitions:
            define(reading, read)
    return _written(name, statements, reading, sense, value)


def _sizes(equation: Equation) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Letters at which sums end: `k` of `\\sum_{i=1}^{k}`."""
    tokens = equation.right
    for k, token in enumerate(tokens):
        if token.type == "BIG" and [t.type for t in tokens[k + 1 : k + 2]] == ["SUB"]:
            under = first_script(tokens[k + 1 :], "SUB")
            after = tokens[k + 2 + len(under) + 2 * (tokens[k + 2].type == "OPEN") :]
            above = first_script(after, "SUP") if after[:1] and after[0].type == "SUP" else []
            letter = str(under[0]) if under else ""
            if len(above) == 1 and above[0].type == "LETTER" and letter in INDICES:
                yield str(above[0]), (INDICES[letter],)


def _declared(statements: Sequence[str]) -> tuple[dict[str, int], frozenset[str], bool]:
    """The number of indices of each declared name, the declared columns, and whether prompts are
    chosen."""
    names: dict[str, int] = {}
    columns: set[str] = set()
    kept = False
    if not statements:
        return names, frozenset(), kept
    for statement in parse(Source("declared", "\n".join(statements) + "\n")).statements:
        match statement:
            case tree.Param(name):
                names[name.id] = 0
            case tree.Given(name, indices) if indices is not None:
                names[name.id] = len(indices)
                columns.add(name.id)
            case tree.State(name, indices) | tree.Learn(name, indices):
                names[name.id] = len(indices)
            case tree.Policy(name):
                names[name.id] = 3
            case tree.Keep():
                kept = True
    return names, frozenset(columns), kept


def _check_declared(equation: Equation, reading: Reading) -> None:
    """Reports the next value of a state that no comment declares."""
    name = _defined(equation)
    if name is None or name not in reading.declared:
        raise unreadable(
            "a state is declared in a comment", equation.span,
            help=f"`% objdsl: state {name or 'x'} = 0.1 next ...`",
        )  # fmt: skip


def _names_in(statements: Sequence[str]) -> Iterator[str]:
    """The names in the formulas of statements."""
    for statement in statements:
        if not statement.startswith(("param ", "policy ", "given ", "sample ")):
            yield from re.findall(r"[A-Za-z_]\w*", statement)


def _is_goal(equation: Equation) -> bool:
    if not equation.left:
        return True
    first = next((t for t in equation.left if t.type not in ("NABLA", "SUB", "ACCENT")), None)
    if first is None:
        return False
    tokens = [t for t in equation.left if t.type != "ACCENT"]
    if tokens[0].type == "NABLA":
        return True
    calligraphic = first.type == "CALLIGRAPHIC"
    return (calligraphic and str(first)[:1] in "JLUFO") or str(first).lower() in (
        "j", "l", "loss", "objective", "ell",
    )  # fmt: skip


def _defined(equation: Equation) -> str | None:
    """The name that an equation defines."""
    base = next(
        (t for t in equation.left if t.type in ("LETTER", "GREEK", "WORD", "CALLIGRAPHIC")), None
    )
    if base is None:
        return None
    parts = parts_of(first_script(list(equation.left), "SUB"))
    over = [t for t in first_script(list(equation.left), "SUP") if t.type == "WORD"]
    words = [x for x in parts.words if x != "theta"]
    words += [word(t) for t in over if word(t).lower() != "gae"]
    accent = equation.left[0]
    if accent.type == "ACCENT":
        words += accented(str(accent), word(base))
    return identifier(word(base), *words)


def _sense(goal: Equation) -> tuple[str, list[Token]]:
    """Whether a goal is maximised, and its formula."""
    right = list(goal.right)
    loss = any(str(t) in ("L", "loss", "Loss", "ell") for t in goal.left[:1])
    clipped = "CLIP" in "".join(str(t) for t in goal.left).upper()
    sense = "minimize" if loss and not clipped else "maximize"
    if len(right) > 2 and right[0].type in ("FUNCTION", "WORD") and right[1].type == "SUB":
        under = first_script(right, "SUB")
        arguments = {"theta", "pi", "phi"}
        if str(right[0]) in ("max", "min", "argmax", "argmin", "arg max", "arg min") and any(
            str(t) in arguments for t in under
        ):
            sense = "maximize" if "max" in str(right[0]) else "minimize"
            right = right[2 + len(under) + 2 * (right[2].type == "OPEN") :]
    return sense, right


def _whole(reading: Reading, value: Piece) -> Piece:
    """A single number for the step."""
    if value.depth:
        indices = VOCAB[: value.depth]
        what = ("prompt", "response", "token", "vocabulary entry")[value.depth - 1]
        reading.guess(f"the formula is that of one {what}, and is averaged over the step")
        value = reduced("mean", ",".join(indices), value, 0)
    return value


def _written(
    name: str, statements: Sequence[str], reading: Reading, sense: str, value: Piece
) -> str:
    lines = [f"objective {name}", ""]
    known = {word for statement in statements for word in statement.split("=")[0].split()}
    for param, default in reading.params.items():
        if param not in known:
            lines.append(f"param {param} = {default}  # guessed: the formula gives no value")
    for policy, note in reading.policies.items():
        if policy not in reading.declared:
            lines.append(f"policy {policy}  # {note}")
    for column, indices in reading.givens.items():
        lines.append(f"given {column}{indices}  # guessed: a column of the data")
    text = value.text
    paired = any("chosen" in x.text for x in (value, *(let for let, _ in reading.lets.values())))
    if paired and "chosen" not in reading.declared:
        lines.append("given chosen[p,i] in {0, 1}")
    lines += statements
    if len(lines) > 2:
        lines.append("")
    for let, (piece, note) in reading.lets.items():
        lines.append(f"{let} = {piece.text}" + (f"  # {note}" if note else ""))
    if reading.lets:
        lines.append("")
    lines += [f"# guessed: {guess}" for guess in reading.guesses]
    lines.append(f"{sense} {text}")
    return format(parse(Source(f"{name}.obj", "\n".join(lines) + "\n")))
