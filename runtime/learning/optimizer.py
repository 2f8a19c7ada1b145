"""AdamW on a policy, its critic and learned numbers: rates, clipping, undo, and the saved state."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from objdsl.errors import ObjdslError
from objdsl.runtime.engines.policy import Policy
from objdsl.runtime.learning.finite import NotFiniteError
from objdsl.runtime.processes.ranks import full_tensor, shard_like
from objdsl.runtime.settings.config import LearnerSection


class TrainingError(ObjdslError, RuntimeError):
    """The objective cannot read the data, or too many optimizer steps are not finite."""


# Weights, and the optimizer state of those that have one.
_Snapshot = tuple[list[Tensor], dict[Any, dict[str, Tensor]]]


class Optimizer:
    """AdamW with one group of parameters for the policy, one for the critic, and one for numbers
    that are learned beside them.

    Args:
        steps: rollouts of the whole run, for the schedule of the learning rate.
        learned: the numbers, by name; each rank has the same.
    """

    def __init__(
        self,
        policy: Policy,
        config: LearnerSection,
        steps: int,
        learned: Mapping[str, nn.Parameter],
    ) -> None:
        self._learned = learned
        self._names = {x: name for name, x in policy.named_parameters()}
        self._parameters = [*policy.parameters(), *learned.values()]
        self._config = config
        self._steps = steps
        critic = policy.critic_parameters()
        weights = policy.parameters()
        self._groups = [weights[: len(weights) - len(critic)], *([critic] if critic else [])]
        self._snapshot: _Snapshot | None = None
        self._moved = False
        options = [
            {"params": group, "peak": peak}
            for group, peak in zip(self._groups, (config.lr, config.critic_lr), strict=False)
        ]
        if learned:
            numbers = [*learned.values()]
            options.append({"params": numbers, "peak": config.learned_lr, "weight_decay": 0.0})
        self._adamw = torch.optim.AdamW(
            options,
            lr=config.lr,
            betas=(config.beta1, config.beta2),
            eps=config.epsilon,
            weight_decay=config.weight_decay,
            fused=True,
        )

    def begin(self, step: int, several: bool) -> float:
        """Sets the learning rate of rollout `step`, counted from 0, and returns it.

        Args:
            several: whether several optimizer steps follow, which `rewind` undoes together.
        """
        rate = learning_rate(self._config, step, self._steps)
        for group in self._adamw.param_groups:
            group["lr"] = rate * ((group["peak"] or self._config.lr) / self._config.lr)
        self._snapshot = self._copy() if several else None
        return rate

    def finish(self) -> None:
        """Ends a rollout: its steps are not undone any more."""
        self._moved = False

    def zero_grad(self) -> None:
        self._adamw.zero_grad()

    def step(self, name: str, critic_alone: bool = False) -> dict[str, float]:
        """Clips the gradients and takes a step; returns their norms before clipping.

        The critic's gradient is clipped separately: it does not affect the policy's step.

        Args:
            name: the objective, for messages.
            critic_alone: whether nothing but the critic learns.

        Raises NotFiniteError for a gradient that is not finite; then no step is taken.
        """
        limit = self._config.clip if self._config.clip is not None else math.inf
        totals = [nn.utils.get_total_norm(_gradients(group)) for group in self._groups]
        norms = [float(full_tensor(total)) for total in totals]
        for norm, group in zip(norms, self._groups, strict=True):
            if not math.isfinite(norm):
                raise NotFiniteError(self._strange(group, norm, name))
        for number, x in self._learned.items():
            slope = 0.0 if x.grad is None else -float(x.grad)
            if not math.isfinite(slope):
                raise NotFiniteError(f"the derivative of {name} by {number} is {slope}")
        for total, group in zip(totals, self._groups, strict=True):
            nn.utils.clip_grads_with_norm_(group, limit, total)
        for x in [*self._groups[0], *self._learned.values()] if critic_alone else ():
            x.grad = None  # AdamW passes it over, and its moments stay
        self._moved = True
        self._adamw.step()
        return dict(zip(("grad_norm", "critic_grad_norm"), norms, strict=False))

    def _strange(self, group: Sequence[nn.Parameter], norm: float, objective: str) -> str:
        """What is not finite in the gradients of a group. Collective, for sharded weights."""
        strange = [
            self._names[x]
            for x in group
            if x.grad is not None and not bool(full_tensor(x.grad).isfinite().all())
        ]
        if not strange:
            return f"the norm of the gradient of {objective} is {norm}, with finite parts"
        more = f", and of {len(strange) - 1} more parameters," if len(strange) > 1 else ""
        return f"the gradient of {objective} by {strange[0]}{more} is not finite"

    # --- undoing, saving --------------------------------------------------------------------------

    def rewind(self) -> bool:
        """Undoes the optimizer steps since `begin`, if possible; returns whether it was."""
        if self._moved and self._snapshot is not None:
            weights, slots = self._snapshot
            with torch.no_grad():
                for weight, x in zip(self._parameters, weights, strict=True):
                    _local(weight).copy_(x)
                for parameter in [*self._adamw.state]:
                    if parameter not in slots:
                        del self._adamw.state[parameter]
                        continue
                    for name, x in slots[parameter].items():
                        _local(self._adamw.state[parameter][name]).copy_(x)
            self._moved = False
        return not self._moved

    def _copy(self) -> _Snapshot:
        """Everything that a step changes, in CPU memory."""
        slots = {
            weight: {name: _on_cpu(x) for name, x in slot.items()}
            for weight, slot in self._adamw.state.items()
        }
        return [_on_cpu(weight) for weight in self._parameters], slots

    def state(self) -> dict[str, Any]:
        """The state with full tensors, and the learned numbers. Collective."""
        state = self._adamw.state_dict()
        slots = {
            k: {name: full_tensor(x) for name, x in slot.items()}
            for k, slot in state["state"].items()
        }
        learned = {name: x.detach().cpu() for name, x in self._learned.items()}
        return {**state, "state": slots, "learned": learned}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Loads a state, which may come from a different number of ranks. Collective."""
        with torch.no_grad():
            for name, x in state.get("learned", {}).items():
                if name in self._learned:
                    self._learned[name].copy_(x)
        weights = dict(enumerate(self._parameters))
        slots = {
            k: {name: shard_like(x, weights[k]) if x.dim() else x for name, x in slot.items()}
            for k, slot in state["state"].items()
        }
        # Learning rate, decay and the like come from the settings, which may have changed.
        groups = self._adamw.state_dict()["param_groups"]
        self._adamw.load_state_dict({"param_groups": groups, "state": slots})


def learning_rate(config: LearnerSection, step: int, steps: int) -> float:
    """The rate of step `step`, counted from 0, of `steps`."""
    rise = min(1.0, (step + 1) / (config.warmup + 1))
    done = step / max(steps - 1, 1)
    match config.schedule:
        case "constant":
            fall = 1.0
        case "linear":
            fall = 1 - (1 - config.final_lr) * done
        case "cosine":
            fall = config.final_lr + (1 - config.final_lr) * (1 + math.cos(math.pi * done)) / 2
    return config.lr * rise * fall


def _gradients(group: Sequence[nn.Parameter]) -> list[Tensor]:
    return [x.grad for x in group if x.grad is not None]


def _local(x: Tensor) -> Tensor:
    """This rank's shard of a tensor."""
    return x.to_local() if isinstance(x, DTensor) else x


def _on_cpu(x: Tensor) -> Tensor:
    return _local(x.detach()).to("cpu", copy=True)
