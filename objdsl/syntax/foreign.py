"""Names from other notations: how to write each here, or that it cannot be written.

A similar name is suggested only for a misspelling. The names here have a meaning of their own, so
each has its own sentence: `median` is not a misspelt `mean`.
"""

from __future__ import annotations

import re

ALIASES = {"detach": "sg", "stop_gradient": "sg", "stopgrad": "sg", "pi_theta": "pi"}
"""Aliases, which the language accepts; `fmt` writes the standard spelling."""

SYNONYMS = dict.fromkeys(("avg", "average", "expectation"), "mean") | {
    "product": "prod", "maximum": "max", "minimum": "min", "stdev": "std", "stddev": "std",
}  # fmt: skip
"""Other names of reductions and functions."""

_BY_LOG = {
    "pi": "logp logps logprob logprobs log_prob log_probs logpi log_pi logpi_theta log_pi_theta"
    " new_logp new_logprobs logp_new log_probability per_token_logps",
    "old": "old_logp old_logps logp_old log_old logprob_old old_logprob old_logprobs old_log_prob"
    " old_log_probs log_prob_old log_pi_old log_pi_theta_old old_per_token_logps",
    "ref": "ref_logp ref_logps logp_ref log_ref ref_logprob ref_logprobs ref_log_prob"
    " ref_log_probs log_prob_ref log_pi_ref ref_per_token_logps",
    "mu": "rollout_logp rollout_logprobs rollout_log_probs sampling_logps"
    " sampling_per_token_logps log_mu behavior_logprobs",
}
LOGS = {word: policy for policy, words in _BY_LOG.items() for word in words.split()}
"""Usual names for the logarithm of a policy in code."""

POLICIES = {
    "old": "pi_old pi_theta_old theta_old old_policy policy_old",
    "ref": "pi_ref ref_policy reference reference_policy ref_model pi_reference",
    "mu": "pi_rollout rollout behavior behaviour behavior_policy behaviour_policy pi_mu sampler"
    " vllm sglang",
    "pi": "policy actor model",
}

_MASKS = (
    "there is no padding: a reduction over `t` runs over the tokens that exist; a mask of your own "
    "is a column, `given m[p,i,t]`, used in the brackets: `mean[t | m] x`"
)
_SIZES = "sizes are implied: `mean[p]`, `mean[i]` and `mean[t]` divide by the number of elements"
_NO_ORDER = (
    "order statistics are `max`, `min`, `quantile[i](x, 0.4)`, `rank[i] x` and "
    "`top[p,i,t](x, 0.2)`, the mask of the largest fifth"
)
_DIVERGENCE = (
    "write a divergence as an estimate from the sampled tokens, `k3(pi, ref)`, or exactly, over "
    "the vocabulary, `kl(pi, ref)`; their gradients differ"
)
_ADVANTAGE = (
    "an advantage is a formula of the file: `A = reward - mean[i] reward`, or "
    "`A = gae(rho, gamma, lam)` with a critic"
)
_RATIO = "a ratio is a formula of the file: `ratio = pi / old`"
_NO_NUMBER = "there is no such function; docs/language.md lists those that exist"

