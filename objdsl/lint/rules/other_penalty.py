"""A term besides the reward descends something that no other rule covers, or cannot be read.

**What.** A penalty against a frozen policy that is an unnamed divergence, that is weighted
differently from response to response or from prompt to prompt, or that is not a function of
`log(pi / ref)` alone; a function of the whole vocabulary that is neither a divergence nor the
entropy.

**Why.** A penalty is normally taken to be the KL to its reference. What its gradient actually
descends is read off its weight (docs/criterion.md, "Penalties"); where that is a different
divergence, or cannot be read, no other rule reports it.

**Fine if** the term is the point of the method.

**Example.**

    maximize mean[p,i] sum[t] (reward * log(pi) - 0.1 * (ref / pi)^2)

**Instead.** `k2(pi, ref)`, or k1 in the reward as a reward-to-go.
"""

from __future__ import annotations

from collections.abc import Iterator

from objdsl.analysis.claims.reasons import Departure, Reason
from objdsl.analysis.facts import Facts
from objdsl.analysis.gradient.policies import frozen
from objdsl.diagnostic import Claim, Diagnostic, Severity
from objdsl.lint.places import penalty_label, reading
from objdsl.lint.rule import Rule, rule
from objdsl.source import Span


@rule("other-penalty", "OBJ316", Severity.NOTE, Claim.PENALTY, rest=True)
def check(rule: Rule, facts: Facts) -> Iterator[Diagnostic]:
    departures = [x for x in facts.departures if x.claim is Claim.PENALTY]
    for departure in departures[:1]:
        penalty = departure.penalty
        yield rule.finding(
            "this penalty cannot be read"
            if penalty is None
            else f"this penalty descends {penalty.descends.of(penalty.policy)}",
            _place(departure, facts) or facts.objective.goal.span,
            under=departure.reason.value,
            labels=penalty_label(facts),
            weight=""
            if penalty is None
            else f"g(X) = {penalty.written}{facts.weighted(penalty)},   "
            f"X = log({penalty.policy} / pi)",
            help="measure it: objdsl audit",
            fine_if="it is the point of the method",
        )


def _place(departure: Departure, facts: Facts) -> Span | None:
    if departure.reason is Reason.ENTROPY:
        return None
    names = [departure.penalty.policy] if departure.penalty else frozen(facts.objective)
    spans = (reading(facts, name) for name in names)
    return next((span for span in spans if span is not None), None)
