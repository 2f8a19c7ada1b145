"""Rollouts that branch: the checker's verdict is that of the sum over all draws of a tree."""

from __future__ import annotations

import random

import pytest
import torch

import objdsl
from objdsl import driver
from objdsl.analysis.explain import sections
from objdsl.analysis.facts import Facts, facts_of
from objdsl.analysis.gradient.estimator import Direction
from objdsl.audit import audit, plan
from objdsl.audit.columns import Given
from objdsl.audit.draws import Tree, all_draws, some_draws, tree_of
from objdsl.audit.instance import UnauditableError
from objdsl.audit.world import World, world
from objdsl.diagnostic import Claim
from objdsl.source import Source

TOKENS = "given node[p,i,t] before t\n"
RESPONSES = "given node[p,i] before i\n"
STATE = TOKENS + "given state[p,i,t] before t\n"
ROLE = TOKENS + "given role[p,i] before i\n"

FREE = "(sum[i] reward - sum[i by node, t] reward) / max(count[i] - count[i by node, t], 1)"
EXACT = [
    (TOKENS, "reward"),
    (TOKENS, "reward - V_old"),
    (TOKENS, f"reward - {FREE}"),
    (TOKENS, "reward - (sum[i by t] reward - sum[i by t, node] reward) / 3"),
    (TOKENS, "reward - (sum[i by t] reward - sum[i by t, node] reward) / count[i by t]"),
    (TOKENS, "reward - ((sum[j != i] reward) - sum[i by node, t] reward + reward) / 3"),
    (TOKENS, "mean[i by node, t] reward"),
    (TOKENS, "mean[i,t by node] reward"),
    (TOKENS, f"mean[i by node, t] reward - {FREE}"),
    (TOKENS, "mean[i by node, t] (reward - V_old)"),
    (TOKENS, "reward - mean[j != i by t] V_old"),
    (STATE, "reward - (sum[i by state, t] reward - sum[i by node, t] reward) / 3"),
    (STATE, "reward - (sum[i by state, t] reward - sum[i by node, state, t] reward) / 3"),
    (RESPONSES, "reward"),
    (RESPONSES, "reward - (sum[i] reward - sum[i by node] reward) / 3"),
    (RESPONSES, "reward - ((sum[i] reward) - sum[i by node] reward) / (4 - count[i by node])"),
    (RESPONSES, "reward - mean[j != i | node[j] != node[i]] reward"),
    (RESPONSES, "reward - max[j != i | node[i] != node[j]] reward"),
]  # fmt: skip
BIASED = [
    (TOKENS, "reward - mean[j != i] reward"),
    (TOKENS, "reward - mean[i] reward"),
    (TOKENS, "reward - max[j != i] reward"),
    (TOKENS, "reward - std[j != i] reward"),
    (TOKENS, "(reward - mean[i] reward) / (std[i] reward + 0.1)"),
    (TOKENS, "reward - mean[j != i, t by node] reward"),
    (TOKENS, "reward - mean[i by t] reward"),
    (TOKENS, "reward - mean[j != i by t] reward"),
    (TOKENS, "reward - mean[j != i by t | node == 0] reward"),
    (TOKENS, "reward * count[i by node, t]"),
    (TOKENS, "reward * mean[i by node, t] reward"),
    (TOKENS, "mean[i by node, t] reward - mean[i by t] reward"),
    (TOKENS, "mean[i by node, t] (reward * |y|)"),
    (TOKENS, "reward if count[i by node, t] > 1 else 2 * reward"),
    (ROLE, "reward - mean[j != i by role] reward"),
    (ROLE, "mean[i by node, role, t] reward - mean[j != i] reward"),
    (RESPONSES, "reward - mean[j != i] reward"),
    (RESPONSES, "reward - mean[i by node] reward"),
    (RESPONSES, "reward - mean[j != i by node] reward"),
    (RESPONSES, "reward * mean[j != i] reward"),
]
DOMAINS = ["[0, 1]", "{0, 1}"]


