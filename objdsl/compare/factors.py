"""Gradients that are the same up to a factor of each row: a sign, a divisor, a ddof."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import product

import torch
from torch import Tensor

from objdsl.compare.relation import Pair
from objdsl.frozen import dataclass
from objdsl.ir.columns import LogProbs
from objdsl.ir.indices import decimal
from objdsl.losses.batch import Batch

_PI = LogProbs("pi").name
_MICRO = (2, 3, 4)
_BESSEL = "G / (G - 1)"

Exponents = dict[str, float]


@dataclass(frozen=True)
class Factor:
    kind: str
    text: str


def factor_of(pairs: Sequence[Pair]) -> Factor | None:
    """The factor of each row by which the second's gradient is larger, if it is a known one."""
    logs, negative, batches = [], set[bool](), []
    for pair in pairs:
        if {*pair.a.gradients} != {_PI} or {*pair.b.gradients} != {_PI}:
            return None
        x, y = pair.a.gradients[_PI], pair.b.gradients[_PI]
        small = 1e-12 * max(float(x.abs().max()), float(y.abs().max()))
        live = x.abs() > small
        if not bool(live.any()) or bool((live != (y.abs() > small)).any()):
            return None
        ratio = y[live] / x[live]
        negative |= {*(ratio < 0).tolist()}
        logs.append(ratio.abs().log())
        batches.append((pair.batch, live))
    if len(negative) > 1:
        return None
    log, sign = torch.cat(logs), -1.0 if negative == {True} else 1.0
    quantities = {
        name: torch.cat(
            [_quantities(batch)[name][:, None].expand(live.shape)[live] for batch, live in batches]
        )
        for name in _quantities(batches[0][0])
    }
    logs_of = torch.stack([quantities[name].log() for name in _NAMES])
    rests = log - _EXPONENTS @ logs_of
    known = (rests.amax(1) - rests.amin(1) < 1e-6).nonzero()
    if len(known):
        k = int(known[0])
        return _named(_CANDIDATES[k], sign * float(rests[k].mean().exp()))
    return None


def _quantities(batch: Batch) -> dict[str, Tensor]:
    """What sums are divided by, for each row."""
    lengths = batch.lengths.double()
    count = len(batch)
    one_each = torch.ones(count, dtype=torch.float64)
    size = torch.zeros(len(batch.prompts), dtype=torch.float64)
    number = {prompt: k for k, prompt in enumerate(batch.prompts)}
    group = torch.tensor([number[prompt] for prompt in batch.prompt.tolist()])
    sizes = size.index_add(0, group, one_each)[group]
    quantities = {
        "tokens": one_each * lengths.sum(),
        "responses": one_each * count,
        "prompts": one_each * len(batch.prompts),
        "width": one_each * batch.mask.shape[1],
        "|y|": lengths,
        "G": sizes,
        "group tokens": size.index_add(0, group, lengths)[group],
        _BESSEL: sizes / (sizes - 1).clamp(min=0.5),
    }
    for k in _MICRO:
        part = torch.arange(count) // k
        parts = int(part[-1]) + 1
        empty = torch.zeros(parts, dtype=torch.float64)
        quantities[f"micro-batches of {k}"] = one_each * parts
        quantities[f"tokens of {k}"] = empty.index_add(0, part, lengths)[part]
        quantities[f"responses of {k}"] = empty.index_add(0, part, one_each)[part]
    return quantities


_PHRASES: Mapping[str, str] = {
    "tokens": "the tokens of the step",
    "responses": "the responses of the step",
    "prompts": "the prompts of the step",
    "width": "the width of the tensor",
    "|y|": "the tokens of the response",
    "G": "the responses of the group",
    "group tokens": "the tokens of the group",
}


def _schemes() -> Iterator[tuple[str, ...]]:
    """What a sum over tokens is divided by."""
    yield ()
    yield ("tokens",)
    yield "prompts", "group tokens"
    for rows, tokens in product(
        [(), ("responses",), ("prompts", "G"), ("prompts",), ("G",)], [(), ("|y|",), ("width",)]
    ):
        yield *rows, *tokens
    for k in _MICRO:
        yield f"micro-batches of {k}", f"tokens of {k}"
        yield f"micro-batches of {k}", f"responses of {k}"
        yield f"micro-batches of {k}", f"responses of {k}", "|y|"


def _candidates() -> list[Exponents]:
    """The ratios of two such divisors, and of statistics of a group; the shortest first."""
    candidates: dict[tuple[tuple[str, float], ...], Exponents] = {}
    for first, second in product([*_schemes()], repeat=2):
        for bessel in (0.0, 0.5, -0.5, 1.0, -1.0):
            exponents: Exponents = {_BESSEL: bessel}
            for names, sign in ((first, 1.0), (second, -1.0)):
                for name in names:
                    exponents[name] = exponents.get(name, 0.0) + sign
            exponents = {name: e for name, e in exponents.items() if e}
            candidates[tuple(sorted(exponents.items()))] = exponents
    return sorted(candidates.values(), key=len)


_CANDIDATES = _candidates()
_NAMES = sorted({name for exponents in _CANDIDATES for name in exponents})
_EXPONENTS = torch.tensor(
    [[exponents.get(name, 0.0) for name in _NAMES] for exponents in _CANDIDATES],
    dtype=torch.float64,
)


def _named(exponents: Exponents, constant: float) -> Factor:
    """The factor in words."""
    texts, kinds = [], []
    divisors = {k: e for k, e in exponents.items() if k != _BESSEL}
    micro = next((k for k in _MICRO if f"micro-batches of {k}" in divisors), None)
    if micro is not None:
        which = "B" if divisors[f"micro-batches of {micro}"] < 0 else "A"
        other = "A" if which == "B" else "B"
        kinds.append("micro-batch")
        texts.append(
            f"{which} is the mean over micro-batches of {micro} responses, each divided by its own "
            f"count; {other} is divided by those of the whole step"
        )
    elif divisors:
        first = [_PHRASES[name] for name, e in divisors.items() if e > 0]
        second = [_PHRASES[name] for name, e in divisors.items() if e < 0]
        kinds.append("divisor")
        texts.append(
            f"a divisor: A divides by {' times '.join(first)}, B by {' times '.join(second)}"
            if first and second
            else f"a divisor: A divides by {' times '.join(first)}, B does not"
            if first
            else f"a divisor: B divides by {' times '.join(second)}, A does not"
        )
    if bessel := exponents.get(_BESSEL):
        large, small = ("A", "B") if bessel > 0 else ("B", "A")
        if abs(bessel) == 0.5:
            kinds.append("ddof")
            texts.append(
                f"a standard deviation: {large} divides by that of G - 1 (ddof=1), {small} by that "
                "of G (ddof=0)"
            )
        else:
            kinds.append("baseline")
            texts.append(
                f"{small}'s advantage is G / (G - 1) times {large}'s, as it is with a baseline "
                "of the other responses (leave-one-out)"
            )
    if constant < 0:
        kinds.append("sign")
        texts.append("the sign: the gradient of B points the other way")
    if abs(abs(constant) - 1) > 1e-6:
        kinds.append("factor")
        texts.append(f"a constant factor: B is {decimal(float(f'{abs(constant):.6g}'))} times A")
    return Factor(kinds[0] if kinds else "factor", "; ".join(texts))
