"""vLLM in its child process: the same policy, the same numbers, and restarts."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from objdsl.runtime.data.tasks import load_task
from objdsl.runtime.engines.batch import collate
from objdsl.runtime.engines.models import load_model
from objdsl.runtime.engines.policy import Policy
from objdsl.runtime.engines.probe import disagreement, probe
from objdsl.runtime.engines.sampler import Request, Response, SamplerError, Sampling, seed_of
from objdsl.runtime.engines.transformers_sampler import TransformersSampler
from objdsl.runtime.engines.vllm_sampler import VllmSampler
from objdsl.runtime.run.run import Result
from objdsl.runtime.settings.config import ModelSection, SamplerSection, TaskSection

pytestmark = pytest.mark.vllm

PROMPTS = [(3, 8, 4, 9), (5, 8, 4), (3, 8, 4, 9, 10, 11), (7, 2, 9, 9)]
SAMPLING = Sampling(max_tokens=8, stop=(1,))


@pytest.fixture(scope="module")
def policy() -> Policy:
    """Peaked enough that different weights give clearly different log-probabilities."""
    task = load_task(TaskSection(digits=1), seed=0)
    model, _ = load_model(ModelSection(layers=2, width=64, heads=2), task, seed=0)
    policy = Policy(model)
    shake(policy, 0)
    return policy


def shake(policy: Policy, seed: int) -> None:
    """New weights, in place."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in policy.model.parameters():
            if weight.dim() > 1:
                weight.copy_(0.15 * torch.randn(weight.shape, generator=generator))


@pytest.fixture(scope="module")
def messages() -> list[str]:
    return []


