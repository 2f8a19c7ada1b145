"""`# objdsl: ignore[length-normalisation] reproduces GRPO eq. 3`: findings that the author accepts.

At the end of a line such a comment speaks for the statement there, on a line of its own for the
next statement, before or beside the `objective` line for the whole file. It names rules or codes,
and gives a reason. It speaks for its own file: one that starts `from` this file answers for itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from objdsl.diagnostic import Diagnostic, Edit, Fix, Severity, near
from objdsl.lint.rule import Rule
from objdsl.source import Span
from objdsl.syntax import tree

COMMENT_RULES = {
    "suppression-without-reason": "OBJ901",
    "unused-suppression": "OBJ902",
    "suppression-without-rule": "OBJ907",
    "unknown-rule": "OBJ908",
}
"""What may be wrong with such a comment."""

_IGNORE = re.compile(r"#\s*objdsl\s*:\s*ignore\s*(\[(?P<rules>[^\]]*)\])?\s*(?P<reason>.*)")


@dataclass(frozen=True)
class Ignore:
    """One such comment.

    Attributes:
        rules: the names or codes in brackets, each with its place.
        covers: the statement that it speaks for, or None for the whole file.
    """

    span: Span
    rules: tuple[tuple[str, Span], ...]
    reason: str
    covers: Span | None

    def takes(self, finding: Diagnostic) -> list[str]:
        """Which of its names speak for a finding."""
        if self.covers is not None:
            place = finding.span
            if place is None or place.source != self.span.source:
                return []
            if not self.covers.start <= place.start < self.covers.end:
                return []
        return [name for name, _ in self.rules if name in (finding.name, finding.code)]


def ignores(file: tree.File) -> list[Ignore]:
    """The comments of a file that accept findings."""
    found = []
    for comment in file.comments:
        match = _IGNORE.match(comment.span.text)
        if match:
            start = comment.span.start + (match.start("rules") if match["rules"] else 0)
            rules = tuple(_named(match["rules"] or "", start, comment.span))
            covers = _covered(comment, file.statements)
            found.append(Ignore(comment.span, rules, match["reason"].strip(), covers))
    return found


def suppress(
    found: Iterable[Diagnostic], comments: list[Ignore], rules: Iterable[Rule]
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
        kept += _faults(comment, known, used)
    return kept, accepted


def _named(rules: str, start: int, comment: Span) -> Iterator[tuple[str, Span]]:
    for match in re.finditer(r"[^,\s]+", rules):
        place = Span(comment.source, start + match.start(), start + match.end())
        yield match[0], place


def _covered(comment: tree.Comment, statements: tuple[tree.Statement, ...]) -> Span | None:
    """The statement that a comment speaks for; None for the file."""
    line = comment.span.line
    later = [s for s in statements if s.span.start > comment.span.start]
    here = [s for s in statements if s.span.line <= line <= _last_line(s.span)]
    chosen = later[:1] if comment.own_line else here[-1:]
    if not chosen or isinstance(chosen[0], tree.Header) or chosen[0] is statements[0]:
        return None
    return chosen[0].span


def _last_line(span: Span) -> int:
    return span.source.position(max(span.end - 1, span.start))[0]


def _faults(comment: Ignore, known: set[str], used: set[tuple[Span, str]]) -> Iterator[Diagnostic]:
    if not comment.rules:
        hint = "name the rule: `# objdsl: ignore[length-normalisation] why`"
        said = "this comment does not say what it ignores"
        yield _fault("suppression-without-rule", said, comment.span, help=hint)
        return
    if not comment.reason:
        hint = "write the reason after the bracket"
        said = "this comment does not say why"
        yield _fault("suppression-without-reason", said, comment.span, help=hint)
    for name, span in comment.rules:
        if name not in known:
            guess = near(name, known)
            hint = f"did you mean `{guess}`?" if guess else "`objdsl rule` lists them"
            yield _fault("unknown-rule", f"there is no rule `{name}`", span, help=hint)
        elif (comment.span, name) not in used:
            said = f"`{name}` finds nothing here"
            yield _fault("unused-suppression", said, span, fix=_without(comment, name))


def _fault(name: str, message: str, span: Span, **details: Any) -> Diagnostic:
    return Diagnostic(name, COMMENT_RULES[name], Severity.WARNING, message, span, **details)


def _without(comment: Ignore, name: str) -> Fix:
    """The comment without a name; without any name there is no comment."""
    text = comment.span.source.text
    rest = [other for other, _ in comment.rules if other != name]
    if rest:
        first, last = comment.rules[0][1], comment.rules[-1][1]
        edit = Edit(first.to(last), ", ".join(rest))
    else:
        start = comment.span.start
        while start and text[start - 1] in " \t":
            start -= 1
        own_line = start == 0 or text[start - 1] == "\n"
        end = comment.span.end + (own_line and comment.span.end < len(text))
        edit = Edit(Span(comment.span.source, start, end), "")
    return Fix(f"remove `{name}`", (edit,), safe=True)
