"""What `beyond-float32` and similar rules say about float32 is what the compiled code computes
there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import objdsl
from helpers.rule_pages import PAGES, cases, findings_of
from objdsl.diagnostic import Certainty
from objdsl.ir.columns import LogProbs
from objdsl.lint.rule import Rule
from objdsl.lint.run import registry

PROMPTS, GROUP, TOKENS = 16, 4, 200
RULES = [rule for rule in registry() if rule.name in ("beyond-float32", "product-outside-logs")]
CASES = [
    pytest.param(rule, case.obj, id=f"{rule.name} {k}")
    for rule in RULES
    for k, case in enumerate(cases((PAGES / f"{rule.name}.md").read_text(encoding="utf-8")))
]


def far_apart(objective: Any, seed: int) -> dict[str, Any]:
    """A step as `Extremes` assumes: no ratio to the sampler is large, but others may be."""
    rng = torch.Generator().manual_seed(seed)
    shape = PROMPTS * GROUP, TOKENS
    online = "reward" in objective.columns
    sampled = -0.2 - torch.rand(shape, generator=rng)
    sampled[:, 0] = 0.0

    def log_probs(policy: str) -> torch.Tensor:
        near = policy in ("old", "mu") or (policy == "pi" and online)
        if policy == objective.sample.policy:
            return sampled
        # For each response a level, from 20 above the sampler in total to far below.
        lowest, highest = 40.0 / TOKENS if near else 25.0, 20.0 / TOKENS
        level = torch.rand(shape[0], 1, generator=rng) * (highest + lowest) - lowest
        return (sampled + level * (torch.rand(shape[0], 1, generator=rng) < 0.8)).clamp(max=0.0)

    columns: dict[str, Any] = {
        "prompt": torch.arange(PROMPTS).repeat_interleave(GROUP),
        "mask": torch.ones(shape, dtype=torch.bool),
    }
    rows = torch.arange(shape[0])
    for name, column in objective.columns.items():
        if isinstance(column.role, LogProbs):
            columns[name] = log_probs(column.role.policy)
        elif name == "reward":
            columns[name] = 2.0 * (rows % 3 % 2) - 1.0
        else:
            assert column.indices == ("p", "i")
            columns[name] = (rows % 2).float()
    return columns


@pytest.mark.parametrize(("rule", "text"), CASES)
def test_weights_are_infinite_or_dead_where_it_is_said(
    rule: Rule, text: str, tmp_path: Path
) -> None:
    file = tmp_path / "example.obj"
    file.write_text(text, encoding="utf-8")
    objective = objdsl.load(file)
    proven = any(finding.certainty is Certainty.PROVEN for finding in findings_of(rule, text))
    broken = False
    for seed in range(4):
        columns = far_apart(objective, seed)
        log_pi = columns.pop("log_pi")
        step = objective.prepare(**columns)
        if objective.needs_couple:
            step = objective.couple(step, log_pi=log_pi)
        value, weights, _ = objective.weights(log_pi, step)
        finite = torch.isfinite(weights["log_pi"]).all() and torch.isfinite(value)
        broken |= not finite or bool((weights["log_pi"] == 0).all())
    assert broken == proven
