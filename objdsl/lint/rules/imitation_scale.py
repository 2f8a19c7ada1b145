"""Imitation is a mean over tokens while rewards are summed over responses, or vice versa.

**What.** A term in `log(pi)` on marked responses (demonstrations, say) without a reward, whose
divisor grows with the number of tokens while that of the rewarded terms does not; or the other way
round.

**Why.** With N responses, a token's weight is of the order of `1 / N` in one term and
`1 / (N |y|)` in the other. Their relative weight is the coefficient times the mean length, which
differs from batch to batch and grows as responses do: a coefficient that was tuned at 200 tokens
is ten times too small, or too large, at 2000.

**Fine if** all responses have about the same length, and keep it.

**Example.**

    given demo[p,i] in {0, 1}
    rl = mean[p,i] sum[t] (0 if demo else A * log(pi))
    maximize rl + 0.1 * mean[p,i,t | demo] log(pi)

**Instead.** The same divisor for both: `0.1 * mean[p,i] sum[t] (log(pi) if demo else 0)`, with a
smaller coefficient.

**Papers.** InstructGPT, arXiv:2203.02155, eq. 2, mixes in the likelihood of pretraining data;
LUFFY, arXiv:2504.14945, has both in one sum.
"""

from __future__ import annotations

from collections.abc import Iterator

import objdsl.ir.nodes as n
from objdsl.analysis.algebra.symbols import OfPolicies
from objdsl.analysis.claims.shapes import counts
from objdsl.analysis.facts import Facts
from objdsl.analysis.gradient.terms import Kind, Term
from objdsl.diagnostic import Claim, Diagnostic, Severity
from objdsl.lint.places import entry, head
from objdsl.lint.rule import Rule, rule


@rule("imitation-scale", "OBJ706", Severity.WARNING, Claim.DIRECTION)
def check(rule: Rule, facts: Facts) -> Iterator[Diagnostic]:
    for estimator in facts.rewarded:
        rewarded = {bool(_lengths(term)) for term in estimator.of(Kind.SIGNAL)}
        for term in estimator.of(Kind.SHAPING, Kind.BASELINE):
            if len(rewarded) != 1 or bool(_lengths(term)) in rewarded or not _imitates(term):
                continue
            per_token = bool(_lengths(term))
            terms = [term] if per_token else estimator.of(Kind.SIGNAL)
            divisor = _lengths(terms[0])[0]
            yield rule.finding(
                "imitation is a mean over tokens, but rewards are summed over responses"
                if per_token
                else "rewards are a mean over tokens, but imitation is summed over responses",
                head(divisor),
                under="grows with the number of tokens",
                labels=entry(facts),
                consequence="their relative weight changes with the mean length",
                gradient=f"{'rewards weigh' if per_token else 'imitation weighs'} too much by a "
                "factor of the mean "
                "length",
                help="use the same divisor for both",
                fine_if="all responses have about the same length, and keep it",
            )
            return


def _imitates(term: Term) -> bool:
    """Whether a product raises the likelihood of marked responses, whatever their reward."""
    read = [node for factor in term.factors for node in n.topological(factor.base)]
    marks = {f.base for f in term.factors if f.exponent > 0 and _marks(f.base)}
    knows = any(isinstance(node, OfPolicies) for node in read)
    paid = any(factor.depends.expected for factor in term.factors)
    return term.coefficient > 0 and bool(marks) and not knows and not paid


def _marks(base: n.Expr) -> bool:
    nodes = n.topological(base)
    binary = isinstance(base, n.Column) and set(base.values) == {0.0, 1.0}
    return binary or (base.boolean and any(isinstance(node, n.Column) for node in nodes))


def _lengths(term: Term) -> list[n.Expr]:
    """The divisors of a product that count tokens."""
    return [
        factor.origin
        for factor in term.factors
        if factor.exponent < 0 and ("|y|" in factor.depends.reads or _of_tokens(factor.base))
    ]


def _of_tokens(base: n.Expr) -> bool:
    """Whether a divisor counts the tokens that a mask leaves."""
    sums = [node for node in n.topological(base) if isinstance(node, n.Reduce) and node.op == "sum"]
    return counts(base) and any("t" in node.over for node in sums)
