"""Policies of the training engine: transformers models, evaluated on the tokens of a batch."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from objdsl.fused.head import Precision
from objdsl.fused.log_probs import log_probs
from objdsl.ir.columns import of_policy
from objdsl.ir.declarations import Hidden
from objdsl.runtime.engines.batch import Batch
from objdsl.runtime.engines.critic import ValueModel
from objdsl.runtime.engines.layout import Layout, can_share, layout_of
from objdsl.runtime.processes.ranks import Ranks, full_tensor
from objdsl.runtime.settings.config import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Columns that need no logits.
_FUSED = {"log_pi", "entropy", "value"}
# Factors of the logits, as the configurations of transformers call them.
_SCALES = ("logit_scale", "logits_scaling", "lm_head_multiplier")


@dataclass
class Policy:
    """A language model, and the columns that an objective may read from it.

    Attributes:
        layers: internal policies: name -> the layer whose state gives its logits.
        critic: what values the states, where the objective trains a critic: a layer on the last
            hidden states, which it does not train, or a network of its own.
        temperature: the sampler's temperature, so that both engines have the same distribution.
    """

    model: PreTrainedModel
    layers: Mapping[str, Hidden] = field(default_factory=dict)
    critic: nn.Linear | ValueModel | None = None
    temperature: float = 1.0
    autocast: bool = False
    fused: bool = False
    """Whether log-probabilities are computed from the states below the head, without logits."""
    precision: Precision = "inputs"
    """Precision of the fused head; see `Objective.fused`."""

    @property
    def device(self) -> torch.device:
        device: torch.device = self.model.device
        return device

    @property
    def vocabulary(self) -> int:
        return int(self.model.get_input_embeddings().num_embeddings)

    def parameters(self) -> list[nn.Parameter]:
        """The parameters that the optimizer trains."""
        trainable = [p for p in self.model.parameters() if p.requires_grad]
        return trainable + self.critic_parameters()

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Every parameter, those of the critic with its name in front."""
        yield from self.model.named_parameters()
        if self.critic:
            yield from self.critic.named_parameters("critic")

    def critic_parameters(self) -> list[nn.Parameter]:
        """The part of `parameters` that belongs to the critic."""
        return list(self.critic.parameters()) if self.critic else []

    def weights(self) -> list[Tensor]:
        """Every weight, the critic's last; the tensors themselves, not copies."""
        return [*self.model.parameters(), *(self.critic.parameters() if self.critic else ())]

    def copy(self) -> Policy:
        """A policy with a copy of the weights, without the critic."""
        model = copy.deepcopy(self.model)
        return Policy(model, temperature=self.temperature, autocast=self.autocast, fused=self.fused)

    def frozen(self) -> Policy:
        """A copy whose weights are never trained."""
        other = self.copy()
        other.model.requires_grad_(False)
        return other

    def shard(self, ranks: Ranks) -> None:
        """Shards the weights over the ranks (FSDP)."""
        for module in (self.model, self.critic):
            if module is not None:
                ranks.shard(module)

    def reshard(self) -> None:
        """Frees the full weights that a forward pass without gradient has gathered."""
        for module in (self.model, self.critic):
            if isinstance(module, FSDPModule):
                module.reshard()

    @property
    def head(self) -> nn.Linear | None:
        """The layer from states to logits; None where it is not a plain linear layer.

        LoRA may adapt it, and some models scale their logits (Cohere, Granite).
        """
        head = self.model.get_output_embeddings()
        shape = self.model.config.get_text_config()
        scaled = any(getattr(shape, name, None) not in (None, 1) for name in _SCALES)
        return head if type(head) is nn.Linear and not scaled else None

    @property
    def softcap(self) -> float | None:
        """The softcap of the logits, as in Gemma."""
        cap = getattr(self.model.config.get_text_config(), "final_logit_softcapping", None)
        return None if cap is None else float(cap)

    def states(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The inputs of the head `[N, T, H]`, and the next tokens `[N, T]`."""
        head = self.head
        assert head is not None
        layout = layout_of(batch, self.model.dtype, self.shares_prompts)
        caught: list[Tensor] = []

        def catch(module: nn.Module, arguments: tuple[Tensor]) -> tuple[Tensor]:
            caught.append(arguments[0])
            return (arguments[0][:, :0],)  # no logits are computed

        hook = head.register_forward_pre_hook(catch)
        try:
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast):
                self.model(
                    input_ids=layout.tokens,
                    attention_mask=layout.attention,
                    position_ids=layout.positions,
                    use_cache=False,
                    logits_to_keep=torch.arange(
                        layout.first, layout.tokens.shape[1], device=self.device
                    ),
                )
        finally:
            hook.remove()
        states = caught[0] if self.precision == "inputs" else caught[0].bfloat16()
        return layout.pick(states), layout.targets

    def head_of(self, states: Tensor, batch: Batch) -> dict[str, Any]:
        """The head, as arguments of `Objective.fused`."""
        head = self.head
        assert head is not None
        dtype = states.dtype if self.precision == "inputs" else head.weight.dtype
        return {
            "weight": head.weight.to(dtype),
            "bias": None if head.bias is None else head.bias.to(dtype),
            "precision": self.precision,
            "temperature": self.temperature,
            "softcap": self.softcap,
            "kept": batch.kept,
        }

    def values(self, batch: Batch, states: Tensor) -> Tensor:
        """The critic's value of each state of a batch.

        Args:
            states: the inputs of the policy's head, at which the gradient stops.
        """
        if isinstance(self.critic, ValueModel):
            return self._own_values(batch)
        return self._head_values(states)

    def _own_values(self, batch: Batch) -> Tensor:
        assert self.critic is not None
        values: Tensor = self.critic(batch, self.autocast)
        return values

    def _head_values(self, states: Tensor) -> Tensor:
        assert isinstance(self.critic, nn.Linear)
        values: Tensor = self.critic(states.detach().to(self.critic.weight.dtype))[..., 0]
        return values

    def _without_logits(self, batch: Batch, wanted: Collection[str]) -> dict[str, Tensor]:
        states, tokens = self.states(batch)
        columns: dict[str, Tensor] = {}
        if {"log_pi", "entropy"} & set(wanted):
            log_pi, entropy = log_probs(
                states, tokens=tokens, entropy="entropy" in wanted, **self.head_of(states, batch)
            )
            columns = {"log_pi": torch.where(batch.mask, log_pi, 0.0)}
            if entropy is not None:
                columns["entropy"] = torch.where(batch.mask, entropy, 0.0)
        if "value" in wanted:
            columns["value"] = torch.where(batch.mask, self._head_values(states), 0.0)
        return {name: columns[name] for name in wanted}

    def columns(self, batch: Batch, wanted: Collection[str]) -> dict[str, Tensor]:
        """Token columns `[N, T]` of a batch, 0 in the padding.

        Args:
            wanted: names among `log_pi`, `log_pi_dist` (`[N, T, V]`), `value`, `entropy` (of `pi`,
                without gradient, in nats), and `log_<name>`, `log_<name>_dist` of internal
                policies.
        """
        if "value" in wanted and isinstance(self.critic, ValueModel):
            others = [name for name in wanted if name != "value"]
            columns = self.columns(batch, others) if others else {}
            return columns | {"value": self._own_values(batch)}
        if self.fused and not torch.is_grad_enabled() and set(wanted) <= _FUSED:
            return self._without_logits(batch, wanted)
        inner = {name: hidden for name, hidden in self.layers.items() if _asks_for(name, wanted)}
        deep = bool(inner) or "value" in wanted
        layout = layout_of(batch, self.model.dtype, self.shares_prompts)
        device, width = batch.tokens.device, layout.tokens.shape[1]
        with torch.autocast(device.type, torch.bfloat16, enabled=self.autocast):
            out = self.model(
                input_ids=layout.tokens,
                attention_mask=layout.attention,
                position_ids=layout.positions,
                use_cache=False,
                output_hidden_states=deep,
                logits_to_keep=torch.arange(layout.first, width, device=device),
            )
            logits = {"pi": out.logits} if _asks_for("pi", wanted) or "entropy" in wanted else {}
            for name, hidden in inner.items():
                logits[name] = self._hidden_logits(out.hidden_states, hidden, layout.first)
        columns = {}
        for name, scores in logits.items():
            columns |= self._policy_columns(name, scores, batch, layout, wanted)
        if "value" in wanted:
            states = out.hidden_states[-1][:, layout.first :]
            columns["value"] = layout.pick(self._head_values(states))
        return columns

    @cached_property
    def shares_prompts(self) -> bool:
        """Whether the responses to a prompt may share a row, and its computation."""
        return can_share(self.model)

    def _policy_columns(
        self, name: str, logits: Tensor, batch: Batch, layout: Layout, wanted: Collection[str]
    ) -> dict[str, Tensor]:
        columns: dict[str, Tensor] = {}
        scores = logits if logits.dtype == torch.float64 else logits.float()
        if self.temperature != 1:
            scores = scores / self.temperature
        if batch.kept is not None:
            scores = layout.mask_dropped(scores, batch.kept)
        logs = scores.log_softmax(-1)
        sampled, distribution = of_policy(name)
        if sampled in wanted:
            columns[sampled] = layout.pick_tokens(logs)
        if distribution in wanted:
            columns[distribution] = layout.pick(logs)
        if name == "pi" and "entropy" in wanted:
            with torch.no_grad():
                columns["entropy"] = layout.pick(-torch.special.xlogy(p := logs.exp(), p).sum(-1))
        return columns

    def _hidden_logits(self, states: tuple[Tensor, ...], hidden: Hidden, first: int) -> Tensor:
        """The logits of the states after a layer: of the head, after the final norm or without."""
        if not 1 <= hidden.layer < len(states):
            raise ConfigError(
                [f"the objective reads layer {hidden.layer}, but the model has {len(states) - 1}"]
            )
        state = states[hidden.layer][:, first:]
        if hidden.norm and hidden.layer < len(states) - 1:  # the last one has been through it
            state = self.model.base_model.norm(state)
        logits: Tensor = self.model.get_output_embeddings()(state)
        return logits


def _asks_for(name: str, wanted: Collection[str]) -> bool:
    return any(column in wanted for column in of_policy(name))


def collect(policy: Policy, replica: Policy | None) -> None:
    """Gathers sharded weights into the replica of the first rank. Collective.

    A policy that is not sharded is its own replica.
    """
    if replica is policy:
        return
    targets = [None] * len(policy.weights()) if replica is None else replica.weights()
    with torch.no_grad():
        for weight, target in zip(policy.weights(), targets, strict=True):
            gathered = full_tensor(weight)
            if target is not None:
                target.copy_(gathered)
