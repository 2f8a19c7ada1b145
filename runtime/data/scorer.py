"""Rewards of a sequence classifier, such as a reward model, from a folder or a Hugging Face id."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from objdsl.runtime.data.judge import RefusalError, described
from objdsl.runtime.data.pretrained import READS_END, classifier, difference

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from objdsl.runtime.data.judged import Judged
    from objdsl.runtime.data.prompts import Prompt

# Responses per forward pass.
_ROWS = 32


class Scorer:
    """Scores responses by the logit of a classifier with one label.

    Args:
        tokenizer: the policy's. If the classifier has the same tokens, and chat template, it reads
            those of the policy; otherwise texts.

    Raises ConfigError for a model that is no such classifier.
    """

    def __init__(self, name: str, tokenizer: PreTrainedTokenizerBase, device: torch.device) -> None:
        model, self._tokenizer = classifier(name)
        self._model = model.to(device).eval()
        self._reads_end = getattr(model.config, READS_END, True)
        both = self._tokenizer, tokenizer
        self._same_tokens = difference(*both) is None and difference(*both[::-1]) is None
        self._same_chats = self._same_tokens and both[0].chat_template == both[1].chat_template

    @property
    def reads(self) -> str:
        """What the classifier reads, for the log."""
        if self._same_chats:
            return "reads the policy's tokens"
        if self._same_tokens:
            return "reads the policy's tokens, and chats by a chat template of its own"
        return "reads texts, as its tokens are not the policy's"

    def __call__(self, judged: Judged) -> dict[str, list[float]]:
        """The column `reward`. Raises RefusalError where the classifier fails."""
        assert judged.encoded is not None
        rows = [
            self._ids(prompt, completion, tokens, truncated)
            for prompt, completion, tokens, truncated in zip(
                judged.encoded, judged.completions, judged.tokens, judged.truncated, strict=True
            )
        ]
        try:
            return {"reward": self._scores(rows)}
        except Exception as error:  # such as a response beyond its context
            raise RefusalError(f"failed: {described(error)}") from None

    def _ids(
        self, prompt: Prompt, completion: str, tokens: Sequence[int], truncated: bool
    ) -> list[int]:
        given, tokenizer = prompt.example.prompt, self._tokenizer
        by_tokens = self._same_tokens if isinstance(given, str) else self._same_chats
        has_end = not truncated and self._reads_end
        if by_tokens:
            cut = len(tokens) if truncated or self._reads_end else len(tokens) - 1
            return [*prompt.tokens, *tokens[:cut]]
        if not isinstance(given, str) and tokenizer.chat_template is not None:
            chat = [*given, {"role": "assistant", "content": completion}]
            encoded = tokenizer.apply_chat_template(chat, return_dict=True)
            return list(encoded["input_ids"])
        end = (tokenizer.eos_token or "") if has_end else ""
        return list(tokenizer(f"{prompt.example.text}{completion}{end}")["input_ids"])

    def _scores(self, rows: Sequence[Sequence[int]]) -> list[float]:
        pad = self._model.config.get_text_config().pad_token_id
        size = _ROWS if pad is not None else 1  # without one, transformers finds no last token
        scores: list[float] = []
        for start in range(0, len(rows), size):
            part = rows[start : start + size]
            shape = len(part), max(map(len, part))
            ids = torch.full(shape, 0 if pad is None else pad)
            attention = torch.zeros(shape, dtype=torch.long)
            for k, row in enumerate(part):
                ids[k, : len(row)] = torch.tensor(row)
                attention[k, : len(row)] = 1
            inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": attention}
            with torch.no_grad():
                out = self._model(**{name: x.to(self._model.device) for name, x in inputs.items()})
            scores += out.logits[:, 0].double().tolist()
        return scores
