"""Whole training steps on the default task: seconds per step, and ratios.

    python benchmarks/training.py            # a table
    python benchmarks/training.py --save     # and benchmarks/results/training-<device>.json

objdsl is compared with TRL's GRPOTrainer and with a hand-written bare loop: generate, reward, one
forward pass, the loss, AdamW, and nothing else. All train the same model, from the same weights, on
the same prompts, with the same number of prompts and responses per step, the same maximum length,
one optimizer step each, and no reference policy. objdsl runs as in `objdsl train`, including
reports, samples and metrics, with vLLM and with transformers as the sampler; the others sample with
transformers. Runs alternate; the first steps of each are not counted.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import tempfile
import time
import warnings
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from elementwise import chip
from rich.console import Console

from objdsl.runtime.data.tasks import load_task
from objdsl.runtime.engines.models import load_model
from objdsl.runtime.report.metrics import read_metrics
from objdsl.runtime.run.loop import train
from objdsl.runtime.settings.config import Config

PROMPTS, GROUP, STEPS, SKIP, ROUNDS = 32, 8, 20, 5, 3


def settings(engine: str, folder: Path) -> Config:
    return Config.model_validate(
        {
            "objective": "dr_grpo",
            "output": folder,
            "steps": STEPS,
            "sampler": {"engine": engine, "prompts": PROMPTS, "group": GROUP},
            "warm_start": {"steps": 0},
            "evaluation": {"every": 0},
            "checkpoint": {"every": 0},
        }
    )


def ours(engine: str) -> list[float]:
    """Seconds of each step, from the run's own metrics."""
    with tempfile.TemporaryDirectory() as folder:
        config = settings(engine, Path(folder) / "run")
        train(config, console=Console(quiet=True))
        metrics = read_metrics(Path(folder) / "run")
        return [step["seconds"] for step in metrics if "seconds" in step][SKIP:]


def bare() -> list[float]:
    """Seconds of each step of a loop without reports, checkpoints or a general objective."""
    config = settings("transformers", Path("unused"))
    task = load_task(config.task, config.seed)
    model, tokenizer = load_model(config.model, task, config.seed)
    tokenizer.padding_side = "left"
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learner.lr, fused=True)
    seconds = []
    for step in range(STEPS):
        began = time.perf_counter()
        examples = task.train[step * PROMPTS : (step + 1) * PROMPTS]
        texts = [example.text for example in examples for _ in range(GROUP)]
        answers = [example.columns["answer"] for example in examples for _ in range(GROUP)]
        prompt = tokenizer(texts, padding=True, add_special_tokens=False, return_tensors="pt")
        prompt = prompt.to(model.device)
        with torch.no_grad():
            written = model.generate(
                input_ids=prompt.input_ids,
                attention_mask=prompt.attention_mask,
                do_sample=True,
                max_new_tokens=task.max_tokens,
                pad_token_id=tokenizer.pad_token_id,
            )
        width = prompt.input_ids.shape[1]
        response = written[:, width:]
        completions = tokenizer.batch_decode(response, skip_special_tokens=True)
        reward = torch.tensor([float(a == b) for a, b in zip(completions, answers, strict=True)])
        advantage = (reward.view(-1, GROUP) - reward.view(-1, GROUP).mean(1, True)).view(-1, 1)
        ended = (response == tokenizer.eos_token_id).long()
        mask = (ended.cumsum(1) - ended == 0).float()
        attention = torch.cat([prompt.attention_mask, mask.long()], 1)
        logits = model(
            input_ids=written, attention_mask=attention, logits_to_keep=response.shape[1] + 1
        ).logits[:, :-1]
        logp = logits.log_softmax(-1).gather(-1, response[..., None])[..., 0]
        ratio = (logp - logp.detach()).exp()
        a = advantage.to(logp.device)
        surrogate = torch.minimum(ratio * a, ratio.clamp(0.8, 1.2) * a)
        loss = -(surrogate * mask).sum() / (len(mask) * task.max_tokens)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.learner.clip or torch.inf)
        optimizer.step()
        loss.item()
        seconds.append(time.perf_counter() - began)
    return seconds[SKIP:]


def trl() -> list[float]:
    """Seconds between the ends of TRL's optimizer steps."""
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    config = settings("transformers", Path("unused"))
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
                max_completion_length=task.max_tokens,
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
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    runs = {
        "objdsl, vLLM": lambda: ours("vllm"),
        "objdsl, transformers": lambda: ours("transformers"),
        "bare loop, transformers": bare,
        f"trl {version('trl')}": trl,
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
            "steps": STEPS - SKIP,
            "rounds": given.rounds,
            "versions": {n: version(n) for n in ("objdsl", "torch", "transformers")},
            "command": "python benchmarks/training.py --save",
            "results": results,
        }
        device = "cuda" if torch.cuda.is_available() else "cpu"
        given.save.mkdir(parents=True, exist_ok=True)
        path = given.save / f"training-{device}.json"
        path.write_text(json.dumps(record, indent=2) + "\n")
        print(f"wrote {path.name}")


if __name__ == "__main__":
    main()
