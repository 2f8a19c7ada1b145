"""The audit: small random policies, and every figure over several of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from math import sqrt
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from objdsl.audit.measure import Expected, Scene, Unauditable, expected, stacks, token_weights
from objdsl.audit.result import Audit, Figure, Length, Match, Penalty, Row
from objdsl.audit.target import divergences, policy_gradient
from objdsl.audit.world import Draws, World, all_draws, draw_count, some_draws, world
from objdsl.frozen import dataclass
from objdsl.ir.indices import PROMPT, RESPONSE
from objdsl.ir.nodes import Column, Others, Reduce
from objdsl.objective import Objective, load

Given = float | Literal["random"] | Callable[[tuple[int, ...]], float]
"""A column of the data: a number, noise, or a function of the response's words (0 is EOS)."""

ON_POLICY = "on policy"
# Below this a figure is a rounding error of float64, and above it it is not.
EXACT = 1e-8

# Languages (words, horizon), the most telling first; the first one that is quick is taken.
_LANGUAGES = ((3, 4), (3, 3), (2, 4), (2, 3))
# Draws that are quick, and draws that are still summed one and all: where they can be evaluated as
# one step, and where each needs a call of its own.
_QUICK = {True: 20_000, False: 150}
_MOST = {True: 200_000, False: 20_000}
_SAMPLES = {True: 50_000, False: 400}


def audit(
    objective: Objective | str | Path,
    *,
    group: int | None = None,
    prompts: int | None = None,
    words: int | None = None,
    horizon: int | None = None,
    policies: int = 3,
    drifts: tuple[float, ...] = (0.05, 0.3),
    given: Mapping[str, Given] | None = None,
    samples: int | None = None,
    seed: int = 0,
) -> Audit:
    """Measures the bias of an objective's gradient.

    Args:
        objective: an objective, a path, or a name of the gallery.
        group: responses to a prompt. By default 3 (2 where a step needs two prompts), and 1 for an
            objective that has no groups.
        prompts: prompts of a step. By default 1, and 2 where the step's prompts are not just
            averaged: a denominator or a statistic that they share.
        words: words of the language, EOS among them.
        horizon: tokens of the longest response.
        policies: random policies, each with its own rewards, to take figures over.
        drifts: the standard deviations of the noise between the logits of two policies: `stale`
            puts it between `pi` and `old`, `mismatch` between `old` and `mu`.
        given: the columns that the file declares with `given`.
        samples: average so many random draws instead of summing all. Without it that is done only
            where there are too many draws to sum.
        seed: of the policies and the rewards.

    Raises:
        Unauditable: it cannot be measured on a table of logits; the message says why.
        FileNotFoundError, ObjectiveError: as `objdsl.load`.
    """
    if not isinstance(objective, Objective):
        objective = load(objective)
    plan = _plan(objective, group, prompts, words, horizon, samples, policies, seed)
    tables = _given(objective, plan, given or {})
    frozen = _frozen(objective)
    notes: list[str] = []
    rows: list[Row] = []
    lengths: tuple[Length, ...] = ()
    if "reward" in objective.columns:
        bare, at_rest = _without(objective, frozen, plan, tables)
        kinds = _reward_kinds(objective)
        cases = [(kinds[0], kind, d) for kind, d in _drifts(drifts)]
        cases += [(kind, ON_POLICY, 0.0) for kind in kinds[1:]]
        rows = [_row(bare, plan, *case, tables, at_rest) for case in cases]
        lengths = tuple(_lengths(bare, plan, kinds[0], tables, at_rest))
        if at_rest:
            names = ", ".join(at_rest)
            notes.append(
                f"{names} is `old` in the first table: no parameter switches its terms off"
            )
    else:
        notes.append("it reads no reward, so there is no policy gradient to compare it with")
    if "value" in objective.columns or "value_old" in objective.columns:
        notes.append(
            "V and V_old are the exact value function; the critic's own loss is not judged"
        )
    penalties = tuple(_penalty(objective, plan, policy, tables) for policy in frozen)
    return Audit(
        objective.name, objective.params, plan.world.words, plan.world.horizon, plan.prompts,
        plan.group, plan.samples is None, plan.draws, policies, tuple(rows), lengths, penalties,
        tuple(notes),
    )  # fmt: skip


