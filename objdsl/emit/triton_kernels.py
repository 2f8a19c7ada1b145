"""What is done to logits, as Triton: a program for each token, which sweeps over its words.

Emitted code carries a copy of those that it uses, so that it stands on its own. Throughout,

    z            points to the first of the products `hidden @ weight.T` of a token, wide
    bias         to that of the first word, or None
    kept         to whether the sampler kept the first word at this token, or None
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
    """The logits of the words `v`, -inf where there are none, and their slopes by the products."""
    there = v < V
    x = tl.load(z + v, mask=there, other=0.0)
    slope = tl.full(x.shape, 1.0, x.dtype)
    if bias is not None:
        x += tl.load(bias + v, mask=there, other=0.0).to(x.dtype)
    if softcap is not None:
        cap = tl.load(softcap)
        x = tanh(divided(x, cap))
        slope = 1 - x * x
        x = cap * x
    if temperature is not None:
        heat = tl.load(temperature)
        x = divided(x, heat)
        slope = slope / heat
    if kept is not None:
        there = there & (tl.load(kept + v, mask=there, other=0) != 0)
    return tl.where(there, x, -float("inf")), slope


@triton.jit
def log_sum_exp(z, bias, kept, softcap, temperature, V, BLOCK: tl.constexpr):
    """`log sum_v exp z_v`. Each product is read once; no sum is larger than V."""
    most = tl.full((), -float("inf"), z.dtype.element_ty)
    total = tl.zeros((BLOCK,), z.dtype.element_ty)
    for start in range(0, V, BLOCK):
        x, _ = logits(z, bias, kept, softcap, temperature, start + tl.arange(0, BLOCK), V)
        higher = tl.maximum(most, tl.max(x, 0))
        level = tl.where(higher == -float("inf"), 0.0, higher)  # none of these words was kept
        total = total * tl.exp(most - level) + tl.exp(x - level)
        most = higher
    return most + tl.log(tl.sum(total, 0))


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
    d, z, bias, kept, softcap, temperature, target, lse, w, V, BLOCK: tl.constexpr
):  # fmt: skip
    """`d_v = w ([v = target] - p_v)`, by the products. `d` may be narrower, and lie where `z` does:
    of each block, all is read before any is written."""
    w = w.to(z.dtype.element_ty)
    for start in range(0, V, BLOCK):
        v = start + tl.arange(0, BLOCK)
        x, slope = logits(z, bias, kept, softcap, temperature, v, V)
        by_logit = w * (tl.where(v == target, 1.0, 0.0) - tl.exp(x - lse))
        tl.debug_barrier()
        tl.store(d + v, (by_logit * slope).to(d.dtype.element_ty), mask=v < V)


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
    """A token of a chunk: its log-probability, its log-sum-exp and, unless None, its entropy.

    `z [C, V]` are the products of the tokens `rows [C]`, whose words are `target [C]`; the results
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
        spread = entropy_of(z, bias, kept, softcap, temperature, total, V, BLOCK)
        tl.store(entropy + c, spread)


@triton.jit
def gradient(
    z, d, rows, target, lse, w, first,
    bias, kept, softcap, temperature, stride, d_stride, kept_stride, V, BLOCK: tl.constexpr,
):  # fmt: skip
    """A token of a chunk: the gradient by its products.

    `z [C, S]` are those of the words from `first` on, as are `bias` and `kept`; `d [C, S]` is the
    result; log-sum-exps and weights are `[C]`.
    """
    c = tl.program_id(0).to(tl.int64)
    z += c * stride
    if kept is not None:
        kept += tl.load(rows + c) * kept_stride
    write_gradient(
        d + c * d_stride, z, bias, kept, softcap, temperature,
        tl.load(target + c) - first, tl.load(lse + c), tl.load(w + c), V, BLOCK,
    )  # fmt: skip
