"""verl's advantage estimators, and the KL in the reward."""

from __future__ import annotations

from objdsl.frameworks.verl_writer import Run

ESTIMATORS = (
    "gae", "grpo", "grpo_vectorized", "rloo", "rloo_vectorized", "reinforce_plus_plus",
    "reinforce_plus_plus_baseline", "remax", "opo", "gpg", "grpo_passk", "gdpo",
    "optimal_token_baseline", "tir_optimal_token_baseline",
)  # fmt: skip
_OF_TOKENS = (
    "gae", "reinforce_plus_plus", "remax", "optimal_token_baseline", "tir_optimal_token_baseline",
)  # fmt: skip
_BEFORE_V1 = ("remax", "gdpo", "optimal_token_baseline", "tir_optimal_token_baseline")
_NAME = "algorithm.adv_estimator"


def write(run: Run) -> None:
    """The advantage `A`, and the critic's target `T` if there is a critic."""
    settings = run.settings
    estimator = settings.choice(_NAME, ESTIMATORS)
    if run.v1 and estimator in _BEFORE_V1:
        settings.refuse(
            _NAME,
            f"the trainer `v1` does not give `{estimator}` what it reads",
            "it fails there; set trainer.use_v1=false",
        )
    if settings.flag("algorithm.use_pf_ppo"):
        if estimator == "gae":
            settings.refuse(
                "algorithm.use_pf_ppo",
                "responses are drawn again, with weights by their rewards",
                "no formula says which; without it, the objective is the one of `gae`",
            )
        else:
            run.outside.append(f"use_pf_ppo does nothing with `{estimator}`")
    reward = "reward"
    if estimator == "gdpo":
        if settings.flag("algorithm.use_kl_in_reward"):
            run.outside.append("use_kl_in_reward does nothing with `gdpo`")
    else:
        reward = _reward(run, estimator in _OF_TOKENS)
    run.by_token = estimator in _OF_TOKENS
    run.gap()
    match estimator:
        case "gae":
            target = _gae(run, reward)
        case "reinforce_plus_plus":
            gamma = run.param("gamma", "algorithm.gamma", "[0, 1]")
            of_kept = f"({reward} if kept else 0), ({gamma} if kept else 1)"
            run.write(
                f"G = togo({of_kept if run.kept_by_token else f'{reward}, {gamma}'})",
                f"{_NAME}: {estimator}",
            )
            _whitened(run, "G")
            target = "G"
        case "reinforce_plus_plus_baseline":
            run.write(f"B = {_centred(run, reward)}", f"{_NAME}: {estimator}")
            _whitened(run, "B")
            target = "A"
        case "remax":
            run.given("greedy[p]", "the reward of a greedy response")
            summed = f"({reward} if kept else 0)" if run.kept_by_token else reward
            run.write(f"G = sum[s >= t] {summed}", f"{_NAME}: {estimator}")
            run.write("A = G - greedy")
            target = "G"
        case "optimal_token_baseline" | "tir_optimal_token_baseline":
            target = _token_baseline(run, reward, estimator)
        case "gdpo":
            target = _decoupled(run)
        case _:
            run.write(f"A = {_of_responses(run, reward, estimator)}", f"{_NAME}: {estimator}")
            target = "A"
    if run.critic:
        run.write(f"T = {target}")


def _reward(run: Run, by_token: bool) -> str:
    """The reward with its penalty, of a response or of its tokens; its name, or its formula."""
    settings = run.settings
    last = "(t == |y|) * reward" if by_token else "reward"
    if not settings.flag("algorithm.use_kl_in_reward"):
        if not by_token:
            return "reward"
        run.write(f"rho = {last}")
        return "rho"
    penalty = run.divergence("algorithm.kl_penalty", run.old, gradient=False)
    coefficient = settings.number("algorithm.kl_ctrl.kl_coef")
    if settings.choice("algorithm.kl_ctrl.type", ("fixed", "adaptive")) == "fixed":
        run.param("kl_coef", "algorithm.kl_ctrl.kl_coef", "(-inf, inf)")
    else:
        target = settings.number("algorithm.kl_ctrl.target_kl")
        horizon = settings.count("algorithm.kl_ctrl.horizon")
        run.write(f"K = mean[p,i] mean[t] {penalty}")
        change = f"clip(K / {target:.12g} - 1, -0.2, 0.2) * count[p,i] / {horizon}"
        run.write(
            f"state kl_coef = {coefficient:.12g} next kl_coef * (1 + {change})",
            "algorithm.kl_ctrl: adaptive",
        )
        if run.rollout_steps > 1:
            run.outside.append("the coefficient of the KL counts all responses of the rollout")
    comment = f"algorithm.kl_penalty: {settings.words('algorithm.kl_penalty')[0]}"
    if by_token:
        run.write(f"rho = {last} - kl_coef * {penalty}", comment)
        return "rho"
    run.write(f"R = reward - kl_coef * sum[t] {penalty}", comment)
    return "R"


def _centred(run: Run, reward: str) -> str:
    return reward if run.group == 1 else f"{reward} - mean[i] {reward}"


