"""Arithmetic of parameters: at every value the emitted code agrees with the interpreter."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import product
from random import Random

import numpy as np
import pytest
import torch

import objdsl
from helpers import autograd_evaluator
from helpers.evaluators import Case
from helpers.random_objectives import data
from helpers.samples import thinned
from objdsl.ir import build
from objdsl.ir.nodes import BOOLEAN_OPS, BinaryOp, Const, Expr, UnaryOp
from objdsl.ir.nodes import COMPARISONS as COMPARED
from objdsl.ir.ops import BINARY, FUNCTIONS, SIGNS, UNARY, unary

EXTREMES = [
    0.0, 1.0, -1.0, 0.5, -0.5, 2.0, 3.0, 30.0, -30.0, 700.0, 750.0, -750.0, 800.0, -800.0, 1e-300,
    5e-324, 1e200, -1e200, 1.7e308, math.inf, -math.inf,
]  # fmt: skip
OF_ONE = ["-{}", *(f"{name}({{}})" for name in FUNCTIONS)]
OF_TWO = ["min({}, {})", "max({}, {})"]
OF_TWO += [f"{{}} {sign} {{}}" for sign, op in SIGNS.items() if op not in BOOLEAN_OPS]
COMPARISONS = [BINARY[op].sign for op in sorted(COMPARED)]


def formula(random: Random, depth: int) -> str:
    """A number computed from parameters, in brackets or as a single name."""
    if depth == 0:
        return random.choice(["a", "a", "b", "c", "2", "0.5", "1"])

    def part() -> str:
        return formula(random, depth - 1)

    match random.randrange(8):
        case 0 | 1 | 2:
            return f"({random.choice(OF_ONE).format(part())})"
        case 3:
            return f"clip({part()}, {part()}, {part()})"
        case 4:
            condition = f"{part()} {random.choice(COMPARISONS)} {part()}"
            return f"({part()} if {condition} else {part()})"
    return f"({random.choice(OF_TWO).format(part(), part())})"


_LARGEST = np.finfo(np.float64).max


def same(a: object, b: object) -> bool:
    """Whether numbers are equal up to rounding, including subnormal numbers."""
    return bool(np.allclose(a, b, rtol=1e-11, atol=1e-300, equal_nan=True))  # type: ignore[arg-type]


@pytest.mark.parametrize("first", thinned(range(0, 80, 20), 2))
def test_functions_of_parameters_at_extremes(first: int) -> None:
    for seed in range(first, first + 20):
        random = Random(seed)
        text = formula(random, 1 + seed % 4)
        objective = objdsl.loads(
            "param a = 1\nparam b = 1\nparam c = 1\n"
            f"report number = {text}\nreport all = sum[p,i] (reward * 0.3 + {text})\n"
            f"maximize mean[p,i,t] (log(pi) * ({text})) + mean[p,i] (0.1 * sum[t] log(pi))\n"
        )
        case = Case(objective, data(seed))
        for _ in range(6):
            values = {name: random.choice(EXTREMES) for name in "abc"}
            variant = Case(objective.with_params(**values), case.data)
            with np.errstate(all="ignore"):
                expected = variant.reference()
                for numbers in (variant.padded(), variant.packed()):
                    message = f"{text} at {values}: {expected.reports} and {numbers.reports}"
                    assert expected.reports is not None and numbers.reports is not None
                    for name, x in expected.reports.items():
                        assert same(numbers.reports[name], x), message
                    if abs(expected.value) < _LARGEST / 100:  # or a sum overflows before it ends
                        assert same(numbers.value, expected.value), message
                    for row, w in enumerate(expected.weights["log_pi"]):
                        assert same(numbers.weights["log_pi"][row], w), message


FOLDED: dict[BinaryOp, Callable[..., Expr]] = {
    "add": build.add, "sub": build.sub, "mul": build.mul, "div": build.div, "pow": build.power,
}  # fmt: skip


@pytest.mark.parametrize("op", FUNCTIONS)
def test_functions_of_numbers_are_what_torch_says(op: UnaryOp) -> None:
    for x in EXTREMES:
        expected = autograd_evaluator.UNARY[op](torch.tensor(x, dtype=torch.float64)).item()
        assert same(UNARY[op].value(x), expected), (op, x)
        folded = unary(op, Const(x))
        assert not isinstance(folded, Const) or same(folded.value, expected), (op, x)


@pytest.mark.parametrize("op", FOLDED)
def test_arithmetic_of_numbers_is_what_torch_says(op: BinaryOp) -> None:
    for x, y in product(EXTREMES, EXTREMES):
        folded = FOLDED[op](Const(x), Const(y))
        a, b = (torch.tensor(z, dtype=torch.float64) for z in (x, y))
        expected = autograd_evaluator.BINARY[op](a, b).item()
        assert same(BINARY[op].value(x, y), expected), (op, x, y)
        assert not isinstance(folded, Const) or same(folded.value, expected), (op, x, y)
