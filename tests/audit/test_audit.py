"""The audit of objectives whose bias is known."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import pytest
import torch

import objdsl
from objdsl.audit import Audit, Penalty, UnauditableError, audit
from objdsl.audit.generate import truncated
from objdsl.audit.result import EXACT
from objdsl.audit.roles import roles_of
from objdsl.objectives import gallery

# Small enough for a test: the 15 responses of up to 3 tokens, groups of 2.
SMALL: dict[str, Any] = {"vocabulary": 3, "horizon": 3, "group": 2, "drifts": (), "policies": 2}


def of(text: str, **options: Any) -> Audit:
    return audit(objdsl.loads(f"objective inline\n{text}\n"), **SMALL | options)


# --- against the policy gradient -----------------------------------------------------------------

UNBIASED = {
    "gallery: reinforce": "reinforce",
    "gallery: rloo": "rloo",
    "gallery: dr_grpo": "dr_grpo",
    "gallery: dr_gspo": "dr_gspo",
    "gallery: mini_rl": "mini_rl",
    "cispo with a sum": """
        A = reward - mean[i] reward
        maximize mean[p,i] sum[t] (sg(min(pi / old, 5)) * A * log(pi))""",
    "sequence importance sampling": """
        A = reward - mean[j != i] reward
        maximize mean[p,i] ((prod[t] (pi / mu)) * A)""",
    "weighted baseline without the own sample": """
        b = (sum[j != i] (|y| * reward)) / (sum[j != i] |y|)
        maximize mean[p,i] sum[t] ((reward - b) * log(pi))""",
}


@pytest.mark.parametrize("name", UNBIASED)
def test_unbiased_on_policy(name: str) -> None:
    text = UNBIASED[name]
    result = of(text) if "maximize" in text else audit(text, **SMALL)
    assert result.exact
    assert result.residual < EXACT
    for row in result.lengths:
        for weight in (row.above, row.below):
            assert weight is None or weight == pytest.approx(1)


def test_the_own_sample_mean_is_a_factor() -> None:
    """`A = R - mean R` is `(G - 1) / G` times the leave-one-out advantage, exactly."""
    for group in (2, 3):
        centred = of(
            "A = reward - mean[i] reward\nmaximize mean[p,i] sum[t] (A * log(pi))",
            group=group,
        )
        left_out = audit("rloo", **SMALL | {"group": group})
        ratio = centred.row().norm.mean / left_out.row().norm.mean
        assert ratio == pytest.approx((group - 1) / group)


def test_sequence_importance_sampling_is_unbiased_off_policy() -> None:
    result = of(UNBIASED["sequence importance sampling"], drifts=(0.3,))
    for row in result.rows:
        assert row.residual.worst < EXACT
        assert row.norm.mean == pytest.approx(1)


def test_token_ratios_are_off_by_the_order_of_the_drift() -> None:
    result = audit("mini_rl", **SMALL | {"drifts": (0.005, 0.05)})
    for kind in ("stale", "mismatch"):
        small, large = (result.row(f"{kind} {d}").residual.mean for d in (0.005, 0.05))
        assert small > 1e-3
        assert large / small == pytest.approx(10, rel=0.5)


def test_grpo_is_biased_and_short_responses_weigh_more() -> None:
    result = audit("grpo", drifts=(), group=2)
    assert result.residual > 0.2
    assert result.row(reward="binary").residual.mean > 0.2
    above = [row.above for row in result.lengths if row.above is not None]
    assert above[0] > 2 * above[-1]


def test_the_geometric_mean_hides_the_length_of_grpo() -> None:
    """On policy the gradients of GSPO and GRPO are the same, number for number."""
    rows = [audit(name, **SMALL).row() for name in ("grpo", "gspo_token")]
    assert rows[0].residual.worst == pytest.approx(rows[1].residual.worst, rel=1e-3)
    same = [audit(name, **SMALL).row() for name in ("gspo", "gspo_token")]
    assert same[0].residual.worst == pytest.approx(same[1].residual.worst, rel=1e-12)


def test_length_normalisation_does_not_shrink_with_the_group() -> None:
    text = "A = reward - mean[i] reward\nmaximize mean[p,i] mean[t] (A * log(pi))"
    two, four = (of(text, group=group).residual for group in (2, 4))
    assert two > 0.1
    assert four == pytest.approx(two, rel=1e-6)


def test_the_tokens_of_the_group_as_a_divisor_shrink_with_it() -> None:
    """The divisor of DAPO includes the response's own length: a bias of O(1/G)."""
    text = "A = reward - mean[i] reward\nmaximize mean[p] mean[i,t] (A * log(pi))"
    residuals = [of(text, group=group).row(reward="real").residual.mean for group in (2, 3, 5)]
    assert residuals[0] > 0.03
    assert residuals[0] > residuals[1] > residuals[2]
    assert residuals[2] < 0.6 * residuals[0]


