"""Random configurations of verl: what its own functions compute under them, and what the objective
that `objdsl import verl` writes for them does."""

from __future__ import annotations

import sys
from dataclasses import fields
from functools import cache
from pathlib import Path
from random import Random
from types import ModuleType
from typing import Any

import torch
import verl
import yaml
from omegaconf import OmegaConf
from tensordict import TensorDict
from torch import Tensor
from verl import DataProto
from verl.trainer.ppo.core_algos import get_kl_controller
from verl.trainer.ppo.rollout_corr_helper import (
    apply_bypass_mode,
    compute_rollout_correction_and_add_to_batch,
)
from verl.utils import tensordict_utils
from verl.workers.config import ActorConfig, CriticConfig, PolicyLossConfig
from verl.workers.engine.utils import prepare_micro_batches
from verl.workers.utils.losses import ppo_loss, value_loss
from verl.workers.utils.padding import left_right_2_no_padding

import objdsl
from helpers import absent
from helpers.peer_losses import Data, data
from helpers.verl_engine import batch_of
from objdsl import frameworks

with absent.for_now(
    "torchdata", "torchdata.stateful_dataloader", "uvicorn", "trl.experimental.ppo",
    "transfer_queue",
):  # fmt: skip
    from verl.trainer.ppo.ray_trainer import apply_kl_penalty, compute_advantage

    # Only one module of this package is used; the others cannot be imported.
    sys.modules["verl.trainer.ppo.v1"] = v1 = ModuleType("verl.trainer.ppo.v1")
    v1.__path__ = [str(Path(verl.__file__).parent / "trainer" / "ppo" / "v1")]
    from verl.trainer.ppo.v1.utils import compute_advantage_for_multi_trajectories

    for name in [name for name in sys.modules if name.startswith(v1.__name__)]:
        del sys.modules[name]

ACTOR, ROLLOUT = "actor_rollout_ref.actor.", "actor_rollout_ref.rollout."
CORRECTION = "algorithm.rollout_correction."
ESTIMATORS = (
    "gae", "grpo", "grpo_vectorized", "rloo", "rloo_vectorized", "reinforce_plus_plus",
    "reinforce_plus_plus_baseline", "opo", "gpg", "grpo_passk",
)  # fmt: skip
BEFORE_V1 = ("remax", "gdpo", "optimal_token_baseline", "tir_optimal_token_baseline")
MODES = (
    "token-mean", "token-sum", "seq-mean-token-sum", "seq-mean-token-mean",
    "seq-mean-token-sum-norm",
)  # fmt: skip
DIVERGENCES = ("kl", "k1", "abs", "mse", "k2", "low_var_kl", "k3")
LOSSES = (
    "vanilla", "vanilla", "dppo_tv", "dppo_kl", "gspo", "sapo", "gpg", "clip_cov", "kl_cov",
    "geo_mean", "dro", "cispo", "bypass_mode",
)  # fmt: skip
ALONE = ("clip_cov", "kl_cov")  # exact with one micro-batch only
REJECTIONS = (
    ("token_k1", "0.8_1.2"), ("token_k1", "1.3"), ("token_k2", "0.02"), ("token_k3", 0.02),
    ("seq_sum_k1", "0.6_1.5"), ("seq_sum_k2", "0.1"), ("seq_sum_k3", 0.1), ("seq_mean_k1", "1.1"),
    ("seq_mean_k2", 0.02), ("seq_mean_k3", "0.03"), ("seq_max_k2", 0.1), ("seq_max_k3", "0.1"),
    ("token_k1,seq_mean_k3", "0.7_1.4,0.05"), ("seq_max_k2,seq_mean_k2", "0.2"),
)  # fmt: skip
IN_FLOAT32 = ("grpo_vectorized", "gdpo")
ROWS = 14  # of the random step


