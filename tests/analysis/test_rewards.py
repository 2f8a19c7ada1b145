"""Several rewards: an objective that is said to raise `E[sum_k c_k R_k]` has its gradient, and no
other has.

The analysis reads the formula; the audit sums over all outcomes and fits the constants.
"""

from __future__ import annotations

import itertools
import random

import pytest

import objdsl
from helpers.samples import parts
from objdsl.analysis.explain import sections
from objdsl.analysis.facts import facts_of
from objdsl.analysis.gradient.estimator import Direction
from objdsl.audit import audit
from objdsl.diagnostic import Severity
from objdsl.lint.run import findings

EXACT, BIASED = 1e-8, 1e-3

DOMAINS = {
    "any": ("", ""),
    "two values": (" in {0, 1}", " in {0, 1}"),
    "one of two": (" in {0, 1}", ""),
    "intervals": (" in [0, 1]", " in [-1, inf)"),
}
SUM = "0.8 * correct + 0.2 * format"
ADVANTAGES = {
    "plain": "R",
    "mean": "R - mean[i] R",
    "others": "R - mean[j != i] R",
    "others, apart": "correct - mean[j != i] correct + 0.5 * (format - mean[i] format)",
    "deviation": "(R - mean[i] R) / (std[i] R + 0.1)",
    "deviations apart": "(correct - mean[i] correct) / (std[i] correct + 0.1)"
    " + (format - mean[i] format) / (std[i] format + 0.1)",
    "one deviation": "(correct - mean[i] correct) / (std[i] correct + 0.1) + format",
    "the other's deviation": "(format - mean[i] format) / (std[i] correct + 0.1)",
    "scaled for one by the other": "correct - (mean[i] correct) * (1 + mean[j != i] format)",
    "whitened": "(A0 - mean[p,i] A0) / (std[p,i] A0 + 0.1)",
    "product": "correct * format",
    "clipped sum": "clip(correct + format, -0.5, 0.7)",
    "cost": "correct - 0.3 * format",
    "largest": "R - max[i] R",
    "one alone": "correct - mean[j != i] format",
    "own baseline": "correct - mean[i] format",
    "masked": "correct if format > 0.3 else 0",
    "weighed by length": "correct + format * |y|",
    "to go": "sum[s >= t] progress",
    "sum of tokens": "R + sum[t] progress - mean[j != i] (R + sum[t] progress)",
    "in two parts": "progress + sum[s > t] progress - mean[j != i] sum[t] progress",
    "before": "R + sum[s < t] progress",
    "token alone": "progress",
    "from the next on": "sum[s > t] progress",
    "so far": "sum[s <= t] progress",
    "discount": "togo(progress, 0.9)",
    "mean of tokens": "R + mean[t] progress",
    "critic": "togo(progress, 1) - V_old",
    "lambda": "gae(progress, 1, 0.9)",
    "one step": "gae(progress, 1, 0)",
    "discounted critic": "gae(progress, 0.9, 1)",
    "square of a token": "sum[s >= t] (progress^2)",
    "next": "progress + next(progress)",
}
GOALS = {
    "sum": "mean[p,i] sum[t] (A * log(pi))",
    "ratio": "mean[p,i] sum[t] surrogate(pi / old, A, 0.8, 1.2)",
    "mean": "mean[p,i] mean[t] (A * log(pi))",
    "group": "mean[p] mean[i,t] (A * log(pi))",
    "constant": "mean[p,i] ((sum[t] (A * log(pi))) / 7)",
}


def text(advantage: str, goal: str, domains: tuple[str, str] = ("", "")) -> str:
    first, second = domains
    return f"""objective several
given correct[p,i]{first} as reward
given format[p,i]{second} as reward
given progress[p,i,t] as reward
R = {SUM}
A0 = R - mean[i] R
A = {advantage}
sample from old: group 4
maximize {goal}
"""


def forms() -> list[str]:
    every = itertools.product(ADVANTAGES.values(), GOALS.values(), DOMAINS.values())
    return [text(*form) for form in every]


def measured(objective_text: str) -> float:
    """The larger of the residuals with one prompt and with two."""
    objective = objdsl.loads(objective_text)
    sizes = [(2, 3, 1, 4), (2, 2, 2, 2)]
    return max(
        audit(
            objective, vocabulary=vocabulary, horizon=horizon, group=4, prompts=prompts,
            policies=policies, drifts=(),
        ).residual
        for vocabulary, horizon, prompts, policies in sizes
    )  # fmt: skip


@pytest.mark.parametrize("part", parts(4, 1))
def test_what_is_proven_is_measured(part: int) -> None:
    sample = random.Random(11).sample(forms(), 96)[part::4]
    seen = set()
    for form in sample:
        facts = facts_of(objdsl.loads(form).formula)
        (estimator,) = facts.estimators
        residual = measured(form)
        match estimator.direction:
            case Direction.EXACT:
                assert residual < EXACT, form
            case Direction.BIASED | Direction.REWEIGHTED:
                assert residual > BIASED, form
            case other:
                pytest.fail(f"{other} of\n{form}")
        assert findings(facts.objective) or estimator.direction is Direction.EXACT, form
        seen.add(estimator.direction)
    assert {Direction.EXACT, Direction.BIASED} <= seen