STD = """
    A = (reward - mean[i] reward) / (std[i] reward + 1e-6)
    maximize mean[p,i] sum[t] (A * log(pi))"""


def test_std_biases_real_rewards_only() -> None:
    result = of(STD, group=3)
    assert result.row(reward="real").residual.worst > 0.1
    assert result.row(reward="binary").residual.worst < EXACT


def test_std_reweighs_prompts() -> None:
    """No prompt is biased on its own, but the sum over two prompts of different difficulty is."""
    result = of("given reward in {0, 1}" + STD, group=4, prompts=2, vocabulary=2, horizon=3)
    assert result.row().residual.worst > 1e-3
    assert of("given reward in {0, 1}" + STD, group=4).residual < EXACT


def test_ppo_with_the_true_value_function_is_biased_by_its_denominator_only() -> None:
    small = SMALL | {"vocabulary": 2, "group": None}
    assert audit("ppo", **small).residual > 1e-3
    text = """
        A = gae((t == |y|) * reward, 1, 0.95)
        maximize mean[p,i] sum[t] (pi / old * A)"""
    assert of(text, **small).residual < EXACT


def test_a_missing_sg() -> None:
    """`r A log(pi)` with a live ratio has the weight `r (1 + log pi)`, and may point in the
    opposite direction."""
    text = "A = reward - mean[j != i] reward\nmaximize mean[p,i] sum[t] (pi / old * A * log(pi))"
    assert of(text).row().cosine.worst < 0


def test_a_gradient_that_is_only_noise() -> None:
    """The rewards of other responses are independent of a response: the expectation is 0."""
    result = of("maximize mean[p,i] sum[t] ((mean[j != i] reward) * log(pi))")
    assert result.row().norm.worst == 0
    assert result.residual == 1
    assert not result.lengths


# --- against divergences -------------------------------------------------------------------------

RATIO = "r = pi / mu\n"
DESCENDS = {
    "k1 in the loss": ("minimize mean[p,i] sum[t] k1(pi, ref)", "nothing"),
    "k2 in the loss": ("minimize mean[p,i] sum[t] k2(pi, ref)", "reverse KL, per token"),
    "k3 in the loss": ("minimize mean[p,i] sum[t] k3(pi, ref)", "forward KL, per token"),
    "live r k1": (RATIO + "minimize mean[p,i] sum[t] (r * k1(pi, ref))", "reverse KL, per token"),
    "live r k3": (RATIO + "minimize mean[p,i] sum[t] (r * k3(pi, ref))", "reverse KL, per token"),
    "sg(r) k3": (
        RATIO + "minimize mean[p,i] sum[t] (sg(r) * k3(pi, ref))",
        "forward KL, per token",
    ),
    "sg(r) k2": (
        RATIO + "minimize mean[p,i] sum[t] (sg(r) * k2(pi, ref))",
        "reverse KL, per token",
    ),
    "live r k2": (RATIO + "minimize mean[p,i] sum[t] (r * k2(pi, ref))", None),
    "k1 in the reward, all of it": (
        "R = reward - 0.1 * sum[t] k1(old, ref)\n"
        "maximize mean[p,i] sum[t] (pi / old * (R - mean[j != i] R))",
        "reverse KL, whole response",
    ),
    "k1 in the reward, still to come": (
        "q = reward - 0.1 * sum[s >= t] k1(old, ref)\nmaximize mean[p,i] sum[t] (pi / old * q)",
        "reverse KL, whole response",
    ),
    "k1 in the reward, of the token alone": (
        "maximize mean[p,i] sum[t] (pi / old * (reward - 0.1 * k1(old, ref)))",
        "reverse KL, per token",
    ),
    "k2 in the reward": (
        "maximize mean[p,i] sum[t] (pi / old * -(sum[s >= t] k2(old, ref)))",
        None,
    ),
    "k3 of the response": (
        "X = sum[t] log(ref / pi)\nminimize mean[p,i] (exp(X) - X - 1)",
        "forward KL, whole response",
    ),
}


def penalty(text: str) -> Penalty:
    return of(text).penalties[0]


