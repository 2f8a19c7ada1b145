"""The gradient that a live advantage adds, against the sum over all outcomes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import objdsl
from objdsl.analysis.facts import Facts
from objdsl.analysis.gradient.advantage import Adds
from objdsl.audit.draws import all_draws
from objdsl.audit.gradient import expected
from objdsl.audit.instance import Instance
from objdsl.audit.world import world
from objdsl.ir.nodes import LogProb

ADVANTAGES = {
    "reward - 0.3 * k1(pi, ref)": (Adds.BIAS, None),
    "reward - 0.3 * sum[s >= t] k1(pi, ref)": (Adds.BIAS, Adds.NOISE),
    "reward - 0.3 * sum[s < t] k1(pi, ref)": (Adds.BIAS, Adds.BIAS),
    "reward - 0.3 * sum[t] k1(pi, ref)": (Adds.BIAS, Adds.BIAS),
    "reward - 0.3 * sum[s >= t] k2(pi, ref)": (Adds.BIAS, Adds.BIAS),
    "reward - mean[j != i] sum[t] k1(pi, ref)": (Adds.NOISE, Adds.NOISE),
    "reward - mean[i] sum[t] k1(pi, ref)": (Adds.BIAS, Adds.BIAS),
    "reward - mean[i] mean[t] log(pi)": (Adds.BIAS, Adds.BIAS),
    "(reward + log(pi)) / 2": (Adds.BIAS, None),
    "reward if reward > 0.5 else 0.3 * log(pi)": (Adds.BIAS, Adds.BIAS),
    "max(reward - 3 * k1(pi, ref), 0)": (Adds.BIAS, Adds.BIAS),
}
TERMS = ("A * log(pi)", "pi / mu * A")


def gradient(text: str, seed: int) -> Tensor:
    """`E[g]` on policy, for a random policy, reference and reward."""
    generator = torch.Generator().manual_seed(seed)
    language = world(2, 3)
    pi, ref = (
        torch.randn(1, language.states, 2, dtype=torch.float64, generator=generator)
        for _ in range(2)
    )
    reward = torch.rand(1, language.responses, dtype=torch.float64, generator=generator)
    scene = Instance(language, {"pi": pi, "old": pi, "mu": pi, "ref": ref}, {"reward": reward})
    return expected(objdsl.loads(text), scene, all_draws(language.responses, 1, 2)).mean


@pytest.mark.parametrize("advantage", ADVANTAGES)
@pytest.mark.parametrize("term", TERMS)
def test_what_a_live_advantage_adds_is_measured(advantage: str, term: str) -> None:
    head = "objective live\nsample from mu: group 2\n"
    goal = f"maximize mean[p,i] sum[t] ({term})\n"
    live, stopped = (f"{head}A = {text}\n{goal}" for text in (advantage, f"sg({advantage})"))
    kinds = [
        advantage.adds
        for advantage in Facts(objdsl.loads(live).formula).live_advantages
        if isinstance(advantage.leaf, LogProb)
    ]
    adds = ADVANTAGES[advantage][TERMS.index(term)]
    assert kinds == ([] if adds is None else [adds])
    for seed in range(2):
        a, b = gradient(live, seed), gradient(stopped, seed)
        off = float((a - b).norm() / b.norm())
        assert (off > 1e-3) == (Adds.BIAS in kinds)
        assert off > 1e-3 or off < 1e-10