def written(given: str, advantage: str, domain: str, branch: bool = True) -> str:
    sample = "sample from mu: group 3, branch node\n" if branch else ""
    return (
        f"objective x\ngiven reward in {domain}\n{given}{sample}A = {advantage}\n"
        "maximize mean[p,i] sum[t] (A * log(pi))\n"
    )


def findings(text: str) -> list[str]:
    every = driver.check(Source("x.obj", text)).findings
    return [x.name for x in every if x.claim in (Claim.DIRECTION, Claim.PROMPT_WEIGHTS)]


def residual(text: str, vocabulary: int = 3, horizon: int = 2) -> float:
    given: dict[str, Given] = {
        name: "random" for name in ("state", "role") if f"given {name}[" in text
    }
    return audit(
        objdsl.loads(text), given=given, policies=2, drifts=(), group=3, prompts=1,
        vocabulary=vocabulary, horizon=horizon,
    ).residual  # fmt: skip


@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize(("given", "advantage"), EXACT)
def test_what_shares_no_token_is_a_baseline(given: str, advantage: str, domain: str) -> None:
    text = written(given, advantage, domain)
    assert not findings(text)
    assert residual(text, 2, 3) < 1e-12
    assert residual(text) < 1e-12


@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize(("given", "advantage"), BIASED)
def test_what_shares_tokens_is_none(given: str, advantage: str, domain: str) -> None:
    text = written(given, advantage, domain)
    assert findings(text)
    assert max(residual(text), residual(text, 2, 3)) > 1e-3


def test_without_branches_the_others_are_a_baseline() -> None:
    """The same texts differ by the option alone."""
    for baseline in ("mean[j != i] reward", "max[j != i] reward"):
        assert not findings(written("", f"reward - {baseline}", "[0, 1]", branch=False))


TREES = [
    ((None, (0, 1), (0, 1)), 3),  # all share one token
    ((None, (0, 1), (1, 2)), 3),  # and two of them a second one
    ((None, (0, 2), None), 3),
    ((None, None, None), 3),
]


