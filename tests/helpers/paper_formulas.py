"""Every objective of the gallery once more, computed directly from its paper.

Plain NumPy over lists of responses, without objdsl: where a file of the gallery and a function here
agree, the paper was read twice in the same way. Policies are log-probabilities of the sampled
tokens. `b.now` is the trained policy as a constant, wherever a paper stops the gradient, so that
finite differences of these functions are the gradients that the papers mean.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

Array = np.ndarray
PerToken = list[Array]
Rows = list[int]


@dataclass
class Step:
    """An optimizer step of N responses; a `PerToken` has one array `[length]` per response."""

    prompt: list[int]
    reward: Array
    pi: PerToken
    now: PerToken
    old: PerToken
    mu: PerToken
    ref: PerToken
    teacher: PerToken
    inner: PerToken
    inner_old: PerToken
    value: PerToken
    value_old: PerToken
    noise: PerToken
    greedy: Array
    chosen: Array
    desirable: Array
    mismatched: Array
    correct: Array
    format: Array
    won: Array
    lost: Array
    paid: PerToken
    turn: PerToken
    state: PerToken
    cost: Array
    log_lambda: float = 0.4  # a learned multiplier
    beta: float = 0.15  # an adaptive coefficient, before this rollout
    rollout_step: float = 30
    rollout_steps: float = 80
    anchor: PerToken = field(default_factory=list)
    pi_dist: PerToken = field(default_factory=list)
    ref_dist: PerToken = field(default_factory=list)
    old_dist: PerToken = field(default_factory=list)
    teacher_dist: PerToken = field(default_factory=list)
    math: PerToken = field(default_factory=list)
    code: PerToken = field(default_factory=list)
    observed: PerToken = field(default_factory=list)
    is_code: Array = field(default_factory=lambda: np.zeros(0))
    v_star: Array = field(default_factory=lambda: np.zeros(0))
    problem: Array = field(default_factory=lambda: np.zeros(0))
    solver: Array = field(default_factory=lambda: np.zeros(0))

    @property
    def rows(self) -> range:
        return range(len(self.prompt))

    @property
    def groups(self) -> list[Rows]:
        return [[i for i in self.rows if self.prompt[i] == p] for p in sorted(set(self.prompt))]

    def group(self, i: int) -> Rows:
        return next(group for group in self.groups if i in group)

    @property
    def lengths(self) -> Array:
        return np.array([len(x) for x in self.pi])


# --- what papers share ---------------------------------------------------------------------------


def centred(b: Step) -> Array:
    """A_i = R_i - mean R over the group."""
    return np.array([b.reward[i] - np.mean(b.reward[b.group(i)]) for i in b.rows])


def standardised(b: Step, eps: float = 1e-6, reward: Array | None = None) -> Array:
    """A_i = (R_i - mean R) / (std R + eps) over the group, with the sample's std."""
    R = b.reward if reward is None else reward
    A = np.zeros(len(R))
    for group in b.groups:
        A[group] = (R[group] - R[group].mean()) / (R[group].std(ddof=1) + eps)
    return A


def leave_one_out(b: Step, scores: Array | None = None) -> Array:
    """A_i = R_i - mean of the other rewards of the group."""
    R = b.reward if scores is None else scores
    return np.array([R[i] - np.mean(R[[j for j in b.group(i) if j != i]]) for i in b.rows])


def ratio(p: Array, q: Array) -> Array:
    return np.exp(p - q)


def clipped(r: Array, A: Array | float, low: float, high: float) -> Array:
    """min(r A, clip(r) A)."""
    return np.minimum(r * A, np.minimum(np.maximum(r, low), high) * A)


def k1(p: Array, q: Array) -> Array:
    return p - q


def k2(p: Array, q: Array) -> Array:
    return 0.5 * (p - q) ** 2


def k3(p: Array, q: Array) -> Array:
    return np.exp(q - p) - (q - p) - 1


def sigmoid(x: Array | float) -> Array | float:
    return 1 / (1 + np.exp(-x))


def to_go(x: Array) -> Array:
    return np.cumsum(x[::-1])[::-1]


def mean_of_responses(b: Step, per_response: Callable[[int], float]) -> float:
    """(1/N) sum_i, for all prompts together."""
    return float(np.mean([per_response(i) for i in b.rows]))


def mean_of_prompts(b: Step, per_response: Callable[[int], float]) -> float:
    """E_x (1/G) sum_i."""
    return float(np.mean([np.mean([per_response(i) for i in group]) for group in b.groups]))


def mean_of_tokens(b: Step, per_token: Callable[[int], Array]) -> float:
    """sum over all tokens of the step / their number."""
    return float(np.concatenate([per_token(i) for i in b.rows]).mean())


def sum_of_tokens(b: Step, per_token: Callable[[int], Array]) -> float:
    return float(np.concatenate([per_token(i) for i in b.rows]).sum())


def mean_of_those(values: PerToken, masks: PerToken) -> float:
    """The mean over all tokens of the step where a mask holds; 0 if it holds nowhere."""
    kept = np.concatenate(values)[np.concatenate(masks).astype(bool)]
    return float(kept.mean()) if len(kept) else 0.0


def mean_of_group_tokens(b: Step, per_token: Callable[[int], Array]) -> float:
    """E_x sum_i sum_t / sum_i |y_i|."""
    return float(
        np.mean([np.concatenate([per_token(i) for i in group]).mean() for group in b.groups])
    )


def reinforced(b: Step, A: Array) -> float:
    """(1/N) sum_i A_i log pi(y_i)."""
    return mean_of_responses(b, lambda i: A[i] * b.pi[i].sum())


# --- policy gradients without a ratio ------------------------------------------------------------


def reinforce(step: Step, b: float) -> float:
    return reinforced(step, step.reward - b)


def rejection_sampling(b: Step) -> float:
    right = [b.pi[i].sum() for i in b.rows if b.reward[i] == 1]
    return sum(right) / len(b.rows)


def rloo(b: Step) -> float:
    return reinforced(b, leave_one_out(b))


def remax(b: Step) -> float:
    return reinforced(b, b.reward - b.greedy)


