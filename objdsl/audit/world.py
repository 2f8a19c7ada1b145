"""A language so small that every expectation over it is a finite sum.

Responses are made of `words` words, the first of which ends them (EOS), and have at most `horizon`
tokens. A policy is a table of logits with one row for each state, that is for each text that can
stand before a token. With 3 words and 4 tokens there are 15 states and 31 responses, and the
gradient of a policy has 45 components.
"""

from __future__ import annotations

from functools import cache
from itertools import combinations_with_replacement, product
from math import factorial, prod

import torch
from torch import Tensor

from objdsl.frozen import dataclass

EOS = 0


@dataclass(frozen=True, eq=False)
class World:
    """All responses of a small language. Y of them, at most T tokens each, S states, K words.

    Attributes:
        tokens: `[Y, T]`, the words; 0 in the padding.
        mask: `[Y, T]`, which tokens there are.
        state: `[Y, T]`, the number of the text before each token; 0 in the padding.
        states: S.
    """

    words: int
    horizon: int
    tokens: Tensor
    mask: Tensor
    state: Tensor
    states: int

    @property
    def responses(self) -> int:
        return len(self.tokens)

    @property
    def lengths(self) -> Tensor:
        """`[Y]`, EOS counted."""
        return self.mask.sum(-1)

    @property
    def truncated(self) -> Tensor:
        """`[Y]`, which responses met the horizon before they ended."""
        last = self.tokens.gather(1, self.lengths[:, None] - 1).squeeze(1)
        return last != EOS

    def log_dist(self, logits: Tensor) -> Tensor:
        """`log pi(v | y_<t)`: from `[P, S, K]` to `[P, Y, T, K]`."""
        return logits.log_softmax(-1)[:, self.state]

    def log_prob(self, logits: Tensor) -> Tensor:
        """`log pi(y_t | y_<t)`: from `[P, S, K]` to `[P, Y, T]`, 0 in the padding."""
        return torch.where(self.mask, self.taken(self.log_dist(logits)), 0.0)

    def chance(self, logits: Tensor) -> Tensor:
        """`pi(y)`: from `[P, S, K]` to `[P, Y]`. Sums to 1 over the responses."""
        return self.log_prob(logits).sum(-1).exp()

    def word_scores(self, logits: Tensor) -> Tensor:
        """`grad log pi(v | y_<t)` by all logits of a prompt: `[P, Y, T, K, S * K]`.

        A softmax has the gradient `e_v - pi` by the logits of its own state, and 0 by others; a
        word that never comes has none.
        """
        here = torch.nn.functional.one_hot(self.state, self.states).to(logits.dtype)
        here = here * self.mask[..., None]
        pi = logits.softmax(-1)[:, self.state]
        own = torch.eye(self.words, dtype=logits.dtype) - pi[..., None, :]
        own = own * (pi > 0)[..., None]
        return torch.einsum("yts,pytvk->pytvsk", here, own).flatten(-2)

    def scores(self, logits: Tensor) -> Tensor:
        """`s_t = grad log pi(y_t | y_<t)` by all logits of a prompt: `[P, Y, T, S * K]`."""
        return self.taken(self.word_scores(logits))

    def taken(self, of_words: Tensor) -> Tensor:
        """What the words that were taken have of `[P, Y, T, K, ...]`: `[P, Y, T, ...]`."""
        index = self.tokens.view(1, *self.tokens.shape, *[1] * (of_words.dim() - 3))
        index = index.expand(len(of_words), -1, -1, 1, *of_words.shape[4:])
        return of_words.gather(3, index).squeeze(3)

    def to_go(self, reward: Tensor) -> Tensor:
        """What is to go of a reward, `[P, Y, T]`: from each token on of a token's `[P, Y, T]`, all
        of a response's `[P, Y]`."""
        if reward.dim() == 2:
            return reward[..., None].expand(-1, *self.mask.shape)
        return reward.flip(-1).cumsum(-1).flip(-1)

    def value(self, logits: Tensor, to_go: Tensor) -> Tensor:
        """`V(y_<t) = E[what is to go | y_<t]` under a policy: `[P, S, K]` and `[P, Y, T]` to
        `[P, Y, T]`."""
        chance = self.chance(logits)[..., None].expand(-1, *self.mask.shape) * self.mask
        index = self.state.flatten().expand(len(logits), -1)
        empty = logits.new_zeros(len(logits), self.states)
        reached = empty.scatter_add(1, index, chance.flatten(1))
        earned = empty.scatter_add(1, index, (chance * to_go).flatten(1))
        return torch.where(self.mask, (earned / reached)[:, self.state], 0.0)