@pytest.mark.parametrize("name", DESCENDS)
def test_what_a_penalty_descends(name: str) -> None:
    text, divergence = DESCENDS[name]
    result = penalty(text)
    assert result.descends == divergence
    if divergence and divergence != "nothing":
        match = next(m for m in result.matches if m.divergence == divergence)
        assert match.cosine.worst == pytest.approx(1)


def test_grpo_comes_nearest_to_the_forward_kl() -> None:
    (result,) = audit("grpo", **SMALL | {"policies": 8}).penalties
    assert result.descends is None
    assert result.nearest.divergence == "forward KL, per token"


def test_penalties_are_removed_for_the_policy_gradient() -> None:
    """The term is removed, with or without a parameter as its factor, and a note says so."""
    text = "param beta = 0.5\nA = reward - mean[i] reward\nmaximize mean[p,i] sum[t] (pi / old * A"
    for penalty in ("beta * k3(pi, ref)", "0.5 * k3(pi, ref)", "k2(pi, ref)"):
        result = of(f"{text} - {penalty})")
        assert result.residual < EXACT
        assert result.notes == (f"rewards are judged without `{penalty}`",)


def test_a_reference_that_rewards_are_regressed_on_stays() -> None:
    """The square of A*-PO has the gradient of `2 b (E[reward] - b KL(pi || ref))`: without its
    reference, or at `b = 0`, there is no gradient."""
    text = """
        param b = 0.3 in [0, inf)
        given Vs[p]
        minimize mean[p,i] ((b * sum[t] log(pi / ref) - (reward - Vs))^2)"""
    result = of(text, given={"Vs": 0.4})
    assert result.raises == "E[0.600 reward] - 0.180 KL(pi || ref)"
    assert result.residual < EXACT
    assert "stays" in result.notes[0]


# --- several rewards, and their domains ----------------------------------------------------------


def test_rewards_that_are_normalised_separately() -> None:
    """GDPO has an advantage for each reward. For rewards of two values the standard deviation is no
    bias, and the constants differ from policy to policy; for real-valued rewards both are
    biased."""
    declared = """
        given correct[p,i]{} as reward
        given format[p,i]{} as reward
        def z(x) = (x - mean[i] x) / (std[i] x + 0.1)
        maximize mean[p,i] sum[t] ((z(correct) + 0.5 * z(format)) * log(pi))"""
    result = of(declared.format(" in {0, 1}", " in {-1, 1}"), group=3, policies=1)
    assert result.residual < EXACT
    assert [row.reward for row in result.rows] == ["binary"]
    assert result.rewards == {"correct": "{0, 1}", "format": "{-1, 1}"}
    assert "rewards: correct in {0, 1}; format in {-1, 1}" in str(result)
    result = of(declared.format("", " in [0, 1]"), group=3)
    assert result.row(reward="real").residual.worst > 0.1
    assert result.rewards == {"correct": "any number", "format": "[0, 1]"}
    gdpo = audit("gdpo", **TINY)
    assert all(name in gdpo.raises for name in ("correct", "format"))


def test_a_sum_of_rewards_is_found_with_its_constants() -> None:
    result = of(
        """given correct[p,i] in {0, 1} as reward
        given format[p,i] in [-2, 0] as reward
        given progress[p,i,t] as reward
        R = correct + 0.2 * format
        A = R - mean[j != i] R + 0.5 * sum[s >= t] progress
        maximize mean[p,i] sum[t] (A * log(pi))"""
    )
    assert result.raises == "E[1.00 correct + 0.200 format + 0.500 progress]"
    assert result.residual < EXACT
    assert "correct in {0, 1}; format in [-2, 0]; progress any number" in str(result)


def test_a_reward_that_trains_no_policy_is_not_a_target() -> None:
    """In a report, or in the critic's loss."""
    text = "given chosen[p,i]\nmaximize mean[p,i] (chosen * sum[t] log(pi))\n"
    reported = of(text + "report r = mean[p,i] reward", given={"chosen": 1})
    assert not reported.rows and not reported.rewards
    assert any("it reads no reward" in note for note in reported.notes)
    critic = of(text + "minimize critic mean[p,i,t] ((V - reward)^2)", given={"chosen": 1})
    assert not critic.rows
    assert any("no policy's gradient changes with a reward" in note for note in critic.notes)


