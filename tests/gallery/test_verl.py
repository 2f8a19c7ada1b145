"""verl's own functions, called as installed, against objectives.

Where verl departs from a paper, the objective's text says how: most of them start `from` an entry
of the gallery and override the parts that verl computes differently.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import objdsl
from helpers.peer_losses import Data, assert_same, data

core = pytest.importorskip("verl.trainer.ppo.core_algos")
correction = pytest.importorskip("verl.trainer.ppo.rollout_corr_helper")
config = pytest.importorskip("verl.workers.config")
algorithm = pytest.importorskip("verl.trainer.config")

TOKEN_MEAN = "maximize mean[p,i,t] "


def actor(**options: Any) -> Any:
    policy_loss = config.PolicyLossConfig(**options.pop("policy_loss", {}))
    return config.ActorConfig(
        strategy="fsdp",
        rollout_n=1,
        ppo_micro_batch_size_per_gpu=1,
        policy_loss=policy_loss,
        **options,
    )


def token_rewards(d: Data) -> Tensor:
    """The reward at the last token, which is how verl passes an outcome reward."""
    rewards = torch.zeros_like(d["log_old"])
    rewards[torch.arange(len(d.lengths)), d.lengths - 1] = d["reward"]
    return rewards


def advantages(d: Data, estimator: str = "grpo", **options: Any) -> Tensor:
    function = core.get_adv_estimator_fn(estimator)
    return function(
        token_level_rewards=options.pop("rewards", token_rewards(d)),
        response_mask=d.mask.double(),
        index=np.array(d.step.prompt),
        **options,
    )[0]


def loss(
    d: Data,
    mode: str,
    A: Tensor,
    aggregation: str = "token-mean",
    weights: Tensor | None = None,
    mask: Tensor | None = None,
    **options: Any,
) -> Tensor:
    value, _ = core.get_policy_loss_fn(mode)(
        old_log_prob=d["log_old"],
        log_prob=d["log_pi"],
        advantages=A,
        response_mask=d.mask if mask is None else mask,
        loss_agg_mode=aggregation,
        config=actor(**options),
        rollout_is_weights=weights,
    )
    return value


# --- defaults ------------------------------------------------------------------------------------


def test_grpo_by_default() -> None:
    """verl's defaults are not GRPO's: a token mean over the step, and a dual clip at 3."""
    d = data()
    assert_same(objdsl.load("frameworks/verl_grpo"), loss(d, "vanilla", advantages(d)), d)


def test_the_dual_clip_is_on() -> None:
    """At c = 1.1 it has an effect."""
    d = data()
    theirs = loss(d, "vanilla", advantages(d), clip_ratio_c=1.1)
    assert_same(objdsl.load("frameworks/verl_grpo", c=1.1), theirs, d)


def test_ppo_by_default() -> None:
    """verl whitens the advantage over tokens; the paper does not. The critic is OpenAI's."""
    d = data()
    A, returns = core.compute_gae_advantage_return(
        token_rewards(d), d["value_old"], d.mask.double(), gamma=1.0, lam=1.0
    )
    policy = loss(d, "vanilla", A)
    critic, _ = core.compute_value_loss(d["value"], returns, d["value_old"], d.mask, 0.5)
    assert_same(objdsl.load("frameworks/verl_ppo"), policy + critic, d)


@pytest.mark.parametrize(
    ("mode", "goal"),
    [
        ("token-mean", "mean[p,i,t] X"),
        ("token-sum", "sum[p,i,t] X"),
        ("seq-mean-token-sum", "mean[p,i] sum[t] X"),
        ("seq-mean-token-mean", "mean[p,i] mean[t] X"),
        ("seq-mean-token-sum-norm", "mean[p,i] (sum[t] X / 6)"),
    ],
)
def test_aggregations(mode: str, goal: str) -> None:
    """`seq-mean-token-sum-norm` divides by the width of the tensor (6 here), unless it is told a
    constant: Dr. GRPO's L as data."""
    d = data()
    assert d.mask.shape[1] == 6
    text = f"""
objective aggregated from grpo
param c = 3 in (1, inf)
A = (reward - mean[i] reward) / (std[i] reward + 1e-6)
X = dual_clip(surrogate(r, A, 1 - eps, 1 + eps), A, c)
maximize {goal}
"""
    assert_same(objdsl.loads(text), loss(d, "vanilla", advantages(d), mode), d)