# --- the size of it ------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Plan:
    world: World
    prompts: int
    group: int
    policies: int
    samples: int | None
    seed: int
    rewards: tuple[float, float]
    """What a response of two kinds is worth: wrong, and right."""

    @property
    def draws(self) -> int:
        return self.samples or draw_count(self.world.responses, self.prompts, self.group)

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.prompts, self.world.states, self.world.words

    def draw(self, scene: Scene) -> Draws:
        if self.samples is None:
            return all_draws(self.world.responses, self.prompts, self.group)
        return some_draws(
            self.world.chance(scene.policies["mu"]), self.group, self.samples, scene.noise
        )


def _plan(
    objective: Objective,
    group: int | None,
    prompts: int | None,
    words: int | None,
    horizon: int | None,
    samples: int | None,
    policies: int,
    seed: int,
) -> _Plan:
    stacked = stacks(objective)
    prompts = prompts or (1 if stacked else 2)
    if group is None:
        group = (3 if prompts == 1 else 2) if _has_groups(objective) else 1
    fitting = [
        world(words or k, horizon or n)
        for k, n in _LANGUAGES
        if draw_count(world(words or k, horizon or n).responses, prompts, group) <= _QUICK[stacked]
    ]
    k, n = _LANGUAGES[-1]
    language = fitting[0] if fitting else world(words or k, horizon or n)
    # `pick` draws at random within a step: only an average over many of them is fair to it.
    is_random = "noise" in objective.columns
    if samples is None and (
        is_random or draw_count(language.responses, prompts, group) > _MOST[stacked]
    ):
        samples = _SAMPLES[stacked]
    reward = _columns(objective).get("reward")
    values = (reward and reward.values) or (0.0, 1.0)
    rewards = min(values), max(values)
    return _Plan(language, prompts, group, policies, samples, seed, rewards)


def _has_groups(objective: Objective) -> bool:
    """Whether it declares a group, or compares the responses to one prompt."""
    return objective.sample.group is not None or any(
        isinstance(node, Others) or (isinstance(node, Reduce) and node.over[0] == "i")
        for node in objective.formula.nodes
    )


def _drifts(sizes: tuple[float, ...]) -> Iterator[tuple[str, float]]:
    yield ON_POLICY, 0.0
    for kind in ("stale", "mismatch"):
        for size in sizes:
            yield kind, size


# --- random policies, rewards and columns --------------------------------------------------------


def _scenes(
    plan: _Plan,
    reward: str,
    kind: str,
    drift: float,
    tables: Mapping[str, Tensor],
    others: tuple[str, ...] = (),
    at_rest: tuple[str, ...] = (),
) -> Iterator[Scene]:
    """The random policies of a plan. They, their rewards and the direction of the noise are the
    same for every kind and size of drift, so that rows can be compared."""
    for k in range(plan.policies):
        generator = torch.Generator().manual_seed(plan.seed + k)

        def normal(generator: torch.Generator = generator) -> Tensor:
            return torch.randn(plan.shape, dtype=torch.float64, generator=generator)

        pi = normal()
        noise = drift * normal()
        uniform = torch.rand(
            plan.prompts, plan.world.responses, dtype=torch.float64, generator=generator
        )
        # Right for half of the responses, never for all or none.
        binary = (uniform > uniform.median(-1, keepdim=True).values).double()
        old = pi + noise if kind == "stale" else pi
        mu = old + noise if kind == "mismatch" else old
        policies = {"pi": pi, "old": old, "mu": mu}
        policies |= {name: normal() for name in others} | dict.fromkeys(at_rest, old)
        wrong, right = plan.rewards
        rewards = {
            "real": uniform,
            "binary": wrong + (right - wrong) * binary,
            "none": torch.zeros_like(uniform),
        }
        yield Scene(plan.world, policies, rewards[reward], tables, generator)


def _reward_kinds(objective: Objective) -> tuple[str, ...]:
    values = _columns(objective)["reward"].values
    return ("binary",) if len(values) == 2 else ("real", "binary")


def _columns(objective: Objective) -> dict[str, Column]:
    nodes = objective.formula.nodes
    return {node.name: node for node in nodes if isinstance(node, Column)}


