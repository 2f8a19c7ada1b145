"""The sums over responses in a weight, split into the part of the response itself and that of the
others.

A mean over the group contains the response's own reward, which is a signal, and the rewards of
others, which are a baseline. A sum of a token's rewards over the response is split as well: the
rewards before the token are known when it is drawn.
"""

from __future__ import annotations

from dataclasses import replace

import objdsl.ir.nodes as n
from objdsl.analysis.algebra.arithmetic import power, reduced
from objdsl.analysis.algebra.complements import joined
from objdsl.analysis.algebra.expand import Expand
from objdsl.analysis.algebra.sums import Sum, atom, bases_of, number, ordered
from objdsl.analysis.algebra.symbols import Apart, Elsewhere
from objdsl.analysis.gradient.branches import is_count, sharers_apart
from objdsl.analysis.values.dependence import by_position, depends, is_reward
from objdsl.analysis.values.guards import without_idle
from objdsl.ir import build
from objdsl.ir.build import const
from objdsl.ir.declarations import Branch
from objdsl.ir.indices import RESPONSE, TOKEN


def separated(x: Sum, expand: Expand, branch: Branch | None = None) -> Sum:
    """A weight in which every sum is split into the part of the response itself and that of the
    others; into those that share its tokens and those that do not, where rollouts `branch`. Raises
    TooLargeError."""
    whole = without_idle(joined(x, expand), expand)
    if branch is not None:
        whole = _sharers_apart(whole, branch, expand)
    return rewards_to_go(_affine(reduced(expand, _pools_apart(whole, expand)), expand))


def match_own_reward(base: n.Expr) -> n.Column | None:
    """The reward of the response itself that a factor is, or a part of it that reaches a token;
    None for other factors."""
    match base:
        case n.Column(_, over) as reward if is_reward(reward) and over in (RESPONSE, TOKEN):
            return reward
        case n.Scan(relation, n.Column() as reward) if is_reward(reward) and relation != "<":
            return reward
    return None


def as_it_reaches_a_token(reward: n.Column) -> n.Expr:
    """A reward as a token is credited with it: the reward of a token reaches those up to it."""
    return n.Scan(">=", reward) if reward.over == TOKEN else reward


def is_past_reward(base: n.Expr) -> bool:
    """Whether a factor is a sum of the rewards before a token."""
    return isinstance(base, n.Scan) and base.relation == "<" and is_reward(base.x)


def has_two_values(base: n.Expr) -> bool:
    """Whether a value is a column that is declared with two values, such as 0 and 1."""
    return isinstance(base, n.Column) and len(set(base.values)) == 2


# --- sums over responses and prompts -------------------------------------------------------------


def _pools_apart(x: Sum, expand: Expand) -> Sum:
    """Sums over responses and prompts, split into the part of the response itself and that of the
    others."""
    result = Sum()
    for factors, c in x.terms.items():
        pools = [(base, e) for base, e in ordered(factors) if e == 1 and _pools(base)]
        term = Sum({factors.difference(pools): c})
        for pool, _ in pools:
            assert isinstance(pool, n.Reduce | n.Peers)
            others = _of_others(pool)
            expand.origin.setdefault(others, expand.origin.get(pool, pool))
            term = term * (_pools_apart(expand(_own(pool)), expand) + atom(others))
        result = result + term
    return result


def _sharers_apart(x: Sum, branch: Branch, expand: Expand) -> Sum:
    """Sums over responses, as far as each is all of a product that depends on the response: only
    then is the expectation of a value as good as the value."""
    result = Sum()
    for factors, c in x.terms.items():
        splits = {base: sharers_apart(base, branch, expand) for base, _ in factors}
        others = [base for base, split in splits.items() if split is None or not is_count(base)]
        late = [
            base
            for base in others
            if splits[base] is not None or depends(base, branch=branch).on_response
        ]
        term = Sum({frozenset(): c})
        for base, e in ordered(factors):
            split = splits[base]
            alone = base not in late or len(late) == 1
            if split is not None and alone and (e == 1 or split.product is not None):
                for part in bases_of(split):
                    if isinstance(part, Apart | n.Peers):
                        expand.note(part, expand.origin.get(base, base))
                term = term * power(expand, split, e, base)
            else:
                term = term * atom(base, e)
        result = result + term
    return result


