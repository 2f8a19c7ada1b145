"""The expected gradient of an objective, by running the code that it compiles to on every draw.

The objective gives `w = dJ/dlog pi` for each token of an optimizer step, so the gradient that the
step follows is `g = sum over its tokens of w * s_t`. Here `w` is that of `Objective.weights`, the
emitted program, and the expectation of `g` is the sum over all draws of probability times `g`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Any

import torch
from torch import Tensor

import objdsl.ir.nodes as n
from objdsl.audit.cast import cast_of
from objdsl.audit.world import Draws, World
from objdsl.errors import ObjdslError
from objdsl.frozen import dataclass
from objdsl.ir.columns import (
    Column,
    Data,
    LogProbs,
    Noise,
    Reward,
    Truncation,
    Values,
    of_policy,
)
from objdsl.objective import Objective

# Draws that one call evaluates where they can be stacked; bounds the memory.
_CHUNK = 4096


class UnauditableError(ObjdslError, ValueError):
    """An objective of which a table of logits cannot be an example; the message says why."""


@dataclass(frozen=True, eq=False)
class Scene:
    """What an optimizer step is drawn from.

    Attributes:
        policies: logits `[P, S, K]` of `pi`, `old`, `mu` and of every other policy; -inf for words
            that never come.
        rewards: by name, `[P, Y]`, or `[P, Y, T]` where they are of tokens.
        given: other columns, `[P, Y]`, `[P, Y, T]` or `[P, Y, T, K]`, or `[P, 1]` of a prompt.
        noise: draws what `pick` picks.
        sampler: the policy that responses are drawn from.
    """

    world: World
    policies: Mapping[str, Tensor]
    rewards: Mapping[str, Tensor]
    given: Mapping[str, Tensor] = field(default_factory=dict)
    noise: torch.Generator | None = None
    sampler: str = "mu"

    @property
    def chance(self) -> Tensor:
        """`[P, Y]`, how often each response is drawn."""
        return self.world.chance(self.policies[self.sampler])

    def tables(self, columns: Mapping[str, Column]) -> dict[str, Tensor]:
        """The columns by prompt and response, `[P, Y]`, `[P, Y, T]` or `[P, Y, T, K]`, but for the
        noise, which each step draws."""
        world, old = self.world, self.policies["old"]
        shape = (len(old), world.responses)
        found: dict[str, Tensor] = {}
        for name, column in columns.items():
            match column.role:
                case Reward():
                    found[name] = self.rewards[name]
                case Truncation():
                    found[name] = world.truncated.expand(shape)
                case Values():
                    to_go = [world.to_go(reward) for reward in self.rewards.values()]
                    nothing = old.new_zeros(*shape, world.horizon)
                    found[name] = world.value(old, sum(to_go, start=nothing))
                case Data():
                    table = self.given[name]
                    found[name] = table if table.dim() > 2 else table.expand(shape)
                case LogProbs(policy, distribution):
                    of = world.log_dist if distribution else world.log_prob
                    found[name] = of(self.policies[policy])
                case Noise():
                    pass
        return found


@dataclass(frozen=True, eq=False)
class Expected:
    """The gradient of a step, as a random vector.

    Attributes:
        mean: `[P * S * K]`, `E[g]`.
        variance: `tr Cov(g)`.
        weights: `[P, Y, T]`, the expected `w` of a token, summed over the draws of its response.
        noise: `[P * S * K, P * S * K]`, the covariance of `mean` as an estimate, where draws are
            sampled; None where all are summed.
    """

    mean: Tensor
    variance: float
    weights: Tensor
    noise: Tensor | None


def expected(objective: Objective, scene: Scene, draws: Draws) -> Expected:
    """`E[g]` and `tr Cov(g)` of a step that is drawn from the sampler, by all tables that learn.

    Raises:
        UnauditableError: it reads a column that a table does not have, or is not finite on a draw
            that can happen.
    """
    world, cast = scene.world, cast_of(objective.formula)
    chance = draws.chance(scene.chance)
    happens = chance > 0
    drawn, chance = draws.response[happens], chance[happens]
    word_scores = {name: world.word_scores(scene.policies[name]) for name in cast.learners}
    scores = {name: world.taken(scores) for name, scores in word_scores.items()}
    prompts, responses, horizon, size = next(iter(scores.values())).shape
    size *= prompts * cast.tables
    mean, square = chance.new_zeros(size), 0.0
    weights = chance.new_zeros(prompts, responses, horizon)
    second = None if draws.exact else chance.new_zeros(size, size)
    for part in torch.split(torch.arange(len(drawn)), _CHUNK):
        response, q = drawn[part], chance[part]
        w = token_weights(objective, scene, response)
        by_response = {name: _by_response(x, response, world) for name, x in w.items()}
        if (of_pi := by_response.get(LogProbs("pi").name)) is not None:
            weights += torch.einsum("m,mpyt->pyt", q, of_pi)
        by_logits = {}
        for name in cast.learners:
            g = q.new_zeros(len(part), prompts, scores[name].shape[-1])
            of_tokens, of_words = map(by_response.get, of_policy(name))
            if of_tokens is not None:
                g += torch.einsum("mpyt,pytd->mpd", of_tokens, scores[name])
            if of_words is not None:
                g += torch.einsum("mpytv,pytvd->mpd", of_words, word_scores[name])
            by_logits[name] = g
        g = cast.joint(by_logits).flatten(1)
        mean += q @ g
        square += float(q @ (g * g).sum(-1))
        if second is not None:
            second += g.T @ g
    variance = max(square - float(mean @ mean), 0.0)
    if second is None:
        return Expected(mean, variance, weights, None)
    many = len(draws)
    covariance = (second - many * torch.outer(mean, mean)) / (many - 1)
    return Expected(mean, float(covariance.trace()), weights, covariance / many)


def token_weights(objective: Objective, scene: Scene, response: Tensor) -> dict[str, Tensor]:
    """The weights of some draws `[M, P, G]`, each as if it were the whole step.

    Returns:
        `[M, P, G, T]` for `log_pi`, and `[M, P, G, T, K]` for `log_pi_dist`; so for all policies
        that are trained.
    """
    tables = scene.tables(objective.columns)
    if stacks(objective):
        found = _step(objective, scene, tables, response, check=True)
        found = {name: len(response) * w for name, w in found.items()}
    else:
        # Every draw has the same shape: checking one is checking all.
        each = [
            _step(objective, scene, tables, one, check=k == 0)
            for k, one in enumerate(torch.split(response, 1))
        ]
        found = {name: torch.cat([one[name] for one in each]) for name in each[0]}
    for w in found.values():
        _check_finite(objective, scene, response, w)
    return found


def stacks(objective: Objective) -> bool:
    """Whether a step's J is the mean over its prompts of what each of them gives alone.

    Then many draws can be evaluated as the prompts of one step, and the weights of each are those
    of the step times the number of draws. It holds if the only reduction over prompts is a mean on
    the outside. With groups of equal size `mean[p,i]` is such a mean; `mean[p,i,t]`, which divides
    by the tokens of the step, is not, nor is a mean over the prompts that `keep` leaves.
    """

    def is_mean(expr: n.Expr) -> bool:
        match expr:
            case n.Const() | n.Param():
                return True
            case n.Reduce("mean", ("p",) | ("p", "i"), x, None):
                return not any(_over_prompts(node) for node in n.topological(x))
            case n.Unary("neg", x):
                return is_mean(x)
            case n.Binary("add" | "sub", a, b):
                return is_mean(a) and is_mean(b)
            case n.Binary("mul", n.Const() | n.Param(), x) | n.Binary(
                "mul" | "div", x, n.Const() | n.Param()
            ):
                return is_mean(x)
        return False

    return is_mean(objective.formula.goal)


def _over_prompts(node: n.Expr) -> bool:
    return isinstance(node, n.Reduce | n.Top | n.Pick) and "p" in node.over


def _step(
    objective: Objective,
    scene: Scene,
    tables: Mapping[str, Tensor],
    response: Tensor,
    *,
    check: bool,
) -> dict[str, Tensor]:
    """The weights `[M, P, G, T, ...]` of one optimizer step that has the prompts of M draws."""
    many, prompts, group = response.shape
    prompt = torch.arange(prompts)[:, None].expand(response.shape)
    columns: dict[str, Any] = {
        name: table[prompt, response].flatten(0, 2) for name, table in tables.items()
    }
    live = {name: columns.pop(name) for name in objective.live}
    try:
        step = objective.prepare(
            mask=scene.world.mask[response].flatten(0, 2),
            prompt=torch.arange(many * prompts).repeat_interleave(group),
            dtype=torch.float64,
            generator=scene.noise,
            check=check,
            **columns,
        )
    except ValueError as error:
        raise UnauditableError(str(error)) from error
    _, weights, _ = objective.weights(step=step, **live)
    return {
        name: w.reshape(*response.shape, *w.shape[1:])
        for name, w in weights.items()
        if isinstance(objective.columns[name].role, LogProbs)
    }


def _by_response(w: Tensor, response: Tensor, world: World) -> Tensor:
    """Sums over the members of a draw that are the same response: `[M, P, G, ...]` to
    `[M, P, Y, ...]`."""
    index = response.view(*response.shape, *[1] * (w.dim() - 3)).expand(w.shape)
    empty = w.new_zeros(*w.shape[:2], world.responses, *w.shape[3:])
    return empty.scatter_add(2, index, w)


def _check_finite(objective: Objective, scene: Scene, response: Tensor, w: Tensor) -> None:
    bad = ~torch.isfinite(w).flatten(1).all(-1)
    if bool(bad.any()):
        drawn = response[int(bad.nonzero()[0])]
        prompt = torch.arange(len(drawn))[:, None]
        rewards = "; ".join(
            f"{name}: {', '.join(f'{r:g}' for r in table[prompt, drawn].flatten().tolist())}"
            for name, table in scene.rewards.items()
        )
        raise UnauditableError(
            f"{objective.name} has a weight that is not finite in a step that can happen"
            + (f" ({rewards})" if rewards else "")
            + "; guard it there, by `std[i] reward + 1e-4` or `keep p where std[i] reward > 0`, or "
            + "declare where rewards lie, if none are so: `given reward in [0, 1]`"
        )
