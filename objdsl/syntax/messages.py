"""Messages for people: one sentence, the place, and what was expected.

`objdsl.syntax.mistakes` has those for tokens that the grammar cannot read.
"""

from __future__ import annotations

import re
import stat
import unicodedata
from pathlib import Path

from objdsl import codes
from objdsl.diagnostic import Diagnostic, Edit, Fix, Label, near
from objdsl.source import Source, Span
from objdsl.spelling import canonical
from objdsl.syntax.foreign import of_the_language
from objdsl.syntax.split import DEEPEST

# One example of each statement, shown in messages about it.
FORMS = {
    "objective": "objective dr_grpo from grpo",
    "param": "param eps = 0.2 in (0, 1)",
    "policy": "policy inner = pi at layer 6",
    "given": "given correct[p,i] in {0, 1} as reward",
    "state": "state base[p] = 0 next 0.9 * base + 0.1 * mean[i] reward",
    "learn": "learn beta = 0.1 in [0, inf)",
    "def": "def k2(p, q) = log(q / p)^2 / 2",
    "sample": "sample from mu: group 16, temperature 1",
    "keep": "keep p where std[i] reward > 0",
    "report": "report clip_fraction = mean[p,i,t] (r > 1 + eps)",
    "maximize": "maximize mean[p] mean[i] mean[t] (r * A)",
    "minimize": "minimize critic mean[p,i,t] ((V - R)^2)",
}


def syntax(
    message: str,
    span: Span | None = None,
    *,
    under: str = "",
    labels: tuple[Label, ...] = (),
    help: str = "",
    choices: tuple[Fix, ...] = (),
) -> Diagnostic:
    """A text that the grammar cannot read."""
    return _error("syntax", message, span, under=under, labels=labels, help=help, choices=choices)


def _error(
    name: codes.ErrorName,
    message: str,
    span: Span | None = None,
    *,
    under: str = "",
    labels: tuple[Label, ...] = (),
    help: str = "",
    choices: tuple[Fix, ...] = (),
) -> Diagnostic:
    return codes.error(
        name,
        _short(message),
        span,
        under=_short(under),
        labels=labels,
        help=_short(help),
        choices=choices,
    )


def _short(text: str) -> str:
    """The text with long quoted words shortened."""
    return re.sub(r"(?<=`)([^`\s]{30})[^`\s]{10,}(?=`)", r"\1...", text)


# --- the text as a whole -------------------------------------------------------------------------


def unreadable(path: Path, error: OSError) -> Diagnostic:
    reason = (error.strerror or "unknown reason").lower()
    siblings = (other.name for other in sorted(path.parent.glob(f"*{path.suffix}")))
    suggestion = near(path.name, siblings) if isinstance(error, FileNotFoundError) else None
    return _error(
        "unreadable-file",
        f"`{path}` cannot be read: {reason}",
        help=f"did you mean `{path.with_name(suggestion)}`?" if suggestion else "",
    )


# By the type of a file in `os.stat`.
_KINDS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def no_file(path: Path, mode: int) -> Diagnostic:
    kind = _KINDS.get(stat.S_IFMT(mode), "not a regular file")
    return _error(
        "unreadable-file",
        f"`{path}` cannot be read: it is {kind}",
        help="write `-` to read an objective from the standard input",
    )


def foreign(name: str, kind: str) -> Diagnostic:
    return _error(
        "not-an-objective",
        f"`{name}` contains {kind}, not an objective",
        help="save it as UTF-8" if "UTF-16" in kind else "an objective is a UTF-8 text file",
    )


def mesh(span: Span) -> Diagnostic:
    return _error(
        "not-an-objective",
        f"`{span.source.name}` contains a 3-D model (Wavefront OBJ), not an objective",
        span,
        help="the two formats have nothing in common but the suffix `.obj`",
    )


def not_utf8(name: str, content: bytes, error: UnicodeDecodeError) -> Diagnostic:
    line = content.count(b"\n", 0, error.start) + 1
    return _error(
        "not-an-objective",
        f"`{name}` is not valid UTF-8: byte 0x{content[error.start]:02x} on line {line}",
        help="save it as UTF-8",
    )


def too_large(source: Source, largest: int) -> Diagnostic:
    return _error(
        "too-large",
        f"`{source.name}` is larger than {largest // 1024} KiB",
        help="an objective fits on one screen; is this the right file?",
    )


def too_long(span: Span, longest: int) -> Diagnostic:
    first = Span(span.source, span.start, min(span.end, span.start + 1))
    return _error(
        "too-large",
        f"this statement is longer than {longest // 1024} KiB",
        first,
        under="starts here",
        help="give its parts names, `A = ...`, and use the names",
    )


