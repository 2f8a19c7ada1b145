"""A dry run: what a run would compute, and two steps of it with a tiny model."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator
from io import StringIO
from pathlib import Path

import torch
from rich.console import Console

from objdsl.ir.columns import Clock, LogProbs, Noise, Reward, Role, State, Truncation
from objdsl.ir.indices import TOKEN
from objdsl.objective import Objective
from objdsl.runtime.data.tasks import load_task
from objdsl.runtime.engines.models import DTYPES
from objdsl.runtime.learning.needs import Needs, check_layers, needs_of
from objdsl.runtime.run import build
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
    yield from _columns(objective, needs)
    yield f"{task.name}: {len(task.train)} prompts to train on, {len(task.held_out)} held out"
    yield from _arithmetic(config, objective, task.max_tokens)
    yield from _memory(config, needs, len(task.alphabet) + 3)
    if config.model.name == TINY:
        check_layers(objective, config.model.layers)
    others = [name for name in needs.policies if name != "ref"]
    if others:
        yield f"no step is run: there is no tiny model for the policy `{others[0]}`"
        return
    result = _two_steps(config, needs)
    yield f"two steps with a tiny model: {result.seconds:.1f} s, no errors"


_SOURCES: dict[type[Role], str] = {
    LogProbs: "the sampler",
    Truncation: "the sampler",
    Reward: "the rewards",
    Noise: "the seed",
    State: "the objective, from rollout to rollout",
    Clock: "the run",
}


def _columns(objective: Objective, needs: Needs) -> Iterator[str]:
    """Every column that the objective reads, and where it comes from."""
    for name, column in sorted(objective.all_columns.items()):
        if name in needs.trained:
            origin = "the policy, with gradient"
        elif name in needs.measured:
            origin = "the policy, before it learns from the step"
        elif name in needs.frozen:
            origin = f"the frozen policy `{needs.frozen[name][0]}`"
        elif name in needs.given:
            is_reward, of_tokens = isinstance(column.role, Reward), column.indices == TOKEN
            origin = "the rewards" if of_tokens else "the task or the rewards"
            origin = f"a reward function that returns `{name}`" if is_reward else origin
            origin += ", a list with a number per token for each response" if of_tokens else ""
        else:
            origin = _SOURCES[type(column.role)]
        yield f"  {name:<16} {origin}"


def _arithmetic(config: Config, objective: Objective, task_tokens: int) -> Iterator[str]:
    group = build.group_of(config, objective)
    prompts, learner = config.sampler.prompts, config.learner
    rows = prompts * group
    yield (
        f"each step: {prompts} prompts x {group} responses = {rows} responses "
        f"of at most {config.sampler.max_tokens or task_tokens} tokens"
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
        layers = max([2, *(layer + 1 for layer in needs.layers.values())])
        values = config.model_dump(mode="python")
        values["steps"] = 2
        values["output"] = Path(folder) / "run"
        values["policies"] = {}
        values["report"] |= {"trackers": []}
        values["model"] |= {"name": TINY, "layers": layers, "width": 32, "heads": 2}
        values["model"] |= {"device": "cpu", "revision": None}
        # For the tiny model, every character is a token.
        values["task"] |= {"held_out": 8, "max_prompt_tokens": 4000}
        values["sampler"] |= {"engine": "transformers", "prompts": 4, "max_tokens": 8}
        values["learner"] |= {"autocast": False, "minibatches": min(4, config.learner.minibatches)}
        values["warm_start"] |= {"steps": 0}
        return train(Config.model_validate(values), console=Console(file=StringIO()))
