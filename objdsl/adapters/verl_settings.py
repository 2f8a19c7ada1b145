"""verl's settings beside those that an objective makes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from typing import Any

from verl.workers.config import ActorConfig, PolicyLossConfig

from objdsl.adapters.needs import UnsupportedError, refused
from objdsl.adapters.verl_names import ESTIMATOR
from objdsl.adapters.verl_steps import POLICIES
from objdsl.ir.columns import IDS, LogProbs, Reward
from objdsl.ir.indices import TOKEN
from objdsl.objective import Objective

DECIDED = (
    "clip_ratio", "clip_ratio_low", "clip_ratio_high", "clip_ratio_c", "tau_pos", "tau_neg",
    "loss_agg_mode", "loss_scale_factor", "entropy_coeff", "use_kl_loss", "kl_loss_coef",
    "kl_loss_type",
)  # fmt: skip
"""Settings of ActorConfig about the loss, which the objective decides."""

_OF_POLICY_LOSS = ("clip_cov_ratio", "clip_cov_lb", "clip_cov_ub", "kl_cov_ratio", "ppo_kl_coef")

_GREEDY = "greedy"


def refuse_contradictions(objective: Objective, config: Any) -> None:
    """Ends a run before it begins, if its configuration is none for this objective.

    Raises:
        UnsupportedError: with all reasons.
    """
    if reasons := [*out_of_reach(objective), *contradicted(objective, config)]:
        raise UnsupportedError(objective, "verl", reasons)


def out_of_reach(objective: Objective) -> Iterator[str]:
    """What verl's workers cannot give an objective, whatever the settings are."""
    of_tokens = [
        name
        for name, column in objective.columns.items()
        if isinstance(column.role, Reward) and column.indices == TOKEN
    ]
    if len(of_tokens) > 1:
        yield f"it reads {len(of_tokens)} rewards of tokens ({', '.join(of_tokens)}): verl has one"
    yield from refused(objective, ("pi", *POLICIES), supplied=(IDS.name, *of_tokens))


def contradicted(objective: Objective, config: Any) -> Iterator[str]:
    """Settings that contradict an objective, cut its groups, or keep back what it reads."""
    actor, rollout = config.actor_rollout_ref.actor, config.actor_rollout_ref.rollout
    algorithm, reads = config.algorithm, objective.columns
    for names, section, default, where in (
        (DECIDED, actor, ActorConfig, "actor"),
        (_OF_POLICY_LOSS, actor.policy_loss, PolicyLossConfig, "actor.policy_loss"),
    ):
        defaults = {field.name: field.default for field in fields(default)}
        for name in names:
            if (value := section.get(name, defaults[name])) != defaults[name]:
                yield f"the objective decides on {where}.{name}, which is set to {value}"
    yield from _advantages(objective, config)
    if LogProbs("mu").name in reads and not rollout.calculate_log_probs:
        yield "it reads `mu`: set actor_rollout_ref.rollout.calculate_log_probs=True"
    if algorithm.get("use_kl_in_reward"):
        yield "algorithm.use_kl_in_reward takes a KL from rewards, which is not in the formula"
    correction = algorithm.get("rollout_correction") or {}
    if correction.get("bypass_mode"):
        yield "algorithm.rollout_correction.bypass_mode calls `mu` old: a file can read `mu` itself"
    if correction.get("rollout_is"):
        yield "algorithm.rollout_correction.rollout_is has weights that are not in the formula"
    if (algorithm.get("filter_groups") or {}).get("enable") and objective.formula.keep is None:
        yield "algorithm.filter_groups drops prompts, and the formula does not: `keep` says which"
    if (config.get("distillation") or {}).get("enabled"):
        yield "distillation adds a loss that is not in the formula"
    yield from _sampling(objective, rollout)
    if config.data.train_batch_size > actor.ppo_mini_batch_size:  # several optimizer steps
        for name in ("shuffle", "use_prefix_grouper"):
            if actor.get(name):
                yield (
                    f"actor.{name}=True does not leave groups whole in several optimizer steps: "
                    "set it to False, or actor.ppo_mini_batch_size to data.train_batch_size"
                )
    if objective.needs_couple and actor.strategy not in ("fsdp", "fsdp2"):
        yield (
            "its weights depend on the policy's probabilities of all rows of a step, which are "
            f"computed before it with actor.strategy fsdp or fsdp2, not {actor.strategy}"
        )
    if (actor.get("megatron") or {}).get("dynamic_context_parallel"):
        yield "actor.megatron.dynamic_context_parallel gives every rank the rows of all"


def _advantages(objective: Objective, config: Any) -> Iterator[str]:
    estimator = str(config.algorithm.adv_estimator)
    if _GREEDY not in objective.columns:
        if estimator != ESTIMATOR:
            yield (
                f"its advantages are its own: set algorithm.adv_estimator={ESTIMATOR}, which "
                f"computes none, not {estimator}"
            )
    elif estimator != "remax" or config.trainer.get("use_v1"):
        yield (
            "it reads `greedy`, for which verl draws greedy responses: set trainer.use_v1=False "
            "and algorithm.adv_estimator=remax"
        )


def _sampling(objective: Objective, rollout: Any) -> Iterator[str]:
    drawn = objective.sample
    top_k = max(rollout.top_k, 0)
    if drawn.span is not None:
        for name, wanted, value in [
            ("temperature", drawn.temperature, rollout.temperature),
            ("top_p", drawn.top_p, rollout.top_p),
            ("top_k", drawn.top_k or 0, top_k),
        ]:
            if value != wanted:
                yield f"it samples with {name} {wanted:g}, but rollout.{name} is {value:g}"
    if drawn.keep_mask and (rollout.top_p < 1 or top_k):
        yield "it keeps the sampler's mask, which verl does not pass on"
    if drawn.keep_routing and not rollout.get("enable_rollout_routing_replay"):
        yield (
            "it keeps the sampler's routing of experts: set router_replay.mode=R3 of the actor's "
            "engine and actor_rollout_ref.rollout.enable_rollout_routing_replay=True"
        )
