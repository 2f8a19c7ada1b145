"""Which names are other spellings of a name, and which are different names."""

from __future__ import annotations

import re

import pytest

from objdsl import driver
from objdsl.diagnostic import spelled
from objdsl.ir.ops import REDUCTIONS
from objdsl.objectives import gallery
from objdsl.source import Source
from objdsl.syntax.foreign import ALIASES, FRAMEWORKS, translation
from objdsl.syntax.language import COLUMNS, FUNCTIONS, SUBSETS

PRELUDE = ["geo", "surrogate", "dual_clip", "k1", "k2", "k3", "entropy", "gae"]
KNOWN = [*COLUMNS, *FUNCTIONS, *REDUCTIONS, *SUBSETS, *PRELUDE, "pi", "old", "mu", "ref"]


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("rewrad", "reward"), ("rewrd", "reward"), ("rewarrd", "reward"), ("Reward", "reward"),
        ("rewerd", "reward"), ("rewards", "reward"), ("REF", "ref"), ("odl", "old"),
        ("lgo", "log"), ("clp", "clip"), ("cilp", "clip"), ("summ", "sum"), ("Mean", "mean"),
        ("maen", "mean"), ("dualclip", "dual_clip"), ("v_old", "V_old"), ("Vold", "V_old"),
        ("log_sigmoid", "logsigmoid"), ("sigmiod", "sigmoid"), ("surogate", "surrogate"),
        ("truncted", "truncated"), ("entorpy", "entropy"), ("K3", "k3"), ("pi_", "pi"),
    ],
)  # fmt: skip
def test_spellings(name: str, meant: str) -> None:
    assert spelled(name, KNOWN) == meant


@pytest.mark.parametrize(
    "name",
    [
        "percentile", "softmax", "cumsum", "argmax", "gmean", "hmean", "nanmean", "amax", "pmax",
        "log2", "log10", "exp2", "expm1", "k4", "k", "nu", "phi", "psi", "p", "sin", "tan",
        "sqr", "var", "mod", "sort", "flip", "prob", "round", "norm", "gold", "bold", "ref2",
        "reward2", "logits", "minimum", "test", "text", "mix", "map", "sung", "rho", "m", "sg2",
        "logsoftmax", "tanh", "sgn", "score", "value", "return", "length", "topk",
    ],
)  # fmt: skip
def test_other_names(name: str) -> None:
    guess = spelled(name, KNOWN)
    assert guess is None or translation(name) is not None, guess


def test_what_is_known_here_is_not_foreign() -> None:
    assert not [name for name in KNOWN if translation(name) is not None or name in ALIASES]


def test_two_that_are_as_near_are_none() -> None:
    assert spelled("laph", ["alph", "laphs", "lapha"]) is None
    assert spelled("alphaa", ["alpha", "alphab"]) is None
    assert spelled("beat", ["beta", "bear"]) == "beta"


FILE = """objective x
given correct[p,i] as reward
given format[p,i] as reward
given rho[p,i,t] as reward
param beta = 0.1
param gamma = 1
param lam = 0.95
r = pi / old
m = reward > 0
x = r * reward
maximize mean[p,i,t] x
"""


@pytest.mark.parametrize("settings", FRAMEWORKS, ids=lambda settings: settings.split()[0])
def test_what_a_setting_of_a_framework_is_here(settings: str) -> None:
    """Everything that the sentence quotes is a command, a statement or a formula of the
    language."""
    for quoted in re.findall(r"`([^`]*)`", FRAMEWORKS[settings]):
        if quoted in FILE:
            continue
        if quoted.startswith("objdsl gallery"):
            assert quoted == "objdsl gallery" or gallery.find(quoted.split()[-1])
            continue
        statement = re.match(r"(?:policy|minimize|keep|sample|\w+ =) ", quoted)
        line = quoted if statement else f"quoted = {quoted}"
        if quoted.startswith("ema("):
            line = f"policy slow = {quoted}"
        needs_advantage = re.search(r"\bA\b", line) and not line.startswith("A =")
        advantage = "A = reward - mean[i] reward\n" if needs_advantage else ""
        driver.compile_source(Source("x.obj", f"{FILE}{advantage}{line}\n"))


SPELLINGS = {
    "r(θ)": "r", "r_t(theta)": "r", "A(s, a)": "A", "pi(y)": "pi", "π_θ(y|x)": "pi",
    "pi_{ref}(y|x)": "ref", "π_{θ_old}": "old", "A_{i,t}": "A", "A_i": "A", "Â": "A",
    "\\hat A": "A", "min{r, 1}": "min(r, 1)", "σ(reward)": "sigmoid(x)", "1 ± eps": "1 - eps",
    "∇ r": "derives it", "median(reward)": "median[i] reward", "sum_{i} reward": "sum[i] x",
    "log π_θ(y|x)": "log(π_θ(y|x))", "logprobs": "log(pi)", "where(r > 1, 1, 0)": "if r > 1 else",
    "KL(π_θ || π_ref)": "k3(pi, ref)", "E[reward]": "mean[p,i]", "r^{2}": "r^2",
    "clamp(r, 0, 1)": "clip(x, lo, hi)", "1{r > 1}": "(A > 0) * x", "pi_old": "old",
}  # fmt: skip


@pytest.mark.parametrize(("spelling", "word"), SPELLINGS.items())
def test_a_spelling_of_papers_is_mistaken_once(spelling: str, word: str) -> None:
    text = (
        "r = pi / old\nA = reward - mean[j != i] reward\n"
        f"maximize mean[p,i,t] (A * r * ({spelling}))\n"
    )
    (error,) = driver.check(Source("x.obj", text)).findings
    hints = (error.help, error.fix.title if error.fix else "", *(x.title for x in error.choices))
    assert any(word in hint for hint in hints), hints