def test_grpo_as_the_paper_has_it() -> None:
    """With the other aggregation, the KL loss on and the dual clip out of reach. verl averages over
    all responses, the paper prompt by prompt, which is the same for groups of equal size."""
    d = data()
    policy = loss(d, "vanilla", advantages(d), "seq-mean-token-mean", clip_ratio_c=1e9)
    kl = core.kl_penalty(d["log_pi"], d["log_ref"], "low_var_kl")
    theirs = policy + 0.04 * core.agg_loss(kl, d.mask, "seq-mean-token-mean")
    text = """
objective x from grpo
A = (reward - mean[i] reward) / (std[i] reward + 1e-6)
maximize mean[p,i] mean[t] (surrogate(r, A, 1 - eps, 1 + eps) - beta * k3(pi, ref))
"""
    assert_same(objdsl.loads(text), theirs, d)


# --- policy losses -------------------------------------------------------------------------------

LOSSES = {
    # The token form, over all responses alike rather than prompt by prompt.
    "gspo": (
        """
objective verl_gspo from gspo_token
maximize mean[p,i] mean[t] surrogate(s_t, A, 1 - eps_low, 1 + eps_high)
""",
        {"clip_ratio_low": 0.05, "clip_ratio_high": 0.1},
        {"eps_low": 0.05, "eps_high": 0.1},
        "seq-mean-token-mean",
    ),
    # Takes no notice of the aggregation that it is asked for.
    "sapo": (
        """
objective verl_sapo from sapo
maximize mean[p,i] mean[t] (4 / tau * sigmoid(tau * (r - 1)) * A)
""",
        {"tau_neg": 2.5},
        {"tau_neg": 2.5},
        "token-mean",
    ),
    # Bounds on both sides, as distances from 1; MiniMax-M1 has an upper one only. Token mean.
    "cispo": (
        """
objective verl_cispo from cispo
param eps_low = 0.2 in (0, 1)
maximize mean[p,i,t] (sg(clip(r, 1 - eps_low, 1 + eps_high)) * A * log(pi))
""",
        {"clip_ratio_low": 0.1, "clip_ratio_high": 0.15},
        {"eps_low": 0.1, "eps_high": 0.15},
        "token-mean",
    ),
    # The mean over all responses, whatever the aggregation.
    "geo_mean": (
        """
objective verl_gmpo from gmpo
maximize mean[p,i] (A * exp(mean[t] c))
""",
        {"clip_ratio_low": 0.2, "clip_ratio_high": 0.2},
        {"eps": 0.2},
        "token-mean",
    ),
    # The ratio is cut off at c and constant; the anchor is old, not the sampler.
    "dppo_tv": (
        """
objective verl_dppo from dppo
param c = 1.2
A = (reward - mean[i] reward) / (std[i] reward + 1e-6)
d = pi - old
maximize mean[p,i,t] (0 if drop else sg(min(pi / old, c)) * A * log(pi))
""",
        {"clip_ratio_low": 0.05, "clip_ratio_high": 0.05, "clip_ratio_c": 1.2},
        {"delta": 0.05},
        "token-mean",
    ),
    # 1e-8 in the logarithm of the two ways not to take the token.
    "dppo_kl": (
        """
objective verl_dppo_kl from dppo
A = (reward - mean[i] reward) / (std[i] reward + 1e-6)
kl = old * log(old / pi) + (1 - old) * log((1 - old + 1e-8) / (1 - pi + 1e-8))
drop = kl > delta and ((A > 0 and pi > old) or (A <= 0 and pi < old))
maximize mean[p,i,t] (0 if drop else sg(min(pi / old, 20)) * A * log(pi))
""",
        {"clip_ratio_low": 0.01, "clip_ratio_high": 0.01, "clip_ratio_c": 20.0},
        {"delta": 0.01},
        "token-mean",
    ),
    # Kimi's regression with the square of each token's log ratio, not of the response's.
    "dro": (
        """
objective verl_dro from kimi_k15
A = (reward - mean[i] reward) / (std[i] reward + 1e-6)
maximize mean[p,i,t] (A * log(pi) - tau / 2 * log(pi / old) ^ 2)
""",
        {"policy_loss": {"dro_beta": 0.3}},
        {"tau": 0.3},
        "token-mean",
    ),
    "gpg": (
        """
objective verl_gpg
A = (reward - mean[i] reward) / (std[i] reward + 1e-6)
maximize mean[p,i,t] (A * log(pi))
""",
        {},
        {},
        "token-mean",
    ),
}


