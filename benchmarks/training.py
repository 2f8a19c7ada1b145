"""Whole training steps on the default task: seconds per step, and ratios.

    python benchmarks/training.py            # a table
    python benchmarks/training.py --save     # and benchmarks/results/training-<device>.json
    python benchmarks/training.py --tokens 64     # responses of up to 64 tokens instead of five

objdsl is compared with TRL's GRPOTrainer and with a hand-written bare loop: generate, reward, one
forward pass, the loss, AdamW, and nothing else. All train the same model, from the same weights, on
the same prompts, with the same number of prompts and responses per step, the same maximum length,
one optimizer step each, and no reference policy. objdsl runs as in `objdsl train`, including
reports, samples and metrics. It and the bare loop sample with vLLM, both through the same engine
process, and with transformers; TRL samples with transformers. Runs alternate; the first steps of
each are not counted.
"""

from __future__ import annotations

import argparse
import json
import logging
import shlex
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from elementwise import chip
from rich.console import Console
from torch import Tensor

from objdsl.runtime.data.tasks import load_task
from objdsl.runtime.engines.models import load_model
from objdsl.runtime.engines.sampler import Request, Sampling
from objdsl.runtime.engines.vllm_sampler import VllmSampler
from objdsl.runtime.report.metrics import read_metrics
from objdsl.runtime.run.loop import train
from objdsl.runtime.settings.config import Config

PROMPTS, GROUP, STEPS, SKIP, ROUNDS = 32, 8, 20, 5, 3


def settings(engine: str, folder: Path, tokens: int | None) -> Config:
    return Config.model_validate(
        {
            "objective": "dr_grpo",
            "output": folder,
            "steps": STEPS,
            "sampler": {"engine": engine, "prompts": PROMPTS, "group": GROUP, "max_tokens": tokens},
            "warm_start": {"steps": 0},
            "evaluation": {"every": 0},
            "checkpoint": {"every": 0},
        }
    )


def ours(engine: str, tokens: int | None) -> list[float]:
    """Seconds of each step, from the run's own metrics."""
    with tempfile.TemporaryDirectory() as folder:
        config = settings(engine, Path(folder) / "run", tokens)
        train(config, console=Console(quiet=True))
        metrics = read_metrics(Path(folder) / "run")
        return [step["seconds"] for step in metrics if "seconds" in step][SKIP:]


Generate = Callable[[int, list[str]], tuple[Tensor, Tensor, Tensor]]
"""The tokens of a step's prompts, each as often as it has responses, padded on the left; their
mask; and the tokens of the responses."""


@contextmanager
def by_transformers(model: Any, tokenizer: Any, tokens: int, config: Config) -> Iterator[Generate]:
    def generate(step: int, texts: list[str]) -> tuple[Tensor, Tensor, Tensor]:
        prompt = tokenizer(texts, padding=True, add_special_tokens=False, return_tensors="pt")
        prompt = prompt.to(model.device)
        with torch.no_grad():
            written = model.generate(
                input_ids=prompt.input_ids,
                attention_mask=prompt.attention_mask,
                do_sample=True,
                max_new_tokens=tokens,
                pad_token_id=tokenizer.pad_token_id,
            )
        return prompt.input_ids, prompt.attention_mask, written[:, prompt.input_ids.shape[1] :]

    yield generate


@contextmanager
def by_vllm(model: Any, tokenizer: Any, tokens: int, config: Config) -> Iterator[Generate]:
    sampling = Sampling(max_tokens=tokens, stop=(tokenizer.eos_token_id,))
    with tempfile.TemporaryDirectory() as folder:
        engine = VllmSampler(
            model, config.sampler, dtype="float32", longest=tokens + 64, folder=Path(folder)
        )

        def generate(step: int, texts: list[str]) -> tuple[Tensor, Tensor, Tensor]:
            prompt = tokenizer(texts, padding=True, add_special_tokens=False, return_tensors="pt")
            prompt = prompt.to(model.device)
            engine.update(step)
            requests = [
                Request(tuple(ids), step * len(texts) + k)
                for k, ids in enumerate(tokenizer(texts, add_special_tokens=False).input_ids)
            ]
            rows = [list(response.tokens) for response in engine.generate(requests, sampling)]
            width = max(map(len, rows))
            pad = tokenizer.pad_token_id
            response = torch.tensor([row + [pad] * (width - len(row)) for row in rows])
            return prompt.input_ids, prompt.attention_mask, response.to(model.device)

        engine.start()
        try:
            yield generate
        finally:
            engine.close()