_SENTENCES = {
    # functions
    "clamp": "it is called `clip(x, lo, hi)`",
    "clamp_min clip_min": "it is written `max(x, lo)`",
    "clamp_max clip_max": "it is written `min(x, hi)`",
    "no_grad stop_grad sg_ nograd stop": "a value without its gradient is `sg(x)`",
    "relu": "it is written `max(x, 0)`",
    "log_sigmoid": "it is called `logsigmoid(x)`",
    "tanh": "it is written `2 * sigmoid(2 * x) - 1`",
    "square sqr": "it is written `x^2`",
    "pow power": "it is written `x^n`",
    "sgn": "it is called `sign(x)`",
    "log2": "it is written `log(x) / log(2)`",
    "log10": "it is written `log(x) / log(10)`",
    "ln": "it is called `log(x)`",
    "exp2": "it is written `2^x`",
    "expm1": "it is written `exp(x) - 1`",
    "where_": "it is written `a if condition else b`",
    "iff ite if_else ifelse": "it is written `a if condition else b`",
    "sin cos tan atan arctan sinh cosh trunc gamma_ erf lgamma": _NO_NUMBER,
    "ceil": "it is written `-floor(-x)`",
    "round": "it is written `floor(x + 0.5)`",
    "mod fmod remainder": "it is written `x - n * floor(x / n)`",
    # reductions
    "percentile": "it is called `quantile[i](x, 0.4)`, with a fraction",
    "sort argsort mode": _NO_ORDER,
    "argmax argmin": "there is no argmax; `x == max[i] x` is its mask",
    "top_k": "it is called `topk[v](x, 20)`, a mask; the largest fifth is `top[p,i,t](x, 0.2)`",
    "cumsum": "it is written `sum[s <= t] x`, or `sum[s >= t] x` from the end",
    "cumprod": "it is written `prod[s <= t] x`",
    "cummean cummax cummin": "cumulative along the tokens are `sum[s <= t] x`, `mean` and `prod`",
    "softmax": "over the vocabulary it is the policy itself, `pi[v]`; over a group it is written "
    "`exp(x) / sum[i] exp(x)`",
    "log_softmax logsoftmax": "over the vocabulary it is `log(pi[v])`",
    "lse log_sum_exp": "it is called `logsumexp[i] x`",
    "logmeanexp": "it is written `logsumexp[i] x - log(count[i])`",
    "var variance pvar": "it is written `(std[i] x)^2`, or `(pstd[i] x)^2` with n instead of n - 1",
    "norm": "it is written `sqrt(sum[t] (x^2))`",
    "any": "for masks, write `max[t] m`",
    "all": "for masks, write `min[t] m`",
    "numel counts": "the number of elements is `count[i]`; of those in a mask, `count[t | m]`",
    "choose binom binomial nchoosek nCr nCk": "it is called `comb(n, k)`",
    "gmean geomean geometric_mean": "for token ratios over a response, write `geo(r)`",
    "hmean harmonic_mean": "it is written `1 / mean[t] (1 / x)`",
    "nanmean nansum masked_mean masked_sum": _MASKS,
    "whiten whitening masked_whiten normalize normalise standardize standardise zscore":
        "it is written `(x - mean[i] x) / (std[i] x + 1e-6)`",
    "KL kl_div kl_divergence KL_divergence D_KL KLD kld DKL": _DIVERGENCE,
    "k3_loss kl_loss low_var_kl": _DIVERGENCE,
    "H entropies": "the entropy of the next token is `entropy`",
    "cross_entropy nll nll_loss": "it is written `-log(pi)`",
    "discount discounted_sum cumulative_discounted": "it is called `togo(x, g)`",
    # values
    "advantage advantages adv advs Adv A_hat": _ADVANTAGE,
    "ratio ratios importance_ratio importance_weight coef_1": _RATIO,
    "logr log_ratio logratio": "it is written `log(pi / old)`",
    "prob probs probability":
        "the probability of the sampled token is `pi`; those of the whole vocabulary are `pi[v]`",
    "logits": "a policy is read as probabilities, `pi` and `pi[v]`; `log(pi[v])` are logits",
    "rewards score scores R return returns":
        "the reward of a response is `reward`; declare a column of your own: `given R[p,i]`",
    "values value critic_value": "the trained critic is `V`; at rollout time, `V_old`",
    "old_values values_old value_old": "the critic at rollout time is `V_old`",
    "length lengths len seq_len seqlen response_length completion_length num_tokens n_tokens L_i":
        "the length of a response is `|y|`",
    "N G B T K group_size num_generations batch_size n_responses": _SIZES,
    "mask masks loss_mask attention_mask response_mask completion_mask eos_mask": _MASKS,
    "epsilon clip_eps cliprange clip_range clip_ratio epsilon_low epsilon_high clip_ratio_low"
    " clip_ratio_high eps_low eps_high clip_low clip_high eps eps_clip eps_clip_low eps_clip_high"
    " eps_clip_higher ratio_clip_min ratio_clip_max":
        "the width of a clip is a parameter of the file: `param eps = 0.2 in (0, 1)`, and "
        "`clip(r, 1 - eps, 1 + eps)`; with two, `param eps_low` and `param eps_high`",
    "kl_coef kl_coeff kl_loss_coef init_kl_coef kl_ctl kl_beta":
        "the weight of a penalty is a parameter of the file: `param beta = 0.04 in [0, inf)`",
    "entropy_coef entropy_coeff ent_coef vf_coef":
        "it is a parameter of the file: `param c = 0.01 in [0, inf)`",
    "temperature": "it is set where responses are sampled: `sample from mu: temperature 1`",
    "theta": "the trained policy is `pi`, without arguments: `r = pi / old`",
    "sigma": "the sigmoid is `sigmoid(x)`, a standard deviation `std[i] x`",
    "I indicator Indicator": "a mask is a comparison: `(A > 0) * x`",
    "is_eos last is_last done terminal": "the last token of a response is `t == |y|`",
    "per_token_kl kls": _DIVERGENCE,
    "per_token_loss policy_loss pg_loss":
        "a file has a goal, and no loss: `maximize mean[p,i,t] (r * A)`",
    "eos pad bos": "there is no padding, and EOS is a token of the response like any other",
    "None True False true false null": "a mask is a comparison or a column, never a constant: "
    "write the formula without it",
}  # fmt: skip

