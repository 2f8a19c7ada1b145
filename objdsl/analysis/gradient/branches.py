"""Sums over responses of which some share tokens: `sample from mu: branch node`.

Let S responses share a token. What they have behind it is alike in expectation, given the token and
those before, so that for each the reward of another is as good as its own: a sum over them is S
times the own value. The sum over all others is apart: known independently of the token, it makes a
baseline. `reward - mean[j != i] reward` is therefore `(1 - (S - 1) / (G - 1)) reward - ...`, whose
factor is a different one at every branch.
"""

from __future__ import annotations

import objdsl.ir.nodes as n
from objdsl.analysis.algebra.arithmetic import power
from objdsl.analysis.algebra.expand import Expand
from objdsl.analysis.algebra.reductions import GROUP
from objdsl.analysis.algebra.sums import Sum, atom, number
from objdsl.analysis.algebra.symbols import Apart
from objdsl.analysis.values.dependence import Level, depends
from objdsl.ir.build import ONE
from objdsl.ir.declarations import Branch
from objdsl.ir.indices import RESPONSE


def sharers_apart(pool: n.Expr, branch: Branch, expand: Expand) -> Sum | None:
    """A sum over the responses to a prompt, split into those that share tokens with the present one
    and the others; None for other values."""
    match pool:
        case n.Reduce("sum", ("i",), x, None) if x != ONE:
            return _split(branch, x, (), expand)
        case n.Peers("sum", ("i",), x, (), "!=", None) if not x.paired:
            return _split(branch, x, (), expand) - expand(x)
        case n.Peers("mean", ("i",), x, (), "!=", None) if not x.paired:
            total = _split(branch, x, (), expand) - expand(x)
            return total * power(expand, atom(GROUP) - number(1), -1.0, pool)
        case n.Peers("sum", ("i",), x, (key,), "", None) if not x.paired and _names(branch, key):
            return atom(_of_tree(branch, x))
        case n.Peers("sum", ("i", "t"), x, keys, "" | "!=" as relation, None) if not x.paired:
            return _by_key(branch, x, keys, relation, expand)
    return None


def is_count(pool: n.Expr) -> bool:
    """Whether a sum counts responses or their tokens: of these the sharers have the same, and not
    only in expectation."""
    return isinstance(pool, n.Peers) and pool.x == ONE


def _split(branch: Branch, x: n.Expr, keys: tuple[n.Expr, ...], expand: Expand) -> Sum:
    """A sum over the responses that have the keys in common with the present one, if those that
    share the token do."""
    apart = atom(Apart(x, keys, _column(branch)))
    if branch.of_tokens:
        return atom(sharers(branch)) * expand(x) + apart
    return atom(_of_tree(branch, x)) + apart


def _by_key(
    branch: Branch, x: n.Expr, keys: tuple[n.Expr, ...], relation: n.Relation, expand: Expand
) -> Sum | None:
    if not branch.of_tokens or not set(x.indices) <= set(RESPONSE):
        return None
    by_branch = any(_names(branch, key) for key in keys)
    further = [key for key in keys if key != n.Position() and not _names(branch, key)]
    itself = expand(x)
    if by_branch and all(map(_of_prefix, further)):
        # Those that share the token share all of its part of the tree, and all keys of the prefix.
        tokens = number(1)
        if n.Position() not in keys:
            tokens = atom(n.Peers("sum", ("t",), ONE, (_column(branch),)))
        shares = atom(sharers(branch)) - number(float(relation == "!="))
        return shares * tokens * itself
    if by_branch or n.Position() not in keys or not all(map(_of_prefix, further)):
        return None
    return _split(branch, x, keys, expand) - (itself if relation else Sum())


def _of_prefix(key: n.Expr) -> bool:
    """Whether a key is a function of the tokens before, which those that share them have in
    common."""
    return depends(key).levels <= {Level.PREFIX}


def sharers(branch: Branch) -> n.Expr:
    """The number of responses that share a token."""
    return n.Peers("sum", ("i", "t"), ONE, (n.Position(), _column(branch)))


def _of_tree(branch: Branch, x: n.Expr) -> n.Expr:
    """A sum over the responses that may share tokens."""
    return n.Peers("sum", ("i",), x, (_column(branch),))


def _column(branch: Branch) -> n.Column:
    """The column of the branches, without the domain that a file may declare for it."""
    return n.Column(branch.name, branch.over, known=branch.known)


def _names(branch: Branch, key: n.Expr) -> bool:
    return isinstance(key, n.Column) and key.name == branch.name
