"""Losses in Python are audited by the enumeration that audits objectives."""

from __future__ import annotations

from pathlib import Path

import pytest

import objdsl
from objdsl.audit import audit, audit_function, function_of
from objdsl.losses.advantages import Advantages
from objdsl.losses.python import PythonLoss

LOSSES = Path(__file__).parents[1] / "helpers" / "python_losses.py"
SIZE = {"vocabulary": 2, "horizon": 2, "prompts": 2, "group": 2, "policies": 1, "drifts": (0.3,)}


@pytest.mark.parametrize("like", ["torch", "verl"])
def test_the_figures_are_those_of_the_objective(like: str) -> None:
    name = "ppo" if like == "torch" else "verl_style"
    settings = {} if like == "torch" else {"clip_ratio_high": 0.2}
    text = """objective ppo_like
A = reward - mean[i] reward
maximize mean[p,i,t] surrogate(pi / old, A, 0.8, 1.2)
"""
    objective = objdsl.loads(text)
    loss = PythonLoss(f"{LOSSES}:{name}", like, settings=settings)
    result = audit_function(function_of(loss, Advantages("ppo_like", objective)), **SIZE)
    expected = audit(objective, **SIZE)
    assert [row.policies for row in result.rows] == [row.policies for row in expected.rows]
    assert [row.residual.mean for row in result.rows] == pytest.approx(
        [row.residual.mean for row in expected.rows], abs=1e-9
    )
    assert result.rows[0].residual.mean > 1e-3  # the token mean is biased