RESPONSES_PER_PROMPT = (
    "n", "G", "K", "num_generations", "group_size", "n_samples", "n_samples_per_prompt",
)  # fmt: skip
"""Other names for the option `group` of `sample`."""

FRAMEWORKS = {
    "loss_type loss_mode policy_loss_type":
        "the loss is the formula of the file; `objdsl gallery` lists those that there are",
    "loss_agg_mode loss_reduction token_level_loss calculate_per_token_loss":
        "token-mean is `mean[p,i,t] x`, seq-mean-token-mean `mean[p,i] mean[t] x`, and "
        "seq-mean-token-sum `mean[p,i] sum[t] x`",
    "loss_scale_factor": "a constant divisor is in the goal: `mean[p,i] ((sum[t] x) / 4096)`",
    "adv_estimator advantage_estimator": _ADVANTAGE,
    "scale_rewards norm_adv_by_std_in_grpo grpo_norm_by_std normalize_rewards reward_norm adv_norm"
    " disable_grpo_std_normalization":
        "whether rewards are divided by their deviation is in the advantage: "
        "`A = (reward - mean[i] reward) / (std[i] reward + 1e-4)` or `A = reward - mean[i] reward`",
    "normalize_advantages whiten_advantages whiten_rewards advantage_batch_normalize":
        "over the step it is written `(A - mean[p,i] A) / (std[p,i] A + 1e-6)`",
    "multi_objective_aggregation reward_weights":
        "each reward is declared, `given correct[p,i] as reward`, and a formula adds them up: "
        "`R = correct + 0.2 * format`",
    "importance_sampling_level sequence_level_importance_ratios":
        "the ratio of a token is `pi / old`, that of a response `prod[t] (pi / old)`, and its "
        "geometric mean, as in GSPO, `geo(pi / old)`",
    "use_kl_loss": "a penalty is a term of the goal: `r * A - beta * k3(pi, ref)`",
    "use_kl_in_reward": "a penalty is a part of the reward: "
        "`R = reward - beta * sum[t] k1(old, ref)`",
    "kl_loss_type kl_penalty kl_penalty_type kl_estimator":
        "the estimators are `k1(pi, ref)` (kl), `k2(pi, ref)` (mse) and `k3(pi, ref)` (low_var_kl)",
    "use_bias_correction_kl use_unbiased_kl unbiased_gradient":
        "the estimate is multiplied by the ratio, with its gradient: `pi / old * k3(pi, ref)`",
    "target_kl kl_target":
        "a coefficient that adapts is a state: `objdsl gallery show adaptive_kl`",
    "mask_truncated_completions overlong_filtering apply_overlong_filtering":
        "a mask goes in the brackets: `mean[p,i,t | not truncated] x`",
    "overlong_buffer_len overlong_buffer overlong_penalty_factor":
        "it is a part of the reward: `R = reward - clip((|y| - 12288) / 4096, 0, 1)`",
    "missing_eos_penalty": "it is a part of the reward: `R = reward - (1 if truncated else 0)`",
    "top_entropy_quantile":
        "the mask of the fifth with the highest entropy is `top[p,i,t](entropy, 0.2)`",
    "clip_ratio_c eps_clip_c c_clip ratio_clip_c":
        "the bound for A < 0 is written `dual_clip(surrogate(r, A, 0.8, 1.2), A, 3)`",
    "vllm_importance_sampling_correction vllm_importance_sampling_mode vllm_importance_sampling_cap"
    " vllm_importance_sampling_clip_max use_importance_sampling_correction use_tis tis_clip"
    " tis_imp_ratio_cap rollout_is rollout_is_threshold rollout_correction is_correction"
    " truncated_importance_sampling_ratio truncated_importance_sampling_type":
        "the correction for the engine is a factor: of a token `sg(min(old / mu, 3))`, of a "
        "response `sg(min(prod[t] (old / mu), 3))`; a mask is a comparison: `(old / mu < 3) * x`",
    "rollout_rs rollout_rs_threshold rejection_sampling sequence_mask_metric":
        "a mask is a comparison: `(geo(old / mu) < 1.01) * x`, or `mean[p,i,t | m] x` where the "
        "denominator counts what is left",
    "off_policy_mask_threshold use_opsm opsm_delta":
        "it is a mask: `sg(A >= 0 or mean[t] log(mu / pi) <= 0.1) * x`",
    "filter_groups use_dynamic_sampling dynamic_sampling dynamic_filtering zero_variance_filter"
    " filter_zero_advantages remove_constant_reward_groups":
        "write `keep p where std[i] reward > 0`",
    "cliprange_value value_clip": "the critic has its own goal: "
        "`minimize critic mean[p,i,t] clipped_value_loss(reward, 0.2)`",
    "gae_lambda": "it is an argument: `A = gae(rho, 1, 0.95)`, with `rho` the reward of each token",
    "sapo_temperature_pos sapo_temperature_neg tau_pos tau_neg":
        "they are parameters of the file: `objdsl gallery show sapo`",
    "router_replay enable_router_replay use_routing_replay":
        "it is declared: `sample from mu: keep_routing`",
    "sync_ref_model ref_model_sync_steps ref_model_mixup_alpha":
        "a policy that follows is declared: `policy anchor = pi every 200 steps`, or "
        "`policy anchor = ema(pi, 0.999)`",
}  # fmt: skip
"""Settings of TRL, verl and others, and what a formula has instead."""

