"""verl's policy losses, the bonus of the entropy, and the KL to the reference."""

from __future__ import annotations

from objdsl.frameworks import verl_correction
from objdsl.frameworks.verl_writer import Run

LOSSES = (
    "vanilla", "dppo_tv", "dppo_kl", "gspo", "sapo", "gpg", "clip_cov", "kl_cov", "geo_mean", "dro",
    "cispo", "bypass_mode",
)  # fmt: skip
_ACTOR = "actor_rollout_ref.actor."
_MODE = f"{_ACTOR}policy_loss.loss_mode"


def write(run: Run) -> str:
    """Defines what a token contributes; what is maximised."""
    settings = run.settings
    loss = settings.choice(_MODE, LOSSES)
    kept, reinforce = run.kept, False
    if loss == "bypass_mode":  # without what the trainer before `v1` adds: `vanilla`, no weights
        run.weight = ""
    if run.bypass and not run.v1:
        loss = "bypass_mode"
        kept, reinforce = _bypassed(run)
    comment = f"actor.policy_loss.loss_mode: {loss}"
    run.gap()
    extras = _regularisers(run)
    scale = f"{_ACTOR}loss_scale_factor"
    if loss == "geo_mean":
        goal = _geo_mean(run, comment)
    else:
        run.write(f"X = {_of_token(run, loss, reinforce)}", comment)
        mode = "seq-mean-token-mean" if loss == "sapo" else run.mode
        if mode == run.mode and kept == run.kept:
            added = "".join(f" {sign} {factor} * {value}" for sign, factor, value in extras)
            total = f"(X{added})" if added else "X"
            return run.aggregated(total, mode, scale, kept, run.v1)
        goal = run.aggregated("X", mode, scale, kept, run.v1 or kept != run.kept)
    for sign, factor, value in extras:
        goal += f" {sign} {factor} * ({run.aggregated(value, run.mode, scale, None, run.v1)})"
    return goal


def _regularisers(run: Run) -> list[tuple[str, str, str]]:
    """The bonus of the entropy and the penalty of the KL: signs, factors, and values of tokens."""
    settings, terms = run.settings, []
    coefficient = settings.number(f"{_ACTOR}entropy_coeff")
    if coefficient:
        sign = "-" if coefficient < 0 else "+"
        terms.append(
            (
                sign,
                run.param("alpha", f"{_ACTOR}entropy_coeff", "[0, inf)", abs(coefficient)),
                "entropy",
            )
        )
    if settings.flag(f"{_ACTOR}use_kl_loss"):
        beta = run.param("beta", f"{_ACTOR}kl_loss_coef", "(-inf, inf)")
        divergence = run.divergence(f"{_ACTOR}kl_loss_type", "pi", gradient=True)
        kind = " ".join(settings.words(f"{_ACTOR}kl_loss_type"))
        run.write(f"D = {divergence}", f"actor.kl_loss_type: {kind}")
        terms.append(("-", beta, "D"))
    return terms


def _bounds(run: Run) -> tuple[str, str]:
    """The bounds of the clip, as parameters; `clip_ratio` counts where they are null."""
    settings = run.settings
    names = []
    for side in ("low", "high"):
        name = f"{_ACTOR}clip_ratio_{side}"
        names.append(f"{_ACTOR}clip_ratio" if settings.optional(name) is None else name)
    low, high = (settings.number(name) for name in names)
    if settings.is_set(clip := f"{_ACTOR}clip_ratio") and settings.number(clip) not in (low, high):
        run.outside.append(
            "actor.clip_ratio does nothing unless clip_ratio_low and clip_ratio_high are null"
        )
    run.param("eps", names[0], "[0, inf)")
    if low == high:
        return "eps", "eps"
    return "eps", run.param("eps_high", names[1], "[0, inf)")