@pytest.mark.parametrize("mode", LOSSES)
def test_policy_losses(mode: str) -> None:
    text, theirs, ours, aggregation = LOSSES[mode]
    d = data()
    value = loss(d, mode, advantages(d), aggregation, **theirs)
    assert_same(objdsl.loads(text, **ours), value, d)


def test_dppo_follows_the_gradient_of_the_paper() -> None:
    """verl's value differs; its gradient is the paper's as long as its cut-off is out of reach."""
    d = data()
    A = advantages(d, norm_adv_by_std_in_grpo=False)
    options = {"clip_ratio_low": 0.05, "clip_ratio_high": 0.05, "clip_ratio_c": 20.0}
    (theirs,) = torch.autograd.grad(loss(d, "dppo_tv", A, **options), d["log_pi"])
    objective = objdsl.load("dppo", delta=0.05)
    step = objective.prepare(
        mask=d.mask, prompt=d.step.prompt, reward=d["reward"], log_mu=d["log_old"]
    )
    _, weights, _ = objective.weights(d["log_pi"], step)
    torch.testing.assert_close(-weights["log_pi"], theirs)


def test_clip_cov() -> None:
    """verl excludes tokens that the clip has stopped from the choice, and draws with torch's global
    generator: the same draw is passed here as `noise`. It rounds the count down."""
    d = data()
    chosen, total = 4, int(d.lengths.sum())
    fraction = (chosen + 0.5) / total
    A = advantages(d)
    log_pi, mask = d["log_pi"].detach(), d.mask
    r = (log_pi - d["log_old"]).exp()
    stopped = ((A > 0) & (r > 1.2)) | ((A < 0) & (r < 0.8))
    mean_A, mean_log = A[mask].mean(), log_pi[mask].mean()
    cov = (A - mean_A) * (log_pi - mean_log)
    candidates = ((cov > 0.05) & (cov < 2) & mask & ~stopped).nonzero()
    assert len(candidates) > chosen
    torch.manual_seed(5)
    order = torch.randperm(len(candidates))
    d.columns["noise"] = torch.ones_like(r)
    for rank, place in enumerate(candidates[order]):
        d.columns["noise"][tuple(place)] = rank / len(candidates)

    torch.manual_seed(5)
    limits = {"clip_cov_ratio": fraction, "clip_cov_lb": 0.05, "clip_cov_ub": 2.0}
    theirs = loss(d, "clip_cov", A, policy_loss=limits)
    text = """
objective verl_clip_cov from clip_cov
stopped = (A > 0 and r > 1 + eps) or (A < 0 and r < 1 - eps)
drop = pick[p,i,t](cov > low and cov < high and not stopped, fraction)
"""
    ours = objdsl.loads(text, low=0.05, high=2, fraction=chosen / total)
    assert_same(ours, theirs, d)


