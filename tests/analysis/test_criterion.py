"""The analysis and the audit check each other: gradients that are called unbiased are, and those
that are called biased are.

Objectives are put together from advantages, aggregations and policy terms; the audit runs the code
that they compile to on every outcome of a step, and knows nothing of the analysis.
"""

from __future__ import annotations

import itertools
import random

import pytest

import objdsl
from helpers.samples import entries, parts
from objdsl import driver
from objdsl.analysis.facts import Facts
from objdsl.analysis.gradient.divergence import Credit, Descends
from objdsl.analysis.gradient.estimator import Direction
from objdsl.audit import audit
from objdsl.audit.instance import UnauditableError
from objdsl.diagnostic import Certainty, Severity
from objdsl.lint.run import findings
from objdsl.objectives import gallery

EXACT, BIASED = 1e-8, 1e-3

ADVANTAGES = {
    "reward": "reward",
    "mean": "reward - mean[i] reward",
    "others": "reward - mean[j != i] reward",
    "std": "(reward - mean[i] reward) / (std[i] reward + 0.1)",
    "batch std": "(reward - mean[i] reward) / (pstd[p,i] reward + 0.1)",
    "by length": "reward - (sum[i] (|y| * reward)) / sum[i] |y|",
    "max": "reward - max[i] reward",
    "batch mean": "reward - mean[p,i] reward",
    "token mean": "reward - mean[p,i,t] reward",
    "others by length": "reward - sum[j != i] (|y| * reward)",
    "square": "reward^2 - (mean[i] reward)^2",
    "log mean exp": "reward - log(mean[i] exp(reward))",
    "critic": "reward - V_old",
    "lambda": "gae((t == |y|) * reward, 1, 0.9)",
    "discount": "togo((t == |y|) * reward, 0.9)",
    "position": "(reward - mean[j != i] reward) / t",
    "two halves": "2 * reward - mean[i] reward - mean[j != i] reward",
}
BY_TOKEN = {
    "sum": "mean[p,i] sum[t] ({})",
    "mean of means": "mean[p] mean[i] mean[t] ({})",
    "group": "mean[p] mean[i,t] ({})",
    "batch": "mean[p,i,t] ({})",
    "constant": "mean[p,i] ((sum[t] ({})) / 7)",
    "root": "mean[p,i] ((sum[t] ({})) / sqrt(|y|))",
    "one more": "mean[p,i] ((sum[t] ({})) * (1 + |y|))",
    "relative": "mean[p,i] ((sum[t] ({})) * |y| / mean[i] |y|)",
    "others' length": "mean[p,i] ((sum[t] ({})) / (1 + mean[j != i] |y|))",
}
TOKEN = {
    "log": "A * log(pi)",
    "ratio": "A * pi / old",
    "clip": "surrogate(pi / old, A, 0.8, 1.2)",
    "tis": "sg(min(old / mu, 2)) * A * pi / old",
    "detached": "sg(pi / old) * A * log(pi)",
    "live": "pi / old * A * log(pi)",
    "ratio mask": "(A if pi / old < 1.3 else 0) * log(pi)",
    "dual clip": "dual_clip(surrogate(pi / old, A, 0.8, 1.2), A, 3)",
    "gate": "4 * sigmoid(pi / old - 1) * A",
    "own mask": "(A if pi > 0.4 else 0) * log(pi)",
    "epsilon": "A * log(pi + 0.1)",
    "dual clip for all": "max(pi / old * A, 3 * A)",
    "truncated": "sg(min(old / mu, 1)) * A * pi / old",
    "normalised": "sg(old / mu / mean[p,i,t] (old / mu)) * A * pi / old",
    "root": "A * sqrt(pi / old)",
    "weight in the clip": "surrogate(sg(min(old / mu, 2)) * pi / old, A, 0.8, 1.2)",
}
BY_RESPONSE = {
    "geo": "A * geo(pi / old)",
    "times length": "A * geo(pi / old) * |y|",
    "sequence": "A * prod[t] (pi / mu)",
}