_FORMULAS = {word: text for words, text in FRAMEWORKS.items() for word in words.split()}

_WORDS = _FORMULAS | {word: text for words, text in _SENTENCES.items() for word in words.split()}
_WORDS |= {
    word: f"that policy is called `{policy}`" for policy, words in POLICIES.items()
    for word in words.split()
}  # fmt: skip
_WORDS |= {word: f"it is written `log({policy})`" for word, policy in LOGS.items()}
_WORDS |= {word: f"it is called `{name}`" for word, name in SYNONYMS.items()}

MODULES = (
    "torch",
    "F",
    "np",
    "numpy",
    "math",
    "tf",
    "jnp",
    "jax",
    "nn",
    "masked",
    "verl_F",
    "core_algos",
)
"""Module names before a function in code."""

ARGUMENTS = frozenset("theta phi psi omega x y s a o q z".split())
"""What papers write behind a symbol, and is no name here: `r(theta)`, `A(s, a)`."""

LATEX = {
    "frac": "a quotient is `a / b`; `\\frac{1}{G} \\sum_{i=1}^G` is `mean[i]`",
    "tfrac": "a quotient is `a / b`",
    "dfrac": "a quotient is `a / b`",
    "sum": "a sum has an index without limits: `sum[t] x`; with 1 / n in front, `mean[t] x`",
    "prod": "a product has an index without limits: `prod[t] r`",
    "log": "it is written `log(x)`",
    "ln": "it is written `log(x)`",
    "exp": "it is written `exp(x)`",
    "sqrt": "it is written `sqrt(x)`",
    "min": "it is written `min(a, b)`",
    "max": "it is written `max(a, b)`",
    "cdot": "a product is written `*`",
    "times": "a product is written `*`",
    "ast": "a product is written `*`",
    "pi": "the trained policy is `pi`, at rollout time `old`, the reference `ref`",
    "theta": "the trained policy is `pi`, without a subscript",
    "left": "brackets are `(` and `)`",
    "right": "brackets are `(` and `)`",
    "bigl": "brackets are `(` and `)`",
    "bigr": "brackets are `(` and `)`",
    "Big": "brackets are `(` and `)`",
    "big": "brackets are `(` and `)`",
    "hat": "names have no hats: `A`",
    "tilde": "names have no tildes: `A_2`",
    "bar": "names have no bars: a mean is `mean[i] x`",
    "text": "names are written plainly: `old`, `clip(x, lo, hi)`",
    "mathrm": "names are written plainly: `old`, `clip(x, lo, hi)`",
    "operatorname": "names are written plainly: `clip(x, lo, hi)`",
    "mathcal": "the objective has no name: `maximize ...`",
    "mathbb": "an expectation over a step is a mean: `mean[p] mean[i] mean[t] x`, `mean[p,i,t] x`",
    "mathbf": "a mask is a comparison: `(A > 0) * x`",
    "mathds": "a mask is a comparison: `(A > 0) * x`",
    "KL": _DIVERGENCE,
    "nabla": "do not write the gradient: objdsl derives it",
    "vert": "the length of a response is `|y|`",
    "lvert": "the length of a response is `|y|`",
    "rvert": "the length of a response is `|y|`",
    "mid": "the length of a response is `|y|`; a mask goes in the brackets: `mean[t | m] x`",
    "Vert": _DIVERGENCE,
    "le": "it is written `<=`",
    "leq": "it is written `<=`",
    "ge": "it is written `>=`",
    "geq": "it is written `>=`",
    "neq": "it is written `!=`",
    "ne": "it is written `!=`",
    "infty": "it is written `inf`",
    "epsilon": "it is written `eps`, and declared: `param eps = 0.2 in (0, 1)`",
    "varepsilon": "it is written `eps`, and declared: `param eps = 0.2 in (0, 1)`",
    "beta": "it is written `beta`, and declared: `param beta = 0.04 in [0, inf)`",
    "gamma": "it is written `gamma`, and declared: `param gamma = 1 in [0, 1]`",
    "lambda": "it is written `lam`, and declared: `param lam = 0.95 in [0, 1]`",
    "sigma": "the sigmoid is `sigmoid(x)`, a standard deviation `std[i] x`",
    "mu": "the inference engine is `mu`; a mean is `mean[i] x`",
    "mathbin": "operators are written plainly",
    "quad": "spaces need no command",
    "begin": "a statement is one line, or continues inside brackets",
    "end": "a statement is one line, or continues inside brackets",
}
"""How LaTeX commands are written here."""

