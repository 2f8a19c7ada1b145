"""The contestants: each peer's own code, as installed; no part of it is reimplemented here.

A contestant turns a problem into a function from hidden states and head to a loss; some also return
the log-probabilities. Peers that compute only log-probabilities are followed by objdsl's objective.
Each gets padding in the form that its own trainer passes it: a mask, the label -100, or rows packed
beforehand. If a peer cannot compute an objective, the reason is reported.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from types import SimpleNamespace
from typing import Any

import torch
from problems import Forward, Problem
from torch import Tensor

_IGNORED = -100  # the label of padding

# hidden, weight, tokens, mask, whether entropies are wanted -> log-probabilities, entropies
LogProbs = Callable[[Tensor, Tensor, Tensor, Tensor, bool], tuple[Tensor, Tensor | None]]


class Unable(Exception):
    """The reason why a contestant does not compute an objective."""


@dataclass(frozen=True)
class Contestant:
    """An implementation of a loss.

    Attributes:
        make: makes the function that is measured for a problem. Raises Unable or ImportError.
        package: the package whose version is reported.
        packed: whether it takes tokens without padding, `[M, H]`.
        gpu: whether it needs a GPU.
        opaque: whether its products are in compiled graphs or kernels, where they are not counted.
    """

    make: Callable[[Problem], Forward]
    package: str
    packed: bool = False
    gpu: bool = False
    opaque: bool = False


def by_log_probs(
    make: Callable[[], LogProbs], *, packed: bool = False, entropy: bool = True
) -> Callable[[Problem], Forward]:
    """A peer that computes log-probabilities, followed by the objective."""

    def prepared(problem: Problem) -> Forward:
        if problem.task.bonus and not entropy:
            raise Unable("it has no entropy with a gradient")
        log_probs = make()
        tokens, mask = problem.model.tokens, problem.mask
        if packed:
            tokens, mask = problem.packed(tokens), problem.packed(mask)

        def forward(hidden: Tensor, weight: Tensor) -> tuple[Tensor, Tensor | None]:
            wanted = bool(problem.task.bonus)
            log_pi, entropies = log_probs(hidden, weight, tokens, mask, wanted)
            return problem.loss(log_pi, entropies, packed=packed), log_pi

        return forward

    return prepared


# --- objdsl --------------------------------------------------------------------------------------


def objdsl(budget: int | None = None, kernels: str | None = None) -> Contestant:
    """objdsl with a memory budget in bytes and, on a GPU, a choice of kernels."""

    def make(problem: Problem) -> Forward:
        objective, step = problem.objective, problem.step
        options: dict[str, Any] = {} if budget is None else {"budget": budget}
        options |= {} if kernels is None else {"kernels": kernels}

        def forward(hidden: Tensor, weight: Tensor) -> tuple[Tensor, Tensor | None]:
            out = objective.fused(hidden, weight, problem.model.tokens, step, **options)
            return out.loss, out.log_pi

        return forward

    return Contestant(make, "objdsl", gpu=kernels is not None)


# --- logits --------------------------------------------------------------------------------------


def _plain(
    hidden: Tensor, weight: Tensor, tokens: Tensor, mask: Tensor, entropy: bool
) -> tuple[Tensor, Tensor | None]:
    """The straightforward code; in float32 from the logits on, as in model code."""
    log_p = (hidden @ weight.T).float().log_softmax(-1)
    log_pi = log_p.gather(-1, tokens[..., None]).squeeze(-1)
    return log_pi, -(log_p.exp() * log_p).sum(-1) if entropy else None


def _compiled() -> LogProbs:
    return torch.compile(_plain, dynamic=False)


def _trl_selective() -> LogProbs:
    from trl.trainer.utils import selective_log_softmax, selective_log_softmax_and_entropy

    def log_probs(
        hidden: Tensor, weight: Tensor, tokens: Tensor, mask: Tensor, entropy: bool
    ) -> tuple[Tensor, Tensor | None]:
        logits = hidden @ weight.T
        if entropy:
            return selective_log_softmax_and_entropy(logits, tokens)
        return selective_log_softmax(logits, tokens), None

    return log_probs


# --- no logits at once ---------------------------------------------------------------------------


class _LastLayer:
    """The parts of a model that TRL's fused head reads: hidden states and a head."""

    base_model = staticmethod(lambda hidden, **_: SimpleNamespace(last_hidden_state=hidden))
    config = SimpleNamespace(get_text_config=SimpleNamespace)
    head: SimpleNamespace

    def get_output_embeddings(self) -> SimpleNamespace:
        return self.head

    def forward(self) -> None: ...