def drawn(seed: int) -> dict[str, Any]:
    """The settings of a run, by their whole names."""
    random = Random(seed)
    pick = random.choice
    v1 = random.random() < 0.6
    loss = pick(LOSSES)
    ranks = 1 if loss in ALONE else pick([1, 1, 2])
    rows = ROWS // ranks
    settings: dict[str, Any] = {
        "trainer.use_v1": v1,
        "trainer.n_gpus_per_node": ranks,
        "data.train_batch_size": 7,
        "data.max_response_length": 6,
        f"{ROLLOUT}n": 2,
        f"{ROLLOUT}temperature": pick([1.0, 0.7]),
        f"{ACTOR}ppo_mini_batch_size": 7,
        f"{ACTOR}ppo_micro_batch_size_per_gpu": rows if loss in ALONE else pick([1, 7, rows]),
        f"{ACTOR}policy_loss.loss_mode": loss,
        f"{ACTOR}loss_agg_mode": pick(MODES),
        f"{ACTOR}loss_scale_factor": pick([None, 20]),
        f"{ACTOR}clip_ratio": pick([0.2, 0.05]),
        f"{ACTOR}clip_ratio_low": pick([0.2, 0.02, None]),
        f"{ACTOR}clip_ratio_high": pick([0.28, 0.05, None]),
        f"{ACTOR}clip_ratio_c": pick([3.0, 1.1]),
        f"{ACTOR}tau_pos": pick([1.0, 2.0]),
        f"{ACTOR}policy_loss.clip_cov_ratio": 1.0,  # none is left to chance
        f"{ACTOR}policy_loss.clip_cov_lb": 0.01,
        f"{ACTOR}policy_loss.clip_cov_ub": pick([0.3, 5.0]),
        f"{ACTOR}policy_loss.kl_cov_ratio": pick([2e-4, 0.15]),
        f"{ACTOR}policy_loss.ppo_kl_coef": pick([0.1, 1.0]),
        f"{ACTOR}policy_loss.dro_beta": pick([0.1, 2.0]),
        f"{ACTOR}entropy_coeff": pick([0, 0, 0.01, -0.01]),
        "algorithm.adv_estimator": pick(ESTIMATORS if v1 else ESTIMATORS + BEFORE_V1 * 2),
        "algorithm.gamma": pick([1.0, 0.9]),
        "algorithm.lam": pick([1.0, 0.95]),
        "algorithm.norm_adv_by_std_in_grpo": pick([True, True, False]),
        "algorithm.gdpo_reward_keys": ["format", "correct"],
        "algorithm.gdpo_reward_weights": pick([None, [1.0, 0.5]]),
        "critic.cliprange_value": pick([0.5, 0.1]),
        "critic.enable": pick([None, None, True]),
        f"{ACTOR}calculate_sum_pi_squared": True,
    }
    if ranks == 1 and loss not in ALONE and random.random() < 0.2:
        settings |= {f"{ACTOR}use_dynamic_bsz": True, f"{ACTOR}ppo_max_token_len_per_gpu": 20}
    if random.random() < 0.5:
        kind = pick(DIVERGENCES) + pick(["", "+"])
        settings |= {
            f"{ACTOR}use_kl_loss": True,
            f"{ACTOR}kl_loss_type": kind,
            f"{ACTOR}kl_loss_coef": pick([0.001, 0.5]),
        }
    if random.random() < 0.4:
        settings |= {
            "algorithm.use_kl_in_reward": True,
            "algorithm.kl_penalty": pick(DIVERGENCES) + pick(["", "+"]),
            "algorithm.kl_ctrl.kl_coef": pick([0.001, 0.5]),
            "algorithm.kl_ctrl.type": pick(["fixed", "adaptive"]),
        }
        if settings["algorithm.adv_estimator"] in IN_FLOAT32:  # where rewards must not be close
            settings["algorithm.kl_ctrl.kl_coef"] = 0.5
    if random.random() < 0.6:
        settings |= _correction(random, settings)
    return settings