def _of_token(run: Run, loss: str, reinforce: bool) -> str:
    """What a token contributes."""
    settings, old = run.settings, run.old
    factor = f"{run.weight} * " if run.weight else ""
    if reinforce or loss == "gpg":
        return f"{factor}A * log(pi)"
    if loss == "dro":
        name = f"{_ACTOR}policy_loss.dro_beta"
        if (settings.optional(name) or 0) <= 0:
            settings.refuse(
                settings.first(name, _MODE),
                "`dro` without a penalty",
                f"verl asks for a positive {name}",
            )
            return "0"
        run.param("dro_beta", name, "(0, inf)")
        return f"{factor}(A * log(pi) - dro_beta * k2(pi, {old}))"
    if loss not in ("clip_cov", "kl_cov"):
        run.limit = 10 if loss == "gspo" else 20
    if loss == "sapo":
        positive, negative = (settings.number(f"{_ACTOR}tau_{side}") for side in ("pos", "neg"))
        run.write(f"r = pi / {old}")
        run.write(f"tau = {positive:.12g} if A > 0 else {negative:.12g}", "actor.tau_pos, tau_neg")
        return f"{factor}(4 / tau) * sigmoid(tau * (r - 1)) * A"
    if loss == "kl_cov":
        return _kl_cov(run, factor)
    low, high = _bounds(run)
    if loss == "gspo":
        run.write(f"q = sg(exp(mean[t{run.kept}] log(pi / {old})))")
        run.write("r = q * (pi / sg(pi))")
        return f"{factor}surrogate(r, A, 1 - {low}, 1 + {high})"
    run.write(f"r = pi / {old}")
    if loss == "cispo":
        return f"{factor}sg(clip(r, 1 - {low}, 1 + {high})) * A * log(pi)"
    if loss == "clip_cov":
        return _clip_cov(run, factor, low, high)
    bound = settings.number(f"{_ACTOR}clip_ratio_c")
    if loss in ("vanilla", "bypass_mode") and bound <= 1:
        settings.refuse(
            f"{_ACTOR}clip_ratio_c", "`clip_ratio_c` is at most 1", "verl asks for more"
        )
    run.param("c", f"{_ACTOR}clip_ratio_c", "(0, inf)")
    if loss.startswith("dppo"):
        _far(run, loss, low, high)
        return f"{factor}(0 if far else sg(min(r, c)) * A * log(pi))"
    return f"{factor}dual_clip(surrogate(r, A, 1 - {low}, 1 + {high}), A, c)"


def _far(run: Run, loss: str, low: str, high: str) -> None:
    """The mask of tokens that have moved too far in the direction of their advantage."""
    old = run.old
    if loss == "dppo_tv":
        run.write(f"d = pi - {old}")
        run.write(f"far = (A > 0 and d > {high}) or (A <= 0 and d < -{low})")
        return
    run.write(
        f"d = {old} * log({old} / pi) + (1 - {old}) * log((1 - {old} + 1e-8) / (1 - pi + 1e-8))"
    )
    run.write(
        f"far = (A > 0 and d > {high} and pi > {old}) or (A <= 0 and d > {low} and pi < {old})"
    )


def _covariance(run: Run, loss: str) -> None:
    """The covariance of advantage and log-probability, a statistic of a micro-batch."""
    if (
        run.micro_batches(_MODE, f"`{loss}` takes covariances of a micro-batch") != 1
        or run.ranks != 1
    ):
        run.settings.refuse(
            _MODE,
            f"the covariances of `{loss}` are those of each micro-batch",
            "the language has those of the step; they are the same with a single micro-batch: "
            "one device, and ppo_micro_batch_size_per_gpu = ppo_mini_batch_size * rollout.n",
        )
    over = f"p,i,t{run.kept}"
    run.write(f"cov = (A - mean[{over}] A) * (log(pi) - mean[{over}] log(pi))")


def _fraction(run: Run, setting: str) -> str:
    """A share of the tokens, at least one of them."""
    share = run.param("share", f"{_ACTOR}policy_loss.{setting}", "(0, inf)")
    return f"max({share}, 1 / sum[p,i,t{run.kept}] 1)"