@cache
def world(words: int, horizon: int) -> World:
    """Enumerates the language.

    Raises:
        ValueError: a language of one word has nothing to choose from.
    """
    if words < 2 or horizon < 1:
        raise ValueError(f"a policy needs at least 2 words and 1 token, not {words} and {horizon}")
    others = range(1, words)
    prefixes = [p for n in range(horizon) for p in product(others, repeat=n)]
    number = {prefix: k for k, prefix in enumerate(prefixes)}
    ended = [(*prefix, EOS) for prefix in prefixes]
    responses = sorted([*ended, *product(others, repeat=horizon)], key=lambda y: (len(y), y))

    tokens = torch.zeros(len(responses), horizon, dtype=torch.long)
    mask = torch.zeros(len(responses), horizon, dtype=torch.bool)
    state = torch.zeros_like(tokens)
    for k, response in enumerate(responses):
        for t, word in enumerate(response):
            tokens[k, t], mask[k, t], state[k, t] = word, True, number[response[:t]]
    return World(words, horizon, tokens, mask, state, len(prefixes))


@dataclass(frozen=True, eq=False)
class Draws:
    """Ways in which the responses of an optimizer step can come out.

    Attributes:
        response: `[M, P, G]`, the responses drawn, by number.
        multiplicity: `[M]`, in how many orders each draw can come; for a random sample, 1.
        exact: whether these are all draws there are, and not a sample of them.
    """

    response: Tensor
    multiplicity: Tensor
    exact: bool

    def __len__(self) -> int:
        return len(self.response)

    def chance(self, mu: Tensor) -> Tensor:
        """The probability of each draw, `[M]`, when responses come from `mu` `[P, Y]`."""
        if not self.exact:
            return torch.full((len(self),), 1 / len(self), dtype=mu.dtype)
        prompt = torch.arange(len(mu))[:, None]
        return self.multiplicity * mu[prompt, self.response].prod(-1).prod(-1)


def draw_count(responses: int, prompts: int, group: int) -> int:
    """The number of draws that `all_draws` lists."""
    n = prod(range(responses, responses + group)) // factorial(group)
    return int(n**prompts)


@cache
def all_draws(responses: int, prompts: int, group: int) -> Draws:
    """Every draw of `group` responses to each of `prompts` prompts.

    The members of a group are exchangeable, so a group is a multiset: one that holds response k
    `n_k` times stands for `G! / (n_1! n_2! ...)` sequences of draws. Nothing is lost by that.
    """
    groups = list(combinations_with_replacement(range(responses), group))
    orders = [factorial(group) // prod(factorial(g.count(k)) for k in set(g)) for g in groups]
    each = torch.tensor(groups)
    index = torch.cartesian_prod(*[torch.arange(len(groups))] * prompts).view(-1, prompts)
    multiplicity = torch.tensor(orders, dtype=torch.float64)[index].prod(-1)
    return Draws(each[index], multiplicity, exact=True)


def some_draws(mu: Tensor, group: int, many: int, generator: torch.Generator | None) -> Draws:
    """`many` independent draws from `mu` `[P, Y]`."""
    drawn = torch.multinomial(mu, many * group, replacement=True, generator=generator)
    response = drawn.view(len(mu), many, group).transpose(0, 1)
    return Draws(response, torch.ones(many, dtype=torch.float64), exact=False)
