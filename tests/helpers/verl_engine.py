"""A batch as verl's trainer has it before it learns, and an engine whose model is a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from tensordict import TensorDict
from torch import Tensor
from verl import DataProto
from verl.utils import tensordict_utils
from verl.workers.engine.base import BaseEngine
from verl.workers.engine.utils import postprocess_batch_func, prepare_micro_batches
from verl.workers.utils.padding import left_right_2_no_padding

import objdsl
from helpers.declared_domains import nearest
from helpers.peer_losses import Data, data

EOS = 1
NAMES = {"log_old": "old_log_probs", "log_mu": "rollout_log_probs", "log_ref": "ref_log_prob"}


def data_for(objective: objdsl.Objective, seed: int = 11) -> Data:
    """A random step with columns in the domains that an objective declares."""
    d = data(seed)
    first = [d.step.prompt.index(prompt) for prompt in d.step.prompt]
    d.columns["greedy"] = d["greedy"][first]
    d.columns["truncated"] = torch.arange(len(d.mask)) % 3 == 0
    for column, domain in objective.formula.domains.items():
        d.columns[column] = torch.from_numpy(nearest(domain, d[column]))
    return d


def batch_of(d: Data) -> DataProto:
    """Prompts are padded on the left, responses on the right; rewards are at the last token."""
    rows = len(d.mask)
    prompt_lengths = torch.arange(rows) % 3 + 1
    prompt_mask = torch.arange(3) >= 3 - prompt_lengths[:, None]
    seen = torch.cat([prompt_mask, d.mask], 1).long()
    places = torch.arange(d.mask.shape[1])
    responses = torch.where(d.mask, 3 + (7 * torch.arange(rows)[:, None] + 3 * places) % 10, 0)
    ended = ~d["truncated"]
    responses[ended, d.lengths[ended] - 1] = EOS
    rewards = torch.zeros_like(d["log_old"])
    rewards[torch.arange(rows), d.lengths - 1] = d["reward"]
    prompts = torch.where(prompt_mask, 4, 0)
    tensors = {
        "prompts": prompts,
        "responses": responses,
        "input_ids": torch.cat([prompts, responses], 1),
        "attention_mask": seen,
        "position_ids": (seen.cumsum(1) - 1).clamp(min=0),
        "response_mask": d.mask.long(),
        "token_level_rewards": rewards,
        "reward_baselines": d["greedy"],
        "row": torch.arange(rows),
        **{theirs: d[ours] for ours, theirs in NAMES.items()},
    }
    names = ("correct", "chosen", "desirable", "mismatched", "v_star", "problem", "solver")
    extra = [{name: float(d[name][row]) for name in names} for row in range(rows)]
    return DataProto(
        batch=TensorDict(tensors, batch_size=[rows]),
        non_tensor_batch={
            "uid": np.array([f"uid {prompt}" for prompt in d.step.prompt], dtype=object),
            "format": d["format"].numpy(),
            "extra_info": np.array(extra, dtype=object),
        },
    )


def sent(batch: DataProto, **settings: Any) -> TensorDict:
    """What `_update_actor` sends to the workers."""
    td = left_right_2_no_padding(batch.to_tensordict())
    tensordict_utils.assign_non_tensor(td, **{"use_dynamic_bsz": False, **settings})
    return td


@dataclass(frozen=True)
class Trained:
    """An optimizer step: its rows, and what it gave."""

    rows: Tensor
    micro_batches: int
    loss: float
    gradient: Tensor
    metrics: dict[str, Any]


def queued(batch: DataProto, **settings: Any) -> TensorDict:
    """The same as the trainer `v1` has it: everything that is of tokens is nested."""
    tensors = batch.batch
    width = tensors["responses"].shape[1]
    seen = tensors["attention_mask"].bool()
    answered = seen[:, -width:]

    def nested(x: Tensor, kept: Tensor) -> Tensor:
        rows: Tensor = torch.nested.as_nested_tensor(
            [row[some] for row, some in zip(x, kept, strict=True)], layout=torch.jagged
        )
        return rows

    of_responses = ("responses", "response_mask", *NAMES.values())
    td = TensorDict(
        {
            "prompts": nested(tensors["prompts"], seen[:, :-width]),
            "input_ids": nested(tensors["input_ids"], seen),
            "rm_scores": nested(tensors["token_level_rewards"], answered),
            **{name: nested(tensors[name], answered) for name in of_responses},
            "row": tensors["row"],
        },
        batch_size=[len(batch)],
    )
    for name, values in batch.non_tensor_batch.items():
        tensordict_utils.assign_non_tensor_stack(td, name, [*values])
    tensordict_utils.assign_non_tensor(td, **{"use_dynamic_bsz": False, **settings})
    return td


class TableEngine(BaseEngine):  # type: ignore[misc]
    """An engine of one rank, whose policy is a leaf `[N, T]`: the row of a response is a column.

    Attributes:
        passes: how often the policy was asked without a gradient.
    """

    def __init__(self, log_pi: Tensor, group: Any = None) -> None:
        self.log_pi, self.group = log_pi, group
        self.model_config = SimpleNamespace(
            tokenizer=SimpleNamespace(eos_token_id=EOS), generation_config=None
        )
        self.steps: list[Trained] = []
        self.passes = 0

    def get_data_parallel_size(self) -> int:
        return 1 if self.group is None else self.group.size()

    def get_data_parallel_group(self) -> Any:
        return self.group

    def is_mp_src_rank_with_outputs(self) -> bool:
        return True

    def optimizer_zero_grad(self) -> None:
        self.log_pi.grad = None

    def optimizer_step(self) -> float:
        return 0.0

    def forward_backward_batch(
        self, data: TensorDict, loss_function: Any, forward_only: bool = False
    ) -> Any:
        self.passes += forward_only
        tensordict_utils.assign_non_tensor(data, dp_size=self.get_data_parallel_size())
        micro_batches, indices = prepare_micro_batches(data, dp_group=self.group)
        outputs = []
        for micro_batch in micro_batches:
            log_probs = self._log_probs(micro_batch)
            output: dict[str, Any] = {"model_output": {"log_probs": log_probs}}
            if not forward_only:
                loss, metrics = loss_function(
                    model_output=output.pop("model_output"), data=micro_batch, dp_group=self.group
                )
                loss.backward()
                output |= {"loss": loss.item(), "metrics": metrics}
            outputs.append(output)
        result = postprocess_batch_func(outputs, indices, data)
        if not forward_only:
            gradient = self.log_pi.grad
            assert gradient is not None
            losses, metrics = result["loss"], dict(result["metrics"])
            step = Trained(data["row"], len(losses), sum(losses), gradient.clone(), metrics)
            self.steps.append(step)
        return result

    def _log_probs(self, data: TensorDict) -> Tensor:
        """What is said at a place is said of the next token."""
        ids, responses = data["input_ids"], data["responses"]
        if responses.is_nested:
            answered = responses.offsets().diff().tolist()
        else:
            answered = data["attention_mask"][:, -responses.shape[1] :].sum(1).tolist()
        pieces = [
            torch.nn.functional.pad(self.log_pi[row, :size], (length - size - 1, 1))
            for row, size, length in zip(
                data["row"].tolist(), answered, ids.offsets().diff().tolist(), strict=True
            )
        ]
        nested: Tensor = torch.nested.as_nested_tensor(pieces, layout=torch.jagged)
        return nested


def train(engine: TableEngine, td: TensorDict, loss: Any, rows: int, **loader: Any) -> None:
    """The optimizer steps of a batch, as `train_mini_batch` of verl's worker makes them."""
    for mini_batch in tensordict_utils.make_iterator(td, rows, 1, dataloader_kwargs=loader):
        engine.train_batch(mini_batch, loss)


def directly(
    objective: objdsl.Objective, d: Data, rows: Sequence[int] | Tensor, seed: int = 1
) -> tuple[float, Tensor]:
    """The loss of a step of these rows and its gradient, by the objective itself.

    Args:
        seed: of what it draws, which is the number of the step.
    """
    rows = torch.as_tensor(rows)
    columns = {
        name: d[name][rows]
        for name, column in objective.columns.items()
        if not column.trained and name != "noise"
    }
    step = objective.prepare(
        mask=d.mask[rows],
        prompt=[d.step.prompt[row] for row in rows.tolist()],
        generator=torch.Generator().manual_seed(seed),
        **columns,
    )
    log_pi = d["log_pi"].detach().requires_grad_()
    out = objective(log_pi[rows], step)
    (gradient,) = torch.autograd.grad(out.loss, log_pi)
    return out.loss.item(), gradient
