"""A rule: a name, a code, and a function from the facts about an objective to findings.

Each rule is a module of `objdsl.lint.rules`. The docstring of the module is the rule's page: what
it finds, why that matters (the mathematics), when it is fine, an example, what to use instead, and
the papers.

    @rule("length-normalisation", "OBJ101", Severity.WARNING, Claim.DIRECTION)
    def check(rule: Rule, facts: Facts) -> Iterator[Diagnostic]:
        yield rule.finding("...", span)
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any

from objdsl.analysis.algebra.sums import TooLargeError
from objdsl.analysis.facts import Facts
from objdsl.codes import Page
from objdsl.diagnostic import Certainty, Claim, Diagnostic, Severity
from objdsl.frozen import dataclass
from objdsl.source import Span

Check = Callable[["Rule", Facts], Iterator[Diagnostic]]


@dataclass(frozen=True)
class Rule(Page):
    """A rule of the checker.

    Attributes:
        rest: whether it is the catch-all rule of a claim, which fires if the claim departs from
            exact and no other rule has a finding about it.
    """

    check: Check
    rest: bool = False

    def __call__(self, facts: Facts) -> Iterator[Diagnostic]:
        """Its findings; for a formula that is too large to be read, those up to there."""
        try:
            yield from self.check(self, facts)
        except TooLargeError:
            return

    def finding(
        self,
        message: str,
        span: Span | None,
        *,
        severity: Severity | None = None,
        claim: Claim | None = None,
        certainty: Certainty = Certainty.PROVEN,
        **details: Any,
    ) -> Diagnostic:
        """A finding of this rule; `details` are the other fields of `Diagnostic`."""
        if severity is None:
            likely = certainty is Certainty.LIKELY
            severity = Severity.NOTE if likely else self.severity
        return Diagnostic(
            self.name,
            self.code,
            severity,
            message,
            span,
            certainty=certainty,
            claim=claim or self.claim,
            **details,
        )


def rule(
    name: str, code: str, severity: Severity, claim: Claim, *, rest: bool = False
) -> Callable[[Check], Rule]:
    """Makes a rule from a function, with the docstring of its module; see `Rule` for `rest`."""

    def make(check: Check) -> Rule:
        doc = sys.modules[check.__module__].__doc__ or ""
        return Rule(name, code, severity, claim, doc, check, rest)

    return make