def too_deep(span: Span) -> Diagnostic:
    return _error(
        "nested-too-deeply",
        f"this formula nests deeper than {DEEPEST} levels",
        span,
        under=f"level {DEEPEST + 1}",
        help="give its parts names, `A = ...`, and use the names",
    )


def empty(source: Source) -> Diagnostic:
    return syntax(
        f"`{source.name}` contains no statement",
        help=f"start with `{FORMS['objective']}`, end with `{FORMS['maximize']}`",
    )


def invisible(span: Span) -> Diagnostic:
    name = unicodedata.name(span.text, "control character").lower()
    return syntax(
        f"the text contains an invisible character, U+{ord(span.text):04X} ({name})",
        span,
        help="delete it: a file must mean what its reader sees",
    )


# --- values that the grammar cannot judge --------------------------------------------------------


def equal_in_binder(span: Span) -> Diagnostic:
    return syntax(
        "a reduction cannot run over the elements equal to an index",
        span,
        help="the relations are `j != i` (the others), `s >= t`, `s > t`, `s <= t` and `s < t`",
    )


def out_of_range(span: Span) -> Diagnostic:
    return syntax(f"`{span.text}` is too large for a number", span, help="write `inf`")


def not_steps(span: Span) -> Diagnostic:
    return _error(
        "syntax", "a policy is copied every so many steps", span,
        help="for example `policy anchor = pi every 200 steps`; a step is a rollout",
    )  # fmt: skip


def not_without_norm(span: Span) -> Diagnostic:
    return _error(
        "syntax", "the state of a layer goes through the last norm, or is read without it", span,
        help="for example `policy inner = pi at layer 6 without norm`",
    )  # fmt: skip


def not_an_average(span: Span) -> Diagnostic:
    return _error(
        "syntax", "a policy that follows `pi` is an average of its weights", span,
        help="for example `policy anchor = ema(pi, 0.999)`",
    )  # fmt: skip


def not_a_whole_number(span: Span) -> Diagnostic:
    return syntax(
        f"a layer, and how many entries are known, are whole numbers, not `{span.text}`",
        span,
        help=f"for example `{FORMS['policy']}`, or `policy teacher top 64`",
    )


# --- what papers write, and could mean several things ---------------------------------------------

MEANS = {
    ("p", "i", "t"): (
        (
            "mean[p] mean[i] mean[t]",
            "responses have equal weight: a token of a long one weighs less",
        ),
        ("mean[p,i,t]", "tokens have equal weight: a long response weighs more"),
        ("mean[p,i] sum[t]", "the sum over each response, without dividing by any length"),
    ),
    ("p", "i"): (
        ("mean[p,i]", "over the responses of the step"),
        ("mean[p] mean[i]", "over prompts, of the mean over each group"),
        ("mean[i]", "over the group alone, as in a baseline"),
    ),
    ("p",): (("mean[p]", "over the prompts of the step"),),
}
"""The means that a value can have, by its indices."""


def two_readings(message: str, span: Span, help: str, choices: tuple[Fix, ...] = ()) -> Diagnostic:
    """A text with several meanings, from which the user chooses."""
    return _error("two-readings", message, span, help=help, choices=choices)


def expectation(whole: Span, head: Span, end: Span, indices: tuple[str, ...] = ()) -> Diagnostic:
    """`E[x]`, which does not say what the average is over.

    Args:
        whole: the whole expression.
        head: from the `E` to its bracket.
        end: the closing bracket.
        indices: those of `x`, if they are known.
    """
    choices = tuple(
        Fix(f"`{means} (...)`: {why}", (Edit(head, f"{means} ("), Edit(end, ")")))
        for means, why in MEANS.get(indices, MEANS["p", "i", "t"])
    )
    return two_readings(
        "an expectation does not say how its elements are weighted",
        whole,
        "here it is a mean over the step; the kind of mean decides how the length of a response "
        "counts",
        choices,
    )


def divergence(span: Span, p: str, q: str) -> Diagnostic:
    """`KL(p || q)`, which can be estimated or summed, with different gradients."""
    p, q = (of_the_language(canonical(name)) for name in (p, q))
    texts = (
        (f"k3({p}, {q})", "estimated from the sampled tokens"),
        (f"kl({p}, {q})", "over the whole vocabulary, at each token"),
        (f"log({p} / {q})", "an unbiased estimate, but without a gradient in expectation"),
    )
    choices = tuple(Fix(f"`{text}`: {why}", (Edit(span, text),)) for text, why in texts)
    return two_readings(
        "a divergence does not say how it is computed",
        span,
        "its estimates have the same expected value, but different gradients; see the page "
        "kl-without-gradient",
        choices,
    )