def _correction(random: Random, settings: dict[str, Any]) -> dict[str, Any]:
    """Settings of the rollout correction, that go with the others."""
    pick = random.choice
    criteria, bounds = pick([(None, None), *REJECTIONS])
    if settings["algorithm.adv_estimator"] in BEFORE_V1[2:] and "token" in (criteria or ""):
        criteria, bounds = "seq_mean_k1", "1.1"
    if settings[f"{ACTOR}policy_loss.loss_mode"] == "bypass_mode":
        criteria = bounds = None  # it fails in verl where no token of a micro-batch is left
    correction = {
        f"{CORRECTION}rollout_is": pick([None, "token", "sequence"]),
        f"{CORRECTION}rollout_is_threshold": pick([2.0, 1.1, "0.7_1.3"]),
        f"{CORRECTION}rollout_is_batch_normalize": pick([False, True]),
        f"{CORRECTION}rollout_rs": criteria,
        f"{CORRECTION}rollout_rs_threshold": bounds,
    }
    whole = settings[f"{ACTOR}ppo_micro_batch_size_per_gpu"] == ROWS
    tokens = settings["algorithm.adv_estimator"] in BEFORE_V1[2:]
    if not tokens and random.random() < 0.4:
        correction[f"{CORRECTION}bypass_mode"] = True
        correction[f"{CORRECTION}rollout_is_threshold"] = pick(
            [2.0, 1.1]
        )  # of 0, verl's metrics fail
        correction[f"{CORRECTION}loss_type"] = pick(["ppo_clip", "reinforce"])
        if not whole or settings.get(f"{ACTOR}use_dynamic_bsz"):
            correction[f"{CORRECTION}rollout_is_batch_normalize"] = False
    return correction


@cache
def _tree() -> Any:
    """verl's own tree, without its engines."""
    text = (Path(verl.__file__).parent / "trainer/config/_generated_ppo_trainer.yaml").read_text()
    whole = yaml.safe_load(text)
    actor, rollout = (whole["actor_rollout_ref"][name] for name in ("actor", "rollout"))
    nodes = {"actor": actor, "rollout": rollout, **whole}
    plain = {
        key: {name: x for name, x in node.items() if not isinstance(x, dict)}
        for key, node in nodes.items()
        if key in ("actor", "rollout", "critic", "data", "trainer")
    }
    plain["actor"]["policy_loss"] = actor["policy_loss"]
    parts = {"actor": plain.pop("actor"), "rollout": plain.pop("rollout")}
    return OmegaConf.create({"actor_rollout_ref": parts, "algorithm": whole["algorithm"], **plain})


def configuration(settings: dict[str, Any]) -> Any:
    """verl's own tree with the settings."""
    config = OmegaConf.merge(_tree())
    for name, value in settings.items():
        OmegaConf.update(config, name, value, force_add=True)
    return config


def _filled(kind: type, node: Any, **fixed: Any) -> Any:
    """One of verl's dataclasses with the numbers and words of a node."""
    known = {field.name for field in fields(kind)}
    values = {
        name: node[name] for name in node if name in known and not OmegaConf.is_config(node[name])
    }
    if "policy_loss" in node:
        values["policy_loss"] = PolicyLossConfig(
            **{name: x for name, x in node.policy_loss.items() if name != "_target_"}
        )
    return kind(**{**values, **fixed})


