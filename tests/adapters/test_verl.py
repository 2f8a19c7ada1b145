"""Objectives through verl's registries, its `agg_loss` and its `ppo_loss`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

core = pytest.importorskip("verl.trainer.ppo.core_algos")
algorithm = pytest.importorskip("verl.trainer.config")
losses = pytest.importorskip("verl.workers.utils.losses")

from tensordict import TensorDict  # noqa: E402
from verl.utils import tensordict_utils  # noqa: E402
from verl.workers.config import ActorConfig, PolicyLossConfig  # noqa: E402

import objdsl  # noqa: E402
from helpers.declared_domains import nearest  # noqa: E402
from helpers.peer_losses import Data, data, grouped  # noqa: E402
from objdsl.adapters.needs import UnsupportedError  # noqa: E402
from objdsl.adapters.verl import MODES, advantage_estimator, halves, policy_loss  # noqa: E402


def actor(mode: str = "vanilla", **options: Any) -> Any:
    return ActorConfig(
        strategy="fsdp",
        rollout_n=1,
        ppo_micro_batch_size_per_gpu=1,
        policy_loss=PolicyLossConfig(loss_mode=mode),
        **options,
    )


def token_rewards(d: Data) -> Tensor:
    rewards = torch.zeros_like(d["log_old"])
    rewards[torch.arange(len(d.lengths)), d.lengths - 1] = d["reward"]
    return rewards


def advantages(d: Data, estimator: str, **more: Tensor) -> Tensor:
    """Calls the registered estimator as verl's driver does."""
    result: Tensor = core.get_adv_estimator_fn(estimator)(
        token_level_rewards=token_rewards(d),
        response_mask=d.mask.double(),
        config=algorithm.AlgoConfig(),
        index=np.array([f"uid {i}" for i in d.step.prompt], dtype=object),
        **more,
    )[0]
    return result


def loss(d: Data, mode: str, A: Tensor, aggregation: str, rows: Any = slice(None)) -> Tensor:
    config = actor(loss_agg_mode=aggregation)
    config.global_batch_info.update(
        dp_size=1, batch_num_tokens=int(d.mask.sum()), global_batch_size=len(d.mask)
    )
    value: Tensor
    value, _ = core.get_policy_loss_fn(mode)(
        old_log_prob=d["log_old"][rows],
        log_prob=d["log_pi"][rows],
        advantages=A[rows],
        response_mask=d.mask[rows],
        loss_agg_mode=aggregation,
        config=config,
        rollout_is_weights=None,
    )
    return value


def register(objective: objdsl.Objective) -> str:
    name = f"obj_{objective.name}_{objective.digest}"
    core.register_policy_loss(name)(policy_loss(objective))
    if name not in core.ADV_ESTIMATOR_REGISTRY:
        core.register_adv_est(name)(advantage_estimator(objective))
    return name


def assert_same(d: Data, ours: Tensor, theirs: Tensor, rel: float = 1e-7) -> None:
    actual, wanted = (
        torch.autograd.grad(x, d["log_pi"], retain_graph=True)[0] for x in (ours, theirs)
    )
    torch.testing.assert_close(ours.detach(), theirs.detach(), rtol=rel, atol=rel * 1e-2)
    assert bool((wanted != 0).any())
    torch.testing.assert_close(actual, wanted, rtol=rel, atol=rel * float(wanted.abs().max()))


def test_verl_grpo_is_what_verl_computes() -> None:
    d = data()
    name = register(objdsl.load("frameworks/verl_grpo", c=1.1))
    A = advantages(d, name)
    torch.testing.assert_close(A, advantages(d, "grpo"))
    ours = loss(d, name, A, "token-mean")
    config = actor(clip_ratio_c=1.1)
    theirs, _ = core.get_policy_loss_fn("vanilla")(
        d["log_old"], d["log_pi"], A, d.mask, "token-mean", config
    )
    assert_same(d, ours, theirs)


