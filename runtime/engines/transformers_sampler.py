"""Sampling with `transformers.generate`, in the process of the training engine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from objdsl.runtime.engines.sampler import Request, Response, Sampling

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class TransformersSampler:
    """Samples with the training engine's model: there are no weights to update."""

    name = "transformers.generate"

    def __init__(self, model: PreTrainedModel, pad: int, rows: int = 512) -> None:
        self._model = model
        self._pad = pad
        self._rows = rows

    def start(self) -> None: ...

    def update(self, step: int) -> None: ...

    def close(self) -> None: ...

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Response]:
        # Prompts of similar length share a batch, for little padding.
        by_length = sorted(range(len(requests)), key=lambda k: len(requests[k].prompt))
        responses: dict[int, Response] = {}
        for first in range(0, len(by_length), self._rows):
            chosen = by_length[first : first + self._rows]
            written = self._generate([requests[k] for k in chosen], sampling)
            responses |= dict(zip(chosen, written, strict=True))
        return [responses[k] for k in range(len(requests))]

    @torch.no_grad()
    def _generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Response]:
        from transformers import GenerationConfig, LogitsProcessorList

        device = self._model.device
        longest = max(len(request.prompt) for request in requests)
        tokens = torch.full((len(requests), longest), self._pad)
        attention = torch.zeros_like(tokens)
        for row, request in enumerate(requests):
            tokens[row, longest - len(request.prompt) :] = torch.tensor(request.prompt)
            attention[row, longest - len(request.prompt) :] = 1
        sampler = _Gumbel([request.seed for request in requests], sampling)
        written = self._model.generate(
            input_ids=tokens.to(device),
            attention_mask=attention.to(device),
            logits_processor=LogitsProcessorList([sampler]),
            generation_config=GenerationConfig(
                do_sample=False,
                max_new_tokens=sampling.max_tokens,
                eos_token_id=list(sampling.stop),
                pad_token_id=self._pad,
            ),
        )[:, longest:].tolist()
        log_probs = torch.stack(sampler.log_probs, 1).tolist()
        kept = torch.stack(sampler.kept, 1).cpu() if sampling.keep_mask else None
        responses = []
        for row, line in enumerate(written):
            stops = [k for k, token in enumerate(line) if token in sampling.stop]
            length = stops[0] + 1 if stops else len(line)
            responses.append(
                Response(
                    tokens=tuple(line[:length]),
                    log_probs=tuple(log_probs[row][:length]),
                    truncated=not stops,
                    kept=None if kept is None else _indices(kept[row, :length]),
                )
            )
        return responses


def _indices(kept: Tensor) -> tuple[tuple[int, ...], ...]:
    """`[T, V]` of booleans -> the kept tokens of each position."""
    return tuple(tuple(step.nonzero()[:, 0].tolist()) for step in kept)


class _Gumbel:
    """Turns greedy decoding of `generate` into sampling, with a random generator per response.

    The argmax of `p / e`, with `e` exponential, is a sample of `p`. A response depends on its own
    seed only, not on the rest of the batch, and the exact distribution is known.
    """

    def __init__(self, seeds: Sequence[int], sampling: Sampling) -> None:
        self._sampling = sampling
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self.log_probs: list[Tensor] = []
        self.kept: list[Tensor] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        logs = _truncated(scores, self._sampling).log_softmax(-1)
        chosen = logs
        if self._sampling.temperature > 0:
            noise = torch.empty(scores.shape, dtype=torch.float32)
            for row, generator in enumerate(self._generators):
                noise[row].exponential_(generator=generator)
            chosen = logs - noise.to(logs.device).log()
        best = chosen.argmax(-1, keepdim=True)
        self.log_probs.append(logs.gather(-1, best)[:, 0])
        if self._sampling.keep_mask:
            self.kept.append(logs > -torch.inf)
        return chosen


def _truncated(scores: Tensor, sampling: Sampling) -> Tensor:
    """Scores `[N, V]` after temperature, top-k and top-p; dropped tokens have -inf."""
    scores = scores.float()
    if sampling.temperature > 0:
        scores = scores / sampling.temperature
    if sampling.top_k is not None:
        least = scores.topk(min(sampling.top_k, scores.shape[-1]), dim=-1).values[:, -1:]
        scores = scores.masked_fill(scores < least, -torch.inf)
    if sampling.top_p < 1:
        ordered, order = scores.sort(dim=-1, descending=True)
        before = ordered.softmax(-1).cumsum(-1) - ordered.softmax(-1)
        dropped = torch.empty_like(before, dtype=torch.bool)
        dropped.scatter_(-1, order, before >= sampling.top_p)
        scores = scores.masked_fill(dropped, -torch.inf)
    return scores