@pytest.mark.parametrize(("joins", "group"), TREES)
def test_any_tree_is_one(
    joins: tuple[tuple[int, int] | None, ...], group: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def tree(language: World, size: int) -> Tree:
        assert size == group
        return Tree(language, joins)

    monkeypatch.setattr(plan, "tree_of", tree)
    for given, advantage in EXACT:
        if "state" not in given:
            assert residual(written(given, advantage, "[0, 1]"), 2, 3) < 1e-12, advantage


ADVANTAGES = [
    "reward", "reward - mean[j != i] reward", "(reward - mean[i] reward) / (std[i] reward + 0.1)",
    "reward - V_old", "reward - max[i] reward", "mean[i by node, t] reward", f"reward - {FREE}",
    "reward - sum[j != i] (|y| * reward)", "reward - mean[p,i] reward",
]  # fmt: skip
OUTER = [
    "mean[p,i] sum[t] ({})", "mean[p] mean[i,t] ({})", "mean[p,i] mean[t] ({})",
    "mean[p,i] ((sum[t] ({})) / (1 + mean[j != i] |y|))",
]  # fmt: skip
INNER = [
    "A * log(pi)", "A * pi / old",
    "surrogate(pi / old, A, 0.8, 1.2)", "(A if pi > 0.4 else 0) * log(pi)",
]  # fmt: skip
KEEP = ["", "keep p where std[i] reward > 0\n"]


def test_no_bias_is_without_a_finding() -> None:
    rng, seen = random.Random(4), set()
    plain = [(advantage, OUTER[0], INNER[0], "") for advantage in ADVANTAGES]
    mixed = [tuple(map(rng.choice, (ADVANTAGES, OUTER, INNER, KEEP))) for _ in range(15)]
    for advantage, outer, inner, keep in (*plain, *mixed):
        text = (
            f"objective x\ngiven reward in {rng.choice(DOMAINS)}\n{TOKENS}A = {advantage}\n"
            f"sample from mu: group 3, branch node\n{keep}maximize {outer.format(inner)}\n"
        )
        (estimator,) = Facts(objdsl.loads(text).formula).estimators
        biased = residual(text, 2, 3)
        if estimator.direction in (Direction.EXACT, Direction.REWEIGHTED):
            assert biased < 1e-8, text
        if biased > 1e-8:
            assert estimator.direction is Direction.BIASED, text
            assert findings(text), text
        seen.add(estimator.direction)
    assert {Direction.EXACT, Direction.BIASED} <= seen


def test_what_is_assumed_is_explained() -> None:
    def lines(text: str) -> str:
        return str([*sections(facts_of(objdsl.loads(text).formula))])

    parent = "given parent[p,i] before i\n"
    by_key = written(parent, "reward - mean[j != i by parent] reward", "[0, 1]", branch=False)
    assert "responses of the same parent are drawn independently" in lines(by_key)
    alone = written("", "reward - mean[j != i] reward", "[0, 1]", False)
    assert "drawn independently" not in lines(alone)
    branches = lines(written(TOKENS, "reward", "[0, 1]"))
    assert "responses share the tokens of the same node" in branches
    assert "drawn independently" not in branches


# --- the tree of the audit -----------------------------------------------------------------------


def test_chances_of_a_tree_are_those_of_its_tokens() -> None:
    language = world(3, 3)
    logits = torch.randn(1, language.states, 3, dtype=torch.float64)
    mu = language.chance(logits)
    tree = tree_of(language, 3)
    draws = all_draws(language.responses, 1, 3, True, tree)
    chance = draws.chance(mu)
    torch.testing.assert_close(chance.sum(), torch.tensor(1.0, dtype=torch.float64))
    first = language.tokens[draws.response[:, 0, :], 0]
    assert bool((first[:, 0] == first[:, 1])[chance > 0].all())
    for member in range(3):  # each response alone is one of the sampler's
        alone = torch.zeros(language.responses, dtype=torch.float64)
        alone.index_add_(0, draws.response[:, 0, member], chance)
        torch.testing.assert_close(alone, mu[0])


def test_random_draws_of_a_tree_have_its_chances() -> None:
    language = world(2, 3)
    mu = language.chance(torch.randn(2, language.states, 2, dtype=torch.float64))
    tree = tree_of(language, 4)
    generator = torch.Generator().manual_seed(3)
    drawn = some_draws(mu, 4, 40_000, generator, tree).response
    every = all_draws(language.responses, 1, 4, True, tree)
    for prompt in range(2):
        chance = every.chance(mu[prompt : prompt + 1])
        base = language.responses ** torch.arange(4)
        counts = torch.bincount((drawn[:, prompt] * base).sum(-1), minlength=len(every))
        exact = torch.zeros(len(every), dtype=torch.float64)
        exact[(every.response[:, 0] * base).sum(-1)] = chance
        assert float((counts / len(drawn) - exact).abs().max()) < 0.01


def test_parts_of_a_tree_are_shared_as_a_whole() -> None:
    tree = Tree(world(2, 4), (None, (0, 1), (1, 3), None))
    nodes = tree.nodes
    for a in range(4):
        for b in range(4):
            shared = nodes[a] == nodes[b]
            assert bool((shared == (torch.arange(4) < int(shared.sum()))).all())
    assert [int((nodes[1] == nodes[k]).sum()) for k in range(4)] == [1, 4, 3, 0]
    assert tree.trees.tolist() == [0, 0, 0, 3]


def test_the_tree_is_the_audit_s_own() -> None:
    objective = objdsl.loads(written(TOKENS, "mean[i by node, t] reward", "[0, 1]"))
    with pytest.raises(UnauditableError, match="cannot be given"):
        audit(objective, given={"node": 1.0})
    report = audit(objective, policies=1, drifts=())
    assert report.exact and "responses 1 and 2 share 1 token" in report.notes[0]
