"""From text to tree: precedence, and the place of each node."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pytest

from objdsl.source import Source
from objdsl.spelling import canonical
from objdsl.syntax import grammar as grammar_module
from objdsl.syntax import tree
from objdsl.syntax.parse import parse, parse_expression
from objdsl.syntax.tree import Choice, Comment, Expression, Interval


def statement(text: str) -> tree.Statement:
    (only,) = parse(Source("x.obj", text + "\n")).statements
    return only


def shown(node: Expression) -> str:
    """The tree, with brackets around every node that has parts."""
    match node:
        case tree.Number(_, text):
            return text
        case tree.Name(id):
            return id
        case tree.Length():
            return "|y|"
        case tree.Unary(op, operand):
            return f"({op} {shown(operand)})"
        case tree.Binary(op, left, right):
            return f"({shown(left)} {op} {shown(right)})"
        case tree.Conditional(then, condition, otherwise):
            return f"({shown(then)} if {shown(condition)} else {shown(otherwise)})"
        case tree.Call(function, arguments):
            return f"{function.id}({', '.join(map(shown, arguments))})"
        case tree.Indexed(name, binder):
            return f"{name.id}{binder_shown(binder)}"
        case tree.Reduction(operator, binder, operands):
            return f"{operator.id}{binder_shown(binder)}<{', '.join(map(shown, operands))}>"


def binder_shown(binder: tree.Binder) -> str:
    relation = binder.relation
    inside = ",".join(index.id for index in binder.indices)
    if relation is not None:
        related = f"{relation.bound.id} {relation.op} {relation.index.id}"
        inside = f"{related}, {inside}" if inside else related
    if binder.keys:
        inside += f" by {', '.join(map(shown, binder.keys))}"
    return f"[{inside}{'' if binder.condition is None else ' | ' + shown(binder.condition)}]"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("mean[i,t by turn, role | m] x", "mean[i,t by turn, role | m]<x>"),
        ("mean[j != i, t by floor * 2] x", "mean[j != i, t by (floor * 2)]<x>"),
        ("by + before * mean[by by by] at", "(by + (before * mean[by by by]<at>))"),
        ("a + b * c", "(a + (b * c))"),
        ("a - b - c", "((a - b) - c)"),
        ("a / b * c", "((a / b) * c)"),
        ("-x^2", "(- (x ^ 2))"),
        ("x^-1", "(x ^ (- 1))"),
        ("x**-1 ** y", "(x ^ (- (1 ^ y)))"),
        ("2^-x^2", "(2 ^ (- (x ^ 2)))"),
        ("a^b^c", "(a ^ (b ^ c))"),
        ("a * -b", "(a * (- b))"),
        ("a < b + 1 and not c == d or e", "(((a < (b + 1)) and (not (c == d))) or e)"),
        ("a if b else c if d else e", "(a if b else (c if d else e))"),
        ("mean[t] r * A", "(mean[t]<r> * A)"),
        ("mean[t] r^2", "(mean[t]<r> ^ 2)"),
        ("beta * sum[t] log(pi / ref)", "(beta * sum[t]<log((pi / ref))>)"),
        ("mean[p] mean[i] mean[t] (a + b)", "mean[p]<mean[i]<mean[t]<(a + b)>>>"),
        ("mean[t] -x", "(mean[t] - x)"),
        ("sum[v] pi[v]", "sum[v]<pi[v]>"),
        ("pick[p,i,t](M, 2e-4)", "pick[p,i,t]<M, 2e-4>"),
        ("mean[t] (x)", "mean[t]<x>"),
        ("mean[t | M and r > 1] x", "mean[t | (M and (r > 1))]<x>"),
        ("mean[j != i] x", "mean[j != i]<x>"),
        ("sum[s >= t | M] x", "sum[s >= t | M]<x>"),
        ("mean[t | |y| > 3] x", "mean[t | (|y| > 3)]<x>"),
        ("| y | * 2", "(|y| * 2)"),
        ("(prod[t] (pi / old)) ^ (1 / |y|)", "(prod[t]<(pi / old)> ^ (1 / |y|))"),
        ("at + layer(x)", "(at + layer(x))"),
        ("order + notable + inflow", "((order + notable) + inflow)"),
        ("π/μ ≤ 1 − ε_low", "((pi / mu) <= (1 - eps_low))"),
        ("Σ[t] β·k × 2 ≠ ∞", "(((sum[t]<beta> * k) * 2) != inf)"),
    ],
)
def test_what_binds_tighter(text: str, expected: str) -> None:
    assert shown(parse_expression(text)) == expected


@pytest.mark.parametrize(
    ("text", "domain"),
    [
        ("param x = 1", None),
        ("param x = 1 in (0, 1)", "Interval(lower=0.0, upper=1.0, lower_closed=False, "),
        ("param x = -1e-4 in [-inf, 0)", "Interval(lower=-inf, upper=0.0, lower_closed=True, "),
        ("param x = 1 ∈ {0, 1}", "Choice(values=(0.0, 1.0))"),
    ],
)
def test_params(text: str, domain: str | None) -> None:
    param = statement(text)
    assert isinstance(param, tree.Param)
    assert repr(param.domain).startswith(str(domain))


def test_a_number_keeps_its_text() -> None:
    param = statement("param x = −1e−4")
    assert isinstance(param, tree.Param)
    assert (param.default, param.default_text) == (-1e-4, "-1e-4")
    number = parse_expression("0.20")
    assert isinstance(number, tree.Number)
    assert (number.value, number.text) == (0.2, "0.20")


def test_statements() -> None:
    text = """
        objective dr_grpo from grpo
        policy teacher
        policy inner = pi at layer 6
        given margin[p,i] in [0, inf)
        given reward in {0, 1}
        def f(x, y) = x + y
        sample from mu: group 16, keep_mask
        keep p where std[i] reward > 0
        report a = 1
        maximize a
        learn tau = -1 in (-inf, 0)
        minimize learn a
        minimize critic a
    """
    statements = parse(Source("x.obj", text)).statements
    kinds = [type(each).__name__ for each in statements]
    expected = "Header Policy Policy Given Given Def Sample Keep Report Goal Learn Goal Goal"
    assert kinds == expected.split()
    header, teacher, inner, margin, reward, function, sample, *_, learn, dual, critic = statements
    assert isinstance(header, tree.Header) and header.base is not None
    assert isinstance(teacher, tree.Policy) and teacher.source is None
    assert isinstance(inner, tree.Policy) and isinstance(inner.source, tree.Layer)
    assert inner.source.layer == 6
    assert isinstance(margin, tree.Given) and isinstance(margin.domain, Interval)
    assert margin.indices is not None and [index.id for index in margin.indices] == ["p", "i"]
    assert isinstance(reward, tree.Given) and isinstance(reward.domain, Choice)
    assert reward.indices is None
    assert isinstance(function, tree.Def) and len(function.arguments) == 2
    assert isinstance(sample, tree.Sample)
    assert [(o.name.id, o.value) for o in sample.options] == [("group", 16.0), ("keep_mask", None)]
    assert isinstance(learn, tree.Learn) and (learn.start, learn.start_text) == (-1.0, "-1")
    assert isinstance(dual, tree.Goal) and (dual.sense, dual.whose) == ("minimize", "learn")
    assert isinstance(critic, tree.Goal) and (critic.sense, critic.whose) == ("minimize", "critic")


def test_a_node_spans_its_text() -> None:
    source = Source("x.obj", "# first\nA = 1 + (\n  b * c  # note\n)\n")
    file = parse(source)
    (let,) = file.statements
    assert isinstance(let, tree.Let) and isinstance(let.value, tree.Binary)
    assert let.span.text == "A = 1 + (\n  b * c  # note\n)"
    assert (let.span.line, let.span.column) == (2, 1)
    assert let.value.right.span.text == "(\n  b * c  # note\n)"
    assert [comment.span.text for comment in file.comments] == ["# first", "# note"]
    assert file.comments == (Comment("first", True, let.span), Comment("note", False, let.span))


def test_line_ends_of_windows_are_line_ends() -> None:
    file = parse(Source("x.obj", "a = 1  # note\r\nb = (2 +\r\n3)\r\n"))
    assert len(file.statements) == 2
    assert file.comments[0].text == "note"


def test_the_letters_of_names_are_those_that_have_a_spelling() -> None:
    grammar = (files("objdsl.grammars") / "objective.lark").read_text(encoding="utf-8")
    match = re.search(r"^NAME: +/\[A-Za-z_(.+?)\]\[0-9A-Za-z_(.+?)\]\*/$", grammar, re.MULTILINE)
    assert match is not None and match[1] == match[2]
    assert all(canonical(letter).isascii() and canonical(letter).isalpha() for letter in match[1])
    others = {chr(k) for k in range(0x370, 0x400)} - set(match[1])
    assert all(canonical(letter) == letter for letter in others)


@pytest.mark.parametrize("content", [b"", b"damaged", b"\x80\x04."])
def test_a_damaged_cache_is_replaced(tmp_path: Path, content: bytes) -> None:
    assert parsed_in_a_new_process(tmp_path) == "1"
    (path,) = (tmp_path / "objdsl").iterdir()  # nothing but the tables is left there
    assert path.stat().st_size > 10_000
    path.write_bytes(content)
    assert parsed_in_a_new_process(tmp_path) == "1"
    assert list((tmp_path / "objdsl").iterdir()) == [path]
    assert path.stat().st_size > 10_000


def test_environments_do_not_take_turns_with_one_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path))
    here = grammar_module.cache_file("start: A")
    assert here == grammar_module.cache_file("start: A")
    assert here != grammar_module.cache_file("start: B")
    monkeypatch.setattr("lark.__version__", "0.0")
    assert here != grammar_module.cache_file("start: A")


def test_a_cache_is_not_needed(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    assert parsed_in_a_new_process(blocked) == "1"
    assert parsed_in_a_new_process(Path("relative")) == "1"


def parsed_in_a_new_process(cache: Path) -> str:
    script = (
        "from objdsl.source import Source; from objdsl.syntax.parse import parse;"
        "import sys; assert not {'torch', 'numpy', 'pydantic', 'rich'} & set(sys.modules);"
        "print(len(parse(Source('x', 'a = 1')).statements))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={"XDG_CACHE_HOME": str(cache), "LOCALAPPDATA": str(cache), "PATH": ""},
        capture_output=True,
        text=True,
        check=True,
        timeout=600,
    )
    assert done.stderr == ""
    return done.stdout.strip()