def test_columns_that_are_only_reported_are_not_needed() -> None:
    text = "given odd[p,i]\npolicy teacher\nmaximize mean[p,i] sum[t] (reward * log(pi))\n"
    result = of(text + "report r = mean[p,i] (odd * mean[t] k3(pi, teacher))")
    assert result.residual < EXACT
    assert not result.penalties


# --- how responses are sampled
# ----------------------------------------------------------------------

BASELINE = "A = reward - mean[j != i] reward\n"
PLAIN = BASELINE + "maximize mean[p,i] sum[t] (A * log(pi))"


@pytest.mark.parametrize("cut", ["top_k 2", "top_p 0.6"])
def test_tokens_that_are_never_sampled(cut: str) -> None:
    """Baselines do not cancel under a truncating sampler, unless the mask is kept."""
    assert of(f"sample from mu: group 2, {cut}\n{PLAIN}").residual > 0.1
    kept = of(f"sample from mu: group 2, {cut}, keep_mask\n{PLAIN}")
    assert kept.residual < EXACT
    assert any("keeps" in note for note in kept.notes)
    terms = "0.1 * mean[p,i] sum[t] k2(pi, ref)"
    whole = of(f"sample from mu: group 2, {cut}, keep_mask\n{PLAIN} - {terms}")
    assert whole.residual < EXACT


def test_a_sampler_that_has_no_choice() -> None:
    """Only one token is left, so all gradients are 0, and nothing is wrong with them."""
    result = of(f"sample from mu: group 2, top_k 1, keep_mask\n{PLAIN}")
    assert result.residual == result.row().norm.worst == result.row().bias.worst == 0
    assert not result.lengths


def test_whole_distributions_over_the_entries_that_are_kept() -> None:
    """The KL over the vocabulary is that of the renormalised policies, state by state."""
    kl = "mean[p,i] sum[t] sum[v] (pi[v] * log(pi[v] / ref[v]))"
    text = f"sample from mu: group 2, top_k 2, keep_mask\n{PLAIN} - 0.1 * {kl}"
    result = of(text)
    assert result.residual < EXACT
    assert result.penalties[0].descends == "reverse KL, per token"


def test_the_tokens_that_a_sampler_keeps() -> None:
    """As engines truncate: the k most likely ones; the fewest with probability p."""
    for cut, kept in (("top_k 2", 2), ("top_p 0.6", 2), ("top_p 0.3", 1)):
        objective = objdsl.loads(f"objective o\nsample from mu: group 2, {cut}\n{PLAIN}")
        logits = torch.tensor([[[0.5, 0.2, 0.3]]], dtype=torch.float64).log()
        policies = truncated({"pi": logits, "mu": logits}, roles_of(objective.formula))
        chance = policies["mu"].softmax(-1).flatten().tolist()
        assert [x > 0 for x in chance] == [True, False, kept == 2]
        assert sum(chance) == pytest.approx(1)
        assert policies["pi"] is logits


def test_a_sampler_with_a_different_name_replaces_mu() -> None:
    """On policy it is `pi`; off policy the ratio of the whole response corrects for it."""
    result = of(
        "policy actor\nsample from actor: group 2\n" + BASELINE +
        "maximize mean[p,i] ((prod[t] (pi / actor)) * A)",
        drifts=(0.3,),
    )  # fmt: skip
    assert all(row.residual.worst < EXACT for row in result.rows)
    assert any("sampled from actor" in note for note in result.notes)
    plain = of(f"policy actor\nsample from actor: group 2\n{PLAIN}", drifts=(0.3,))
    assert plain.row("mismatch 0.3").residual.worst > 1e-3


def test_a_temperature_is_noted() -> None:
    result = of(f"sample from mu: group 2, temperature 0.5\n{PLAIN}")
    assert "all policies are those at temperature 0.5" in result.notes


# --- the gallery ---------------------------------------------------------------------------------

TINY: dict[str, Any] = {"vocabulary": 2, "horizon": 2, "policies": 1, "drifts": ()}
SUPPLIED = {"reward", "truncated", "value", "value_old", "noise"}


@pytest.mark.parametrize("name", gallery.names())
def test_the_gallery_can_be_audited(name: str) -> None:
    objective = objdsl.load(name)
    supplied = SUPPLIED | {reward.name for reward in objective.formula.rewards}
    given = {c: "random" for c in objective.columns if c not in supplied and "log_" not in c}
    samples = 20 if "noise" in objective.columns else None
    result = audit(objective, **TINY, given=given, samples=samples)
    assert bool(result.rows) == bool(objective.formula.rewards)
    assert all(0 <= row.residual.worst <= 1 for row in result.rows)
    declared = {policy.name for policy in objective.formula.policies if policy.layer is None}
    assert {penalty.against for penalty in result.penalties} == {
        policy for policy in {"ref", *declared} if f"log_{policy}" in " ".join(objective.columns)
    }