def opo(b: Step) -> float:
    baseline = [
        np.dot(b.lengths[b.group(i)], b.reward[b.group(i)]) / b.lengths[b.group(i)].sum()
        for i in b.rows
    ]
    return reinforced(b, b.reward - np.array(baseline))


def kimi_k15(b: Step, tau: float) -> float:
    A = centred(b)

    def term(i: int) -> float:
        log_ratio = (b.pi[i] - b.old[i]).sum()
        return A[i] * b.pi[i].sum() - tau / 2 * log_ratio**2

    return mean_of_prompts(b, term)


def gpg(b: Step) -> float:
    """A mean over responses of token means, over the share of responses whose group is mixed."""
    A = centred(b)
    mixed = [len(set(b.reward[b.group(i)])) > 1 for i in b.rows]
    return mean_of_responses(b, lambda i: np.mean(A[i] * b.pi[i])) / (np.mean(mixed) + 1e-5)


def max_rl(b: Step) -> float:
    means = [np.mean(b.reward[b.group(i)]) for i in b.rows]
    A = [(b.reward[i] - m) / (m + 1e-6) for i, m in enumerate(means)]
    return mean_of_tokens(b, lambda i: A[i] * b.pi[i])


def kimi_k2(b: Step, tau: float) -> float:
    A = centred(b)
    return -mean_of_prompts(b, lambda i: (A[i] - tau * (b.pi[i] - b.old[i]).sum()) ** 2)


def a_star_po(b: Step, beta2: float) -> float:
    def residual(i: int) -> float:
        return beta2 * (b.pi[i] - b.ref[i]).sum() - (b.reward[i] - b.v_star[i])

    return -mean_of_responses(b, lambda i: residual(i) ** 2)


def oreal(b: Step, negative: float, beta: float) -> float:
    A = leave_one_out(b)
    right = [np.full(len(b.pi[i]), b.reward[i] == 1) for i in b.rows]
    good = mean_of_those([A[i] * b.pi[i] for i in b.rows], right)
    bad = mean_of_those(
        [ratio(b.pi[i], b.old[i]) * A[i] for i in b.rows], [~mask for mask in right]
    )
    kl = mean_of_tokens(b, lambda i: np.where(right[i], 0, k3(b.pi[i], b.ref[i])))
    return good + negative * bad - beta * kl


def otb(b: Step) -> float:
    spread = [
        np.cumsum(1 - 2 * np.exp(b.old[i]) + (np.exp(b.old_dist[i]) ** 2).sum(-1)) for i in b.rows
    ]

    def term(i: int) -> float:
        total = 0.0
        for t in range(len(b.pi[i])):
            peers = [j for j in b.group(i) if len(b.pi[j]) > t]
            w = np.array([spread[j][t] for j in peers])
            baseline = (w * b.reward[peers]).sum() / (w.sum() + 1e-8)
            total += (b.reward[i] - baseline) * b.pi[i][t]
        return total

    return mean_of_responses(b, term)


# --- PPO -----------------------------------------------------------------------------------------


def gae(b: Step, beta: float, gamma: float, lam: float) -> PerToken:
    """By the recursion A_t = delta_t + gamma lam A_{t+1}, over token rewards."""
    advantages = []
    for i in b.rows:
        n = len(b.pi[i])
        rewards = -beta * (b.old[i] - b.ref[i])
        rewards[-1] += b.reward[i]
        A, later = np.zeros(n), 0.0
        for t in reversed(range(n)):
            following = b.value_old[i][t + 1] if t + 1 < n else 0.0
            later = rewards[t] + gamma * following - b.value_old[i][t] + gamma * lam * later
            A[t] = later
        advantages.append(A)
    return advantages


def ppo(b: Step, eps: float, eps_v: float, beta: float, gamma: float, lam: float) -> float:
    A = gae(b, beta, gamma, lam)
    return mean_of_tokens(b, lambda i: clipped(ratio(b.pi[i], b.old[i]), A[i], 1 - eps, 1 + eps))


def ppo_critic(b: Step, eps_v: float, beta: float, gamma: float, lam: float) -> float:
    A = gae(b, beta, gamma, lam)
    return clipped_critic(b, [A[i] + b.value_old[i] for i in b.rows], eps_v)


def clipped_critic(b: Step, targets: PerToken, eps_v: float) -> float:
    def loss(i: int) -> Array:
        target, before = targets[i], b.value_old[i]
        near = before + np.clip(b.value[i] - before, -eps_v, eps_v)
        return 0.5 * np.maximum((b.value[i] - target) ** 2, (near - target) ** 2)

    return mean_of_tokens(b, loss)


def dual_clip(
    b: Step, eps: float, eps_v: float, beta: float, gamma: float, lam: float, c: float
) -> float:
    A = gae(b, beta, gamma, lam)

    def term(i: int) -> Array:
        plain = clipped(ratio(b.pi[i], b.old[i]), A[i], 1 - eps, 1 + eps)
        return np.where(A[i] < 0, np.maximum(plain, c * A[i]), plain)

    return mean_of_tokens(b, term)


def vapo(b: Step, eps_low: float, eps_high: float, alpha: float, mu_nll: float) -> float:
    lams = [max(1 - 1 / (alpha * n), 0) for n in b.lengths]
    A = [gae(b, 0.0, 1.0, lam)[i] for i, lam in enumerate(lams)]
    policy = mean_of_tokens(
        b, lambda i: clipped(ratio(b.pi[i], b.old[i]), A[i], 1 - eps_low, 1 + eps_high)
    )
    right = [np.full(len(b.pi[i]), b.reward[i] == 1) for i in b.rows]
    return policy + mu_nll * mean_of_those(b.pi, right)


def vapo_critic(b: Step) -> float:
    return mean_of_tokens(b, lambda i: 0.5 * (b.value[i] - b.reward[i]) ** 2)


def openrlhf_ppo(b: Step, eps: float, beta: float) -> float:
    B = gae(b, beta, 1.0, 1.0)
    every = np.concatenate(B)
    A = [(x - every.mean()) / np.sqrt(max(every.var(), 1e-8)) for x in B]
    return mean_of_tokens(b, lambda i: clipped(ratio(b.pi[i], b.old[i]), A[i], 1 - eps, 1 + eps))


