"""A reduction takes what stands next to it: `mean[i] reward^2` is `(mean[i] reward)^2`.

**What.** A power of a reduction, or its product or quotient with what varies along the index that
it has used up, without brackets around it.

**Why.** On paper a sum sign reaches to the end of the product, and a square belongs to what is
squared: `mean[i] x^2` is read as the mean of squares. Here a reduction binds like a function, so
that it is the square of the mean. `sum[t] r * A` with an `A` for each token is that `A` times one
number.

**Fine if** that is what is meant: then the brackets say so. `objdsl fmt` writes them, and so does
the fix.

**Example.**

    spread = mean[i] reward^2 - (mean[i] reward)^2
    maximize mean[p,i] sum[t] (log(pi) * reward / (1 + spread))

**Instead.** `mean[i] (reward^2)` for the mean of squares; `(mean[i] reward)^2` for the square of
the mean.
"""

from __future__ import annotations

from collections.abc import Iterator

from objdsl.analysis.facts import Facts
from objdsl.diagnostic import Claim, Diagnostic, Edit, Fix, Severity
from objdsl.ir.nodes import Binary, Expr, Others, Reduce, Scan, occurrences
from objdsl.lint.rule import Rule, rule
from objdsl.source import Span


@rule("loose-reduction", "OBJ511", Severity.NOTE, Claim.STYLE)
def check(rule: Rule, facts: Facts) -> Iterator[Diagnostic]:
    for span, end in sorted(_loose(facts.objective.roots), key=lambda found: found[0].start):
        rest = " ".join(f"x{span.source.text[span.end : end]}".split())[1:]
        yield rule.finding(
            f"the reduction ends here, before `{rest.strip()}`",
            span,
            under="all that it runs over",
            help=f"`({span.text}){rest}` says that this is meant",
            fix=Fix("write the brackets", (Edit(span, f"({span.text})"),), safe=True),
        )


def _loose(roots: tuple[Expr, ...]) -> set[tuple[Span, int]]:
    """Reductions without brackets that a paper would let reach further, and how far it would."""
    # The same formula may stand elsewhere with brackets.
    return {
        (node.a.span, node.span.end)
        for node in occurrences(*roots)
        if isinstance(node, Binary) and _reads_further(node) and node.a.span and node.span
    }


def _reads_further(node: Binary) -> bool:
    left = node.a
    if not isinstance(left, Reduce | Others | Scan) or left.span is None or node.span is None:
        return False
    if left.span.start != node.span.start or left.span.text.startswith("("):
        return False
    if node.op == "pow":
        return True
    consumed = left.over if isinstance(left, Reduce) else ()
    return node.op in ("mul", "div") and not {*consumed}.isdisjoint(node.b.indices)
