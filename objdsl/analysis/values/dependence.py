"""What a value depends on, seen from one token of one response.

The criterion of an unbiased gradient (docs/criterion.md) asks of every factor of a weight
`w[p,i,t]` whether it may change with the response itself, with the tokens before `t`, with the
other responses, or with the prompt alone. That is what a `Dependence` says.
"""

from __future__ import annotations

from dataclasses import replace
from enum import IntEnum
from typing import assert_never

import objdsl.ir.nodes as n
from objdsl.analysis.algebra.symbols import (
    Apart,
    Elsewhere,
    Kink,
    LogDistRatio,
    LogRatio,
    Opaque,
    Ratio,
)
from objdsl.frozen import dataclass
from objdsl.ir.build import ONE
from objdsl.ir.columns import is_critic
from objdsl.ir.declarations import Branch
from objdsl.ir.indices import TOKEN, Indices


class Level(IntEnum):
    """Whose data a value depends on."""

    PROMPT = 1
    """The prompt alone."""
    OTHERS = 2
    """Other responses."""
    PREFIX = 3
    """The tokens before `t`, of the same response."""
    TOKEN = 4
    """The token `t`, and those before it."""
    OWN = 5
    """The whole response itself: reward, length, later tokens."""


@dataclass(frozen=True, slots=True)
class Dependence:
    """The levels that a value depends on; none for a constant.

    Attributes:
        reads: what it is computed from: `reward`, `|y|`, policies and columns by name, ratios of
            policies.
        batch: whether it depends on other prompts.
        rewards: those of `reads` that are rewards.
        critic: whether it depends on a critic's value.
    """

    levels: frozenset[Level] = frozenset()
    reads: frozenset[str | Ratio] = frozenset()
    batch: bool = False
    rewards: frozenset[str] = frozenset()
    critic: bool = False

    def __or__(self, other: Dependence) -> Dependence:
        return Dependence(
            self.levels | other.levels,
            self.reads | other.reads,
            self.batch or other.batch,
            self.rewards | other.rewards,
            self.critic or other.critic,
        )

    @property
    def expected(self) -> bool:
        """Whether it depends on rewards, or on what a critic expects of them."""
        return bool(self.rewards) or self.critic

    @property
    def ratios(self) -> frozenset[Ratio]:
        return frozenset(x for x in self.reads if isinstance(x, Ratio))

    @property
    def constant(self) -> bool:
        return not self.levels

    @property
    def on_response(self) -> bool:
        """Whether it changes with the response that is weighted, from its token `t` on."""
        return Level.OWN in self.levels or Level.TOKEN in self.levels

    @property
    def pooled(self) -> bool:
        """Whether it mixes the response itself with others: a statistic of the group or batch."""
        return self.on_response and Level.OTHERS in self.levels


def depends(
    expr: n.Expr, known: dict[n.Expr, Dependence] | None = None, branch: Branch | None = None
) -> Dependence:
    """What an expression depends on, at one token of one response.

    Args:
        known: a cache to share.
        branch: says which of the others share tokens with the response, and so depend on it.
    """
    known = {} if known is None else known
    dependence = known.get(expr)
    if dependence is None:
        for node in n.topological(expr):
            if node not in known:
                known[node] = _node(node, known, branch)
        dependence = known[expr]
    return dependence


def _node(node: n.Expr, known: dict[n.Expr, Dependence], branch: Branch | None) -> Dependence:
    parts = Dependence()
    for child in node.children:
        parts |= known[child]
    match node:
        case n.Const() | n.Param():
            return Dependence()
        case n.Column(name, over):
            level = Level.PROMPT if over == ("p",) else _KNOWN[node.known]
            critic = is_critic(node)
            if critic:
                level = Level.PREFIX
            elif over == TOKEN and is_reward(node):
                level = Level.TOKEN
            if not over:
                return Dependence()
            rewards = frozenset({name} if is_reward(node) else ())
            return replace(_leaf(name, level), rewards=rewards, critic=critic)
        case n.LogProb(policy):
            return _leaf(policy, Level.TOKEN)
        case n.LogDist(policy):
            return _leaf(policy, Level.PREFIX)
        case LogRatio(ratio):
            return _leaf(ratio, Level.TOKEN)
        case LogDistRatio(ratio):
            return _leaf(ratio, Level.PREFIX)
        case Kink(number):
            return _leaf(f"kink {number}", Level.TOKEN)
        case Opaque(number, over):
            return _leaf(f"value {number}", Level.OWN) if over else Dependence()
        case n.Length():
            return _leaf("|y|", Level.OWN)
        case n.Position():
            return _leaf("t", Level.PREFIX)
        case n.Reduce(_, over, x, None) if x == ONE:
            # Groups have one size; the number of tokens is in `Length`.
            return _leaf("|y|", Level.OWN) if "t" in over else Dependence()
        case n.Reduce(_, over) | n.Quantile(over) | n.Order(_, over) | n.Pick(over):
            return _pooled(_along(parts, over), over)
        case n.Peers():
            reached = _peers(node, known)
            shared = branch is not None and _reads_sharers(node, branch, known)
            return replace(reached, levels=reached.levels | {Level.OWN}) if shared else reached
        case Apart():
            return _of_others(parts, False) | _leaf(node.column.name, Level.PREFIX)
        case Elsewhere():
            levels = {Level.OTHERS} if parts.levels else set()
            # A statistic over prompts includes this response, wherever it is read.
            levels |= {Level.OWN} if parts.batch else set()
            return replace(parts, levels=frozenset(levels), batch=bool(levels))
        case n.Scan(relation):
            return _scanned(parts, relation)
        case n.Shift(_, by):
            return _shifted(parts, by)
        case n.Unary() | n.Binary() | n.Clip() | n.Where() | n.Stop() | n.Present() | n.Symbol():
            return parts
    assert_never(node)


