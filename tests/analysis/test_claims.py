"""`check` and `explain` cannot contradict each other, and both agree with exact enumeration.

Objectives are drawn from advantages, aggregations, policy terms and penalties. For each claim: the
facts depart from exact if and only if the checker has a finding of it, and if and only if `explain`
does not call it exact. What the facts say of the direction is measured by the audit, which runs the
compiled code on every outcome of a step.
"""

from __future__ import annotations

import random

import pytest

import objdsl
from objdsl import driver
from objdsl.analysis.claims.reasons import Reason
from objdsl.analysis.explain import sections
from objdsl.analysis.facts import Facts, facts_of
from objdsl.audit import audit
from objdsl.diagnostic import Claim, Diagnostic
from objdsl.lint.run import judged, registry
from objdsl.source import Source

EXACT, BIASED = 1e-8, 1e-3
Z = "(reward - mean[i] reward) / (std[i] reward + 0.1)"
ADVANTAGES = [
    "reward",
    "reward - mean[i] reward",
    "reward - mean[j != i] reward",
    "reward - V_old",
    Z,
    "(reward - mean[i] reward) / (pstd[p,i] reward + 0.1)",
    "(reward - mean[p,i] reward) / (std[i] reward + 0.1)",
    f"clip({Z}, -1, 1)",
    f"max({Z}, 0)",
    f"{Z} if reward > 0.5 else 0",
    f"2 * sigmoid({Z}) - 1",
    "min(reward - mean[i] reward, 0.1)",
    "sqrt(abs(reward - mean[j != i] reward))",
    "(reward - mean[i] reward) / mean[i] reward if mean[i] reward > 0.2 else 0",
    "reward - max[i] reward",
    "reward - (sum[i] (|y| * reward)) / sum[i] |y|",
    "(reward - mean[j != i] reward) / (1 + mean[j != i] |y|)",
    "reward - 0.3 * |y|",
    "reward - 0.1 * log(old)",
    "gae((t == |y|) * reward, 1, 0.9)",
    "togo((t == |y|) * reward, 0.9)",
]
PENALISED = [
    "reward - 0.1 * sum[s >= t] k1(old, ref)",
    "reward - 0.1 * sum[s >= t] k3(old, ref)",
    "reward - 0.1 * sum[s >= t] log(pi / ref)",
    "(reward - 0.1 * sum[t] k1(old, ref)) / (std[i] reward + 0.1)",
]
AGGREGATIONS = [
    "mean[p,i] sum[t] ({})",
    "mean[p] mean[i] mean[t] ({})",
    "mean[p] mean[i,t] ({})",
    "mean[p,i,t] ({})",
    "mean[p,i] ((sum[t] ({})) / 7)",
    "mean[p,i] ((sum[t] ({})) / sqrt(|y|))",
    "mean[p,i] ((sum[t] ({})) * |y| / mean[i] |y|)",
    "mean[p,i] ((sum[t] ({})) if |y| > 1 else 0)",
]
MASKED = [
    "mean[p] mean[i | not truncated] (sum[t] ({}))",
    "mean[p] ((sum[i] (sum[t] ({}))) / max(sum[i] (1 if reward > 0 else 0), 1))",
]
TERMS = [
    "A * log(pi)",
    "A * pi / old",
    "A * pi / mu",
    "surrogate(pi / old, A, 0.8, 1.2)",
    "A * min(pi / old, 1.28)",
    "sg(clip(pi / old, 0.8, 1.28)) * A * log(pi)",
    "sg(min(old / mu, 2)) * A * pi / old",
    "sg(prod[t] (pi / mu)) * A * log(pi)",
    "sg(min(prod[t] (pi / mu), 2)) * A * log(pi)",
    "dual_clip(surrogate(pi / old, A, 0.8, 1.2), A, 3)",
    "4 * sigmoid(pi / old - 1) * A",
    "A * sqrt(pi / old)",
    "pi / old * A * log(pi)",
    "(A if pi > 0.4 else 0) * log(pi)",
    "(A if A > 0 else 0) * log(pi)",
    "A * log(pi + 0.1)",
]
PENALTIES = [
    " - 0.1 * k1(pi, ref)",
    " - 0.1 * k2(pi, ref)",
    " - 0.1 * k3(pi, ref)",
    " - 0.1 * pi / mu * k3(pi, ref)",
    " - 0.1 * abs(log(pi / ref))",
    " - 0.1 * (ref / pi)^2",
    " - 0.1 * (pi - ref)^2",
    " - 0.1 * min(k3(pi, ref), 3)",
    " - 0.1 * sum[v] (pi[v] * log(pi[v] / ref[v]))",
    " - 0.1 * sum[v] (0 if pi[v] < 0.1 else pi[v] * log(pi[v] / ref[v]))",
    " + 0.01 * entropy",
    " - 0.01 * entropy",
]
REWARDS = ["", "", "given reward in {0, 1}\n", "given reward in {-1, 1}\n"]
SAMPLES = [
    "",
    "sample from mu: group 2\n",
    "sample from old: group 4\n",
    "sample from mu: group 4, staleness 2\n",
]
KEEPS = ["", "", "", "keep p where min[i] reward < max[i] reward\n"]
JUDGED = (Claim.DIRECTION, Claim.PROMPT_WEIGHTS, Claim.OFF_POLICY, Claim.PENALTY)


