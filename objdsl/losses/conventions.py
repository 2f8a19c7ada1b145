"""The signatures that losses have in other frameworks: how a function is called with a step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

from torch import Tensor

from objdsl.frozen import dataclass
from objdsl.ir.columns import LogProbs
from objdsl.losses.batch import ADVANTAGE, Batch

PI, OLD, MU, REF = (LogProbs(policy).name for policy in ("pi", "old", "mu", "ref"))

# Settings of a trainer, or keyword arguments of the function.
Settings = Mapping[str, Any]


@dataclass(frozen=True)
class Convention:
    """How a framework calls a loss.

    Attributes:
        doc: what the function is given.
        reads: the columns that every such loss is given.
        equal: columns that are the same in this framework.
        call: calls a function with the rows of a step.
    """

    doc: str
    reads: tuple[str, ...]
    equal: tuple[tuple[str, str], ...]
    call: Callable[[Callable[..., Any], Batch, Settings, frozenset[str]], Any]


def _torch(
    function: Callable[..., Any], batch: Batch, settings: Settings, names: frozenset[str]
) -> Any:
    everything = {"mask": batch.mask, "prompt": batch.prompt, "lengths": batch.lengths}
    given = everything | dict(batch.columns) | {"advantages": batch.columns.get(ADVANTAGE)}
    return function(**{name: given[name] for name in names if name in given}, **settings)


def _verl(
    function: Callable[..., Any], batch: Batch, settings: Settings, names: frozenset[str]
) -> Any:
    arguments = {name: x for name, x in settings.items() if name in names}
    given = {
        "old_log_prob": batch.columns[OLD],
        "log_prob": batch.columns[PI],
        "advantages": batch.columns[ADVANTAGE],
        "response_mask": batch.mask.to(batch.columns[PI].dtype),
        "loss_agg_mode": "token-mean",
        "config": _actor({k: x for k, x in settings.items() if k not in arguments}),
        "rollout_is_weights": None,
    }
    return function(**{name: x for name, x in given.items() if name in names} | arguments)


class _Actor(SimpleNamespace):
    """The settings of verl's actor that losses read, where verl is not installed."""

    def get(self, name: str, default: Any = None) -> Any:
        return getattr(self, name, default)


def _actor(settings: Settings) -> Any:
    try:
        from verl.workers.config import ActorConfig
    except ImportError:
        defaults: dict[str, Any] = {
            "clip_ratio": 0.2, "clip_ratio_low": 0.2, "clip_ratio_high": 0.2, "clip_ratio_c": 3.0,
            "loss_scale_factor": None, "global_batch_info": {}, "policy_loss": _Actor(),
        }  # fmt: skip
        return _Actor(**defaults | dict(settings))
    required = {"strategy": "fsdp", "rollout_n": 1, "ppo_micro_batch_size_per_gpu": 1}
    return ActorConfig(**required | dict(settings))


def _trl(
    function: Callable[..., Any], batch: Batch, settings: Settings, names: frozenset[str]
) -> Any:
    columns, advantages = dict(batch.columns), batch.columns[ADVANTAGE]
    first = advantages[:, :1]
    of_responses = bool(((advantages == first) | ~batch.mask).all())
    inputs: dict[str, Any] = {
        name: x for name, x in columns.items() if name not in (PI, OLD, MU, REF, ADVANTAGE)
    }
    inputs |= {
        "advantages": first.squeeze(1) if of_responses else advantages,
        "completion_mask": batch.mask.long(),
        "num_items_in_batch": batch.mask.sum(),
    }
    trl_names = {
        PI: "per_token_logps", OLD: "old_per_token_logps", REF: "ref_per_token_logps",
        MU: "sampling_per_token_logps", "reward": "rewards",
    }  # fmt: skip
    inputs |= {name: columns[column] for column, name in trl_names.items() if column in columns}
    return function(inputs, **settings)


@dataclass(frozen=True, eq=False)
class TensorData:
    """What Tinker's `loss_fn_inputs` hold."""

    tensor: Tensor

    def to_torch(self) -> Tensor:
        return self.tensor

    def tolist(self) -> Any:
        return self.tensor.tolist()

    @property
    def data(self) -> Any:
        return self.tensor.flatten().tolist()

    @property
    def shape(self) -> list[int]:
        return list(self.tensor.shape)


@dataclass(frozen=True, eq=False)
class Datum:
    """A response, as Tinker passes it to a loss."""

    loss_fn_inputs: dict[str, TensorData]


def _tinker(
    function: Callable[..., Any], batch: Batch, settings: Settings, names: frozenset[str]
) -> Any:
    data, logprobs = [], []
    for row, length in enumerate(batch.lengths.tolist()):
        cut = {
            name: x[row, :length] if x.dim() > 1 else x[row] if x.dim() else x
            for name, x in batch.columns.items()
        }
        logprobs.append(cut.pop(PI))
        inputs = {name: x for name, x in cut.items() if name not in (OLD, MU, ADVANTAGE)}
        inputs |= {
            "mask": batch.mask[row, :length].to(logprobs[-1].dtype),
            "advantages": cut[ADVANTAGE],
            "logprobs": cut[OLD],
            "prompt": batch.prompt[row],
        }
        data.append(Datum({name: TensorData(x) for name, x in inputs.items()}))
    return function(data, logprobs, **settings)


CONVENTIONS: dict[str, Convention] = {
    "torch": Convention(
        "keyword parameters named like columns (`log_pi`, `log_old`, `reward`, ..., and `mask`, "
        "`lengths`, `prompt`, `advantages`); it gets those that it names, and returns a scalar",
        (), (), _torch,
    ),
    "verl": Convention(
        "verl's policy losses: `(old_log_prob, log_prob, advantages, response_mask, loss_agg_mode, "
        "config, rollout_is_weights)`; returns a scalar, or a tuple that starts with it",
        (PI, OLD, ADVANTAGE), (), _verl,
    ),
    "trl": Convention(
        "a dict of TRL's inputs: `per_token_logps`, `old_per_token_logps`, `ref_per_token_logps`, "
        "`sampling_per_token_logps`, `advantages`, `rewards`, `completion_mask`, "
        "`num_items_in_batch` (of the whole batch that it is called with); returns a scalar",
        (PI, OLD, REF, MU, "reward", ADVANTAGE), (), _trl,
    ),
    "tinker": Convention(
        "`forward_backward_custom`'s `(data, logprobs)`: lists of a datum and of the log-probs of "
        "each response; `loss_fn_inputs` has `mask`, `advantages` and the sampler's `logprobs`; "
        "returns a scalar, or a tuple that starts with it",
        (PI, OLD, ADVANTAGE), ((OLD, MU),), _tinker,
    ),
}  # fmt: skip