def _trl_head() -> LogProbs:
    from trl.trainer.utils import add_fused_lm_head

    models = {}
    for outputs in (("log_probs",), ("log_probs", "entropy")):
        models[outputs] = _LastLayer()
        add_fused_lm_head(models[outputs], outputs=outputs)

    def log_probs(
        hidden: Tensor, weight: Tensor, tokens: Tensor, mask: Tensor, entropy: bool
    ) -> tuple[Tensor, Tensor | None]:
        model = models["log_probs", "entropy"] if entropy else models["log_probs",]
        model.head = SimpleNamespace(weight=weight, bias=None)
        labels = tokens.masked_fill(~mask, _IGNORED)
        out = model.forward(hidden, shift_labels=labels, fused_lm_head=True)
        return out.log_probs, out.entropy

    return log_probs


def _verl(backend: str) -> Callable[[], LogProbs]:
    def make() -> LogProbs:
        from verl.utils.experimental.torch_functional import FusedLinearForPPO

        if backend == "liger":
            # Without it, verl would silently use its own code.
            from liger_kernel.ops import (  # noqa: F401
                LigerFusedLinearScaledCrossEntropyFunction,
            )
        head = FusedLinearForPPO(impl_backend=backend)

        def log_probs(
            hidden: Tensor, weight: Tensor, tokens: Tensor, mask: Tensor, entropy: bool
        ) -> tuple[Tensor, Tensor | None]:
            return head(hidden, weight, tokens)

        return log_probs

    return make


def _verl_triton() -> LogProbs:
    from verl.utils.kernel.linear_cross_entropy import linear_cross_entropy

    def log_probs(
        hidden: Tensor, weight: Tensor, tokens: Tensor, mask: Tensor, entropy: bool
    ) -> tuple[Tensor, Tensor | None]:
        return linear_cross_entropy(hidden, weight, tokens, 1.0, "none")

    return log_probs


# --- log-probabilities from cross-entropies ------------------------------------------------------


def _cross_entropy(make: Callable[[], Callable[..., Tensor]]) -> Callable[[Problem], Forward]:
    """A fused cross-entropy: of the mean directly, or of every token, followed by the objective."""

    def prepared(problem: Problem) -> Forward:
        if problem.task.bonus:
            raise Unable("it has no entropy with a gradient")
        loss_of = make()
        tokens, mask = problem.model.tokens, problem.mask
        labels = tokens.masked_fill(~mask, _IGNORED).flatten()

        def forward(hidden: Tensor, weight: Tensor) -> tuple[Tensor, Tensor | None]:
            flat = hidden.flatten(0, 1)
            if problem.task.cross_entropy:
                return loss_of(flat, weight, labels, reduction="mean"), None
            log_pi = -loss_of(flat, weight, labels, reduction="none").view(tokens.shape)
            return problem.loss(log_pi, None), log_pi

        return forward

    return prepared


def _torch_fused() -> Callable[..., Tensor]:
    try:
        options = torch.nn.LinearCrossEntropyOptions()
    except AttributeError:
        raise Unable(f"torch {torch.__version__} has no fused linear_cross_entropy") from None

    def loss(hidden: Tensor, weight: Tensor, labels: Tensor, *, reduction: str) -> Tensor:
        return torch.nn.functional.linear_cross_entropy(
            hidden, weight, labels, reduction=reduction, options=options
        )

    return loss


def _cce(**options: object) -> Callable[[], Callable[..., Tensor]]:
    def make() -> Callable[..., Tensor]:
        from cut_cross_entropy import linear_cross_entropy

        def loss(hidden: Tensor, weight: Tensor, labels: Tensor, *, reduction: str) -> Tensor:
            return linear_cross_entropy(hidden, weight, labels, reduction=reduction, **options)

        return loss

    return make


def _liger_cross_entropy(problem: Problem) -> Forward:
    from liger_kernel.transformers.functional import liger_fused_linear_cross_entropy

    if not problem.task.cross_entropy:
        raise Unable("cross-entropy alone: its gradient is formed before weights could be known")
    labels = problem.model.tokens.masked_fill(~problem.mask, _IGNORED).flatten()

    def forward(hidden: Tensor, weight: Tensor) -> tuple[Tensor, Tensor | None]:
        return liger_fused_linear_cross_entropy(hidden.flatten(0, 1), weight, labels), None

    return forward