def openrlhf_grpo(b: Step, eps: float, beta: float) -> float:
    B = standardised(b, 1e-9)
    A = [x - beta * k1(b.old[i], b.ref[i])[::-1].cumsum()[::-1] for i, x in enumerate(B)]
    return mean_of_tokens(b, lambda i: clipped(ratio(b.pi[i], b.old[i]), A[i], 1 - eps, 1 + eps))


def openrlhf_ppo_critic(b: Step, eps_v: float, beta: float) -> float:
    return ppo_critic(b, eps_v, beta, 1.0, 1.0)


def adaptive_kl(b: Step, eps: float, eps_v: float, gamma: float, lam: float) -> float:
    return ppo(b, eps, eps_v, b.beta, gamma, lam)


def adaptive_kl_beta(b: Step, target: float) -> float:
    """The coefficient after the rollout."""
    kl = np.mean([np.sum(b.old[i] - b.ref[i]) for i in b.rows])
    return b.beta * (1 + 0.1 * float(np.clip(kl / target - 1, -0.2, 0.2)))


def safe_rlhf(b: Step, eps: float, beta: float) -> float:
    multiplier = np.exp(b.log_lambda)
    reward, cost = leave_one_out(b), leave_one_out(b, b.cost)

    def response(i: int) -> float:
        kl = beta * np.cumsum((b.old[i] - b.ref[i])[::-1])[::-1]
        A = (reward[i] - multiplier * cost[i]) / (1 + multiplier) - kl
        return float(clipped(ratio(b.pi[i], b.old[i]), A, 1 - eps, 1 + eps).mean())

    return mean_of_responses(b, response)


def safe_rlhf_multiplier(b: Step, limit: float) -> float:
    """The loss of the logarithm of lambda, which the code calls `lambda_loss`."""
    return -float(b.cost.mean() - limit) * float(np.exp(b.log_lambda))


def ppo_annealed(b: Step, eps_v: float, beta: float, gamma: float, lam: float) -> float:
    return ppo(b, 0.1 * (1 - b.rollout_step / b.rollout_steps), eps_v, beta, gamma, lam)


def spo(b: Step, eps_low: float, eps_high: float) -> float:
    D = b.reward - b.won / (b.won + b.lost)
    A = (D - D.mean()) / (D.std(ddof=1) + 1e-8)
    return mean_of_tokens(
        b, lambda i: clipped(ratio(b.pi[i], b.mu[i]), A[i], 1 - eps_low, 1 + eps_high)
    )


def spo_tracker(b: Step, rho: float) -> tuple[list[float], list[float]]:
    """Successes and failures of each prompt after the rollout."""
    won = [rho * b.won[rows[0]] + b.reward[rows].sum() for rows in b.groups]
    lost = [rho * b.lost[rows[0]] + (1 - b.reward[rows]).sum() for rows in b.groups]
    return won, lost


def reinforce_pp(b: Step, eps: float, beta: float) -> float:
    q = [b.reward[i] - beta * to_go(b.old[i] - b.ref[i]) for i in b.rows]
    every = np.concatenate(q)
    A = [(x - every.mean()) / (every.std(ddof=1) + 1e-8) for x in q]
    return mean_of_tokens(b, lambda i: clipped(ratio(b.pi[i], b.old[i]), A[i], 1 - eps, 1 + eps))


def reinforce_pp_baseline(b: Step, eps: float) -> float:
    q = np.repeat(centred(b), b.lengths)
    A = (centred(b) - q.mean()) / np.sqrt(q.var(ddof=1) + 1e-8)
    return mean_of_tokens(b, lambda i: clipped(ratio(b.pi[i], b.old[i]), A[i], 1 - eps, 1 + eps))


# --- the family of GRPO --------------------------------------------------------------------------


def grpo(
    b: Step, eps: float, beta: float, low: float | None = None, high: float | None = None
) -> float:
    A = standardised(b, 1e-4)
    low, high = low or 1 - eps, high or 1 + eps

    def term(i: int) -> float:
        surrogate = clipped(ratio(b.pi[i], b.old[i]), A[i], low, high)
        return np.mean(surrogate - beta * k3(b.pi[i], b.ref[i]))

    return mean_of_prompts(b, term)


def log_clip(b: Step, eps: float, beta: float) -> float:
    return grpo(b, eps, beta, low=np.exp(-eps), high=np.exp(eps))


def dr_grpo(b: Step, eps: float, L: float) -> float:
    A = centred(b)
    return mean_of_prompts(
        b, lambda i: clipped(ratio(b.pi[i], b.old[i]), A[i], 1 - eps, 1 + eps).sum() / L
    )


def dapo(b: Step, eps_low: float, eps_high: float, L_max: float, L_cache: float) -> float:
    A = standardised(b, reward=punished(b, L_max, L_cache))
    return of_mixed_groups(b, A, eps_low, eps_high)


def qae(b: Step, eps_low: float, eps_high: float, L_max: float, L_cache: float, K: float) -> float:
    R, A = punished(b, L_max, L_cache), np.zeros(len(b.reward))
    for group in b.groups:
        A[group] = (R[group] - np.quantile(R[group], K)) / (np.std(R[group], ddof=1) + 1e-6)
    return of_mixed_groups(b, A, eps_low, eps_high)


def punished(b: Step, L_max: float, L_cache: float) -> Array:
    """DAPO's rewards, minus its penalty for long responses."""

    def punishment(n: int) -> float:
        if n <= L_max - L_cache:
            return 0.0
        return ((L_max - L_cache) - n) / L_cache if n <= L_max else -1.0

    return b.reward + np.array([punishment(n) for n in b.lengths])


def prorl(b: Step, eps_low: float, eps_high: float, beta: float) -> float:
    A = standardised(b, 1e-4)

    def term(i: int) -> float:
        surrogate = clipped(ratio(b.pi[i], b.old[i]), A[i], 1 - eps_low, 1 + eps_high)
        return float(np.mean(surrogate - beta * k3(b.pi[i], b.anchor[i])))

    kept = [group for group in b.groups if len(set(b.reward[group])) > 1]
    return float(np.mean([np.mean([term(i) for i in group]) for group in kept])) if kept else 0.0


