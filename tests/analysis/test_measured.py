"""What the pages of rules say about gradients, against the sum over all outcomes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import objdsl
from objdsl.analysis.facts import Facts
from objdsl.audit import audit
from objdsl.audit.compare import Comparison
from objdsl.audit.draws import all_draws
from objdsl.audit.gradient import Expected, expected
from objdsl.audit.instance import Instance
from objdsl.audit.target import policy_gradient
from objdsl.audit.world import world
from objdsl.diagnostic import Severity
from objdsl.lint.run import registry

EXACT, BIASED = 1e-8, 1e-3
LANGUAGE = world(3, 3)
RULES = {rule.name: rule for rule in registry()}
ADVANTAGE = "A = reward - mean[j != i] reward\n"


def text(goal: str) -> str:
    return f"objective measured\n{ADVANTAGE}w = prod[t] (pi / mu)\nmaximize {goal}\n"


def fires(rule: str, goal: str) -> bool:
    return bool(list(RULES[rule](Facts(objdsl.loads(text(goal)).formula))))


def off_policy(goal: str, kind: str = "mismatch 0.3") -> tuple[float, float]:
    """The residual on policy and off it, in groups of 2."""
    result = audit(
        objdsl.loads(text(goal)), group=2, vocabulary=2, horizon=3, policies=2, drifts=(0.3,)
    )
    return result.row(reward="real").residual.mean, result.row(kind, reward="real").residual.mean


def residual(g: Tensor, d: Tensor) -> float:
    return float(Comparison.of(Expected(g, 1.0, g, None), d).orthogonal) ** 0.5


def scenes(*, mismatch: float = 0.0, reward: float = 0.0) -> list[Instance]:
    instances = []
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        pi, ref, noise = (
            torch.randn(1, LANGUAGE.states, 3, dtype=torch.float64, generator=generator)
            for _ in range(3)
        )
        policies = {"pi": pi, "old": pi, "mu": pi + mismatch * noise, "ref": ref}
        rewards = torch.full((1, LANGUAGE.responses), reward, dtype=torch.float64)
        instances.append(Instance(LANGUAGE, policies, {"reward": rewards}))
    return instances


def gradient(goal: str, scene: Instance) -> Tensor:
    draws = all_draws(LANGUAGE.responses, 1, 1)
    return expected(objdsl.loads(f"objective measured\nmaximize {goal}\n"), scene, draws).mean


@pytest.mark.parametrize(
    ("weight", "biased"),
    [("w", False), ("w / mean[i] w", True), ("w / mean[j != i] w", False), ("min(w, 1)", True)],
)
def test_weights_of_responses_off_policy(weight: str, biased: bool) -> None:
    goal = f"mean[p,i] (sg({weight}) * A * sum[t] log(pi))"
    on, off = off_policy(goal)
    assert on < EXACT
    assert (off > BIASED) == biased
    assert off > BIASED or off < EXACT
    named = fires("normalised-weights", goal) or fires("truncated-at-one", goal)
    assert named == biased


def test_a_weight_truncated_at_one_loses_most_of_the_correction() -> None:
    at_one, at_two, none = (
        off_policy(f"mean[p,i] sum[t] ({weight} * A * pi / old)")[1]
        for weight in ("sg(min(old / mu, 1))", "sg(min(old / mu, 2))", "1")
    )
    assert at_two < 0.8 * at_one
    assert at_one > 0.5 * none


@pytest.mark.parametrize("power", [0.3, 0.5, 0.9])
def test_a_weakened_ratio_has_a_part_of_the_gradient(power: float) -> None:
    weak = f"mean[p,i] sum[t] surrogate((pi / old)^{power}, A, 0.8, 1.2)"
    assert fires("weakened-ratio", weak)
    weakened, whole = (
        audit(
            objdsl.loads(text(goal)), group=2, vocabulary=2, horizon=3, policies=1, drifts=()
        ).row(reward="real")
        for goal in (weak, "mean[p,i] sum[t] surrogate(pi / old, A, 0.8, 1.2)")
    )
    assert weakened.residual.mean < EXACT
    assert weakened.norm.mean == pytest.approx(power * whole.norm.mean)


def test_the_ratio_of_a_penalty_is_to_the_policy_that_sampled() -> None:
    """The whole distributions at the states that `mu` visits are the reference."""
    exact = "mean[p,i] sum[t] (-sum[v] (pi[v] * log(pi[v] / ref[v])))"
    for scene in scenes(mismatch=0.3):
        to_mu, to_old = (
            gradient(f"mean[p,i] sum[t] (-pi / {policy} * k3(pi, ref))", scene)
            for policy in ("mu", "old")
        )
        assert residual(to_mu, gradient(exact, scene)) < EXACT
        assert residual(to_old, gradient(exact, scene)) > BIASED
    assert fires("kl-ratio-base", "mean[p,i] sum[t] (pi / mu * A - pi / old * k3(pi, ref))")
    assert not fires("kl-ratio-base", "mean[p,i] sum[t] (pi / mu * A - pi / mu * k3(pi, ref))")


def test_an_entropy_of_tokens_is_not_that_of_responses() -> None:
    of_tokens = "mean[p,i] sum[t] entropy"
    responses = "mean[p,i] sum[t] (sg(-sum[s >= t] log(old)) * log(pi))"
    for scene in scenes():
        pi = scene.policies["pi"]
        true = policy_gradient(LANGUAGE, pi, -LANGUAGE.log_prob(pi).sum(-1))
        assert residual(gradient(of_tokens, scene), true) > BIASED
        assert residual(gradient(responses, scene), true) < EXACT
    assert fires("token-level-entropy", f"{of_tokens} + mean[p,i] sum[t] (A * log(pi))")


@pytest.mark.parametrize(
    ("goal", "dead"),
    [
        ("max(surrogate(pi / old, reward, 0.8, 1.2), 3 * reward)", 1.0),
        ("dual_clip(surrogate(pi / old, reward, 0.8, 1.2), reward, 0.9)", -1.0),
        ("min(pi / old * reward, 3 * reward)", -1.0),
        ("min(pi / old * reward, 0.9 * reward)", 1.0),
    ],
)
def test_a_dual_clip_on_the_wrong_side_has_no_gradient(goal: str, dead: float) -> None:
    assert fires("dual-clip-bound", f"mean[p,i] sum[t] {goal}")
    for reward in (1.0, -1.0):
        for scene in scenes(reward=reward):
            weights = objdsl.loads(f"objective measured\nmaximize mean[p,i] sum[t] {goal}\n")
            gradient = expected(weights, scene, all_draws(LANGUAGE.responses, 1, 1)).weights
            assert bool(gradient.any()) == (reward != dead)


@pytest.mark.parametrize(
    ("above", "divisor", "biased"),
    [
        ("sum[t] U", "mean[i,t] U", True),
        ("sum[t] U", "mean[j != i] mean[t] U", True),
        ("sum[t] U", "mean[t] U", True),  # nothing is left
        ("sum[t] U", "1", False),
        ("sum[t] U", "sg(mean[i,t] U)", False),
        ("sum[t] (U / (1 + U))", "1", False),
        ("prod[t] U", "mean[i] prod[t] U", False),
        ("prod[t] U", "mean[j != i] prod[t] U", False),
    ],
)
def test_a_divisor_with_a_gradient(above: str, divisor: str, biased: bool) -> None:
    goal = f"mean[p,i] (A * ({above}) / ({divisor}))".replace("U", "(pi / old)")
    on, _ = off_policy(goal)
    assert fires("live-divisor", goal) == biased
    assert on > BIASED if biased else on < EXACT


def test_the_log_probability_of_a_sampled_token_is_no_entropy() -> None:
    """On its own it has no gradient on policy; divided by the length, it has that of the length."""
    beside = "mean[p,i] sum[t] (pi / old * A) + "
    bonus, over_length = "mean[p,i] sum[t] (-log(pi))", "mean[p,i] mean[t] (-log(pi))"
    for scene in scenes():
        pi = scene.policies["pi"]
        assert gradient(bonus, scene).abs().max() < EXACT
        inverse = (-1 / LANGUAGE.lengths).expand(1, -1)
        lengths = policy_gradient(LANGUAGE, pi, inverse)
        torch.testing.assert_close(gradient(over_length, scene), lengths)
        assert residual(gradient("mean[p,i] sum[t] entropy", scene), lengths) > BIASED
    assert fires("entropy-without-gradient", beside + bonus)
    assert fires("entropy-without-gradient", beside + over_length)
    for other in ("mean[p,i] sum[t] entropy", "mean[p,i] sum[t] (-pi / old * log(pi))"):
        assert not fires("entropy-without-gradient", beside + other)


@pytest.mark.parametrize(
    ("goal", "turned"),
    [
        ("maximize mean[p] logsigmoid(margin)", False),
        ("maximize mean[p] logsigmoid(-margin)", True),
        ("minimize mean[p] logsigmoid(margin)", True),
        ("minimize mean[p] (-logsigmoid(-1 * margin))", True),
        ("minimize mean[p] log(1 + exp(-margin))", False),
        ("minimize mean[p] ((1 - margin)^2)", False),
        ("minimize mean[p] ((1 + margin)^2)", True),
        ("maximize mean[p,i] sigmoid(h if chosen else -h)", False),
        ("maximize mean[p,i] sigmoid(-h if chosen else h)", True),
        ("maximize mean[p] (0.6 * logsigmoid(margin) + 0.4 * logsigmoid(-margin))", False),
    ],
)
def test_the_sign_of_a_preference(goal: str, turned: bool) -> None:
    """A step from the reference makes the preferred response likelier."""
    text = "objective measured\ngiven chosen[p,i] in {0, 1}\nh = 0.1 * sum[t] log(pi / ref)\n"
    text += f"margin = mean[i | chosen] h - mean[i | not chosen] h\n{goal}\n"
    log_ref = torch.full((2, 3), -1.0)
    log_pi = log_ref.clone().requires_grad_()
    columns = {"chosen": torch.tensor([1.0, 0.0]), "prompt": torch.tensor([0, 0])}
    mask = torch.ones(2, 3, dtype=torch.bool)
    objdsl.loads(text)(log_pi=log_pi, log_ref=log_ref, mask=mask, **columns).loss.backward()
    assert log_pi.grad is not None
    better, worse = (-log_pi.grad).mean(1)
    assert (better > worse) != turned
    assert bool(list(RULES["preference-sign"](Facts(objdsl.loads(text).formula)))) == turned


@pytest.mark.parametrize(
    ("term", "dead"),
    [
        ("(pi / old - 1)^2 * A", True),
        ("max(pi / old, 3) * A", True),
        ("(mean[j != i] reward) * pi / old", True),
        ("(mean[i] reward) * pi / old", False),
        ("(pi / old if A > 0 else 0)", False),
        ("(pi / old)^2 * A", False),
    ],
)
def test_a_reward_without_a_gradient_on_policy(term: str, dead: bool) -> None:
    goal = f"mean[p,i] sum[t] ({term})"
    run = audit(objdsl.loads(text(goal)), group=2, vocabulary=2, horizon=3, policies=1, drifts=())
    assert (max(row.norm.mean for row in run.rows) < EXACT) == dead
    assert fires("reward-without-effect", goal) == dead


@pytest.mark.parametrize(
    ("weight", "proven"),
    [
        ("sigmoid(reward)", True),
        ("sqrt(reward + 3)", True),
        ("old", True),
        ("log(mu)", True),
        ("(1 - sg(pi))^2", True),
        ("t", True),
        ("(1 + V_old)", True),
        ("sigmoid(reward) * (1 + exp(-reward))", False),
    ],
)
def test_a_weight_that_is_said_to_bend_does(weight: str, proven: bool) -> None:
    goal = f"mean[p,i] sum[t] (A * {weight} * pi / old)"
    on, _ = off_policy(goal)
    reported = list(RULES["response-weight"](Facts(objdsl.loads(text(goal)).formula)))
    assert {x.severity for x in reported} == {Severity.WARNING if proven else Severity.NOTE}
    assert on > BIASED if proven else on < EXACT


@pytest.mark.parametrize(
    ("baseline", "biased"),
    [
        ("median[i] reward", True),
        ("quantile[i](reward, 0.4)", True),
        ("(rank[i] reward)", True),
        ("0.3", False),
    ],
)
def test_what_the_order_of_a_group_subtracts(baseline: str, biased: bool) -> None:
    """A statistic that includes the response's own reward biases the gradient, a number does
    not."""
    given = objdsl.loads(
        "objective measured\ngiven reward in {0, 0.5, 1}\n"
        f"maximize mean[p,i] ((reward - {baseline}) * sum[t] log(pi))\n"
    )
    report = audit(given, group=3, vocabulary=3, horizon=3, policies=1)
    assert (report.row(reward="real").residual.mean > BIASED) == biased
    named = any(RULES["own-sample-baseline"](Facts(given.formula)))
    assert named == biased
