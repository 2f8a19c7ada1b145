"""Policies on hidden layers: their gradients against an oracle, and the rewards that they raise.

The oracle uses neither scores nor emitted code. It has its own network, tables of logits that add
up layer by layer, and differentiates the expectation of what the interpreter computes on every
draw: by finite differences, and, where `sg` stops a gradient, by autograd.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import objdsl
from helpers.autograd_evaluator import derivative
from objdsl.audit import Audit, audit
from objdsl.audit.columns import tables_of
from objdsl.audit.draws import all_draws
from objdsl.audit.generate import instances_of
from objdsl.audit.gradient import expected
from objdsl.audit.instance import Instance
from objdsl.audit.plan import Case, plan_of
from objdsl.audit.result import EXACT
from objdsl.audit.roles import roles_of
from objdsl.ir.columns import LogProbs
from objdsl.ir.evaluate import Batch, evaluate
from objdsl.objective import Objective

PREAMBLE = """objective inner
param beta = 0.3 in [0, inf)
policy early = pi at layer 2
policy late = pi at layer 4
policy early_old = old at layer 2
policy again = pi at layer 2
policy teacher
given margin[p,i] as reward
given bonus[p,i,t,v]
"""

# --- the gradient --------------------------------------------------------------------------------

FACTORS = [
    "reward", "margin", "(reward - mean[j != i] reward)", "(margin / (1 + std[i] reward))",
    "(0.3 * |y|)", "sigmoid(sum[t] log(early))", "(reward * exp(mean[t] log(early_old / early)))",
    "(mean[i] (sum[t] log(pi / old)))", "sg(sum[t] log(late))", "(prod[t] (early / mu))",
]  # fmt: skip
TERMS = [
    "log(early)", "log(late)", "log(pi)", "log(again)", "(early / early_old)", "(pi / old)",
    "(pi / early)", "k3(early, ref)", "k2(pi, early)", "k2(sg(pi), late)", "k1(early, teacher)",
    "surrogate(early / early_old, reward - 0.1, 0.8, 1.2)", "log(0.4 * pi + 0.6 * early)",
    "(sum[v] (early[v] * log(early[v] / pi[v])))", "(sum[v] (bonus * (late[v] + sg(early[v]))))",
    "(sum[s >= t] log(early))", "next(log(late))", "(log(early) * sg(log(pi)))",
    "(log(early) if pi > late else log(pi))",
]  # fmt: skip
GOALS = [
    "mean[p,i] ({f} * sum[t] {t})", "mean[p,i] ({f} * mean[t] {t})", "mean[p,i,t] ({f} * {t})",
    "mean[p] logsigmoid(mean[i] ({f} * sum[t] {t}))",
    "mean[p] ((max[i] (margin + {f})) * mean[i,t] {t})",
]  # fmt: skip


def drawn_text(seed: int) -> str:
    random = Random(seed)
    parts = [
        random.choice(GOALS).format(f=random.choice(FACTORS), t=random.choice(TERMS))
        for _ in range(random.randint(2, 3))
    ]
    always = "mean[p,i,t] log(pi) + 0.2 * mean[p,i] (reward * sum[t] log(early))"
    return f"{PREAMBLE}maximize {' + '.join(parts)} - beta * {always}\n"


class Network:
    """The logits of a layer are the sum of the tables `[P, S, K]` of the layers up to it."""

    def __init__(self, objective: Objective, instance: Instance) -> None:
        self.objective, self.instance = objective, instance
        roles = roles_of(objective.formula)
        depth = {
            name: roles.hidden[name][1] for name in roles.hidden if roles.hidden[name][0] == "pi"
        }
        depth["pi"] = 99
        self.layers = sorted({depth[name] for name in roles.learners})
        # Policies that do not learn are constant, whatever the layers below `pi` do.
        self.up_to = {
            name: self.layers.index(layer) + 1
            for name, layer in depth.items()
            if layer in self.layers
        }
        at = {depth[name]: instance.policies[name] for name in self.up_to}
        logits = [at[layer] for layer in self.layers]
        self.tables = torch.stack(
            [x - y for x, y in zip(logits, [torch.zeros_like(logits[0]), *logits], strict=False)]
        )

    def log_prob(self, tables: Tensor, name: str, prompt: int, response: int) -> Tensor:
        """`[T, K]` of the tokens of a response."""
        logits = tables[: self.up_to[name], prompt].sum(0)
        length = int(self.instance.world.lengths[response])
        rows = [logits[int(self.instance.world.state[response, t])] for t in range(length)]
        return torch.stack([row - row.logsumexp(0) for row in rows])

    def batch(self, tables: Tensor, draw: Tensor) -> Batch:
        world, prompts = self.instance.world, range(len(draw))
        rows = [(p, int(y)) for p in prompts for y in draw[p]]
        fixed = self.instance.tables(self.objective.columns)
        columns: dict[str, list[Any]] = {}
        for name, read in self.objective.columns.items():
            column: list[Any] = []
            for p, y in rows:
                length = int(world.lengths[y])
                if isinstance(read.role, LogProbs) and read.role.policy in self.up_to:
                    logs = self.log_prob(tables, read.role.policy, p, y)
                    taken = logs[torch.arange(length), world.tokens[y, :length]]
                    column.append((logs if read.role.distribution else taken).detach().numpy())
                else:
                    x = fixed[name][p, y]
                    column.append(x[:length].numpy() if x.dim() else x.item())
            columns[name] = column
        lengths = [int(world.lengths[y]) for _, y in rows]
        return Batch([p for p, _ in rows], lengths, columns, world.vocabulary)

    def by_prompt(self, gradient: Tensor) -> Tensor:
        """`[L, P, S, K]` in the order of the audit: prompts first."""
        return gradient.transpose(0, 1).flatten()


def by_differences(network: Network, draws: Tensor, chance: Tensor) -> Tensor:
    formula, params = network.objective.formula, network.objective.params

    def total(tables: Tensor) -> float:
        values = [
            evaluate([formula.goal], network.batch(tables, draw), params)[0] for draw in draws
        ]
        return math.fsum(float(q) * float(x) for q, x in zip(chance, values, strict=True))

    step, gradient = 1e-5, torch.zeros_like(network.tables)
    for k in range(gradient.numel()):
        moved = torch.zeros_like(gradient)
        moved.view(-1)[k] = step
        ends = [total(network.tables + sign * moved) for sign in (1, -1)]
        gradient.view(-1)[k] = (ends[0] - ends[1]) / (2 * step)
    return network.by_prompt(gradient)


def by_autograd(network: Network, draws: Tensor, chance: Tensor) -> Tensor:
    tables = network.tables.clone().requires_grad_()
    total = tables.sum() * 0
    for draw, q in zip(draws, chance, strict=True):
        rows = [(p, int(y)) for p in range(len(draw)) for y in draw[p]]
        batch = network.batch(tables, draw)
        _, by_column = derivative(network.objective.formula.goal, batch, network.objective.params)
        for name, weights in by_column.items():
            role = network.objective.columns[name].role
            assert isinstance(role, LogProbs)
            if role.policy not in network.up_to:  # `sg` stands around it
                assert not any(weights.values())
                continue
            for (row, *where), w in weights.items():
                p, y = rows[row]
                token = int(network.instance.world.tokens[y, where[0]])
                at = (where[0], where[1] if len(where) > 1 else token)
                total = total + q * w * network.log_prob(tables, role.policy, p, y)[at]
    (gradient,) = torch.autograd.grad(total, tables)
    return network.by_prompt(gradient)


def check(text: str, oracle: Callable[..., Tensor], prompts: int, kind: str) -> int:
    """Compares the audit's expected gradient with the oracle's; returns how many tables have
    one."""
    objective = objdsl.loads(text)
    plan = plan_of(objective, group=2, prompts=prompts, vocabulary=2, horizon=2, seed=5)
    given = tables_of(objective, plan, {"bonus": "random"})
    roles = roles_of(objective.formula)
    instance = next(instances_of(plan, Case("real", kind, 0.3), given, roles.references))
    draws = all_draws(instance.world.responses, prompts, 2)
    network = Network(objective, instance)
    gradient = expected(objective, instance, draws).mean
    target = oracle(network, draws.response, draws.chance(instance.chance))
    assert gradient.shape == target.shape
    np.testing.assert_allclose(gradient, target, rtol=1e-6, atol=1e-7, err_msg=text)
    return len(network.layers)


@pytest.mark.parametrize("seed", range(24))
def test_random_objectives_with_inner_policies(seed: int) -> None:
    text = drawn_text(seed)
    kind = ("on policy", "stale", "mismatch")[seed % 3]
    oracle = by_autograd if "sg(" in text else by_differences
    assert check(text, oracle, 1, kind) >= 2


def test_the_oracles_agree_without_sg() -> None:
    texts = [text for seed in range(40) if "sg(" not in (text := drawn_text(seed))]
    for text in texts[:3]:
        assert check(text, by_differences, 1, "stale") == check(text, by_autograd, 1, "stale")


def test_prompts_keep_their_gradients_apart() -> None:
    assert check(drawn_text(1), by_autograd, 2, "mismatch") >= 2


def test_the_random_objectives_train_every_layer() -> None:
    seen = [roles_of(objdsl.loads(drawn_text(seed)).formula).learners for seed in range(24)]
    assert {"early", "late", "again", "pi"} <= set().union(*seen)
    assert len(set(seen)) > 2


# --- the target --------------------------------------------------------------------

SMALL: dict[str, Any] = {"vocabulary": 3, "horizon": 3, "group": 2, "drifts": (), "policies": 2}


def of(text: str, **options: Any) -> Audit:
    text = f"objective inline\npolicy early = pi at layer 2\n{text}\n"
    return audit(objdsl.loads(text), **SMALL | options)


WHOLE = "mean[p,i] ((prod[t] ({} / mu)) * reward)"


def test_a_hidden_layer_is_compared_with_its_own_expected_reward() -> None:
    """Weighted by its whole ratio it follows `E_early[reward]`, on policy and off."""
    result = of(f"maximize {WHOLE.format('early')}", drifts=(0.3,))
    assert result.raises == "E_early[reward]"
    for row in result.rows:
        assert row.residual.worst < EXACT
        assert row.norm.mean == pytest.approx(1)


def test_a_policy_that_does_not_sample_is_biased() -> None:
    """BuPO: no baseline cancels, and the rewards are those of responses of `pi`."""
    for text in ("reward * log(early)", "(reward - mean[j != i] reward) * (early / sg(early))"):
        result = of(f"maximize mean[p,i] sum[t] ({text})")
        assert result.residual > 0.2
        assert not result.lengths


def test_a_hidden_policy_that_samples_is_unbiased() -> None:
    result = of(
        """sample from early: group 2
        A = reward - mean[j != i] reward
        maximize mean[p,i] sum[t] (A * log(early))""",
        drifts=(0.3,),
    )
    assert result.residual < EXACT
    assert all(row.residual.worst < EXACT for row in result.rows)  # it does not drift


def test_layers_with_rewards_of_their_own() -> None:
    """Each policy's part of the sum is recovered, whatever is shared below."""
    result = of(
        f"""policy late = pi at layer 4
        maximize (0.5 * {WHOLE.format("early")} + {WHOLE.format("late")}
            + 2 * mean[p,i] sum[t] (reward * log(pi)))"""
    )
    assert result.raises == "E_early[0.500 reward] + E_late[1.00 reward] + E[2.00 reward]"
    assert result.residual < EXACT
    assert (
        of(f"maximize {WHOLE.format('early')} + mean[p,i] mean[t] (reward * log(pi))").residual
        > 0.05
    )