def up_dapo(b: Step, eps_low: float, eps_high: float, L_max: float, L_cache: float) -> float:
    A = standardised(b, reward=punished(b, L_max, L_cache))

    def term(i: int) -> Array:
        if A[i] > 0:
            return A[i] * b.pi[i]
        return clipped(ratio(b.pi[i], b.old[i]), A[i], 1 - eps_low, 1 + eps_high)

    kept = [group for group in b.groups if len(set(b.reward[group])) > 1]
    means = [np.concatenate([term(i) for i in group]).mean() for group in kept]
    return float(np.mean(means)) if kept else 0.0


def high_entropy(
    b: Step, eps_low: float, eps_high: float, L_max: float, L_cache: float, rho: float
) -> float:
    """The fifth is that of the prompts that are kept."""
    A = standardised(b, reward=punished(b, L_max, L_cache))
    entropy = [-(np.exp(x) * x).sum(-1) for x in b.old_dist]
    kept = [group for group in b.groups if len(set(b.reward[group])) > 1]
    if not kept:
        return 0.0
    every = sorted(np.concatenate([entropy[i] for group in kept for i in group]), reverse=True)
    many = int(rho * len(every))
    limit = every[many] if many < len(every) else -1.0
    means = []
    for group in kept:
        terms = [
            clipped(ratio(b.pi[i], b.old[i]), A[i], 1 - eps_low, 1 + eps_high)[entropy[i] > limit]
            for i in group
        ]
        chosen = np.concatenate(terms)
        means.append(chosen.mean() if len(chosen) else 0.0)
    return float(np.mean(means))


def of_mixed_groups(b: Step, A: Array, eps_low: float, eps_high: float) -> float:
    """Means over the tokens of each group, for the groups whose rewards differ."""
    kept = [group for group in b.groups if len(set(b.reward[group])) > 1]
    per_prompt = []
    for group in kept:
        terms = [clipped(ratio(b.pi[i], b.old[i]), A[i], 1 - eps_low, 1 + eps_high) for i in group]
        per_prompt.append(sum(x.sum() for x in terms) / sum(len(x) for x in terms))
    return float(np.mean(per_prompt)) if kept else 0.0


def just_rl(b: Step, eps_low: float, eps_high: float, c: float) -> float:
    A = standardised(b)

    def term(i: int) -> Array:
        surrogate = clipped(ratio(b.pi[i], b.old[i]), A[i], 1 - eps_low, 1 + eps_high)
        return np.maximum(surrogate, c * A[i]) if A[i] < 0 else surrogate

    return mean_of_tokens(b, term)


def clipped_token_mean(b: Step, A: Array, eps: float) -> float:
    return mean_of_tokens(b, lambda i: clipped(ratio(b.pi[i], b.old[i]), A[i], 1 - eps, 1 + eps))


def w_reinforce(step: Step, eps: float, **weight: float) -> float:
    A = np.where(step.reward == 1, weight["lambda"], -1.0)
    return clipped_token_mean(step, A, eps)


def best_of_k(b: Step, eps: float) -> float:
    A = np.zeros(len(b.reward))
    for group in b.groups:
        first, second = sorted(b.reward[group], reverse=True)[:2]
        best = group[int(np.argmax(b.reward[group]))]
        A[best] = (first - second) / (b.reward[group].std(ddof=1) + 1e-6)
    return clipped_token_mean(b, A, eps)


def aspo(b: Step, eps: float, c: float) -> float:
    A = standardised(b)

    def term(i: int) -> Array:
        r = ratio(b.now[i], b.old[i])
        if A[i] > 0:
            stopped, weight = r > 1 + eps, np.minimum(1 / r, c)
        else:
            stopped, weight = r < 1 - eps, np.minimum(r, c)
        return np.where(stopped & (A[i] != 0), 0, weight * A[i] * b.pi[i])

    return mean_of_tokens(b, term)


def scale_rl(b: Step, C: float) -> float:
    kept = [group for group in b.groups if len(set(b.reward[group])) > 1]
    rows = [i for group in kept for i in group]
    spread = b.reward[rows].std(ddof=1) + 1e-6

    def term(i: int) -> Array:
        A = (b.reward[i] - b.reward[b.group(i)].mean()) / spread
        return np.minimum(ratio(b.now[i], b.mu[i]), C) * A * b.pi[i]

    means = [np.concatenate([term(i) for i in group]).mean() for group in kept]
    return float(np.mean(means)) if kept else 0.0


def dcpo(b: Step, eps_low: float, eps_high: float, c: float) -> float:
    A = standardised(b)

    def term(i: int) -> float:
        q = np.exp(b.old[i])
        low = (1 + np.sqrt(np.maximum(1 - 4 * eps_low / q, 0))) / 2
        high = np.minimum((1 + np.sqrt(1 + 4 * eps_high / q)) / 2, c)
        r = ratio(b.pi[i], b.old[i])
        surrogate = np.minimum(r * A[i], np.clip(r, low, high) * A[i])
        return np.mean(np.maximum(surrogate, c * A[i]) if A[i] < 0 else surrogate)

    return mean_of_responses(b, term)


def nemo_grpo(b: Step, eps: float, beta: float) -> float:
    A = leave_one_out(b)
    for i in b.rows:
        others = b.reward[[j for j in b.group(i) if j != i]]
        if len(others) > 1 and others.std(ddof=1) > 0:
            A[i] /= others.std(ddof=1) + 1e-6

    def term(i: int) -> Array:
        score = ratio(b.pi[i], b.now[i])
        surrogate = clipped(ratio(b.pi[i], b.old[i]), A[i], 1 - eps, 1 + eps)
        return surrogate - beta * score * k3(b.pi[i], b.ref[i])

    return mean_of_tokens(b, term)


