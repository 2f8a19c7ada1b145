"""`# objdsl: ignore[length-normalisation] reproduces GRPO eq. 3`: findings that the author accepts.

At the end of a line such a comment applies to the statement there, on a line of its own to the
next statement, inside a statement to that one; before or beside the `objective` line it applies to
the whole file. It names rules or codes, and gives a reason. It applies to its own file alone: one
that starts `from` this file does not inherit it.
"""

from __future__ import annotations

import itertools
import re
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator
from functools import partial

from objdsl.codes import (
    COMMENT_PAGES,
    MISSPELT,
    UNEXPLAINED,
    UNKNOWN,
    UNNAMED,
    UNUSED,
    Page,
)
from objdsl.diagnostic import Diagnostic, Edit, Fix, near
from objdsl.frozen import dataclass
from objdsl.source import Span
from objdsl.syntax import tree

# The most unknown names of one comment that are reported one by one.
_MOST_UNKNOWN = 20

# Other text may precede it in the comment, and a second instruction may follow.
_START = re.compile(r"(?<!\S)#\s*objdsl\s*:")
_INSTRUCTION = re.compile(r"#\s*objdsl\s*:\s*(?P<verb>[\w-]*)\s*(\[(?P<rules>[^\]]*)\])?")


@dataclass(frozen=True)
class Ignore:
    """One such comment.

    Attributes:
        verb: `ignore`, or a mistaken word.
        rules: the names or codes in brackets, each with its place.
        covers: the piece of text that it applies to, or None for the whole file.
    """

    span: Span
    verb: str
    rules: tuple[tuple[str, Span], ...]
    reason: str
    covers: Span | None

    def covers_place(self, place: Span | None) -> bool:
        """Whether it applies to a finding at a place."""
        if self.covers is None:
            return True
        return (
            place is not None
            and place.source == self.span.source
            and self.covers.start <= place.start < self.covers.end
        )


def ignores(file: tree.File) -> list[Ignore]:
    """The comments of a file that accept findings."""
    spans = [statement.span for statement in file.statements]
    last_lines = [span.source.position(max(span.end - 1, span.start))[0] for span in spans]
    return [
        ignore
        for comment in file.comments
        for ignore in _instructions(comment, partial(_covered, comment, file, last_lines))
    ]


def suppress(
    findings: Iterable[Diagnostic],
    comments: list[Ignore],
    rules: Iterable[Page],
    *,
    report_unused: bool = True,
) -> tuple[list[Diagnostic], list[Diagnostic]]:
    """The findings that remain, including those about the comments; and those that are accepted."""
    kept: list[Diagnostic] = []
    accepted: list[Diagnostic] = []
    used: set[tuple[Span, str]] = set()
    # A finding is looked up by its name and its statement, so that a comment is not compared
    # with the findings of other statements.
    speaking: defaultdict[tuple[str, int | None], list[Ignore]] = defaultdict(list)
    for comment in comments:
        if comment.verb == "ignore":
            start = comment.covers.start if comment.covers else None
            for name in dict.fromkeys(name for name, _ in comment.rules):
                speaking[name, start].append(comment)
    starts = sorted({start for _, start in speaking if start is not None})
    for finding in findings:
        before = bisect_right(starts, finding.span.start) if finding.span else 0
        takers = [
            (comment.span, name)
            for name in (finding.name, finding.code)
            for start in {None, *starts[max(before - 1, 0) : before]}
            for comment in speaking.get((name, start), ())
            if comment.covers_place(finding.span)
        ]
        used.update(takers)
        (accepted if takers else kept).append(finding)
    known = {name for rule in rules for name in (rule.name, rule.code)}
    for comment in comments:
        faults = _faults(comment, known, used)
        kept += [fault for fault in faults if report_unused or fault.name != UNUSED.name]
    return kept, accepted


# --- reading a comment ---------------------------------------------------------------------------


def _instructions(comment: tree.Comment, covered: Callable[[], Span | None]) -> Iterator[Ignore]:
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
            yield Ignore(span, match["verb"], rules, reason, covered())


def _covered(comment: tree.Comment, file: tree.File, last_lines: list[int]) -> Span | None:
    """The statement that a comment applies to, empty if there is none; None for the file.

    A comment inside a statement applies to it, on whichever line: `fmt` moves it in front.

    Args:
        last_lines: of the statements, in their order.
    """
    at, line = comment.span.start, comment.span.line
    first = bisect_left(last_lines, line)
    for statement in file.statements[first : first + 2]:
        span = statement.span
        beside = not comment.own_line and span.line <= line
        if span.start < at < span.end or beside or (comment.own_line and at < span.start):
            return None if isinstance(statement, tree.Header) else span
    return Span(comment.span.source, at, at)


# --- what is wrong with it -----------------------------------------------------------------------


def _faults(comment: Ignore, known: set[str], used: set[tuple[Span, str]]) -> Iterator[Diagnostic]:
    if comment.verb != "ignore":
        hint = "write `# objdsl: ignore[length-normalisation] why`"
        message = f"objdsl has no instruction `{comment.verb}`"
        yield MISSPELT.diagnostic(message, comment.span, help=hint)
        return
    if not comment.rules:
        hint = "name the rule: `# objdsl: ignore[length-normalisation] why`"
        yield UNNAMED.diagnostic(
            "this comment does not name the rule that it ignores", comment.span, help=hint
        )
        return
    if not comment.reason:
        hint = "write the reason after the bracket"
        yield UNEXPLAINED.diagnostic("this comment does not give a reason", comment.span, help=hint)
    about_comments = {name for page in COMMENT_PAGES for name in (page.name, page.code)}
    places: defaultdict[str, list[Span]] = defaultdict(list)
    for name, span in comment.rules:
        places[name].append(span)
    unknown = 0
    for name, (span, *again) in places.items():
        if again:
            message = f"`{name}` is named {len(again) + 1} times"
            yield UNUSED.diagnostic(message, again[0], fix=_with(comment, places, "name it once"))
        if name in about_comments:
            message = f"`{name}` is a finding about comments, which a comment cannot accept"
            yield UNKNOWN.diagnostic(
                message, span, help="fix the comment that the finding points at"
            )
        elif name not in known:
            unknown += 1
            if unknown > _MOST_UNKNOWN:
                continue
            guess = near(name, known)
            hint = f"did you mean `{guess}`?" if guess else "`objdsl rule` lists them"
            yield UNKNOWN.diagnostic(f"there is no rule `{name}`", span, help=hint)
        elif (comment.span, name) not in used:
            fix = _with(comment, [n for n in places if n != name], f"remove `{name}`")
            yield UNUSED.diagnostic(f"`{name}` reports nothing here", span, fix=fix)
    if unknown > _MOST_UNKNOWN:
        message = f"{unknown - _MOST_UNKNOWN} more names in this comment are not rules"
        yield UNKNOWN.diagnostic(message, comment.span, help="`objdsl rule` lists them")


def _with(comment: Ignore, names: Collection[str], title: str) -> Fix:
    """The comment with these names in its brackets; empty if there are none."""
    source, text = comment.span.source, comment.span.source.text
    if names:
        first, last = comment.rules[0][1], comment.rules[-1][1]
        edit = Edit(first.to(last), ", ".join(names))
    else:
        start = comment.span.start
        while start and text[start - 1] in " \t":
            start -= 1
        is_line = (start == 0 or text[start - 1] == "\n") and text[comment.span.end :][:1] == "\n"
        edit = Edit(Span(source, start, comment.span.end + is_line), "")
    return Fix(title, (edit,), safe=True)
