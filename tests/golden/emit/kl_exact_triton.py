"""kl_exact: A Comedy of Estimators, arXiv:2512.21852: what its estimators stand for"""

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
def vocab_weights(log_p, beta, log_ref_dist, n_responses):
    """Weights W = dJ / dlog p of a block of the vocabulary, and terms of sums over it."""
    probs = tl.exp(log_p)
    W = beta * probs * (-1 + log_ref_dist - log_p) / n_responses
    kl = probs * (log_p - log_ref_dist)
    return W, kl


@triton.jit
def objective(log_pi, kl, A, beta, n_responses, w_log_pi):
    """The term of J, the weight w = dJ / dlog pi and the terms of the reports of a token."""
    J = (A * log_pi - beta * kl) / n_responses
    kl_ref = kl / n_responses
    return J, w_log_pi, kl_ref


@triton.jit
def head(
    z, grad, rows, target, log_pi, terms, A, beta, n_responses, w_log_pi, log_ref_dist, bias, kept,
    softcap, temperature, stride, grad_stride, kept_stride, V, BLOCK: tl.constexpr,
):
    """A token of a chunk: log-probability, terms and, unless `grad` is None, gradient."""
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
        z_v, softcap_grad = logits(z, bias, kept, softcap, temperature, v, V)
        W, kl_v = vocab_weights(
            z_v - lse,
            tl.load(beta),
            tl.load(log_ref_dist + i * V + v, mask=v < V, other=0.0),
            tl.load(n_responses),
        )
        valid = z_v > -float("inf")
        all_W += tl.where(valid, W, 0.0)
        kl += tl.where(valid, kl_v, 0.0)
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
    if grad is not None:
        grad += c * grad_stride
        total = tl.sum(all_W, 0) + w
        for start in range(0, V, BLOCK):
            v = start + tl.arange(0, BLOCK)
            z_v, softcap_grad = logits(z, bias, kept, softcap, temperature, v, V)
            W, kl_v = vocab_weights(
                z_v - lse,
                tl.load(beta),
                tl.load(log_ref_dist + i * V + v, mask=v < V, other=0.0),
                tl.load(n_responses),
            )
            grad_logit = tl.where(z_v > -float("inf"), W, 0.0) - tl.exp(z_v - lse) * total
            grad_logit += tl.where(v == y, w, 0.0)
            tl.debug_barrier()
            tl.store(grad + v, (grad_logit * softcap_grad).to(grad.dtype.element_ty), mask=v < V)