def skyrl_grpo(b: Step, eps: float, beta: float) -> float:
    kl = mean_of_responses(b, lambda i: np.mean(k3(b.pi[i], b.ref[i])))
    return clipped_token_mean(b, standardised(b), eps) - beta * kl


def slime_grpo(b: Step, eps: float) -> float:
    A = standardised(b)
    return mean_of_responses(
        b, lambda i: np.mean(clipped(ratio(b.pi[i], b.old[i]), A[i], 1 - eps, 1 + eps))
    )


def lite_ppo(b: Step, eps: float) -> float:
    A = centred(b) / (b.reward.std(ddof=1) + 1e-6)
    return mean_of_tokens(b, lambda i: clipped(ratio(b.pi[i], b.old[i]), A[i], 1 - eps, 1 + eps))


def gdpo(b: Step, w_correct: float, w_format: float, eps_low: float, eps_high: float) -> float:
    total = w_correct * standardised(b, 1e-4, b.correct)
    total += w_format * standardised(b, 1e-4, b.format)
    A = (total - total.mean()) / (total.std(ddof=1) + 1e-4)

    def response(i: int) -> float:
        return clipped(ratio(b.pi[i], b.old[i]), A[i], 1 - eps_low, 1 + eps_high).mean()

    return mean_of_prompts(b, response)


def pass_at_k(b: Step, k: float, eps: float) -> float:
    """Averages over every set of k responses of a group; its reward is 1 if one of them is
    right."""
    A = np.zeros(len(b.reward))
    for group in b.groups:
        sets = list(itertools.combinations(group, int(k)))
        rewards = np.array([max(b.reward[list(members)]) for members in sets])
        standard = (rewards - rewards.mean()) / (rewards.std() + 1e-6)
        for i in group:
            A[i] = np.mean([a for a, members in zip(standard, sets, strict=True) if i in members])
    return mean_of_tokens(b, lambda i: clipped(ratio(b.pi[i], b.old[i]), A[i], 1 - eps, 1 + eps))


def gepo(b: Step, eps: float) -> float:
    """From the probabilities themselves, as geometric means over tokens."""
    A, p = centred(b), np.exp([x.mean() for x in b.pi])
    q = np.exp([x.mean() for x in b.mu])

    def response(i: int) -> float:
        of_group = q[b.group(i)]
        expected = np.average(of_group, weights=of_group)
        return float(clipped(p[i] / expected, A[i], 1 - eps, 1 + eps))

    return mean_of_responses(b, response)


def gigpo(b: Step, omega: float, gamma: float, eps: float, beta: float) -> float:
    """Episodes of turns: `paid` is the reward of each token, `state` the state of its turn."""
    episode = standardised(b, 1e-6, np.array([x.sum() for x in b.paid]))
    # What is still to come from the beginning of each turn, discounted by turns.
    beginnings = [np.flatnonzero(np.diff(turn, prepend=turn[0] - 1)) for turn in b.turn]
    worth = [
        [
            sum(
                gamma ** (turn_number(i_turn, s) - turn_number(i_turn, t)) * paid[s]
                for s in range(t, len(paid))
            )
            for t in range(len(paid))
        ]
        for i_turn, paid in zip(b.turn, b.paid, strict=True)
    ]

    def response(i: int) -> float:
        A = np.empty(len(b.pi[i]))
        for t in range(len(A)):
            peers = [
                worth[j][s]
                for j in b.group(i)
                for s in beginnings[j]
                if b.state[j][s] == b.state[i][t]
            ]
            spread = np.std(peers, ddof=1) if len(peers) > 1 else 0.0
            of_turn = worth[i][max(s for s in beginnings[i] if s <= t)]
            A[t] = episode[i] + omega * (of_turn - np.mean(peers)) / (spread + 1e-6)
        terms = clipped(ratio(b.pi[i], b.old[i]), A, 1 - eps, 1 + eps)
        return np.mean(terms - beta * k3(b.pi[i], b.ref[i]))

    return mean_of_prompts(b, response)


def turn_number(turns: Array, t: int) -> int:
    """The number of turns that have ended before a token."""
    return int(np.count_nonzero(np.diff(turns[: t + 1])))


def deepseek_v32(b: Step, eps: float, beta: float, delta: float) -> float:
    A = centred(b)

    def term(i: int) -> float:
        r = ratio(b.pi[i], b.mu[i])
        stale = A[i] < 0 and np.mean(b.mu[i] - b.pi[i]) > delta
        surrogate = 0 if stale else clipped(r, A[i], 1 - eps, 1 + eps)
        return np.mean(surrogate - beta * r * k3(b.pi[i], b.ref[i]))

    return mean_of_prompts(b, term)


def sapo(b: Step, tau_pos: float, tau_neg: float) -> float:
    A = standardised(b)

    def term(i: int) -> float:
        tau = tau_pos if A[i] > 0 else tau_neg
        return np.mean(4 / tau * sigmoid(tau * (ratio(b.pi[i], b.old[i]) - 1)) * A[i])

    return mean_of_prompts(b, term)


def cispo(b: Step, eps_high: float) -> float:
    A = standardised(b)

    def term(i: int) -> Array:
        weight = np.minimum(ratio(b.now[i], b.old[i]), 1 + eps_high)
        return weight * A[i] * b.pi[i]

    return mean_of_group_tokens(b, term)


def mini_rl(b: Step, eps_low: float, eps_high: float, C: float) -> float:
    A = centred(b)

    def term(i: int) -> float:
        r, weight = ratio(b.now[i], b.old[i]), ratio(b.now[i], b.mu[i])
        stopped = (r > 1 + eps_high) if A[i] > 0 else (r < 1 - eps_low)
        return np.sum(np.where(stopped, 0, np.minimum(weight, C) * A[i] * b.pi[i]))

    return mean_of_responses(b, term)


def dppo(b: Step, delta: float) -> float:
    A = centred(b)

    def term(i: int) -> Array:
        moved = np.exp(b.now[i]) - np.exp(b.mu[i])
        stopped = np.sign(A[i]) * moved > delta
        return np.where(stopped, 0, ratio(b.pi[i], b.mu[i]) * A[i])

    return mean_of_tokens(b, term)


