"""Log-probabilities alone."""

from __future__ import annotations

import torch
from torch import Tensor

from objdsl.fused.head import Head, Precision, chunks
from objdsl.fused.kernels import TORCH, Kernels, Name, choose


def log_probs(
    hidden: Tensor,
    weight: Tensor,
    tokens: Tensor,
    *,
    bias: Tensor | None = None,
    temperature: float = 1.0,
    softcap: float | None = None,
    kept: Tensor | None = None,
    entropy: bool = False,
    chunk: int = 2048,
    kernels: Name | None = None,
    precision: Precision = "inputs",
) -> tuple[Tensor, Tensor | None]:
    """Log-probabilities of tokens without a gradient, for `old`, `ref` and metrics: one matmul.

    Args:
        hidden: `[..., H]`, what the head is applied to.
        weight: `[V, H]`.
        tokens: `[...]`, the ids that were sampled.
        entropy: whether to compute that of the distribution at each token, too.
        chunk: tokens whose logits are held at a time.
        kernels, precision: as `Objective.fused` takes them.

    Returns:
        The log-probabilities `[...]`, float32 or float64, and the entropies or None.
    """
    head = Head.under(
        hidden, weight, bias=bias, temperature=temperature, softcap=softcap, kept=kept,
        precision=precision,
    )  # fmt: skip
    flat, target = hidden.flatten(0, -2), tokens.flatten()
    out = torch.empty(len(flat), dtype=head.acc_dtype, device=flat.device)
    entropies = torch.empty_like(out) if entropy else None
    implementation = _kernels(choose(kernels, weight.device))
    with torch.no_grad():
        for rows in chunks(torch.arange(len(flat), device=flat.device), chunk):
            z = head.raw_logits(flat[rows])
            scores = implementation.score(head, z, rows, target[rows], entropy=entropy)
            out[rows] = scores.log_pi
            if entropies is not None and scores.entropy is not None:
                entropies[rows] = scores.entropy
            del z  # before the next chunk takes as much
    return out.view(tokens.shape), None if entropies is None else entropies.view(tokens.shape)


def _kernels(name: Name) -> Kernels:
    if name == "torch":
        return TORCH
    from objdsl.fused.triton import TritonKernels

    return TritonKernels()
