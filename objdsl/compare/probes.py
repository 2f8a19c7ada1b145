"""Measurements on steps of single tokens: bounds of ratios, penalties, constants beside a std.

A step has many prompts, each with two responses of a single token, of which the first is moved; all
points of a curve are measured by one evaluation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from objdsl.compare.draw import Drawing
from objdsl.ir.columns import LogProbs, Reward, Values
from objdsl.ir.indices import RESPONSE, decimal
from objdsl.losses.batch import Batch
from objdsl.losses.loss import Loss, LossError

_PI = LogProbs("pi").name
_BASE = -3.0
_POINTS = 240
_LARGE = 1e9
_MOST = 4


def clip_bounds(a: Loss, b: Loss, drawing: Drawing) -> str | None:
    """The ratios `pi / old` at which the gradients of the two change their course, if they are not
    the same."""
    texts = []
    for sign, positive in (("positive", True), ("negative", False)):
        bounds = [_bounds(loss, drawing, positive) for loss in (a, b)]
        if bounds[0] is None or bounds[1] is None:
            return None
        if bounds[0] != bounds[1]:
            first, second = (
                f"at {' and '.join(map(decimal, x))}" if x else "nowhere" for x in bounds
            )
            texts.append(f"where the advantage is {sign}, A clips {first}, B {second}")
    return "a bound of the ratio pi / old: " + "; ".join(texts) if texts else None


def _bounds(loss: Loss, drawing: Drawing, positive: bool) -> list[float] | None:
    """Where the exponent of the gradient as a power of the ratio jumps; None where it jumps so
    often that these are no bounds."""

    def exponents(x: Tensor) -> Tensor:
        h = _curve(loss, drawing, positive, lambda moved: dict.fromkeys(moved, x))
        h = torch.where(h.abs() < 1e-12 * h.abs().max(), 0.0, h)
        slope = (h[1:].abs().log() - h[:-1].abs().log()) / (x[1:] - x[:-1])
        return torch.nan_to_num(slope, nan=-50.0, posinf=50.0, neginf=-50.0).clamp(-50, 50)

    try:
        grid = _grid()
        jumps = exponents(grid).diff().abs() > 0.2
        bounds = []
        starts = _starts(jumps)
        if len(starts) > _MOST:
            return None
        for k in starts:
            low, high = float(grid[max(k - 1, 0)]), float(grid[min(k + 3, _POINTS - 1)])
            for _ in range(3):
                fine = torch.linspace(low, high, _POINTS, dtype=torch.float64)
                at = int(exponents(fine).diff().abs().argmax())
                low, high = float(fine[max(at - 1, 0)]), float(fine[min(at + 3, _POINTS - 1)])
            ratio = float(torch.tensor((low + high) / 2, dtype=torch.float64).exp())
            bounds.append(float(f"{ratio:.5g}"))
        return bounds
    except LossError:
        return None


def _grid() -> Tensor:
    """Logarithms of ratios, on both sides of 1 and the closer together the nearer to it."""
    side = torch.logspace(-4.3, 0.38, _POINTS // 2, dtype=torch.float64)
    return torch.cat([-side.flip(0), side])


def scan(drawing: Drawing, positive: bool) -> Batch:
    """A step of single tokens whose ratios `pi / old` are everywhere, so that no bound of a clip
    is missed by chance."""
    grid = _grid()
    return _step(drawing, positive, lambda names: dict.fromkeys(names, grid), references=True)


def _starts(jumps: Tensor) -> list[int]:
    """The first of each run of jumps."""
    places = jumps.nonzero().squeeze(1).tolist()
    return [k for k in places if k - 1 not in places]


def penalties(a: Loss, b: Loss, drawing: Drawing) -> str | None:
    """The estimators of a penalty against a reference, if they are not the same."""
    for name, column in sorted(drawing.columns.items()):
        if not isinstance(column.role, LogProbs) or column.role.policy in ("pi", "old", "mu"):
            continue
        try:
            first, second = (_penalty(loss, drawing, name) for loss in (a, b))
        except LossError:
            return None
        if first is not None and second is not None and first != second:
            return f"the penalty against {column.role.policy}: A has {first}, B {second}"
    return None


def _penalty(loss: Loss, drawing: Drawing, reference: str) -> str | None:
    """How the gradient changes with `x = log(ref / pi)`; None if as that of no penalty."""
    x = torch.linspace(-1, 1, _POINTS + 1, dtype=torch.float64)
    h = _curve(loss, drawing, True, lambda moved: {reference: x})
    h = (h - h[_POINTS // 2]) * len(x) * 2
    if float(h.abs().max()) < 1e-12:
        return "none that changes its gradient (k1, or nothing)"
    for name, shape in (("k2", -x), ("k3", 1 - x.exp())):
        factor = float(h @ shape / (shape @ shape))
        if float((h - factor * shape).abs().max()) < 1e-7 * float(h.abs().max()):
            return f"{name} times {factor:.4g}"
    return None


def std_constants(a: Loss, b: Loss, drawing: Drawing) -> str | None:
    """What is added to the standard deviation of a group, where the two add different numbers."""
    try:
        first, second = (_std_constant(loss, drawing) for loss in (a, b))
    except LossError:
        return None
    if first == second:
        return None
    return f"a constant beside the standard deviation: A adds {decimal(first)}, B {decimal(second)}"


def _std_constant(loss: Loss, drawing: Drawing) -> float:
    """e of `1 / (std + e)`: by how much less small rewards count than large ones."""

    def effect(scale: float, size: int = 2) -> float:
        sides = [
            _curve(loss, drawing, positive, lambda moved: {}, scale=scale, size=size)[0]
            for positive in (True, False)
        ]
        return float(sides[0] - sides[1])

    large, small = effect(_LARGE), 1e-2
    # With ddof=1, the std of s, -s, s, -s is that of s, -s times sqrt(2 / 3); with ddof=0 it is the
    # same. The weight of a response may be divided by the size of the group on top of that.
    grown = effect(_LARGE, 4) / large
    ddof = min((0, 1), key=lambda ddof: min(abs(grown * k - 1.5 ** (ddof / 2)) for k in (1, 2)))
    std = small * (2 / (2 - ddof)) ** 0.5
    return float(f"{std * (large / effect(small) - 1):.3g}")


def _curve(
    loss: Loss,
    drawing: Drawing,
    positive: bool,
    place: Callable[[list[str]], Mapping[str, Tensor]],
    *,
    scale: float = 1.0,
    size: int = 2,
) -> Tensor:
    """The gradient by the first token of each prompt of such a step."""
    step = _step(drawing, positive, place, scale=scale, size=size)
    return loss(step).gradients[_PI][::size, 0]


def _step(
    drawing: Drawing,
    positive: bool,
    place: Callable[[list[str]], Mapping[str, Tensor]],
    *,
    scale: float = 1.0,
    size: int = 2,
    references: bool = False,
) -> Batch:
    """A step of single tokens.

    Args:
        positive: whether the first response of each prompt has the higher reward.
        place: by how much its log-probabilities are above the others', from the names of `pi` and
            of the references, which move together.
        scale: of the rewards, which are `scale` and `-scale` in turn.
        size: of the groups.
        references: whether references stay, while `pi` moves.
    """
    policies = {
        name: column.role.policy
        for name, column in drawing.columns.items()
        if isinstance(column.role, LogProbs) and not column.role.distribution
    }
    moving = [name for name, policy in policies.items() if policy not in ("old", "mu")]
    moves = place([_PI] if references else moving)
    count = max((len(x) for x in moves.values()), default=2)
    generator = torch.Generator().manual_seed(0)
    lengths = torch.ones(size * count, dtype=torch.long)
    batch = drawing.step([size] * count, lengths, generator)
    # But for the policies and the rewards, all prompts are the same, and critics are 0.
    columns = {
        name: x[:size].repeat(count, *[1] * (x.dim() - 1)) if x.dim() else x
        for name, x in batch.columns.items()
    }
    for name, column in drawing.columns.items():
        if isinstance(column.role, Values):
            columns[name] = torch.zeros_like(columns[name])
    for name in policies:
        x = torch.full((count, size), _BASE, dtype=torch.float64)
        if name in moves:
            x[:, 0] += moves[name]
        columns[name] = x.view(-1, 1)
    for name, column in drawing.columns.items():
        if isinstance(column.role, Reward) and column.indices == RESPONSE:
            low, high = drawing.domains[name].two if name in drawing.domains else (-scale, scale)
            pair = [high, low] if positive else [low, high]
            columns[name] = torch.tensor(pair, dtype=torch.float64).repeat(count * size // 2)
    return drawing.finished(Batch(batch.prompt, batch.mask, columns))
