"""Random well-typed objectives, as text, and random ragged batches to run them on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st

from objdsl.emit.reference import Batch

VOCABULARY = 3
LEVELS = ("", "p", "pi", "pit")

# Leaves by the indices that they carry. Policies are probabilities; all are inside (0, 1).
LEAVES = {
    "": ["0.3", "1.5", "eps", "beta"],
    "p": ["difficulty", "mean[i] reward", "max[i] reward", "std[i] reward", "pstd[i] reward"],
    "pi": ["reward", "|y|", "margin", "mean[j != i] reward", "sum[j != i] margin"],
    "pit": [
        "pi / old",
        "log(pi)",
        "pi",
        "log(pi / ref)",
        "old / mu",
        "V_old",
        "t",
        "k3(pi, ref)",
        "noise_column",
        "next(V_old)",
    ],
}
MASKS = {
    "": ["eps < beta"],
    "p": ["std[i] reward > 0.2"],
    "pi": ["chosen", "truncated", "reward > 0.5", "|y| > 2"],
    "pit": ["t > 1", "t == |y|", "V_old > 0", "pi > old", "noise_column > 0"],
}
UNARY = [
    "{}",
    "-{}",
    "abs({})",
    "sg({})",
    "sigmoid({})",
    "logsigmoid({})",
    "sign({})",
    "{}^2",
    "{0} - {0}",
    "0 * {0}",
    "{0} ^ 0",
]
SAFE = ["exp(-abs({}))", "log(1 + abs({}))", "sqrt(1 + {}^2)", "1 / (1 + {}^2)"]
BINARY = [
    "({} + {})",
    "({} - {})",
    "({} * {})",
    "({} / (1 + abs({})))",
    "min({}, {})",
    "max({}, {})",
]
PREAMBLE = """\
objective random
param eps = 0.2 in (0, 1)
param beta = 0.7 in [0, inf)
given margin[p,i]
given chosen[p,i]
given difficulty[p]
given noise_column[p,i,t]
"""


def _up_to(level: str) -> list[str]:
    return [one for one in LEVELS if len(one) <= len(level)]


@st.composite
def masks(draw: Any, level: str) -> str:
    def leaf() -> str:
        return draw(st.sampled_from(MASKS[draw(st.sampled_from(_up_to(level)))]))

    match draw(st.integers(0, 4)):
        case 0:
            return f"(not ({leaf()}))"
        case 1:
            return f"(({leaf()}) and ({leaf()}))"
        case 2:
            return f"(({leaf()}) or ({leaf()}))"
    return f"({leaf()})"


@st.composite
def expressions(draw: Any, level: str, depth: int) -> str:
    """An expression with at most the indices of `level`."""
    if depth == 0:
        here = draw(st.sampled_from([*_up_to(level), level, level]))
        return "(" + draw(st.sampled_from(LEAVES[here])) + ")"

    def sub(at: str = level) -> str:
        return draw(expressions(at, depth - 1))

    kind = draw(st.integers(0, 9))
    if kind <= 2:
        return draw(st.sampled_from(BINARY)).format(sub(), sub())
    if kind == 3:
        return "(" + draw(st.sampled_from(UNARY)).format(sub()) + ")"
    if kind == 4:
        return "(" + draw(st.sampled_from(SAFE)).format(sub()) + ")"
    if kind == 5:
        return f"({sub()} if {draw(masks(level))} else {sub()})"
    if kind == 6:
        bounds = draw(st.sampled_from(["0.8, 1.2", "1 - eps, 1 + eps", "-0.5, 0.5", "-1, eps"]))
        return f"clip({sub()}, {bounds})"
    if kind == 7:
        ratio = draw(st.sampled_from(["pi / old", "pi / mu", "old / mu"]))
        if level == "pit":
            return f"surrogate({ratio}, {sub()}, 1 - eps, 1 + eps)"
        return f"geo({ratio})" if level == "pi" else sub()
    if kind == 8:
        return f"({draw(masks(level))} * {sub()})"
    return draw(reductions(level, depth))


@st.composite
def reductions(draw: Any, level: str, depth: int) -> str:
    """A reduction whose result has exactly the indices of `level`, or a running one."""
    if level == "pit":
        body = draw(expressions("pit", depth - 1))
        kind = draw(
            st.sampled_from(
                ["sum[s >= t]", "sum[s < t]", "mean[s <= t]", "mean[s > t]", "togo", "v", "next"]
            )
        )
        if kind == "togo":
            return f"togo({body}, 0.9)"
        if kind == "next":
            return f"next({body})"
        if kind == "v":
            return draw(
                st.sampled_from(
                    ["entropy", "(sum[v] (pi[v] * log(pi[v] / ref[v])))", "(max[v] pi[v])"]
                )
            )
        body = body.replace("(t)", "(s)").replace("t > 1", "s > 1").replace("t == |y|", "s == |y|")
        return (
            f"({kind} ({body}))"
            if "[s" not in body
            else f"togo({draw(st.sampled_from(LEAVES['pit']))}, 0.5)"
        )
    inner = {"": ["p", "pi", "pit"], "p": ["pi", "pit"], "pi": ["pit"]}[level]
    source = draw(st.sampled_from(inner))
    over = ",".join(source[len(level) :])
    operator = draw(st.sampled_from(["mean", "mean", "sum", "max", "min", "pstd", "prod"]))
    body = draw(expressions(source, depth - 1))
    anchor = {
        "p": "(difficulty * 0.01 + {})",
        "pi": "(reward * 0.01 + {})",
        "pit": "(V_old * 0.01 + {})",
    }
    body = anchor[source].format(body)
    if operator == "prod":
        body = f"exp(-abs({body}))"
    condition = f" | {draw(masks(source))}" if draw(st.integers(0, 3)) == 0 else ""
    return f"({operator}[{over}{condition}] ({body}))"


@st.composite
def objectives(draw: Any, depth: int = 3, rich: bool = True) -> str:
    """A whole file. Its goal always has a gradient path."""
    body = draw(expressions("pit", depth))
    outer = draw(
        st.sampled_from(
            [
                "mean[p] mean[i] mean[t] ({} + 0.1 * log(pi))",
                "mean[p] mean[i,t] ({} + 0.1 * log(pi))",
                "mean[p,i,t] ({} + 0.1 * log(pi))",
                "mean[p,i] (reward * (sum[t] ({} + 0.1 * log(pi))) / 7)",
                "mean[p,i | chosen] sum[t] ({} + 0.1 * log(pi))",
                "mean[p] logsigmoid(mean[i] sum[t] ({} + 0.1 * log(pi)))",
                "mean[p,i] sqrt(1 + (mean[t] ({} + 0.1 * log(pi)))^2)",
            ]
        )
    )
    keep = "keep p where max[i] reward > 0.3\n" if draw(st.integers(0, 5)) == 0 else ""
    report = "V_old * 0.01 + " + draw(expressions("pit", 1))
    lines = [
        PREAMBLE + keep,
        f"X = {draw(expressions('pi', 1))}",
        f"report spread = mean[p,i,t] ({report})",
        f"report largest = max[p,i,t] ({report})",
        "maximize " + outer.format(f"V_old * 0.01 + {body} + X * (pi / old)"),
    ]
    return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class Data:
    """One batch in the two forms: ragged for the reference, padded for torch."""

    batch: Batch
    columns: dict[str, torch.Tensor]
    prompt: torch.Tensor
    mask: torch.Tensor


def data(seed: int, least: int = 2) -> Data:
    """A ragged batch with groups of `least` to 3 responses of 1 to 4 tokens."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(least, 4, size=rng.integers(1, 4))
    prompt = np.repeat(rng.permutation(100)[: len(sizes)], sizes)
    order = rng.permutation(len(prompt))
    prompt = prompt[order]
    n = len(prompt)
    lengths = rng.integers(1, 5, size=n)
    width = int(lengths.max()) + int(rng.integers(0, 2))
    mask = np.arange(width) < lengths[:, None]
    dist = {
        policy: np.log(rng.dirichlet(np.full(VOCABULARY, 2.0), size=(n, width)))
        for policy in ("pi", "ref")
    }
    columns: dict[str, Any] = {
        "log_old": np.log(rng.uniform(0.05, 0.95, (n, width))),
        "value_old": rng.normal(size=(n, width)),
        "noise_column": rng.normal(size=(n, width)),
        "noise": rng.uniform(size=(n, width)),
        "reward": rng.choice([0.0, 0.25, 1.0], size=n),
        "margin": rng.normal(size=n),
        "chosen": (rng.uniform(size=n) < 0.5).astype(float),
        "truncated": rng.uniform(size=n) < 0.4,
        "difficulty": np.zeros(n),
    }
    for name in ("pi", "mu", "ref"):
        near = rng.normal(scale=0.4, size=(n, width))
        columns[f"log_{name}"] = np.minimum(columns["log_old"] + near, -0.01)
    for policy, x in dist.items():
        columns[f"log_{policy}_dist"] = x
    for k in np.unique(prompt):
        columns["difficulty"][prompt == k] = rng.normal()
    ragged = {
        name: [x[r, : lengths[r]] if x.ndim > 1 else x[r] for r in range(n)]
        for name, x in columns.items()
    }
    padded = {}
    for name, x in columns.items():
        x = x.copy()
        if x.ndim > 1 and x.dtype != bool:
            x[~mask] = np.nan  # whatever stands in the padding must not matter
        padded[name] = torch.from_numpy(x)
    return Data(
        Batch(prompt.tolist(), lengths.tolist(), ragged, VOCABULARY),
        padded,
        torch.from_numpy(prompt),
        torch.from_numpy(mask),
    )
