"""`t[t]` and `x[t]` in a reduction along the tokens: the values of the present token."""

from __future__ import annotations

import operator
from collections.abc import Callable

import pytest

from objdsl import driver
from objdsl.errors import ObjectiveError
from objdsl.ir.evaluate import Batch, evaluate
from objdsl.source import Source

GOOD = "maximize mean[p,i] (reward * sum[t] log(pi))"
GIVEN = "given x[p,i,t]\ngiven turn[p,i,t] before t\n"
X = [[0.5, -1.25, 3.0, 0.75], [2.0, 0.25]]
TURN = [[1.0, 1.0, 2.0, 2.0], [1.0, 2.0]]
Pair = Callable[[int, int, list[float]], float]

PAIRS: dict[str, Pair] = {
    "t[t]": lambda s, t, x: t,
    "x[t]": lambda s, t, x: x[t - 1],
    "(s - t[t])": lambda s, t, x: s - t,
    "((s - t[t]) * x)": lambda s, t, x: (s - t) * x[s - 1],
    "((t[t] - t[s]) * x[s] * x[t])": lambda s, t, x: (t - s) * x[s - 1] * x[t - 1],
    "(x / t[t] - x[t] / s)": lambda s, t, x: x[s - 1] / t - x[t - 1] / s,
    "(-(x - x[t])^2 + 1)": lambda s, t, x: 1 - (x[s - 1] - x[t - 1]) ** 2,
    "sg(2 * (s - t[t]) * x + 3)": lambda s, t, x: 2 * (s - t) * x[s - 1] + 3,
}
RELATIONS = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}


@pytest.mark.parametrize("relation", RELATIONS)
@pytest.mark.parametrize("body", PAIRS)
def test_the_value_is_that_of_every_pair(body: str, relation: str) -> None:
    forms = {
        f"sum[s {relation} t] {body}": (False, False, False),
        f"mean[s {relation} t] {body}": (True, False, False),
        f"sum[s {relation} t | x > 0] {body}": (False, True, False),
        f"mean[s {relation} t by turn] {body}": (True, False, True),
    }
    lines = [f"report n{k} = mean[p,i] sum[t] (t * ({form}))" for k, form in enumerate(forms)]
    formula = driver.compile_source(Source("x.obj", GIVEN + "\n".join([*lines, GOOD, ""])))
    batch = Batch([0, 1], [4, 2], {"x": X, "turn": TURN})
    values = evaluate([report.value for report in formula.reports], batch, {})
    for value, (mean, masked, by_turn) in zip(values, forms.values(), strict=True):
        assert value == pytest.approx(brute(PAIRS[body], relation, mean, masked, by_turn)), body


def brute(pair: Pair, relation: str, mean: bool, masked: bool, by_turn: bool) -> float:
    total = 0.0
    for x, turn in zip(X, TURN, strict=True):
        for t in range(1, len(x) + 1):
            running = [s for s in range(1, len(x) + 1) if RELATIONS[relation](s, t)]
            running = [s for s in running if not masked or x[s - 1] > 0]
            running = [s for s in running if not by_turn or turn[s - 1] == turn[t - 1]]
            values = [pair(s, t, x) for s in running]
            total += t * sum(values) / (max(len(values), 1) if mean else 1)
    return total / len(X)


@pytest.mark.parametrize(
    "form",
    [
        "sum[s >= t] (0.9 ^ (s - t[t]))",
        "max[s <= t] (x - x[t])",
        "sum[s >= t] min(x, x[t])",
        "sum[s >= t | s < t[t] + 2] x",
        "prod[s <= t] exp(x - x[t])",
        "sum[s >= t] (x / (s + t[t]))",
    ],
)
def test_what_compares_every_two_tokens_is_refused(form: str) -> None:
    text = f"{GIVEN}w = {form}\nmaximize mean[p,i] sum[t] (w * log(pi))\n"
    with pytest.raises(ObjectiveError, match="every two tokens of a response"):
        driver.compile_source(Source("x.obj", text))


def test_a_plain_t_is_still_refused() -> None:
    text = f"w = sum[s >= t] (s - t)\n{GOOD}\n"
    with pytest.raises(ObjectiveError, match="the present one `t\\[t\\]`"):
        driver.compile_source(Source("x.obj", text))