def _given(objective: Objective, plan: _Plan, given: Mapping[str, Given]) -> dict[str, Tensor]:
    """The tables of the columns that the file declares: `[P, Y]`, or `[P, 1]` of a prompt."""
    generator = torch.Generator().manual_seed(plan.seed - 1)
    found: dict[str, Tensor] = {}
    for name, column in _columns(objective).items():
        if name in ("reward", "truncated", "V", "V_old"):
            continue
        if name not in given:
            raise Unauditable(
                f"{objective.name} reads the column {name!r}: pass a number, or `random`, as in "
                f"--given {name}=random (in Python a function of the response's words, too)"
            )
        if column.over not in (PROMPT, RESPONSE):
            raise Unauditable(f"the column {name!r} is neither of a prompt nor of a response")
        shape = (plan.prompts, plan.world.responses if column.over == RESPONSE else 1)
        how = given[name]
        if how == "random":
            table = torch.rand(shape, dtype=torch.float64, generator=generator)
            if column.values:
                index = (table * len(column.values)).long()
                table = torch.tensor(column.values, dtype=torch.float64)[index]
        elif callable(how):
            texts = zip(plan.world.tokens.tolist(), plan.world.lengths.tolist(), strict=True)
            each = [float(how(tuple(text[:n]))) for text, n in texts]
            table = torch.tensor(each[: shape[1]], dtype=torch.float64).expand(shape)
        else:
            table = torch.full(shape, float(how), dtype=torch.float64)
        found[name] = table
    return found


def _frozen(objective: Objective) -> tuple[str, ...]:
    """The policies that are neither trained nor sampled from: `ref`, a teacher."""
    names = {
        name.removeprefix("log_").removesuffix("_dist")
        for name, column in objective.columns.items()
        if name.startswith("log_") and not column.trained
    }
    return tuple(sorted(names - {"pi", "old", "mu"}))


def _without(
    objective: Objective, frozen: tuple[str, ...], plan: _Plan, tables: Mapping[str, Tensor]
) -> tuple[Objective, tuple[str, ...]]:
    """The objective with the terms against frozen policies switched off, and the policies for which
    no parameter does it.

    A parameter switches them off if at 0 the weights are the same whatever the policy is.
    """
    at_rest = []
    for policy in frozen:
        for param in objective.formula.used_params:
            if not param.domain.holds(0.0):
                continue
            off = objective.with_params(**{param.name: 0.0})
            if not _reads(off, policy, frozen, plan, tables):
                objective = off
                break
        else:
            at_rest.append(policy)
    return objective, tuple(at_rest)


def _reads(
    objective: Objective,
    policy: str,
    frozen: tuple[str, ...],
    plan: _Plan,
    tables: Mapping[str, Tensor],
) -> bool:
    reward = "real" if "reward" in objective.columns else "none"
    scene = next(_scenes(plan, reward, "stale", 0.3, tables, frozen))
    moved = replace(scene, policies={**scene.policies, policy: scene.policies[policy].flip(-1)})
    mu = scene.world.chance(scene.policies["mu"])
    response = some_draws(mu, plan.group, 8, scene.noise).response
    a, b = (token_weights(objective, each, response) for each in (scene, moved))
    return any(not torch.equal(a[name], b[name]) for name in a)


# --- the figures ---------------------------------------------------------------------------------


def _row(
    objective: Objective,
    plan: _Plan,
    reward: str,
    kind: str,
    drift: float,
    tables: Mapping[str, Tensor],
    at_rest: tuple[str, ...],
) -> Row:
    """The figures of one kind of policies and rewards."""
    others = tuple(policy for policy in _frozen(objective) if policy not in at_rest)
    found: list[tuple[Scene, Expected, Tensor]] = []
    for scene in _scenes(plan, reward, kind, drift, tables, others, at_rest):
        got = expected(objective, scene, plan.draw(scene))
        true = policy_gradient(scene.world, scene.policies["pi"], scene.reward)
        found.append((scene, got, true))
    pairs = [(_signal(got), true) for _, got, true in found]
    sizes = [float(g.norm()) for g, _ in pairs]
    return Row(
        reward,
        kind if kind == ON_POLICY else f"{kind} {drift:g}",
        Figure.of([cosine(g, d) for g, d in pairs], worst="min"),
        Figure.of([residual(g, d) for g, d in pairs]),
        Figure.of([float(g.norm() / d.norm()) for g, d in pairs]),
        Figure.of([float((g - d).norm() / d.norm()) for g, d in pairs]),
        Figure.of(
            [_over(got.variance, size**2) for (_, got, _), size in zip(found, sizes, strict=True)]
        ),
        max(_over(got.error, size) for (_, got, _), size in zip(found, sizes, strict=True)),
    )


