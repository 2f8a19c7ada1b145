"""What the steps of an audit are drawn from: policies, rewards and columns of a small language."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field

import torch
from torch import Tensor

from objdsl.audit.world import World
from objdsl.errors import ObjdslError
from objdsl.frozen import dataclass
from objdsl.ir.columns import (
    Clock,
    Column,
    Data,
    Ids,
    LogProbs,
    Noise,
    Reward,
    State,
    Truncation,
    Values,
)


class UnauditableError(ObjdslError, ValueError):
    """An objective that cannot be measured on a table of logits; the message says why."""


@dataclass(frozen=True, eq=False)
class Instance:
    """The distribution that the responses of an optimizer step are drawn from, and their data.

    Attributes:
        policies: logits `[P, S, K]` of `pi`, `old`, `mu` and of every other policy; -inf for tokens
            that are never sampled.
        rewards: by name, `[P, Y]`, or `[P, Y, T]` for rewards of tokens.
        given: other columns, `[P, Y]`, `[P, Y, T]` or `[P, Y, T, K]`, or `[P, 1]` for those of
            prompts.
        noise: the generator of what `pick` picks.
        sampler: the policy that responses are drawn from.
        slots: columns `[P, G]` that are known before a response is drawn, by its place in a group,
            and `[P, G, T]` of the part of a tree that its tokens belong to.
    """

    world: World
    policies: Mapping[str, Tensor]
    rewards: Mapping[str, Tensor]
    given: Mapping[str, Tensor] = field(default_factory=dict)
    noise: torch.Generator | None = None
    sampler: str = "mu"
    slots: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def chance(self) -> Tensor:
        """`[P, Y]`, the probability of each response under the sampler."""
        return self.world.chance(self.policies[self.sampler])

    def tables(self, columns: Mapping[str, Column]) -> dict[str, Tensor]:
        """The columns by prompt and response, `[P, Y]`, `[P, Y, T]` or `[P, Y, T, K]`, except for
        the noise, which each step draws."""
        world, old = self.world, self.policies["old"]
        shape = (len(old), world.responses)
        tables: dict[str, Tensor] = {}
        for name, column in columns.items():
            if name in self.slots:
                continue
            match column.role:
                case Reward():
                    tables[name] = self.rewards[name]
                case Truncation():
                    tables[name] = world.truncated.expand(shape)
                case Values():
                    to_go = [world.to_go(reward) for reward in self.rewards.values()]
                    zero = old.new_zeros(*shape, world.horizon)
                    tables[name] = world.value(old, sum(to_go, start=zero))
                case Data() | State() | Ids():
                    table = self.given[name]
                    tables[name] = table if table.dim() > 2 else table.expand(shape)
                case LogProbs(policy, distribution):
                    log = world.log_dist if distribution else world.log_prob
                    tables[name] = log(self.policies[policy])
                case Noise() | Clock():
                    pass
        return tables
