"""Settings of trainers, each as the smallest file that expresses it.

The rows are settings of TRL, verl, AReaL, OpenRLHF, slime, prime-rl, NeMo-RL, SkyRL and Tinker.
Entries of the gallery are named; the rest is written here, and computed in every available way.
"""

from __future__ import annotations

import pytest
import torch

import objdsl
from helpers.evaluators import Case
from helpers.random_objectives import data
from objdsl import driver
from objdsl.objectives import gallery
from objdsl.source import Source

IN_THE_GALLERY = {
    "PPO and GRPO clip": "grpo", "asymmetric clip": "dapo", "dual clip": "dual_clip",
    "CISPO": "cispo", "SAPO": "sapo", "GMPO": "gmpo", "VESPO": "vespo", "DPPO": "dppo",
    "GSPO": "gspo", "GSPO, token form": "gspo_token", "clip-cov": "clip_cov", "kl-cov": "kl_cov",
    "M2PO": "m2po", "decoupled PPO": "decoupled_ppo", "RLOO": "rloo", "critic": "ppo",
    "REINFORCE++": "reinforce_pp", "ReMax": "remax", "OPO": "opo", "GDPO": "gdpo",
    "no deviation, constant divisor": "dr_grpo", "deviation of the batch": "lite_ppo",
    "KL in the loss": "kl_k3_loss", "KL in the reward": "kl_k1_reward",
    "adaptive KL coefficient": "adaptive_kl", "KL with the ratio, sequence mask": "deepseek_v32",
    "truncated weight of a token": "tis", "IcePop": "icepop", "masked weight": "mis",
    "geometric mask": "geometric_mask", "distillation": "on_policy_distillation", "DPO": "dpo",
    "IPO": "ipo", "KTO": "kto", "exact KL": "kl_exact",
    "plain importance sampling": "frameworks/tinker_importance_sampling",
    "DPPO by binary KL": "dppo_kl",
    "DRO": "frameworks/tinker_dro",
    "A*-PO": "a_star_po",
    "VAPO: likelihood of good answers": "vapo",
    "VAPO: lambda by length": "vapo",
    "GPG": "gpg",
    "pass@k of the best": "best_of_k",
    "optimal token baseline": "otb",
    "MaxRL": "max_rl",
    "hierarchical groups": "hierarchical_grpo",
    "leave-one-out in mean and deviation": "frameworks/nemo_grpo",
    "REINFORCE++-baseline": "reinforce_pp_baseline",
    "KL to the sampler": "frameworks/prime_rl",
    "distillation of the k most probable entries": "top_k_distillation",
    "tokens of high entropy": "high_entropy",
    "likelihood": "sft",
    "tokens of the environment": "echo",
    "CPO": "cpo",
    "ORPO": "orpo",
}  # fmt: skip