def _signal(got: Expected) -> Tensor:
    """`E[g]`, or 0 where it is nothing but the rounding of terms that cancel."""
    is_rounding = float(got.mean.norm()) < 1e-12 * sqrt(got.variance)
    return torch.zeros_like(got.mean) if is_rounding else got.mean


def cosine(g: Tensor, d: Tensor) -> float:
    """Of two vectors; 0 where one of them is 0."""
    return _over(float(g @ d), float(g.norm() * d.norm()))


def residual(g: Tensor, d: Tensor) -> float:
    """`min over c >= 0 of |g - c d| / |g|`; 1 for a `g` of 0, which follows nothing."""
    if not bool(g.norm() > 0) or cosine(g, d) <= 0:
        return 1.0
    unit = d / d.norm()
    return float((g - (g @ unit) * unit).norm() / g.norm())


def _lengths(
    objective: Objective,
    plan: _Plan,
    reward: str,
    tables: Mapping[str, Tensor],
    at_rest: tuple[str, ...],
) -> Iterator[Length]:
    """The mean weight of a token by the length of its response, in units of the true gradient's.

    An objective with a baseline and without a bias has `E[w | y] = c A(y)`, `A(y) = R(y) - E R`;
    then `E[w] / (c E[A])` is 1 in every class of responses, for the c that fits best. So that those
    without a baseline show their weights, too, and not their baseline's absence, real rewards have
    the mean 0 here.
    """
    world, others = plan.world, tuple(p for p in _frozen(objective) if p not in at_rest)
    weight = torch.zeros(world.horizon + 1, 2, dtype=torch.float64)
    true = torch.zeros_like(weight)
    for scene in _scenes(plan, reward, ON_POLICY, 0.0, tables, others, at_rest):
        pi = scene.policies["pi"]
        chance = world.chance(pi)
        advantage = scene.reward - (chance * scene.reward).sum(-1, keepdim=True)
        if reward == "real":
            scene = replace(scene, reward=advantage)
        got = expected(objective, scene, plan.draw(scene))
        d = policy_gradient(world, pi, scene.reward)
        c = float(got.mean @ d) / float(d @ d)
        if c <= EXACT or not bool(got.weights.any()):
            return
        index = (world.lengths.expand_as(advantage), (advantage > 0).long())
        weight.index_put_(index, got.weights.sum(-1) / world.lengths / c, accumulate=True)
        true.index_put_(index, chance * advantage / plan.prompts, accumulate=True)
    for n in range(1, world.horizon + 1):
        below, above = (
            float(weight[n, k] / true[n, k]) if true[n, k] != 0 else None for k in (0, 1)
        )
        yield Length(n, above, below)


def _penalty(
    objective: Objective, plan: _Plan, policy: str, tables: Mapping[str, Tensor]
) -> Penalty:
    """What the terms against a frozen policy descend, on policy, with a reward of 0.

    Other frozen policies are `old`: their log-ratios are 0.
    """
    at_rest = tuple(other for other in _frozen(objective) if other != policy)
    shares, figures = [], []
    for scene in _scenes(plan, "none", ON_POLICY, 0.0, tables, (policy,), at_rest):
        got = expected(objective, scene, plan.draw(scene))
        size = float(got.mean.norm())
        shares.append(_over(size, sqrt(size**2 + got.variance)))
        found = divergences(scene.world, scene.policies["pi"], scene.policies[policy])
        figures.append([(one, -got.mean) for one in found])
    matches = tuple(
        Match(
            same[0][0].name,
            same[0][0].meaning,
            Figure.of([cosine(g, one.gradient) for one, g in same], worst="min"),
            Figure.of([residual(g, one.gradient) for one, g in same]),
        )
        for same in zip(*figures, strict=True)
    )
    share = Figure.of(shares)
    exact = (match.divergence for match in matches if match.residual.worst < EXACT)
    descends = "nothing" if share.worst < EXACT else next(exact, None)
    return Penalty(policy, share, descends, matches)


def _over(a: float, b: float) -> float:
    return a / b if b > 0 else 0.0