def test_kl_cov() -> None:
    """The token mean, and a coefficient of 0.1 in the configuration (1 in the docstring). The count
    of tokens is rounded down, but is at least 1; the paper leaves that open."""
    d = data()
    total = int(d.lengths.sum())
    for chosen in (5.5 / total, 2e-4):
        options = {"kl_cov_ratio": chosen, "ppo_kl_coef": 0.1}
        theirs = loss(d, "kl_cov", advantages(d), policy_loss=options)
        assert_same(objdsl.load("kl_cov", beta=0.1, fraction=chosen), theirs, d)


# --- advantages ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("estimator", "text"),
    [
        ("rloo", "objective x from rloo"),
        ("rloo_vectorized", "objective x from rloo"),
        ("opo", "objective x from opo"),
        ("grpo", "objective x from gspo"),
        ("grpo_vectorized", "objective x from gspo"),
        # 1 / (the share of rewards that are not 0), for the whole step.
        (
            "gpg",
            "objective x\nA = (reward - mean[i] reward) / mean[p,i] (reward != 0)",
        ),
        ("grpo_passk", "objective x from best_of_k"),
        ("reinforce_plus_plus_baseline", "objective x from reinforce_pp_baseline"),
    ],
)
def test_advantage_estimators(estimator: str, text: str) -> None:
    """Each with the plain policy gradient and a token mean."""
    d = data()
    options = {"config": algorithm.AlgoConfig()} if estimator == "grpo_passk" else {}
    theirs = loss(d, "gpg", advantages(d, estimator, **options))
    objective = objdsl.loads(text + "\n" + TOKEN_MEAN + "(A * log(pi))\n")
    assert_same(objective, theirs, d)


def test_optimal_token_baseline() -> None:
    d = data()
    theirs = advantages(
        d,
        "optimal_token_baseline",
        old_log_probs=d["log_old"],
        sum_pi_squared=d["log_old_dist"].exp().square().sum(-1),
        handle_zero_tail=False,
    )
    objective = objdsl.loads("objective x from otb\n" + TOKEN_MEAN + "(A * log(pi))\n")
    assert_same(objective, loss(d, "gpg", theirs), d)


def test_gdpo() -> None:
    """verl whitens the sum over tokens, and has the rewards in float32."""
    d = data()
    columns = {name: d[name].numpy() for name in ("correct", "format")}
    first = torch.zeros(len(d.mask), 1)
    theirs = advantages(
        d,
        "gdpo",
        config={"gdpo_reward_keys": [*columns]},
        non_tensor_batch=columns,
        batch={"prompts": first, "attention_mask": torch.cat([first + 1, d.mask], 1).long()},
    )
    text = """
objective verl_gdpo from gdpo
def standardised(x) = (x - mean[i] x) / (std[i] x + 1e-6)
A = (A_sum - mean[p,i,t] A_sum) / sqrt((std[p,i,t] A_sum)^2 + 1e-8)
maximize mean[p,i,t] (A * log(pi))
"""
    assert_same(objdsl.loads(text), loss(d, "gpg", theirs), d, rel=1e-5)


def test_remax() -> None:
    """verl takes the token mean; the paper sums over the response."""
    d = data()
    A = advantages(d, "remax", reward_baselines=d["greedy"])
    objective = objdsl.loads("objective x from remax\n" + TOKEN_MEAN + "(A * log(pi))\n")
    assert_same(objective, loss(d, "gpg", A), d)


def test_reinforce_pp() -> None:
    """The KL enters through the token rewards; 1e-8 is inside the root, not beside it."""
    d = data()
    rewards = core.compute_rewards(token_rewards(d), d["log_old"], d["log_ref"], 0.1) * d.mask
    A = advantages(d, "reinforce_plus_plus", rewards=rewards, config=algorithm.AlgoConfig())
    text = "objective x from reinforce_pp\nA = (q - mean[p,i,t] q) / sqrt((std[p,i,t] q)^2 + 1e-8)"
    theirs = loss(d, "vanilla", A, clip_ratio_c=1e9)
    assert_same(objdsl.loads(text + "\n", beta=0.1), theirs, d)
    assert_same(objdsl.load("reinforce_pp", beta=0.1), theirs, d, rel=1e-6)


