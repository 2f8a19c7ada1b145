"""What a value depends on, in forms that hide it: each verdict against the sum over all
outcomes."""

from __future__ import annotations

import pytest

import objdsl
from objdsl.analysis.facts import Facts
from objdsl.analysis.gradient.estimator import Direction
from objdsl.audit import audit
from objdsl.diagnostic import Severity
from objdsl.lint.run import findings

EXACT, BIASED = 1e-8, 1e-3
GOAL = "mean[p,i] sum[t] (A * log(pi))"


def text(advantage: str, *lines: str, goal: str = GOAL) -> str:
    head = ("objective dependent", *lines, f"A = {advantage}", "sample from mu: group 2")
    return "\n".join((*head, f"maximize {goal}", ""))


def measured(objective: str) -> tuple[Direction, float, float]:
    """The verdict, and the residual with one prompt, and with two."""
    loaded = objdsl.loads(objective)
    (estimator,) = Facts(loaded.formula).estimators
    with_one = audit(loaded, vocabulary=2, horizon=3, group=2, prompts=1, policies=2, drifts=())
    with_two = audit(loaded, vocabulary=2, horizon=2, group=2, prompts=2, policies=2, drifts=())
    return estimator.direction, with_one.residual, with_two.residual


def agree(objective: str) -> Direction:
    """The verdict, which is compared with the residuals."""
    direction, with_one, with_two = measured(objective)
    match direction:
        case Direction.EXACT:
            assert max(with_one, with_two) < EXACT
        case Direction.REWEIGHTED:
            assert with_one < EXACT < with_two
        case Direction.BIASED:
            assert max(with_one, with_two) > BIASED
        case other:
            pytest.fail(str(other))
    return direction


@pytest.mark.parametrize(
    ("baseline", "direction"),
    [
        # The own response is one of the others of the others.
        ("mean[j != i] (reward * mean[j != i] reward)", Direction.BIASED),
        ("mean[j != i] max(reward, mean[j != i] reward)", Direction.BIASED),
        ("max[i] mean[j != i] reward", Direction.BIASED),
        ("mean[j != i] (reward / (1 + sum[i] reward))", Direction.BIASED),
        ("mean[j != i] abs(reward)", Direction.EXACT),
        # Others beside the state: what is to come is not known yet, what has been is.
        ("sum[s >= t] max(V_old, mean[j != i] reward)", Direction.BIASED),
        ("next(max(V_old, mean[j != i] reward))", Direction.BIASED),
        ("sum[s < t] max(V_old, mean[j != i] reward)", Direction.EXACT),
        ("max(V_old, mean[j != i] reward)", Direction.EXACT),
    ],
)
def test_a_baseline(baseline: str, direction: Direction) -> None:
    assert agree(text(f"reward - {baseline}")) is direction


UNLIKE = [
    "std[i] reward > 0",
    "0 < pstd[i] reward",
    "std[i] reward > 0.001",
    "min[i] reward < max[i] reward",
    "min[i] reward != max[i] reward",
    "not (min[i] reward == max[i] reward)",
    "max[i] reward - min[i] reward > 0.005",
]


@pytest.mark.parametrize("keep", UNLIKE)
def test_groups_without_an_advantage_may_be_left_out(keep: str) -> None:
    """Leaving out other groups loses something: it shows for rewards of any value, without a
    baseline."""
    kept = f"keep p where {keep}"
    assert agree(text("reward - mean[i] reward", kept)) is Direction.REWEIGHTED
    assert agree(text("reward", kept)) is Direction.BIASED
    assert agree(text("reward - V_old", kept)) is Direction.BIASED
    binary = "given reward in {0, 1}"
    assert agree(text("reward", kept, binary)) is Direction.REWEIGHTED
    assert agree(text("reward - V_old", kept, binary)) is Direction.BIASED