def objectives() -> list[str]:
    texts = [
        (advantage, outer.format(inner))
        for advantage, outer, inner in itertools.product(
            ADVANTAGES, BY_TOKEN.values(), TOKEN.values()
        )
    ]
    texts += [
        (advantage, f"mean[p,i] ({inner})")
        for advantage, inner in itertools.product(ADVANTAGES, BY_RESPONSE.values())
        if advantage not in ("critic", "lambda", "discount", "position")
    ]
    return [
        f"objective random\nA = {ADVANTAGES[advantage]}\nsample from mu: group 2\nmaximize {goal}\n"
        for advantage, goal in texts
    ]


def residuals(text: str) -> tuple[float, float]:
    """With one prompt, and with two that may have different weights."""
    objective = objdsl.loads(text)
    with_one = audit(objective, vocabulary=2, horizon=3, group=2, prompts=1, policies=2, drifts=())
    with_two = audit(objective, vocabulary=2, horizon=2, group=2, prompts=2, policies=2, drifts=())
    return with_one.residual, with_two.residual


def test_a_sign_that_is_turned_is_seen() -> None:
    """`minimize` reverses every objective that raises rewards, and none is reversed without it."""
    for text in random.Random(3).sample(objectives(), 60):
        (estimator,) = Facts(objdsl.loads(text).formula).estimators
        (turned,) = Facts(objdsl.loads(text.replace("maximize", "minimize")).formula).estimators
        assert estimator.direction is not Direction.REVERSED, text
        if estimator.direction in (Direction.EXACT, Direction.REWEIGHTED):
            assert turned.direction is Direction.REVERSED, text


@pytest.mark.parametrize("part", parts(8, 2))
def test_what_is_proven_is_measured(part: int) -> None:
    sample = random.Random(7).sample(objectives(), 320)[part::8]
    seen = set()
    for text in sample:
        (estimator,) = Facts(objdsl.loads(text).formula).estimators
        with_one, with_two = residuals(text)
        match estimator.direction:
            case Direction.EXACT:
                assert max(with_one, with_two) < EXACT, text
            case Direction.REWEIGHTED:
                assert with_one < EXACT < with_two, text
            case Direction.BIASED:
                assert max(with_one, with_two) > BIASED, text
            case other:
                pytest.fail(f"{other} of\n{text}")
        seen.add(estimator.direction)
    assert {Direction.EXACT, Direction.BIASED} <= seen


def _names() -> list[str]:
    return [name for name in gallery.names() if not name.startswith("frameworks/")]


@pytest.mark.parametrize("name", entries(_names()))
def test_the_gallery_is_measured(name: str) -> None:
    """Without penalties, which the audit removes, and with two prompts."""
    objective = objdsl.load(name)
    given = {column: "random" for column in ("greedy",) if column in objective.columns}
    for estimator in Facts(objective.formula).estimators:
        try:
            result = audit(
                objective, vocabulary=2, horizon=2, prompts=2, policies=2, drifts=(), given=given
            )
        except UnauditableError:
            return
        if estimator.direction is Direction.EXACT:
            assert result.residual < EXACT
        elif estimator.direction is Direction.BIASED:
            assert result.residual > BIASED