def test_rewards_of_tokens_are_those_that_verl_has() -> None:
    """A single declared reward per token is what verl calls token-level rewards."""
    d = data()
    text = """objective steps
given progress[p,i,t] as reward
A = sum[s >= t] progress - mean[j != i] (sum[t] progress)
maximize mean[p,i,t] (A * log(pi))
"""
    estimate = advantage_estimator(objdsl.loads(text))
    rewards = torch.randn(d.mask.shape, dtype=torch.float64) * d.mask
    actual, _ = estimate(
        rewards, d.mask.double(), index=np.array([str(i) for i in d.step.prompt], dtype=object)
    )
    total = rewards.sum(1)
    prompt = torch.tensor(d.step.prompt)
    for i in range(len(prompt)):
        others = (prompt == prompt[i]) & (torch.arange(len(prompt)) != i)
        to_go = rewards[i].flip(0).cumsum(0).flip(0) - total[others].mean()
        torch.testing.assert_close(actual[i][d.mask[i]], to_go[d.mask[i]])


def test_several_rewards_are_refused_by_name() -> None:
    text = """objective two
given correct[p,i] as reward
given format[p,i] as reward
A = correct + format - mean[j != i] (correct + format)
maximize mean[p,i,t] (A * log(pi))
"""
    with pytest.raises(UnsupportedError, match="verl passes `correct` to no estimator"):
        advantage_estimator(objdsl.loads(text))


def test_verl_ppo_is_what_verl_computes() -> None:
    """The loss; `V` is left to verl's own estimator and critic."""
    d = data()
    objective = objdsl.load("frameworks/verl_ppo")
    with pytest.warns(UserWarning, match="verl trains the critic by its own loss"):
        core.register_policy_loss("obj_ppo")(policy_loss(objective))
    A, _ = core.compute_gae_advantage_return(
        token_rewards(d), d["value_old"], d.mask.double(), gamma=1.0, lam=1.0
    )
    assert_same(d, loss(d, "obj_ppo", A, "token-mean"), loss(d, "vanilla", A, "token-mean"))
    with pytest.raises(UnsupportedError, match="verl passes `value_old` to no estimator"):
        advantage_estimator(objective)


# All of the gallery that comes apart, and whose advantage reads only what verl passes to an
# estimator.
OBJECTIVES = [
    "dr_grpo", "dr_gspo", "frameworks/trl_grpo", "frameworks/verl_grpo", "gmpo", "gspo",
    "gspo_token", "just_rl", "kimi_k15", "lite_ppo", "opo", "reinforce", "rejection_sampling",
    "remax", "rloo", "sapo",
]  # fmt: skip


@pytest.mark.parametrize("entry", OBJECTIVES)
def test_micro_batches_add_up_to_the_objective(entry: str) -> None:
    d = grouped()
    d.columns["greedy"] = d["greedy"][torch.tensor(d.step.prompt) * 4]  # one for each prompt
    objective = objdsl.load(entry)
    for column, domain in objective.formula.domains.items():
        d.columns[column] = torch.from_numpy(nearest(domain, d[column]))
    name, aggregation = register(objective), MODES[halves(objective).divisor][0]
    greedy = {"reward_baselines": d["greedy"]} if entry == "remax" else {}
    A = advantages(d, name, **greedy)
    parts = [
        loss(d, name, A, aggregation, rows) for rows in ([0, 5, 7], [1, 2], [3, 4, 6, 8, 9, 10, 11])
    ]
    given = {key: x.detach() for key, x in d.columns.items() if key not in objective.live}
    step = objective.prepare(mask=d.mask, prompt=d.step.prompt, **given)
    assert_same(d, sum(parts[1:], parts[0]), objective(d["log_pi"], step).loss)


def nested(rows: Tensor, mask: Tensor) -> Tensor:
    tensor: Tensor = torch.nested.as_nested_tensor(
        [row[keep] for row, keep in zip(rows, mask, strict=True)], layout=torch.jagged
    )
    return tensor


