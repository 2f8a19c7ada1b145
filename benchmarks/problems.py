"""The problems of the head's benchmark: objectives, random steps, and their exact gradients.

A step is a model's last hidden states, its head and tokens sampled from them; the distributions are
as peaked as those of language models. All contestants get the same advantages.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

import objdsl
from objdsl.objective import Objective
from objdsl.step import Step

CASES = ("dense", "50 % padded", "25 % zero advantage")
_GROUP = 2
_PEAKED = 4.0  # the standard deviation of logits

_DAPO = """
objective dapo
param eps_low = 0.2 in (0, 1)
param eps_high = 0.28 in (0, inf)
given A[p,i]
r = pi / old
report clip_fraction = mean[p,i,t] (r < 1 - eps_low or r > 1 + eps_high)
maximize mean[p,i,t] surrogate(r, A, 1 - eps_low, 1 + eps_high)
"""

_DAPO_ENTROPY = """
objective dapo_entropy
param eps_low = 0.2 in (0, 1)
param eps_high = 0.28 in (0, inf)
param bonus = 0.01 in [0, inf)
given A[p,i]
r = pi / old
report clip_fraction = mean[p,i,t] (r < 1 - eps_low or r > 1 + eps_high)
maximize mean[p,i,t] (surrogate(r, A, 1 - eps_low, 1 + eps_high) + bonus * entropy)
"""


@dataclass(frozen=True)
class Task:
    """An objective, and its equivalents for peers.

    Attributes:
        text: the objective.
        cases: the kinds of data that it is measured on.
        bonus: the weight of the mean entropy, which peers add to the loss of `without_entropy`.
        liger: options with which `LigerFusedLinearGRPOLoss` computes the same; None if there are
            none.
        cross_entropy: whether it is the mean log-likelihood and nothing else.
        on_policy: whether the policy that sampled is the one that is trained.
    """

    text: str
    cases: tuple[str, ...] = CASES
    bonus: float = 0.0
    without_entropy: str | None = None
    liger: Mapping[str, Any] | None = None
    cross_entropy: bool = False
    on_policy: bool = False


TASKS = {
    "dapo": Task(
        _DAPO, liger={"loss_type": "dapo", "epsilon_low": 0.2, "epsilon_high": 0.28, "beta": 0.0}
    ),
    "gspo": Task(
        "objective gspo_ from gspo\ngiven A[p,i]\n",
        liger={
            "loss_type": "grpo",
            "importance_sampling_level": "sequence",
            "epsilon_low": 3e-4,
            "epsilon_high": 4e-4,
            "beta": 0.0,
        },
    ),
    "grpo + k3": Task(
        "objective grpo_ from grpo\ngiven A[p,i]\n", liger={"loss_type": "grpo", "beta": 0.04}
    ),
    "dapo + entropy": Task(_DAPO_ENTROPY, bonus=0.01, without_entropy=_DAPO),
    "clip_cov": Task("objective clip_cov_ from clip_cov\ngiven A[p,i]\nparam fraction = 0.01\n"),
    "grpo + k3, on policy": Task(
        "objective grpo_ from grpo\ngiven A[p,i]\nr = pi / sg(pi)\n",
        cases=CASES[:1],
        liger={"loss_type": "grpo", "beta": 0.04},
        on_policy=True,
    ),
    "cross-entropy": Task(
        "objective cross_entropy\nmaximize mean[p,i,t] log(pi)\n",
        cases=CASES[:1],
        cross_entropy=True,
    ),
}


@dataclass(frozen=True)
class Shape:
    """`rows` responses of `length` tokens, the size of a hidden state and of the vocabulary."""

    rows: int
    length: int
    hidden: int
    vocabulary: int

    @property
    def tokens(self) -> int:
        return self.rows * self.length

    def __str__(self) -> str:
        return f"N={self.tokens} H={self.hidden} V={self.vocabulary}"


@dataclass(frozen=True, eq=False)
class Model:
    """Hidden states `[N, T, H]`, a head `[V, H]`, tokens `[N, T]`, and exact values for them.

    Attributes:
        log_pi, entropy: `[N, T]`, float64.
    """

    hidden: Tensor
    weight: Tensor
    tokens: Tensor
    log_pi: Tensor = field(repr=False)
    entropy: Tensor = field(repr=False)

    @classmethod
    def random(cls, shape: Shape, dtype: torch.dtype, device: str) -> Model:
        torch.manual_seed(0)
        hidden = torch.randn(shape.rows, shape.length, shape.hidden, device=device).to(dtype)
        weight = torch.randn(shape.vocabulary, shape.hidden, device=device)
        weight = (_PEAKED / shape.hidden**0.5 * weight).to(dtype)
        exact, chunks = weight.double(), []
        for chunk in _chunks(hidden.flatten(0, 1), shape.vocabulary):
            log_p = (chunk.double() @ exact.T).log_softmax(-1)
            p = log_p.exp()
            tokens = torch.multinomial(p.float(), 1)
            chunks.append((tokens, log_p.gather(-1, tokens), -(p * log_p).sum(-1, keepdim=True)))
        columns = (torch.cat(parts).view(shape.rows, -1) for parts in zip(*chunks, strict=True))
        return cls(hidden, weight, *columns)


@dataclass(frozen=True, eq=False)
class Gradients:
    """The value of a loss, and its gradients `[N, T, H]` and `[V, H]`."""

    value: Tensor
    hidden: Tensor
    weight: Tensor


@dataclass(frozen=True, eq=False)
class Problem:
    """A task over a step.

    Attributes:
        mask: `[N, T]`.
        A: `[N]`, float32.
        log_old, log_ref: `[N, T]`, float32.
        noise: `[N, T]`, float32, with which an objective chooses tokens at random.
    """

    task: Task
    model: Model
    mask: Tensor
    A: Tensor
    log_old: Tensor
    log_ref: Tensor
    noise: Tensor

    @classmethod
    def random(cls, task: Task, case: str, model: Model) -> Problem:
        rows, length = model.tokens.shape
        device = model.log_pi.device
        torch.manual_seed(1)
        lengths = torch.full((rows,), length)
        if case == "50 % padded":
            lengths = (2 * torch.arange(rows) + 1) * length // (2 * rows)
            lengths = lengths[torch.randperm(rows)].clamp(min=1)
        reward = (torch.arange(rows) % _GROUP == 0).float()
        if case == "25 % zero advantage":
            reward[: rows // 4] = 1.0
        groups = reward.view(-1, _GROUP)
        std = groups.std(1, keepdim=True) + 1e-4
        advantages = ((groups - groups.mean(1, keepdim=True)) / std).flatten()
        noise = 0.1 * torch.randn(2, rows, length, dtype=torch.float64)
        old, ref = (model.log_pi + x.to(device) for x in noise)
        choice = torch.rand(rows, length)
        mask = torch.arange(length) < lengths[:, None]
        return cls(
            task, model, mask.to(device), advantages.to(device), old.float(), ref.float(),
            choice.to(device),
        )  # fmt: skip

    # --- the objective ---------------------------------------------------------------------------

    @cached_property
    def objective(self) -> Objective:
        return objdsl.loads(self.task.text)

    @cached_property
    def of_log_probs(self) -> Objective:
        """The same without the terms that need the whole distribution."""
        return objdsl.loads(self.task.without_entropy or self.task.text)

    @cached_property
    def step(self) -> Step:
        return self._prepared(self.objective, packed=False, dtype=torch.float32)

    @cached_property
    def _steps(self) -> dict[bool, Step]:
        return {
            packed: self._prepared(self.of_log_probs, packed=packed, dtype=torch.float32)
            for packed in (False, True)
        }

    def _prepared(self, objective: Objective, *, packed: bool, dtype: torch.dtype) -> Step:
        columns = {"log_old": self.log_old, "log_ref": self.log_ref, "noise": self.noise}
        if packed:
            columns = {name: x[self.mask] for name, x in columns.items()}
            columns["lengths"] = self.mask.sum(-1)
        else:
            columns["mask"] = self.mask
        if "A" in objective.columns:
            columns["A"] = self.A
        return objective.prepare(
            **columns,
            prompt=torch.arange(len(self.A), device=self.A.device) // _GROUP,
            dtype=dtype,
        )

    def packed(self, x: Tensor) -> Tensor:
        """`[N, T, ...]` -> `[M, ...]`: only the tokens that are not padding."""
        return x[self.mask]

    def loss(self, log_pi: Tensor, entropy: Tensor | None, *, packed: bool = False) -> Tensor:
        """The loss of a peer's log-probabilities and entropies, `[N, T]` or packed `[M]`."""
        loss = self.of_log_probs(log_pi.float(), self._steps[packed]).loss
        return self._with_bonus(loss, entropy, packed)

    def _with_bonus(self, loss: Tensor, entropy: Tensor | None, packed: bool) -> Tensor:
        if not self.task.bonus:
            return loss
        assert entropy is not None
        entropy = entropy if packed else torch.where(self.mask, entropy, 0)
        return loss - self.task.bonus * (entropy.sum() / self.mask.sum())

    # --- the exact gradients ---------------------------------------------------------------------

    def exact(self) -> Gradients:
        """Value and gradients in float64, by autograd through logits, a chunk of tokens at a
        time."""
        model = self.model
        log_pi = model.log_pi.clone().requires_grad_()
        entropy = model.entropy.clone().requires_grad_()
        step = self._prepared(self.of_log_probs, packed=False, dtype=torch.float64)
        loss = self._with_bonus(self.of_log_probs(log_pi, step).loss, entropy, packed=False)
        loss.backward()
        grad_entropy = torch.zeros_like(entropy) if entropy.grad is None else entropy.grad
        grads = torch.stack([log_pi.grad, grad_entropy]).flatten(1)
        weight = model.weight.double()
        grad_hidden, grad_weight, start = [], torch.zeros_like(weight), 0
        for chunk in _chunks(model.hidden.flatten(0, 1), len(weight)):
            states, rows = chunk.double(), slice(start, start := start + len(chunk))
            z = (states @ weight.T).requires_grad_()
            log_p = z.log_softmax(-1)
            sampled = log_p.gather(-1, model.tokens.flatten()[rows, None]).squeeze(-1)
            entropies = -(log_p.exp() * log_p).sum(-1)
            (grad_logits,) = torch.autograd.grad([sampled, entropies], z, list(grads[:, rows]))
            grad_hidden.append(grad_logits @ weight)
            grad_weight += grad_logits.T @ states
        gradient = torch.cat(grad_hidden).view(model.hidden.shape)
        return Gradients(loss.detach(), gradient, grad_weight)


def _chunks(hidden: Tensor, vocabulary: int) -> tuple[Tensor, ...]:
    """Chunks of tokens whose float64 logits take a quarter of a GiB."""
    return hidden.split(max(1, (1 << 28) // (8 * vocabulary)))


Forward = Callable[[Tensor, Tensor], tuple[Tensor, Tensor | None]]