PENALTIES = {
    "k2(pi, ref)": (Descends.REVERSE_KL, Credit.TOKEN),
    "k3(pi, ref)": (Descends.FORWARD_KL, Credit.TOKEN),
    "pi / mu * k3(pi, ref)": (Descends.REVERSE_KL, Credit.TOKEN),
    "pi / mu * k1(pi, ref)": (Descends.REVERSE_KL, Credit.TOKEN),
    "sg(pi / mu) * k3(pi, ref)": (Descends.FORWARD_KL, Credit.TOKEN),
    "pi / mu * k2(pi, ref)": (Descends.NO_DIVERGENCE, Credit.TOKEN),
    "abs(log(pi / ref))": (Descends.TOTAL_VARIATION, Credit.TOKEN),
    "(ref / pi)^2": (Descends.CHI_SQUARE_REF, Credit.TOKEN),
    "pi / ref": (Descends.CHI_SQUARE_PI, Credit.TOKEN),
    "sg(sum[s >= t] k1(old, ref)) * log(pi)": (Descends.REVERSE_KL, Credit.TO_GO),
    "sg(sum[t] k1(old, ref)) * log(pi)": (Descends.REVERSE_KL, Credit.RESPONSE),
    "sg(sum[s >= t] k3(old, ref)) * log(pi)": (Descends.NO_DIVERGENCE, Credit.TO_GO),
    "sg(sum[s <= t] k1(old, ref)) * log(pi)": (Descends.REVERSE_KL, Credit.TOKEN),
    "(prod[t] (ref / pi)) / |y|": (Descends.FORWARD_KL, Credit.RESPONSE),
    "sqrt(ref / pi)": (Descends.SOME_DIVERGENCE, Credit.TOKEN),
}
# How the audit names what it compares with.
MEASURED = {
    (Descends.REVERSE_KL, Credit.TOKEN): "reverse KL, per token",
    (Descends.REVERSE_KL, Credit.TO_GO): "reverse KL, whole response",
    (Descends.REVERSE_KL, Credit.RESPONSE): "reverse KL, whole response",
    (Descends.FORWARD_KL, Credit.TOKEN): "forward KL, per token",
    (Descends.FORWARD_KL, Credit.RESPONSE): "forward KL, whole response",
}
# Weights that are no function of the log-ratio alone, or of which the rest of the step has a part.
UNNAMED = [
    "sqrt(log(pi / ref)^2 + 1e-6)",
    "(pi - ref)^2",
    "pi * log(pi / ref)",
    "log((pi + ref) / pi)",
    "(k2(pi, ref) if pi > 0.4 else 0)",
    "(k2(pi, ref) if pi > ref else 0)",
    "sg(sum[s >= t] (ref / old)) * log(pi)",
    "(sum[s <= t] log(pi / ref))^2 / 2",
]
IN_REWARD = ["sum[t] k1(old, ref)", "log(prod[t] (old / ref))", "sum[t] k3(old, ref)"]
BASELINES = ["0", "mean[i] R", "mean[j != i] R", "mean[p,i] R", "2 * mean[j != i] R - mean[i] R"]


@pytest.mark.parametrize("penalty", PENALTIES)
def test_a_penalty_descends_what_is_said(penalty: str) -> None:
    text = f"""objective penalised
param beta = 0.1 in [0, inf)
A = reward - mean[j != i] reward
sample from mu: group 2
maximize mean[p,i] sum[t] (A * log(pi) - beta * {penalty})
"""
    objective = objdsl.loads(text)
    (term,) = Facts(objective.formula).penalties
    assert (term.descends, term.credit) == PENALTIES[penalty]
    assert not term.away
    (measured,) = audit(objective, vocabulary=3, horizon=3, policies=2, drifts=()).penalties
    assert measured.descends == MEASURED.get(PENALTIES[penalty])


@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize("mean", ["mean[p,i,t] ({})", "mean[p] mean[i,t] ({})"])
def test_a_penalty_has_the_same_name_under_any_divisor(penalty: str, mean: str) -> None:
    """Divided by the tokens of the step or of the group, as frameworks do."""
    goal = mean.format(f"reward * log(pi) - {penalty}")
    (term,) = Facts(objdsl.loads(f"objective penalised\nmaximize {goal}\n").formula).penalties
    assert (term.descends, term.credit) == PENALTIES[penalty]
    assert not term.away


@pytest.mark.parametrize(
    ("penalty", "descends"),
    [
        ("sum[v] (pi[v] * log(pi[v] / ref[v]))", Descends.REVERSE_KL),
        ("-sum[v] (pi[v] * log(ref[v])) - entropy", Descends.REVERSE_KL),
        ("sum[v] (ref[v] * log(ref[v] / pi[v]))", Descends.FORWARD_KL),
        ("-sum[v] (ref[v] * log(pi[v]))", Descends.FORWARD_KL),
        ("sum[v] ((pi[v] - ref[v])^2)", None),
    ],
)
def test_a_divergence_over_the_vocabulary_is_named(penalty: str, descends: Descends | None) -> None:
    text = f"objective penalised\nmaximize mean[p,i] sum[t] (reward * log(pi) - ({penalty}))\n"
    objective = objdsl.loads(text)
    divergences = [term.descends for term in Facts(objective.formula).distribution_penalties]
    assert divergences == ([descends] if descends else [])
    (measured,) = audit(objective, vocabulary=3, horizon=3, policies=2, drifts=()).penalties
    assert measured.descends == (MEASURED[descends, Credit.TOKEN] if descends else None)


