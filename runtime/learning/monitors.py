"""Monitors: what a run measures at each step besides the reports of its objective.

Those of policies are computed from log-probabilities that learning needs anyway. Those of a
formula, its clips and its weights, are further reports of the objective: they cost no pass, in
whatever way the loss is computed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

import objdsl.ir.nodes as n
from objdsl.ir.build import ONE, ZERO, both
from objdsl.ir.differentiate import clipped_surrogate, weights_of
from objdsl.ir.indices import TOKEN, Indices
from objdsl.ir.objective import Named
from objdsl.ir.objective import Objective as Formula
from objdsl.objective import Objective
from objdsl.runtime.engines.batch import Batch

# Columns of the run itself, under names that no file can declare: the log-probabilities of the
# policy when the responses were sampled, its entropies, and which responses are right.
ROLLOUT, ENTROPY, RIGHT = "log pi, before", "entropy, before", "right"

CLIP_LOW, CLIP_HIGH, WEIGHTLESS = "clip_low", "clip_high", "weightless"
OF_FORMULA = (CLIP_LOW, CLIP_HIGH, WEIGHTLESS)


def is_right(reward: float, least: float) -> bool:
    """Whether a response counts as right: its reward is `least` or more, up to rounding."""
    return reward >= least or math.isclose(reward, least, rel_tol=1e-6)


# --- of responses and policies -------------------------------------------------------------------


def of_lengths(lengths: Sequence[int], right: Sequence[bool]) -> dict[str, float]:
    """The mean length of right and of wrong responses, with the tenth and the ninetieth
    percentile."""
    metrics: dict[str, float] = {}
    for name, value in (("right", True), ("wrong", False)):
        part = sorted(x for x, is_so in zip(lengths, right, strict=True) if is_so == value)
        if part:
            metrics[f"length_{name}"] = sum(part) / len(part)
            for percent in (10, 90):
                metrics[f"length_{name}_p{percent}"] = part[round(percent / 100 * (len(part) - 1))]
    return metrics


def of_policies(batch: Batch) -> dict[str, float]:
    """Entropy; KL divergences of the policy before it learns from the engine that sampled, and from
    the reference; and how much the importance weights between the engines vary."""
    mask, old = batch.mask, batch.columns[ROLLOUT]
    values = {"entropy": batch.columns[ENTROPY][mask].mean()}
    if "log_mu" not in batch.columns:  # responses of a dataset are samples of no policy
        return _numbers(values)
    log_ratio = torch.where(mask, old - batch.columns["log_mu"], 0)
    values |= _divergences("kl_mu_old", log_ratio[mask])
    values["mismatch"] = log_ratio[mask].abs().mean()
    values["mismatch_max"] = log_ratio[mask].max().exp()
    values["effective_tokens"] = _effective(log_ratio[mask])
    values["effective_responses"] = _effective(log_ratio.sum(1))
    if "log_ref" in batch.columns:
        values |= _divergences("kl_old_ref", (batch.columns["log_ref"] - old)[mask])
    return _numbers(values)


def of_update(batch: Batch, log_pi: Tensor) -> dict[str, float]:
    """How far the policy has moved since the responses were sampled.

    Args:
        log_pi: `[N, T]`, the log-probabilities of an optimizer step.
    """
    log_ratio = log_pi - batch.columns[ROLLOUT]
    values = _divergences("kl_old_pi", log_ratio[batch.mask])
    if RIGHT in batch.columns:
        right = (batch.columns[RIGHT] > 0)[:, None]
        for name, rows in (("right", right), ("wrong", ~right)):
            ratio = log_ratio[batch.mask & rows].exp()
            if len(ratio):
                values |= {
                    f"ratio_{name}": ratio.mean(),
                    f"ratio_{name}_min": ratio.min(),
                    f"ratio_{name}_max": ratio.max(),
                }
    return _numbers(values)


def merged(steps: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The metrics of several optimizer steps: largest and smallest values stay such, the others are
    averaged, each over the steps that have it."""
    result: dict[str, float] = {}
    for name in dict.fromkeys(name for step in steps for name in step):
        values = [step[name] for step in steps if name in step]
        if name.endswith("_max"):
            result[name] = max(values)
        elif name.endswith("_min"):
            result[name] = min(values)
        else:
            result[name] = sum(values) / len(values)
    return result


