"""Optimizer steps of verl: what its ranks know of one together, and the loss of a micro-batch.

verl sends the whole batch to its workers. There, an engine is given this rank's rows of an
optimizer step (a mini-batch), cuts them into micro-batches, and calls the loss with each of them.
Before they are cut, all ranks prepare the step together: so the losses of its micro-batches, on
whatever rank, add up to what one pass over the step would give, however verl cuts it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor
from verl.utils import tensordict_utils
from verl.utils.device import get_device_id
from verl.utils.metric import AggregationType, Metric
from verl.workers.utils.padding import no_padding_2_padding

from objdsl.errors import InputError
from objdsl.frozen import dataclass
from objdsl.ir.columns import Column, Data, Ids, LogProbs, Noise, Reward, Truncation
from objdsl.ir.indices import TOKEN
from objdsl.objective import Objective
from objdsl.step import Step
from objdsl.step.gather import exchange

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

POLICIES = {"old": "old_log_probs", "mu": "rollout_log_probs", "ref": "ref_log_prob"}
"""What verl calls the log-probabilities of the sampled tokens, by the policy."""

_ROW = "objective.row"
"""Where a row of a micro-batch is among those that this rank has of the step."""

_TAKEN = {"grad_norm", "loss", "lr", "mfu"}
"""What verl's workers log themselves: such a report is logged as `objective/<name>`."""

_SETTINGS = {
    "rollout_log_probs": "actor_rollout_ref.rollout.calculate_log_probs=True",
    "ref_log_prob": "its reference model, which loss_mode=objdsl:... loads",
    "reward_baselines": "algorithm.adv_estimator=remax",
}


@dataclass(frozen=True)
class RankRows:
    """What a rank has of an optimizer step.

    Attributes:
        step: its rows with tokens of the policy; None if no rank has such rows.
        place: `[n]`, where a row is in `step`; -1 for one without tokens.
    """

    step: Step | None
    place: Tensor


class ObjectiveLoss:
    """The loss of an objective, for `set_loss_fn` of verl's workers. It is pickled without rows."""

    def __init__(self, objective: Objective) -> None:
        self.objective = objective
        self._rows: RankRows | None = None
        self._steps = 0

    def __reduce__(self) -> tuple[Any, ...]:
        return ObjectiveLoss, (self.objective,)

    def prepare_step(self, engine: Any, data: Any) -> None:
        """Prepares an optimizer step. Collective.

        Args:
            engine: verl's, of this rank.
            data: this rank's rows, which learn where they are.
        """
        several = engine.get_data_parallel_size() > 1
        group = engine.get_data_parallel_group() if several else None
        mask = _padded(data["response_mask"]).bool().to(_device(group))
        used = mask.any(1)
        place = torch.where(used, used.cumsum(0) - 1, -1).cpu()
        data[_ROW] = torch.arange(len(mask))
        self._steps += 1
        counts = [int(used.sum())] if group is None else exchange(int(used.sum()), group)
        if not any(counts):
            self._rows = RankRows(None, place)
            return
        columns: dict[str, Any] = {
            name: values.to(mask.device)[used]
            for name, values in _columns(self.objective, engine, data)
        }
        step = self.objective.prepare(
            prompt=[str(uid) for uid, kept in zip(_list(data, "uid"), used, strict=True) if kept],
            mask=mask[used],
            generator=torch.Generator().manual_seed(self._steps),
            group=group,
            **columns,
        )
        if self.objective.needs_couple:
            log_pi = _current(engine, data).to(mask.device)[used]
            step = self.objective.couple(step, log_pi=log_pi)
        self._rows = RankRows(step, place)

    def __call__(
        self, model_output: Mapping[str, Any], data: Any, dp_group: Any = None
    ) -> tuple[Tensor, dict[str, Metric]]:
        """The loss of a micro-batch, and reports, which verl adds up."""
        if self._rows is None or _ROW not in data:
            raise InputError(
                "these rows are of no optimizer step that was prepared: the worker has to import "
                "objdsl.adapters.verl_plugin, by its entry point (VERL_USE_EXTERNAL_PLUGINS is "
                "not to exclude it) or by VERL_USE_EXTERNAL_MODULES"
            )
        log_pi = no_padding_2_padding(model_output["log_probs"], data)
        if self._rows.step is None:
            return 0 * log_pi.sum(), {}
        place = self._rows.place[data[_ROW].cpu()]
        used = place >= 0
        step = _moved(self._rows.step[place[used]], log_pi.device)
        log_pi = log_pi[used.to(log_pi.device)]
        padding = step.mask.shape[1] - log_pi.shape[1]
        out = self.objective(torch.nn.functional.pad(log_pi, (0, padding)), step)
        ranks = data["dp_size"]  # which verl takes the mean over
        reports = {
            f"objective/{name}" if name in _TAKEN else name: Metric(
                AggregationType.SUM, value.float() * ranks
            )
            for name, value in out.reports.items()
        }
        return out.loss * ranks, reports