def is_reward(node: n.Expr) -> bool:
    """Whether a node is a column whose expectation is to be raised."""
    return isinstance(node, n.Column) and node.role == "reward"


def _leaf(name: str | Ratio, level: Level) -> Dependence:
    return Dependence(frozenset({level}), frozenset({name}))


def _along(parts: Dependence, over: Indices) -> Dependence:
    """All tokens of a response are known when it ends."""
    if "t" not in over or not parts.levels & {Level.PREFIX, Level.TOKEN}:
        return parts
    return _moved(parts, {Level.OWN})


def _pooled(parts: Dependence, over: Indices) -> Dependence:
    levels = set(parts.levels)
    if "i" in over and levels - {Level.PROMPT}:
        levels |= {Level.OWN, Level.OTHERS}
    if "p" in over and levels:
        levels |= {Level.OTHERS}
        return replace(parts, levels=frozenset(levels), batch=True)
    return replace(parts, levels=frozenset(levels))


_KNOWN = {
    "before i": Level.PROMPT,
    "before t": Level.PREFIX,
    "at t": Level.TOKEN,
    "response": Level.OWN,
}
"""The level of a column, by when it is known."""


def _peers(node: n.Peers, known: dict[n.Expr, Dependence]) -> Dependence:
    """The keys of the present element and of the others decide which are peers; the values that are
    reduced are those of the peers."""
    value = Dependence()
    for part in (node.x, *((node.where,) if node.where else ())):
        value |= _parts_of(part, False, known)
    keys = Dependence()
    for key in node.keys:
        keys |= known[key]
    present = _parts_of(node.x, True, known) | keys
    running = value | keys
    if node.op == "min" and node.x == n.Position() and node.over == ("t",) and not node.where:
        return running  # no later position is the first
    if node.relation in ("<", "<=", ">", ">="):
        return _scanned(running, node.relation) | keys
    reached = present
    if node.over[0] != "t":
        reached |= _of_others(running, "p" in node.over)
    if node.relation != "!=":
        reached |= running if by_position(node) else _along(running, node.over)
    return reached


def _reads_sharers(node: n.Peers, branch: Branch, known: dict[n.Expr, Dependence]) -> bool:
    """Whether a value of the others depends on a token through those that share it. What is known
    before the token, they have in common with the response itself."""
    if node.over[0] != "i" or Level.OTHERS not in _peers(node, known).levels:
        return False
    if node.relation == "!=" and _is_elsewhere(node.where, branch):
        return False
    running = Dependence()
    for part in (node.x, *node.keys, *((node.where,) if node.where else ())):
        running |= known[part]
    at_the_token = by_position(node) and n.Position() in node.keys
    return not (at_the_token and running.levels <= {Level.PROMPT, Level.PREFIX})


def _is_elsewhere(mask: n.Expr | None, branch: Branch) -> bool:
    """Whether a mask is `tree[j] != tree[i]`, of a column of responses that says which may share
    tokens."""
    match mask:
        case n.Binary("ne", n.Column() as x, n.Present(y)) | n.Binary("ne", n.Present(y), x):
            return x == y and isinstance(x, n.Column) and x.name == branch.name
    return False


def _parts_of(x: n.Expr, present: bool, known: dict[n.Expr, Dependence]) -> Dependence:
    """What a value depends on at the running elements, or at the present one."""
    if not x.paired:
        return Dependence() if present else known[x]
    if isinstance(x, n.Present):
        return known[x] if present else Dependence()
    parts = Dependence()
    for child in x.children:
        parts |= _parts_of(child, present, known)
    return parts


def by_position(node: n.Peers) -> bool:
    """Whether the only peer of the same response is the present element."""
    return node.over == ("i",) or (node.over == ("i", "t") and n.Position() in node.keys)


def _of_others(parts: Dependence, batch: bool) -> Dependence:
    """The dependence of the same value at other elements."""
    levels = {Level.OTHERS} if parts.levels - {Level.PROMPT} or (batch and parts.levels) else set()
    if Level.OTHERS in parts.levels:  # this response is among the others of those
        levels |= {Level.OWN}
    kept = parts.levels & {Level.PROMPT}
    return replace(parts, levels=frozenset(kept | levels), batch=parts.batch or batch)


def _scanned(parts: Dependence, relation: str) -> Dependence:
    if Level.OWN in parts.levels:
        return parts
    level = {"<": Level.PREFIX, "<=": Level.TOKEN}.get(relation, Level.OWN)
    if level is Level.TOKEN and Level.TOKEN not in parts.levels:
        level = Level.PREFIX
    moved = _moved(parts, {level})
    return replace(moved, reads=moved.reads | {"t"})


def _shifted(parts: Dependence, by: int) -> Dependence:
    if Level.OWN in parts.levels:
        return parts
    if by < 0:
        return _moved(parts, {Level.PREFIX})
    return _moved(
        parts, {Level.TOKEN if by == 1 and Level.TOKEN not in parts.levels else Level.OWN}
    )


def _moved(parts: Dependence, to: set[Level]) -> Dependence:
    """The same dependence, with what belongs to the response itself at a different level."""
    kept = parts.levels - {Level.PREFIX, Level.TOKEN, Level.OWN}
    return replace(parts, levels=frozenset(kept | set(to)))
