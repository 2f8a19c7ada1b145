"""sapo: Soft Adaptive Policy Optimization, arXiv:2511.20347"""

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
def write_gradient(
    d, z, bias, kept, softcap, temperature, target, lse, w, V, BLOCK: tl.constexpr
):
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
def objective(log_pi, A_times_four_over_tau, tau, log_old, divisor):
    """The weight of a token, w = dJ / dlog pi."""
    r = tl.exp(log_pi - log_old)
    sigmoid = tl.sigmoid(tau * (r - 1))
    w = A_times_four_over_tau * sigmoid * (1 - sigmoid) * tau * r / divisor
    return w


@triton.jit
def head(
    z, d, rows, target, log_pi, A_times_four_over_tau, tau, log_old, divisor, bias, kept, softcap,
    temperature, stride, d_stride, kept_stride, V, BLOCK: tl.constexpr,
):
    """A token of a chunk: its log-probability, terms and, unless `d` is None, gradient."""
    c = tl.program_id(0).to(tl.int64)
    i = tl.load(rows + c)
    y = tl.load(target + c)
    z += c * stride
    if kept is not None:
        kept += i * kept_stride
    lse = log_sum_exp(z, bias, kept, softcap, temperature, V, BLOCK)
    logit, _ = logits(z, bias, kept, softcap, temperature, y, V)
    w = objective(
        logit - lse,
        tl.load(A_times_four_over_tau + i),
        tl.load(tau + i),
        tl.load(log_old + i),
        tl.load(divisor + i),
    )
    tl.store(log_pi + i, logit - lse)
    if d is not None:
        write_gradient(d + c * d_stride, z, bias, kept, softcap, temperature, y, lse, w, V, BLOCK)