# --- what verl knows of its rows -----------------------------------------------------------------


def _columns(objective: Objective, engine: Any, data: Any) -> Iterator[tuple[str, Tensor]]:
    for name, column in objective.columns.items():
        if not column.trained and not isinstance(column.role, Noise):
            yield name, _column(column, engine, data)


def _column(column: Column, engine: Any, data: Any) -> Tensor:
    match column.role:
        case LogProbs(policy, distribution=False) if policy in POLICIES:
            return _tensor(data, POLICIES[policy], column)
        case Reward() if column.indices == TOKEN:
            return _rewards(data)
        case Reward() if not column.declared:
            return _rewards(data).sum(1)
        case Truncation():
            return _truncated(engine.model_config, data)
        case Ids():
            return _padded(data["responses"])
        case Reward() | Data():
            if column.name == "greedy" and "greedy" not in data:
                return _tensor(data, "reward_baselines", column)
            return _given(data, column.name)
    raise InputError(f"verl has no column {column.name!r}")


def _tensor(data: Any, name: str, column: Column) -> Tensor:
    if name not in data:
        setting = f": it needs {_SETTINGS[name]}" if name in _SETTINGS else ""
        raise InputError(f"verl gives no {name}, which is the column {column.name!r}{setting}")
    return _padded(data[name])


def _rewards(data: Any) -> Tensor:
    """`[n, T]`, the token rewards that verl passes to its estimators."""
    name = "token_level_rewards" if "token_level_rewards" in data else "rm_scores"
    return _padded(data[name])


def _given(data: Any, name: str) -> Tensor:
    """A column that a file declares: of the batch, of what the reward function returned beside the
    score, or of the dataset's `extra_info`."""
    if name in data:
        column = data[name]
        values = column.tolist() if isinstance(column, Tensor) else _list(data, name)
    else:
        values = [row.get(name) for row in _described(data)]
    try:
        return torch.tensor([float(value) for value in values])
    except (TypeError, ValueError):
        raise InputError(
            f"no row of verl's batch has a number {name!r}: let the reward function return a "
            f'dictionary with "score" and "{name}", or put it into `extra_info` of the dataset'
        ) from None


def _described(data: Any) -> Iterator[dict[str, Any]]:
    """The extra fields of each row: those of the dataset and those of the reward function."""
    extra = _list(data, "extra_fields") if "extra_fields" in data else [{}] * len(data)
    dataset = _list(data, "extra_info") if "extra_info" in data else [{}] * len(data)
    for fields, info in zip(extra, dataset, strict=True):
        yield {**(info or {}), **(fields or {}).get("reward_extra_info", {})}


def _truncated(model_config: Any, data: Any) -> Tensor:
    """`[n]`, which responses do not end with a token that ends one."""
    responses = data["responses"]
    if responses.is_nested:
        lengths = responses.offsets().diff()
    else:
        lengths = data["attention_mask"][:, -responses.shape[1] :].sum(1)
    last = _padded(responses).gather(1, (lengths - 1)[:, None]).squeeze(1)
    ends = {model_config.tokenizer.eos_token_id}
    also = getattr(model_config.generation_config, "eos_token_id", None)
    ends.update(also if isinstance(also, list) else [also])
    return ~torch.isin(last, torch.tensor([end for end in ends if end is not None]))


def _current(engine: Any, data: Any) -> Tensor:
    """`[n, T]`, the log-probabilities of the policy before the step."""
    rows = data.clone(recurse=False)
    tensordict_utils.assign_non_tensor(rows, calculate_entropy=False)
    output = engine.infer_batch(rows, loss_function=None)["model_output"]
    log_pi: Tensor = no_padding_2_padding(output["log_probs"], data)
    return log_pi


def _list(data: Any, name: str) -> list[Any]:
    """Data that are no tensor, of each row."""
    return [tensordict_utils.unwrap_non_tensor_data(value) for value in data[name]]


def _padded(x: Tensor) -> Tensor:
    return x.to_padded_tensor(0) if x.is_nested else x


def _device(group: ProcessGroup | None) -> Any:
    """Where the ranks of a group prepare: on the CPU, where there is room, if they can talk."""
    if group is None or "cpu:" in str(dist.get_backend_config(group)):
        return "cpu"
    return get_device_id()


def _moved(step: Step, device: torch.device) -> Step:
    """Some rows of a step on another device."""

    def there(tensors: Mapping[str, Any]) -> dict[str, Any]:
        return {k: x.to(device) if isinstance(x, Tensor) else x for k, x in tensors.items()}

    return replace(
        step,
        lengths=step.lengths.to(device),
        mask=step.mask.to(device),
        tokens=there(step.tokens),
        responses=there(step.responses),
        scalars=there(step.scalars),
        environment=there(step.environment),
        origin=None,
    )