def _kl_cov(run: Run, factor: str) -> str:
    run.write(f"r = pi / {run.old}")
    run.param("penalty", f"{_ACTOR}policy_loss.ppo_kl_coef", "(-inf, inf)")
    share = _fraction(run, "kl_cov_ratio")
    _covariance(run, "kl_cov")
    run.write(f"pay = top[p,i,t{run.kept}](cov, {share})", "actor.policy_loss.kl_cov_ratio")
    return f"{factor}(r * A - (penalty * abs(log(r)) if pay else 0))"


def _clip_cov(run: Run, factor: str, low: str, high: str) -> str:
    settings = run.settings
    share = _fraction(run, "clip_cov_ratio")
    _covariance(run, "clip_cov")
    bounds = [settings.number(f"{_ACTOR}policy_loss.clip_cov_{side}") for side in ("lb", "ub")]
    run.write(f"clipped = (A > 0 and r > 1 + {high}) or (A < 0 and r < 1 - {low})")
    inside = f"cov > {bounds[0]:.12g} and cov < {bounds[1]:.12g} and not clipped"
    if run.kept:
        inside += " and kept"
    run.write(f"drop = pick[p,i,t]({inside}, {share})", "actor.policy_loss.clip_cov_*")
    return f"{factor}(0 if drop else surrogate(r, A, 1 - {low}, 1 + {high}))"


def _geo_mean(run: Run, comment: str) -> str:
    """GMPO's mean over responses, which is one over each micro-batch."""
    low, high = _bounds(run)
    mask = run.kept
    run.write(f"z = log(pi / {run.old})")
    run.write(f"C = sign(A) * min(sign(A) * z, sign(A) * clip(z, -{low}, {high}))")
    weight = ""
    if run.weight:
        weight = f"log({run.weight} + 1e-10)"
        weight = f" * exp({f'mean[t{mask}] {weight}' if run.weight_by_token else weight})"
    advantage = f"(mean[t{mask}] A)" if run.by_token else "A"
    if run.kept and not run.by_token:
        some = "sum[t | kept] 1 > 0" if run.kept_by_token else "kept"
        advantage = f"(A if {some} else 0)"
    run.write(f"X = {advantage} * exp(mean[t{mask}] C){weight}", comment)
    parts = run.micro_batches(_MODE, "`geo_mean` is the sum of the means of micro-batches")
    if parts is None:
        run.write(f"size = sum[p,i by {run.number()}] 1", "actor.use_dynamic_bsz")
        total = "sum[p,i] (X / size)"
        return total if run.ranks == 1 else f"({total}) / {run.ranks}"
    if parts == 1:
        return "mean[p,i] X"
    run.outside.append(
        f"with geo_mean the micro-batches of a rank, {parts}, are added up, and not averaged"
    )
    return f"{parts} * (mean[p,i] X)"


def _bypassed(run: Run) -> tuple[str, bool]:
    """The trainer before `v1` corrects in the loss, by what the policy is then.

    Returns:
        The mask of tokens that it sums, and whether the loss is REINFORCE's.
    """
    settings, section = run.settings, verl_correction.SECTION
    kept = verl_correction.mask(run, "pi")
    if settings.choice(f"{section}loss_type", ("ppo_clip", "reinforce")) == "ppo_clip":
        return kept, False
    weight = verl_correction.weights(run, "pi")
    if weight:
        run.weight = f"sg({weight})"
        normalised = f"{section}rollout_is_batch_normalize"
        reason = "weights are normalised over it"
        if settings.flag(normalised) and run.micro_batches(normalised, reason) != 1:
            settings.refuse(
                normalised,
                "weights are normalised over each micro-batch",
                "the language has the mean of the step; it is the same with one micro-batch for "
                "each rank",
            )
    return kept, True