def objective(choose: random.Random) -> str:
    """Any combination; one in three has a penalty."""
    penalty = choose.choice(PENALTIES) if choose.random() < 1 / 3 else ""
    goal = choose.choice(AGGREGATIONS + MASKED).format(choose.choice(TERMS) + penalty)
    advantage = choose.choice(ADVANTAGES + PENALISED)
    head, sample, keep = (choose.choice(many) for many in (REWARDS, SAMPLES, KEEPS))
    return f"objective random\n{head}A = {advantage}\n{sample}{keep}maximize {goal}\n"


def known(text: str) -> tuple[Facts, list[Diagnostic]]:
    facts = facts_of(driver.compile_source(Source("random.obj", text)))
    return facts, judged(facts)


def called_exact(facts: Facts, findings: list[Diagnostic]) -> set[str]:
    """The claims that `explain` calls exact."""
    lines = list(sections(facts, findings))[-1].lines
    return {title for title, text in lines if text.startswith("exact")}


@pytest.mark.parametrize("part", range(4))
def test_a_claim_departs_if_and_only_if_there_is_a_finding_of_it(part: int) -> None:
    choose = random.Random(11 + part)
    seen = set()
    for _ in range(100):
        text = objective(choose)
        facts, findings = known(text)
        exact = called_exact(facts, findings)
        for claim in JUDGED:
            reported = any(finding.claim is claim for finding in findings)
            assert facts.departs(claim) == reported, (claim, text)
            assert (claim.phrase in exact) != reported, (claim, text)
            seen.add((claim, reported))
    assert len(seen) == 2 * len(JUDGED)  # each claim holds somewhere, and somewhere does not


@pytest.mark.parametrize("part", range(4))
def test_the_direction_is_what_is_measured(part: int) -> None:
    """With one prompt, and with two that may have different weights."""
    choose = random.Random(23 + part)
    for _ in range(9):
        advantage, inner = choose.choice(ADVANTAGES), choose.choice(TERMS)
        head = choose.choice(REWARDS)
        goal = choose.choice(AGGREGATIONS).format(inner)
        text = f"objective random\n{head}A = {advantage}\n"
        text += f"sample from mu: group 2\nmaximize {goal}\n"
        facts, findings = known(text)
        bent = any(finding.claim is Claim.DIRECTION for finding in findings)
        weighs = any(finding.claim is Claim.PROMPT_WEIGHTS for finding in findings)
        if facts.departing(Reason.BOOTSTRAP):
            continue  # as right as the critic, which the audit makes exact
        formula = objdsl.loads(text)
        with_one = audit(
            formula, vocabulary=2, horizon=3, group=2, prompts=1, policies=2, drifts=()
        )
        with_two = audit(
            formula, vocabulary=2, horizon=2, group=2, prompts=2, policies=2, drifts=()
        )
        if bent:
            assert max(with_one.residual, with_two.residual) > BIASED, text
        else:
            assert with_one.residual < EXACT, text
            assert weighs or with_two.residual < EXACT, text


def test_what_speaks_for_the_rest_is_one_rule_for_each_claim() -> None:
    rest = [rule for rule in registry() if rule.rest]
    claims = [rule.claim for rule in rest]
    assert sorted(claims) == sorted({Claim.DIRECTION, Claim.OFF_POLICY, Claim.PENALTY})
    for text in (f"A = clip({Z}, -1, 1)", "A = reward - mean[i] reward"):
        facts, findings = known(f"{text}\nmaximize mean[p,i] (A * sum[t] log(pi))\n")
        for rule in rest:
            assert bool(list(rule(facts))) == facts.departs(rule.claim)
            others = any(x.claim is rule.claim and x.name != rule.name for x in findings)
            assert not (others and any(x.name == rule.name for x in findings))