# --- columns, samples and results ----------------------------------------------------------------


def test_given_columns() -> None:
    with pytest.raises(UnauditableError, match="--given greedy=random"):
        audit("remax")
    result = audit("remax", **SMALL, given={"greedy": "random"})
    assert result.residual < EXACT
    text = "given bonus[p,i]\nmaximize mean[p,i] sum[t] ((reward + bonus) * log(pi))"
    assert of(text, given={"bonus": 3}).residual < EXACT
    assert of(text, given={"bonus": lambda tokens: float(len(tokens))}).residual > 1e-3
    text = text.replace("bonus[p,i]", "bonus[p,i] in (0, 1]")
    assert of(text, given={"bonus": 1}).residual < EXACT
    with pytest.raises(UnauditableError, match=r"'bonus' is 0, outside of its domain \(0, 1\]"):
        of(text, given={"bonus": 0})


def test_given_columns_of_tokens_and_of_the_vocabulary() -> None:
    """A function of the tokens before a token is a valid baseline; one of the token is not."""
    text = "given b[p,i,t]\nmaximize mean[p,i] sum[t] ((reward - b) * log(pi))"
    assert of(text, given={"b": lambda tokens: float(sum(tokens[:-1]))}).residual < EXACT
    assert of(text, given={"b": lambda tokens: float(tokens[-1])}).residual > 1e-3
    text = "given g[p,i,t,v]\nmaximize mean[p,i] sum[t] ({} * log(pi))"
    baseline = text.format("(reward - sum[v] (sg(pi[v]) * g))")
    assert of(baseline, given={"g": lambda y: 2.0 ** len(y) + y[-1]}).residual < EXACT
    bonus = "given g[p,i,t,v]\nmaximize mean[p,i] sum[t] (reward * log(pi) + sum[v] (pi[v] * g))"
    assert of(bonus, given={"g": "random"}).residual > 1e-3
    assert of(bonus, given={"g": 1}).residual < EXACT
    with pytest.raises(UnauditableError, match="of a prompt, which has no tokens"):
        of("given d[p]\nmaximize mean[p,i] sum[t] (d * reward * log(pi))", given={"d": len})


def test_an_objective_without_a_reward() -> None:
    text = "policy teacher\nminimize mean[p,i] sum[t] k3(pi, teacher)"
    result = of(text)
    assert not result.rows
    assert math.isnan(result.residual)
    assert result.penalties[0].against == "teacher"
    assert json.loads(result.to_json())["residual"] is None


def test_too_many_draws_are_sampled_with_error_bars() -> None:
    exact, sampled = (audit("rloo", **SMALL, samples=n) for n in (None, 20_000))
    assert exact.exact and not sampled.exact
    row = sampled.row()
    assert exact.row().interval is None
    assert row.interval is not None
    assert row.interval[0] == 0 < row.interval[1] < 0.1
    assert row.norm.mean == pytest.approx(exact.row().norm.mean, rel=0.1)
    assert "Monte Carlo: 20000 random steps" in str(sampled)
    assert f"[0, {row.interval[1]:.3f}]" in str(sampled)


def test_a_random_mask_is_sampled() -> None:
    text = """
        drop = pick[p,i,t](pi > 0, 0.3)
        maximize mean[p,i] sum[t] (0 if drop else reward * log(pi))"""
    result = of(text, samples=200, policies=1, vocabulary=2, horizon=2)
    assert not result.exact
    assert result.row().interval is not None


def test_the_variance_of_a_baseline_is_less() -> None:
    positive = "given reward in [1, 2]\n"
    plain, centred = (
        of(f"{positive}maximize mean[p,i] sum[t] ((reward - {b}) * log(pi))").row().variance.mean
        for b in ("0", "mean[j != i] reward")
    )
    assert centred < plain


def test_an_audit_is_frozen_data() -> None:
    result = audit("rloo", **SMALL)
    with pytest.raises(dataclasses.FrozenInstanceError):
        result.group = 3  # type: ignore[misc]
    data = json.loads(result.to_json())
    assert data["objective"] == "rloo"
    assert data["rows"][0]["residual"]["worst"] < EXACT
    assert result == audit("rloo", **SMALL)
    with pytest.raises(KeyError):
        result.row("stale 9")
