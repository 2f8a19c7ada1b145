"""Random optimizer steps for the gallery, and tools to compare objectives on them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from helpers.declared_domains import nearest
from helpers.paper_formulas import Array, Step
from objdsl.ir.declarations import Domain
from objdsl.ir.evaluate import Batch

# Hyper-parameters under which the branches of a formula are all taken by random data; where a
# file is not named here, its own defaults do that.
PARAMS: dict[str, dict[str, float]] = {
    "areal_grpo": {"C": 1.2},
    "aspo": {"c": 1.1},
    "a_star_po": {"beta2": 0.4},
    "cispo": {"eps_high": 0.1},
    "clip_cov": {"low": 0.01, "high": 0.3, "fraction": 0.15},
    "dapo": {"L_max": 5, "L_cache": 3},
    "dcpo": {"eps_low": 0.02, "eps_high": 0.05, "c": 1.2},
    "deepseek_v32": {"beta": 0.1, "delta": 0.05},
    "differential_smoothing": {"gamma_p": 0.1, "gamma_n": 0.2},
    "dppo": {"delta": 0.05},
    "dppo_kl": {"delta": 0.005},
    "dr_grpo": {"L": 12},
    "dr_gspo": {"eps_low": 0.1, "eps_high": 0.1},
    "dual_clip": {"c": 1.3, "beta": 0.1},
    "echo": {"delta": 0.05, "alpha": 0.3, "tau": 0.1},
    "geometric_mask": {"low": 0.9, "high": 1.1},
    "gdpo": {"w_correct": 0.8, "w_format": 0.3},
    "gmpo": {"eps": 0.2},
    "gspo": {"eps_low": 0.1, "eps_high": 0.1},
    "gspo_token": {"eps_low": 0.1, "eps_high": 0.1},
    "hierarchical_grpo": {"delta": 0.05},
    "high_entropy": {"L_max": 5, "L_cache": 3, "rho": 0.4},
    "icepop": {"a": 0.8, "b": 1.2},
    "intellect3": {"a": 0.8, "b": 1.3, "least": 0.7},
    "ipo": {"beta": 0.5},
    "just_rl": {"c": 1.3},
    "kl_cov": {"fraction": 0.15},
    "kto": {"lambda_d": 1.3, "lambda_u": 0.7, "beta": 0.8},
    "m2po": {"tau": 0.02},
    "mini_rl": {"C": 1.2},
    "mis": {"C": 1.2},
    "openrlhf_ppo": {"beta": 0.1},
    "opsm": {"delta": 0.05},
    "oreal": {"beta": 0.1},
    "ppo": {"gamma": 0.9, "beta": 0.1},
    "prime_rl": {"delta": 0.05, "tau": 0.1},
    "qae": {"L_max": 5, "L_cache": 3},
    "reinforce": {"b": 0.3},
    "reinforce_pp": {"beta": 0.1},
    "sapo": {"tau_neg": 2.5},
    "scale_rl": {"C": 1.2},
    "skyrl_grpo": {"beta": 0.1},
    "tinker_cispo": {"low": 0.9, "high": 1.1},
    "tis": {"C": 1.2},
    "top_k_distillation": {"k": 2},
    "up_dapo": {"L_max": 5, "L_cache": 3},
    "vapo": {"alpha": 0.7},
}

POLICIES = ("pi", "old", "mu", "ref", "teacher", "inner", "inner_old")
VOCABULARY = 3


def random_step(seed: int, domains: Mapping[str, Domain] | None = None) -> Step:
    """Four prompts with 2 to 5 responses of 1 to 6 tokens, in mixed order.

    Rewards are 0 or 1, so that they tie; those of one prompt are all equal, those of another are
    fractions. Some tokens have exactly the same probability under all policies.

    Args:
        domains: where columns lie; the nearest numbers of it are taken.
    """
    rng = np.random.default_rng(seed)
    prompt = rng.permutation(np.repeat([3, 7, 8, 20], [2, 4, 5, 3])).tolist()
    n = len(prompt)
    lengths = rng.integers(1, 7, n)
    reward = rng.integers(0, 2, n).astype(float)
    for p, values in ((3, [1.0, 1.0]), (7, [0.25, 0.5, 1.0, 0.0])):
        reward[[i for i in range(n) if prompt[i] == p]] = values

    def tokens(scale: float) -> list[Array]:
        return [scale * rng.normal(size=k) for k in lengths]

    base = [-0.1 - rng.gamma(1.0, 0.7, size=k) for k in lengths]
    same = [rng.random(k) < 0.15 for k in lengths]
    logs = {
        name: [np.where(s, x, x + d) for x, d, s in zip(base, tokens(0.25), same, strict=True)]
        for name in POLICIES
    }

    def distributions() -> list[Array]:
        logits = [rng.normal(size=(k, VOCABULARY)) for k in lengths]
        return [x - np.log(np.exp(x).sum(-1, keepdims=True)) for x in logits]

    chosen = rng.integers(0, 2, n)
    for p in set(prompt):
        first, second = [i for i in range(n) if prompt[i] == p][:2]
        chosen[[first, second]] = [1, 0]
    value = tokens(1.0)
    step = Step(
        prompt=prompt,
        reward=reward,
        now=logs["pi"],
        **logs,
        value=value,
        value_old=[v + d for v, d in zip(value, tokens(0.3), strict=True)],
        noise=[rng.random(k) for k in lengths],
        greedy=np.array([{3: 0.5, 7: 0.0, 8: 1.0, 20: 0.25}[p] for p in prompt]),
        chosen=chosen,
        desirable=rng.integers(0, 2, n),
        mismatched=(rng.random(n) < 0.3).astype(int),
        pi_dist=distributions(),
        ref_dist=distributions(),
        correct=(rng.random(n) < 0.5).astype(float),
        format=rng.normal(size=n),
        won=np.array([{3: 1.5, 7: 4.0, 8: 0.5, 20: 2.0}[p] for p in prompt]),
        lost=np.array([{3: 2.0, 7: 1.0, 8: 3.5, 20: 2.0}[p] for p in prompt]),
        paid=tokens(1.0),
        turn=[np.cumsum(rng.random(k) < 0.4) for k in lengths],
        state=[],
        cost=np.random.default_rng([seed, 1]).normal(size=n),
    )
    step.anchor = [x + 0.25 * rng.normal(size=len(x)) for x in base]
    step.state = [(turn * 7 + i) % 3 for i, turn in enumerate(step.turn)]
    step.old_dist, step.teacher_dist = distributions(), distributions()
    step.math, step.code = ([x + 0.25 * rng.normal(size=len(x)) for x in base] for _ in range(2))
    step.observed = [(rng.random(k) < 0.3).astype(float) for k in lengths]
    step.is_code = np.array([{3: 1.0, 7: 0.0, 8: 1.0, 20: 0.0}[p] for p in prompt])
    step.v_star = np.array([{3: 0.875, 7: 0.25, 8: 0.625, 20: 0.125}[p] for p in prompt])
    step.solver, step.problem = (rng.random(n) < 0.7).astype(float), rng.integers(0, 2, n)
    for name, domain in (domains or {}).items():
        setattr(step, name, nearest(domain, getattr(step, name)))
    return step


def columns(step: Step) -> dict[str, Any]:
    """The step under the names of objdsl's columns; a column is a list of N rows, or the number
    that all of them have."""
    logs = {f"log_{name}": getattr(step, name) for name in POLICIES}
    plain = ("reward", "value", "value_old", "noise", "greedy", "chosen", "desirable", "mismatched")
    plain = (*plain, "correct", "format", "paid", "turn", "state", "cost")
    return {
        **logs,
        **{name: getattr(step, name) for name in plain},
        **{name: getattr(step, name) for name in ("beta", "log_lambda", "rollout_step")},
        "rollout_steps": step.rollout_steps,
        **{name: getattr(step, name) for name in ("won", "lost", "v_star", "is_code")},
        **{name: getattr(step, name) for name in ("observed", "problem", "solver")},
        **{f"log_{name}": getattr(step, name) for name in ("anchor", "math", "code")},
        **{f"log_{name}": getattr(step, name) for name in ("pi_dist", "ref_dist", "old_dist")},
        "log_teacher_dist": step.teacher_dist,
    }


def batch(step: Step) -> Batch:
    return Batch(step.prompt, step.lengths.tolist(), columns(step), VOCABULARY)


def padded(step: Step) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The mask and the columns as tensors `[N, T]`, with garbage in the padding."""
    longest = int(step.lengths.max())
    mask = torch.arange(longest) < torch.tensor(step.lengths)[:, None]
    tensors = {}
    for name, rows in columns(step).items():
        if np.isscalar(rows) or np.ndim(rows[0]) == 0:
            tensors[name] = torch.tensor(np.asarray(rows, dtype=np.float64))
            continue
        x = torch.full((len(rows), longest, *np.shape(rows[0])[1:]), torch.nan, dtype=torch.float64)
        for i, row in enumerate(rows):
            x[i, : len(row)] = torch.tensor(row)
        tensors[name] = x
    return mask, tensors


def rows_of(tensors: Mapping[str, torch.Tensor], rows: Any) -> dict[str, torch.Tensor]:
    """Some rows of columns; a number that all rows have stays as it is."""
    return {name: x[rows] if x.dim() else x for name, x in tensors.items()}


FIELDS = {"log_pi": "pi", "log_inner": "inner", "value": "value", "log_pi_dist": "pi_dist"}


def differences(function: Callable[[Step], float], step: Step, column: str) -> list[Array]:
    """The derivative of a function of the step by each number of a trained column.

    Central differences; `step.now` stays, so that what it enters is a constant.
    """
    h = 1e-6
    slopes = []
    for i, row in enumerate(getattr(step, FIELDS[column])):
        slope = np.zeros_like(row)
        for at in np.ndindex(row.shape):
            sides = []
            for sign in (1, -1):
                moved = copy.copy(step)
                rows = list(getattr(step, FIELDS[column]))
                rows[i] = rows[i].copy()
                rows[i][at] += sign * h
                setattr(moved, FIELDS[column], rows)
                sides.append(function(moved))
            slope[at] = (sides[0] - sides[1]) / (2 * h)
        slopes.append(slope)
    return slopes