@pytest.mark.parametrize(
    ("text", "claim", "names"),
    [
        (
            f"A = clip({Z}, -1, 1)\n"
            "maximize mean[p,i] (sum[t] surrogate(pi / old, A, 0.8, 1.28) / 4096)",
            Claim.DIRECTION,
            {"response-weight"},
        ),
        (
            f"A = max({Z}, 0)\n"
            "maximize mean[p,i] (sum[t] surrogate(pi / old, A, 0.8, 1.28) / 4096)",
            Claim.DIRECTION,
            {"response-weight"},
        ),
        (
            "given reward in {0, 1}\nm = mean[i] reward\nA = (reward - m) / m if m > 0 else 0\n"
            "maximize mean[p,i] (A * sum[t] log(pi))",
            Claim.PROMPT_WEIGHTS,
            {"prompt-weight"},
        ),
        (
            "given reward in {0, 1}\nm = mean[i] reward\nA = (reward - m) / m if m > 0 else 0\n"
            "maximize mean[p,i] (A * sum[t] log(pi))",
            Claim.DIRECTION,
            set(),
        ),
        (
            "R = reward - 0.3 * |y|\nmaximize mean[p,i] ((R - mean[j != i] R) * sum[t] log(pi))",
            Claim.DIRECTION,
            {"reward-shaping"},
        ),
        (
            "A = reward - mean[j != i] reward\n"
            "maximize mean[p,i] sum[t] (A * log(pi) - 0.01 * entropy)",
            Claim.PENALTY,
            {"entropy-sign", "token-level-entropy"},
        ),
        (
            "A = reward - mean[j != i] mean[j != i] reward\nsample from old: group 2\n"
            "maximize mean[p,i] (A * sum[t] log(pi))",
            Claim.DIRECTION,
            {"reward-without-effect"},
        ),
        (
            "A = reward - mean[j != i] mean[j != i] reward\nsample from old: group 3\n"
            "maximize mean[p,i] (A * sum[t] log(pi))",
            Claim.DIRECTION,
            set(),
        ),
        (
            "A = reward - mean[j != i] reward\nB = (A if A > 0 else -A) * (1 if A > 0 else -1)\n"
            "maximize mean[p,i] (B * sum[t] log(pi))",
            Claim.DIRECTION,
            set(),
        ),
        (
            "A = reward - mean[j != i] reward\n"
            "maximize mean[p,i] (sqrt(A^2) * sign(A) * sum[t] log(pi))",
            Claim.DIRECTION,
            set(),
        ),
        (
            "A = reward - mean[j != i] reward\n"
            "maximize mean[p,i] surrogate(prod[t] (pi / mu), A, 0.8, 1.2)",
            Claim.OFF_POLICY,
            {"off-policy-weight"},
        ),
        (
            "A = reward - mean[j != i] reward\nmaximize mean[p,i] (A * prod[t] (pi / mu))",
            Claim.OFF_POLICY,
            set(),
        ),
        (
            "w = sg(prod[t] (pi / mu))\n"
            "maximize mean[p,i] ((w * reward - mean[j != i] reward) * sum[t] log(pi))",
            Claim.OFF_POLICY,
            {"off-policy-weight"},
        ),
    ],
)
def test_a_claim_has_these_findings(text: str, claim: Claim, names: set[str]) -> None:
    _, findings = known(f"objective claimed\n{text}\n")
    assert {finding.name for finding in findings if finding.claim is claim} == names


def test_equal_clips_have_equal_findings() -> None:
    texts = [
        "A * min(pi / old, 1.28)",
        "A * clip(pi / old, 0, 1.28)",
        "A * max(min(pi / old, 1.28), 0)",
        "A * exp(min(log(pi / old), log(1.28)))",
    ]
    head = "objective clipped\nA = reward - mean[j != i] reward\nsample from old: group 4\n"
    by_text = [known(f"{head}maximize mean[p,i] sum[t] ({text})\n")[1] for text in texts]
    messages = [sorted((x.name, x.message) for x in findings) for findings in by_text]
    assert messages[0] == messages[1] == messages[2]
    assert {name for name, _ in messages[3]} == {name for name, _ in messages[0]}


def test_factors_that_are_told_apart_are_explained_once() -> None:
    text = "A = reward - mean[j != i] reward\nc = mean[p,i] |y|\n"
    text += "maximize mean[p,i] ((sum[t] (A * log(pi))) * c / |y|)\n"
    facts, findings = known(text)
    shown = {section.title: section.lines for section in sections(facts, findings)}
    assert ("1 / |y|", "tokens of the response, changes with the response") in shown[
        "The reward is multiplied by"
    ]
    assert any("mean[p,i] |y|" in left for left, _ in shown["The reward is multiplied by"])
    assert len(set(shown["On policy"])) == len(shown["On policy"])


def test_rewards_without_a_common_factor_are_explained() -> None:
    text = "given reward in {0, 1}\nA = reward - mean[i] reward\n"
    text += "maximize mean[p,i] sum[t] surrogate(pi / mu, A, 0.8, 1.28) "
    text += "+ 0.1 * mean[p,i | reward > 0] (mean[t] log(pi))\n"
    facts, findings = known(text)
    assert all(section.lines for section in sections(facts, findings))