GRPO = "A = (reward - mean[i] reward) / (std[i] reward + 1e-4)\nr = pi / old\n"
CLIPPED = f"{GRPO}L = surrogate(r, A, 0.8, 1.2)\n"
CENTRED = "A = reward - mean[i] reward\n"
ROWS = {
    # losses
    "two-sided delta clip":
        f"{GRPO}maximize mean[p,i,t] min(min(r, 1.4) * A, clip(r, 0.8, 1.2) * A)",
    "no ratio": f"{CENTRED}maximize mean[p,i,t] (A * log(pi))",
    "LUSPO": f"{GRPO}maximize mean[p,i] (|y| * surrogate(geo(r), A, 0.8, 1.2))",
    "rollout importance sampling, masked":
        f"{CENTRED}u = pi / mu\nmaximize mean[p,i,t] (sg(u * (u > 0.8 and u < 1.2)) * A * log(pi))",
    "trust region of probabilities":
        f"{CENTRED}maximize mean[p,i,t] ((abs(pi - mu) <= 0.1) * pi / mu * A)",
    "stable reinforce": """
        A = (reward - mean[i] reward) / (std[i] reward + 1e-4)
        r = exp(clip(log(pi / old), -0.4, 0.4))
        maximize mean[p,i,t] ((abs(A) < 3) * min(r * A, clip(r, 0.8, 1.2) * A))
    """,
    "old policy by interpolation": """
        A = reward - mean[i] reward
        prox = exp(0.5 * log(mu) + 0.5 * log(sg(pi)))
        maximize mean[p,i,t] (sg(min(prox / mu, 2)) * surrogate(pi / prox, A, 0.8, 1.2))
    """,
    # advantages
    "baseline of the batch": "maximize mean[p,i,t] (pi / old * (reward - mean[p,i] reward))",
    "running baseline": """
        state pace = 0 next 0.9 * pace + 0.1 * mean[p,i] reward
        maximize mean[p,i,t] ((reward - pace) * log(pi))
    """,
    # aggregation
    "token-mean": f"{CLIPPED}maximize mean[p,i,t] L",
    "seq-mean-token-mean": f"{CLIPPED}maximize mean[p,i] mean[t] L",
    "seq-mean-token-sum": f"{CLIPPED}maximize mean[p,i] sum[t] L",
    "seq-mean-token-sum-norm": f"{CLIPPED}maximize mean[p,i] ((sum[t] L) / 4096)",
    "prompt mean": f"{CLIPPED}maximize mean[p] mean[i,t] L",
    "token-sum": f"{CLIPPED}maximize sum[p,i,t] L",
    # divergences
    "KL by absolute value": f"{CLIPPED}maximize mean[p,i,t] (L - 0.01 * abs(log(pi / ref)))",
    "KL with k3's value and k2's gradient":
        f"{CLIPPED}k = k2(pi, ref)\nmaximize mean[p,i,t] (L - 0.01 * (k + sg(k3(pi, ref) - k)))",
    "KL with a clipped weight, k2's gradient":
        f"{CLIPPED}maximize mean[p,i,t] (L - 0.01 * sg(min(r, 10)) * k2(pi, ref))",
    "KL in the advantage, centred and discounted": """
        k = sg(k1(mu, ref))
        A = reward - mean[j != i] reward + togo(mean[p,i,t] k - k, 0.9)
        maximize sum[p,i,t] (pi / mu * A)
    """,
    "policy gradient of a reverse KL":
        "maximize mean[p,i,t] (pi / mu * sg(log(teacher / pi)))\npolicy teacher",
    # mismatch of the engines
    "truncated weight of a response":
        f"{CLIPPED}maximize mean[p,i,t] (min(prod[t] (old / mu), 3) * L)",
    "mask of a response's product":
        f"{CLIPPED}w = prod[t] (old / mu)\nmaximize mean[p,i,t] (w * (w > 0.5 and w < 2) * L)",
    "veto": f"{CLIPPED}maximize mean[p,i,t | min[t] (old / mu) > 0.5] L",
    "mask of the largest k2": f"{CLIPPED}maximize mean[p,i,t] ((max[t] k2(mu, old) < 0.2) * L)",
    "mask of the mean k3": f"{CLIPPED}maximize mean[p,i,t | mean[t] k3(mu, old) < 0.1] L",
    "mask of total variation": f"{CLIPPED}maximize mean[p,i,t] ((abs(old - mu) < 0.1) * L)",
    "self-normalised weights":
        f"{CLIPPED}w = min(prod[t] (old / mu), 3)\nmaximize mean[p,i,t] (w / (mean[p,i] w) * L)",
    "kept masks and routing":
        f"{CLIPPED}sample from mu: top_p 0.9, keep_mask, keep_routing\nmaximize mean[p,i,t] L",
    # entropy, rewards, filters
    "entropy bonus": f"{CLIPPED}maximize mean[p,i,t] (L + 0.001 * entropy)",
    "entropy bonus that adapts": f"""
        {GRPO.replace(chr(10), chr(10) + ' ' * 8)}
        state pace = 0.01 next clip(pace + 0.005 * sign(0.2 + mean[p,i,t] log(old)), 0, 0.1)
        maximize mean[p,i,t] (surrogate(r, A, 0.8, 1.2) + pace * entropy)
    """,
    "dynamic sampling": f"{CLIPPED}keep p where std[i] reward > 0\nmaximize mean[p,i,t] L",
    "long responses cost":
        "R = reward - max(|y| - 2, 0)\nA = R - mean[i] R\nmaximize mean[p,i,t] (pi / mu * A)",
    "truncated responses earn nothing":
        "R = 0 if truncated else reward\nA = R - mean[i] R\nmaximize mean[p,i,t] (pi / mu * A)",
    "truncated responses are left out": f"{CLIPPED}maximize mean[p,i,t | not truncated] L",
    "truncated responses count in the denominator":
        f"{CLIPPED}maximize mean[p,i,t] ((not truncated) * L)",
    # preferences
    "conservative DPO": """
        given chosen[p,i]
        s = (sum[t] log(pi / ref)) * (1 if chosen == 1 else -1)
        d = sum[i] s
        maximize mean[p] (0.9 * logsigmoid(0.1 * d) + 0.1 * logsigmoid(-0.1 * d))
    """,
}  # fmt: skip


def file(row: str) -> str:
    lines = (line.strip() for line in ROWS[row].splitlines())
    return "objective row\n" + "\n".join(line for line in lines if line) + "\n"


def test_the_gallery_has_the_others() -> None:
    assert {*IN_THE_GALLERY.values()} <= {*gallery.names()}
    assert not IN_THE_GALLERY.keys() & ROWS.keys()


@pytest.mark.parametrize("row", ROWS)
def test_every_row_is_computed_as_it_is_written(row: str) -> None:
    text = file(row)
    findings = driver.check(Source("row.obj", text)).findings
    assert not [x for x in findings if x.code.startswith("OBJ9")]
    objective = objdsl.loads(text)
    for seed in (0, 3):
        case = Case(objective, data(seed))
        expected = case.reference()
        assert any(abs(x).sum() for rows in expected.weights.values() for x in rows)
        parts = torch.arange(len(case.step)).split(2)
        for numbers in (case.padded(), case.packed(), case.split(parts), case.autograd()):
            assert not [*expected.differences(numbers)]
