"""States: what an objective remembers from rollout to rollout, in the user's own loop."""

from __future__ import annotations

import json
import pickle
from typing import Any

import pytest
import torch

import objdsl
from helpers.evaluators import Case
from helpers.random_objectives import data
from objdsl import driver
from objdsl.adapters.needs import refused
from objdsl.analysis.facts import facts_of
from objdsl.audit.experiment import audit
from objdsl.diagnostic import Claim
from objdsl.ir.exchange.reader import loads
from objdsl.ir.exchange.writer import dumps
from objdsl.source import Source

TEXT = """
objective remembers
param target = 0.5 in (0, inf)
param rate = 0.1 in [0, 1]
given prior[p] in [0, 1]
given reward in [0, 1]

state beta = 0.2 next beta * (1 + clip(kl / target - 1, -0.2, 0.2))
state base[p] = prior next (1 - rate) * base + rate * mean[i] reward
kl = mean[p,i,t] log(old / ref)
A = reward - base

maximize mean[p,i] (A * (sum[t] (pi / mu)) - beta * sum[t] k2(pi, ref))
"""
KEYS = ["a", "a", "b", "b", "a", "a"]
"""Two groups answer the first prompt."""


def rollout(seed: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)

    def logs() -> torch.Tensor:
        return -torch.rand(6, 3, generator=generator, dtype=torch.float64)

    return {
        "prompt": [0, 0, 1, 1, 2, 2],
        "mask": torch.arange(3) < torch.tensor([[3], [1], [2], [3], [3], [2]]),
        "reward": torch.rand(6, generator=generator, dtype=torch.float64),
        "prior": torch.tensor([0.5, 0.5, 0.25, 0.25, 0.5, 0.5], dtype=torch.float64),
        "log_old": logs(), "log_mu": logs(), "log_ref": logs(),
    }  # fmt: skip


def test_a_loop_of_ones_own_is_the_recursion() -> None:
    objective = objdsl.loads(TEXT, rate=0.3)
    states = objective.start()
    beta, base = 0.2, {"a": 0.5, "b": 0.25}
    assert states == objdsl.States(0, None, {"beta": beta}, {"base": {}})
    for k in range(4):
        rows = rollout(k)
        read = objective.recall(states, KEYS, prior=rows["prior"])
        assert read["beta"] == pytest.approx(beta)
        assert read["base"].tolist() == pytest.approx([base[key] for key in KEYS])
        given = {name: x for name, x in rows.items() if name not in ("prior", "log_old")}
        step = objective.prepare(**given, **read)
        output = objective(rows["log_old"].clone().requires_grad_(), step)
        output.loss.backward()

        mask, reward = rows["mask"], rows["reward"]
        ratio = (rows["log_old"] - rows["log_mu"]).exp()
        apart = (rows["log_old"] - rows["log_ref"]) ** 2 / 2
        advantage = reward - torch.tensor([base[key] for key in KEYS])
        value = (mask * (advantage[:, None] * ratio - beta * apart)).sum(-1).mean()
        assert output.value.item() == pytest.approx(value.item())

        states = objective.advance(states, KEYS, **rows)
        kl = (rows["log_old"] - rows["log_ref"])[mask].mean().item()
        beta *= 1 + min(max(kl / 0.5 - 1, -0.2), 0.2)
        means = reward.view(3, 2).mean(-1).tolist()
        base = {"a": 0.7 * base["a"] + 0.3 * (means[0] + means[2]) / 2,
                "b": 0.7 * base["b"] + 0.3 * means[1]}  # fmt: skip
        assert states.step == k + 1
        assert states.numbers["beta"] == pytest.approx(beta)
        assert states.prompts["base"] == pytest.approx(base)


def test_states_are_saved_and_go_on() -> None:
    objective = objdsl.loads(TEXT)
    states = objective.advance(objective.start(steps=9), KEYS, **rollout(0))
    again = objdsl.States.from_state_dict(json.loads(json.dumps(states.state_dict())))
    assert again == states == pickle.loads(pickle.dumps(states))
    assert objective.advance(again, KEYS, **rollout(1)) == objective.advance(
        states, KEYS, **rollout(1)
    )


