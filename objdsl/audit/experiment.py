"""The audit: small random policies, and every figure over several of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from math import isfinite, sqrt
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from objdsl.audit.bare import Bare, apart, trained_in, without
from objdsl.audit.cast import Cast, cast_of, policies_in
from objdsl.audit.compare import Comparison, Square, constants, residual
from objdsl.audit.measure import Expected, Scene, UnauditableError, expected, stacks, token_weights
from objdsl.audit.report import Audit
from objdsl.audit.result import Figure, Length, Match, Penalty, Row, number
from objdsl.audit.target import divergences, policy_gradient
from objdsl.audit.world import Draws, World, all_draws, draw_count, some_draws, world
from objdsl.frozen import dataclass
from objdsl.ir.columns import NOISE, Data, Values, column_of
from objdsl.ir.indices import PROMPT, RESPONSE, TOKEN, WORD, Indices
from objdsl.ir.nodes import Column, Others, Reduce, topological
from objdsl.ir.objective import Domain, Sampling
from objdsl.objective import Objective, load

Given = float | Literal["random"] | Callable[[tuple[int, ...]], float]
"""A column of the data: a number, noise, or a function of words (0 is EOS): of the response's; of a
token's column, of those up to the token; of a column of all words, of those before and the word."""

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
        UnauditableError: it cannot be measured on a table of logits; the message says why.
        FileNotFoundError, ObjectiveError: as `objdsl.load`.
    """
    if not isinstance(objective, Objective):
        objective = load(objective)
    objective = Objective(replace(objective.formula, reports=()), objective.params)
    plan = plan_of(objective, group, prompts, words, horizon, samples, policies, seed)
    tables = tables_of(objective, plan, given or {})
    # Terms against other policies are judged with rewards of 0, in their domain or not.
    objective = Objective(replace(objective.formula, declared=()), objective.params)
    notes = list(_sampled(objective))
    rows: list[Row] = []
    lengths: tuple[Length, ...] = ()
    judged = _judged(objective, plan, tables)
    target = _Target(judged.cast, judged.kept)
    if judged.cast.rewarded:
        notes += judged.notes
        kinds = plan.kinds
        cases = [(kinds[0], kind, d) for kind, d in _drifts(drifts)]
        cases += [(kind, ON_POLICY, 0.0) for kind in kinds[1:]]
        found = [_expected(judged, plan, case, tables) for case in cases]
        target = target.fitted(found[0])
        rows = [_row(case, one, target) for case, one in zip(cases, found, strict=True)]
        if not judged.kept and judged.cast.learners == ("pi",):
            lengths = tuple(_lengths(judged, plan, kinds[0], tables, target))
    else:
        why = "no policy's gradient changes with a reward" if plan.rewards else "it reads no reward"
        notes.append(f"{why}, so there is no policy gradient to compare it with")
    roles = [column.role for column in objective.columns.values()]
    if any(isinstance(role, Values) for role in roles):
        of = " of the plain sum of the rewards" if len(plan.rewards) > 1 else ""
        notes.append(
            f"V and V_old are the exact value function{of}; the critic's own loss is not judged"
        )
    penalties = []
    for terms in _oppositions(objective):
        try:
            penalties.append(_penalty(terms, plan, tables))
        except UnauditableError as error:
            notes.append(f"the terms against {terms.against} are not judged: {error}")
    params = {one.name: objective.params[one.name] for one in objective.formula.used_params}
    return Audit(
        objective.name, params, {name: _domain(plan, name) for name in plan.rewards},
        plan.world.words, plan.world.horizon, plan.prompts, plan.group, plan.samples is None,
        plan.draws, policies, target.written, tuple(rows), lengths, tuple(penalties),
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
    rewards: Mapping[str, Column]
    """The rewards, by name."""
    domains: Mapping[str, Domain]
    """Where columns of the data lie, by name, as far as that is declared."""
    cast: Cast

    @property
    def kinds(self) -> tuple[str, ...]:
        """`real` where a reward is declared as anything but two values, and `binary`."""
        two = all(len(set(column.values)) == 2 for column in self.rewards.values())
        return ("binary",) if two else ("real", "binary")

    @property
    def draws(self) -> int:
        return self.samples or draw_count(self.world.responses, self.prompts, self.group)

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.prompts, self.world.states, self.world.words

    def draw(self, scene: Scene) -> Draws:
        if self.samples is None:
            return all_draws(self.world.responses, self.prompts, self.group)
        return some_draws(scene.chance, self.group, self.samples, scene.noise)


def plan_of(
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
    is_random = NOISE.name in objective.columns
    if samples is None and (
        is_random or draw_count(language.responses, prompts, group) > _MOST[stacked]
    ):
        samples = _SAMPLES[stacked]
    rewards = {column.name: column for column in objective.formula.rewards}
    domains, cast = objective.formula.domains, cast_of(objective.formula)
    return _Plan(language, prompts, group, policies, samples, seed, rewards, domains, cast)


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


def scenes_of(
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
    cast = plan.cast
    for k in range(plan.policies):
        generator = torch.Generator().manual_seed(plan.seed + k)

        def normal(generator: torch.Generator = generator) -> Tensor:
            return torch.randn(plan.shape, dtype=torch.float64, generator=generator)

        def versions(normal: Callable[[], Tensor] = normal) -> tuple[Tensor, Tensor]:
            return normal(), drift * normal()

        def apart(pi: Tensor, noise: Tensor) -> dict[str, Tensor]:
            old = pi + noise if kind == "stale" else pi
            return {"pi": pi, "old": old, "mu": old + noise if kind == "mismatch" else old}

        policies = apart(*versions())
        rewards = {
            name: _reward(column, reward, plan, generator) for name, column in plan.rewards.items()
        }
        known = {*policies, *cast.hidden}
        policies |= {name: normal() for name in others if name not in known}
        layers = {layer: apart(*versions()) for layer in cast.layers}
        policies |= {name: layers[layer][of] for name, (of, layer) in cast.hidden.items()}
        policies |= dict.fromkeys(at_rest, policies["old"])
        policies.setdefault(cast.sampler, policies["mu"])
        policies = truncated(policies, cast)
        yield Scene(plan.world, policies, rewards, tables, generator, cast.sampler)


def truncated(policies: dict[str, Tensor], cast: Cast) -> dict[str, Tensor]:
    """Policies among the words that the sampler keeps: its own, and with `keep_mask` all."""
    sampling = cast.formula.sampling
    logits = policies[cast.sampler]
    dropped = torch.zeros_like(logits, dtype=torch.bool)
    if sampling.top_k is not None:
        least = logits.topk(min(sampling.top_k, logits.shape[-1]), dim=-1).values[..., -1:]
        dropped |= logits < least
    if sampling.top_p < 1:
        chance, order = logits.masked_fill(dropped, -torch.inf).softmax(-1).sort(descending=True)
        dropped |= torch.empty_like(dropped).scatter_(
            -1, order, chance.cumsum(-1) - chance >= sampling.top_p
        )
    own = {cast.sampler} if cast.sampler in cast.hidden else {cast.sampler, "mu"}
    cut = policies if sampling.keep_mask else own
    return policies | {name: policies[name].masked_fill(dropped, -torch.inf) for name in cut}


def _sampled(objective: Objective) -> Iterator[str]:
    """What is to be known of how responses are drawn."""
    sampling, cast = objective.sample, cast_of(objective.formula)
    if cast.sampler != "mu" and cast.sampler not in cast.hidden:
        yield (
            f"responses are drawn from {cast.sampler}, which stands where mu does: "
            "on policy it is pi"
        )
    if sampling.temperature != 1:
        yield f"all policies are those at temperature {sampling.temperature:g}"
    if _truncates(sampling):
        yield (
            "all policies are those among the words that the sampler keeps"
            if sampling.keep_mask
            else "mu draws among the words that it keeps, and other policies are of all words"
        )
    if sampling.experts:
        yield "a table of logits has no experts: what their routing changes is not judged"
    for name in cast.learners:
        if name in cast.hidden:
            yield (
                f"{name} has random logits of its own, and a gradient by them is one by all layers "
                "below"
            )


def _truncates(sampling: Sampling) -> bool:
    return sampling.top_p < 1 or sampling.top_k is not None


def _reward(column: Column, kind: str, plan: _Plan, generator: torch.Generator) -> Tensor:
    """What the responses are worth by one reward: `[P, Y]`, or `[P, Y, T]` of the tokens.

    A token's reward is known with its token: it is drawn for each text that can stand before it and
    each word. Rewards lie in their declared domain; where none is declared, on both sides of 0.
    """
    world = plan.world
    by_token = column.over == TOKEN
    shape = plan.shape if by_token else (plan.prompts, world.responses)
    normal = torch.randn(shape, dtype=torch.float64, generator=generator)
    if kind == "none":
        drawn = torch.zeros_like(normal)
    elif kind == "binary" or len(set(column.values)) == 2:
        low, high = plan.domains.get(column.name, Domain()).two
        # Right for half of the responses, or of the words at a place, never for all or none.
        right = (normal > normal.median(-1, keepdim=True).values).double()
        drawn = low + (high - low) * right
    else:
        drawn = _in_domain(column, normal)
    if not by_token:
        return drawn
    prompt = torch.arange(plan.prompts)[:, None, None]
    return torch.where(world.mask, drawn[prompt, world.state, world.tokens], 0.0)


def _in_domain(column: Column, normal: Tensor) -> Tensor:
    """Normal numbers, moved into the domain of a column."""
    quantile = torch.special.ndtr(normal)
    if column.values:
        values = torch.tensor(sorted(set(column.values)), dtype=torch.float64)
        index = (quantile * len(values)).long().clamp(max=len(values) - 1)
        chosen: Tensor = values[index]
        return chosen
    if isfinite(column.lower) and isfinite(column.upper):
        uniform: Tensor = quantile * (column.upper - column.lower)
        return uniform + column.lower
    if isfinite(column.lower):
        exponential: Tensor = -torch.log1p(-quantile)
        return exponential + column.lower
    if isfinite(column.upper):
        return column.upper + torch.log(quantile)
    return normal


def _is_bounded(column: Column) -> bool:
    """Whether rewards cannot be moved by any number: a domain is declared."""
    return bool(column.values) or isfinite(column.lower) or isfinite(column.upper)


def _domain(plan: _Plan, reward: str) -> str:
    """Where a reward is drawn from, where it is not of two values."""
    domain = plan.domains.get(reward, Domain())
    return "any number" if domain == Domain() else str(domain)


def _data(objective: Objective) -> dict[str, Column]:
    """The columns that the file declares and that are no rewards, by name."""
    nodes = (node for node in objective.formula.nodes if isinstance(node, Column))
    return {node.name: node for node in nodes if isinstance(column_of(node).role, Data)}


def tables_of(objective: Objective, plan: _Plan, given: Mapping[str, Given]) -> dict[str, Tensor]:
    """The tables of the columns that the file declares: `[P, Y]`, `[P, 1]` of a prompt, and
    `[P, Y, T]` and `[P, Y, T, K]` of tokens and of all words."""
    generator = torch.Generator().manual_seed(plan.seed - 1)
    world = plan.world
    found: dict[str, Tensor] = {}
    for name, column in _data(objective).items():
        if name not in given:
            raise UnauditableError(
                f"{objective.name} reads the column {name!r}: pass a number, or `random`, as in "
                f"--given {name}=random (in Python a function of the response's words, too)"
            )
        shape = (plan.prompts, *_SHAPES[column.over](world))
        how = given[name]
        if how == "random":
            table = torch.rand(shape, dtype=torch.float64, generator=generator)
            if _is_bounded(column):
                table = _in_domain(column, torch.special.ndtri(table))
        elif callable(how):
            table = _of_texts(column, world, how).expand(shape)
        else:
            table = torch.full(shape, float(how), dtype=torch.float64)
        domain = plan.domains.get(name, Domain())
        drawn = table[:, world.mask] if column.over in (TOKEN, WORD) else table
        wrong = [x for x in drawn.flatten().tolist() if not domain.holds(x)]
        if wrong:
            raise UnauditableError(
                f"the column {name!r} is {wrong[0]:g}, outside of its domain {domain}"
            )
        found[name] = table
    return found


_SHAPES: dict[Indices, Callable[[World], tuple[int, ...]]] = {
    PROMPT: lambda world: (1,),
    RESPONSE: lambda world: (world.responses,),
    TOKEN: lambda world: (world.responses, world.horizon),
    WORD: lambda world: (world.responses, world.horizon, world.words),
}


def _of_texts(column: Column, world: World, how: Callable[[tuple[int, ...]], float]) -> Tensor:
    """A column that is a function of words: `[Y]`, `[Y, T]` or `[Y, T, K]`; 0 in the padding."""
    texts = zip(world.tokens.tolist(), world.lengths.tolist(), strict=True)
    responses = [tuple(text[:n]) for text, n in texts]
    if column.over == PROMPT:
        raise UnauditableError(
            f"the column {column.name!r} is of a prompt, which has no words: pass a number, or "
            "`random`"
        )
    if column.over == RESPONSE:
        return torch.tensor([float(how(y)) for y in responses], dtype=torch.float64)
    table = torch.zeros(_SHAPES[column.over](world), dtype=torch.float64)
    for k, y in enumerate(responses):
        for t in range(len(y)):
            if column.over == TOKEN:
                table[k, t] = float(how(y[: t + 1]))
            else:
                words = [float(how((*y[:t], v))) for v in range(world.words)]
                table[k, t] = table.new_tensor(words)
    return table


@dataclass(frozen=True)
class _Judged:
    """What is compared with the gradient of the rewards, and with what else.

    Attributes:
        objective: without the terms against other policies that could be taken away.
        kept: the policies that have a part in what rewards are multiplied by, so that what is meant
            is `E[reward] - c KL(pi || policy)`.
    """

    objective: Objective
    kept: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def cast(self) -> Cast:
        return cast_of(self.objective.formula)


def _judged(objective: Objective, plan: _Plan, tables: Mapping[str, Tensor]) -> _Judged:
    """The objective without its penalties, as far as taking them away leaves alone what rewards
    are multiplied by."""
    kept, notes = [], []

    def taken(bare: Bare | None) -> bool:
        nonlocal objective
        if bare is None or not _same_for_rewards(objective, bare.objective, plan, tables):
            return False
        objective = bare.objective
        notes.append(f"rewards are judged without {bare.written}")
        return True

    for policy in plan.cast.references:
        if not taken(without(objective, policy)):
            kept.append(policy)
            notes.append(
                f"{policy} has a part in what rewards are multiplied by and stays: what is meant "
                f"is taken to be E[reward] - c KL(pi || {policy}), c as it fits best"
            )
    taken(apart(objective, plan.cast))
    return _Judged(objective, tuple(kept), tuple(notes))


def _same_for_rewards(
    objective: Objective, bare: Objective, plan: _Plan, tables: Mapping[str, Tensor]
) -> bool:
    """Whether the weights of two objectives change alike with the rewards, on policy, where the
    frozen policies are `old`, too."""
    others = plan.cast.references
    changes: list[list[dict[str, Tensor]]] = []
    for which in (objective, bare):
        weights: list[dict[str, Tensor]] = []
        for kind in ("real", "binary", "none"):
            scene = next(scenes_of(plan, kind, ON_POLICY, 0.0, tables, (), others))
            generator = torch.Generator().manual_seed(plan.seed)
            response = some_draws(scene.chance, plan.group, 8, generator).response
            try:
                weights.append(token_weights(which, scene, response))
            except UnauditableError:
                continue  # all rewards alike, where they are divided by their deviation
        changes.append([{leaf: w[leaf] - weights[0][leaf] for leaf in w} for w in weights[1:]])
    mine, its = changes
    if not mine or len(mine) != len(its):
        return False
    nothing = torch.zeros((), dtype=torch.float64)  # is the weight of what is not trained
    return all(
        torch.allclose(a.get(leaf, nothing), b.get(leaf, nothing), rtol=1e-9, atol=1e-12)
        for a, b in zip(mine, its, strict=True)
        for leaf in a.keys() | b.keys()
    )


# --- the figures ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Target:
    """What is meant: the gradient of a sum of expected rewards, less that of divergences; of each
    policy that rewards train.

    Attributes:
        kept: the policies that divergences are from.
        constants: of each reward and of each divergence, up to a scale of each policy; empty where
            there is one reward and nothing else.
    """

    cast: Cast
    kept: tuple[str, ...]
    constants: tuple[float, ...] = ()

    @property
    def _rewards(self) -> list[tuple[str, str]]:
        return [(name, reward) for name in self.cast.rewarded for reward in self.cast.rewards]

    @property
    def _divergences(self) -> list[tuple[str, str]]:
        return [(name, policy) for name in self.cast.rewarded for policy in self.kept]

    def directions(self, scene: Scene) -> Tensor:
        """The gradients that the constants stand before, `[P * L * S * K, C]`."""
        world, policies, rewards = scene.world, scene.policies, scene.rewards
        found = [
            _joint(self.cast, scene, name, policy_gradient(world, policies[name], rewards[reward]))
            for name, reward in self._rewards
        ]
        for name, other in self._divergences:
            whole = divergences(world, policies[name], policies[other], scene.chance)[0]
            found.append(-_joint(self.cast, scene, name, whole.gradient))
        return torch.stack(found, dim=1)

    def gradient(self, scene: Scene) -> Tensor:
        directions = self.directions(scene)
        if not self.constants:
            return directions[:, 0]
        factors: Tensor = directions.new_tensor(self.constants)
        return directions @ factors

    def fitted(self, found: list[tuple[Scene, Expected]]) -> _Target:
        """With the constants that come nearest to what was found."""
        if len(self._rewards) + len(self._divergences) == 1:
            return self
        pairs = [(got, self.directions(scene)) for scene, got in found]
        return replace(self, constants=tuple(constants(pairs).tolist()))

    @property
    def written(self) -> str:
        """`E[0.8 correct + 0.2 format] - 0.05 KL(pi || ref)`."""
        pairs = self._rewards
        factors = self.constants or (1.0,) * len(pairs)
        within: dict[str, list[str]] = {}
        for (name, reward), c in zip(pairs, factors, strict=False):
            term = f"{number(c)} {reward}" if self.constants else reward
            within.setdefault(name, []).append(term)
        expectations = (
            f"E{'' if name == 'pi' else f'_{name}'}[{' + '.join(terms)}]"
            for name, terms in within.items()
        )
        minus = [
            f" - {number(c)} KL({name} || {policy})"
            for (name, policy), c in zip(self._divergences, factors[len(pairs) :], strict=True)
        ]
        return " + ".join(expectations) + "".join(minus)


def _joint(cast: Cast, scene: Scene, name: str, gradient: Tensor) -> Tensor:
    """A gradient by the logits of a policy, `[P * S * K]`, as one by all tables that learn."""
    return cast.joint({name: gradient.view(len(scene.policies[name]), -1)}).flatten()


def _expected(
    judged: _Judged, plan: _Plan, case: tuple[str, str, float], tables: Mapping[str, Tensor]
) -> list[tuple[Scene, Expected]]:
    """The expected gradient of every random policy, of one kind of policies and rewards."""
    scenes = scenes_of(plan, *case, tables, plan.cast.references)
    return [(scene, expected(judged.objective, scene, plan.draw(scene))) for scene in scenes]


def _row(case: tuple[str, str, float], found: list[tuple[Scene, Expected]], target: _Target) -> Row:
    """The figures of one kind of policies and rewards."""
    reward, kind, drift = case
    compared = [Comparison.of(got, target.gradient(scene)) for scene, got in found]
    residuals, interval = residual(compared)
    return Row(
        reward,
        kind if kind == ON_POLICY else f"{kind} {drift:g}",
        Figure.of([x.cosine for x in compared], worst="min"),
        Figure.of(residuals),
        Figure.of([x.norm for x in compared]),
        Figure.of([x.bias for x in compared]),
        Figure.of([x.variance for x in compared]),
        interval,
    )


def _lengths(
    judged: _Judged, plan: _Plan, reward: str, tables: Mapping[str, Tensor], target: _Target
) -> Iterator[Length]:
    """The mean weight of a token by the length of its response, in units of the true gradient's.

    An objective with a baseline and without a bias has `E[w | y] = c A(y)`, `A(y) = R(y) - E R`;
    then `E[w] / (c E[A])` is 1 in every class of responses, for the c that fits best. So that those
    without a baseline show their weights, too, and not their baseline's absence, real rewards have
    the mean 0 here.
    """
    world, objective = plan.world, judged.objective
    weight = torch.zeros(world.horizon + 1, 2, dtype=torch.float64)
    true = torch.zeros_like(weight)
    factors = target.constants or (1.0,)
    for scene in scenes_of(plan, reward, ON_POLICY, 0.0, tables, plan.cast.references):
        pi = scene.policies["pi"]
        chance = world.chance(pi)
        total = torch.zeros_like(chance)
        centred = dict(scene.rewards)
        for factor, name in zip(factors, target.cast.rewards, strict=False):
            table = scene.rewards[name]
            by_token = table.dim() == 3
            whole = table.sum(-1) if by_token else table
            centre = (chance * whole).sum(-1, keepdim=True)
            if reward == "real" and not by_token and not _is_bounded(plan.rewards[name]):
                centred[name] = table - centre
            total += factor * (whole - centre)
        advantage = total
        scene = replace(scene, rewards=centred)
        got = expected(objective, scene, plan.draw(scene))
        d = target.gradient(scene)
        size = float(d @ d)
        c = float(got.mean @ d) / size if size else 0.0
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


@dataclass(frozen=True)
class _Terms:
    """Terms against a policy.

    Attributes:
        objective: what is evaluated at reward 0.
        learners: the policies that they train.
    """

    objective: Objective
    against: str
    learners: tuple[str, ...]


def _oppositions(objective: Objective) -> Iterator[_Terms]:
    """The policies that others are held against: those that stand still, and then those of other
    layers."""
    cast = cast_of(objective.formula)
    between = apart(objective, cast)
    rest = between.objective if between else objective
    for policy in cast.references:
        bare = without(rest, policy)
        learners = trained_in(*bare.terms) if bare else set[str]()
        yield _Terms(rest, policy, tuple(x for x in cast.learners if x in learners or not learners))
    pairs = {
        (learner, other)
        for term in (between.terms if between else ())
        for learner in trained_in(term) or cast.learners
        for other in {cast.family(name) for name in policies_in(*topological(term))}
        if other != learner and other in ("pi", *cast.learners)
    }
    for other in sorted({other for _, other in pairs}):
        learners = {learner for learner, against in pairs if against == other}
        yield _Terms(objective, other, tuple(x for x in cast.learners if x in learners))


def _penalty(terms: _Terms, plan: _Plan, tables: Mapping[str, Tensor]) -> Penalty:
    """What the terms against a policy descend, on policy, with rewards of 0.

    Other policies that stand still are `old`: their log-ratios are 0.
    """
    policy, cast = terms.against, cast_of(terms.objective.formula)
    at_rest = tuple(other for other in plan.cast.references if other != policy)
    shares, compared = [], []
    for scene in scenes_of(plan, "none", ON_POLICY, 0.0, tables, (policy,), at_rest):
        got = expected(terms.objective, scene, plan.draw(scene))
        size = Square.of(got.mean, got.noise)
        shares.append(0.0 if size.is_nothing else sqrt(size.value / (size.value + got.variance)))
        down = replace(got, mean=-got.mean)
        matches = []
        for name in terms.learners:
            logits, other = scene.policies[name], scene.policies[policy]
            for one in divergences(scene.world, logits, other, scene.chance):
                gradient = _joint(cast, scene, name, one.gradient)
                of = "" if name == "pi" else f" ({name})"
                meaning = one.meaning.replace("pi", name)
                matches.append((one.name + of, meaning, Comparison.of(down, gradient)))
        compared.append(matches)
    found = []
    for same in zip(*compared, strict=True):
        residuals, interval = residual([x for _, _, x in same])
        cosine = Figure.of([x.cosine for _, _, x in same], worst="min")
        name, meaning, _ = same[0]
        found.append(Match(name, meaning, cosine, Figure.of(residuals), interval))
    share = Figure.of(shares)
    exact = (x.divergence for x in found if x.interval is None and x.residual.worst < EXACT)
    descends = "nothing" if share.worst < EXACT else next(exact, None)
    return Penalty(policy, share, descends, tuple(found))