def dppo_kl(b: Step, delta: float) -> float:
    A = centred(b)

    def term(i: int) -> Array:
        p, q = np.exp(b.now[i]), np.exp(b.mu[i])
        kl = q * np.log(q / p) + (1 - q) * np.log((1 - q) / (1 - p))
        stopped = (kl > delta) & (np.sign(A[i]) * (p - q) > 0)
        return np.where(stopped, 0, ratio(b.pi[i], b.mu[i]) * A[i])

    return mean_of_tokens(b, term)


def prime_rl(b: Step, delta: float, tau: float) -> float:
    square = mean_of_tokens(b, lambda i: (b.pi[i] - b.mu[i]) ** 2)
    return dppo(b, delta) - tau * square


def echo(b: Step, delta: float, tau: float, alpha: float) -> float:
    A, acts = centred(b), [x == 0 for x in b.observed]
    terms = []
    for i in b.rows:
        moved = np.exp(b.now[i]) - np.exp(b.mu[i])
        log_ratio = b.pi[i] - b.mu[i]
        policy = np.where(np.sign(A[i]) * moved > delta, 0, np.exp(log_ratio) * A[i])
        terms.append(policy - tau * log_ratio**2)
    return mean_of_those(terms, acts) + alpha * mean_of_those(b.pi, [~x for x in acts])


def hierarchical_grpo(b: Step, delta: float) -> float:
    A = np.zeros(len(b.reward))
    for i in b.rows:
        peers = [j for j in b.group(i) if b.solver[j] == b.solver[i]]
        if b.solver[i]:
            peers = [j for j in peers if b.problem[j] == b.problem[i]]
        A[i] = b.reward[i] - b.reward[peers].mean()

    def term(i: int) -> Array:
        moved = np.exp(b.now[i]) - np.exp(b.mu[i])
        return np.where(np.sign(A[i]) * moved > delta, 0, ratio(b.pi[i], b.mu[i]) * A[i])

    return mean_of_tokens(b, term)


def intellect3(step: Step, a: float, b: float, least: float) -> float:
    A = centred(step)

    def term(i: int) -> Array:
        u = ratio(step.pi[i], step.mu[i])
        now = ratio(step.now[i], step.mu[i])
        kept = (now >= a) & (now <= b) & (now.min() >= least)
        return np.where(kept, u * A[i], 0)

    return mean_of_tokens(step, term)


def opsm(b: Step, eps: float, delta: float) -> float:
    A = standardised(b, 1e-4)

    def term(i: int) -> float:
        if A[i] < 0 and np.mean(b.old[i] - b.now[i]) > delta:
            return 0.0
        return np.mean(clipped(ratio(b.pi[i], b.old[i]), A[i], 1 - eps, 1 + eps))

    return mean_of_responses(b, term)


def topr(b: Step) -> float:
    R = leave_one_out(b)

    def term(i: int) -> float:
        taper = 1.0 if R[i] >= 0 else min(np.exp((b.now[i] - b.mu[i]).sum()), 1.0)
        return taper * R[i] * b.pi[i].sum()

    return mean_of_responses(b, term)


def tinker_importance_sampling(b: Step) -> float:
    A = centred(b)
    return sum_of_tokens(b, lambda i: ratio(b.pi[i], b.mu[i]) * A[i])


def tinker_ppo(b: Step, eps: float) -> float:
    A = centred(b)
    return sum_of_tokens(b, lambda i: clipped(ratio(b.pi[i], b.mu[i]), A[i], 1 - eps, 1 + eps))


def tinker_cispo(b: Step, low: float, high: float) -> float:
    A = centred(b)
    return sum_of_tokens(b, lambda i: np.clip(ratio(b.now[i], b.mu[i]), low, high) * A[i] * b.pi[i])


def tinker_dro(b: Step, beta: float) -> float:
    A = centred(b)
    return sum_of_tokens(b, lambda i: A[i] * b.pi[i] - beta / 2 * (b.pi[i] - b.mu[i]) ** 2)


def differential_smoothing(
    b: Step, eps: float, beta: float, gamma_p: float, gamma_n: float
) -> float:
    logp = np.array([x.sum() for x in b.old])
    A = standardised(b, 1e-4) + np.where(b.reward == 1, -gamma_p, gamma_n) * logp

    def term(i: int) -> float:
        surrogate = clipped(ratio(b.pi[i], b.old[i]), A[i], 1 - eps, 1 + eps)
        return np.mean(surrogate - beta * k3(b.pi[i], b.ref[i]))

    return mean_of_prompts(b, term)


def bupo(b: Step, eps: float, first: float) -> float:
    A = standardised(b, 1e-4)
    new, before = (b.inner, b.inner_old) if b.rollout_step < first else (b.pi, b.old)
    return mean_of_prompts(
        b, lambda i: np.mean(clipped(ratio(new[i], before[i]), A[i], 1 - eps, 1 + eps))
    )


# --- ratios of whole responses -------------------------------------------------------------------


def geometric(p: Array, q: Array) -> float:
    """(prod p / prod q)^(1/n)."""
    return float((np.exp(p).prod() / np.exp(q).prod()) ** (1 / len(p)))


def gspo(b: Step, eps_low: float, eps_high: float) -> float:
    A = standardised(b)
    return mean_of_prompts(
        b, lambda i: clipped(geometric(b.pi[i], b.old[i]), A[i], 1 - eps_low, 1 + eps_high)
    )


def gspo_token(b: Step, eps_low: float, eps_high: float) -> float:
    A = standardised(b)

    def term(i: int) -> float:
        s = geometric(b.now[i], b.old[i]) * np.exp(b.pi[i]) / np.exp(b.now[i])
        return np.mean(clipped(s, A[i], 1 - eps_low, 1 + eps_high))

    return mean_of_prompts(b, term)


def dr_gspo(b: Step, eps_low: float, eps_high: float) -> float:
    A = centred(b)

    def term(i: int) -> float:
        s = geometric(b.pi[i], b.old[i])
        return len(b.pi[i]) * clipped(s, A[i], 1 - eps_low, 1 + eps_high)

    return mean_of_prompts(b, term)


