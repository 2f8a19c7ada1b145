"""kl_exact: A Comedy of Estimators, arXiv:2512.21852: what k1, k2 and k3 estimate"""

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
def words(log_p, beta, log_ref_dist, n_responses):
    """Of some words: their weights W = dJ / dlog p, and the terms of sums over words."""
    probs = tl.exp(log_p)
    W = beta * probs * (-1 + log_ref_dist - log_p) / n_responses
    kl = probs * (log_p - log_ref_dist)
    return W, kl


@triton.jit
def objective(log_pi, kl, A, beta, n_responses, w_log_pi):
    """Of a token: its term of J, its weight w = dJ / dlog pi, its terms of the reports."""
    J = (A * log_pi - beta * kl) / n_responses
    kl_ref = kl / n_responses
    return J, w_log_pi, kl_ref


@triton.jit
def head(
    z, d, rows, target, log_pi, terms, A, beta, n_responses, w_log_pi, log_ref_dist, bias, kept,
    softcap, temperature, stride, d_stride, kept_stride, V, BLOCK: tl.constexpr,
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
    all_W = tl.zeros((BLOCK,), z.dtype.element_ty)
    kl = tl.zeros((BLOCK,), z.dtype.element_ty)
    for start in range(0, V, BLOCK):
        v = start + tl.arange(0, BLOCK)
        z_v, slope = logits(z, bias, kept, softcap, temperature, v, V)
        W, kl_v = words(
            z_v - lse,
            tl.load(beta),
            tl.load(log_ref_dist + i * V + v, mask=v < V, other=0.0),
            tl.load(n_responses),
        )
        there = z_v > -float("inf")
        all_W += tl.where(there, W, 0.0)
        kl += tl.where(there, kl_v, 0.0)
    J, w, kl_ref = objective(
        logit - lse,
        tl.sum(kl, 0),
        tl.load(A + i),
        tl.load(beta),
        tl.load(n_responses),
        tl.load(w_log_pi + i),
    )
    tl.store(log_pi + i, logit - lse)
    tl.store(terms + i * 2, J)
    tl.store(terms + i * 2 + 1, kl_ref)
    if d is not None:
        d += c * d_stride
        total = tl.sum(all_W, 0) + w
        for start in range(0, V, BLOCK):
            v = start + tl.arange(0, BLOCK)
            z_v, slope = logits(z, bias, kept, softcap, temperature, v, V)
            W, kl_v = words(
                z_v - lse,
                tl.load(beta),
                tl.load(log_ref_dist + i * V + v, mask=v < V, other=0.0),
                tl.load(n_responses),
            )
            by_logit = tl.where(z_v > -float("inf"), W, 0.0) - tl.exp(z_v - lse) * total
            by_logit += tl.where(v == y, w, 0.0)
            tl.debug_barrier()
            tl.store(d + v, (by_logit * slope).to(d.dtype.element_ty), mask=v < V)
