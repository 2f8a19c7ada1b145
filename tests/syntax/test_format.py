"""Formatting changes the layout and nothing else."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from objdsl import driver
from objdsl.objectives import gallery
from objdsl.source import Source, Span
from objdsl.syntax import tree
from objdsl.syntax.format import WIDTH, format
from objdsl.syntax.parse import parse

NOWHERE = Span(Source("nowhere", ""), 0, 0)
NAMES = st.sampled_from(["reward", "pi", "old", "A", "eps_low", "x1", "t", "layer", "at", "as"])
INDICES = st.sampled_from(["p", "i", "t", "v"])


def name(text: str) -> tree.Name:
    return tree.Name(text, NOWHERE)


names = NAMES.map(name)
numbers = st.sampled_from(["0", "1", "0.2", "1e-4", "inf", "16"]).map(
    lambda text: tree.Number(float(text), text, NOWHERE)
)


@st.composite
def binders(draw: Any, inner: Any) -> tree.Binder:
    condition = draw(st.none() | inner)
    keys = draw(st.lists(inner, max_size=2).map(tuple))
    if draw(st.integers(0, 3)) == 0:
        op = draw(st.sampled_from(["<", "<=", ">", ">=", "!="]))
        relation = tree.Relation(name("s"), op, name("t"), NOWHERE)
        others = draw(st.lists(INDICES, max_size=1))
        return tree.Binder(tuple(map(name, others)), relation, condition, keys, NOWHERE)
    indices = draw(st.lists(INDICES, min_size=1, max_size=3, unique=True))
    return tree.Binder(tuple(map(name, indices)), None, condition, keys, NOWHERE)


def larger(inner: Any) -> Any:
    several = st.lists(inner, min_size=1, max_size=3).map(tuple)
    binary = st.sampled_from(
        ["+", "-", "*", "/", "^", "<", "<=", ">", ">=", "==", "!=", "and", "or"]
    )
    functions = st.sampled_from(["clip", "min", "f"]).map(name)
    operators = st.sampled_from(["mean", "sum", "top"]).map(name)
    return st.one_of(
        st.builds(
            tree.Unary, st.sampled_from(["-", "+", "not"]), inner, st.just(NOWHERE), st.booleans()
        ),
        st.builds(tree.Binary, binary, inner, inner, st.just(NOWHERE), st.booleans()),
        st.builds(tree.Conditional, inner, inner, inner, st.just(NOWHERE)),
        st.builds(tree.Call, functions, several, st.just(NOWHERE)),
        st.builds(
            tree.Reduction, operators, binders(inner), several, st.just(NOWHERE), st.booleans()
        ),
        st.builds(tree.Indexed, names, binders(inner), st.just(NOWHERE)),
    )


leaves = names | numbers | st.just(tree.Length(NOWHERE))
expressions = st.recursive(leaves, larger, max_leaves=25)
PROPERTY = settings(
    deadline=None, derandomize=True, max_examples=300, suppress_health_check=list(HealthCheck)
)


def let(value: tree.Expression) -> tree.File:
    statement = tree.Let(name("x"), value, NOWHERE)
    return tree.File((statement,), (), NOWHERE.source)


@PROPERTY
@given(expressions)
def test_the_formula_stays(value: tree.Expression) -> None:
    text = format(let(value))
    parsed = parse(Source("x.obj", text))
    assert parsed.statements == let(value).statements
    assert format(parsed) == text


@PROPERTY
@given(st.lists(expressions, min_size=1, max_size=4), st.randoms(use_true_random=False))
def test_comments_stay(values: list[tree.Expression], random: Any) -> None:
    """Comments before, after, between and inside statements: all of them, in their order."""
    lines: list[str] = []
    count = 0
    for k, value in enumerate(values):
        for _ in range(random.randrange(3)):
            lines.append(random.choice(["", f"# c{count}", f"   #c{count}"]))
            count += "c" in lines[-1]
        body = format(let(value)).rstrip("\n").removeprefix("x = ")
        if random.random() < 0.5:
            lines.append(f"x{k} = (  # c{count}\n{body}\n)")
            count += 1
        else:
            lines.append(f"x{k} = {body}")
        if random.random() < 0.5:
            lines[-1] += f" # c{count}"
            count += 1
    text = "\n".join(lines) + "\n"
    formatted = format(parse(Source("x.obj", text)))
    again = parse(Source("x.obj", formatted))
    assert [comment.text for comment in again.comments] == [f"c{k}" for k in range(count)]
    assert again.statements == parse(Source("x.obj", text)).statements
    assert format(again) == formatted


@pytest.mark.parametrize("entry", gallery.names())
def test_the_gallery_is_laid_out(entry: str) -> None:
    source = gallery.find(entry)
    assert format(parse(source)) == source.text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A=reward-mean[ i ]reward", "A = reward - mean[i] reward"),
        ("x = mean[t] r * A", "x = mean[t] r * A"),
        ("x = mean[t] r^2", "x = mean[t] r^2"),
        ("x = -mean[p] (mean[t] r)^2", "x = -mean[p] (mean[t] r)^2"),
        ("x = (mean[p] mean[t] r) * A", "x = (mean[p] mean[t] r) * A"),
        ("x = (a * mean[t] r) * A", "x = a * (mean[t] r) * A"),
        ("x = (-mean[t] r) / A", "x = -(mean[t] r) / A"),
        ("x = top[t](r, 0.2) * A", "x = top[t](r, 0.2) * A"),
        ("x = (mean[t] r) + A", "x = mean[t] r + A"),
        ("x = ((pi)/(old))", "x = pi / old"),
        ("x = π / old · ε", "x = pi / old * eps"),
        ("x = r ^ -1", "x = r^-1"),
        ("x = -(r^2)", "x = -r^2"),
        ("x = (-r)^2", "x = (-r)^2"),
        ("x = (mean[t] r)^2", "x = (mean[t] r)^2"),
        ("x = a - (b - c)", "x = a - (b - c)"),
        ("x = a and b or c", "x = (a and b) or c"),
        ("x = (a if b else c) if d else e", "x = (a if b else c) if d else e"),
        ("x = mean[ t|r>1 and A<0 ](r)", "x = mean[t | r > 1 and A < 0] r"),
        ("x = pick [p,i,t](M,2e-4)", "x = pick[p,i,t](M, 2e-4)"),
        ("param  eps=0.2 in(0,1)", "param eps = 0.2 in (0, 1)"),
        ("param b = -1 in [-inf, 0.5)", "param b = -1 in [-inf, 0.5)"),
        ("given c[p , i] in {0,1}", "given c[p,i] in {0, 1}"),
        ("given c[p , i]  as   reward", "given c[p,i] as reward"),
        ("given c[p,i] ∈ [0,1] as\treward", "given c[p,i] in [0, 1] as reward"),
        ("given as[p,i] as reward", "given as[p,i] as reward"),
        ("as = as+1", "as = as + 1"),
        ("policy  inner=pi at layer 6", "policy inner = pi at layer 6"),
        ("policy  inner=π at layer  ε", "policy inner = pi at layer eps"),
        (
            "policy inner = pi  at layer n without  norm",
            "policy inner = pi at layer n without norm",
        ),
        ("policy without = pi at layer norm", "policy without = pi at layer norm"),
        ("sample from mu : group 16 , keep_mask", "sample from mu: group 16, keep_mask"),
        ("minimize  critic (V - 1)^2", "minimize critic (V - 1)^2"),
    ],
)
def test_layout(text: str, expected: str) -> None:
    assert format(parse(Source("x.obj", text + "\n"))) == expected + "\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x = sum[t] log(pi) * A / 4096", "x = (sum[t] log(pi)) * A / 4096"),
        ("x = A * mean[i] sum[t] log(pi) / 2", "x = A * (mean[i] sum[t] log(pi)) / 2"),
        ("x = sum[t] log(pi) * log(old)", "x = sum[t] log(pi) * log(old)"),
        ("x = max[t] log(pi) / 2", "x = max[t] log(pi) / 2"),
        ("x = sum[t] log(pi) * unknown", "x = sum[t] log(pi) * unknown"),
        ("def f(c) = sum[t] log(pi) * c\nx = f(A)", "def f(c) = (sum[t] log(pi)) * c\nx = f(A)"),
        ("x = detach(π_θ) ** 2 * stop_gradient(pi_theta[v])", "x = sg(pi)^2 * sg(pi[v])"),
        ("def detach(x) = x\nx = detach(A)", "def detach(x) = x\nx = detach(A)"),
        (
            "def f(c) = sum[t] log(pi) * c\nx = f(A) + f(old)",
            "def f(c) = sum[t] log(pi) * c\nx = f(A) + f(old)",
        ),
    ],
)
def test_what_changes_nothing_is_written_in_one_way(text: str, expected: str) -> None:
    """Brackets and names; but never where that would choose between two readings."""
    text, expected = (
        f"A = reward\n{statement}\nmaximize mean[p,i,t] log(pi)\n" for statement in (text, expected)
    )
    assert driver.layout(Source("x.obj", text)) == expected


def test_long_lines_break_inside_brackets() -> None:
    body = " + ".join(f"a_rather_long_name_{k} * another_long_name_{k}" for k in range(5))
    text = format(parse(Source("x.obj", f"maximize mean[p] mean[i] mean[t] ({body})\n")))
    assert text.startswith("maximize mean[p] mean[i] mean[t] (\n    a_rather")
    assert text.endswith("\n)\n")
    assert max(map(len, text.splitlines())) <= WIDTH


@pytest.mark.parametrize(
    "text",
    [
        "-" * 198 + "r",
        " + ".join(["reward"] * 199),
        "(reward + " * 98 + "1" + ")" * 98,
        "abs(" * 98 + "reward" + ")" * 98,
        "mean[t] (reward * " * 60 + "1" + ")" * 60,
        "1 if reward > 0 else " * 190 + "2",
    ],
    ids=["signs", "sum", "brackets", "calls", "reductions", "conditionals"],
)
def test_the_deepest_formulas_stay_readable(text: str) -> None:
    file = parse(Source("x.obj", f"x = {text}\n"))
    formatted = format(file)
    assert parse(Source("x.obj", formatted)).statements == file.statements


def test_at_most_one_blank_line_stays() -> None:
    text = "\n\n# top\n\n\n\na = 1\nb = 2\n\n# end\n\n"
    assert format(parse(Source("x.obj", text))) == "# top\n\na = 1\nb = 2\n\n# end\n"
