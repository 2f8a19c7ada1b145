"""Objectives whose gradient is exactly that of the expected reward, in forms that hide it.

A plain objective is rewritten by identities: a value times its own divisor, a guard that never
fails, a root times itself, a baseline written out by hand, the absolute value of what is never
negative. Nothing of the mathematics changes, on policy.
"""

from __future__ import annotations

import random

PLAIN = [
    "reward",
    "reward - mean[j != i] (reward)",
    "reward - mean[i] (reward)",
    "reward - 0.5",
    "(reward - mean[i] (reward)) * 3 / 2",
    "reward - (sum[i] (reward) - reward) / 2",
    "reward - (sum[j != i] (reward)) / 2",
    "reward - (3 * mean[i] (reward) - reward) / 2",
    "2 * reward - mean[i] (reward) - mean[j != i] (reward)",
    "reward - mean[j != i] (reward - mean[j != i] (reward))",
]
DECLARED = {
    "[0, inf)": ["abs({})", "max({}, 0)", "sqrt({}^2)", "({} if reward >= 0 else 7)",
                 "({} * sign(reward + 1))", "abs({} + 1) - 1"],
    "[0, 1]": ["abs({})", "clip({}, 0, 1)", "min({}, 1)", "max({}, -1)",
               "({} if reward < 2 else 0)", "(1 - abs(1 - {}))", "clip({}, -3, 5)",
               "sqrt({} * {})"],
    "[-1, 1]": ["clip({}, -1, 1)", "min({}, 1)", "(abs({} + 1) - 1)", "({} if reward > -2 else 3)",
                "(2 - abs(2 - {}))"],
    "{0, 1}": ["{}^2", "({} if reward > 0 else 0)", "sqrt({})", "max({}, 0)",
               "(1 if reward == 1 else 0)", "{}^3", "(1 - (1 - {})^2)", "abs({})"],
    "{-1, 1}": ["{}^3", "sign({})", "(1 if reward > 0 else -1)", "(2 * (reward > 0) - 1)"],
}  # fmt: skip
"""Ways to write the reward itself, for what is declared of it."""
POSITIVE = [
    "(std[i] reward + 0.1)", "(1 + mean[i] (reward^2))", "(mean[j != i] (reward^2) + 3)", "|y|",
    "(|y| + 1)", "max(|y|, 1)", "exp(reward)", "(2 + reward^2)", "(std[p,i] reward + 1e-4)",
    "max(std[i] reward, 0.01)", "sqrt(|y|)", "(1 + sigmoid(reward))", "(abs(reward) + 0.5)",
    "(mean[i] |y|)", "(1 + std[i] reward + mean[i] |y|)", "2", "(pstd[i] reward + |y|)",
    "(max[i] abs(reward) + 1)", "(1 / |y|)", "clip(reward, 0.5, 2)",
]  # fmt: skip
"""Values that are never 0."""
IDENTITIES = [
    "({x} * {s} / {s})", "({x} / {s} * {s})", "(({x} * {s} + {x}) / ({s} + 1))",
    "({x} * sqrt({s}) / sqrt({s}))", "({x} * sqrt({s}) * sqrt({s}) / {s})",
    "({x} * exp(log({s})) / {s})", "({x} * {s}^2 / {s} / {s})", "({x} * {s}^-1 * {s})",
    "({x} + {s} - {s})", "(2 * {x} - {x})", "log(exp({x}))", "max({x}, {x} - {s})",
    "min({x}, {x} + {s})", "clip({x}, {x} - 1, {x} + {s})", "(max({x}, 0) + min({x}, 0))",
    "(max({x}, 0) - max(-({x}), 0))", "(abs({x}) * sign({x}))", "({x} if {s} > 0 else 0)",
    "({x} if {s} >= 0 else reward^2)", "(0 if {s} <= 0 else {x})", "(({x}) / max({s}, 1e-9) * {s})",
    "({x} if |y| >= 1 else 0)", "({x} * abs({s}) / {s})", "({x} if {x} > 0 else {x})",
    "({x} * {s} if {x} > 0 else {x} * {s}) / {s}", "(-(-({x})))", "({x} * ({s} > 0))",
    "(({x} * ({s} + 1) - {x}) / {s})", "(({x} + {x} * {s}^2) / (1 + {s}^2))",
    "({x} * (1 + {s}) - {x} * {s})",
    "({x} * ({s}^2 - 1) / ({s} + 1) / ({s} - 1) if {s} > 1 else {x})",
]  # fmt: skip
BY_TOKEN = [
    "mean[p,i] sum[t] (({w}) * log(pi))",
    "mean[p] mean[i] sum[t] (({w}) * log(pi))",
    "sum[p] mean[i] sum[t] (({w}) * log(pi)) / 2",
    "mean[p,i] (|y| * mean[t] (({w}) * log(pi)))",
    "mean[p,i] sum[t] (({w}) * pi / old)",
    "mean[p,i] sum[t] surrogate(pi / old, {w}, 0.8, 1.2)",
    "mean[p,i] sum[t] (({w}) * sqrt(pi / mu) * sqrt(pi / mu))",
    "mean[p,i] sum[t] (({w}) * log(pi) * sum[v] pi[v])",
    "mean[p,i] sum[t] (({w}) * log(pi) if t <= |y| else 0)",
    "mean[p,i] sum[t] (({w}) * log(pi) * old / mu)",
    "-mean[p,i] sum[t] (-({w}) * log(pi))",
    "mean[p,i] sum[t] (({w}) * pi / sg(pi))",
]
BY_RESPONSE = [
    "mean[p,i] (({w}) * sum[t] log(pi))",
    "mean[p,i] (({w}) * log(prod[t] pi))",
    "mean[p,i] (({w}) * prod[t] (pi / old))",
    "mean[p,i] (({w}) * |y| * mean[t] log(pi))",
    "mean[p,i] (({w}) * log(geo(pi / old)) * |y|)",
    "mean[p,i] (({w}) * ((sum[t] log(pi)) - sum[t] log(old)))",
    "mean[p,i] (({w}) * (sum[t] log(pi)) * |y| / max(|y|, 1))",
]
GUARDS = [
    "std[i] reward > 0", "max[i] reward > min[i] reward", "pstd[i] reward != 0",
    "not std[i] reward <= 0", "min[i] reward < max[i] reward", "not pstd[i] reward == 0",
]  # fmt: skip
"""Masks of the groups whose rewards are not all alike: the others have no advantage."""
GUARDED = [
    "({a} if {m} else 0)", "({a} / s * s if {m} else 0)", "(0 if not ({m}) else {a})",
    "({a} * ({m}))", "({a} if {m} else {a} * |y|)", "(({a} / s if {m} else 0) * s)",
]  # fmt: skip
CENTRED = [
    "mean[p,i] (reward * ((sum[t] log(pi)) - mean[j != i] (sum[t] log(pi))))",
    "mean[p,i] (reward * ((sum[t] log(pi)) - mean[i] (sum[t] log(pi))))",
    "mean[p,i] (reward * (sum[t] log(pi)) - reward * mean[j != i] (sum[t] log(pi)))",
    "mean[p,i] ((reward - 0.3) * ((sum[t] log(pi)) - mean[j != i] (sum[t] log(pi))))",
    "mean[p] (mean[i] (reward * sum[t] log(pi)) - (mean[i] reward) * mean[i] (sum[t] log(pi)))",
    "mean[p,i] (reward * sum[t] log(pi)) - mean[p,i] ((mean[j != i] reward) * sum[t] log(pi))",
]


