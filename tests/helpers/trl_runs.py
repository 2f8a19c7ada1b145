"""Random configurations of TRL: what its own trainers compute under them, and what the objective
that `objdsl import trl` writes for them does."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import torch
import yaml
from torch import Tensor
from torch.distributed import barrier, is_initialized
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

import objdsl
from helpers import tiny_model
from objdsl import frameworks

Numbers = tuple[float, dict[str, Tensor]]


def ones(completions: list[str], **_: Any) -> list[float]:
    return [text.count("1") - 0.5 * ("3" in text) for text in completions]


def length(completions: list[str], **_: Any) -> list[float]:
    return [0.25 * len(text) for text in completions]


REWARDS = {"ones": ones, "length": length}


def drawn(seed: int) -> dict[str, Any]:
    """The settings of a run: of GRPO, or of RLOO for every eighth seed."""
    random = Random(seed)
    pick = random.choice
    window = pick([1, 2, 4])
    count = pick([1, 2])
    settings: dict[str, Any] = {
        "reward_funcs": [*REWARDS][:count],
        "num_generations": 4,
        "max_completion_length": 6,
        "gradient_accumulation_steps": window,
        "per_device_train_batch_size": 8 // window,
        "num_iterations": pick([1, 2, 2]),
        "temperature": pick([1.0, 1.0, 0.7]),
        "beta": pick([0.0, 0.1]),
        "epsilon": pick([0.02, 0.2]),
        "mask_truncated_completions": pick([False, False, True]),
        "generation_kwargs": {"suppress_tokens": [0]},
    }
    if random.random() < 0.5:
        settings["epsilon_high"] = pick([0.05, 0.28])
    if random.random() < 0.4:
        settings["reward_weights"] = [pick([0.5, 1.0, 2.0]) for _ in range(count)]
    if seed % 8 == 7:
        settings["normalize_advantages"] = pick([False, True])
        if random.random() < 0.5:
            settings["reward_clip_range"] = [-0.25, 1.0]
        return settings
    settings |= {
        "loss_type": pick(["dapo", "grpo", "bnpo", "dr_grpo", "luspo", "cispo", "sapo", "vespo"]),
        "importance_sampling_level": pick(["token", "token", "sequence"]),
        "scale_rewards": pick(["group", "batch", "none", True, False]),
        "multi_objective_aggregation": pick(
            ["sum_then_normalize", "sum_then_normalize", "normalize_then_sum"]
        ),
        "use_bias_correction_kl": pick([True, False]),
        "entropy_coef": pick([0.0, 0.0, 0.05]),
        "sapo_temperature_pos": pick([1.0, 2.0]),
        "sapo_temperature_neg": pick([1.05, 3.0]),
        "vespo_k_pos": pick([2.0, 1.5]),
        "vespo_k_neg": pick([3.0, 1.0]),
        "vespo_lambda_pos": pick([3.0, 2.0]),
        "vespo_lambda_neg": pick([2.0, 1.0]),
    }
    if settings["loss_type"] == "cispo":
        settings["epsilon_high"] = pick([0.9, 1.1, 5.0])
    if random.random() < 0.3:
        settings["delta"] = pick([1.05, 4.0])
    if random.random() < 0.3:
        settings["off_policy_mask_threshold"] = pick([0.0, 0.02])
    if window == 1 and random.random() < 0.4:
        settings["top_entropy_quantile"] = pick([0.3, 0.8])
    if random.random() < 0.4:
        mode = pick(["sequence_mask", "sequence_truncate", "token_mask", "token_truncate"])
        settings |= {
            "use_vllm": True,
            "vllm_importance_sampling_correction": pick([True, True, True, False]),
            "vllm_importance_sampling_mode": mode,
            "vllm_importance_sampling_clip_max": pick([1.1, 1.5, 3.0]),
            "vllm_importance_sampling_clip_min": pick([None, 0.5, 0.9]),
        }
    return settings


def trainer(settings: dict[str, Any], folder: Path) -> Any:
    """TRL's trainer under those settings, with a model of a few thousand weights.

    vLLM is a stand-in: transformers samples, and the log-probabilities that the engine would
    report are drawn around those of the policy.
    """
    options = {name: x for name, x in settings.items() if name not in ("reward_funcs", "use_vllm")}
    rloo = "normalize_advantages" in settings
    model: Any = tiny_model.model()
    if settings["beta"]:  # the reference is loaded from where the model came from
        model.save_pretrained(folder / "model")  # of several ranks, the first does
        if is_initialized():
            barrier()
        model = str(folder / "model")
    running = (RLOOTrainer if rloo else GRPOTrainer)(
        model,
        [REWARDS[name] for name in settings["reward_funcs"]],
        args=(RLOOConfig if rloo else GRPOConfig)(**tiny_model.settings(folder, **options)),
        train_dataset=tiny_model.data(),
        processing_class=tiny_model.tokenizer(),
    )
    if settings["beta"]:
        tiny_model.move(running.ref_model, seed=11)
    if settings.get("use_vllm"):
        running.use_vllm = True
        generate = running._generate

        def reported(prompts: list[Any]) -> tuple[Any, ...]:
            running.use_vllm = False
            answer = list(generate(prompts))
            running.use_vllm = True
            noise = torch.Generator().manual_seed(9)
            with torch.no_grad():
                answer[4] = [
                    (
                        scores(running, torch.tensor([[*before, *after]]), len(after))[0]
                        .gather(1, torch.tensor(after)[:, None])
                        .squeeze(1)
                        + 0.1 * torch.randn(len(after), generator=noise)
                    ).tolist()
                    for before, after in zip(answer[0], answer[1], strict=True)
                ]
            return tuple(answer)

        running._generate = reported
    return running


def scores(running: Any, ids: Tensor, width: int, seen: Tensor | None = None) -> Tensor:
    """`[n, width, vocabulary]`: what the policy says of the last tokens, as TRL scales it."""
    seen = torch.ones_like(ids) if seen is None else seen
    logits = running.model(input_ids=ids, attention_mask=seen).logits[:, -width - 1 : -1]
    return (logits / running.args.temperature).log_softmax(-1)


def theirs(running: Any, rows: list[dict[str, Any]]) -> Numbers:
    """The loss of an optimizer step and its gradients, as TRL's loop adds them up: of the second
    step on the same responses where there is one, after the policy has moved."""
    args = running.args
    window = args.gradient_accumulation_steps
    running.current_gradient_accumulation_steps = window
    running.model.train()
    torch.manual_seed(5)
    first = 0
    if args.num_iterations > 1:
        running._prepare_inputs(rows)
        tiny_model.move(running.model)
        first = window
    loss = 0.0
    for number in range(window):
        running._step = first + number
        part = running.compute_loss(running.model, running._prepare_inputs(rows))
        if isinstance(running, RLOOTrainer):  # here the Trainer's loop divides
            part = part / window
        part.backward()
        loss += float(part.detach())
    gradients = {name: x.grad.clone() for name, x in running.model.named_parameters()}
    return loss, gradients


def ours(
    running: Any, settings: dict[str, Any], folder: Path, parts: list[Any], processes: int = 1
) -> tuple[Numbers, str]:
    """The same of the imported objective, on the micro-batches of all processes; and its text."""
    file = folder / ("rloo.yaml" if "normalize_advantages" in settings else "grpo.yaml")
    file.write_text(yaml.safe_dump(settings), encoding="utf-8")
    text = frameworks.configured(f"trl:{file}", processes=processes).text
    objective = objdsl.loads(text)
    batch = {
        name: torch.cat([part[name] for part in parts])
        for name, x in parts[0].items()
        if isinstance(x, Tensor) and x.dim()
    }
    completions = batch["completion_ids"]
    mask = completions != 0
    ids = torch.cat([batch["prompt_ids"], completions], 1)
    seen = torch.cat([batch["prompt_mask"], batch["completion_mask"]], 1)
    dist = scores(running, ids, completions.size(1), seen)
    log_pi = dist.gather(2, completions[..., None]).squeeze(2)
    last = mask.sum(1, keepdim=True) - 1
    texts = running.processing_class.batch_decode(completions, skip_special_tokens=True)
    old = batch.get("old_per_token_logps", log_pi.detach())
    if "old_logps" in batch:  # RLOO keeps their sum
        old = torch.zeros_like(log_pi.detach())
        old[:, 0] = batch["old_logps"]
    names = settings["reward_funcs"]
    rewards = {name: torch.tensor(REWARDS[name](texts)) for name in names}
    if len(names) == 1:
        rewards = {"reward": rewards[names[0]]}
    numbers = torch.arange(len(parts)).repeat_interleave(len(parts[0]["completion_ids"]))
    columns = {
        **rewards,
        "log_pi": log_pi,
        "log_pi_dist": dist,
        "log_old": old,
        "log_mu": batch.get("sampling_per_token_logps", old),
        "log_ref": reference(running, batch, ids, seen, old),
        "truncated": (completions.gather(1, last) != 1).squeeze(1),
        "micro_batch": numbers,
    }
    running.model.zero_grad()
    out = objective(
        prompt=torch.unique(batch["prompt_ids"], dim=0, return_inverse=True)[1],
        mask=mask,
        **{name: x for name, x in columns.items() if name in objective.columns},
    )
    out.loss.backward()
    gradients = {name: x.grad.clone() for name, x in running.model.named_parameters()}
    return (float(out.loss.detach()), gradients), text


def reference(
    running: Any, batch: dict[str, Tensor], ids: Tensor, seen: Tensor, old: Tensor
) -> Any:
    if "ref_per_token_logps" in batch:
        return batch["ref_per_token_logps"]
    if running.beta == 0:
        return old
    with torch.no_grad():  # RLOO has put it into the advantage
        width = batch["completion_ids"].size(1)
        logits = running.ref_model(input_ids=ids, attention_mask=seen).logits[:, -width - 1 : -1]
        dist = (logits / running.args.temperature).log_softmax(-1)
        return dist.gather(2, batch["completion_ids"][..., None]).squeeze(2)


def compare(seed: int, folder: Path) -> str:
    """Holds the two equal, value and gradient; the imported text.

    Raises AssertionError with the settings and the text.
    """
    settings = drawn(seed)
    running = trainer(settings, folder)
    wanted = theirs(running, tiny_model.rows())
    actual, text = ours(running, settings, folder, running._buffered_inputs)
    assert_close(seed, actual, wanted, f"{settings}\n{text}")
    return text


def assert_close(seed: int, actual: Numbers, wanted: Numbers, shown: str) -> None:
    """Value and gradient are the same to 2e-4, in float32."""
    largest = max(float(x.abs().max()) for x in wanted[1].values())
    worst = max(float((actual[1][name] - x).abs().max()) for name, x in wanted[1].items()) / max(
        largest, 1e-6
    )
    apart = abs(actual[0] - wanted[0]) / max(abs(wanted[0]), 1e-2)
    assert worst < 2e-4 and apart < 2e-4, (
        f"seed {seed}: value {actual[0]:.8g} against {wanted[0]:.8g}, gradient off by {worst:.2g} "
        f"of {largest:.2g}\n{shown}"
    )
