"""Sampling uses part of the vocabulary, log-probabilities are over all of it.

**What.** `sample from mu: top_p 0.9`, or `top_k`, without `keep_mask`.

**Why.** The sampler renormalises over the tokens it kept; `pi` and `old` are normalised over the
whole vocabulary. The expectation of the score under the sampler is then not 0, so baselines no
longer cancel: with a baseline that is off by 1 the cosine to the true gradient falls to 0.87 on
small random policies. With the recorded mask the training engine renormalises as the sampler did.

**Fine if** top_p is almost 1.

**Example.**

    sample from mu: group 8, top_p 0.9

**Instead.** `sample from mu: group 8, top_p 0.9, keep_mask`.

**Papers.** DeepSeek-V3.2, arXiv:2512.02556, section 3.1, "Keep Sampling Mask".
"""

from __future__ import annotations

from collections.abc import Iterator

from objdsl.analysis.facts import Facts
from objdsl.diagnostic import Claim, Diagnostic, Edit, Fix, Severity
from objdsl.lint.rule import Rule, rule


@rule("truncated-sampling", "OBJ416", Severity.WARNING, Claim.DIRECTION)
def check(rule: Rule, facts: Facts) -> Iterator[Diagnostic]:
    sampling = facts.objective.sampling
    truncated = sampling.top_p < 1 or sampling.top_k is not None
    if facts.rewarded and truncated and not sampling.keep_mask:
        span = sampling.span
        yield rule.finding(
            "responses are sampled from part of the vocabulary, log-probabilities are over all of "
            "it",
            span,
            under="keeps some tokens, but does not record which",
            gradient="biased: the expectation of the score is not 0, and baselines do not cancel",
            help="`keep_mask` records which tokens were kept",
            fine_if="top_p is almost 1",
            fix=Fix("keep the mask", (Edit(span, f"{span.text}, keep_mask"),)) if span else None,
        )