def test_a_prompt_that_does_not_come_keeps_its_state() -> None:
    objective = objdsl.loads(TEXT)
    states = objective.advance(objective.start(), KEYS, **rollout(0))
    rows = {name: x[2:4] for name, x in rollout(1).items()}
    after = objective.advance(states, KEYS[2:4], **rows)
    assert after.prompts["base"]["a"] == states.prompts["base"]["a"]
    assert after.prompts["base"]["b"] != states.prompts["base"]["b"]


def test_states_read_the_old_values_of_all_at_once() -> None:
    objective = objdsl.loads(
        "state a = 1 next b\nstate b = 2 next a + b\nstate n = 0 next n + step / steps\n"
        "maximize mean[p,i] (reward * sum[t] (a * b * n * log(pi)))"
    )
    states, values = objective.start(steps=4), []
    for _ in range(4):
        states = objective.advance(states, KEYS, **rollout(0))
        values.append(tuple(states.numbers.values()))
    assert values == [(2, 3, 0), (3, 5, 0.25), (5, 8, 0.75), (8, 13, 1.5)]


def test_what_keep_drops_changes_states_too() -> None:
    kept = "keep p where mean[i] reward > 0.5\n"
    text = "m = mean[p,i] reward\nstate x = 0 next m\nreport y = m\nmaximize mean[p,i,t] log(pi)\n"
    rows = rollout(0) | {"reward": torch.tensor([1.0, 1, 0, 0, 1, 0.5], dtype=torch.float64)}
    objective = objdsl.loads(kept + text)
    read = {"reward": rows["reward"], "prompt": rows["prompt"], "mask": rows["mask"]}
    states = objective.advance(objective.start(), KEYS, **read)
    assert states.numbers["x"] == pytest.approx(3.5 / 6)
    report = objective(rows["log_old"], objective.prepare(**read)).reports["y"]
    assert report.item() == pytest.approx(3.5 / 4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"keys": ["a", "b", "b", "b", "a", "a"]}, "rows 0 and 1 answer the same prompt, but have"),
        ({"keys": [["a"]] * 6}, "the key of row 0 cannot be hashed"),
        ({"prior": None}, "the state 'base' starts from the column 'prior', which is missing"),
        ({"log_ref": None}, "reads the column 'log_ref' .* which is missing"),
        ({"reward": torch.full((6,), 2.0)}, "outside of its domain"),
    ],
)
def test_wrong_inputs_have_their_sentence(change: dict[str, Any], message: str) -> None:
    objective = objdsl.loads(TEXT)
    keys = change.pop("keys", KEYS)
    rows = {name: x for name, x in {**rollout(0), **change}.items() if x is not None}
    with pytest.raises(objdsl.InputError, match=message):
        objective.advance(objective.start(), keys, **rows)


def test_what_is_missing_says_where_it_comes_from() -> None:
    rows = rollout(0)
    given = {name: rows[name] for name in ("prompt", "mask", "reward", "log_mu", "log_ref")}
    with pytest.raises(objdsl.InputError, match=r"the state 'base' \[N\], .*objective\.recall"):
        objdsl.loads(TEXT).prepare(**given)
    clock = objdsl.loads("maximize mean[p,i,t] (reward * log(pi) * step / steps)")
    with pytest.raises(objdsl.InputError, match=r"the number of rollouts .*objective\.recall"):
        clock.prepare(**{k: given[k] for k in ("prompt", "mask", "reward")})
    with pytest.raises(objdsl.InputError, match=r"reads `steps`.*objective\.start\(steps=...\)"):
        clock.recall(clock.start(), KEYS)
    overflows = objdsl.loads("state x = 1e150 next x * x * x\nmaximize mean[p,i,t] (x * log(pi))")
    with pytest.raises(objdsl.InputError, match="the state 'x' has become inf"):
        overflows.advance(overflows.start(), KEYS, prompt=rows["prompt"], mask=rows["mask"])


