"""How a finding looks: the frame, its labels, and what stands below it."""

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
