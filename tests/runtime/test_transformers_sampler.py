"""Sampling by transformers."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from objdsl.runtime.data.prompts import encode_all
from objdsl.runtime.data.tasks import load_task
from objdsl.runtime.engines.models import load_model
from objdsl.runtime.engines.policy import Policy
from objdsl.runtime.engines.sampler import Request, Sampling, seed_of
from objdsl.runtime.engines.transformers_sampler import TransformersSampler
from objdsl.runtime.settings.config import ModelSection, TaskSection

SAMPLING = Sampling(max_tokens=6, stop=(1,))


@pytest.fixture(scope="module")
def policy() -> Policy:
    task = load_task(TaskSection(digits=1), seed=0)
    model, _ = load_model(ModelSection(layers=2, width=32, heads=2), task, seed=0)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.mul_(6)  # peaked enough for top-p to cut something off
    return Policy(model)


@pytest.fixture(scope="module")
def requests() -> list[Request]:
    tokens = [(3, 8, 4, 9), (5, 8, 4), (3, 8, 4, 9, 10, 11), (7, 2, 9, 9)]
    return [Request(tokens[k % 4], seed_of(0, k)) for k in range(24)]


@pytest.fixture(scope="module")
def sampler(policy: Policy) -> TransformersSampler:
    return TransformersSampler(policy.model, pad=0)


def direct(policy: Policy, request: Request, tokens: tuple[int, ...]) -> torch.Tensor:
    """The logits of each token of a response, from a forward pass each."""
    with torch.no_grad():
        sequences = [[*request.prompt, *tokens[:k]] for k in range(len(tokens))]
        return torch.stack([policy.model(torch.tensor([s])).logits[0, -1] for s in sequences])


def test_log_probs_are_those_of_the_sampled_distribution(
    policy: Policy, sampler: TransformersSampler, requests: list[Request]
) -> None:
    sampling = replace(SAMPLING, temperature=0.7, top_p=0.9, top_k=8, keep_mask=True)
    cut_off = 0
    for request, response in zip(requests, sampler.generate(requests, sampling), strict=True):
        assert response.kept is not None
        logits = direct(policy, request, response.tokens) / 0.7
        for k, token in enumerate(response.tokens):
            kept = list(response.kept[k])
            assert token in kept
            log_prob = logits[k][token] - logits[k][kept].logsumexp(0)
            assert response.log_probs[k] == pytest.approx(float(log_prob), abs=1e-5)
            # Top-p keeps the smallest set of at least 0.9 among the 8 best.
            best = logits[k].topk(8)
            share = best.values.softmax(0)
            need = int((share.cumsum(0) < 0.9).sum()) + 1
            assert sorted(kept) == sorted(best.indices[:need].tolist())
            cut_off += len(kept) < 8
    assert cut_off > 10


def test_a_response_depends_on_its_own_seed(
    sampler: TransformersSampler, requests: list[Request]
) -> None:
    together = sampler.generate(requests, SAMPLING)
    alone = [sampler.generate([request], SAMPLING)[0] for request in requests[::-1]][::-1]
    assert [r.tokens for r in together] == [r.tokens for r in alone]
    reseeded = sampler.generate([replace(r, seed=r.seed + 1) for r in requests], SAMPLING)
    assert [r.tokens for r in together] != [r.tokens for r in reseeded]


def test_stopping_and_truncation(sampler: TransformersSampler, requests: list[Request]) -> None:
    for response in sampler.generate(requests, SAMPLING):
        ended = response.tokens[-1] == 1
        assert response.truncated == (not ended)
        assert 1 not in response.tokens[:-1]
        assert ended or len(response.tokens) == 6
        assert len(response.log_probs) == len(response.tokens)


def test_temperature_0_is_greedy(
    policy: Policy, sampler: TransformersSampler, requests: list[Request]
) -> None:
    greedy = sampler.generate(requests, replace(SAMPLING, temperature=0.0))
    for request, response in zip(requests, greedy, strict=True):
        best = direct(policy, request, response.tokens).argmax(-1)
        assert response.tokens == tuple(best.tolist())


def test_samples_have_the_right_frequencies(policy: Policy, sampler: TransformersSampler) -> None:
    prompt = (3, 8, 4, 9)
    first = [
        response.tokens[0]
        for response in sampler.generate(
            [Request(prompt, seed_of("frequency", k)) for k in range(4000)],
            replace(SAMPLING, max_tokens=1, temperature=2.0),
        )
    ]
    seen = torch.bincount(torch.tensor(first), minlength=policy.vocabulary) / len(first)
    with torch.no_grad():
        wanted = (policy.model(torch.tensor([prompt])).logits[0, -1] / 2).softmax(-1)
    assert float((seen - wanted).abs().max()) < 0.03


def test_prompts_of_the_task_are_readable() -> None:
    task = load_task(TaskSection(digits=1), seed=0)
    _, tokenizer = load_model(ModelSection(layers=1, width=16, heads=2), task, seed=0)
    prompts = encode_all(tokenizer, task.held_out, 10)
    assert [tokenizer.decode(list(p.tokens)) for p in prompts] == [e.text for e in task.held_out]