def test_several_rewards_of_several_layers() -> None:
    text = """given correct[p,i] in {{0, 1}} as reward
        given progress[p,i,t] as reward
        maximize (mean[p,i] ((prod[t] (early / mu)) * correct)
            + mean[p,i] sum[t] ((0.3 * correct + {}) * log(pi)))"""
    result = of(text.format("sum[s >= t] progress"))
    assert result.residual < EXACT
    raised = "E_early[1.00 correct + 0 progress] + E[0.300 correct + 1.00 progress]"
    assert result.raises == raised
    assert of(text.format("progress")).residual > 1e-3


def test_versions_of_a_hidden_layer_are_one_on_policy() -> None:
    """`early / early_old` is 1 there, and so its gradient is that of `log(early)`."""
    text = "A = reward - mean[j != i] reward\npolicy early_old = old at layer 2\nmaximize {}"
    ratio, plain = (
        of(text.format(goal)).row()
        for goal in (
            "mean[p,i] sum[t] (early / early_old * A)",
            "mean[p,i] sum[t] (A * log(early))",
        )
    )
    assert ratio == plain


def test_one_layer_under_two_names_is_one_policy() -> None:
    once, twice = (
        of(f"policy again = pi at layer 2\nmaximize mean[p,i] sum[t] (reward * ({terms}))").row()
        for terms in ("2 * log(early)", "log(early) + log(again)")
    )
    for figure in ("cosine", "residual", "norm", "bias", "variance"):
        assert getattr(once, figure).mean == pytest.approx(getattr(twice, figure).mean)