@pytest.mark.parametrize("advantage", ADVANTAGES)
def test_each_advantage_by_itself(advantage: str) -> None:
    form = text(ADVANTAGES[advantage], GOALS["sum"])
    (estimator,) = facts_of(objdsl.loads(form).formula).estimators
    exact = estimator.direction is Direction.EXACT
    assert exact == (measured(form) < EXACT), estimator.direction


@pytest.mark.parametrize(
    ("advantage", "raised"),
    [
        ("R - mean[j != i] R", {"correct": 0.8, "format": 0.2}),
        ("R - mean[i] R", {"correct": 0.8, "format": 0.2}),
        ("correct + sum[s >= t] progress", {"correct": 1.0, "progress": 1.0}),
        ("2 * sum[t] progress - format / 4", {"progress": 2.0, "format": -0.25}),
    ],
)
def test_the_constants_are_those_that_are_written(advantage: str, raised: dict[str, float]) -> None:
    (estimator,) = facts_of(objdsl.loads(text(advantage, GOALS["sum"])).formula).estimators
    assert estimator.raised is not None
    by_name = {column.name: c for column, c in estimator.raised.items()}
    first = next(iter(raised))
    for name, c in raised.items():
        assert by_name[name] / by_name[first] == pytest.approx(c / raised[first])
    if min(raised.values()) > 0:
        objective = objdsl.loads(text(advantage, GOALS["sum"]))
        fitted = audit(objective, vocabulary=3, horizon=2, group=2, policies=3, drifts=())
        assert fitted.residual < EXACT


@pytest.mark.parametrize(
    ("advantage", "goal", "name"),
    [
        ("R - mean[j != i] R", GOALS["mean"], "length-normalisation"),
        ("(R - mean[i] R) / (std[i] R + 0.1)", GOALS["sum"], "std-normalisation"),
        (ADVANTAGES["deviations apart"], GOALS["sum"], "rewards-scaled-apart"),
        (ADVANTAGES["deviations apart"], GOALS["sum"], "std-normalisation"),
        ("R", f"-{GOALS['sum']}", "reward-descent"),
        ("correct - 0.3 * format", GOALS["sum"], "reward-descent"),
        ("R - max[i] R", GOALS["sum"], "own-sample-baseline"),
        ("correct - mean[i] format", GOALS["sum"], "reward-descent"),
    ],
)
@pytest.mark.parametrize("domain", DOMAINS)
def test_several_rewards_get_the_findings_of_one(
    advantage: str, goal: str, name: str, domain: str
) -> None:
    form = text(advantage, goal, DOMAINS[domain])
    assert name in {x.name for x in findings(objdsl.loads(form).formula)}


@pytest.mark.parametrize(
    ("advantage", "goal", "raised"),
    [
        ("R - mean[j != i] R", GOALS["sum"], "E[0.8 correct + 0.2 format]"),
        ("R - mean[i] R", GOALS["constant"], "E[0.8 correct + 0.2 format]"),
        ("correct + 3 * sum[t] progress", GOALS["sum"], "E[correct + 3 sum[t] progress]"),
        ("correct - 0.5 * format", GOALS["sum"], "E[correct - 0.5 format]"),
        ("sum[s >= t] progress", GOALS["sum"], "E[sum[t] progress]"),
        ("R - mean[j != i] R", GOALS["mean"], ""),
        (ADVANTAGES["deviations apart"], GOALS["sum"], ""),
    ],
)
def test_explain_says_what_is_raised(advantage: str, goal: str, raised: str) -> None:
    facts = facts_of(objdsl.loads(text(advantage, goal)).formula)
    assert facts.raises(*facts.estimators) == raised
    lines = [line for x in sections(facts, findings(facts.objective)) for line in x.lines]
    assert [value for title, value in lines if title == "  raises"] == ([raised] if raised else [])


UNDECLARED = """objective undeclared
given correct[p,i]
given format[p,i]
A = {}
maximize mean[p,i] mean[t] (pi / old * A)
"""


@pytest.mark.parametrize(
    "advantage",
    [
        "correct + format - mean[j != i] (correct + format)",
        ADVANTAGES["deviations apart"],
        "-correct - format",
        "correct * format",
    ],
)
def test_rewards_that_nobody_declared_are_asked_for(advantage: str) -> None:
    """Nothing that was not judged gets "nothing to report"; once declared, a reward is judged."""
    undeclared = UNDECLARED.format(advantage)
    (finding,) = (x for x in findings(objdsl.loads(undeclared).formula) if x.code == "OBJ214")
    assert finding.severity is Severity.WARNING
    assert "`given correct[p,i] as reward`" in finding.help
    assert "`given format[p,i] as reward`" in finding.help
    declared = undeclared.replace("[p,i]\n", "[p,i] as reward\n", 2)
    names = {x.name for x in findings(objdsl.loads(declared).formula)}
    assert "undeclared-reward" not in names
    assert "length-normalisation" in names


def test_a_reward_that_nothing_raises_is_named() -> None:
    form = text("correct / (1 + mean[j != i] format)", GOALS["sum"])
    notes = [x for x in findings(objdsl.loads(form).formula) if x.name == "reward-without-effect"]
    assert [x.message for x in notes] == ["nothing raises `format`"]
