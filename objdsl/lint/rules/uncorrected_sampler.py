"""Responses come from the inference engine, and nothing corrects for its different probabilities.

**What.** A ratio with `old` in the denominator, responses from `mu`, and no `mu` in the formula.

**Why.** The engine that samples and the engine that trains disagree on the probability of a token,
because of rounding, different kernels or stale weights. `pi / old` corrects for the updates since
the rollout; beyond that the objective treats `old` as if it were `mu`. To first order the gradient
is off by `E[A sum[t] log(old / mu) grad log pi]`: 5 % of it at a noise of 0.05 in the logits, 30 %
at 0.3.

**Fine if** the two engines agree to rounding; with experts or low precision they do not. Or
declare `sample from old`, if one engine does both.

**Example.**

    sample from mu: group 16
    r = pi / old

**Instead.** Multiply by a truncated weight, `sg(min(old / mu, 2)) * surrogate(...)`, or use the
ratio `pi / mu`.

**Papers.** TIS, https://fengyao.notion.site/off-policy-rl; IcePop; DeepSeek-V3.2,
arXiv:2512.02556.
"""

from __future__ import annotations

from collections.abc import Iterator

from objdsl.analysis.facts import Facts
from objdsl.diagnostic import Claim, Diagnostic, Edit, Fix, Label, Severity
from objdsl.ir.nodes import Expr, occurrences
from objdsl.lint.places import reading
from objdsl.lint.rule import Rule, rule
from objdsl.source import Span


@rule("uncorrected-sampler", "OBJ401", Severity.WARNING, Claim.OFF_POLICY)
def check(rule: Rule, facts: Facts) -> Iterator[Diagnostic]:
    order, sampling = facts.first_order, facts.objective.sampling
    if order is None or sampling.policy != "mu" or not facts.corrects:
        return
    if all(branch.engine for branch in order.branches):
        return
    goal = facts.objective.goal
    span = reading(facts, "old")
    experts = "; with experts, they also disagree on which ones to use" if sampling.experts else ""
    drifts = any(branch.drift and not branch.engine for branch in order.branches)
    yield rule.finding(
        "responses come from `mu`, but the ratio is to `old`"
        if drifts
        else "responses come from `mu`, and nothing corrects for it",
        span,
        under="treats old as the policy that sampled" if drifts else "the weight contains no ratio",
        labels=(Label(sampling.span, "sampled here"),) if sampling.span else (),
        consequence="where the inference and training engines disagree, tokens are weighted "
        "as if they did not" + experts,
        gradient="off by E[A sum[t] log(old / mu) grad log(pi)], to first order",
        help="multiply by sg(min(old / mu, 2)), use the ratio to mu, or declare `sample from old`",
        fine_if="both engines agree to rounding",
        fix=_fix(goal, span),
    )


def _fix(goal: Expr, span: Span | None) -> Fix | None:
    """The ratio to mu in place of that to old, wherever it is written out."""
    if span is None or span.text.replace(" ", "") != "pi/old":
        return None
    places = (node.span for node in occurrences(goal) if node.span is not None)
    spans = dict.fromkeys(span for span in places if span.text.replace(" ", "") == "pi/old")
    edits = tuple(Edit(span, span.text.replace("old", "mu")) for span in spans)
    return Fix("use the ratio to mu", edits)