def exact(draw: random.Random) -> str:
    """A text whose expected gradient is that of the expected reward, times a constant."""
    head = "objective exact\nsample from mu: group 3\n"
    if draw.random() < 0.05:
        return f"{head}maximize {draw.choice(CENTRED)}\n"
    weight = draw.choice(PLAIN)
    if draw.random() < 0.15:
        advantage = draw.choice(["(reward - mean[i] reward)", "(reward - mean[j != i] reward)"])
        form = draw.choice(GUARDED).replace("{m}", draw.choice(GUARDS))
        goal = draw.choice(BY_TOKEN + BY_RESPONSE).replace("{w}", form.replace("{a}", advantage))
        return f"{head}s = std[i] reward\nmaximize {goal}\n"
    if draw.random() < 0.4:
        domain = draw.choice(list(DECLARED))
        head += f"given reward in {domain}\n"
        weight = weight.replace("reward", draw.choice(DECLARED[domain]).replace("{}", "reward"))
    for _ in range(draw.choice([0, 1, 1, 2])):
        form = draw.choice(IDENTITIES)
        weight = form.replace("{x}", f"({weight})").replace("{s}", draw.choice(POSITIVE))
    goal = draw.choice(BY_TOKEN + BY_RESPONSE).replace("{w}", weight)
    return f"{head}maximize {goal}\n"