def bare(engine: str, tokens: int | None) -> list[float]:
    """Seconds of each step of a loop without reports, checkpoints or a general objective."""
    config = settings(engine, Path("unused"), tokens)
    task = load_task(config.task, config.seed)
    most = tokens or task.max_tokens
    model, tokenizer = load_model(config.model, task, config.seed)
    tokenizer.padding_side = "left"
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learner.lr, fused=True)
    seconds = []
    sampler = by_vllm if engine == "vllm" else by_transformers
    with sampler(model, tokenizer, most, config) as generate:
        for step in range(STEPS):
            began = time.perf_counter()
            examples = task.train[step * PROMPTS : (step + 1) * PROMPTS]
            texts = [example.text for example in examples for _ in range(GROUP)]
            answers = [example.columns["answer"] for example in examples for _ in range(GROUP)]
            prompt, given, response = generate(step, texts)
            completions = tokenizer.batch_decode(response, skip_special_tokens=True)
            reward = torch.tensor(
                [float(a == b) for a, b in zip(completions, answers, strict=True)]
            )
            advantage = (reward.view(-1, GROUP) - reward.view(-1, GROUP).mean(1, True)).view(-1, 1)
            ended = (response == tokenizer.eos_token_id).long()
            mask = (ended.cumsum(1) - ended == 0).float()
            logits = model(
                input_ids=torch.cat([prompt, response], 1),
                attention_mask=torch.cat([given, mask.long()], 1),
                logits_to_keep=response.shape[1] + 1,
            ).logits[:, :-1]
            logp = logits.log_softmax(-1).gather(-1, response[..., None])[..., 0]
            ratio = (logp - logp.detach()).exp()
            a = advantage.to(logp.device)
            surrogate = torch.minimum(ratio * a, ratio.clamp(0.8, 1.2) * a)
            loss = -(surrogate * mask).sum() / (len(mask) * most)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), config.learner.clip or torch.inf)
            optimizer.step()
            loss.item()
            seconds.append(time.perf_counter() - began)
    return seconds[SKIP:]


def trl(tokens: int | None) -> list[float]:
    """Seconds between the ends of TRL's optimizer steps."""
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    config = settings("transformers", Path("unused"), tokens)
    task = load_task(config.task, config.seed)
    model, tokenizer = load_model(config.model, task, config.seed)
    tokenizer.padding_side = "left"
    rows = [{"prompt": example.text, **example.columns} for example in task.train]
    ends: list[float] = []

    class Ends(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            ends.append(time.perf_counter())

    def exact(completions: list[str], answer: list[str], **_: Any) -> list[float]:
        return [float(text == right) for text, right in zip(completions, answer, strict=True)]

    with tempfile.TemporaryDirectory() as folder:
        model.config._name_or_path = folder
        trainer = GRPOTrainer(
            model=model,
            reward_funcs=exact,
            args=GRPOConfig(
                output_dir=folder,
                per_device_train_batch_size=PROMPTS * GROUP,
                num_generations=GROUP,
                max_completion_length=tokens or task.max_tokens,
                max_steps=STEPS,
                learning_rate=config.learner.lr,
                loss_type="dr_grpo",
                scale_rewards=False,
                beta=0.0,
                bf16=False,
                use_cpu=not torch.cuda.is_available(),
                report_to=[],
                save_strategy="no",
                disable_tqdm=True,
                logging_steps=1,
                gradient_checkpointing=False,
            ),
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
            callbacks=[Ends()],
        )
        trainer.train()
    return [b - a for a, b in pairwise(ends)][SKIP - 1 :]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--save",
        nargs="?",
        const=Path(__file__).parent / "results",
        type=Path,
        metavar="FOLDER",
        help="write the figures; by default to benchmarks/results",
    )
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="how often each one runs")
    parser.add_argument("--tokens", type=int, help="of a response, at most; by default five")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    runs = {
        "objdsl, vLLM": lambda: ours("vllm", given.tokens),
        "bare loop, vLLM": lambda: bare("vllm", given.tokens),
        "objdsl, transformers": lambda: ours("transformers", given.tokens),
        "bare loop, transformers": lambda: bare("transformers", given.tokens),
        f"trl {version('trl')}": lambda: trl(given.tokens),
    }
    medians: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(given.rounds):
        for name, run in runs.items():
            medians[name].append(statistics.median(run()))
    first = next(iter(runs))
    results = {
        name: {
            "seconds_per_step": statistics.median(times),
            "ratio": statistics.median(a / b for a, b in zip(times, medians[first], strict=True)),
        }
        for name, times in medians.items()
    }
    for name, row in results.items():
        print(f"{name:24} {row['seconds_per_step']:7.3f} s a step {row['ratio']:6.2f} x")
    if given.save is not None:
        record = {
            "chip": chip(),
            "threads": torch.get_num_threads(),
            "prompts": PROMPTS,
            "responses_per_prompt": GROUP,
            "tokens": given.tokens or 5,
            "steps": STEPS - SKIP,
            "rounds": given.rounds,
            "versions": {n: version(n) for n in ("objdsl", "torch", "transformers")},
            "command": shlex.join(["python", "benchmarks/training.py", *sys.argv[1:]]),
            "results": results,
        }
        device = "cuda" if torch.cuda.is_available() else "cpu"
        given.save.mkdir(parents=True, exist_ok=True)
        longer = f"-{given.tokens}-tokens" if given.tokens else ""
        path = given.save / f"training-{device}{longer}.json"
        path.write_text(json.dumps(record, indent=2) + "\n")
        print(f"wrote {path.name}")


if __name__ == "__main__":
    main()