def gmpo(b: Step, eps: float) -> float:
    A = standardised(b)

    def term(i: int) -> float:
        sign, z = np.sign(A[i]), b.pi[i] - b.old[i]
        z = sign * np.minimum(sign * z, np.clip(sign * z, -eps, eps))
        return A[i] * np.exp(z.mean())

    return mean_of_prompts(b, term)


def vespo(b: Step, k_pos: float, k_neg: float, lam_pos: float, lam_neg: float) -> float:
    A = standardised(b)

    def term(i: int) -> float:
        W = np.exp(b.now[i]).prod() / np.exp(b.mu[i]).prod()
        k, lam = (k_pos, lam_pos) if A[i] >= 0 else (k_neg, lam_neg)
        return W**k * np.exp(lam * (1 - W)) * A[i] * b.pi[i].sum()

    return mean_of_prompts(b, term)


# --- between the engines -------------------------------------------------------------------------


def whitened_twice(b: Step) -> Array:
    """AReaL's advantage: standardised in the group, then over the tokens of the step."""
    B = standardised(b, 1e-5)
    every = np.repeat(B, b.lengths)
    return (B - every.mean()) / (every.std(ddof=1) + 1e-5)


def three_policies(
    b: Step,
    eps: float,
    weight: Callable[[Array, Array], Array | float],
    advantage: Callable[[Step], Array] = standardised,
) -> float:
    A = advantage(b)
    return mean_of_tokens(
        b,
        lambda i: (
            weight(b.old[i], b.mu[i]) * clipped(ratio(b.pi[i], b.old[i]), A[i], 1 - eps, 1 + eps)
        ),
    )


def decoupled_ppo(b: Step, eps: float) -> float:
    return three_policies(b, eps, ratio, whitened_twice)


def areal_grpo(b: Step, eps: float, C: float) -> float:
    def weight(old: Array, mu: Array) -> Array:
        w = ratio(old, mu)
        return np.where(w > C, 0, w)

    return three_policies(b, eps, weight, whitened_twice)


def m2po(b: Step, eps: float, tau: float) -> float:
    """AReaL's loop: the largest is dropped until the mean of the rest is within the limit."""
    moments = [(b.old[i] - b.mu[i]) ** 2 for i in b.rows]
    left = sorted(np.concatenate(moments))
    while left and np.mean(left) > tau:
        left.pop()
    limit = left[-1] if left else -1.0
    A = whitened_twice(b)
    terms = []
    for i in b.rows:
        surrogate = clipped(ratio(b.pi[i], b.old[i]), A[i], 1 - eps, 1 + eps)
        terms.append((ratio(b.old[i], b.mu[i]) * surrogate)[moments[i] <= limit])
    return float(np.concatenate(terms).mean())


def tis(b: Step, eps: float, C: float) -> float:
    return three_policies(b, eps, lambda old, mu: np.minimum(ratio(old, mu), C))


def mis(b: Step, eps: float, C: float) -> float:
    def weight(old: Array, mu: Array) -> float:
        W = np.exp(old - mu).prod()
        return W if W <= C else 0.0

    return three_policies(b, eps, weight)


def geometric_mask(b: Step, eps: float, low: float, high: float) -> float:
    return three_policies(b, eps, lambda old, mu: float(low <= geometric(old, mu) <= high))


def icepop(step: Step, eps: float, a: float, b: float) -> float:
    A = standardised(step, 1e-4)

    def term(i: int) -> float:
        m = ratio(step.old[i], step.mu[i])
        surrogate = clipped(ratio(step.pi[i], step.old[i]), A[i], 1 - eps, 1 + eps)
        kept = np.where((a <= m) & (m <= b), m, 0)
        return np.mean(kept * surrogate)

    return mean_of_prompts(step, term)


# --- the entropy mechanism -----------------------------------------------------------------------


def covariances(b: Step, A: Array) -> PerToken:
    """(A - mean A)(log pi - mean log pi), the means over all tokens."""
    mean_A = np.average(A, weights=b.lengths)
    mean_log = np.concatenate(b.now).mean()
    return [(A[i] - mean_A) * (b.now[i] - mean_log) for i in b.rows]


def clip_cov(b: Step, eps: float, low: float, high: float, fraction: float) -> float:
    A = standardised(b)
    cov = covariances(b, A)
    candidates = [
        (b.noise[i][t], i, t) for i in b.rows for t in range(len(cov[i])) if low < cov[i][t] < high
    ]
    many = int(np.ceil(fraction * b.lengths.sum()))
    dropped = {(i, t) for _, i, t in sorted(candidates)[:many]}

    def term(i: int) -> Array:
        surrogate = clipped(ratio(b.pi[i], b.old[i]), A[i], 1 - eps, 1 + eps)
        return np.array([0 if (i, t) in dropped else x for t, x in enumerate(surrogate)])

    return mean_of_tokens(b, term)


def kl_cov(b: Step, beta: float, fraction: float) -> float:
    A = standardised(b)
    cov = covariances(b, A)
    many = max(1, int(fraction * b.lengths.sum()))
    next_largest = sorted(np.concatenate(cov), reverse=True)[many]

    def term(i: int) -> Array:
        log_ratio = b.pi[i] - b.old[i]
        return np.exp(log_ratio) * A[i] - beta * np.where(
            cov[i] > next_largest, np.abs(log_ratio), 0
        )

    return mean_of_tokens(b, term)


# --- KL to the reference -------------------------------------------------------------------------


def kl_in_loss(b: Step, beta: float, k: Callable[[Array, Array], Array]) -> float:
    return rloo(b) - beta * mean_of_responses(b, lambda i: k(b.pi[i], b.ref[i]).sum())


def kl_in_reward(b: Step, beta: float, k: Callable[[Array, Array], Array]) -> float:
    A = leave_one_out(b)
    return mean_of_responses(
        b, lambda i: np.sum((A[i] - beta * to_go(k(b.old[i], b.ref[i]))) * b.pi[i])
    )


