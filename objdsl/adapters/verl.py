"""Objectives in verl: a policy loss and an advantage estimator for its registries.

    import objdsl
    from objdsl.adapters.verl import advantage_estimator, policy_loss
    from verl.trainer.ppo.core_algos import register_adv_est, register_policy_loss

    objective = objdsl.load("rloo.obj")
    register_policy_loss("rloo_obj")(policy_loss(objective))
    register_adv_est("rloo_obj")(advantage_estimator(objective))

verl computes advantages where the whole batch is, on the driver, and losses on workers that see a
micro-batch without rewards or groups. An objective is cut at the same place: into one value of the
data, the advantage, and what remains, which may read `pi`, `old` and the advantage alone. What does
not come apart like this is refused.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from verl.workers.config import ActorConfig

import objdsl.ir.nodes as n
from objdsl.adapters.needs import UNLEARNED, UnsupportedError, branching
from objdsl.frozen import dataclass
from objdsl.ir.build import neg
from objdsl.ir.columns import LogProbs, Reading, Reward, column_of
from objdsl.ir.indices import RESPONSE, SCALAR, TOKEN, Indices
from objdsl.objective import Objective
from objdsl.step.inputs import widest
from objdsl.step.values import Values

# The divisors of verl for a sum over the rows of an optimizer step.
Divisor = Literal["tokens", "responses", "nothing"]

MODES: dict[Divisor, tuple[str, ...]] = {
    "tokens": ("token-mean",),
    "responses": ("seq-mean-token-mean", "seq-mean-token-sum", "seq-mean-token-sum-norm"),
    "nothing": ("token-sum",),
}

# Settings of ActorConfig about the policy loss, which the objective decides.
DECIDED = ("clip_ratio", "clip_ratio_low", "clip_ratio_high", "clip_ratio_c", "tau_pos", "tau_neg")

_ADVANTAGE = "the advantage"  # no column of a file is called so
_PI, _OLD = LogProbs("pi"), LogProbs("old")


@dataclass(frozen=True)
class Halves:
    """An objective, cut where verl cuts.

    Attributes:
        advantage: a value of the data, or None if nothing needs one.
        rows: the sum over rows of what remains, a function of `pi`, `old` and `advantage`.
        divisor: what that sum is divided by.
    """

    advantage: n.Expr | None
    rows: Objective
    divisor: Divisor


def halves(objective: Objective) -> Halves:
    """Cuts an objective into what verl's driver and its workers can compute.

    Raises:
        UnsupportedError: it does not come apart; with what is in the way.
    """
    formula = objective.formula
    normalised = _normalised(formula.goal)
    if formula.keep is not None:
        raise _unsupported(objective, "it keeps some prompts only: use algorithm.filter_groups")
    for number in formula.learned:
        raise _unsupported(objective, f"it learns `{number.name}`, {UNLEARNED}")
    for reason in branching(objective):
        raise _unsupported(objective, reason)
    if normalised is None:
        raise _unsupported(
            objective,
            "verl divides a sum over tokens by the tokens of the step, or one over responses by "
            "the responses, and passes no other count to a worker",
        )
    inner, over, divisor = normalised
    reasons, cut = _cut(objective, inner)
    if reasons:
        raise _unsupported(objective, *reasons)
    reports = []
    for report in formula.reports:
        value = _with_column(report.value, cut)
        mean = _normalised(value)
        if mean is not None and not [*_out_of_reach(mean[0])]:
            reports.append(replace(report, value=value))
    rows = replace(
        formula,
        goal=n.Reduce("sum", over, _with_column(inner, cut)),
        critic=None,
        reports=tuple(reports),
    )
    return Halves(cut, Objective(rows, objective.params), divisor)


def policy_loss(objective: Objective) -> Callable[..., tuple[Tensor, dict[str, float]]]:
    """The loss of a micro-batch, for `register_policy_loss`.

    The objective decides on clips and denominators. verl adds the bonus of entropy and the KL to
    the reference, if its settings ask for them, and trains the critic by a loss of its own. Reports
    are means over a micro-batch, as verl's own metrics are; those that need more rows are dropped.

    Raises:
        UnsupportedError: here, if workers lack what the loss reads; from the loss, if the actor's
            settings contradict the objective.
    """
    cut = halves(objective)
    if objective.formula.critic is not None:
        warnings.warn(
            f"verl trains the critic by its own loss: `minimize critic` of {objective.name} is "
            "ignored",
            stacklevel=2,
        )

    def loss(
        *,
        old_log_prob: Tensor,
        log_prob: Tensor,
        advantages: Tensor,
        response_mask: Tensor,
        loss_agg_mode: str = "token-mean",
        config: Any = None,
        rollout_is_weights: Tensor | None = None,
    ) -> tuple[Tensor, dict[str, float]]:
        """The loss and the reports of a micro-batch, from tensors `[N, T]`.

        Raises:
            UnsupportedError: the actor's settings contradict the objective.
        """
        reasons = [*_contradicted(cut, loss_agg_mode, config, rollout_is_weights)]
        if reasons:
            raise _unsupported(objective, *reasons)
        info = {} if config is None else config.global_batch_info
        mask = response_mask.bool()
        used = mask.any(1)
        ranks = info.get("dp_size") or 1
        if not bool(used.any()):
            return 0 * log_prob.sum(), {}
        columns = {_OLD.name: old_log_prob[used]}
        if _ADVANTAGE in cut.rows.columns:
            columns[_ADVANTAGE] = advantages[used]
            if cut.rows.columns[_ADVANTAGE].indices == RESPONSE:  # the same at every live token
                first = mask[used].int().argmax(1, keepdim=True)
                columns[_ADVANTAGE] = advantages[used].gather(1, first).squeeze(1)
        given: dict[str, Any] = {k: x for k, x in columns.items() if k in cut.rows.columns}
        step = cut.rows.prepare(
            prompt=torch.arange(int(used.sum()), device=mask.device), mask=mask[used], **given
        )
        out = cut.rows(log_prob[used], step)
        divisor = _divisor(cut.divisor, mask, info)
        return out.loss / divisor * ranks, {k: float(x) for k, x in out.reports.items()}

    return loss


def advantage_estimator(objective: Objective) -> Callable[..., tuple[Tensor, Tensor]]:
    """The advantages of a batch, for `register_adv_est`.

    `reward` is the sum of a response's token rewards, from which verl may have taken a KL; a file
    that declares one reward of tokens, `given progress[p,i,t] as reward`, gets them as they are;
    `greedy` is its reward baseline. Means over prompts run over the batch that responses were drawn
    for, which is more than the optimizer step if it is cut into mini-batches.

    Raises:
        UnsupportedError: the advantage reads what verl passes to no estimator.
    """
    cut = halves(objective)
    if cut.advantage is None:
        raise _unsupported(objective, "no value of it is an advantage: it needs no estimator")
    values = Values(objective.formula, {_ADVANTAGE: cut.advantage}, objective.params)
    # One reward of tokens, and no other, is what verl calls token-level rewards.
    read = values.prepare.columns
    rewards = [column for column in read.values() if isinstance(column.role, Reward)]
    by_token = rewards[0].name if len(rewards) == 1 and rewards[0].indices == TOKEN else None
    known = {"reward", "greedy", by_token}
    reasons = [f"verl passes `{x}` to no estimator" for x in read if x not in known]
    if reasons:
        raise _unsupported(objective, *reasons)

    def estimate(
        token_level_rewards: Tensor,
        response_mask: Tensor,
        config: Any = None,
        index: Sequence[Any] | None = None,
        reward_baselines: Tensor | None = None,
        **_: Any,
    ) -> tuple[Tensor, Tensor]:
        """Advantages and returns, `[N, T]` and equal, with 0 in rows without a token; `index` has
        the prompt of each row, `reward_baselines` a number for each.

        Raises:
            UnsupportedError: there is no `index`.
        """
        if index is None:
            raise _unsupported(objective, "verl did not say which responses share a prompt (uid)")
        mask = response_mask.bool()
        used = mask.any(1)
        columns: dict[str, Any] = {}
        if by_token is None:
            columns["reward"] = (token_level_rewards * mask).sum(1)[used]
        else:
            columns[by_token] = (token_level_rewards * mask)[used]
        if reward_baselines is not None:
            columns["greedy"] = reward_baselines[used]
        ids = torch.from_numpy(np.unique(np.asarray(index), return_inverse=True)[1])
        step = values.prepare(prompt=ids.to(mask.device)[used], mask=mask[used], columns=columns)
        advantages = torch.zeros_like(token_level_rewards)
        advantage = values(step, widest(token_level_rewards))[_ADVANTAGE]
        advantages[used] = advantage.to(advantages.dtype)
        return advantages, advantages

    return estimate


# --- the cut -------------------------------------------------------------------------------------


def _normalised(goal: n.Expr) -> tuple[n.Expr, Indices, Divisor] | None:
    """What is summed over which indices, and divided by what; None for other denominators."""
    match goal:
        case n.Unary("neg", x):
            normalised = _normalised(x)
            return None if normalised is None else (neg(normalised[0]), *normalised[1:])
        case n.Reduce("mean", ("p", "i", "t"), x, None):
            return x, TOKEN, "tokens"
        case n.Reduce("mean", ("p", "i"), x, None):
            return x, RESPONSE, "responses"
        case n.Reduce("mean", ("p",), n.Reduce("mean", ("i",), x, None), None):
            # The same if all groups have one size, as in verl.
            return x, RESPONSE, "responses"
        case n.Reduce("sum", ("p", "i", "t"), x, None):
            return x, TOKEN, "nothing"
    return None


def _cut(objective: Objective, inner: n.Expr) -> tuple[list[str], n.Expr | None]:
    """What is out of reach even if the best value of the data is an advantage; and that value."""
    best: tuple[list[str], n.Expr | None] = [*dict.fromkeys(_out_of_reach(inner))], None
    for candidate in _candidates(objective, inner):
        if not best[0]:
            break
        reasons = [*dict.fromkeys(_out_of_reach(_with_column(inner, candidate)))]
        if len(reasons) < len(best[0]):
            best = reasons, candidate
    return best


def _candidates(objective: Objective, inner: n.Expr) -> Iterator[n.Expr]:
    """Values of the data that may be the advantage: first those without log-probabilities, which
    verl does not pass to an estimator, and among them those with a name."""
    inside = n.topological(inner)
    named = [
        binding.value
        for binding in reversed(objective.formula.bindings)
        if binding.value in {*inside}
    ]
    values = [
        node
        for node in dict.fromkeys([*named, *reversed(inside)])
        if not node.current and not node.boolean and node.indices != SCALAR
    ]
    yield from sorted(values, key=lambda x: any(isinstance(y, n.LogProb) for y in n.topological(x)))


def _with_column(expr: n.Expr, advantage: n.Expr | None) -> n.Expr:
    """The formula with the advantage as a column of the data."""
    if advantage is None:
        return expr
    column = n.Column(_ADVANTAGE, TOKEN if advantage.indices == TOKEN else RESPONSE)
    return n.replaced(expr, {advantage: column})


def _out_of_reach(expr: n.Expr) -> Iterator[str]:
    """The values that a worker with a micro-batch does not have."""
    for node in n.topological(expr):
        if isinstance(node, Reading):
            column = column_of(node)
            if column.role not in (_PI, _OLD) and column.name != _ADVANTAGE:
                yield f"verl does not pass `{column.name}` to the worker"
            continue
        over: Indices = getattr(node, "over", ())
        if {"p", "i"} & {*over}:
            yield "a worker does not see the other responses that a value runs over"


# --- what verl says ------------------------------------------------------------------------------


def _contradicted(
    cut: Halves, mode: str, config: Any, rollout_is_weights: Tensor | None
) -> Iterator[str]:
    if mode not in MODES[cut.divisor]:
        allowed = " or ".join(MODES[cut.divisor])
        yield f"its denominators are those of {allowed}, but actor.loss_agg_mode is {mode}"
    if rollout_is_weights is not None:
        yield "algorithm.rollout_correction multiplies with weights that are not in the formula"
    if config is None:
        return
    defaults = {field.name: field.default for field in fields(ActorConfig)}
    for name in DECIDED:
        if config.get(name, defaults[name]) != defaults[name]:
            yield f"the objective decides on actor.{name}, which is set to {config.get(name)}"


def _divisor(divisor: Divisor, mask: Tensor, info: dict[str, Any]) -> Any:
    """The count over the optimizer step, if verl gives it; else that over the micro-batch."""
    if divisor == "nothing":
        return 1
    size = mask.sum() if divisor == "tokens" else mask.any(1).sum()
    global_size = info.get("batch_num_tokens" if divisor == "tokens" else "global_batch_size")
    if global_size is None and (info.get("dp_size") or 1) > 1:
        raise ValueError(f"verl did not say how many {divisor} the optimizer step has")
    return size if global_size is None else global_size


def _unsupported(objective: Objective, *reasons: str) -> UnsupportedError:
    return UnsupportedError(objective, "verl", reasons)
