"""Objectives in TRL: `ObjectiveTrainer` is a `GRPOTrainer` whose loss is an objective.

    from objdsl.adapters.trl import ObjectiveTrainer

    trainer = ObjectiveTrainer("grpo.obj", model="Qwen/Qwen3-0.6B", reward_funcs=..., args=...)

TRL generates, scores, shards and steps; the objective says what is maximised, advantages and
denominators included. Both are those of the optimizer step: the losses of its micro-batches, and of
all ranks, add up to what one pass over it would give.
"""

from __future__ import annotations

import copy
import math
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from trl import GRPOConfig, GRPOTrainer
from trl.models.utils import disable_gradient_checkpointing
from trl.trainer.utils import (
    split_pixel_values_by_grid,
    split_tensor_dict,
    unsplit_pixel_values_by_grid,
)

from objdsl.adapters.needs import UnsupportedError, given, refused
from objdsl.adapters.trl_settings import contradicted
from objdsl.adapters.trl_steps import PREFIX, Batch, Window, mask_of, prepared
from objdsl.ir.columns import LogProbs
from objdsl.objective import Objective, load
from objdsl.step import Step

# Inputs that a forward pass may need besides ids and masks.
_PICTURES = (
    "pixel_values", "image_grid_thw", "num_images", "pixel_attention_mask", "spatial_shapes",
    "num_tiles", "image_sizes", "token_type_ids", "mm_token_type_ids", "image_position_ids",
)  # fmt: skip

_OLD, _MU, _REF = LogProbs("old"), LogProbs("mu"), LogProbs("ref")

# Sums that are kept beside the reports, under names that no report has.
_ENTROPY, _TOKENS, _ROUTER = "sum of entropies", "number of tokens", "loss of the router"

# Names that TRL logs itself: a report with such a name is logged as `objective/<name>`.
_TAKEN = {
    "aux_loss", "entropy", "epoch", "frac_reward_zero_std", "grad_norm", "learning_rate", "loss",
    "num_tokens", "reward", "reward_std", "step_time",
}  # fmt: skip


