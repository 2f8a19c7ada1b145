"""A name that the file declares or defines, and that nothing reads.

**What.** A parameter, a column, a policy, a learned number, a definition or a function of the file
on which neither the goal nor the critic's loss, a report, `keep` or `sample` depends.

**Why.** It changes nothing: a setting of an unread parameter is accepted and has no effect, and the
expectation of an unread reward is not raised. Most often a formula still reads the name that this
one was to replace, or the name is misspelled where it is read.

**Fine if** the name is kept for files that start `from` this one.

**Example.**

    param eps = 0.2
    param eps_high = 0.28
    maximize mean[p,i,t] min(r * A, clip(r, 1 - eps, 1 + eps) * A)

**Instead.** Read it, or delete it.
"""

from __future__ import annotations

from collections.abc import Iterator

from objdsl.analysis.facts import Facts
from objdsl.diagnostic import Claim, Diagnostic, Severity
from objdsl.lint.rule import Rule, rule

_CONSEQUENCES = {
    "parameter": "setting it changes nothing",
    "column": "the values in the data change nothing",
    "reward": "its expectation is not raised",
    "learned number": "it stays at its start, and changes nothing",
    "policy": "its log-probs change nothing",
    "definition": "",
    "function": "",
}


@rule("unread-name", "OBJ801", Severity.WARNING, Claim.STYLE)
def check(rule: Rule, facts: Facts) -> Iterator[Diagnostic]:
    for unread in facts.objective.unread:
        yield rule.finding(
            f"nothing reads the {unread.kind} `{unread.name}`",
            unread.span,
            consequence=_CONSEQUENCES[unread.kind],
            help="read it, or delete it",
            fine_if="files that start from this one read it",
        )
