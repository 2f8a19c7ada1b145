"""verl's correction between the engines: weights and rejected tokens."""

from __future__ import annotations

from typing import Any

from objdsl.diagnostic import near
from objdsl.frameworks.verl_writer import Run

CRITERIA = (
    "token_k1", "token_k2", "token_k3", "seq_sum_k1", "seq_sum_k2", "seq_sum_k3", "seq_mean_k1",
    "seq_mean_k2", "seq_mean_k3", "seq_max_k2", "seq_max_k3",
)  # fmt: skip
_REDUCTIONS = {"token": "", "seq_sum": "sum[t] ", "seq_mean": "mean[t] ", "seq_max": "max[t] "}
SECTION = "algorithm.rollout_correction."


def write(run: Run) -> None:
    """The weights and the mask that are computed with the advantages, before the policy moves."""
    settings = run.settings
    asked = any(settings.is_set(f"{SECTION}{name}") for name in ("rollout_is", "rollout_rs"))
    known = settings.flag("actor_rollout_ref.rollout.calculate_log_probs")
    if run.bypass:
        if not known:
            settings.refuse(
                f"{SECTION}bypass_mode",
                "`bypass_mode` without the log-probabilities of the rollout",
                "verl asks for actor_rollout_ref.rollout.calculate_log_probs=true",
            )
        if run.v1 and asked:
            run.outside.append(
                "with bypass_mode the trainer `v1` reads neither rollout_is nor rollout_rs"
            )
        return
    if not known:
        if asked:
            run.outside.append("without rollout.calculate_log_probs there is no rollout correction")
        return
    run.weight = weights(run, "old")
    run.kept = mask(run, "old")
    if run.rollout_steps > 1 and settings.flag(f"{SECTION}rollout_is_batch_normalize"):
        run.outside.append("weights are normalised over the rollout")


def weights(run: Run, policy: str) -> str:
    """The weights between a policy and the sampler, defined; their name, or nothing."""
    settings = run.settings
    threshold = f"{SECTION}rollout_is_threshold"
    if settings.value(f"{SECTION}rollout_is") is None or settings.value(threshold) is None:
        return ""
    level = settings.choice(f"{SECTION}rollout_is", ("token", "sequence"))
    run.weight_by_token = level == "token"
    ratio = f"{policy} / mu" if level == "token" else f"prod[t] ({policy} / mu)"
    run.write(f"W = {ratio}", f"rollout_correction.rollout_is: {level}")
    bounds = _numbers(settings.value(threshold))
    if not bounds or len(bounds) > 2 or bounds[0] <= 0 or bounds != sorted(bounds):
        settings.refuse(
            threshold,
            f"`{threshold}` cannot bound the weights",
            "verl takes 2.0, or 0.5_2.0 for both bounds",
        )
        return "w"
    bounded = f"min(W, {bounds[0]:.12g})"
    if len(bounds) == 2:
        bounded = f"W if W >= {bounds[0]:.12g} and W <= {bounds[1]:.12g} else 0"
    comment = "rollout_correction.rollout_is_threshold"
    if not settings.flag(f"{SECTION}rollout_is_batch_normalize"):
        run.write(f"w = {bounded}", comment)
        return "w"
    over = "p,i,t" if level == "token" else "p,i"
    run.write(f"m = {bounded}", comment)
    run.write(f"w = m / mean[{over}] m", "rollout_correction.rollout_is_batch_normalize")
    return "w"


def mask(run: Run, policy: str) -> str:
    """The mask of the tokens that are not rejected, defined; ` | kept`, or nothing."""
    settings = run.settings
    name, threshold = f"{SECTION}rollout_rs", f"{SECTION}rollout_rs_threshold"
    value = settings.value(name)
    if value is None:
        return ""
    criteria = list(dict.fromkeys(_words(value)))
    wrong = [x for x in criteria if x not in CRITERIA]
    if wrong or not criteria:
        guess = near(wrong[0], CRITERIA) if wrong else None
        settings.refuse(
            name,
            f"`{name}` cannot be {value!r}",
            f"did you mean `{guess}`?" if guess else f"verl takes {', '.join(CRITERIA)}",
        )
        return ""
    bounds = _words(settings.value(threshold))
    bounds = bounds * len(criteria) if len(bounds) == 1 else bounds
    conditions = [
        _condition(criterion, bound, policy)
        for criterion, bound in zip(criteria, bounds, strict=False)
    ]
    if len(conditions) != len(criteria) or not all(conditions):
        settings.refuse(
            settings.first(threshold, name),
            f"`{threshold}` cannot bound {', '.join(criteria)}",
            "verl takes a bound, or one for each criterion: `0.5_2.0` for k1, `0.01` for others",
        )
        return ""
    run.write(f"kept = {' and '.join(conditions)}", f"rollout_correction.rollout_rs: {value}")
    run.kept_by_token = any(x.startswith("token") for x in criteria)
    return " | kept"


def _condition(criterion: str, bound: str, policy: str) -> str:
    """The condition under which a token is kept; nothing if the bound is none."""
    level, _, estimate = criterion.rpartition("_")
    bounds = _numbers(bound)
    if not bounds or min(bounds) <= 0 or len(bounds) > (2 if estimate == "k1" else 1):
        return ""
    statistic = f"{_REDUCTIONS[level]}{estimate}(mu, {policy})"
    if estimate != "k1":
        return f"{statistic} <= {bounds[0]:.12g}"
    low = f"log({bounds[0]:.12g})" if len(bounds) == 2 else f"-log({bounds[0]:.12g})"
    return f"{statistic} >= {low} and {statistic} <= log({bounds[-1]:.12g})"


def _words(value: Any) -> list[str]:
    """Words that are separated by commas."""
    return [] if value is None else [x.strip() for x in str(value).split(",") if x.strip()]


def _numbers(value: Any) -> list[float]:
    """Numbers that are separated by `_`; none if it is anything else."""
    try:
        return [] if isinstance(value, bool) else [float(x) for x in str(value).split("_")]
    except ValueError:
        return []