@pytest.mark.parametrize("penalty", UNNAMED)
def test_no_divergence_is_named_that_is_not_descended(penalty: str) -> None:
    text = f"objective penalised\nmaximize mean[p,i] sum[t] (reward * log(pi) - {penalty})\n"
    objective = objdsl.loads(text)
    assert not Facts(objective.formula).penalties
    (measured,) = audit(objective, vocabulary=3, horizon=3, policies=2, drifts=()).penalties
    assert measured.descends is None


@pytest.mark.parametrize("baseline", BASELINES)
@pytest.mark.parametrize("penalty", IN_REWARD)
def test_a_penalty_in_the_reward_is_read_with_any_baseline(penalty: str, baseline: str) -> None:
    """The penalties of others do not count as this response's, and in a mean its own counts by its
    share."""
    goal = "maximize mean[p,i] (A * sum[t] log(pi))"
    text = f"objective penalised\nR = reward - {penalty}\nA = R - {baseline}\n{goal}\n"
    objective = objdsl.loads(text)
    (term,) = Facts(objective.formula).penalties
    (measured,) = audit(objective, vocabulary=2, horizon=3, policies=1, drifts=()).penalties
    assert not term.away
    assert measured.descends == MEASURED.get((term.descends, term.credit))
    assert (term.descends is Descends.NO_DIVERGENCE) == ("k3" in penalty)


def test_grpo_without_its_suppressions() -> None:
    """The four biases of GRPO, each proven; everything else is a note."""
    reported = findings(objdsl.load("grpo").formula)
    warnings = [finding for finding in reported if finding.severity is not Severity.NOTE]
    assert {finding.name for finding in warnings} == {
        "length-normalisation",
        "std-normalisation",
        "forward-kl-gradient",
        "uncorrected-sampler",
    }
    assert all(finding.certainty is Certainty.PROVEN for finding in warnings)


def test_dr_grpo_accepts_the_sampler_and_nothing_else() -> None:
    """Its formula has the ratio to `old`, as in the paper, and says that `mu` samples; on policy
    its gradient is exact."""
    checked = driver.check(gallery.find("dr_grpo"))
    assert all(finding.severity is Severity.NOTE for finding in checked.findings)
    assert [finding.name for finding in checked.suppressed] == ["uncorrected-sampler"]
    (estimator,) = Facts(objdsl.load("dr_grpo").formula).estimators
    assert estimator.direction is Direction.EXACT


@pytest.mark.parametrize("name", ["rloo", "mini_rl", "reinforce", "remax", "kl_k1_reward"])
def test_the_unbiased_ones_have_notes_alone(name: str) -> None:
    assert all(finding.severity is Severity.NOTE for finding in findings(objdsl.load(name).formula))


@pytest.mark.parametrize("values", ["-1, 1", "0, 1", "0, 3"])
@pytest.mark.parametrize(
    ("advantage", "token", "direction"),
    [
        ("(reward - mean[i] reward) / (std[i] reward + 0.1)", "A", Direction.REWEIGHTED),
        ("reward - mean[i] reward", "(A if reward > 0 else 0)", Direction.REWEIGHTED),
        ("reward", "(A if reward > 0 else 0)", Direction.EXACT),
        ("reward^2 + reward", "A", Direction.EXACT),
    ],
)
def test_of_two_rewards_every_function_is_affine(
    values: str, advantage: str, token: str, direction: Direction
) -> None:
    """Even where a square of the reward is all there is: `reward > 0` for 0 and 3."""
    text = f"objective two\ngiven reward in {{{values}}}\nA = {advantage}\n"
    text += f"sample from mu: group 2\nmaximize mean[p,i] sum[t] ({token} * log(pi))\n"
    (estimator,) = Facts(objdsl.loads(text).formula).estimators
    assert estimator.direction is direction
    with_one, with_two = residuals(text)
    assert with_one < EXACT
    assert direction is not Direction.EXACT or with_two < EXACT


def test_a_square_of_the_reward_may_rise_where_the_rest_falls() -> None:
    text = "objective square\nA = reward^2 - reward * mean[i] reward\n"
    text += "sample from mu: group 2\nmaximize mean[p,i] sum[t] (A * log(pi))\n"
    (estimator,) = Facts(objdsl.loads(text).formula).estimators
    assert estimator.direction is Direction.BIASED


