"""A language so small that every expectation over it is a finite sum.

The vocabulary has `vocabulary` entries, the first of which ends a response (EOS), and a response
has at most `horizon` tokens. A policy is a table of logits with a row for each state, that is, for
each prefix that a token can follow. With a vocabulary of 3 and responses of at most 4 tokens there
are 15 states and 31 responses, and the gradient of a policy has 45 components.
"""

from __future__ import annotations

from functools import cache
from itertools import product

import torch
from torch import Tensor

from objdsl.frozen import dataclass

EOS = 0


@dataclass(frozen=True, eq=False)
class World:
    """All Y responses of a small language, of at most T tokens, with S states and K entries.

    Attributes:
        vocabulary: K.
        horizon: T.
        tokens: `[Y, T]`, 0 in the padding.
        mask: `[Y, T]`, where a response has a token.
        state: `[Y, T]`, the index of the prefix before each token; 0 in the padding.
        states: S.
    """

    vocabulary: int
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
        """`[Y]`, which responses reached the horizon without EOS."""
        last = self.tokens.gather(1, self.lengths[:, None] - 1).squeeze(1)
        return last != EOS

    def log_dist(self, logits: Tensor) -> Tensor:
        """`log pi(v | y_<t)`: `[P, S, K]` -> `[P, Y, T, K]`."""
        return logits.log_softmax(-1)[:, self.state]

    def log_prob(self, logits: Tensor) -> Tensor:
        """`log pi(y_t | y_<t)`: `[P, S, K]` -> `[P, Y, T]`, 0 in the padding."""
        return torch.where(self.mask, self.at_tokens(self.log_dist(logits)), 0.0)

    def chance(self, logits: Tensor) -> Tensor:
        """`pi(y)`: `[P, S, K]` -> `[P, Y]`. Sums to 1 over the responses."""
        return self.log_prob(logits).sum(-1).exp()

    def all_scores(self, logits: Tensor) -> Tensor:
        """The scores `grad log pi(v | y_<t)` of the whole vocabulary, with respect to all logits of
        a prompt: `[P, Y, T, K, S * K]`.

        The gradient of a softmax is `e_v - pi` with respect to the logits of its own state, and 0
        with respect to others; a token of probability 0 has none.
        """
        here = torch.nn.functional.one_hot(self.state, self.states).to(logits.dtype)
        here = here * self.mask[..., None]
        pi = logits.softmax(-1)[:, self.state]
        softmax = torch.eye(self.vocabulary, dtype=logits.dtype) - pi[..., None, :]
        softmax = softmax * (pi > 0)[..., None]
        return torch.einsum("yts,pytvk->pytvsk", here, softmax).flatten(-2)

    def scores(self, logits: Tensor) -> Tensor:
        """The scores `s_t = grad log pi(y_t | y_<t)` of the tokens, with respect to all logits of a
        prompt: `[P, Y, T, S * K]`."""
        return self.at_tokens(self.all_scores(logits))

    def at_tokens(self, values: Tensor) -> Tensor:
        """The entries of the tokens themselves: `[P, Y, T, K, ...]` -> `[P, Y, T, ...]`."""
        index = self.tokens.view(1, *self.tokens.shape, *[1] * (values.dim() - 3))
        index = index.expand(len(values), -1, -1, 1, *values.shape[4:])
        return values.gather(3, index).squeeze(3)

    def to_go(self, reward: Tensor) -> Tensor:
        """The reward-to-go of each token, `[P, Y, T]`: the rest of a reward of tokens `[P, Y, T]`,
        and all of a reward of responses `[P, Y]`."""
        if reward.dim() == 2:
            return reward[..., None].expand(-1, *self.mask.shape)
        return reward.flip(-1).cumsum(-1).flip(-1)

    def value(self, logits: Tensor, to_go: Tensor) -> Tensor:
        """`V(y_<t) = E[reward-to-go | y_<t]` under a policy: `[P, Y, T]`.

        Args:
            logits: `[P, S, K]`.
            to_go: `[P, Y, T]`.
        """
        chance = self.chance(logits)[..., None].expand(-1, *self.mask.shape) * self.mask
        index = self.state.flatten().expand(len(logits), -1)
        empty = logits.new_zeros(len(logits), self.states)
        reached = empty.scatter_add(1, index, chance.flatten(1))
        earned = empty.scatter_add(1, index, (chance * to_go).flatten(1))
        return torch.where(self.mask, (earned / reached)[:, self.state], 0.0)


@cache
def world(vocabulary: int, horizon: int) -> World:
    """Enumerates the language. Raises ValueError where there is nothing to choose from."""
    if vocabulary < 2 or horizon < 1:
        raise ValueError(
            f"a policy needs a vocabulary of at least 2 and a horizon of at least 1 token, not "
            f"{vocabulary} and {horizon}"
        )
    others = range(1, vocabulary)
    prefixes = [p for n in range(horizon) for p in product(others, repeat=n)]
    number = {prefix: k for k, prefix in enumerate(prefixes)}
    ended = [(*prefix, EOS) for prefix in prefixes]
    responses = sorted([*ended, *product(others, repeat=horizon)], key=lambda y: (len(y), y))

    tokens = torch.zeros(len(responses), horizon, dtype=torch.long)
    mask = torch.zeros(len(responses), horizon, dtype=torch.bool)
    state = torch.zeros_like(tokens)
    for k, response in enumerate(responses):
        for t, token in enumerate(response):
            tokens[k, t], mask[k, t], state[k, t] = token, True, number[response[:t]]
    return World(vocabulary, horizon, tokens, mask, state, len(prefixes))
