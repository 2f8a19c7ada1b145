"""Random well-typed objectives, as text, and random ragged batches to run them on.

Terms stand at every level: numbers, prompts, responses, tokens, entries of the vocabulary. A text
is drawn by a `random.Random`, so that a seed names it; Hypothesis drives the same code.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from random import Random
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st

from objdsl.ir.evaluate import Batch
from objdsl.ir.interval import ANY
from objdsl.ir.ops import FUNCTIONS
from objdsl.ir.ops import UNARY as OPERATORS

VOCABULARY = 3
LEVELS = ("", "p", "pi", "pit", "pitv")

# Leaves by the indices that they carry.
LEAVES = {
    "": ["0.3", "1.5", "eps", "beta", "(1 - eps)", "(beta / 4)", "pace", "(step / 20)"],
    "p": [
        "difficulty",
        "base",
        "(mean[i] reward)",
        "(max[i] reward)",
        "(std[i] reward)",
        "(quantile[i | chosen == 1](margin, 0.3))",
        "(rank[p] difficulty)",
        "comb(count[i], count[i] chosen)",
    ],
    "pi": [
        "reward",
        "|y|",
        "margin",
        "(mean[j != i] reward)",
        "(sum[j != i] margin)",
        "(rank[i] reward)",
        "((rank[i] (mean[t] (pi / old))) / 3)",
        "(rank[i by parent] margin)",
        "(quantile[i by parent | truncated](margin, 0.3))",
        "(median[i by parent] (mean[t] (pi / old)))",
        "(median[t] V_old)",
        "floor(2 * margin)",
        "(count[t | pi > old] / count[t])",
        "((prod[t] old) / mean[i] prod[t] mu)",
        "log(sum[i] prod[t] pi)",
        "((prod[t] pi) / sum[i] prod[t] pi)",
    ],
    "pit": [
        "(pi / old)",
        "log(pi)",
        "pi",
        "log(pi / ref)",
        "(old / mu)",
        "V_old",
        "{t}",
        "k3(pi, ref)",
        "noise_column",
        "next(V_old)",
    ],
    "pitv": ["pi[v]", "ref[v]", "log(pi[v])", "(pi[v] / ref[v])", "entry_column"],
}
MASKS = {
    "": ["eps < beta", "step < 10", "pace > 0.3", "step > steps / 2"],
    "p": ["std[i] reward > 0.2", "difficulty > 0.137", "base > 0.2", "top[p](difficulty, 0.5)"],
    "pi": [
        "chosen",
        "truncated",
        "reward > 0.5",
        "|y| > 2",
        "top[i](margin, 0.5)",
        "reward == max[i by parent] reward",
        "top[i by parent](margin, 0.5)",
        "trim[i by parent | chosen](margin, eps)",
        "topk[p,i](margin, 2)",
    ],
    "pit": [
        "{t} > 1",
        "{t} == |y|",
        "V_old > 0",
        "pi > old",
        "token == 1",
        "token != 2",
        "noise_column > 0",
        "top[t](V_old, 0.4)",
        "top[p,i,t](noise_column, 0.3)",
        "trim[p,i,t | V_old > 0](log(pi / old)^2, 0.04)",
        "trim[t](V_old, eps - 0.1)",
        "rank[p,i,t | noise_column > 0] V_old <= 3",
        "pick[p,i,t](V_old > 0, 0.4)",
        "first(turn)",
    ],
    "pitv": [
        "pi[v] > 0.3",
        "entry_column > 0",
        "ref[v] > pi[v]",
        "topk[v](ref[v], 2)",
        "topk[v | entry_column > 0](pi[v], 1)",
        "nucleus[v](pi[v], 0.6)",
        "nucleus[v](ref[v], 1 - eps)",
    ],
}
# Powers and sums grow with depth, so that they stand around what is bounded.
UNARY = [
    "-{}",
    "abs({} + 0.0713)",
    "sg({})",
    "sigmoid({})",
    "logsigmoid({})",
    "sign({} - 0.1371)",
    "sigmoid({})^2",
    "({0} - {0})",
    "(0 * {0})",
    "{0} ^ 0",
    "exp(-abs({} + 0.0713))",
    "log(1 + abs({} + 0.0713))",
    "sqrt(1 + {}^2)",
    "1 / (1 + {}^2)",
]
# The others, of what they are defined for; each has to stay small where its operand does.
UNARY += [
    f"{name}({{}})" if row.domain == ANY else f"{name}(abs({{}} + 0.0713))"
    for name, row in ((name, OPERATORS[op]) for name, op in FUNCTIONS.items())
    if name != "floor" and not any(f"{name}(" in template for template in UNARY)
]
BINARY = [
    "{} + {}",
    "{} - {}",
    "{} * {}",
    "{} / (1 + abs({} + 0.0713))",
    "min({}, {})",
    "max({}, {})",
]
BOUNDS = ["0.8, 1.2", "1 - eps, 1 + eps", "-0.5, 0.5", "-1, eps"]
RATIOS = ["(pi / old)", "(pi / mu)", "(old / mu)", "(pi / teacher)"]
FRACTIONS = ["0.3", "eps", "0", "1", "(1 - eps / 2)"]
RUNNING = [
    "sum[{} >= t]",
    "sum[{} < t]",
    "mean[{} <= t]",
    "mean[{} > t]",
    "sum[{} <= t by turn]",
    "mean[{} > t by room | V_old > 0]",
]
DECAYS = ["0.9", "eps", "1", "sigmoid(margin)", "(0.5 * chosen)", "sigmoid(next(V_old))"]
DECAYS += ["(eps if noise_column > 0 else 1)", "(1 / (1 + {t}))"]
# By keys, at the level of the result; what is reduced has a value of the last index.
PEERS = {
    "p": ["p by difficulty > 0", "p,i by difficulty > 0", "p,i,t by difficulty > 0"],
    "pi": [
        "i by parent",
        "i,t by parent",
        "p,i by parent, truncated",
        "j != i",
        "j != i by parent",
    ],
    "pit": [
        "t by turn",
        "i,t by room",
        "i by {t}",
        "p,i,t by room, chosen",
        "t by {t} < |y|, room",
        "t by floor({t} / 2)",
    ],
}
OTHERS = ["j != i, t by room", "j != i, t by room, turn > 1", "j != i by {t}"]
OF_TWO = ["max({}[j], {}[i])", "sigmoid({}[j] - {}[i])", "({}[j] * {}[i])", "({}[j] < {}[i])"]
REDUCED = ["mean", "mean", "sum", "sum", "max", "min", "pstd", "prod"]
REDUCTIONS = [*REDUCED, "median", "quantile", "logsumexp"]
# What is 0 for some elements, and what is defined only where it is not.
ZEROS = {
    "": ["zero", "(zero * beta)"],
    "p": ["(std[i] reward)", "max(difficulty, 0)", "(sum[i] chosen)"],
    "pi": ["chosen", "max(margin, 0)", "(sum[t | V_old > 0.5] 1)", "(max[t] max(pi - old, 0))"],
    "pit": ["max(V_old, 0)", "max(pi - old, 0)", "max(log(pi / ref), 0)", "(chosen * pi)"],
    "pitv": ["max(entry_column, 0)", "max(pi[v] - ref[v], 0)"],
}
PARTIAL = ["{0} / {1}", "{0} * log({1})", "{0} * sqrt({1})", "{1} ^ (-0.5)", "log({1}) / {1}"]
TAKEN = [
    "({0} if {1} > 0 else {2})",
    "({2} if {1} <= 0 else {0})",
    "(({1} > 0) * ({0}))",
    "({2} + ({0}) * ({1} > 0))",
]
OF_VOCABULARY = [
    "(entropy)",
    "(sum[v] (pi[v] * log(pi[v] / ref[v])))",
    "(max[v] pi[v])",
    "(mean[v | ref[v] > 0.3] log(pi[v]))",
    "(sum[v] ((pi[v] - ref[v]) * entry_column))",
]
PREAMBLE = """\
objective random
param eps = 0.2 in (0, 1)
param beta = 0.7 in [0, inf)
policy teacher
given margin[p,i] as reward
given chosen[p,i]
given difficulty[p]
given noise_column[p,i,t] as reward
given entry_column[p,i,t,v]
given parent[p,i] before i
given turn[p,i,t] before t
given room[p,i,t] before t
score = margin + 0.2 * (sum[t] log(pi / old))
"""
STATES = """\
state pace = 0.4 next {}
state base[p] = difficulty next {}
"""
# Policies off hidden layers of the trained one, and such as follow it, with what reads them.
LAYERS = ["6", "6 without norm", "depth", "depth without norm"]
INNER = """\
param depth = 6 in [1, inf)
policy early = pi at layer {0}
policy early_old = old at layer {0}
"""
FOLLOWERS = ["pi every 3 steps", "pi every 1 step", "ema(pi, 0.9)"]


class Writer:
    """Draws texts. What it writes stands in brackets, or is one name or number.

    Args:
        random: where choices come from.
        entries: whether values for each entry of the vocabulary are drawn.
        partial: whether what is drawn has no value, or no derivative, where it is not asked for.
    """

    def __init__(self, random: Random, entries: bool = True, partial: bool = False) -> None:
        self.random = random
        self.entries = entries
        self.partial = partial
        self.positions = ["t"]
        self.names: dict[str, list[str]] = {level: [] for level in LEVELS}

    def one_of(self, many: Any) -> Any:
        return self.random.choice(many)

    def below(self, level: str) -> str:
        """A level with at most these indices, and mostly with all of them."""
        levels = [other for other in LEVELS if len(other) <= len(level)]
        return self.one_of([*levels, level, level])

    def mask(self, level: str) -> str:
        def leaf() -> str:
            leaf = str(self.one_of(MASKS[self.below(level)]))
            return f"({leaf.format(t=self.positions[-1])})"

        match self.random.randrange(6):
            case 0:
                return f"(not {leaf()})"
            case 1:
                return f"({leaf()} and {leaf()})"
            case 2:
                return f"({leaf()} or {leaf()})"
        return leaf()

    def expression(self, level: str, depth: int) -> str:
        """A value with at most the indices of `level`, and often with fewer."""
        here = self.below(level)
        if depth <= 0:
            leaf = str(self.one_of(LEAVES[here] + 3 * self.names[here]))
            return leaf.format(t=self.positions[-1])

        def part(at: str = here) -> str:
            return self.expression(at, depth - 1)

        if self.partial and self.random.randrange(3) == 0:
            zero = self.one_of(ZEROS[here])
            undefined = self.one_of(PARTIAL).format(part(), zero)
            return str(self.one_of(TAKEN).format(undefined, zero, part()))
        match self.random.randrange(12):
            case 0 | 1 | 2:
                return f"({self.one_of(BINARY).format(part(), part(level))})"
            case 3 | 4:
                return f"({self.one_of(UNARY).format(part())})"
            case 5:
                return f"({part()} if {self.mask(here)} else {part()})"
            case 6:
                return f"clip({part()}, {self.one_of(BOUNDS)})"
            case 7:
                return f"({self.mask(here)} * {part()})"
            case 8:
                return f"({part()} * {self.reduction(here, depth)})"
        return self.reduction(here, depth)

    def reduction(self, level: str, depth: int) -> str:
        """A reduction to a value with the indices of `level`, which is not the vocabulary."""
        if level == "pitv":
            return self.expression("pitv", depth - 1)
        if level == "pit" and (not self.entries or self.random.randrange(2)):
            return self.along_tokens(depth)
        if level in PEERS and self.random.randrange(3 if level == "pi" else 5) == 0:
            return self.among_peers(level, depth)
        if level == "pi" and self.random.randrange(6) == 0:
            return f"geo({self.one_of(RATIOS)})"
        deepest = LEVELS[: 5 if self.entries else 4]
        source = self.one_of([s for s in deepest if len(s) > len(level)])
        over = source[len(level) :]
        # Where no prompt is kept, a logarithm of a sum over them is infinite.
        operator = self.one_of(REDUCTIONS[: -1 if "p" in over else None])
        # A body may lack some of the indices, but not all; what stands for an entry carries it.
        carried = (
            source if "v" in source else source[: self.random.randint(len(level), len(source))]
        )
        if len(carried) == len(level) or operator == "pstd":  # of equal values it is rounding
            carried = source
        body = self.exactly(carried, depth - 1)
        if operator == "prod":
            body = f"exp(-abs({body} + 0.0713))"
        condition = f" | {self.mask(source)}" if self.random.randrange(4) == 0 else ""
        if operator == "logsumexp":  # of nothing it is infinite
            condition = ""
        if self.partial and operator not in ("prod", "logsumexp") and self.random.randrange(3) == 0:
            zero = self.one_of(ZEROS[source])
            condition, body = f" | {zero} > 0", self.one_of(PARTIAL).format(body, zero)
        if "v" in over and operator in ("median", "quantile"):
            operator = "min"
        if operator == "quantile":
            return f"({operator}[{','.join(over)}{condition}]({body}, {self.one_of(FRACTIONS)}))"
        return f"({operator}[{','.join(over)}{condition}] ({body}))"

    def among_peers(self, level: str, depth: int) -> str:
        """A reduction that keeps its elements: by keys, or over the others."""
        operator = self.one_of([*REDUCED, "std", "logsumexp"])
        binder = self.one_of(PEERS[level])
        if level == "pi" and self.random.randrange(4) == 0:
            names = ["reward", "margin", "score"]
            body = self.one_of(OF_TWO).format(self.one_of(names), self.one_of(names))
            operator = "mean" if operator in ("prod", "logsumexp") else operator
            return f"({operator}[{binder if 'j' in binder else 'j != i'}] {body})"
        if level == "pit" and self.random.randrange(3) == 0:
            operator, binder = self.one_of(["sum", "mean"]), self.one_of(OTHERS)
        over = binder.partition(" by ")[0]
        source = "pit" if ",t" in over or level == "pit" else "pi" if "i" in over else level
        body = self.exactly(source, depth - 1)
        body = f"exp(-abs({body} + 0.0713))" if operator == "prod" else body
        condition = f" | {self.mask(source)}" if self.random.randrange(4) == 0 else ""
        if operator == "logsumexp" and (condition or "j" in over):
            operator = "max"  # of nothing it is infinite
        return f"({operator}[{binder.format(t=self.positions[-1])}{condition}] ({body}))"

    def exactly(self, level: str, depth: int) -> str:
        """A value that certainly has the indices of `level`, by a summand that has them."""
        surely = f"{self.one_of(SURE[level])} * {self.one_of(SCALES)}"
        return f"({surely} + {self.expression(level, depth)})"

    def along_tokens(self, depth: int) -> str:
        """A value of a token that depends on other tokens of its response, or is a sum over the
        vocabulary."""
        kind = self.random.randrange(7)
        if kind == 0 and self.entries:
            return str(self.one_of(OF_VOCABULARY))
        if kind <= 2:
            runs = f"s_{len(self.positions)}"
            self.positions.append(runs)
            body = self.exactly("pit", depth - 1)
            self.positions.pop()
            return f"({self.one_of(RUNNING).format(runs)} ({body}))"
        body = self.exactly("pit", depth - 1)
        if kind == 3:
            return f"next({body})"
        if kind == 4:
            return f"surrogate({self.one_of(RATIOS)}, {body}, 1 - eps, 1 + eps)"
        return f"togo({body}, {self.one_of(DECAYS).format(t=self.positions[-1])})"

    def goal(self, depth: int) -> str:
        """A scalar with a gradient, with terms of every level."""
        level = self.one_of(["", "p", "pi", "pit"])
        over = self.one_of(OUTER[level])
        condition = f" | {self.mask(level)}" if level and self.random.randrange(5) == 0 else ""
        inner = self.one_of(
            {
                "": ["mean[p,i,t] {}", "mean[p,i] sum[t] {}", "mean[p] mean[i] mean[t] {}"],
                "p": ["difficulty * mean[i,t] {}", "mean[i] (reward * sum[t] {})"],
                "pi": ["reward * (sum[t] {})", "margin * (mean[t] {})", "logsigmoid(sum[t] {})"],
                "pit": ["{}", "margin * {}", "(pi / old) * {}"],
            }[level]
        ).format(f"({self.exactly('pit', depth - 1)} + 0.1 * log(pi))")
        body = f"{self.expression(level, depth)} + {inner}"
        if self.random.randrange(2):
            body += f" - 0.1 * {self.expression(level, depth - 1)}"
        return over.format(condition).replace("#", f"({body})")

    def scalar(self, depth: int) -> str:
        """A number for a report."""
        if self.random.randrange(3) == 0:
            return self.expression("", depth)
        level = self.one_of(["p", "pi", "pit"])
        operator = self.one_of(REDUCTIONS[:-2])
        body = self.exactly(level, depth - 1)
        body = f"exp(-abs({body} + 0.0713))" if operator == "prod" else body
        condition = f" | {self.mask(level)}" if self.random.randrange(4) == 0 else ""
        return f"{operator}[{','.join(level)}{condition}] ({body})"

    def data(self, level: str, depth: int) -> str:
        """A value that is known before the policy learns, without chance."""
        text = Writer(self.random, entries=False).expression(level, depth)
        sampled = re.sub(r"\bscore\b", "margin", re.sub(r"\bpi\b", "old", text))
        return re.sub(r"pick\[p,i,t\]\((.*?), 0.4\)", r"\1", sampled)

    def objective(self, depth: int) -> str:
        """A whole file."""
        after = [self.data(level, depth - 1) for level in ("", "p")]
        lines = [
            PREAMBLE,
            STATES.format(*after),
            "param zero = 0 in [0, inf)\n" if self.partial else "",
        ]
        if self.random.randrange(6) == 0:
            lines.append(INNER.format(self.one_of(LAYERS)))
            self.names["pit"] += ["log(early)", "(early / early_old)"]
            self.names[""].append("(depth / 10)")
        if self.random.randrange(6) == 0:
            lines.append(f"policy anchor = {self.one_of(FOLLOWERS)}\n")
            self.names["pit"] += ["log(pi / anchor)", "(anchor / old)"]
        if self.random.randrange(6) == 0:
            lines.append("keep p where max[i] reward > 0.3\n")
        for name, level in zip(("X", "Y", "Z", "W"), ("pi", "p", "pit", ""), strict=True):
            if name == "X" or self.random.randrange(3) == 0:
                lines.append(f"{name} = {self.expression(level, depth - 1)}\n")
                self.names[level].append(name)
        lines += [
            f"report {name} = {self.scalar(depth)}\n"
            for name in ("initial", "second", "third")[: self.random.randint(1, 3)]
        ]
        if self.random.randrange(5) == 0:
            body = f"V - {self.expression('pit', depth - 1)}"
            lines.append(f"minimize critic mean[p,i,t] (({body}) * sigmoid({body}))\n")
        goal = self.goal(depth)
        goal += " + mean[p,i] (X * sum[t] (pi / old))" if self.random.randrange(2) else ""
        lines.append(f"maximize {goal}\n")
        text = "".join(lines)
        return self.with_learned(text, depth) if self.random.randrange(4) == 0 else text

    def with_learned(self, text: str, depth: int) -> str:
        """The same where `beta` is learned: by the goal, or by what it minimises itself."""
        text = text.replace("param beta", "learn beta")
        text = re.sub(r"^state .*", lambda state: state[0].replace("beta", "eps"), text, flags=re.M)
        body = f"sigmoid(beta) * ({self.scalar(depth - 1)})"
        if self.random.randrange(2):
            return f"{text}minimize learn {body} + beta * mean[p,i] reward\n"
        return f"{text.rstrip()} + 0.1 * {body}\n"


SURE = {
    "p": ["difficulty"],
    "pi": ["reward", "margin"],
    "pit": ["V_old", "log(pi)"],
    "pitv": ["pi[v]", "entry_column"],
}
SCALES = ["1", "0.3", "(1 - eps)"]
OUTER = {
    "": ["#"],
    "p": ["mean[p{}] #", "sum[p{}] #"],
    "pi": [
        "mean[p,i{}] #",
        "mean[p] sum[i{}] #",
        "sum[p,i{}] #",
        "mean[p] logsigmoid(mean[i{}] #)",
    ],
    "pit": [
        "mean[p,i,t{}] #",
        "mean[p] mean[i,t{}] #",
        "mean[p,i] sum[t{}] #",
        "mean[p] mean[i] mean[t{}] #",
        "mean[p,i] (reward * (sum[t{}] #))",
        "mean[p,i] sqrt(1 + (mean[t{}] #)^2)",
    ],
}


def text(seed: int, *, partial: bool = False) -> str:
    """The objective that a seed names; every third is a long one."""
    return Writer(Random(seed), partial=partial).objective(2 if seed % 3 else 3)


@st.composite
def objectives(draw: Any, depth: int = 3) -> str:
    return Writer(draw(st.randoms(use_true_random=False))).objective(depth)


@st.composite
def expressions(draw: Any, level: str, depth: int) -> str:
    """Values of at most this level, without the vocabulary."""
    return Writer(draw(st.randoms(use_true_random=False)), entries=False).expression(level, depth)


@dataclass(frozen=True)
class Data:
    """A batch in two forms: ragged for the reference, padded for torch."""

    batch: Batch
    columns: dict[str, torch.Tensor]
    prompt: torch.Tensor
    mask: torch.Tensor


def data(seed: int, least: int = 2, longest: int = 4) -> Data:
    """A value that is known before the policy learns, and not random."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(least, 4, size=rng.integers(1, 4))
    prompt = np.repeat(rng.permutation(100)[: len(sizes)], sizes)
    order = rng.permutation(len(prompt))
    prompt = prompt[order]
    n = len(prompt)
    lengths = rng.integers(1, longest + 1, size=n)
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
        "token_ids": rng.integers(0, 3, size=(n, width)).astype(float),
        "entry_column": rng.normal(size=(n, width, VOCABULARY)),
        "value": rng.normal(size=(n, width)),
        "reward": rng.choice([0.0, 0.25, 1.0], size=n),
        "margin": rng.normal(size=n),
        "chosen": (rng.uniform(size=n) < 0.5).astype(float),
        "truncated": rng.uniform(size=n) < 0.4,
        "difficulty": np.zeros(n),
        "base": np.zeros(n),
        "pace": rng.uniform(0.2, 0.6),
        "rollout_step": float(rng.integers(0, 20)),
        "rollout_steps": 20.0,
        "beta": 0.5 + 0.1 * (seed % 5),
    }
    for name in ("pi", "mu", "ref", "teacher", "early", "early_old", "anchor"):
        near = rng.normal(scale=0.4, size=(n, width))
        columns[f"log_{name}"] = np.minimum(columns["log_old"] + near, -0.01)
    for policy, x in dist.items():
        columns[f"log_{policy}_dist"] = x
    for k in np.unique(prompt):
        columns["difficulty"][prompt == k] = rng.normal()
        columns["base"][prompt == k] = rng.normal()
    columns["parent"] = rng.integers(0, 2, size=n).astype(float)
    columns["turn"] = np.cumsum(rng.uniform(size=(n, width)) < 0.5, axis=1).astype(float)
    columns["room"] = rng.integers(0, 3, size=(n, width)).astype(float)
    ragged = {
        name: [x[r, : lengths[r]] if x.ndim > 1 else x[r] for r in range(n)]
        for name, x in columns.items()
        if np.ndim(x)
    }
    ragged |= {name: x for name, x in columns.items() if not np.ndim(x)}
    padded = {}
    for name, x in columns.items():
        x = np.array(x)
        if x.ndim > 1 and x.dtype != bool:
            x[~mask] = np.nan  # whatever stands in the padding must not matter
        padded[name] = torch.from_numpy(x)
    return Data(
        Batch(prompt.tolist(), lengths.tolist(), ragged, VOCABULARY),
        padded,
        torch.from_numpy(prompt),
        torch.from_numpy(mask),
    )
