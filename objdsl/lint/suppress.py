"""`# objdsl: ignore[length-normalisation] reproduces GRPO eq. 3`: findings that the author accepts.

At the end of a line such a comment speaks for the statement there, on a line of its own for the
next statement, inside a statement for that one; before or beside the `objective` line it speaks for
the whole file. It names rules or codes, and gives a reason. It speaks for its own file: one that
starts `from` this file answers for itself.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator
from typing import Any

from objdsl.diagnostic import Diagnostic, Edit, Fix, near
from objdsl.frozen import dataclass
from objdsl.lint.comments import (
    COMMENT_PAGES,
    MISSPELT,
    UNEXPLAINED,
    UNKNOWN,
    UNNAMED,
    UNUSED,
)
from objdsl.lint.rule import Page
from objdsl.source import Span
from objdsl.syntax import tree

# It may follow other words in the same comment, and another one may follow it.
_START = re.compile(r"(?<!\S)#\s*objdsl\s*:")
_INSTRUCTION = re.compile(r"#\s*objdsl\s*:\s*(?P<verb>[\w-]*)\s*(\[(?P<rules>[^\]]*)\])?")


@dataclass(frozen=True)
class Ignore:
    """One such comment.

    Attributes:
        verb: `ignore`, or what stands there by mistake.
        rules: the names or codes in brackets, each with its place.
        covers: the piece of text that it speaks for, or None for the whole file.
    """

    span: Span
    verb: str
    rules: tuple[tuple[str, Span], ...]
    reason: str
    covers: Span | None

    def takes(self, finding: Diagnostic) -> list[str]:
        """Which of its names speak for a finding."""
        if self.verb != "ignore":
            return []
        if self.covers is not None:
            place = finding.span
            if place is None or place.source != self.span.source:
                return []
            if not self.covers.start <= place.start < self.covers.end:
                return []
        return [name for name, _ in self.rules if name in (finding.name, finding.code)]


def ignores(file: tree.File) -> list[Ignore]:
    """The comments of a file that accept findings."""
    return [one for comment in file.comments for one in _instructions(comment, file)]


def suppress(
    found: Iterable[Diagnostic],
    comments: list[Ignore],
    rules: Iterable[Page],
    *,
    report_unused: bool = True,
) -> tuple[list[Diagnostic], list[Diagnostic]]:
    """The findings that stay, with what is wrong with the comments; and those that are accepted."""
    kept: list[Diagnostic] = []
    accepted: list[Diagnostic] = []
    used: set[tuple[Span, str]] = set()
    for finding in found:
        takers = [(one.span, name) for one in comments for name in one.takes(finding)]
        used.update(takers)
        (accepted if takers else kept).append(finding)
    known = {name for rule in rules for name in (rule.name, rule.code)}
    for comment in comments:
        faults = _faults(comment, known, used)
        kept += [one for one in faults if report_unused or one.name != UNUSED.name]
    return kept, accepted


# --- reading a comment ---------------------------------------------------------------------------


def _instructions(comment: tree.Comment, file: tree.File) -> Iterator[Ignore]:
    source, offset, text = comment.span.source, comment.span.start, comment.span.text
    starts = [match.start() for match in _START.finditer(text)]
    for start, end in itertools.pairwise([*starts, len(text)]):
        match = _INSTRUCTION.match(text, start, end)
        if match:
            span = Span(source, offset + start, offset + start + len(text[start:end].rstrip()))
            first = offset + match.start("rules")
            rules = tuple(
                (name[0], Span(source, first + name.start(), first + name.end()))
                for name in re.finditer(r"[^,\s]+", match["rules"] or "")
            )
            reason = text[match.end() : end].strip()
            yield Ignore(span, match["verb"], rules, reason, _covered(comment, file))


def _covered(comment: tree.Comment, file: tree.File) -> Span | None:
    """The statement that a comment speaks for, of no length if there is none; None for the file.

    A comment inside a statement speaks for it, on whichever line: `fmt` moves it in front.
    """
    at, line = comment.span.start, comment.span.line
    for statement in file.statements:
        span = statement.span
        beside = not comment.own_line and span.line <= line <= _last_line(span)
        if span.start < at < span.end or beside or (comment.own_line and at < span.start):
            return None if isinstance(statement, tree.Header) else span
    return Span(comment.span.source, at, at)


def _last_line(span: Span) -> int:
    return span.source.position(max(span.end - 1, span.start))[0]


# --- what is wrong with it -----------------------------------------------------------------------


def _faults(comment: Ignore, known: set[str], used: set[tuple[Span, str]]) -> Iterator[Diagnostic]:
    if comment.verb != "ignore":
        hint = "write `# objdsl: ignore[length-normalisation] why`"
        said = f"`{comment.verb}` is nothing that a comment can say"
        yield _fault(MISSPELT, said, comment.span, help=hint)
        return
    if not comment.rules:
        hint = "name the rule: `# objdsl: ignore[length-normalisation] why`"
        yield _fault(UNNAMED, "this comment does not say what it ignores", comment.span, help=hint)
        return
    if not comment.reason:
        hint = "write the reason after the bracket"
        yield _fault(UNEXPLAINED, "this comment does not say why", comment.span, help=hint)
    about_comments = {name for page in COMMENT_PAGES for name in (page.name, page.code)}
    for name, span in comment.rules:
        if name in about_comments:
            said = f"`{name}` is about comments: no comment accepts it"
            yield _fault(UNKNOWN, said, span, help="mend the comment that it points at")
        elif name not in known:
            guess = near(name, known)
            hint = f"did you mean `{guess}`?" if guess else "`objdsl rule` lists them"
            yield _fault(UNKNOWN, f"there is no rule `{name}`", span, help=hint)
        elif (comment.span, name) not in used:
            said = f"`{name}` finds nothing here"
            yield _fault(UNUSED, said, span, fix=_without(comment, name))


def _fault(page: Page, message: str, span: Span, **details: Any) -> Diagnostic:
    return Diagnostic(
        page.name, page.code, page.severity, message, span, claim=page.claim, **details
    )


def _without(comment: Ignore, name: str) -> Fix:
    """The comment without a name; without any name there is no comment."""
    source, text = comment.span.source, comment.span.source.text
    rest = [other for other, _ in comment.rules if other != name]
    if rest:
        first, last = comment.rules[0][1], comment.rules[-1][1]
        edit = Edit(first.to(last), ", ".join(rest))
    else:
        start = comment.span.start
        while start and text[start - 1] in " \t":
            start -= 1
        is_line = (start == 0 or text[start - 1] == "\n") and text[comment.span.end :][:1] == "\n"
        edit = Edit(Span(source, start, comment.span.end + is_line), "")
    return Fix(f"remove `{name}`", (edit,), safe=True)