@pytest.mark.parametrize(
    ("keep", "severity"),
    [
        ("max[i] reward > 0.4", Severity.NOTE),
        ("max[i] |y| > 1", Severity.WARNING),
        ("max[i] reward > min[i] |y|", Severity.WARNING),
    ],
)
def test_other_conditions_bend(keep: str, severity: Severity) -> None:
    """A condition on rewards may be harmless if they have two values; one on lengths is not."""
    kept = text("reward - mean[i] reward", f"keep p where {keep}")
    reported = [x for x in findings(objdsl.loads(kept).formula) if x.code == "OBJ603"]
    assert [x.severity for x in reported] == [severity]
    (estimator,) = Facts(objdsl.loads(kept).formula).estimators
    assert estimator.direction is Direction.BIASED


@pytest.mark.parametrize("keep", ["max[i] reward > 0.4", "max[i] |y| > 1"])
def test_they_bend_as_measured(keep: str) -> None:
    assert agree(text("reward - mean[i] reward", f"keep p where {keep}")) is Direction.BIASED


@pytest.mark.parametrize(
    ("advantage", "direction"),
    [
        ("(reward - mean[i] reward) / (std[i] reward + 0.1)", Direction.REWEIGHTED),
        ("(reward - V_old) / (std[i] reward + 0.1)", Direction.BIASED),
        ("(reward - V_old) * (1 + max[i] reward)", Direction.BIASED),
    ],
)
def test_of_two_rewards_a_statistic_bends_what_knows_the_state(
    advantage: str, direction: Direction
) -> None:
    """It is an affine function of the response's own reward, and multiplies the critic, too."""
    objective = text(advantage, "given reward in {0, 1}")
    if direction is Direction.BIASED:
        assert agree(objective) is direction
    else:
        verdict, residual, _ = measured(objective)
        assert verdict is direction
        assert residual < EXACT


@pytest.mark.parametrize(
    ("group", "falls"), [("", False), (": group 2", True), (": group 4", False)]
)
def test_how_much_of_the_own_reward_is_left_depends_on_the_group(group: str, falls: bool) -> None:
    objective = f"objective size\nA = reward - 3 * mean[i] reward\nsample from mu{group}\n"
    (estimator,) = Facts(objdsl.loads(f"{objective}maximize {GOAL}\n").formula).estimators
    assert bool(estimator.lowered) == falls


@pytest.mark.parametrize(
    ("advantage", "direction"),
    [
        ("gae((t == |y|) * reward, 1, 0)", Direction.EXACT),
        ("(t == |y|) * reward + next(V_old) - V_old", Direction.EXACT),
        ("gae((t == |y|) * reward, 1, 0.5)", Direction.EXACT),
        ("gae((t == |y|) * reward, 0.9, 0)", Direction.BIASED),
        ("(t == |y|) * reward + 0.5 * next(V_old) - V_old", Direction.BIASED),
    ],
)
def test_what_the_reward_loses_the_critic_brings(advantage: str, direction: Direction) -> None:
    """The audit has the exact critic."""
    assert agree(text(advantage)) is direction


@pytest.mark.parametrize(
    ("advantage", "direction"),
    [
        ("max[i] reward", Direction.REWEIGHTED),
        ("max(reward, mean[j != i] reward)", Direction.REWEIGHTED),
        ("reward - min[i] reward", Direction.REWEIGHTED),
        ("reward - abs(reward - 0.5)", Direction.EXACT),
        ("reward - (sum[s <= t] V_old) * sum[j != i] reward", Direction.EXACT),
    ],
)
def test_of_two_rewards_a_statistic_is_as_good_as_the_own(
    advantage: str, direction: Direction
) -> None:
    """The best of a group rises with the response's own reward, in some prompts more than in
    others."""
    assert agree(text(advantage, "given reward in {0, 1}")) is direction


@pytest.mark.parametrize("factor", ["mean[j != i] sum[t] log(old)", "sum[j != i] min[t] log(old)"])
def test_a_logarithm_of_a_probability_turns_the_sign(factor: str) -> None:
    objective = text(f"reward * {factor}")
    direction, residual, _ = measured(objective)
    assert direction is Direction.REVERSED
    assert residual == 1