_EXPECTATION = re.compile(r"(?:E|Exp|EE|mathbbE|expect|expected)(?:_\w*)?$")
_SUFFIXES = re.compile(r"_(?:p|i|t|v|it|i_t|theta|k|n)$")


def in_formulas(setting: str) -> str | None:
    """What a formula has instead of a setting of a framework, as half a sentence."""
    return _FORMULAS.get(setting)


def of_the_language(name: str) -> str:
    """The name of a policy here: `old` for `pi_theta_old`."""
    name = ALIASES.get(name, name)
    return next((policy for policy, words in POLICIES.items() if name in words.split()), name)


def without_indices(name: str) -> str:
    """The name without a subscript that papers write: `A` for `A_it`."""
    return _SUFFIXES.sub("", name)


def translation(name: str) -> str | None:
    """How to write a name of a different notation here, as half a sentence; None if unknown."""
    for word in (name, name.lower(), without_indices(name)):
        if word in _WORDS:
            return _WORDS[word]
    return None


def is_expectation(name: str) -> bool:
    """Whether a name denotes an expectation in papers: `E`, `E_t`."""
    return _EXPECTATION.match(name) is not None


def is_divergence(name: str) -> bool:
    """Whether a name is that of the Kullback-Leibler divergence: `KL`, `D_KL`."""
    return name.lower().replace("_", "").strip("d") in ("kl", "kldiv", "kldivergence")