def kl_weighted(b: Step, beta: float, k: Callable[[Array, Array], Array], live: bool) -> float:
    A = leave_one_out(b)

    def term(i: int) -> float:
        u = ratio(b.pi[i], b.mu[i])
        weight = u if live else ratio(b.now[i], b.mu[i])
        return np.sum(u * A[i] - beta * weight * k(b.pi[i], b.ref[i]))

    return mean_of_responses(b, term)


def kl_k1_loss(b: Step, beta: float) -> float:
    return kl_in_loss(b, beta, k1)


def kl_k2_loss(b: Step, beta: float) -> float:
    return kl_in_loss(b, beta, k2)


def kl_k3_loss(b: Step, beta: float) -> float:
    return kl_in_loss(b, beta, k3)


def kl_k1_reward(b: Step, beta: float) -> float:
    return kl_in_reward(b, beta, k1)


def warp(b: Step, beta: float) -> float:
    return kl_in_reward(replace(b, ref=b.anchor), beta, k1)


def kl_k2_reward(b: Step, beta: float) -> float:
    return kl_in_reward(b, beta, k2)


def kl_k3_reward(b: Step, beta: float) -> float:
    return kl_in_reward(b, beta, k3)


def kl_k1_is(b: Step, beta: float) -> float:
    return kl_weighted(b, beta, k1, live=True)


def kl_k2_is(b: Step, beta: float) -> float:
    return kl_weighted(b, beta, k2, live=False)


def kl_k3_is(b: Step, beta: float) -> float:
    return kl_weighted(b, beta, k3, live=True)


def kl_exact(b: Step, beta: float) -> float:
    def kl(i: int) -> float:
        return np.sum(np.exp(b.pi_dist[i]) * (b.pi_dist[i] - b.ref_dist[i]))

    return rloo(b) - beta * mean_of_responses(b, kl)


def on_policy_distillation(b: Step) -> float:
    return mean_of_tokens(b, lambda i: ratio(b.pi[i], b.mu[i]) * (b.teacher[i] - b.mu[i]))


def domain_teachers(b: Step) -> float:
    teacher = [b.code[i] if b.is_code[i] else b.math[i] for i in b.rows]
    return mean_of_tokens(b, lambda i: ratio(b.pi[i], b.mu[i]) * (teacher[i] - b.mu[i]))


def sft(b: Step) -> float:
    return mean_of_tokens(b, lambda i: b.pi[i])


def gkd(b: Step, beta: float) -> float:
    def divergence(i: int) -> Array:
        p, q = np.exp(b.pi_dist[i]), np.exp(b.teacher_dist[i])
        mix = (1 - beta) * p + beta * q
        return (beta * q * np.log(q / mix) + (1 - beta) * p * np.log(p / mix)).sum(-1)

    return -mean_of_tokens(b, divergence)


def top_k_distillation(b: Step, k: float) -> float:
    def divergence(i: int) -> Array:
        p, q = np.exp(b.pi_dist[i]), np.exp(b.teacher_dist[i])
        places = np.argsort(-q, axis=-1)[:, : int(k)]
        near_p, near_q = (np.take_along_axis(x, places, -1) for x in (p, q))
        rest_p, rest_q = 1 - near_p.sum(-1), 1 - near_q.sum(-1)
        return (near_q * np.log(near_q / near_p)).sum(-1) + rest_q * np.log(rest_q / rest_p)

    return -mean_of_tokens(b, divergence)


# --- preferences ---------------------------------------------------------------------------------


def margins(b: Step, h: Array) -> Array:
    """For each prompt, the h of its chosen responses minus that of its rejected ones."""
    pairs = []
    for group in b.groups:
        chosen = [h[i] for i in group if b.chosen[i]]
        rejected = [h[i] for i in group if not b.chosen[i]]
        pairs.append(np.mean(chosen) - np.mean(rejected))
    return np.array(pairs)


def log_ratios(b: Step) -> Array:
    return np.array([(b.pi[i] - b.ref[i]).sum() for i in b.rows])


def dpo(b: Step, beta: float) -> float:
    return float(np.mean(np.log(sigmoid(beta * margins(b, log_ratios(b))))))


def online_dpo(b: Step, beta: float) -> float:
    """Every response with the best reward against every one with the worst."""
    h, margin = log_ratios(b), []
    for group in b.groups:
        best = [h[i] for i in group if b.reward[i] == max(b.reward[group])]
        worst = [h[i] for i in group if b.reward[i] == min(b.reward[group])]
        margin.append(np.mean([x - y for x in best for y in worst]))
    return float(np.mean(np.log(sigmoid(beta * np.array(margin)))))


def ipo(b: Step, beta: float) -> float:
    return -float(np.mean((margins(b, log_ratios(b)) - 1 / (2 * beta)) ** 2))


def simpo(b: Step, beta: float, gamma: float) -> float:
    mean_log = np.array([x.mean() for x in b.pi])
    return float(np.mean(np.log(sigmoid(beta * margins(b, mean_log) - gamma))))


def chosen_likelihood(b: Step) -> float:
    masks = [np.full(len(x), bool(b.chosen[i])) for i, x in enumerate(b.pi)]
    return mean_of_those(b.pi, masks)


def orpo(b: Step, beta: float) -> float:
    p = np.exp([x.mean() for x in b.pi])
    log_odds = np.log(p / (1 - p))
    preferred = np.mean(np.log(sigmoid(margins(b, log_odds))))
    return chosen_likelihood(b) + beta * float(preferred)


def cpo(b: Step, beta: float) -> float:
    h = np.array([x.sum() for x in b.pi])
    return float(np.mean(np.log(sigmoid(beta * margins(b, h))))) + chosen_likelihood(b)


def kto(b: Step, beta: float, lambda_d: float, lambda_u: float) -> float:
    h = log_ratios(b)
    strangers = [(b.now[i] - b.ref[i]).sum() for i in b.rows if b.mismatched[i]]
    z0 = max(np.mean(strangers), 0) if strangers else 0.0
    values = [
        lambda_d * sigmoid(beta * (h[i] - z0))
        if b.desirable[i]
        else lambda_u * sigmoid(beta * (z0 - h[i]))
        for i in b.rows
        if not b.mismatched[i]
    ]
    return float(np.mean(values))
