"""Critics: a layer on the states of the policy, or a network of their own."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from objdsl.runtime.data.pretrained import (
    READS_END,
    check_tokenizer,
    classifier,
    is_classifier,
    pretrained,
)
from objdsl.runtime.engines.batch import Batch
from objdsl.runtime.engines.layout import can_share, layout_of
from objdsl.runtime.settings.config import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class ValueModel(nn.Module):
    """A critic that is a network of its own.

    Attributes:
        model: a sequence classifier of transformers with one label. Its score of the tokens before
            a token is the value of that state.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        if not isinstance(getattr(model, "score", None), nn.Linear):
            raise ConfigError([f"{type(model).__name__} cannot score every token: no critic"])
        # Whoever scores whole responses with it passes them without their end.
        setattr(model.config, READS_END, False)
        self.model = model.eval()
        self._no_split_modules = model._no_split_modules

    def forward(self, batch: Batch, autocast: bool) -> Tensor:
        """The values of the states `[N, T]` of a batch, 0 in the padding."""
        score = self.model.score
        layout = layout_of(batch, self.model.dtype, can_share(self.model))
        with torch.autocast(batch.tokens.device.type, torch.bfloat16, enabled=autocast):
            states = self.model.base_model(
                input_ids=layout.tokens,
                attention_mask=layout.attention,
                position_ids=layout.positions,
                use_cache=False,
            ).last_hidden_state[:, layout.first :]
        return layout.pick(score(states.to(score.weight.dtype))[..., 0])

    def start_from(self, policy: PreTrainedModel) -> None:
        """Takes the weights of a policy below its head; the value of every state is then 0."""
        self.model.base_model.load_state_dict(policy.base_model.state_dict())
        nn.init.zeros_(self.model.score.weight)


def new_head(policy: PreTrainedModel) -> nn.Linear:
    """A critic on the states of a policy, whose value is 0 for every state."""
    width = policy.get_input_embeddings().embedding_dim
    head = nn.Linear(int(width), 1, device=policy.device, dtype=policy.dtype)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    return head


def new_value_model(policy: PreTrainedModel) -> ValueModel:
    """A critic with a copy of the weights of a policy, whose value is 0 for every state."""
    from transformers import AutoModelForSequenceClassification

    config = copy.deepcopy(policy.config)
    config.num_labels = 1
    try:
        with torch.random.fork_rng(devices=[]):
            model = AutoModelForSequenceClassification.from_config(config)
        critic = ValueModel(model.to(device=policy.device, dtype=policy.dtype))
        critic.start_from(policy)
    except (RuntimeError, ValueError):  # no classifier, or one with other layers
        raise ConfigError(
            [
                "learner.critic is `model`, but transformers has no sequence classifier of "
                f"{type(policy).__name__}"
            ]
        ) from None
    return critic


def load_value_model(
    name: str, policy: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> ValueModel:
    """A critic with the weights of a language model, or of a classifier with one label.

    Raises ConfigError where it cannot be loaded, or has a different tokenizer.
    """
    if is_classifier(name):
        model, its_tokenizer = classifier(name)
        critic = ValueModel(model.to(device=policy.device, dtype=policy.dtype))
    else:
        model, its_tokenizer = pretrained(name)
        critic = new_value_model(model.to(device=policy.device, dtype=policy.dtype))
    check_tokenizer("learner.critic_model", its_tokenizer, tokenizer)
    return critic