@pytest.fixture(scope="module")
def sampler(
    policy: Policy, messages: list[str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[VllmSampler]:
    engine = VllmSampler(
        policy.model,
        SamplerSection(restarts=2, start_deadline=1200),
        dtype="float32",
        longest=32,
        folder=tmp_path_factory.mktemp("vllm"),
        keep_mask=True,
        check=lambda sampler: messages.append(
            f"{probe(policy, sampler, PROMPTS, SAMPLING, 1e-4):.1e}"
        ),
        say=messages.append,
    )
    yield engine
    engine.close()


def requests(count: int = 64) -> list[Request]:
    return [Request(PROMPTS[k % 4], seed_of("test", k)) for k in range(count)]


def mismatch(policy: Policy, asked: list[Request], answered: list[Response]) -> float:
    """Largest absolute difference from the log-probabilities of the training engine."""
    batch = collate(
        [request.prompt for request in asked],
        range(len(asked)),
        answered,
        {},
        vocabulary=policy.vocabulary,
        device=policy.device,
        dtype=torch.float32,
    )
    with torch.no_grad():
        ours = policy.columns(batch, ("log_pi",))["log_pi"]
    return float((ours - batch.columns["log_mu"])[batch.mask].abs().max())


def test_both_engines_agree_before_and_after_an_update(
    policy: Policy, sampler: VllmSampler, messages: list[str]
) -> None:
    sampler.update(0)
    assert len(messages) == 1  # the probe ran after the first update
    first = sampler.generate(requests(), SAMPLING)
    assert mismatch(policy, requests(), first) < 1e-4
    shake(policy, 1)
    assert mismatch(policy, requests(), first) > 0.1
    with pytest.raises(SamplerError, match=r"disagree by .* nats per token"):
        probe(policy, sampler, PROMPTS, SAMPLING, 1e-3)
    sampler.update(1)
    second = sampler.generate(requests(), SAMPLING)
    assert mismatch(policy, requests(), second) < 1e-4
    assert len(messages) == 1


def test_equal_seeds_give_equal_responses(policy: Policy, sampler: VllmSampler) -> None:
    sampler.update(2)
    together = sampler.generate(requests(), SAMPLING)
    assert together == sampler.generate(requests(), SAMPLING)
    backwards = sampler.generate(requests()[::-1], SAMPLING)[::-1]
    assert [r.tokens for r in together] == [r.tokens for r in backwards]
    for response in together:
        assert response.truncated == (response.tokens[-1] != 1)
        assert len(response.tokens) == len(response.log_probs) <= 8
    greedy = replace(SAMPLING, temperature=0.0)
    ours = TransformersSampler(policy.model, pad=0).generate(requests(), greedy)
    assert [r.tokens for r in sampler.generate(requests(), greedy)] == [r.tokens for r in ours]


def test_truncated_sampling_and_its_mask(policy: Policy, sampler: VllmSampler) -> None:
    """With the kept tokens, the training engine has the distribution that was sampled from."""
    sampler.update(3)
    sampling = replace(SAMPLING, temperature=0.7, top_p=0.8, top_k=6, keep_mask=True)
    answered = sampler.generate(requests(), sampling)
    sizes = {len(kept) for response in answered for kept in response.kept or ()}
    assert max(sizes) <= 6
    assert len(sizes) > 2
    warm = replace(policy, temperature=0.7)
    assert mismatch(warm, requests(), answered) < 1e-4
    assert disagreement(warm, sampler, PROMPTS, sampling) < 1e-4


def test_a_dead_engine_is_replaced(
    policy: Policy, sampler: VllmSampler, messages: list[str]
) -> None:
    sampler.update(4)
    before = sampler.generate(requests(), SAMPLING)
    pid = sampler.pid
    assert pid is not None
    call = sampler.submit(requests(), SAMPLING)
    os.kill(pid, signal.SIGKILL)
    assert sampler.collect(call) == before
    assert sampler.pid != pid
    assert "restarting" in messages[-2]
    assert float(messages[-1]) < 1e-4  # the new engine was probed


def test_an_invalid_request_is_not_repeated(sampler: VllmSampler) -> None:
    sampler.update(5)
    pid = sampler.pid
    with pytest.raises(SamplerError, match="vLLM refused: VLLMValidationError"):
        sampler.generate([Request((3,) * 40, 0)], SAMPLING)
    assert sampler.pid == pid
    assert len(sampler.generate(requests(4), SAMPLING)) == 4


def test_an_engine_that_hangs_dies_too_often(
    sampler: VllmSampler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last test with this engine."""
    sampler.update(6)

    def hang(engine: VllmSampler) -> None:
        assert engine.pid is not None
        os.kill(engine.pid, signal.SIGSTOP)

    hurried = sampler.config.model_copy(update={"deadline": 0.2, "restarts": 0})
    monkeypatch.setattr(sampler, "config", hurried)
    hang(sampler)
    with pytest.raises(SamplerError, match=r"died too often in 100 steps \(.*no answer in 0\.2 s"):
        sampler.generate(requests(), SAMPLING)


TOO_LARGE = r"^vLLM refused: the engine does not start: ValueError: [^\n]*\(100000\.0 GiB\)[^\n]*$"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cpu_cache_gib": 100_000}, TOO_LARGE),
        pytest.param(
            {"cpu_cache_gib": 100_000, "processes": 2}, TOO_LARGE, marks=pytest.mark.proof
        ),
        ({"start_deadline": 0.01}, r"^vLLM does not start: no answer in 0\.01 s"),
    ],
)
def test_an_engine_refuses_its_settings_before_the_warm_start(
    options: dict[str, float], message: str, run: Callable[..., Result], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    def never(*_: object, **__: object) -> None:
        raise AssertionError("a warm start")

    monkeypatch.setattr("objdsl.runtime.run.launch.warm_start", never)
    sampler = {f"sampler.{name}": x for name, x in options.items()}
    with pytest.raises(SamplerError, match=message):
        run(**{"sampler.engine": "vllm", "model.width": 32, "model.heads": 1, **sampler})
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize("engines", [1, pytest.param(2, marks=pytest.mark.proof)])
def test_a_run_with_vllm(
    engines: int,
    run: Callable[..., Result],
    numbers: Callable[[Path], list[dict[str, float]]],
    tmp_path: Path,
) -> None:
    """One engine, and one or two that resume from its checkpoint, give the same run."""
    options = {"sampler.engine": "vllm", "model.width": 32, "model.heads": 1}
    straight = run("grpo", **options)
    again = tmp_path / "again"
    shutil.copytree(straight.folder, again)
    shutil.rmtree(again / "checkpoints" / "step-000004")
    run("grpo", output=again, _resume="auto", **options, **{"sampler.processes": engines})
    first, second = numbers(straight.folder), numbers(again)
    for step in (*first[1:], *second[1:]):
        # Rounding depends on the number of responses per engine.
        assert step.pop("mismatch") < 1e-4
    assert second == first
