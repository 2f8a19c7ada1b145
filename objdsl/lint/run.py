"""Runs all rules on one objective."""

from __future__ import annotations

import pkgutil
from collections.abc import Iterable
from dataclasses import replace
from functools import cache
from importlib import import_module

from objdsl.analysis.facts import Facts, facts_of
from objdsl.codes import COMMENT_PAGES, LANGUAGE_PAGES, Page, by_name
from objdsl.diagnostic import Diagnostic, Severity
from objdsl.ir.objective import Objective
from objdsl.ir.phases import Phase, phases_of, together
from objdsl.lint import rules
from objdsl.lint.rule import Rule
from objdsl.lint.rules.not_judged import undecided

_RANK = {Severity.ERROR: 0, Severity.WARNING: 1, Severity.NOTE: 2}


@cache
def registry() -> tuple[Rule, ...]:
    """Every rule, in the order of the codes."""
    checks = [
        import_module(f"{rules.__name__}.{module.name}").check
        for module in pkgutil.iter_modules(rules.__path__)
    ]
    return tuple(sorted(checks, key=lambda rule: rule.code))


def pages() -> tuple[Page, ...]:
    """All pages by code: the rules, and the errors of a text."""
    known = by_name((*registry(), *COMMENT_PAGES, *LANGUAGE_PAGES)).values()
    return tuple(sorted(known, key=lambda page: page.code))


def findings(objective: Objective) -> list[Diagnostic]:
    """All findings about an objective: about each of its phases separately, and once for findings
    that several phases share."""
    phased = phases_of(objective)
    every, loose = phased.every, list(undecided(phased))
    if len(every) == 1:
        return in_order([*judged(facts_of(every[0].objective)), *loose])
    first: dict[tuple[object, ...], Diagnostic] = {}
    where: dict[tuple[object, ...], list[Phase]] = {}
    for phase in every:
        for finding in judged(facts_of(phase.objective, phase.step, phase.around)):
            key: tuple[object, ...] = (finding.code, finding.span, finding.message)
            first.setdefault(key, finding)
            where.setdefault(key, []).append(phase)
    diagnostics = loose
    for key, finding in first.items():
        part = [] if len(where[key]) == len(every) else where[key]
        if part:
            finding = replace(finding, message=f"{finding.message} ({together(part)})")
        if part and all(phase.drifted for phase in part):
            finding = replace(
                finding, severity=Severity.NOTE, fine_if=f"no run is as long: {together(part)}"
            )
        diagnostics.append(finding)
    return in_order(diagnostics)


def judged(facts: Facts) -> list[Diagnostic]:
    """All findings about an objective whose facts are known.

    A claim that departs from exact has a finding: if no rule knows the reason, the catch-all rule
    of the claim reports it.
    """
    diagnostics = [finding for rule in registry() if not rule.rest for finding in rule(facts)]
    claims = {finding.claim for finding in diagnostics}
    rest = (rule for rule in registry() if rule.rest and rule.claim not in claims)
    return in_order([*diagnostics, *(finding for rule in rest for finding in rule(facts))])


def in_order(diagnostics: Iterable[Diagnostic]) -> list[Diagnostic]:
    """The worst first, then in the order of the text."""
    return sorted(
        diagnostics,
        key=lambda finding: (_RANK[finding.severity], finding.span.start if finding.span else -1),
    )
