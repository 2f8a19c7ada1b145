"""A dry run: what a run would compute, and two steps of it with a tiny model."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator
from contextlib import closing
from io import StringIO
from pathlib import Path

import torch
from rich.console import Console

from objdsl.ir.columns import (
    Clock,
    Column,
    Data,
    Ids,
    Learned,
    LogProbs,
    Noise,
    Reward,
    State,
    Truncation,
    Values,
)
from objdsl.ir.indices import PROMPT, RESPONSE, SCALAR, TOKEN, VOCAB
from objdsl.objective import Objective
from objdsl.runtime.data.example import columns_of
from objdsl.runtime.data.rewards import Rewards
from objdsl.runtime.data.tasks import Task, load_task
from objdsl.runtime.engines.models import DTYPES
from objdsl.runtime.learning.needs import Needs, check_layers, needs_of
from objdsl.runtime.learning.preferences import OF_PREFERENCES
from objdsl.runtime.learning.sampled import GREEDY
from objdsl.runtime.learning.supplied import LOSS_MASK
from objdsl.runtime.run import build, checks
from objdsl.runtime.run.loop import train
from objdsl.runtime.run.run import Result
from objdsl.runtime.settings.config import TINY, Config


def dry_run(config: Config) -> Iterator[str]:
    """Describes a run, then runs two steps of it with a tiny model, without vLLM.

    Raises what `train` raises. Leaves no files.
    """
    objective = build.load_objective(config)
    needs = needs_of(objective)
    task = load_task(config.task, config.seed)
    yield f"{objective.name}, from {config.objective}: digest {objective.digest}"
    yield from _columns(config, objective, needs, task)
    yield f"{task.name}: {len(task.train)} prompts to train on, {len(task.held_out)} held out"
    yield from _arithmetic(config, objective, build.longest_of(config, task))
    yield from _memory(config, needs, len(task.alphabet) + 3)
    if config.model.name == TINY:
        check_layers(objective, config.model.layers)
    known = {"ref", *(policy.name for policy in needs.following)}
    others = [name for name in needs.policies if name not in known]
    if others:
        yield f"no step is run: there is no tiny model for the policy `{others[0]}`"
        return
    result = _two_steps(config, needs)
    yield f"two steps with a tiny model: {result.seconds:.1f} s, no errors"


_PER = {
    SCALAR: "run", PROMPT: "prompt", RESPONSE: "response", TOKEN: "token",
    VOCAB: "vocabulary entry",
}  # fmt: skip


def _columns(config: Config, objective: Objective, needs: Needs, task: Task) -> Iterator[str]:
    """A table of the columns that the objective reads, and who supplies each of them."""
    columns = sorted(objective.all_columns.items())
    rows = [("column", "number per", "supplied by")]
    given = _given(config, objective, needs, task)
    rows += [
        (name, _PER[column.indices], given.get(name) or _supplier(config, needs, column))
        for name, column in columns
    ]
    if LOSS_MASK in given and LOSS_MASK not in objective.all_columns:
        rows.append((LOSS_MASK, "token", f"{given[LOSS_MASK]}: 0 drops a token from the loss"))
    width = max(16, *(len(name) for name, _, _ in rows))
    for name, per, supplier in rows:
        yield f"  {name:<{width}} {per:<12} {supplier}"


def _given(config: Config, objective: Objective, needs: Needs, task: Task) -> dict[str, str]:
    """Who supplies the columns that the task or the reward functions have, by name."""
    task_columns = columns_of(task.train)
    data = f"the data of `{config.task.name}`"
    suppliers = {name: data for name in needs.given if name in task_columns}
    if not build.samples(objective, config.task, task.train):
        return suppliers | dict.fromkeys(OF_PREFERENCES, f"{data}, its pairs of responses")
    checks.check_answers(config, task.train)
    with closing(Rewards(config.rewards, config.reward_deadline)) as rewards:
        rewards.check(task_columns)
        checks.check_columns(objective, needs.given, task.train, rewards)
        functions = rewards.trial(task.train[0], task_columns).functions
    suppliers |= {name: f"the reward function `{by}`" for name, by in functions.items()}
    return suppliers | {GREEDY: "the trainer, the reward of the greedy response"}


def _supplier(config: Config, needs: Needs, column: Column) -> str:
    """Who supplies a column that every run has."""
    if column.name in needs.trained:
        return "the trainer, from the policy, with gradient"
    if column.name in needs.measured:
        return "the trainer, from the policy before it learns from the step"
    if column.name in needs.frozen:
        policy = needs.frozen[column.name][0]
        follows = any(policy == declared.name for declared in needs.following)
        return f"the trainer, from the {'following' if follows else 'frozen'} policy `{policy}`"
    match column.role:
        case State():
            return "the objective's own state"
        case Learned():
            return "the optimizer, which trains it beside the policy"
        case Clock():
            return "the trainer, which counts rollouts"
        case Noise():
            return "the trainer, random numbers from the seed"
        case LogProbs() | Truncation() | Ids():
            return "the sampler"
        case Reward() | Data() | Values():
            weighted = (f"{weight:g} `{name}`" for name, weight in config.rewards.items())
            alone = f"`{next(iter(config.rewards))}`" if [*config.rewards.values()] == [1] else ""
            return f"the reward function{'' if alone else 's,'} {alone or ' + '.join(weighted)}"


def _arithmetic(config: Config, objective: Objective, longest: int) -> Iterator[str]:
    group = build.group_of(config, objective)
    prompts, learner = config.sampler.prompts, config.learner
    rows = prompts * group
    yield (
        f"each step: {prompts} prompts x {group} responses = {rows} responses "
        f"of at most {longest} tokens"
    )
    share = math.ceil(prompts / learner.minibatches) * group
    micro = min(learner.micro_batch or share, share)
    yield (
        f"then {learner.epochs * learner.minibatches} steps of AdamW on {share} responses each, "
        f"in {math.ceil(share / micro)} forward passes of at most {micro}"
    )
    yield f"{config.steps} steps: {config.steps * prompts} prompts, {config.steps * rows} responses"


def _memory(config: Config, needs: Needs, tiny_vocabulary: int) -> Iterator[str]:
    """Memory of weights, gradients and optimizer; that of activations depends on the model."""
    count = _parameters(config, tiny_vocabulary)
    if count is None:
        yield f"memory: unknown, as the configuration of {config.model.name} is not available"
        return
    size = DTYPES[config.model.dtype].itemsize
    copies = {"weights": 1, "gradient": 1, "AdamW": 2, "frozen policies": len(needs.policies)}
    if needs.critic and config.learner.critic == "model":
        copies["critic"] = 4  # its weights, gradient and moments
    parts = ", ".join(f"{name} {_bytes(n * count * size)}" for name, n in copies.items() if n)
    yield f"memory of {count / 1e6:.3g} million weights: {parts}, without activations and vLLM"


def _parameters(config: Config, tiny_vocabulary: int) -> int | None:
    from transformers import AutoConfig, AutoModelForCausalLM

    if config.model.name == TINY:
        width = config.model.width
        return tiny_vocabulary * width + config.model.layers * (13 * width**2 + 2 * width) + width
    try:
        shape = AutoConfig.from_pretrained(
            config.model.name, revision=config.model.revision, trust_remote_code=False
        )
    except (OSError, ValueError):
        return None
    with torch.device("meta"):
        return int(
            sum(
                p.numel()
                for p in AutoModelForCausalLM.from_config(
                    shape, trust_remote_code=False
                ).parameters()
            )
        )


def _bytes(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def _two_steps(config: Config, needs: Needs) -> Result:
    with tempfile.TemporaryDirectory(prefix="objdsl-dry-run-") as folder:
        layers = max([2, *(hidden.layer + 1 for hidden in needs.layers.values())])
        values = config.model_dump(mode="python")
        values["steps"] = 2
        values["output"] = Path(folder) / "run"
        values["policies"] = {}
        values["report"] |= {"trackers": []}
        values["model"] |= {"name": TINY, "layers": layers, "width": 32, "heads": 2}
        values["model"] |= {"device": "cpu", "revision": None}
        # For the tiny model, every character is a token.
        values["task"] |= {"held_out": 8, "max_prompt_tokens": 4000}
        values["evaluation"] |= {"samples": 0, "k": []}
        values["sampler"] |= {"engine": "transformers", "prompts": 4, "max_tokens": 8}
        values["learner"] |= {"critic_model": None}
        values["learner"] |= {"autocast": False, "minibatches": min(4, config.learner.minibatches)}
        values["warm_start"] |= {"steps": 0}
        return train(Config.model_validate(values), console=Console(file=StringIO()))