def _scaled(run: Run, centred: str, reward: str, estimator: str) -> str:
    """Divided by the standard deviation of the group, if norm_adv_by_std_in_grpo is set."""
    if not run.settings.flag("algorithm.norm_adv_by_std_in_grpo"):
        if estimator not in ("grpo_vectorized", "gdpo"):
            return centred
        sentence = f"norm_adv_by_std_in_grpo does nothing with `{estimator}`"
        run.outside += [] if sentence in run.outside else [sentence]
    deviation = "1" if run.group == 1 else f"std[i] {reward}"
    return f"({centred}) / ({deviation} + 1e-6)"


def _of_responses(run: Run, reward: str, estimator: str) -> str:
    """The advantage of a response."""
    alone = run.group == 1
    if alone and estimator in ("grpo_passk", "rloo_vectorized"):
        run.settings.refuse(
            run.settings.first("actor_rollout_ref.rollout.n", _NAME),
            f"`{estimator}` compares responses, and `rollout.n` is 1",
            "set actor_rollout_ref.rollout.n",
        )
        return reward
    match estimator:
        case "grpo" | "grpo_vectorized":
            return _scaled(run, _centred(run, reward), reward, estimator)
        case "grpo_passk":
            return _scaled(run, f"max({reward} - max[j != i] {reward}, 0)", reward, estimator)
        case "gpg":
            share = f"count[p,i] / max(count[p,i | {reward} != 0], 1)"
            return f"{share} * ({_centred(run, reward)})"
        case "opo" if not alone:
            length = "|y|"
            if run.kept:
                run.write("n = sum[t | kept] 1" if run.kept_by_token else "n = |y| if kept else 0")
                length = "n"
            return f"{reward} - (sum[i] ({length} * {reward})) / (sum[i] {length})"
        case "rloo" | "rloo_vectorized" if not alone:
            return f"{reward} - mean[j != i] {reward}"
    return reward


def _whitened(run: Run, name: str) -> None:
    over = f"p,i,t{run.kept}"
    run.write(f"A = ({name} - mean[{over}] {name}) / sqrt((std[{over}] {name})^2 + 1e-8)")


def _gae(run: Run, reward: str) -> str:
    run.param("gamma", "algorithm.gamma", "[0, 1]")
    run.param("lam", "algorithm.lam", "[0, 1]")
    if run.kept_by_token:  # a token that is rejected is passed over
        run.write("N = next(togo((V_old if kept else 0), (0 if kept else 1)))")
        run.write(f"delta = {reward} + gamma * N - V_old")
        run.write("B = togo((delta if kept else 0), (gamma * lam if kept else 1))", f"{_NAME}: gae")
    else:
        run.write(f"B = gae({reward}, gamma, lam)", f"{_NAME}: gae")
    _whitened(run, "B")
    return "B + V_old"


def _token_baseline(run: Run, reward: str, estimator: str) -> str:
    settings = run.settings
    summed = "actor_rollout_ref.actor.calculate_sum_pi_squared"
    if not settings.flag(summed):
        settings.refuse(
            settings.first(summed, _NAME),
            f"`{estimator}` reads the sums of squared probabilities",
            f"verl asks for {summed}=true",
        )
    if run.bypass:
        settings.refuse(
            "algorithm.rollout_correction.bypass_mode",
            f"`{estimator}` reads the whole distribution, which bypass_mode does not compute",
            "it fails in verl",
        )
    if run.kept_by_token:
        settings.refuse(
            "algorithm.rollout_correction.rollout_rs",
            f"`{estimator}` with rejected tokens is not read",
            "reject whole responses (seq_mean_k1 and others)",
        )
    run.write(f"G = sum[s >= t] {reward}", f"{_NAME}: {estimator}")
    if run.group == 1:
        run.write("A = G")
        return "G"
    squared = "1 - 2 * old + sum[v] (old[v]^2)"
    if run.weight:
        squared = f"({squared}) * {run.weight}^2"
    run.write(f"Y = sum[s <= t] ({squared})")
    length = "|y|"
    if run.kept:
        run.write("n = |y| if kept else 0")
        length = "n"
    run.write(
        f"b = 0 if t > max[j != i] {length} else "
        f"(sum[i by t{run.kept}] (Y * G)) / (sum[i by t{run.kept}] Y + 1e-8)"
    )
    run.write("A = G - b")
    return "G"


def _decoupled(run: Run) -> str:
    """Rewards that are normalised apart."""
    settings = run.settings
    names = settings.words("algorithm.gdpo_reward_keys")
    if not names:
        settings.refuse(_NAME, "`gdpo` without rewards", "verl asks for algorithm.gdpo_reward_keys")
        return "A"
    weights = settings.numbers("algorithm.gdpo_reward_weights") or [1.0] * len(names)
    if len(weights) != len(names):
        settings.refuse(
            "algorithm.gdpo_reward_weights",
            f"there are {len(names)} rewards, but {len(weights)} weights",
            "verl takes a weight for each of algorithm.gdpo_reward_keys",
        )
    names = [run.named(name) for name in names]
    for name in names:
        run.given(f"{name}[p,i] as reward", "algorithm.gdpo_reward_keys")
    terms = [
        ("" if weight == 1 else f"{weight:.12g} * ")
        + _scaled(run, _centred(run, name), name, "gdpo")
        for name, weight in zip(names, weights, strict=False)
    ]
    run.write(f"B = {' + '.join(terms)}", f"{_NAME}: gdpo")
    _whitened(run, "B")
    return "A"
