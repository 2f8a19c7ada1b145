"""grpo: DeepSeekMath (GRPO), arXiv:2402.03300, eq. 3"""

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
def write_gradient(
    grad, z, bias, kept, softcap, temperature, target, lse, w, V, BLOCK: tl.constexpr
):
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
def objective(log_pi, log_old, A, eps, beta, log_ref, divisor, n_tokens):
    """The term of J, the weight w = dJ / dlog pi and the terms of the reports of a token."""
    r = tl.exp(log_pi - log_old)
    surrogate = tl.minimum(r * A, tl.clamp(r, 1 - eps, 1 + eps) * A)
    log_ratio = log_ref - log_pi
    ratio = tl.exp(log_ratio)
    k3 = ratio - log_ratio - 1
    J = (surrogate - beta * k3) / divisor
    r_above = r > 1 + eps
    r_below = r < 1 - eps
    active = ~((A > 0) & r_above | (A < 0) & r_below)
    w = (tl.where(active, A * r, 0.0) - beta * (1 - ratio)) / divisor
    clip_fraction = tl.where(r_below | r_above, 1.0, 0.0) / n_tokens
    return J, w, clip_fraction


@triton.jit
def head(
    z, grad, rows, target, log_pi, terms, log_old, A, eps, beta, log_ref, divisor, n_tokens, bias,
    kept, softcap, temperature, stride, grad_stride, kept_stride, V, BLOCK: tl.constexpr,
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
    J, w, clip_fraction = objective(
        logit - lse,
        tl.load(log_old + i),
        tl.load(A + i),
        tl.load(eps),
        tl.load(beta),
        tl.load(log_ref + i),
        tl.load(divisor + i),
        tl.load(n_tokens),
    )
    tl.store(log_pi + i, logit - lse)
    tl.store(terms + i * 2, J)
    tl.store(terms + i * 2 + 1, clip_fraction)
    if grad is not None:
        write_gradient(
            grad + c * grad_stride, z, bias, kept, softcap, temperature, y, lse, w, V, BLOCK
        )
