"""Random configurations of TRL's DPOTrainer, and the objectives that are imported for them.

Both sides take an optimizer step of `trainer.train()` as it is, with a learning rate of 0.
"""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import torch
import yaml
from datasets import Dataset
from torch import Tensor
from transformers import TrainerCallback
from trl import DPOConfig, DPOTrainer

import objdsl
from helpers import tiny_model
from helpers.trl_runs import Numbers, assert_close
from objdsl import frameworks

OF_SCORES = ("sigmoid", "sigmoid_norm", "hinge", "ipo", "exo_pair", "robust", "discopop")
OF_RATIOS = ("nca_pair", "bco_pair", "sppo_hard", "apo_zero", "apo_down")
DIVERGENCES = ("reverse_kl", "forward_kl", "js_divergence", "alpha_divergence")
PAIRS = 8


def drawn(seed: int) -> dict[str, Any]:
    random = Random(seed)
    pick = random.choice
    window = pick([1, 2, 4])
    of_scores = random.random() < 0.6
    losses = [pick(OF_SCORES if of_scores else (*OF_SCORES, *OF_RATIOS))]
    settings: dict[str, Any] = {
        "gradient_accumulation_steps": window,
        "per_device_train_batch_size": PAIRS // window,
        "beta": pick([0.1, 0.5, 2.0]),
        "discopop_tau": pick([0.05, 1.0]),
        "label_smoothing": pick([1e-3, 0.1, 0.3]),
        "max_length": pick([None, 8]),
    }
    if random.random() < 0.3:
        losses.append(pick(OF_SCORES if of_scores else (*OF_SCORES, *OF_RATIOS)))
    if random.random() < 0.3 and "hinge" not in losses:
        settings["use_weighting"] = True
    elif random.random() < 0.3:
        losses.append("sft")
    if random.random() < 0.3:
        settings["ld_alpha"] = pick([0.0, 0.4, 1.0])
    if of_scores:
        settings["f_divergence_type"] = pick(DIVERGENCES)
        settings["f_alpha_divergence_coef"] = pick([0.5, 1.0, 1.5])
    if random.random() < 0.5:
        settings["loss_weights"] = [pick([0.2, 1.0, 2.0]) for _ in losses]
    return settings | {"loss_type": losses}


def data(seed: int) -> Dataset:
    """Pairs of responses of different lengths."""
    random = Random(1000 + seed)

    def digits(least: int, most: int) -> str:
        return "".join(random.choice("0123456789") for _ in range(random.randint(least, most)))

    pairs = {
        "prompt": [digits(1, 3) + "+" for _ in range(PAIRS)],
        "chosen": [digits(1, 7) for _ in range(PAIRS)],
        "rejected": [digits(1, 7) for _ in range(PAIRS)],
    }
    return Dataset.from_dict(pairs)


class Gradients(TrainerCallback):
    """The gradients with which an optimizer step is taken."""

    def on_pre_optimizer_step(self, *_: Any, model: Any, **__: Any) -> None:
        self.taken = {name: x.grad.clone() for name, x in model.named_parameters()}


def theirs(settings: dict[str, Any], seed: int, folder: Path) -> tuple[Numbers, Any, list[Any]]:
    """The loss and the gradients of a step, the trainer, and its micro-batches."""
    gradients = Gradients()
    policy, reference = tiny_model.model(), tiny_model.model()
    tiny_model.move(reference, seed=11)
    options = {"learning_rate": 0.0, "max_steps": 1, "max_grad_norm": 0.0, **settings}
    defaults = tiny_model.settings(folder, **options)
    for name in ("num_generations", "max_completion_length"):
        del defaults[name]
    running = DPOTrainer(
        policy,
        reference,
        args=DPOConfig(**defaults),
        train_dataset=data(seed),
        processing_class=tiny_model.tokenizer(),
        callbacks=[gradients],
    )
    parts: list[Any] = []
    losses: list[Tensor] = []
    compute, step = running.compute_loss, running.training_step

    def computed(model: Any, inputs: Any, *arguments: Any, **options: Any) -> Any:
        parts.append({name: x.clone() for name, x in inputs.items()})
        return compute(model, inputs, *arguments, **options)

    def stepped(*arguments: Any, **options: Any) -> Tensor:
        losses.append(step(*arguments, **options))
        return losses[-1]

    running.compute_loss, running.training_step = computed, stepped
    running.train()
    return (float(sum(losses)), gradients.taken), running, parts


def ours(
    running: Any, parts: list[Any], settings: dict[str, Any], folder: Path
) -> tuple[Numbers, str]:
    """The same of the imported objective, on all pairs of the step; and its text."""
    file = folder / "dpo.yaml"
    file.write_text(yaml.safe_dump(settings), encoding="utf-8")
    text = frameworks.configured(f"trl:{file}").text
    objective = objdsl.loads(text)
    width = max(part["completion_mask"].size(1) for part in parts)
    rows = [_rows(running, part, width) for part in parts]
    sizes = [len(part["input_ids"]) for part in parts]
    columns = {
        **{name: torch.cat([row[name] for row in rows]) for name in rows[0]},
        "chosen": torch.cat([(torch.arange(n) < n // 2).double() for n in sizes]),
        "micro_batch": torch.arange(len(parts)).repeat_interleave(torch.tensor(sizes)),
    }
    pairs = [torch.arange(n // 2).repeat(2) + 100 * k for k, n in enumerate(sizes)]
    running.model.zero_grad()
    out = objective(
        prompt=torch.cat(pairs),
        mask=columns.pop("mask"),
        **{name: x for name, x in columns.items() if name in objective.columns},
    )
    out.loss.backward()
    gradients = {name: x.grad.clone() for name, x in running.model.named_parameters()}
    return (float(out.loss.detach()), gradients), text


def _rows(running: Any, part: dict[str, Tensor], width: int) -> dict[str, Tensor]:
    """The tokens of the responses of a micro-batch, from the first on, padded to `width`."""
    mask = part["completion_mask"][:, 1:].bool()
    order = (~mask).int().argsort(dim=1, stable=True)
    tokens = part["input_ids"][:, 1:]

    def dist(model: Any) -> Tensor:
        logits = model(input_ids=part["input_ids"], attention_mask=part["attention_mask"]).logits
        return logits[:, :-1].log_softmax(-1)

    def padded(x: Tensor) -> Tensor:
        index = order if x.dim() == 2 else order[..., None].expand(-1, -1, x.size(2))
        missing = width - x.size(1)
        ends = (0, missing) if x.dim() == 2 else (0, 0, 0, missing)
        return torch.nn.functional.pad(x.gather(1, index), ends)

    policy = dist(running.model)
    with torch.no_grad():
        reference = dist(running.ref_model)
    by_policy = {
        f"log_{name}": padded(x.gather(2, tokens[..., None]).squeeze(2))
        for name, x in (("pi", policy), ("ref", reference))
    }
    return {"mask": padded(mask), "log_pi_dist": padded(policy), **by_policy}


def compare(seed: int, folder: Path) -> str:
    """Holds the two equal, value and gradient; the imported text.

    Raises AssertionError with the settings and the text.
    """
    settings = drawn(seed)
    wanted, running, parts = theirs(settings, seed, folder)
    actual, text = ours(running, parts, settings, folder)
    assert_close(seed, actual, wanted, f"{settings}\n{text}")
    return text
