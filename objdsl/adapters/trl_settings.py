"""TRL's settings beside those that an objective makes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import MISSING, fields

from trl import GRPOConfig

from objdsl.ir.columns import LogProbs
from objdsl.objective import Objective

# Settings of GRPOConfig about the loss and the advantages, which the objective decides.
DECIDED = (
    "loss_type", "beta", "epsilon", "epsilon_high", "delta", "importance_sampling_level",
    "scale_rewards", "multi_objective_aggregation", "mask_truncated_completions",
    "top_entropy_quantile", "entropy_coef", "use_adaptive_entropy", "off_policy_mask_threshold",
    "use_bias_correction_kl", "vllm_importance_sampling_mode", "vllm_importance_sampling_clip_max",
    "vllm_importance_sampling_clip_min", "sapo_temperature_pos", "sapo_temperature_neg",
    "vespo_k_pos", "vespo_lambda_pos", "vespo_k_neg", "vespo_lambda_neg",
)  # fmt: skip


def contradicted(objective: Objective, args: GRPOConfig) -> Iterator[str]:
    """Settings that contradict the objective, or cut its groups."""
    drawn = objective.sample
    defaults = {field.name: field.default for field in fields(GRPOConfig)}
    for name in DECIDED:
        value = getattr(args, name)
        if defaults[name] is not MISSING and value != defaults[name]:
            hint = "; it can read `truncated`" if name == "mask_truncated_completions" else ""
            yield f"the objective decides on {name}, which is set to {value!r}{hint}"
    truncates = args.top_p < 1 or args.top_k > 0 or bool(args.min_p)
    if drawn.span is not None:
        for name, wanted in [
            ("temperature", drawn.temperature),
            ("top_p", drawn.top_p),
            ("top_k", drawn.top_k or 0),
        ]:
            if getattr(args, name) != wanted:
                setting = getattr(args, name)
                yield f"it samples with {name} {wanted:g}, but {name} is set to {setting:g}"
    if drawn.keep_mask and truncates:
        yield "it keeps the sampler's mask, which TRL does not pass on"
    altered = truncates or args.repetition_penalty != 1
    if LogProbs("mu").name in objective.columns and altered and not args.use_vllm:
        yield (
            "it reads `mu`, which transformers does not return where top_p, top_k, min_p or "
            "repetition_penalty change the distribution"
        )
    window = args.gradient_accumulation_steps
    if args.steps_per_generation % window:
        yield (
            f"an optimizer step takes {window} micro-batches, but responses are drawn for "
            f"{args.steps_per_generation}: steps_per_generation must be a multiple of "
            "gradient_accumulation_steps"
        )
    elif args.steps_per_generation > window:
        rows = args.per_device_train_batch_size * window
        if rows % args.num_generations:
            yield (
                f"an optimizer step takes {rows} responses of each process, which cuts groups "
                f"of {args.num_generations}"
            )
