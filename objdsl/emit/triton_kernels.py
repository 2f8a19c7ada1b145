"""Kernels over logits in Triton: a program for each token, which sweeps over the vocabulary.

Emitted code carries a copy of those that it uses, and needs no import of this package. Throughout,

    z            points to the first raw logit `hidden @ weight.T` of a token, in high precision
    bias         to that of the first vocabulary entry, or None
    kept         to whether the sampler kept the first entry at this token, or None
    softcap      to one number, or None; and so
    temperature

What is None when a kernel is compiled is not there at all. Offsets between tokens are 64 bits wide:
a chunk of 16 000 tokens has more than 2^31 logits.
"""

# mypy: allow-untyped-defs, allow-untyped-decorators, allow-incomplete-defs
from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def divided(a, b):
    """`a / b`, rounded once. On a GPU, the sign alone may be two units off in float32, which is as
    much as log-probabilities may be wrong where logits are large."""
    if a.dtype == tl.float32:
        return tl.div_rn(a, b)
    else:
        return a / b


@triton.jit
def tanh(x):
    """The hyperbolic tangent."""
    small = tl.exp(-2 * tl.abs(x))
    size = divided(1 - small, 1 + small)
    return tl.where(x < 0, -size, size)


@triton.jit
def logits(z, bias, kept, softcap, temperature, v, V):
    """Logits `v`, -inf where there are none, and their derivatives by the raw logits."""
    valid = v < V
    x = tl.load(z + v, mask=valid, other=0.0)
    softcap_grad = tl.full(x.shape, 1.0, x.dtype)
    if bias is not None:
        x += tl.load(bias + v, mask=valid, other=0.0).to(x.dtype)
    if softcap is not None:
        cap = tl.load(softcap)
        x = tanh(divided(x, cap))
        softcap_grad = 1 - x * x
        x = cap * x
    if temperature is not None:
        temp = tl.load(temperature)
        x = divided(x, temp)
        softcap_grad = softcap_grad / temp
    if kept is not None:
        valid = valid & (tl.load(kept + v, mask=valid, other=0) != 0)
    return tl.where(valid, x, -float("inf")), softcap_grad


@triton.jit
def log_sum_exp(z, bias, kept, softcap, temperature, V, BLOCK: tl.constexpr):
    """`log sum_v exp z_v`. Each logit is read once; no sum is larger than V."""
    running_max = tl.full((), -float("inf"), z.dtype.element_ty)
    total = tl.zeros((BLOCK,), z.dtype.element_ty)
    for start in range(0, V, BLOCK):
        x, _ = logits(z, bias, kept, softcap, temperature, start + tl.arange(0, BLOCK), V)
        new_max = tl.maximum(running_max, tl.max(x, 0))
        level = tl.where(new_max == -float("inf"), 0.0, new_max)  # the sampler kept none of these
        total = total * tl.exp(running_max - level) + tl.exp(x - level)
        running_max = new_max
    return running_max + tl.log(tl.sum(total, 0))


@triton.jit
def entropy_of(z, bias, kept, softcap, temperature, lse, V, BLOCK: tl.constexpr):
    """`- sum_v p_v log p_v`, from the log-sum-exp."""
    total = tl.zeros((BLOCK,), z.dtype.element_ty)
    for start in range(0, V, BLOCK):
        x, _ = logits(z, bias, kept, softcap, temperature, start + tl.arange(0, BLOCK), V)
        p = tl.exp(x - lse)
        total += p * tl.where(p > 0, lse - x, 0.0)
    return tl.sum(total, 0)


@triton.jit
def write_gradient(
    grad, z, bias, kept, softcap, temperature, target, lse, w, V, BLOCK: tl.constexpr
):  # fmt: skip
    """`d_v = w ([v = target] - p_v)`, by the raw logits. `grad` may have a lower precision,
    and be the memory of `z`: each block is read before it is written."""
    w = w.to(z.dtype.element_ty)
    for start in range(0, V, BLOCK):
        v = start + tl.arange(0, BLOCK)
        x, softcap_grad = logits(z, bias, kept, softcap, temperature, v, V)
        grad_logit = w * (tl.where(v == target, 1.0, 0.0) - tl.exp(x - lse))
        tl.debug_barrier()
        tl.store(grad + v, (grad_logit * softcap_grad).to(grad.dtype.element_ty), mask=v < V)


@triton.jit
def log1p(x):
    """`log(1 + x)`, exact where x is near 0."""
    near = 1 + x
    return tl.where(near == 1, x, tl.log(near) * (x / tl.where(near == 1, 1.0, near - 1)))


@triton.jit
def log_sigmoid(x):
    """`log sigmoid(x)`, exact where that is near 0."""
    return tl.minimum(x, 0.0) - log1p(tl.exp(-tl.abs(x)))


@triton.jit
def softplus(x):
    """`log(1 + exp(x))`, exact where that is near 0."""
    return tl.maximum(x, 0.0) + log1p(tl.exp(-tl.abs(x)))


# --- kernels that know no objective --------------------------------------------------------------


@triton.jit
def score(
    z, rows, target, log_pi, lse, entropy,
    bias, kept, softcap, temperature, stride, kept_stride, V, BLOCK: tl.constexpr,
):  # fmt: skip
    """Log-probability, log-sum-exp and, unless None, entropy at a token of a chunk.

    `z [C, V]` are the raw logits of the tokens `rows [C]`, whose ids are `target [C]`; the results
    are `[C]`.
    """
    c = tl.program_id(0).to(tl.int64)
    z += c * stride
    if kept is not None:
        kept += tl.load(rows + c) * kept_stride
    total = log_sum_exp(z, bias, kept, softcap, temperature, V, BLOCK)
    x, _ = logits(z, bias, kept, softcap, temperature, tl.load(target + c), V)
    tl.store(log_pi + c, x - total)
    tl.store(lse + c, total)
    if entropy is not None:
        total_entropy = entropy_of(z, bias, kept, softcap, temperature, total, V, BLOCK)
        tl.store(entropy + c, total_entropy)


@triton.jit
def gradient(
    z, grad, rows, target, lse, w, first,
    bias, kept, softcap, temperature, stride, grad_stride, kept_stride, V, BLOCK: tl.constexpr,
):  # fmt: skip
    """The gradient by the raw logits of a token of a chunk.

    `z [C, S]` are a slice of the vocabulary, from `first` on, as are `bias` and `kept`; the result
    is `grad [C, S]`; log-sum-exps and weights are `[C]`.
    """
    c = tl.program_id(0).to(tl.int64)
    z += c * stride
    if kept is not None:
        kept += tl.load(rows + c) * kept_stride
    write_gradient(
        grad + c * grad_stride, z, bias, kept, softcap, temperature,
        tl.load(target + c) - first, tl.load(lse + c), tl.load(w + c), V, BLOCK,
    )  # fmt: skip
