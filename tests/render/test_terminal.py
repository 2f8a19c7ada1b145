"""The layout of a finding: the frame, its labels, and the lines below it."""

from __future__ import annotations

from objdsl.diagnostic import Certainty, Diagnostic, Label, Severity
from objdsl.render.terminal import render
from objdsl.source import Source, Span

SOURCE = Source(
    "grpo.obj", "A = reward - mean[i] reward\n\nmaximize mean[p] mean[i] mean[t] (\n    A * pi\n)\n"
)


def span(text: str) -> Span:
    start = SOURCE.text.index(text)
    return Span(SOURCE, start, start + len(text))


def diagnostic(**changes: object) -> Diagnostic:
    values = {
        "name": "length-normalisation",
        "code": "OBJ101",
        "severity": Severity.WARNING,
        "message": "each response is divided by its own length",
        "span": span("mean[t]"),
        "under": "divides by |y|",
        "labels": (Label(span("reward - mean[i] reward"), "the advantage"),),
        "certainty": Certainty.PROVEN,
        "value": "unbiased",
        "gradient": "biased",
        "help": "divide by a constant",
        "fine_if": "you reproduce GRPO",
    }
    return Diagnostic(**{**values, **changes})  # type: ignore[arg-type]


def test_everything_is_shown_in_its_order() -> None:
    shown = render(diagnostic())
    expected = [
        "warning[OBJ101 length-normalisation]: each response is divided by its own length",
        "grpo.obj:3:26",
        "A = reward - mean[i] reward",
        "the advantage",
        "maximize mean[p] mean[i] mean[t] (",
        "^^^^^^^ divides by |y|",
        "unbiased",
        "biased",
        "divide by a constant",
        "you reproduce GRPO",
        "objdsl rule length-normalisation",
    ]
    places = [shown.find(text) for text in expected]
    assert -1 not in places, shown
    assert places == sorted(places), shown


def test_plain_text_has_no_escapes_and_colour_has() -> None:
    assert "\x1b" not in render(diagnostic())
    assert "\x1b[" in render(diagnostic(), color=True)


def test_a_finding_without_a_place_has_no_frame() -> None:
    shown = render(diagnostic(span=None, labels=()))
    assert "-->" not in shown and "divide by a constant" in shown


def test_lines_are_folded_to_the_width() -> None:
    shown = render(diagnostic(help="word " * 60), width=60)
    notes = [line for line in shown.splitlines() if "word" in line]
    assert len(notes) > 4 and max(map(len, notes)) <= 60


def test_a_span_over_several_lines_is_shown() -> None:
    shown = render(diagnostic(span=span("(\n    A * pi\n)"), labels=()))
    assert "A * pi" in shown and "divides by |y|" in shown


def frame(text: str, *marks: tuple[str, str], width: int = 100) -> list[str]:
    """The lines below the place, for the first mark as the span and the others as labels."""
    source = Source("x.obj", text)

    def label(marked: str, beside: str) -> Label:
        start = text.index(marked)
        return Label(Span(source, start, start + len(marked)), beside)

    first, *others = (label(*mark) for mark in marks)
    shown = Diagnostic(
        "syntax", "OBJ900", Severity.ERROR, "no", first.span, first.text, labels=tuple(others)
    )
    return render(shown, width=width).splitlines()[3:]


def test_labels_hang_from_their_marks() -> None:
    marks = ("[i] reward", "here"), ("reward - mean[i]", "one"), ("A =", "two")
    assert frame("A = reward - mean[i] reward", *marks) == [
        "1 | A = reward - mean[i] reward",
        "  | --- -------------^^^^^^^^^^ here",
        "  | |   |",
        "  | |   one",
        "  | two",
    ]


def test_the_middle_of_a_long_span_is_left_out() -> None:
    text = "x = (\n" + "".join(f"    a_{k} +\n" for k in range(8)) + "    b\n)"
    assert frame(text, (text[4:], "too long")) == [
        " 1 | x = (",
        "   |     ^",
        " 2 |     a_0 +",
        "   |     ^^^^^",
        "...",
        "11 | )",
        "   | ^ too long",
    ]


def test_a_long_line_is_cut_around_its_mark() -> None:
    text = "x = " + " + ".join(f"a_{k}" for k in range(60))
    line, marks = frame(text, ("a_30 + a_31", "this"), width=60)
    assert len(line) <= 60
    assert line.startswith("1 | ...") and line.endswith("...")
    assert line[marks.index("^") : marks.index("this") - 1] == "a_30 + a_31"


def test_marks_stand_under_what_they_mark() -> None:
    """A tab is shown as four columns, a wide letter takes two, an accent none."""
    assert frame("\tx = \u6f22 + r\u0302 + y", ("y", "")) == [
        "1 |     x = \u6f22 + r\u0302 + y",
        "  |                  ^",
    ]


def test_a_place_in_a_line_counts_characters() -> None:
    start = "\tx = \u6f22 + y".index("y")
    source = Source("x.obj", "\tx = \u6f22 + y")
    shown = render(diagnostic(span=Span(source, start, start + 1), labels=()))
    assert f"x.obj:1:{start + 1}\n" in shown


def test_a_text_cannot_steer_the_terminal() -> None:
    source = Source("x\x1b[2J.obj", "x = 1 # \x1b[31m \u202e")
    shown = render(diagnostic(message="\x1b[2J", span=Span(source, 0, 1), labels=()))
    assert "\x1b" not in shown and "\u202e" not in shown


def test_a_label_in_another_file_has_its_own_frame() -> None:
    other = Source("std.obj", "def k3(p, q) = q / p\n")
    shown = render(diagnostic(labels=(Label(Span(other, 4, 6), "defined here"),)))
    assert shown.index("--> grpo.obj:3:26") < shown.index("::: std.obj:1:5")
    assert "    --" in shown and "-- defined here" in shown


def test_a_place_at_the_end_of_the_text_is_marked() -> None:
    source = Source("x.obj", "x =\n")
    shown = render(diagnostic(span=Span(source, 4, 4), under="here", labels=()))
    assert "2 |\n  | ^ here" in shown