@pytest.mark.parametrize(
    ("advantage", "direction"),
    [
        ("reward - mean[j != i] (reward - mean[j != i] reward)", Direction.EXACT),
        ("reward - sum[j != i] sum[j != i] reward", Direction.REVERSED),
        ("reward - mean[j != i] sum[j != i] reward - mean[i] reward", Direction.REVERSED),
        ("reward - mean[i] mean[j != i] reward", Direction.EXACT),
    ],
)
def test_the_own_response_is_one_of_the_others_of_others(
    advantage: str, direction: Direction
) -> None:
    text = f"objective nested\nA = {advantage}\nsample from mu: group 3\n"
    text += "maximize mean[p,i] sum[t] (A * log(pi))\n"
    objective = objdsl.loads(text)
    (estimator,) = Facts(objective.formula).estimators
    assert estimator.direction is direction
    result = audit(objective, vocabulary=2, horizon=3, group=3, policies=1, drifts=())
    turned = -1 if direction is Direction.REVERSED else 1
    assert result.row(reward="real").cosine.mean == pytest.approx(turned)


@pytest.mark.parametrize(
    ("token", "direction"),
    [
        ("(A if (A > 0 and r < 1.2) or (A < 0 and r > 0.8) else 0) * r", Direction.EXACT),
        ("(r * A if A > 0 else 0) + (A if A < 0 else 0) * r", Direction.EXACT),
        ("(A if A != 0 else 0) * r", Direction.EXACT),
        ("(max(A, 0) + min(A, 0)) * r", Direction.EXACT),
        ("(max(A, 0) - max(-A, 0)) * r", Direction.EXACT),
        ("abs(A) * sign(A) * r", Direction.EXACT),
        ("abs(A) * sign(-2 * A) * r", Direction.REVERSED),
        ("((A if A > 0 else 0) + (2 * A if A < 0 else 0)) * r", Direction.BIASED),
        ("(max(A, 0) - min(A, 0)) * r", Direction.BIASED),
        ("(max(A, 0) + max(-A, 0)) * r", Direction.BIASED),
        ("(A if reward > 0.5 or reward < 0 else 0) * r if A != 0 else 0", Direction.BIASED),
    ],
)
def test_masks_that_leave_nothing_out(token: str, direction: Direction) -> None:
    text = "objective masked\nA = reward - mean[i] reward\nr = pi / old\n"
    text += f"sample from old: group 2\nmaximize mean[p,i] sum[t] ({token})\n"
    (estimator,) = Facts(objdsl.loads(text).formula).estimators
    assert estimator.direction is direction
    residual = max(residuals(text))
    assert residual < EXACT if direction is Direction.EXACT else residual > BIASED


@pytest.mark.parametrize(
    ("goal", "plain"),
    [
        ("sum[t] (A * log(pi) - 0.1 * k2(pi, ref))", True),
        ("(sum[t] (A * log(pi)) - 0.1 * sum[t] k2(pi, ref) / 3)", True),
        ("(sum[t] (A * log(pi)) - 0.1 * mean[t] k2(pi, ref))", False),
        ("(sum[t] (A * log(pi)) - 0.1 * mean[t] k3(pi, ref))", False),
        ("(sum[t] (A * log(pi)) - 0.1 * sum[t] k2(pi, ref) / mean[i] |y|)", False),
        ("sum[t] ((A - 0.1 * sum[s >= t] k1(old, ref)) * log(pi))", True),
        ("mean[t] ((A - 0.1 * sum[s >= t] k1(old, ref)) * log(pi))", False),
    ],
)
def test_a_scale_that_changes_with_the_response_is_said(goal: str, plain: bool) -> None:
    """With such a factor the gradient is not that of any divergence that the audit knows."""
    text = "objective scaled\nA = reward - mean[j != i] reward\nsample from old: group 2\n"
    objective = objdsl.loads(f"{text}maximize mean[p,i] {goal}\n")
    facts = Facts(objective.formula)
    (term,) = facts.penalties
    assert bool(facts.weighted(term)) != plain
    (measured,) = audit(objective, vocabulary=3, horizon=3, policies=2, drifts=()).penalties
    assert (measured.descends == MEASURED.get((term.descends, term.credit))) == plain