def _pools(base: n.Expr) -> bool:
    """Whether a factor is a sum over the responses of a group, the prompts of a step, or the
    elements that share a key."""
    match base:
        case n.Reduce("sum", ("i",) | ("p",), _, None):
            return not depends(base).constant
        case n.Peers("sum", ("i", *_), relation="", where=None):
            return by_position(base)
        case n.Peers("sum", ("p", *_), relation="", where=None):
            return depends(base).on_response
    return False


def _own(pool: n.Reduce | n.Peers) -> n.Expr:
    """The summand of the response itself, or of its prompt."""
    if isinstance(pool, n.Reduce) or pool.over[0] == "i" or pool.over == ("p",):
        return pool.x
    inner = pool.over[1:]
    keys = tuple(key for key in pool.keys if set(inner) & set(key.indices))
    return n.Peers("sum", inner, pool.x, keys) if keys else n.Reduce("sum", inner, pool.x)


def _of_others(pool: n.Reduce | n.Peers) -> n.Expr:
    """The summands of the others."""
    match pool:
        case n.Peers(_, ("i", *_)):
            return replace(pool, relation="!=")
        case n.Peers():  # of the prompts with the same keys
            return Elsewhere(replace(pool, over=pool.over[1:]) if pool.over[1:] else pool.x)
        case n.Reduce(_, ("i",), x):
            return build.others("sum", x)
    return Elsewhere(pool.x)


# --- columns of two values -----------------------------------------------------------------------


def _affine(x: Sum, expand: Expand) -> Sum:
    """Functions of a column with two values as the affine functions that they are: the square of a
    reward of 0 or 1 is the reward, the absolute value of one of -1 or 1 is 1."""
    result = Sum()
    for factors, c in x.terms.items():
        term, rest = Sum({frozenset(): c}), set(factors)
        for base, e in ordered(factors):
            function = _of_two_values(base, e, expand)
            if function is not None:
                rest.remove((base, e))
                term = term * function
        result = result + term * Sum({frozenset(rest): 1.0})
    return result


def _of_two_values(base: n.Expr, exponent: float, expand: Expand) -> Sum | None:
    """A power of a value that reads only one column of two values, as an affine function of the
    column; None for the column itself, and where the power has no value."""
    nodes = n.topological(base)
    columns = [node for node in nodes if not node.children and not isinstance(node, n.Const)]
    if len(columns) != 1 or any(map(_reads_other_elements, nodes)):
        return None
    (column,) = columns
    if not isinstance(column, n.Column) or not has_two_values(column):
        return None
    if base == column and exponent == 1:
        return None
    low, high = sorted(set(column.values))
    at = [expand(n.replaced(base, {column: const(value)})).number for value in (low, high)]
    try:
        first, last = (float(value**exponent) for value in at if value is not None)
    except (ValueError, TypeError, ZeroDivisionError, OverflowError):
        return None  # a root or an inverse that does not exist there, or no number
    rise = (last - first) / (high - low)
    return atom(column).scaled(rise) + number(first - rise * low)


def _reads_other_elements(node: n.Expr) -> bool:
    return isinstance(
        node, n.Reduce | n.Quantile | n.Order | n.Peers | Elsewhere | n.Scan | n.Shift
    )


# --- rewards of tokens ---------------------------------------------------------------------------


def rewards_to_go(x: Sum) -> Sum:
    """Sums of a token's rewards, written as rewards-to-go: those before are known, and a
    baseline."""
    result = Sum()
    for factors, c in x.terms.items():
        sums = [(base, to_go) for base, e in factors if e == 1 and (to_go := _match_to_go(base))]
        term = Sum({factors.difference((base, 1.0) for base, _ in sums): c})
        for _, to_go in sorted(sums, key=lambda pair: pair[0].key):
            term = term * to_go
        result = result + term
    return result


def _match_to_go(base: n.Expr) -> Sum | None:
    """A sum of a token's rewards over the response as a reward-to-go; None for other sums."""
    match base:
        case n.Scan(">", n.Column() as reward, None) if is_reward(reward):
            return atom(n.Scan(">=", reward)) - atom(reward)
        case n.Scan("<=", n.Column() as reward, None) if is_reward(reward):
            return atom(n.Scan("<", reward)) + atom(reward)
        case n.Reduce("sum", ("t",), n.Column() as reward, None) if is_reward(reward):
            return atom(n.Scan(">=", reward)) + atom(n.Scan("<", reward))
    return None