# --- terms between layers, and against frozen policies -----------------------------------------

REWARDED = "mean[p,i] sum[t] (reward * log(pi))"
BETWEEN = {
    "pi to early": ("mean[p,i] sum[t] k2(pi, sg(early))", "early", "reverse KL, per token"),
    "early to pi": (
        "mean[p,i] sum[t] sum[v] (early[v] * log(early[v] / sg(pi[v])))",
        "pi",
        "reverse KL, per token (early)",
    ),
    "early to pi, forward": (
        "mean[p,i] sum[t] sum[v] (sg(pi[v]) * log(pi[v] / early[v]))",
        "pi",
        "forward KL, per token (early)",
    ),
    "early to pi, on what pi writes": (
        "mean[p,i] sum[t] k1(sg(pi), early)",
        "pi",
        "forward KL, per token (early)",
    ),
    "both learn": ("mean[p,i] sum[t] k2(pi, early)", "early", None),
    "early to a reference": (
        "mean[p,i] sum[t] sum[v] (early[v] * log(early[v] / ref[v]))",
        "ref",
        "reverse KL, per token (early)",
    ),
    "pi to a layer of the reference": (
        "mean[p,i] sum[t] k3(pi, inner_ref)",
        "inner_ref",
        "forward KL, per token",
    ),
    "pi to what early was": (
        "mean[p,i] sum[t] k2(pi, early_old)",
        "early_old",
        "reverse KL, per token",
    ),
}


