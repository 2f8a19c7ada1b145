"""The draws of an optimizer step: all of them with their probabilities, or some at random; from
rollouts that are independent, or that branch."""

from __future__ import annotations

from functools import cache, cached_property
from itertools import combinations_with_replacement, product
from math import factorial, prod

import torch
from torch import Tensor

from objdsl.audit.world import World
from objdsl.frozen import dataclass


@dataclass(frozen=True, eq=False)
class Tree:
    """A group whose member k takes its first `joins[k][1]` tokens from the earlier member
    `joins[k][0]`, or draws all of them where that is None.

    Where the earlier response is shorter, both are the same.
    """

    world: World
    joins: tuple[tuple[int, int] | None, ...]

    @cached_property
    def _beginnings(self) -> dict[int, Tensor]:
        """`[Y]`, by depth: the number of the first tokens of each response."""
        return {
            depth: torch.unique(self.world.tokens[:, :depth], dim=0, return_inverse=True)[1]
            for depth in {join[1] for join in self.joins if join is not None}
        }

    def behind(self, mu: Tensor, response: Tensor, chance: Tensor) -> Tensor:
        """The probability of each response of some draws, `[M, P, G]`, given the tokens that it
        takes from an earlier one.

        Args:
            mu: `[P, Y]`, the probability of each response alone.
            chance: the same for each of the draws.
        """
        columns = list(chance.unbind(-1))
        for k, join in enumerate(self.joins):
            if join is not None:
                begins = self._beginnings[join[1]]
                here, earlier = begins[response[..., k]], begins[response[..., join[0]]]
                shared = self._begin(mu, begins)[torch.arange(len(mu)), earlier]
                possible = (here == earlier) & (shared > 0)
                columns[k] = torch.where(possible, columns[k] / shared, 0.0)
        return torch.stack(columns, dim=-1)

    def draws(self, mu: Tensor, count: int, generator: torch.Generator | None) -> Tensor:
        """`count` random draws `[M, P, G]`."""
        drawn: list[Tensor] = []
        for join in self.joins:
            left = mu.expand(count, *mu.shape)
            if join is not None:
                at, depth = join
                begins = self._beginnings[depth]
                left = left * (begins == begins[drawn[at]][..., None])
            picked = torch.multinomial(left.flatten(0, 1), 1, generator=generator)
            drawn.append(picked.view(count, len(mu)))
        return torch.stack(drawn, dim=-1)

    def _begin(self, mu: Tensor, begins: Tensor) -> Tensor:
        """`[P, B]`, the probability that a response begins in each way."""
        empty = mu.new_zeros(len(mu), int(begins.max()) + 1)
        return empty.scatter_add(1, begins.expand_as(mu), mu)

    @cached_property
    def trees(self) -> Tensor:
        """`[G]`, the same number for members that share any token."""
        roots: list[int] = []
        for k, join in enumerate(self.joins):
            roots.append(k if join is None else roots[join[0]])
        return torch.tensor(roots, dtype=torch.float64)

    @cached_property
    def nodes(self) -> Tensor:
        """`[G, T]`, the part of the tree that each token belongs to."""
        members = range(len(self.joins))
        sharers = [
            [
                frozenset(j for j in members if self._depth(j, k) > t)
                for t in range(self.world.horizon)
            ]
            for k in members
        ]
        numbers = {part: k for k, part in enumerate({x: None for row in sharers for x in row})}
        return torch.tensor([[numbers[x] for x in row] for row in sharers], dtype=torch.float64)

    def _depth(self, a: int, b: int) -> int:
        """How many tokens two members share."""
        depth = self.world.horizon
        while a != b:
            a, b = max(a, b), min(a, b)
            join = self.joins[a]
            if join is None:
                return 0
            a, depth = join[0], min(depth, join[1])
        return depth

    def __str__(self) -> str:
        parts = [
            f"responses {join[0] + 1} and {k + 1} share {join[1]} token{'s' * (join[1] > 1)}"
            for k, join in enumerate(self.joins)
            if join is not None
        ]
        return ", ".join(parts)


def tree_of(world: World, group: int) -> Tree:
    """The tree of an audit: pairs of responses that share one token or more; if a response is left,
    it shares none."""
    deepest = max(world.horizon - 1, 1)
    joins = ((k - 1, 1 + k // 2 % deepest) if k % 2 else None for k in range(group))
    return Tree(world, tuple(joins))


@dataclass(frozen=True, eq=False)
class Draws:
    """Possible outcomes of sampling the responses of an optimizer step.

    Attributes:
        response: `[M, P, G]`, the index of each response.
        multiplicity: `[M]`, the number of orders of each draw; 1 for a random sample.
        exact: whether these are all possible draws, and not a sample of them.
        tree: which members of a group share tokens, if any do.
    """

    response: Tensor
    multiplicity: Tensor
    exact: bool
    tree: Tree | None = None

    def __len__(self) -> int:
        return len(self.response)

    def chance(self, mu: Tensor) -> Tensor:
        """The probability of each draw, `[M]`, when responses come from `mu` `[P, Y]`."""
        if not self.exact:
            return torch.full((len(self),), 1 / len(self), dtype=mu.dtype)
        prompt = torch.arange(len(mu))[:, None]
        each = mu[prompt, self.response]
        if self.tree is not None:
            each = self.tree.behind(mu, self.response, each)
        return self.multiplicity * each.prod(-1).prod(-1)


def draw_count(responses: int, prompts: int, group: int, ordered: bool = False) -> int:
    """The number of draws that `all_draws` lists."""
    if ordered:
        return int(responses ** (group * prompts))
    n = prod(range(responses, responses + group)) // factorial(group)
    return int(n**prompts)


@cache
def all_draws(
    responses: int, prompts: int, group: int, ordered: bool = False, tree: Tree | None = None
) -> Draws:
    """Every draw of `group` responses to each of `prompts` prompts.

    The members of a group are exchangeable, so a group is a multiset: one that holds response k
    `n_k` times stands for `G! / (n_1! n_2! ...)` sequences of draws, and the sum stays exact. They
    are not where columns tell them apart before they are drawn, or where some of them share tokens:
    then every order is listed.
    """
    groups = list(
        product(range(responses), repeat=group)
        if ordered
        else combinations_with_replacement(range(responses), group)
    )
    orders = [
        1 if ordered else factorial(group) // prod(factorial(g.count(k)) for k in set(g))
        for g in groups
    ]
    members = torch.tensor(groups)
    index = torch.cartesian_prod(*[torch.arange(len(groups))] * prompts).view(-1, prompts)
    multiplicity = torch.tensor(orders, dtype=torch.float64)[index].prod(-1)
    return Draws(members[index], multiplicity, exact=True, tree=tree)


def some_draws(
    mu: Tensor,
    group: int,
    count: int,
    generator: torch.Generator | None,
    tree: Tree | None = None,
) -> Draws:
    """`count` independent draws from `mu` `[P, Y]`."""
    ones = torch.ones(count, dtype=torch.float64)
    if tree is not None:
        return Draws(tree.draws(mu, count, generator), ones, exact=False, tree=tree)
    drawn = torch.multinomial(mu, count * group, replacement=True, generator=generator)
    response = drawn.view(len(mu), count, group).transpose(0, 1)
    return Draws(response, ones, exact=False)
