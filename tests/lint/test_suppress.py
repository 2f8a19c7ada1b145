"""Comments that accept findings: what each applies to, before and after `fmt`, and mistakes in
them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from objdsl import driver
from objdsl.codes import COMMENT_PAGES
from objdsl.diagnostic import Diagnostic, Edit, Fix, Severity
from objdsl.driver import Checked
from objdsl.lint.fixes import fixed
from objdsl.lint.suppress import ignores
from objdsl.source import Source, Span
from objdsl.syntax.format import format
from objdsl.syntax.parse import parse

STATEMENTS = [
    "objective x from grpo",
    "param eps = 0.2 in (0, 1)",
    "A = reward - mean[i] reward",
    "long = min(\n    reward,\n    # inside\n    {}\n    clip(reward, 0, 1){}\n)",
    "report share = mean[p,i] (\n    reward > 0{}\n)",
    "maximize mean[p,i] sum[t] (A * log(pi))",
]


@st.composite
def files(draw: Any) -> str:
    """Statements in any order, with numbered comments before, beside, inside and after them."""
    count = 0

    def comment(before: str = "") -> str:
        nonlocal count
        if draw(st.booleans()):
            return ""
        count += 1
        remark = draw(st.sampled_from(["", "# eq. 3  "]))
        return f"{before}{remark}# objdsl: ignore[own-mean] c{count}"

    lines = []
    for statement in draw(st.lists(st.sampled_from(STATEMENTS), min_size=1, max_size=5)):
        lines += [draw(st.sampled_from(["", "   "])) + comment(), draw(st.sampled_from(["", "\n"]))]
        pieces = statement.split("{}")
        body = "".join(piece + comment("  ") for piece in pieces[:-1]) + pieces[-1]
        lines.append(body + comment(" "))
    return "\n".join([*lines, comment()]) + "\n"


def spoken_for(text: str) -> dict[str, str | int | None]:
    """For each comment, by its reason: the file, the number of its statement, or nothing."""
    file = parse(Source("x.obj", text))
    starts = {statement.span.start: k for k, statement in enumerate(file.statements)}
    return {
        ignore.reason: "file" if ignore.covers is None else starts.get(ignore.covers.start)
        for ignore in ignores(file)
    }


@settings(max_examples=300)
@given(files())
def test_the_formatter_keeps_what_comments_speak_for(text: str) -> None:
    before = spoken_for(text)
    assert len(before) == text.count("objdsl:")
    assert spoken_for(format(parse(Source("x.obj", text)))) == before


@pytest.mark.parametrize(
    ("text", "covered"),
    [
        ("# objdsl: ignore[a] c\nobjective x\nB = 1\n", "file"),
        ("objective x  # objdsl: ignore[a] c\nB = 1\n", "file"),
        ("objective x\nB = 1  # objdsl: ignore[a] c\nC = 1\n", 1),
        ("objective x\n# objdsl: ignore[a] c\n\n# more\nB = 1\n", 1),
        ("objective x\nB = (\n  # objdsl: ignore[a] c\n  1\n)\nC = 1\n", 1),
        ("objective x\nB = (\n  1\n)  # objdsl: ignore[a] c\nC = 1\n", 1),
        ("objective x\nB = 1  # eq. 3   # objdsl: ignore[a] c\nC = 1\n", 1),
        ("B = 1  # objdsl: ignore[a] c\nobjective x\n", 0),
        ("objective x\nB = 1\n# objdsl: ignore[a] c\n", None),
    ],
)
def test_where_it_stands_is_what_it_speaks_for(text: str, covered: str | int | None) -> None:
    assert spoken_for(text) == {"c": covered}


def test_two_in_one_comment() -> None:
    text = "B = 1  # objdsl: ignore[a, b] see #3  # objdsl: ignore[c] no\n"
    first, second = ignores(parse(Source("x.obj", text)))
    assert ([name for name, _ in first.rules], first.reason) == (["a", "b"], "see #3")
    assert ([name for name, _ in second.rules], second.reason) == (["c"], "no")
    assert second.span.text == "# objdsl: ignore[c] no"
    text = "B = 1  # objdsl: ignore[a] # objdsl: ignore[b]\n"
    assert [ignore.reason for ignore in ignores(parse(Source("x.obj", text)))] == ["", ""]


def comment_findings(text: str) -> list[Diagnostic]:
    checked = driver.check(Source("x.obj", text))
    assert checked.objective is not None
    return [x for x in checked.findings if x.code.startswith("OBJ90")]


GOAL = "maximize mean[p,i] sum[t] (reward * log(pi))\n"


@pytest.mark.parametrize("page", COMMENT_PAGES, ids=lambda page: page.name)
def test_the_example_of_a_page_is_one_and_its_remedy_is_none(page: Any) -> None:
    mean = "A = reward - mean[i] reward\n"
    for heading in ("Example", "Instead"):
        _, _, rest = page.doc.partition(f"**{heading}.**")
        line = next(line.strip() for line in rest.split("\n") if line.startswith("    "))
        statements = line if line.startswith(("#", "A")) else f"{mean}{line}"
        goal = "maximize mean[p,i] mean[t] (pi / old * reward)"
        names = {x.name for x in comment_findings(f"objective x\n{statements}\n{goal}\n")}
        assert (page.name in names) == (heading == "Example")


@pytest.mark.parametrize(
    ("comment", "left"),
    [
        ("B = 1  # objdsl: ignore[own-mean] c\n", "B = 1\n"),
        ("B = 1  # eq. 3  # objdsl: ignore[own-mean] c\n", "B = 1  # eq. 3\n"),
        ("# objdsl: ignore[own-mean] c\nB = 1\n", "B = 1\n"),
        ("   # objdsl: ignore[OBJ205, OBJ205] c\nB = 1\n", "B = 1\n"),
        ("B = 1  # objdsl: ignore[own-mean] c  # objdsl: ignore[] d\n",
         "B = 1  # objdsl: ignore[] d\n"),
    ],
)  # fmt: skip
def test_the_fix_leaves_the_rest(comment: str, left: str) -> None:
    source = Source("x.obj", f"objective x\n{comment}{GOAL}")
    after, count = fixed(source, comment_findings(source.text), unsafe=False)
    assert count
    assert after.text == f"objective x\n{left}{GOAL}"


def test_what_one_fix_leaves_another_takes() -> None:
    source = Source(
        "x.obj",
        "objective x\nB = 1  # objdsl: ignore[own-mean, std-normalisation] c\n"
        f"report b = B\n{GOAL}",
    )
    after, count = driver.mend(driver.check(source), driver.check, unsafe=False)
    assert count == 2
    assert after.source.text == f"objective x\nB = 1\nreport b = B\n{GOAL}"
    assert after.findings == []


def test_comments_are_no_findings_to_accept() -> None:
    (fault,) = comment_findings(f"objective x\n# objdsl: ignore[OBJ902] c\n{GOAL}")
    assert (fault.name, fault.message) == (
        "unknown-rule",
        "`OBJ902` is a finding about comments, which a comment cannot accept",
    )


def test_a_fix_that_breaks_the_text_is_not_made() -> None:
    """A fix that leaves an objective is applied, any other is not."""

    def check(source: Source) -> Checked:
        checked = driver.check(source)
        here = [(k, word) for word in ("B", "C") if (k := source.text.find(f"{word} = 1")) >= 0]
        text = {"B": "B = )", "C": "D = 1"}
        fixes = [
            Diagnostic(
                "x", "OBJ000", Severity.WARNING, "x", Span(source, k, k + 5),
                fix=Fix("x", (Edit(Span(source, k, k + 5), text[word]),)),
            )
            for k, word in here
        ]  # fmt: skip
        return Checked(source, checked.objective, fixes, [])

    source = Source("x.obj", f"objective x\nB = 1\nC = 1\n{GOAL}")
    after, count = driver.mend(check(source), check, unsafe=True)
    assert (count, after.source.text) == (1, f"objective x\nB = 1\nD = 1\n{GOAL}")