@pytest.mark.parametrize("name", BETWEEN)
def test_terms_between_layers(name: str) -> None:
    term, against, divergence = BETWEEN[name]
    result = of(
        f"""policy early_old = old at layer 2
        policy inner_ref = ref at layer 2
        maximize {REWARDED} - 0.1 * {term}"""
    )
    assert result.raises == "E[reward]"
    assert result.residual < EXACT
    assert f"rewards are judged without `0.1 * {term}`" in result.notes
    penalty = next(x for x in result.penalties if x.against == against)
    assert penalty.descends == divergence
    if divergence:
        match = next(match for match in penalty.matches if match.divergence == divergence)
        assert match.cosine.worst == pytest.approx(1)


def test_a_layer_that_nothing_trains_is_a_reference() -> None:
    """With `sg` around it nothing trains it."""
    result = of(f"maximize {REWARDED} - 0.1 * mean[p,i] sum[t] k3(pi, sg(early))")
    assert [penalty.against for penalty in result.penalties] == ["early"]
    assert result.penalties[0].descends == "forward KL, per token"
    assert result.lengths


def test_a_layer_of_a_parameter_and_one_without_norm() -> None:
    """They are policies like any other: the parameter says which are versions of each other, and a
    state without the norm has its own logits."""
    text = """param n = 3 in [1, inf)
    policy a = pi at layer n
    policy a_old = old at layer n
    policy b = pi at layer 2
    policy c = pi at layer 2 without norm
    maximize mean[p,i] sum[t] ((reward - mean[j != i] reward) * (log(pi) + log(x)))"""
    for n, x, family, learners in (
        (3, "a / a_old", "a", ("a", "pi")),
        (3, "b / a_old", "a_old", ("b", "pi")),
        (2, "b / a_old", "b", ("b", "pi")),
        (2, "b * c", "a_old", ("b", "c", "pi")),
    ):
        reads = "\nreport r = mean[p,i,t] a_old" if "a_old" not in x else ""
        objective = objdsl.loads(text.replace("log(x)", f"log({x})") + reads, n=n)
        roles = roles_of(objective.formula.at(objective.params))
        assert roles.learners == learners
        assert roles.family("a_old") == (family if x != "b * c" else "b")
    network = roles.tables
    assert network == 3  # the last one has a table for each of `b`, `c` and `pi`


def test_a_bonus_of_a_hidden_layer_is_not_removed() -> None:
    """Only terms that compare policies are removed; a bonus is part of what is optimised."""
    result = of(f"maximize {REWARDED} + 0.1 * mean[p,i] sum[t] log(early)")
    assert result.residual > 1e-3
    assert result.raises == "E[reward]"