def _divergences(name: str, log_ratio: Tensor) -> dict[str, Tensor]:
    """The estimates of KL(P || Q) by k1, k2 and k3, per token, from samples of P and
    log Q - log P."""
    return {
        f"{name}_k1": -log_ratio.mean(),
        f"{name}_k2": (log_ratio**2).mean() / 2,
        f"{name}_k3": (log_ratio.expm1() - log_ratio).mean(),
    }


def _effective(log_weights: Tensor) -> Tensor:
    """The effective share of a sample, (sum w)^2 / (n sum w^2)."""
    weights = (log_weights - log_weights.max()).double().exp()
    return weights.sum() ** 2 / (len(weights) * (weights**2).sum())


def _numbers(values: Mapping[str, Tensor]) -> dict[str, float]:
    """0-d tensors as numbers, in one transfer from the device."""
    numbers = torch.stack([x.double() for x in values.values()]).tolist()
    return dict(zip(values, numbers, strict=True))


# --- of a formula ---------------------------------------------------------------------------------


def monitored(objective: Objective) -> Objective:
    """The objective with reports of its clips and its weights; one of the file's own with the same
    name stays instead."""
    formula = objective.formula
    taken = {report.name for report in formula.reports}
    more = [Named(name, x) for name, x in _shares(formula) if name not in taken]
    return Objective(replace(formula, reports=(*formula.reports, *more)), objective.params)


def _shares(formula: Formula) -> Iterator[tuple[str, n.Expr]]:
    for name, masks in zip((CLIP_LOW, CLIP_HIGH), zip(*_clips(formula), strict=True), strict=False):
        same = [mask for mask in masks if mask.indices == masks[0].indices]
        mask = same[0]
        for other in same[1:]:
            mask = n.Binary("or", mask, other)
        yield name, _share(mask, mask.indices, formula)
    for leaf, weight in weights_of(formula).items():
        if leaf == n.LogProb("pi", trained=True) and {*weight.indices} <= {*TOKEN}:
            yield WEIGHTLESS, _share(n.Binary("eq", weight, ZERO), TOKEN, formula)


def _share(mask: n.Expr, over: Indices, formula: Formula) -> n.Expr:
    """The share of prompts that are kept, of their responses or of their tokens."""
    return n.Reduce("mean", over, n.Where(mask, ONE, ZERO), formula.keep)


def _clips(formula: Formula) -> Iterator[tuple[n.Expr, n.Expr]]:
    """Where each clip of what the policy changes holds its value at the lower bound, and where at
    the upper one; of a clipped surrogate, where that removes the gradient."""
    nodes = n.topological(formula.goal)
    signs: dict[n.Clip, tuple[n.Expr, n.Expr]] = {}
    for node in nodes:
        if not isinstance(node, n.Binary) or node.op not in ("min", "max"):
            continue
        surrogate = clipped_surrogate(node)
        if surrogate is None:
            continue
        x, slope, _ = surrogate
        up, down = n.Binary("gt", slope, ZERO), n.Binary("lt", slope, ZERO)
        for inner in n.topological(node):
            if isinstance(inner, n.Clip) and inner.x == x:
                signs[inner] = (down, up) if node.op == "min" else (up, down)
    for clip in nodes:
        if isinstance(clip, n.Clip) and clip.x.current and {*clip.indices} <= {*TOKEN}:
            low: n.Expr = n.Binary("lt", clip.x, clip.lo)
            high: n.Expr = n.Binary("gt", clip.x, clip.hi)
            if clip in signs:
                low, high = both(signs[clip][0], low), both(signs[clip][1], high)
            if low.indices:
                yield low, high
