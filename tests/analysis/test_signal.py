"""A declared column that plays the role of the reward is recognised, and no other column is."""

from __future__ import annotations

import pytest

import objdsl
from objdsl.analysis.facts import facts_of
from objdsl.lint.run import findings

GRPO = "A = (reward - mean[i] reward) / (std[i] reward + 1e-4)\nr = pi / old\n"
OBJECTIVES = [
    f"{GRPO}maximize mean[p,i] mean[t] surrogate(r, A, 0.8, 1.2)\n",
    f"{GRPO}minimize mean[p,i] sum[t] (A * r)\n",
    f"{GRPO}maximize mean[p] mean[i,t] (r * A * log(pi))\n",
    f"{GRPO}maximize mean[p,i] sum[t] (r * A * sigmoid(reward) - 0.1 * k3(pi, ref))\n",
    "sample from old: group 8\nmaximize mean[p,i] mean[t] (reward * log(pi))\n",
    f"{GRPO}keep p where std[i] reward > 0\nmaximize mean[p,i,t] (A * r)\n",
]


def findings_of(text: str) -> list[tuple[str, str, str]]:
    reported = findings(objdsl.loads(f"objective signal\n{text}").formula)
    return [(x.name, str(x.severity), x.span.text if x.span else "") for x in reported]


@pytest.mark.parametrize("text", OBJECTIVES)
@pytest.mark.parametrize("domain", ["", " in {0, 1}"])
def test_a_reward_by_another_name_has_the_same_findings(text: str, domain: str) -> None:
    reward, other = findings_of(f"given reward{domain}\n{text}"), text.replace("reward", "points")
    renamed = findings_of(f"given points[p,i]{domain}\n{other}")
    assert reward
    assert renamed == [(rule, level, at.replace("reward", "points")) for rule, level, at in reward]


def test_it_is_shown_by_its_own_name() -> None:
    text = OBJECTIVES[0].replace("reward", "points")
    facts = facts_of(objdsl.loads(f"objective signal\ngiven points[p,i]\n{text}").formula)
    (estimator,) = facts.rewarded
    assert any("points" in facts.written(bend.factor.origin) for bend in estimator.bias_factors)


@pytest.mark.parametrize(
    "text",
    [
        # Imitation, by how much it is worth.
        "given weight[p,i]\nmaximize mean[p,i] (weight * mean[t] log(pi))\n",
        # Which of two is the reward?
        "given a[p,i]\ngiven b[p,i]\nmaximize mean[p,i] (a * b * mean[t] (pi / old))\n",
        # A mask alone.
        "given kept[p,i] in {0, 1}\nmaximize mean[p,i | kept > 0] mean[t] (pi / old)\n",
        # A preference.
        "given chosen[p,i] in {0, 1}\nh = (chosen - 0.5) * mean[t] log(pi / old)\n"
        "maximize mean[p,i] h\n",
    ],
)
def test_nothing_else_is_taken_for_a_reward(text: str) -> None:
    assert not facts_of(objdsl.loads(f"objective signal\n{text}").formula).rewarded
