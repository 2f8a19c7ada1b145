"""The place of a finding in the text, and a weight with the guilty factor marked."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import accumulate

import objdsl.ir.nodes as n
from objdsl.analysis.facts import Facts
from objdsl.analysis.values.reach import reached
from objdsl.diagnostic import Edit, Fix, Label
from objdsl.ir.bounds import bounds
from objdsl.ir.build import both, negation
from objdsl.ir.ops import REDUCTIONS
from objdsl.ir.text import text
from objdsl.objectives.gallery import PRELUDE, bundled
from objdsl.source import Span

_MOST_BRANCHES = 2000
_HEAD = re.compile(rf"({'|'.join(REDUCTIONS)})\s*\[[^\]]*\]")


def head(node: n.Expr) -> Span | None:
    """The `mean[t]` of `mean[t] x`; the whole of anything else."""
    span = node.span
    match = _HEAD.match(span.text) if span else None
    if span is None or match is None:
        return span
    return Span(span.source, span.start, span.start + match.end())


def reading(
    facts: Facts,
    policy: str,
    *,
    live: bool = False,
    rewarded: bool = False,
    kinds: tuple[type[n.LogProb] | type[n.LogDist], ...] = (n.LogProb, n.LogDist),
) -> Span | None:
    """The smallest piece of text of the objective that reads a policy and passes its gradient: the
    probability of the token if there is one, otherwise the distribution. With `rewarded`, in a term
    with rewards if possible, and not in a penalty beside it."""
    goal, critic = facts.objective.goal, facts.objective.critic
    span = _reading(goal, policy, live, rewarded, kinds)
    if span is None and critic is not None:  # a critic's loss may train a policy, too
        span = _reading(critic, policy, live, False, kinds)
    return span


def _reading(
    root: n.Expr,
    policy: str,
    live: bool,
    rewarded: bool,
    kinds: tuple[type[n.LogProb] | type[n.LogDist], ...],
) -> Span | None:
    prelude = bundled(PRELUDE)
    within = reached(root, live=live, rewarded=rewarded) if live or rewarded else None
    for kind in kinds:
        reads: set[n.Expr] = set()
        for node in n.topological(root):
            reads_policy = isinstance(node, kind) and node.policy == policy
            if reads_policy or not reads.isdisjoint(node.children):
                reads.add(node)
                stands = node.span is not None and node.span.source is not prelude
                if stands and (within is None or node in within):
                    return (within or {}).get(node, node).span or node.span
    return None


def entry(facts: Facts) -> tuple[Label, ...]:
    """Where the gradient enters: the label beside a factor that biases it."""
    for leaf in facts.policy_weights:
        span = reading(facts, leaf.policy, live=True, rewarded=True)
        if span is not None:
            return (Label(span, "the gradient enters here"),)
    return ()


def extrema(goal: n.Expr) -> Iterator[tuple[n.Binary, int, n.Expr | None]]:
    """The minima and maxima that pass a gradient on, each with its sign in the goal and the mask of
    its branch; those whose sign depends on data are left out.

    Of a formula with thousands of branches the rest is not read; see `extrema_left_out`.
    """
    return (extremum for extremum in _extrema(goal) if extremum is not None)


def extrema_left_out(goal: n.Expr) -> bool:
    """Whether a formula has more branches than are read for `extrema`."""
    return None in _extrema(goal)


def _extrema(goal: n.Expr) -> Iterator[tuple[n.Binary, int, n.Expr | None] | None]:
    """The extrema; None at the end, if there are more branches than are read."""
    stack: list[tuple[n.Expr, int, n.Expr | None]] = [(goal, 1, None)]
    seen: set[tuple[n.Expr, int, n.Expr | None]] = set()
    while stack and len(seen) < _MOST_BRANCHES:
        node, sign, branch = entry = stack.pop()
        if not node.live or entry in seen:
            continue
        seen.add(entry)
        match node:
            case n.Binary("min" | "max", a, b):
                yield node, sign, branch
                stack += [(a, sign, branch), (b, sign, branch)]
            case n.Unary("neg", x):
                stack.append((x, -sign, branch))
            case n.Binary("sub", a, b):
                stack += [(a, sign, branch), (b, -sign, branch)]
            case n.Binary("add", a, b):
                stack += [(a, sign, branch), (b, sign, branch)]
            case n.Where(m, a, b):
                stack += [(a, sign, _both(branch, m)), (b, sign, _both(branch, negation(m)))]
            case n.Binary("mul", a, b):
                stack += [(a, sign, branch)] if bounds(b)[0] >= 0 else []
                stack += [(b, sign, branch)] if bounds(a)[0] >= 0 else []
            case n.Binary("div", a, b) if bounds(b)[0] >= 0:
                stack.append((a, sign, branch))
            case n.Reduce("sum" | "mean", _, x) | n.Peers("sum" | "mean", _, x):
                stack.append((x, sign, branch))
    if stack:
        yield None


def _both(branch: n.Expr | None, mask: n.Expr) -> n.Expr:
    return mask if branch is None else both(branch, mask)


def marked(facts: Facts, weight: n.Expr, guilty: n.Expr) -> str:
    """`w = ...` with the guilty part in braces, and the definition that contains it, if there is
    one."""
    names = {expr: name for expr, name in facts.names.items() if expr != guilty}
    braced = {**names, guilty: "{" + text(guilty, names) + "}"}
    shown = f"w = {text(weight, braced)}"
    inner = None if "{" in shown else _innermost(facts, guilty)
    if inner is None:
        return shown
    return f"{shown}   with   {names[inner]} = {text(inner, braced)}"


def _innermost(facts: Facts, guilty: n.Expr) -> n.Expr | None:
    """The smallest definition that contains a part, without others that contain it."""
    holds: dict[n.Expr, bool] = {}  # whether it stands there, and not in a definition of its own
    definitions: list[n.Expr] = []
    for node in n.topological(*facts.names):
        inside = [child == guilty or holds[child] for child in node.children]
        holds[node] = True in inside and node not in facts.names
        if True in inside and node in facts.names and node != guilty:
            definitions.append(node)
    return min(definitions, key=lambda expr: len(n.topological(expr)), default=None)


def penalty_label(facts: Facts) -> tuple[Label, ...]:
    """Where the penalty enters what is maximised."""
    goal = facts.objective.goal.span
    return (Label(goal, "differentiated here"),) if goal else ()


def swapped(facts: Facts, estimator: str, by: str, policy: str) -> Fix | None:
    """The fix that replaces an estimator of the prelude by a different one: `k3(pi, ref)`."""
    edit = renamed(reading(facts, policy), estimator, by)
    title = f"use `{by}`, whose gradient is that of KL(pi || {policy})"
    return Fix(title, (edit,)) if edit else None


def renamed(span: Span | None, function: str, by: str) -> Edit | None:
    """The edit of a call that calls a different function: `max(a, b)` to `min(a, b)`."""
    if span is None or not span.text.startswith(f"{function}("):
        return None
    return Edit(Span(span.source, span.start, span.start + len(function)), by)


def stop(facts: Facts, node: n.Expr) -> Fix | None:
    """The fix that puts `sg` around a node of the file."""
    span = node.span
    if span is None or span.source != facts.objective.source:
        return None
    stop = f"sg{span.text}" if _bracketed(span.text) else f"sg({span.text})"
    return Fix("stop its gradient", (Edit(span, stop),))


def _bracketed(text: str) -> bool:
    """Whether one pair of brackets encloses a whole text: not so in `(a) / (b)`."""
    depths = list(accumulate((char == "(") - (char == ")") for char in text))
    return text.startswith("(") and depths.index(0) == len(text) - 1


def divided(facts: Facts, divisor: n.Expr) -> Edit | None:
    """The edit that removes a divisor: `a / d` to `a`, if the text has this form."""
    for node in n.topological(*facts.objective.roots):
        match node:
            case n.Binary("div", a, d) if d == divisor and node.span and a.span:
                if node.span.text.startswith(a.span.text):
                    return Edit(node.span, a.span.text)
    return None


def summed(mean: n.Expr, title: str) -> Fix | None:
    """The fix that turns a mean over tokens into a sum: `mean[t]` to `sum[t]`."""
    span = head(mean)
    if span is None or span.text.replace(" ", "") != "mean[t]":
        return None
    return Fix(title, (Edit(span, "sum[t]"),))