class Theirs:
    """A step of verl: its loss, summed as its engines sum it, and the gradients of the leaves.

    Attributes:
        micro_batch: the number of each row's micro-batch, over all ranks.
        coefficient: of the KL in the reward, after the rollout; adaptive, if it may change.
    """

    def __init__(self, settings: dict[str, Any], d: Data, seed: int) -> None:
        config = configuration(settings)
        self.v1 = bool(config.trainer.use_v1)
        self.coefficient = 0.0
        algorithm = config.algorithm
        self.adaptive = algorithm.use_kl_in_reward and algorithm.kl_ctrl.type == "adaptive"
        self.adaptive &= algorithm.adv_estimator != "gdpo"
        batch = self._with_advantages(config, d)
        order = torch.randperm(ROWS, generator=torch.Generator().manual_seed(seed))
        td = (_nested if self.v1 else _padded)(batch[order])
        ranks = config.trainer.n_gpus_per_node
        micro = config.actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu
        tensordict_utils.assign_non_tensor(
            td,
            dp_size=ranks,
            batch_num_tokens=td["loss_mask"].sum().item(),
            global_batch_size=ROWS,
            micro_batch_size_per_gpu=micro,
            use_dynamic_bsz=config.actor_rollout_ref.actor.use_dynamic_bsz,
            max_token_len_per_gpu=config.actor_rollout_ref.actor.ppo_max_token_len_per_gpu,
        )
        self.micro_batch = torch.zeros(ROWS, dtype=torch.long)
        actor = _filled(ActorConfig, config.actor_rollout_ref.actor, strategy="fsdp")
        critic = _filled(CriticConfig, config.critic, ppo_micro_batch_size_per_gpu=1)
        wanted = config.critic.enable or config.algorithm.adv_estimator == "gae"
        self.loss = torch.zeros((), dtype=torch.float64)
        count = 0
        for rank in tensordict_utils.chunk_tensordict(td, ranks):
            for part in prepare_micro_batches(rank)[0]:
                rows = part["row"]
                self.micro_batch[rows] = count
                count += 1
                outputs = {"log_probs": _jagged(part, d["log_pi"])}
                if actor.entropy_coeff:
                    dist = d["log_pi_dist"]
                    outputs["entropy"] = _jagged(part, -(dist.exp() * dist).sum(-1))
                self.loss = self.loss + ppo_loss(actor, outputs, part)[0] / ranks
                if wanted:
                    values = {"values": _jagged(part, d["value"])}
                    self.loss = self.loss + value_loss(critic, values, part)[0] / ranks

    def _with_advantages(self, config: Any, d: Data) -> DataProto:
        """What the trainer does before it updates the actor."""
        algorithm = config.algorithm
        batch = batch_of(d)
        tensors = batch.batch
        tensors["token_level_scores"] = tensors.pop("token_level_rewards")
        tensors["values"] = d["value_old"]
        tensors["sum_pi_squared"] = (2 * d["log_old_dist"]).exp().sum(-1)
        if algorithm.adv_estimator != "remax":
            del tensors["reward_baselines"]
        tensors["loss_mask"] = tensors["response_mask"].clone()
        batch.non_tensor_batch["correct"] = d["correct"].numpy()
        correction = algorithm.rollout_correction
        if correction.bypass_mode:
            if self.v1:
                tensors["old_log_probs"] = tensors["rollout_log_probs"]
            else:
                apply_bypass_mode(batch, correction, config.actor_rollout_ref.actor.policy_loss)
        if algorithm.use_kl_in_reward:
            controller = get_kl_controller(algorithm.kl_ctrl)
            batch, _ = apply_kl_penalty(batch, controller, algorithm.kl_penalty)
            self.coefficient = controller.value
        else:
            tensors["token_level_rewards"] = tensors["token_level_scores"]
        if not correction.bypass_mode:
            batch, _ = compute_rollout_correction_and_add_to_batch(batch, correction)
        options = {
            "adv_estimator": algorithm.adv_estimator,
            "gamma": algorithm.gamma,
            "lam": algorithm.lam,
            "norm_adv_by_std_in_grpo": algorithm.norm_adv_by_std_in_grpo,
            "config": algorithm,
        }
        if not self.v1:
            batch = compute_advantage(batch, **options)
            batch.batch["loss_mask"] = batch.batch["response_mask"]
            return batch
        keys = [f"{uid}_{row}_0" for row, uid in enumerate(batch.non_tensor_batch["uid"])]
        return compute_advantage_for_multi_trajectories(batch, batch_keys=keys, **options)


_OF_TOKENS = (
    "responses", "response_mask", "loss_mask", "old_log_probs", "ref_log_prob", "advantages",
    "returns", "values", "rollout_is_weights",
)  # fmt: skip


def _padded(batch: DataProto) -> TensorDict:
    """What `RayPPOTrainer` sends to workers."""
    return left_right_2_no_padding(batch.to_tensordict())


def _nested(batch: DataProto) -> TensorDict:
    """What the trainer `v1` has in its queue."""
    tensors = batch.batch
    seen = tensors["attention_mask"].bool()
    width = tensors["responses"].shape[1]

    def nested(x: Tensor, kept: Tensor) -> Tensor:
        rows = [row[some] for row, some in zip(x, kept, strict=True)]
        jagged: Tensor = torch.nested.as_nested_tensor(rows, layout=torch.jagged)
        return jagged

    columns = {
        name: nested(tensors[name], seen[:, -width:]) for name in _OF_TOKENS if name in tensors
    }
    columns |= {
        "prompts": nested(tensors["prompts"], seen[:, :-width]),
        "input_ids": nested(tensors["input_ids"], seen),
        "row": tensors["row"],
    }
    return TensorDict(columns, batch_size=[len(batch)])


