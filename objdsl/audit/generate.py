"""Random instances: policies at a distance from one another, and their rewards."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor

from objdsl.audit.columns import in_domain
from objdsl.audit.instance import Instance
from objdsl.audit.plan import Case, Plan
from objdsl.audit.roles import Roles
from objdsl.ir.declarations import Domain
from objdsl.ir.indices import TOKEN
from objdsl.ir.nodes import Column


def instances_of(
    plan: Plan,
    case: Case,
    tables: Mapping[str, Tensor],
    others: tuple[str, ...] = (),
    at_rest: tuple[str, ...] = (),
) -> Iterator[Instance]:
    """The random instances of a plan.

    The policies, their rewards and the direction of the noise are the same for every kind and size
    of drift, so that rows can be compared.

    Args:
        others: frozen policies, which are random.
        at_rest: frozen policies that are equal to `old`.
    """
    roles = plan.roles
    for k in range(plan.policies):
        generator = torch.Generator().manual_seed(plan.seed + k)

        def normal(generator: torch.Generator = generator) -> Tensor:
            return torch.randn(plan.shape, dtype=torch.float64, generator=generator)

        def versions(normal: Callable[[], Tensor] = normal) -> dict[str, Tensor]:
            pi = normal()
            noise = case.drift * normal()
            old = pi + noise if case.kind == "stale" else pi
            return {"pi": pi, "old": old, "mu": old + noise if case.kind == "mismatch" else old}

        policies = versions()
        rewards = {
            name: _reward(column, case.reward, plan, generator)
            for name, column in plan.rewards.items()
        }
        known = {*policies, *roles.hidden}
        policies |= {name: normal() for name in others if name not in known}
        layers = {layer: versions() for layer in roles.layers}
        policies |= {
            name: layers[layer][version] for name, (version, layer) in roles.hidden.items()
        }
        policies |= dict.fromkeys(at_rest, policies["old"])
        policies.setdefault(roles.sampler, policies["mu"])
        policies = truncated(policies, roles)
        slots = {name: table for name, table in tables.items() if name in plan.slots}
        given = {name: table for name, table in tables.items() if name not in plan.slots}
        yield Instance(plan.world, policies, rewards, given, generator, roles.sampler, slots)


def truncated(policies: dict[str, Tensor], roles: Roles) -> dict[str, Tensor]:
    """Policies over the tokens that the sampler keeps: the sampler's; with `keep_mask`, all."""
    sampling = roles.formula.sampling
    logits = policies[roles.sampler]
    dropped = torch.zeros_like(logits, dtype=torch.bool)
    if sampling.top_k is not None:
        least = logits.topk(min(sampling.top_k, logits.shape[-1]), dim=-1).values[..., -1:]
        dropped |= logits < least
    if sampling.top_p < 1:
        chance, order = logits.masked_fill(dropped, -torch.inf).softmax(-1).sort(descending=True)
        dropped |= torch.empty_like(dropped).scatter_(
            -1, order, chance.cumsum(-1) - chance >= sampling.top_p
        )
    samplers = {roles.sampler} if roles.sampler in roles.hidden else {roles.sampler, "mu"}
    masked = policies if sampling.keep_mask else samplers
    return policies | {name: policies[name].masked_fill(dropped, -torch.inf) for name in masked}


def _reward(column: Column, kind: str, plan: Plan, generator: torch.Generator) -> Tensor:
    """A random reward of each response, `[P, Y]`, or of each token, `[P, Y, T]`.

    A token's reward is known with its token: it is drawn for each prefix and each token after it.
    Rewards lie in their declared domain; where none is declared, on both sides of 0.
    """
    world = plan.world
    by_token = column.over == TOKEN
    shape = plan.shape if by_token else (plan.prompts, world.responses)
    normal = torch.randn(shape, dtype=torch.float64, generator=generator)
    if kind == "none":
        drawn = torch.zeros_like(normal)
    elif kind == "binary" or len(set(column.values)) == 2:
        low, high = plan.domains.get(column.name, Domain()).two
        # Right for half of the responses, or of the tokens of a state, never for all or none.
        right = (normal > normal.median(-1, keepdim=True).values).double()
        drawn = low + (high - low) * right
    else:
        drawn = in_domain(column, normal)
    if not by_token:
        return drawn
    prompt = torch.arange(plan.prompts)[:, None, None]
    return torch.where(world.mask, drawn[prompt, world.state, world.tokens], 0.0)