# --- whole losses --------------------------------------------------------------------------------


def _liger(problem: Problem) -> Forward:
    from liger_kernel.chunked_loss import LigerFusedLinearGRPOLoss

    task = problem.task
    if task.liger is None:
        raise Unable("LigerFusedLinearGRPOLoss has no such objective")
    reference = task.liger["beta"] != 0
    loss = LigerFusedLinearGRPOLoss(use_ref_model=reference, **task.liger)
    mask = problem.mask.long()

    def forward(hidden: Tensor, weight: Tensor) -> tuple[Tensor, Tensor | None]:
        value, _ = loss(
            hidden,
            weight,
            problem.model.tokens,
            mask,
            problem.A,
            ref_per_token_logps=problem.log_ref if reference else None,
            old_per_token_logps=None if task.on_policy else problem.log_old,
        )
        return value, None

    return forward


def _in_tf32(make: Callable[[Problem], Forward]) -> Callable[[Problem], Forward]:
    """The same with float32 products in TF32."""

    def prepared(problem: Problem) -> Forward:
        forward = make(problem)

        def faster(hidden: Tensor, weight: Tensor) -> tuple[Tensor, Tensor | None]:
            with _tf32():  # Liger computes the gradients in the forward pass
                return forward(hidden, weight)

        return faster

    return prepared


@contextmanager
def _tf32() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def _torchtune(problem: Problem) -> Forward:
    task = problem.task
    if not task.on_policy:
        raise Unable("on policy alone: LinearGRPOLoss has no old policy and no clipping")
    from torchtune.dev.rl.linear_grpo_loss import LinearGRPOLoss

    loss = LinearGRPOLoss(kl_coeff=0.04)

    def forward(hidden: Tensor, weight: Tensor) -> tuple[Tensor, Tensor | None]:
        loss.linear_projection = lambda h: h @ weight.T
        outputs = loss(hidden, problem.model.tokens, problem.log_ref, problem.A, problem.mask)
        return outputs[0], outputs[-1]

    return forward


_TRITON = {"gpu": True, "opaque": True}

PEERS = {
    "objdsl without Triton": objdsl(kernels="torch"),
    "plain": Contestant(by_log_probs(lambda: _plain), "torch"),
    # On a CPU, "CCE compiled" is the same.
    "plain, compiled": Contestant(by_log_probs(_compiled), "torch", gpu=True, opaque=True),
    "TRL selective": Contestant(by_log_probs(_trl_selective), "trl"),
    "TRL fused head": Contestant(by_log_probs(_trl_head), "trl"),
    "Liger GRPO": Contestant(_liger, "liger_kernel"),
    "Liger GRPO, TF32": Contestant(_in_tf32(_liger), "liger_kernel", gpu=True),
    "Liger FLCE": Contestant(_liger_cross_entropy, "liger_kernel", **_TRITON),
    "verl": Contestant(by_log_probs(_verl("torch"), packed=True), "verl", packed=True),
    "verl Triton": Contestant(
        by_log_probs(_verl_triton, packed=True), "verl", packed=True, **_TRITON
    ),
    "verl by Liger": Contestant(
        by_log_probs(_verl("liger"), packed=True), "verl", packed=True, **_TRITON
    ),
    "torch LCE": Contestant(_cross_entropy(_torch_fused), "torch"),
    "CCE compiled": Contestant(
        _cross_entropy(_cce(impl="torch_compile")), "cut-cross-entropy", opaque=True
    ),
    "CCE": Contestant(_cross_entropy(_cce(impl="cce")), "cut-cross-entropy", **_TRITON),
    "CCE exact": Contestant(
        _cross_entropy(_cce(impl="cce", filter_eps=None)), "cut-cross-entropy", **_TRITON
    ),
    "torchtune": Contestant(_torchtune, "torchtune"),
}


def versions() -> dict[str, str]:
    """The version of every package that is installed."""
    installed = {}
    for package in sorted({"objdsl", "triton", *(peer.package for peer in PEERS.values())}):
        try:
            installed[package] = version(package)
        except PackageNotFoundError:
            continue
    return installed