def test_ppo_loss() -> None:
    """Called as verl's workers do: packed log-probabilities of prompt and response, other tensors
    nested; verl adds its entropy bonus itself."""
    d = data()
    objective = objdsl.load("frameworks/verl_grpo")
    name = register(objective)
    A = advantages(d, name)
    many = len(d.mask)
    prompt = torch.full((many, 1), 3)
    responses = torch.where(d.mask, 4, 0)
    seen = torch.cat([torch.ones(many, 1, dtype=torch.bool), d.mask], 1)
    batch = TensorDict(
        {
            "prompts": nested(prompt, torch.ones_like(prompt, dtype=torch.bool)),
            "responses": nested(responses, d.mask),
            "input_ids": nested(torch.cat([prompt, responses], 1), seen),
            "response_mask": nested(d.mask.long(), d.mask),
            "old_log_probs": nested(d["log_old"], d.mask),
            "advantages": nested(A, d.mask),
        },
        batch_size=[many],
    )
    tensordict_utils.assign_non_tensor(
        batch,
        dp_size=1,
        batch_num_tokens=int(d.mask.sum()),
        global_batch_size=many,
        max_response_len=d.mask.shape[1],
    )
    # What is said at a place is said of the next token.
    log_pi = torch.cat([d["log_pi"], torch.zeros(many, 1)], 1)
    output = {"log_probs": nested(log_pi, seen), "entropy": nested(torch.ones_like(log_pi), seen)}
    ours, metrics = losses.ppo_loss(actor(name, entropy_coeff=0.5), output, batch)
    theirs, _ = losses.ppo_loss(actor("vanilla", entropy_coeff=0.5), output, batch)
    assert_same(d, ours, theirs)
    assert 0 < metrics["clip_fraction"].aggregate() < 1


def test_responses_without_tokens() -> None:
    """verl's rejection leaves responses whose mask is empty."""
    d = data()
    name = register(objdsl.load("rloo"))
    mask = d.mask.clone()
    mask[2] = False
    d.mask = mask
    A = advantages(d, name)
    assert not bool(A[2].any())
    (gradient,) = torch.autograd.grad(loss(d, name, A, "seq-mean-token-sum"), d["log_pi"])
    assert not bool(gradient[2].any()) and bool(gradient.any())
    none = loss(d, name, A, "seq-mean-token-sum", [2])
    assert float(none.detach()) == 0 and none.requires_grad


# --- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ("grpo", "verl does not pass `log_ref` to the worker"),
        ("tis", "verl does not pass `log_mu` to the worker"),
        ("dapo", "use algorithm.filter_groups"),
        ("cispo", "passes no other count to a worker"),
        ("kl_cov", "does not see the other responses"),
        ("kl_exact", "verl does not pass `log_pi_dist` to the worker"),
    ],
)
def test_what_verl_cannot_carry(entry: str, reason: str) -> None:
    with pytest.raises(UnsupportedError, match=reason):
        policy_loss(objdsl.load(entry))


def test_a_learned_number_has_no_optimizer_there() -> None:
    text = "learn tau = 1\nA = tau * reward\nmaximize mean[p,i,t] (A * log(pi)) - tau^2"
    for make in (policy_loss, advantage_estimator):
        with pytest.raises(UnsupportedError, match="it learns `tau`, and the optimizer there"):
            make(objdsl.loads(text))


def test_rollouts_do_not_branch_there() -> None:
    text = (
        "given tree[p,i] before i\nsample from mu: branch tree\n"
        "maximize mean[p,i,t] (reward * log(pi))"
    )
    for make in (policy_loss, advantage_estimator):
        with pytest.raises(UnsupportedError, match="its rollouts branch by `tree`"):
            make(objdsl.loads(text))


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"loss_agg_mode": "seq-mean-token-sum"}, "its denominators are those of token-mean"),
        ({"clip_ratio_high": 0.28}, "decides on actor.clip_ratio_high, which is set to 0.28"),
    ],
)
def test_settings_that_contradict(options: dict[str, Any], reason: str) -> None:
    d = data()
    function = policy_loss(objdsl.load("frameworks/verl_grpo"))
    config = actor(**options)
    with pytest.raises(UnsupportedError, match=reason):
        function(
            old_log_prob=d["log_old"],
            log_prob=d["log_pi"],
            advantages=d["log_old"],
            response_mask=d.mask,
            loss_agg_mode=config.loss_agg_mode,
            config=config,
        )


def test_weights_that_the_objective_does_not_mention() -> None:
    d = data()
    function = policy_loss(objdsl.load("frameworks/verl_grpo"))
    with pytest.raises(UnsupportedError, match=r"algorithm\.rollout_correction multiplies with"):
        function(
            old_log_prob=d["log_old"],
            log_prob=d["log_pi"],
            advantages=d["log_old"],
            response_mask=d.mask,
            rollout_is_weights=d["log_old"].exp(),
        )