# --- KL ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "kl"),
    [
        ("k1", "k1(pi, ref)"),
        ("abs", "abs(log(pi / ref))"),
        ("k2", "k2(pi, ref)"),
        ("k3", "k3(pi, ref)"),
        # The value of k3 with the gradient of k2.
        ("k3+", "k2(pi, ref) - sg(k2(pi, ref)) + sg(k3(pi, ref))"),
        ("k1+", "k2(pi, ref) - sg(k2(pi, ref)) + sg(k1(pi, ref))"),
    ],
)
def test_kl_penalties(kind: str, kl: str) -> None:
    """In the loss only. verl also clamps log-ratios at 20 and k3 at 10."""
    d = data()
    per_token = core.kl_penalty(d["log_pi"], d["log_ref"], kind)
    theirs = core.agg_loss(per_token, d.mask, "token-mean")
    assert_same(objdsl.loads(f"objective x\nminimize mean[p,i,t] ({kl})\n"), theirs, d)


# --- between the engines -------------------------------------------------------------------------


def corrected(d: Data, **options: Any) -> tuple[Tensor | None, Tensor]:
    weights, mask, _ = correction.compute_rollout_correction_and_rejection_mask(
        old_log_prob=d["log_old"],
        rollout_log_prob=d["log_mu"],
        response_mask=d.mask.double(),
        **options,
    )
    return (None if weights is None else weights.batch["rollout_is_weights"]), mask


@pytest.mark.parametrize(
    ("options", "text"),
    [
        # TIS as published.
        (
            {"rollout_is": "token", "rollout_is_threshold": 1.2},
            "objective x from tis\nparam C = 1.2",
        ),
        # The ratio of responses, cut off rather than masked.
        (
            {"rollout_is": "sequence", "rollout_is_threshold": 1.2},
            "objective x from mis\nw = min(W, 1.2)",
        ),
        # IcePop's weight, in a token mean and without KL.
        (
            {"rollout_is": "token", "rollout_is_threshold": "0.8_1.2"},
            "objective x from tis\nm = old / mu\nw = m if m >= 0.8 and m <= 1.2 else 0",
        ),
        # Divided by its mean over the step, after the cut: part of the trust region goes with it.
        (
            {
                "rollout_is": "token",
                "rollout_is_threshold": 1.2,
                "rollout_is_batch_normalize": True,
            },
            "objective x from tis\nm = min(old / mu, 1.2)\nw = m / mean[p,i,t] m",
        ),
    ],
    ids=["token", "sequence", "icepop", "self-normalised"],
)
def test_weights_between_the_engines(options: dict[str, Any], text: str) -> None:
    d = data()
    weights, _ = corrected(d, **options)
    theirs = loss(d, "vanilla", advantages(d), weights=weights, clip_ratio_c=1e9)
    assert_same(objdsl.loads(text + "\n"), theirs, d)


def test_geometric_mask() -> None:
    """verl's bounds are those of mu / old, so that the paper's are their inverses; and masked
    tokens leave the denominator too, where the paper's mask multiplies the loss."""
    d = data()
    _, kept = corrected(d, rollout_rs="seq_mean_k1", rollout_rs_threshold="0.9_1.05")
    theirs = loss(d, "vanilla", advantages(d), mask=kept, clip_ratio_c=1e9)
    text = """
objective x from geometric_mask
maximize mean[p,i,t | w] surrogate(r, A, 1 - eps, 1 + eps)
"""
    assert_same(objdsl.loads(text, low=1 / 1.05, high=1 / 0.9), theirs, d)
