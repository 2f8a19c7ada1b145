"""Messages for people who mistyped: every syntax error at once, each with a place and a
suggestion."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from objdsl import driver
from objdsl.diagnostic import Diagnostic
from objdsl.errors import ObjectiveError
from objdsl.lint.fixes import fixed
from objdsl.render.terminal import render
from objdsl.source import Source
from objdsl.syntax.mistakes import rules as mistakes
from objdsl.syntax.parse import parse
from objdsl.syntax.read import read

BROKEN = {
    "per": "A = mean[t per turn] reward",
    "by nothing": "A = mean[t by] reward",
    "two keys without a comma": "A = mean[t by turn role] reward",
    "two relations": "A = mean[j != i, s <= t] reward",
    "before nothing": "given turn[p,i,t] before",
    # characters and words of other languages
    "semicolon": "A = reward; B = 2",
    # states
    "state from a formula": "state x = a / 2 next x + 1",
    "state from a reduction": "state x = pi[v] next x + 1",
    "state without next": "state x = 0.5",
    "state without a start": "state x next 0.5",
    "state without a value": "state x = 0.5 next",
    "learn from a name": "learn tau = tau0 in (0, inf)",
    "learn from a formula": "learn tau = 1 / 2",
    "learn as a state": "learn tau = 1 next tau + 1",
    "learn without a start": "learn tau in (0, inf)",
    "learn in a number": "learn tau = 1 in 0",
    "learn that is maximized": "maximize learn tau * mean[p,i] reward",
    "misspelt learn": "learned tau = 1",
    "misspelt state": "stat x = 0.5 next x + 1",
    "string": 'A = "reward"',
    "prime": "A = r' + 1",
    "backslash": "A = reward + \\",
    "attribute": "A = reward.mean()",
    "percent": "A = 5 % reward",
    "policy with its arguments": "r = pi_theta(a | s) / pi_theta_old(a | s)",
    "indicator": "A = 1[reward > 0] * 2",
    "sum sign with limits": "A = ∑_{t=1}^{T} reward",
    "sum sign": "A = ∑ reward",
    "comment of LaTeX": "% the advantage",
    "comment of C": "/* the advantage */",
    "length of another letter": "A = reward / |o_i|",
    "sum sign with an index": "A = Σ_t reward",
    "not": "A = !truncated",
    "and": "A = reward > 0 && reward < 1",
    "superscript": "A = reward²",
    "letter of another alphabet": "A = \N{CYRILLIC SMALL LETTER A} + 1",
    "strange character": "A = reward @ 2",
    "python": "import torch",
    "from": "from torch import nn",
    "lambda": "f = lambda x: x",
    "comprehension": "A = sum(r for t)",
    "or": "A = reward > 0 || reward < 1",
    "arrow": "A = reward => 1",
    "whole division": "A = reward // 2",
    "assignment": "A += 1",
    "LaTeX": "A = \\frac{1}{2} reward",
    "ternary": "A = reward > 0 ? 1 : 0",
    "hat": "A = r\N{COMBINING CIRCUMFLEX ACCENT} + 1",
    "subscript": "r_{i,t} = pi / old",
    "subscript inside": "A = r_{i,t} + 1",
    "subscript of a policy": "r = pi / pi_{θ_old}",
    "function of braces": "A = min{reward, 1}",
    "accent": "Â = reward",
    "plus or minus": "A = clip(reward, 1 ± 0.2)",
    "comma in a number": "param L = 4,096",
    "underscore in a number": "A = 4_096 + reward",
    # what papers and code write
    "expectation": "maximize E[min(r * A, clip(r, 1 - eps, 1 + eps) * A)]",
    "expectation with a subscript": "maximize E_{t}[r * A]",
    "expectation in LaTeX": "maximize \\mathbb{E}_{x \\sim D}[r * A]",
    "expectation by its sign": "maximize \N{MATHEMATICAL DOUBLE-STRUCK CAPITAL E}[r * A]",
    "divergence": "A = beta * KL[pi || ref]",
    "divergence of code": "A = beta * D_KL(pi || ref)",
    "sign of a divergence": "A = pi \N{DOUBLE VERTICAL LINE} ref",
    "logarithm without brackets": "A = log pi",
    "logarithm of a quotient": "A = reward * log pi / ref",
    "exponent in curly brackets": "A = r^{2} + 1",
    "formula as an exponent": "A = r^{1 / |y|}",
    "choice of code": "A = where(reward > 0, reward, 0)",
    "branch": "if A > 0: B = 1",
    "function of a module": "A = torch.min(a, b)",
    "foreign function of a module": "A = F.softplus(x)",
    "choice of a module": "A = torch.where(a > 0, a, b)",
    "reduction as a method": "A = r.mean(dim=-1)",
    "detached": "A = r.detach()",
    "sum in LaTeX": "A = \\sum_{i=1}^G reward",
    "product in LaTeX": "A = r \\cdot A_hat",
    "policy in LaTeX": "A = \\pi_\\theta / old",
    "divergence in LaTeX": "A = \\KL(pi || ref)",
    "limits of a sum": "A = sum_{i=1}^G reward",
    "option alone": "temperature 1",
    # how a statement starts
    "goal by another name": "max mean[p,i,t] pi",
    "goal with a name": "maximize J = mean[p,i,t] pi",
    "two statements in a line": "A = reward B = 2",
    "index as a subscript": "A = sum_t reward",
    "chain before else": "A = 1 if 0 < reward < 1 else 0",
    "keyword behind a reduction": "maximize mean[p,i,t] critic",
    "keyword where a name is missing": "keep where std[i] reward > 0",
    "domain without param": "eps = 0.2 in (0, 1)",
    "interval of three": "param eps = 0.2 in (0, 1, 2)",
    "statement": "maximise mean[p,i] reward",
    "capital": "Report x = reward",
    "no statement": "foo bar",
    "statement of another kind": "let A = 1",
    "formula alone": "mean[p,i] reward",
    "number alone": "123",
    "two names": "a, b = 1, 2",
    "function": "f(x) = x + 1",
    "indices": "A[t] = 3",
    "continued line": "- beta * k3(pi, ref)",
    "keyword as name": "from = 3",
    "keyword with =": "maximize = reward",
    "keyword as value": "A = report + 1",
    "critic": "maximize critic V",
    # brackets and commas
    "missing bracket": "A = (reward + 1",
    "missing bracket, then a statement": "A = (reward + 1\nmaximize mean[p,i] A",
    "missing bracket, then a binding": "A = (reward + 1\nB = 2",
    "extra bracket": "A = reward + 1)",
    "wrong bracket": "A = mean(i] reward",
    "missing square bracket": "A = mean[t reward",
    "trailing comma": "A = min(reward, )",
    "leading comma": "A = min(, reward)",
    "empty brackets": "A = mean[] reward",
    "nothing in brackets": "A = ()",
    "list": "A = [1, 2]",
    "tuple": "A = (1, 2)",
    # the parts of a formula
    "missing operand": "A = reward +",
    "missing operand before another": "A = reward + * 2",
    "missing value": "A =",
    "missing operator": "A = 2 reward",
    "missing comma": "A = min(r old)",
    "equality": "maximize mean[p,i] (reward = 1)",
    "named argument": "A = clip(reward, lo=0, hi=1)",
    "chain": "A = 0 < reward < 1",
    "length": "A = reward / |x|",
    "bar": "A = reward | truncated",
    "unfinished conditional": "A = reward if truncated",
    "conditional of another language": "A = if truncated: 0 else 1",
    "negation": "A = mean[t] not M",
    "no square bracket": "A = mean t reward",
    "round bracket": "A = mean(t) reward",
    "slice": "A = reward[0:3]",
    "missing comma of indices": "A = mean[p i] reward",
    "relation among indices": "A = mean[p, j != i] reward",
    "relation of equals": "A = mean[j == i] reward",
    "value of an index": "A = mean[t = 1] reward",
    "large number": "A = 1e999",
    # the parts of statements
    "no number": "param eps = big",
    "quotient": "param eps = 1 / 3",
    "no value": "param eps",
    "domain": "param eps = 0.2 in (0 1)",
    "domain without brackets": "param eps = 0.2 in 0, 1",
    "no layer": "policy inner = pi at layer 6.5",
    "layer of nothing": "policy inner = pi at layer",
    "layer without": "policy inner = pi at layer 6 without",
    "layer with a word": "policy inner = pi at layer 6 after norm",
    "unfinished policy": "policy inner = pi",
    "option": "sample from mu: group = 16",
    "options": "sample from mu: group 16 temperature 1",
    "sample": "sample mu: group 16",
    "keep": "keep p std[i] reward > 0",
    "given": "given margin of p",
    "given as nothing": "given margin[p,i] as",
    "given as before its domain": "given margin[p,i] as reward in [0, 1]",
    "several": "A = reward +\nmaximise A\nB = (1",
}


def diagnostics(text: str) -> str:
    with pytest.raises(ObjectiveError) as error:
        parse(Source("file.obj", text + "\n"))
    assert all(d.span is not None for d in error.value.diagnostics)
    return "\n".join(render(d) for d in error.value.diagnostics)


def test_messages(golden: Callable[[str, str], None]) -> None:
    shown = [f"# {title}\n\n{text}\n\n{diagnostics(text)}" for title, text in BROKEN.items()]
    golden("syntax/errors.txt", "\n\n".join(shown) + "\n")


def test_every_choice_ends_the_doubt() -> None:
    several = 0
    for text in BROKEN.values():
        checked = driver.check(Source("file.obj", f"objective x\n{text}\n"))
        for error in checked.findings:
            several += len(error.choices) > 1
            for choice in error.choices:
                source, count = fixed(checked.source, [replace(error, fix=choice)], unsafe=True)
                after = driver.check(source).findings
                assert count == 1
                place = (error.message, error.span and error.span.start)
                assert place not in [(x.message, x.span and x.span.start) for x in after]
    assert several >= 5


def test_every_rule_has_its_example(monkeypatch: pytest.MonkeyPatch) -> None:
    answered: set[str] = set()

    def record(rule: Any) -> Any:
        def recorded(mistake: Any) -> Diagnostic | None:
            diagnostic: Diagnostic | None = rule(mistake)
            if diagnostic is not None:
                answered.add(rule.__name__)
            return diagnostic

        return recorded

    rules = mistakes.RULES
    monkeypatch.setattr(mistakes, "RULES", tuple(map(record, rules)))
    for text in BROKEN.values():
        diagnostics(text)
    assert answered == {rule.__name__ for rule in rules}


def test_all_errors_of_a_text_are_reported_at_once() -> None:
    with pytest.raises(ObjectiveError) as error:
        parse(Source("file.obj", BROKEN["several"]))
    lines = [d.span.line for d in error.value.diagnostics if d.span]
    assert lines == [1, 2, 3]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x7fELF\x02\x01\x01\x00", r"object code \(ELF\)"),
        (b"\x64\x86\x02\x00\x00\x00", r"object code \(COFF for x86-64\)"),
        (b"a = 1\x00\x00\xff", "binary data|not UTF-8|UTF-8"),
        (b"v 1.0 2.0 3.0\nv 0 0 1\nf 1 2 3\n", "3-D model"),
        (b"# Blender\nmtllib cube.mtl\n", "3-D model"),
        (b"\xff\xfeo\x00b\x00", "UTF-16"),
        (b"A = \xe9\n", "UTF-8"),
        (b"", "empty|holds no objective|no statement"),
        (b"# only a comment\n", "empty|holds no objective|no statement"),
    ],
)
def test_files_that_are_something_else(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "x.obj"
    path.write_bytes(content)
    with pytest.raises(ObjectiveError, match=message) as error:
        parse(read(path))
    assert len(error.value.diagnostics) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("A = " + "(" * 10_000 + "1" + ")" * 10_000, "nests deeper than 200 levels"),
        ("A = " + "[" * 10_000, "nests deeper"),
        ("A = " + "-" * 10_000 + "1", "nests deeper"),
        ("A = " + " + ".join(["1"] * 3_000), "nests deeper"),
        ("A = " + " + ".join(["1"] * 100_000), "KiB"),
        ("A = 1\n" * 2_000_000, "256 KiB"),
        ("x" * 10_000_000, "256 KiB"),
        ("(" * 200_000, "nests deeper|never closed"),
        ("A = )\n" * 40_000, "`\\)`"),
    ],
    ids=[
        "round",
        "square",
        "minus",
        "sum",
        "long sum",
        "10 MB",
        "10 MB name",
        "open",
        "many errors",
    ],
)
def test_hostile_texts_end_quickly_with_a_message(text: str, message: str) -> None:
    start = time.process_time()
    with pytest.raises(ObjectiveError, match=message) as error:
        parse(Source("x.obj", text))
    assert len(error.value.diagnostics) <= 100
    assert time.process_time() - start < 5  # not a benchmark: the bound is on hanging
