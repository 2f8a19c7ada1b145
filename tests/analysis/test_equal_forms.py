"""One formula in the different ways that people write it: the findings are the same."""

from __future__ import annotations

import pytest

import objdsl
from objdsl.diagnostic import Claim, Severity
from objdsl.lint.run import findings

# What is found, and forms of an objective, of an advantage or of a penalty that are equal.
GOALS = {
    "length-normalisation": [
        "mean[p,i] mean[t] (A * r)",
        "mean[p,i] ((sum[t] (A * r)) / |y|)",
        "mean[p,i] (sum[t] (A * r) * (1 / |y|))",
        "mean[p,i] sum[t] (A * r * |y|^-1)",
        "mean[p,i] (A * mean[t] r)",
        "mean[p,i] (A * sum[t] r * exp(-log(|y|)))",
        "mean[p,i] (sum[t] (A * r) / max[t] t)",
        "mean[p,i] (sum[t] (A * r) / sum[t] (1 if t <= |y| else 0))",
        "mean[p,i] mean[t] (A * exp(log(pi) - log(old)))",
        "mean[p,i] mean[t] min(r * A, clip(r, 0.8, 1.2) * A)",
        "mean[p,i] mean[t] ((min(r, 1.2) if A > 0 else max(r, 0.8)) * A)",
        "-mean[p,i] mean[t] (-A * r)",
    ],
    "geometric-ratio-length": [
        "mean[p,i] (A * geo(r))",
        "mean[p,i] (A * exp(mean[t] log(r)))",
        "mean[p,i] (A * (prod[t] r)^(1 / |y|))",
        "mean[p,i] (A * exp((sum[t] log(pi) - sum[t] log(old)) / |y|))",
    ],
    "double-correction": [
        "mean[p,i] sum[t] (sg(r) * A * r)",
        "mean[p,i] sum[t] (sg(r * r) * A * log(pi))",
        "mean[p,i] sum[t] (sg(exp(2 * log(r))) * A * log(pi))",
        "mean[p,i] sum[t] (0.5 * r^2 * A)",
    ],
    "live-divisor": [
        "mean[p,i] sum[t] (A * r / mean[j != i] mean[t] r)",
        "mean[p,i] sum[t] (A * (r / mean[j != i] mean[t] r))",
        "mean[p,i] (A * sum[t] r / mean[j != i] mean[t] r)",
        "mean[p,i] sum[t] (A * r * (mean[j != i] mean[t] r)^-1)",
        "mean[p,i] sum[t] (1 / (mean[j != i] mean[t] r) * A * r)",
        "mean[p,i] sum[t] (A * r * exp(-log(mean[j != i] mean[t] r)))",
        "mean[p,i] sum[t] (A * exp(log(r) - log(mean[j != i] mean[t] r)))",
    ],
    "entropy-without-gradient": [
        "mean[p,i] sum[t] (A * r - 0.1 * log(pi))",
        "mean[p,i] (sum[t] (A * r) - 0.1 * sum[t] log(pi))",
        "mean[p,i] sum[t] (A * r) - mean[p,i] sum[t] (0.1 * log(pi))",
        "mean[p,i] sum[t] (A * r - 0.1 * log(pi / old))",
        "mean[p,i] sum[t] (A * r + 0.1 * log(1 / pi))",
        "mean[p,i] sum[t] (-0.1 * log(pi) + r * A)",
        "mean[p,i] sum[t] (A * r - 0.1 * log(r))",
        "mean[p,i] (sum[t] (A * r) - 0.1 * log(prod[t] r))",
    ],
}
ADVANTAGES = {
    "std-normalisation": [
        "(reward - m) / (pstd[i] reward + 1e-6)",
        "(reward - m) / (pstd[i] (reward - m) + 1e-6)",
        "(reward - m) * (1 / (pstd[i] reward + 1e-6))",
        "reward / (pstd[i] reward + 1e-6) - m / (pstd[i] reward + 1e-6)",
        "(reward - m) / max(pstd[i] reward, 1e-6)",
        "(reward - m) / sqrt(mean[i] ((reward - m)^2) + 1e-6)",
        "(reward - m) / sqrt(mean[i] (reward^2) - m^2 + 1e-6)",
        "(reward - m) / (sqrt(sum[i] ((reward - m)^2) / 7) + 1e-6)",
        "(reward - m) / (mean[i] abs(reward - m) + 1e-6)",
        "(reward - m) / (max[i] reward - min[i] reward + 1e-6)",
    ],
    "reward-descent": ["m - reward", "-(reward - m)", "-1 * reward + m", "2 * (m - reward) / 3"],
}
PENALTIES = {
    "forward-kl-gradient": [
        "k3(pi, ref)",
        "ref / pi - log(ref / pi) - 1",
        "exp(log(ref) - log(pi)) + log(pi / ref) - 1",
        "(ref - pi) / pi - log(ref / pi)",
        "1 / (pi / ref) - 1 + log(pi / ref)",
        "sg(r) * k3(pi, ref)",
    ],
    "token-level-kl": [
        "k2(pi, ref)",
        "k2(ref, pi)",
        "(log(pi) - log(ref)) * (log(pi) - log(ref)) / 2",
        "sg(log(pi / ref)) * log(pi)",
        "r * k3(pi, ref)",
        "r * k1(pi, ref)",
        "sg(r) * k2(pi, ref)",
        "pi / sg(pi) * k1(pi, ref)",
    ],
    "kl-without-gradient": ["k1(pi, ref)", "log(pi) - log(ref)", "-log(ref / pi)", "k1(ref, pi)"],
    "penalty-sign": ["-k3(pi, ref)", "-(ref / pi - log(ref / pi) - 1)", "-r * k3(pi, ref)"],
}


def objectives() -> dict[str, list[str]]:
    """Several texts, and the findings that all of them should have."""
    head = "objective form\nr = pi / old\nm = mean[i] reward\nsample from old: group 8\n"
    base = "A = reward - mean[j != i] reward\n"
    whole = "maximize mean[p,i] sum[t] "
    return {
        **{name: [f"{head}{base}maximize {x}\n" for x in forms] for name, forms in GOALS.items()},
        **{
            name: [f"{head}A = {x}\n{whole}(A * r)\n" for x in forms]
            for name, forms in ADVANTAGES.items()
        },
        **{
            name: [f"{head}{base}{whole}(A * r - 0.1 * ({x}))\n" for x in forms]
            for name, forms in PENALTIES.items()
        },
    }


@pytest.mark.parametrize(("name", "texts"), objectives().items())
def test_equal_forms_have_equal_findings(name: str, texts: list[str]) -> None:
    for text in texts:
        named = findings(objdsl.loads(text).formula)
        proven = {
            x.name for x in named if x.severity is not Severity.NOTE and x.claim is not Claim.STYLE
        }
        assert name in {x.name for x in named}, text
        assert proven <= {name}, text