class ObjectiveTrainer(GRPOTrainer):  # type: ignore[misc]
    """A GRPOTrainer that maximises an objective.

    `reward` is the weighted sum of the reward functions; `given` columns are reward functions or
    columns of the dataset of the same name. `ref` is TRL's reference model, loaded if the objective
    reads it. `mu` is what the sampler says of its tokens; the policy itself, where transformers
    samples. Responses that no reward function scores, and those without a token of the policy, are
    left out, as if they had not been drawn. Reports are logged under their own names.

    Args:
        objective: an objective, a name of the gallery, or the path of an `.obj` file.
        args: what `trl_settings.DECIDED` lists must stand at TRL's defaults.
        others: as for GRPOTrainer.

    Raises:
        UnsupportedError: the objective reads what TRL does not have, or `args` contradict it.
    """

    _tag_names = ["trl", "objdsl"]  # noqa: RUF012
    _name = "objdsl"
    _paper: dict[str, str] = {}  # noqa: RUF012

    def __init__(
        self,
        objective: Objective | str | Path,
        model: Any,
        reward_funcs: Any = None,
        args: GRPOConfig | None = None,
        train_dataset: Any = None,
        **others: Any,
    ) -> None:
        self.objective = objective if isinstance(objective, Objective) else load(objective)
        args = GRPOConfig() if args is None else copy.copy(args)
        reasons = [
            *refused(self.objective, ("pi", "old", "mu", "ref")),
            *contradicted(self.objective, args),
        ]
        if reasons:
            raise UnsupportedError(self.objective, "TRL", reasons)
        # TRL loads the reference model where its own KL has a weight. Its correction of the
        # sampler's probabilities makes it ask the server how those are computed.
        args.beta = 1.0 if _REF.name in self.objective.columns else 0.0
        args.vllm_importance_sampling_correction = _MU.name in self.objective.columns
        super().__init__(model, reward_funcs, args=args, train_dataset=train_dataset, **others)
        args.beta = 0.0
        self.vllm_importance_sampling_correction = False
        if missing := [*self._missing()]:
            raise UnsupportedError(self.objective, "TRL", missing)
        self._windows: list[Window] = []
        self._window: Window
        self._prepared: Step
        self._totals: dict[str, Tensor] = {}

    def _missing(self) -> Iterator[str]:
        """Columns that nobody gives, as far as that is known before the first step."""
        columns = getattr(self.train_dataset, "column_names", None)
        open_ended = self.rollout_func is not None or self.environment_factories is not None
        for name in given(self.objective):
            if columns is None or open_ended or name in [*columns, *self.reward_func_names]:
                continue
            yield f"`given {name}` is neither a reward function nor a column of the dataset"
        config = self.model.config.get_text_config()
        experts = any(getattr(config, name, 0) for name in ("num_experts", "num_local_experts"))
        if self.objective.sample.keep_routing and experts:
            yield "it keeps the sampler's routing of experts, which TRL does not replay"

    # --- what is known of a response before learning ---------------------------------------------

    def _calculate_rewards(self, *args: Any, **kwargs: Any) -> Tensor:
        """`[all processes' responses, reward functions]`, which TRL does not put into a batch."""
        scores: Tensor = super()._calculate_rewards(*args, **kwargs)
        self._scores = scores
        return scores

    def _generate_and_score_completions(self, inputs: list[Batch]) -> Batch:
        batch: Batch = super()._generate_and_score_completions(inputs)
        count, rank = len(batch["completion_ids"]), self.accelerator.process_index
        local = slice(rank * count, (rank + 1) * count)
        scores = self._scores
        reward = (scores * self.reward_weights.to(scores)).nansum(1)
        reward[scores.isnan().all(1)] = torch.nan
        size = self.num_generations if self.model.training else self.num_generations_eval
        everyone = torch.arange(len(scores), device=scores.device)
        last = batch["completion_mask"].sum(-1, keepdim=True) - 1
        ends = torch.tensor([*self.eos_token_ids, self._tokenizer.pad_token_id])
        ended = torch.isin(batch["completion_ids"].gather(1, last), ends.to(last.device))
        columns = {
            "reward": reward[local],
            "prompt": everyone[local] // size,  # the sampler repeats a prompt in a row
            "truncated": ~ended.squeeze(1),
        }
        for name in given(self.objective):
            if name in self.reward_func_names:
                columns[name] = scores[local, self.reward_func_names.index(name)]
            elif all(name in row for row in inputs):
                values = [float(row[name]) for row in inputs]
                columns[name] = torch.tensor(values, device=reward.device)
            else:
                raise ValueError(f"{self.objective.name} reads the column {name!r}: no data has it")
        batch |= {PREFIX + name: column for name, column in columns.items()}
        if "old_per_token_logps" not in batch and self._needs_old(batch):
            batch["old_per_token_logps"] = self._without_gradient(batch)
        # TRL's own advantages are not the objective's.
        shown = self._logs["advantages"]
        self._logs["advantages"] = deque([math.nan] * len(shown), maxlen=shown.maxlen)
        return batch

    def _measured(self, batch: Batch) -> set[str]:
        """Columns that are log-probabilities of the policy as it was at generation."""
        names = {_OLD.name} if "sampling_per_token_logps" in batch else {_OLD.name, _MU.name}
        return names & self.objective.columns.keys()

    def _needs_old(self, batch: Batch) -> bool:
        """Whether a pass before learning is needed, where the policy of the optimizer step is still
        that of generation (TRL makes one by itself where it is not)."""
        sampled = batch.get("sampling_per_token_logps")
        if sampled is not None and _MU.name in self.objective.columns:
            unknown = sampled[mask_of(batch)].isnan().any().int()
            if bool(self.accelerator.gather(unknown).any()):  # the same answer on every rank
                return True
        measured = self._measured(batch)
        return bool(measured) and (
            self.objective.reports_need_couple or bool(measured & self.objective.early)
        )

    # --- the optimizer step ----------------------------------------------------------------------

    def _prepare_inputs(self, generation_batch: Any) -> Batch:
        inputs: Batch
        if not self.model.training:
            inputs = super()._prepare_inputs(generation_batch)
            self._begin(self._prepared_window([inputs]), fresh=True)
            return inputs
        parts, window = self.args.steps_per_generation, self.args.gradient_accumulation_steps
        drawn_every = parts * self.num_iterations
        if self._step % drawn_every == 0 or self._buffered_inputs is None:
            # In the order of the dataset, which keeps groups together. (GRPOTrainer shuffles rows.)
            batch = split_pixel_values_by_grid(
                self._generate_and_score_completions(generation_batch)
            )
            cut = split_tensor_dict(batch, parts)
            micro_batches = [unsplit_pixel_values_by_grid(part) for part in cut]
            self._buffered_inputs: list[Batch] | None = micro_batches
            starts = range(0, parts, window)
            self._windows = [self._prepared_window(micro_batches[k : k + window]) for k in starts]
        place = self._step % parts
        if place % window == 0:
            self._begin(self._windows[place // window], fresh=self._step % drawn_every == 0)
        inputs = self._buffered_inputs[place]
        return inputs

    def _prepared_window(self, batches: Sequence[Batch]) -> Window:
        several = self.accelerator.num_processes > 1
        return prepared(self.objective, batches, dist.group.WORLD if several else None)

    def _begin(self, window: Window, fresh: bool) -> None:
        """Begins an optimizer step, before its first micro-batch. Collective.

        Args:
            fresh: the policy is still that of generation.
        """
        self._window, self._prepared, self._totals = window, window.step, {}
        alone = window.step.whole and len(window.batches) == 1  # then the loss sees to it
        known = fresh and all("old_per_token_logps" in batch for batch in window.batches)
        if alone or not (
            self.objective.needs_couple or (self.objective.reports_need_couple and known)
        ):
            return
        pairs = zip(window.batches, window.used, strict=True)
        log_pi = [
            (batch["old_per_token_logps"] if known else self._without_gradient(batch))[used]
            for batch, used in pairs
        ]
        self._prepared = self.objective.couple(window.step, log_pi=torch.cat(log_pi))

    def _without_gradient(self, batch: Batch) -> Tensor:
        """`[n, T]`, the log-probabilities of the policy as it is now."""
        training = self.model.training
        size = self.args.per_device_train_batch_size
        size = size if training else self.args.per_device_eval_batch_size
        options = self.args.gradient_checkpointing_kwargs
        with torch.no_grad(), disable_gradient_checkpointing(self.model, options):
            scores: Tensor = self._log_probs(self.model, batch, batch_size=size)[0]
        return scores

    def _log_probs(self, model: Any, batch: Batch, **options: Any) -> tuple[Tensor, Any, Any]:
        """Log-probabilities `[n, T]`, entropies and the router's loss of a micro-batch."""
        ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], 1)
        seen = torch.cat([batch["prompt_mask"], batch["completion_mask"]], 1)
        pictures = {name: batch[name] for name in _PICTURES if name in batch}
        scores: tuple[Tensor, Any, Any] = self._get_per_token_logps_and_entropies(
            model, ids, seen, batch["completion_ids"].size(1), **options, **pictures
        )
        return scores

    def _compute_loss(self, model: Any, inputs: Batch) -> Tensor:
        training = self.model.training
        parts = self.args.gradient_accumulation_steps if training else 1
        number = self._step % parts if training else 0
        window, used = self._window, self._window.used[number]
        log_pi, entropies, router = self._log_probs(
            model, inputs, compute_entropy=True, compute_aux_loss=self.aux_loss_enabled
        )
        loss = 0 * log_pi.sum()  # a micro-batch whose responses are all left out
        if bool(used.any()):
            used_log_pi = log_pi[used]
            step = self._prepared
            if len(window.used) > 1:
                step = step[window.rows(number)]
            if window.current:
                now = dict.fromkeys(window.current, used_log_pi.detach())
                step = replace(step, tokens={**step.tokens, **now})
            out = self.objective(used_log_pi, step)
            # Ranks are averaged over, micro-batches are summed.
            loss = out.loss * self.accelerator.num_processes
            self._add_reports(out.reports)
        mask = mask_of(inputs)
        self._add_reports({_ENTROPY: entropies.detach()[mask].sum(), _TOKENS: mask.sum()})
        if self.aux_loss_enabled:
            loss = loss + self.router_aux_loss_coef * router / parts
            self._add_reports({_ROUTER: router.detach() / parts})
        if number == parts - 1:
            self._log_totals()
        return loss

    # --- what is logged --------------------------------------------------------------------------

    def _add_reports(self, reports: Mapping[str, Tensor]) -> None:
        """Adds reports up over the micro-batches of an optimizer step."""
        for name, value in reports.items():
            self._totals[name] = self._totals.get(name, 0) + value.float()

    def _log_totals(self) -> None:
        """Logs the sums of an optimizer step, after its last micro-batch. Collective."""
        totals, ranks = self._totals, self.accelerator.num_processes
        names = [_ENTROPY, _TOKENS, _ROUTER, *self.objective.report_names]
        zero = torch.zeros((), device=self.accelerator.device)
        sums = torch.stack([totals.get(name, zero) for name in names])
        # Reports that need the whole step at once may be missing, on every rank that has rows.
        counts = torch.stack([zero + (name in totals) for name in names])
        sums, counts = self.accelerator.reduce(torch.stack([sums, counts]), reduction="sum")
        entropy, tokens, router, *reports = sums.tolist()
        metrics = self._metrics["train" if self.model.training else "eval"]
        metrics["entropy"].append(entropy / max(tokens, 1))
        if self.aux_loss_enabled:
            metrics["aux_loss"].append(router / ranks)
        for name, value, ranks_with_it in zip(names[3:], reports, counts[3:], strict=True):
            if ranks_with_it:
                metrics[f"objective/{name}" if name in _TAKEN else name].append(value)