def test_new_words_are_names_where_a_file_makes_them_names() -> None:
    text = (
        "objective soft\nparam state = 2\ngiven steps[p,i]\nstep = 3\n"
        "def learn(x) = 2 * x\nA = (\n    state\n    + steps)\n"
        "maximize mean[p,i] (A * learn(step) * sum[t] (next(V_old) * log(pi)))\n"
    )
    formula = driver.compile_source(Source("soft.obj", text))
    assert not formula.states
    assert set(formula.columns) == {"log_pi", "steps", "value_old"}


# --- the other stages ----------------------------------------------------------------------------


def test_a_state_is_a_constant_of_its_rollout_to_the_checker() -> None:
    """A running baseline is exact, where the group's own mean is not."""
    exact = (
        "state base[p] = 0.5 next 0.9 * base + 0.1 * mean[i] reward\n"
        "state pace = 0 next 0.9 * pace + 0.1 * mean[p,i] reward\n"
        "maximize mean[p,i] ((reward - base - pace) * sum[t] (log(pi) * min(1, step / 100)))\n"
    )
    facts = facts_of(driver.compile_source(Source("x.obj", exact)))
    assert facts.rewarded and not any(map(facts.departs, Claim))
    scaled = exact.replace("(reward - base - pace)", "((reward - base) / (std[i] reward + 1))")
    assert facts_of(driver.compile_source(Source("x.obj", scaled))).departs(Claim.DIRECTION)


def test_the_audit_gives_states_values() -> None:
    text = (
        "given reward in {0, 1}\nstate base[p] = 0.5 next 0.9 * base + 0.1 * mean[i] reward\n"
        "state pace = 0.25 next 0.9 * pace + 0.1 * mean[p,i] reward\n"
        "maximize mean[p,i] ((reward - base) * pace * sum[t] log(pi))\n"
    )
    result = audit(objdsl.loads(text), policies=2, drifts=())
    assert result.params == {"pace": 0.25}
    assert result.rows[0].residual.worst < 1e-8
    assert result.rows[0].norm.worst == pytest.approx(0.25)


def test_formulas_show_states() -> None:
    formula = driver.compile_source(Source("x.obj", TEXT))
    text, latex = (driver.mathematics(formula, latex=latex) for latex in (False, True))
    assert "base = prior before the first rollout, and after each (1 - rate) * base" in text
    assert r"\beta &\leftarrow \beta \, \left(" in latex
    assert r"\quad \text{after a rollout, from } 0.2" in latex
    assert "def advance(*, beta, log_old, log_ref" in driver.torch_source(formula)


def test_json_says_states() -> None:
    formula = driver.compile_source(Source("x.obj", TEXT))
    again = loads(Source("x.json", dumps(formula))).objective
    assert again.states == formula.states and again.digest == formula.digest


def test_frameworks_without_states_refuse_them_by_name() -> None:
    reasons = [*refused(objdsl.loads(TEXT + "report n = step\n"), ("pi", "old", "mu", "ref"))]
    assert any("the state `beta`" in reason for reason in reasons)
    assert any("`step`" in reason for reason in reasons)


@pytest.mark.parametrize("packed", [False, True])
def test_next_values_are_those_of_the_interpreter(packed: bool) -> None:
    text = (
        "given margin[p,i]\nstate pace = 1 next sum[p,i] ((std[i] margin) * |y|) + pace\n"
        "state base[p] = 0 next mean[i,t | V_old > 0] (log(old) * t) + base * pace * (step + 1)\n"
        "maximize mean[p,i,t] (base * pace * log(pi))\n"
    )
    for seed in range(4):
        case = Case(objdsl.loads(text), data(seed))
        actual = case.advanced(packed)
        for name, values in case.remembered().items():
            assert actual[name] == pytest.approx(values, rel=1e-12)