def _jagged(part: TensorDict, values: Tensor) -> Tensor:
    """Values of the tokens of responses, where a model's output has them: one place earlier."""
    rows = part["row"]
    responses = part["responses"]
    if responses.is_nested:
        answered = responses.offsets().diff().tolist()
    else:
        answered = part["attention_mask"][:, -responses.shape[1] :].sum(1).tolist()
    lengths = part["input_ids"].offsets().diff().tolist()
    pieces = [
        torch.nn.functional.pad(values[row, :size], (length - size - 1, 1))
        for row, size, length in zip(rows.tolist(), answered, lengths, strict=True)
    ]
    nested: Tensor = torch.nested.as_nested_tensor(pieces, layout=torch.jagged)
    return nested


def tree(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings as a file has them."""
    root: dict[str, Any] = {}
    for name, value in settings.items():
        *sections, last = name.split(".")
        section = root
        for key in sections:
            section = section.setdefault(key, {})
        section[last] = value
    return root


def _finite(gradient: Tensor | None) -> bool:
    return gradient is None or bool(gradient.isfinite().all())


def compare(seed: int, folder: Path) -> str:
    """Holds the two equal, value and gradient, and the next coefficient of an adaptive KL; the
    imported text.

    Raises AssertionError with the settings and the text.
    """
    settings = drawn(seed)
    d = data(seed)
    for name in ("log_pi", "log_old", "log_mu", "log_ref"):  # probabilities below 1
        d[name].data.clamp_(max=-0.01)
    d["log_pi_dist"].requires_grad_()
    d.columns["truncated"] = torch.zeros(ROWS, dtype=torch.bool)
    theirs = Theirs(settings, d, seed)
    file = folder / "run.yaml"
    file.write_text(yaml.safe_dump(tree(settings)), encoding="utf-8")
    text = frameworks.configured(f"verl:{file}").text
    objective = objdsl.loads(text)
    about = f"seed {seed}\n{settings}\n{text}"
    columns = {**d.columns, "micro_batch": theirs.micro_batch}
    given = {name: columns[name].detach() for name in objective.columns if name in columns}
    live = {name: given.pop(name).requires_grad_() for name in objective.live}
    states = objective.start()
    recalled = objective.recall(states, d.step.prompt)
    prepared = objective.prepare(mask=d.mask, prompt=d.step.prompt, **given, **recalled)
    out = objective(step=prepared, **live)
    ours = torch.autograd.grad(out.loss, [*live.values()])
    leaves = [d[name] for name in objective.live]
    wanted = torch.autograd.grad(theirs.loss, leaves, allow_unused=True)
    rel = 1e-4 if settings["algorithm.adv_estimator"] in IN_FLOAT32 else 1e-6
    value, expected = float(out.loss.detach()), float(theirs.loss.detach())
    assert abs(value - expected) < rel * max(1.0, abs(expected)), f"{value} {expected}\n{about}"
    if settings["algorithm.adv_estimator"] == "opo" and not all(map(_finite, wanted)):
        return text  # a group without a token has no baseline, and verl's gradient is no number
    for name, actual, gradient in zip(objective.live, ours, wanted, strict=True):
        assert gradient is not None, f"{name}\n{about}"
        mask = d.mask if gradient.dim() == 2 else d.mask[..., None]
        apart = float((actual - gradient * mask).abs().max())
        largest = float(gradient.abs().max())
        assert apart < rel * max(largest, 1e-3), f"{name}: {apart:.2g} of {largest:.2g}\n{about}"
    if theirs.adaptive:
        sampled = {
            name: columns[name].detach() for name in objective.sampled_columns if name in columns
        }
        after = objective.advance(
            states, d.step.prompt, prompt=d.step.prompt, mask=d.mask, **sampled
        )
        assert abs(after.numbers["kl_coef"] / theirs.coefficient - 1) < 1e-6, about
    return text
