"""Numbers that are learned beside the policy: `learn beta = 0.1 in [0, inf)`."""

from __future__ import annotations

import inspect
import math
import re
from typing import Any

import numpy as np
import pytest
import torch

import objdsl
from helpers.evaluators import Case
from helpers.random_objectives import data
from objdsl import driver
from objdsl.adapters.needs import refused
from objdsl.analysis.explain import sections
from objdsl.analysis.facts import facts_of
from objdsl.audit import audit
from objdsl.audit.result import EXACT
from objdsl.elaborate.learned import TAKEN
from objdsl.errors import ObjectiveError
from objdsl.ir.build import neg
from objdsl.ir.diff import diff
from objdsl.ir.evaluate import evaluate
from objdsl.ir.exchange.reader import loads
from objdsl.ir.exchange.writer import dumps
from objdsl.ir.objective import Objective
from objdsl.lint.run import findings
from objdsl.source import Source
from objdsl.syntax.format import format as formatted
from objdsl.syntax.parse import parse

LAGRANGIAN = """objective lagrangian
param target = 0.05 in (0, inf)
learn beta = 0.1 in [0, inf)

A = reward - mean[j != i] reward
L = mean[p,i] sum[t] (pi / mu * A - beta * (k2(pi, ref) - target))

maximize L
minimize learn L
"""
TEMPERATURE = """objective temperature
learn log_alpha = 0
learn tau = 0.4 in (0, 1)

kl = mean[p,i,t] k2(pi, ref)
J = mean[p,i,t] (reward * (pi / mu)^tau) - exp(log_alpha) * kl + log(tau)

report penalty = exp(log_alpha) * kl
maximize J
minimize learn log_alpha * (0.1 - mean[p,i,t] k1(pi, ref))
"""
COUPLED = """objective coupled
learn c = 0.5 in [0, 1]
R = reward - c * mean[t] log(old / ref)
A = (R - mean[i] R) / (std[i] R + 1)
maximize mean[p] logsigmoid(c * mean[i] (A * sum[t] (pi / old))) + c * std[p,i] R - c^2
"""


def read(text: str) -> Objective:
    return driver.compile_source(Source("x.obj", text))


# --- numbers -------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("text", [LAGRANGIAN, TEMPERATURE, COUPLED])
def test_every_evaluator_and_finite_differences_agree(text: str, seed: int) -> None:
    example = Case(objdsl.loads(text), _batch(seed))
    expected = example.reference()
    parts = torch.arange(len(example.step)).split(2)
    ways = example.padded(), example.packed(), example.split(parts), example.loss()
    for numbers in (*ways, example.autograd()):
        assert not [*expected.differences(numbers)]
    formula, batch = example.objective.formula, example.data.batch
    for number in formula.learned:
        goal = formula.goal
        if number.name in formula.minimising:
            assert formula.dual is not None
            goal = neg(formula.dual)
        value, step = float(batch.columns[number.name]), 1e-5
        sides = []
        for x in (value + step, value - step):
            moved = {**batch.columns, number.name: x}
            (y,) = evaluate([goal], type(batch)(batch.prompt, batch.lengths, moved, 3),
                            example.objective.params)  # fmt: skip
            sides.append(y)
        slope = (sides[0] - sides[1]) / (2 * step)
        assert expected.weights[number.name] == pytest.approx(slope, rel=1e-6, abs=1e-8)


def _batch(seed: int) -> Any:
    drawn = data(seed)
    numbers = {"beta": 0.3, "log_alpha": -0.7, "tau": 0.6, "c": 0.4}
    batch = type(drawn.batch)(
        drawn.batch.prompt, drawn.batch.lengths, {**drawn.batch.columns, **numbers}, 3
    )
    tensors = {k: torch.tensor(x, dtype=torch.float64) for k, x in numbers.items()}
    return type(drawn)(batch, {**drawn.columns, **tensors}, drawn.prompt, drawn.mask)


def test_what_minimises_has_no_part_in_the_policy_and_the_policy_none_in_it() -> None:
    """`minimize learn L` beside `maximize L` is a saddle point, without a single `sg`."""
    drawn = _batch(0)
    saddle = Case(objdsl.loads(LAGRANGIAN), drawn).padded()
    text = LAGRANGIAN.replace("minimize learn L\n", "")
    together = Case(objdsl.loads(text), drawn).padded()
    stopped = Case(
        objdsl.loads(
            text.replace("- beta", "- sg(beta)").replace(
                "maximize L", "maximize L + mean[p,i] sum[t] (beta * sg(k2(pi, ref) - target))"
            )
        ),
        drawn,
    )
    assert saddle.weights["beta"] == pytest.approx(-together.weights["beta"])
    assert not [*saddle.differences(stopped.padded())][1:]  # the value has the term that is added
    for mine, theirs in zip(saddle.weights["log_pi"], together.weights["log_pi"], strict=True):
        assert np.array_equal(mine, theirs)


def test_a_saddle_point_is_found_by_gradient_steps() -> None:
    """One token with two entries, where the constrained optimum is known: the KL is the target."""
    objective = objdsl.loads(
        "param target = 0.05\nlearn beta = 1 in [0, inf)\n"
        "kl = mean[p,i] sum[t] (sum[v] (pi[v] * log(pi[v] / ref[v])))\n"
        "gain = mean[p,i] sum[t] (sum[v] (pi[v] * gain_of[v]))\n".replace("gain_of[v]", "worth")
        + "given worth[p,i,t,v]\n"
        "maximize gain - beta * (kl - target)\nminimize learn beta * (target - kl)\n"
    )
    logits = torch.zeros(1, 1, 2, dtype=torch.float64, requires_grad=True)
    learned = objective.learned(torch.float64)
    step = objective.prepare(
        prompt=[0], mask=torch.ones(1, 1), worth=torch.tensor([[[1.0, 0.0]]], dtype=torch.float64),
        log_ref_dist=torch.full((1, 1, 2), math.log(0.5), dtype=torch.float64),
    )  # fmt: skip
    optimizer = torch.optim.SGD([logits, *learned.values()], lr=1.0)
    for _ in range(120):
        optimizer.zero_grad()
        log_p = logits.log_softmax(-1)
        objective(step=step, log_pi_dist=log_p, **learned).loss.backward()
        optimizer.step()
        objective.project(learned)
    p = logits.log_softmax(-1).exp().flatten()
    kl = (p * (p / 0.5).log()).sum().item()
    assert kl == pytest.approx(0.05, abs=1e-3)
    # On the boundary the policy is ref * exp(worth / beta): its log-odds are 1 / beta.
    odds = (p[0] / p[1]).log().item()
    assert learned["beta"].item() == pytest.approx(1 / odds, rel=1e-2)


# --- in a loop of one's own ----------------------------------------------------------------------


def test_they_are_put_back_to_the_nearest_number_inside() -> None:
    objective = objdsl.loads(
        "learn a = 1 in [0, 2)\nlearn b = 1 in (0, inf)\nlearn c = 1\n"
        "learn d = 0.5 in (0.25, 0.5]\n"
        "maximize mean[p,i,t] ((a + b + c + d)^2 * log(pi) - a^2)"
    )
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        learned = objective.learned(dtype)
        assert {name: x.item() for name, x in learned.items()} == {"a": 1, "b": 1, "c": 1, "d": 0.5}
        with torch.no_grad():
            for x in learned.values():
                x -= 9
        objective.project(learned)
        low = torch.nextafter(torch.tensor(0.25, dtype=dtype), torch.tensor(1.0, dtype=dtype))
        after = {name: x.item() for name, x in learned.items()}
        assert after == {"a": 0, "b": torch.finfo(dtype).tiny, "c": -8, "d": low.item()}
        assert math.isfinite(1 / after["b"])
        with torch.no_grad():
            for x in learned.values():
                x += 99
        objective.project(learned)
        top = torch.nextafter(torch.tensor(2.0, dtype=dtype), torch.tensor(0.0, dtype=dtype))
        assert learned["a"].item() == top.item() < 2 and learned["d"].item() == 0.5
    with pytest.raises(objdsl.InputError, match="learns no number 'e'"):
        objective.project({"e": torch.tensor(1.0)})


@pytest.mark.parametrize(
    ("beta", "message"),
    [
        (None, "needs the trained input 'beta'"),
        (0.1, "beta is learned: it must be a float tensor .*, not float"),
        (torch.tensor([0.1]), r"it must be a float tensor \[\], not torch.float32 \[1\]"),
        (torch.tensor(1), "it must be a float tensor"),
        (torch.tensor(-0.1), r"beta is -0.1, outside of its domain \[0, inf\): `objective.project"),
        (torch.tensor(torch.nan), "beta is nan, outside"),
    ],
)
def test_wrong_inputs_have_their_sentence(beta: Any, message: str) -> None:
    example = Case(objdsl.loads(LAGRANGIAN), _batch(0))
    given = {} if beta is None else {"beta": beta}
    with pytest.raises(objdsl.InputError, match=message):
        example.objective(example.trained["log_pi"], example.step, **given)
    with pytest.raises(objdsl.InputError, match="'beta' is trained: it belongs to the call"):
        example.objective.prepare(prompt=[0], mask=torch.ones(1, 1), beta=torch.tensor(1.0))


def test_no_argument_has_the_name_of_a_learned_number() -> None:
    arguments = inspect.signature(objdsl.Objective.fused).parameters.keys()
    assert {*arguments} - {"self", "step", "trained"} <= {*TAKEN}


def test_one_of_another_type_than_the_policy() -> None:
    example = Case(objdsl.loads(LAGRANGIAN), _batch(0))
    trained = {"log_pi": example.trained["log_pi"].float(), "beta": torch.tensor(0.3).double()}
    step = example.objective.prepare(
        mask=example.data.mask, prompt=example.data.prompt,
        **{k: x.float() for k, x in example.given.items()},
    )  # fmt: skip
    value, weights, _ = example.objective.weights(step=step, **trained)
    assert value.dtype == torch.float32
    assert weights["beta"].dtype == torch.float64
    assert weights["beta"].item() == pytest.approx(example.reference().weights["beta"], rel=1e-5)


# --- the text ------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", [LAGRANGIAN, TEMPERATURE, COUPLED])
def test_it_is_read_and_written(text: str) -> None:
    formula = read(text)
    assert formatted(parse(Source("x.obj", text))) == text
    again = loads(Source("x.json", dumps(formula))).objective
    assert (again.learned, again.dual, again.digest) == (
        formula.learned, formula.dual, formula.digest
    )  # fmt: skip
    rewritten = driver.compile_source(driver.written_out(Source("x.json", driver.ir(formula))))
    assert rewritten.digest == formula.digest
    assert not diff(formula, rewritten)
    assert all(str(number) in text for number in formula.learned)
    names = sorted(x.name for x in formula.learned)
    assert formula.trained == ("log_pi", *names)


def test_what_differs_is_told() -> None:
    changed = LAGRANGIAN.replace("0.1 in [0, inf)", "0.2 in (0, 1)").replace(
        "minimize learn L", "minimize learn beta * (target - mean[p,i,t] k3(pi, ref))"
    )
    lines = [(change.left, change.right) for change in diff(read(LAGRANGIAN), read(changed))]
    assert ("learn beta = 0.1 in [0, inf)", "learn beta = 0.2 in (0, 1)") in lines
    assert any(b and b.startswith("minimize learn beta * (target") for _, b in lines)


def test_a_files_own_learn_is_a_name() -> None:
    formula = read(
        "param learn = 0.1\nx = clip(\npi / old,\nlearn * 1,\n2)\n"
        "maximize mean[p,i,t] (learn * x) + learn"
    )
    assert [param.name for param in formula.params] == ["learn"] and not formula.learned
    for goal in ("minimize learn * mean[p,i,t] x", "minimize (learn - mean[p,i,t] x)"):
        text = f"param learn = 0.1\nx = pi / old\n{goal}"
        assert read(text).dual is None
    broken = read_errors("maximize mean[p,i,t] (pi / old\nlearn tau = 1\nreport x = tau")
    assert "never closed" in broken[0] or "not closed" in broken[0] or "bracket" in broken[0]


def read_errors(text: str) -> list[str]:
    with pytest.raises(ObjectiveError) as error:
        read(text)
    return [diagnostic.message for diagnostic in error.value.diagnostics]


GOAL = "maximize mean[p,i,t] (tau * reward * log(pi))"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"learn tau[p] = 1\n{GOAL}", "`tau` cannot have the indices p: what is learned"),
        (f"learn tau = 1 in {{0, 1}}\n{GOAL}", "steps of the optimizer lead between"),
        (f"learn tau = 2 in (0, 1)\n{GOAL}", r"the start 2 of `tau` is outside \(0, 1\)"),
        (f"learn tau = inf\n{GOAL}", "`tau` starts from a finite number"),
        (f"learn tau = 1 in [1, 1]\n{GOAL}", r"`tau` cannot leave \[1, 1\]"),
        (f"learn tau = 1 in (1, 0)\n{GOAL}", "no number is in"),
        ("learn temperature = 1\nmaximize mean[p,i,t] (temperature * log(pi))",
         "a learned number cannot be called `temperature`"),
        (f"learn log_pi = 1\n{GOAL}", "`log_pi` is the column that `log"),
        (f"learn tau = 1\nparam tau = 2\n{GOAL}", "`tau` is defined twice"),
        ("learn tau = 1\nmaximize mean[p,i,t] (sg(tau) * reward * log(pi))",
         "no gradient reaches `tau`: it would stay at its start"),
        ("learn tau = 1\nreport x = tau\nmaximize mean[p,i,t] log(pi)",
         "no gradient reaches `tau`"),
        ("maximize mean[p,i,t] log(pi)\nminimize learn mean[p,i,t] log(pi)",
         "no gradient reaches a learned number"),
        (f"learn tau = 1\n{GOAL}\nminimize learn sg(tau)", "no gradient reaches a learned number"),
        (f"learn tau = 1\n{GOAL}\nminimize learn tau\nminimize learn tau^2",
         "a second goal for what is learned"),
        ("learn tau = 1\nmaximize tau", "no gradient reaches `pi`"),
        (f"learn tau = 1\nkeep p where max[i] reward > tau\n{GOAL}", "prompts are kept by what is"),
        (f"learn tau = 1\nstate x = 0 next tau\n{GOAL}", "a state changes by what was sampled"),
        (f"learn tau = 1\nstate x = tau next 1\n{GOAL}", "a state starts before training"),
        (f"learn tau = 1\ny = togo(reward, tau)\n{GOAL}", "a discount does not change in training"),
        (f"learn tau = 1\ny = quantile[i](reward, tau)\n{GOAL}", "does not change in training"),
        (f"learn tau = 1\ny = mean[i by reward > tau] reward\n{GOAL}", "a key is data, and `tau`"),
        (f"learn tau = 1\ny = comb(tau, 2)\n{GOAL}", "`comb` counts, and `tau` is learned"),
        (f"learn tau = 1\n{GOAL}\nx = learned", "no `learned`"),
        ("learn learn = 1\nmaximize mean[p,i,t] log(pi)\nminimize learn (learn)",
         "`learn` is a name of this file, and a keyword"),
        ("policy inner = pi at layer tau\nlearn tau = 1\n" + GOAL, "there is no parameter `tau`"),
    ],
)  # fmt: skip
def test_mistakes_have_their_sentence(text: str, message: str) -> None:
    assert any(re.search(message, sentence) for sentence in read_errors(text)), read_errors(text)


# --- what is proven ------------------------------------------------------------------------------


@pytest.mark.parametrize("text", [LAGRANGIAN, TEMPERATURE, COUPLED])
def test_to_the_policy_they_are_parameters_at_their_start(text: str) -> None:
    """What the checker finds of the expected gradient is what it finds of parameters."""
    fixed = re.sub(r"minimize learn.*\n", "", re.sub(r"^learn ", "param ", text, flags=re.M))

    def found_by_rules(objective: Objective) -> list[tuple[str, str]]:
        return [(x.name, x.message) for x in findings(objective) if x.name != "learned-runaway"]

    assert found_by_rules(read(text)) == found_by_rules(read(fixed))


def test_the_audit_measures_the_gradient_at_their_start() -> None:
    text = LAGRANGIAN.replace("pi / mu * A", "log(pi) * A")
    result = audit(objdsl.loads(text), policies=2, drifts=())
    assert result.rows[0].residual.worst < EXACT
    assert [x.against for x in result.penalties] == ["ref"]
    assert result.penalties[0].descends is not None


def drift(text: str) -> dict[str, str]:
    return {x.number.name: x.drift.name for x in facts_of(read(text)).learning}


def test_what_nothing_holds_is_found_and_nothing_else() -> None:
    away = LAGRANGIAN.replace("minimize learn L\n", "")
    assert drift(LAGRANGIAN) == {"beta": "OPEN"}
    assert drift(TEMPERATURE) == {"log_alpha": "OPEN", "tau": "OPEN"}
    assert drift(COUPLED) == {"c": "OPEN"}
    assert drift(away) == {"beta": "OUTWARD"}
    (finding,) = [x for x in findings(read(away)) if x.name == "learned-runaway"]
    assert "no value of `beta` inside [0, inf) is best" in finding.message
    # The other side by hand is none: the policy has no part in that slope.
    by_hand = "mean[p,i,t] (log(pi) * reward) + tau * sg(mean[p,i,t] k2(pi, ref) - 0.1)"
    assert drift(f"learn tau = 1\nmaximize {by_hand}") == {"tau": "OPEN"}


@pytest.mark.parametrize(
    ("goal", "expected"),
    [
        ("maximize mean[p,i,t] log(pi) + tau * mean[p,i] reward", 1),
        ("maximize mean[p,i,t] log(pi) - exp(tau) * mean[p,i] reward", -1),
        ("maximize mean[p,i,t] log(pi)\nminimize learn tau * mean[p,i,t] (log(pi)^2 + 0.1)", -1),
        ("maximize mean[p,i,t] log(pi)\nminimize learn tau * (mean[p,i,t] log(pi))", 1),
    ],
)
def test_a_derivative_of_one_sign_has_it_on_every_batch(goal: str, expected: int) -> None:
    text = f"given reward in [0, 1]\nlearn tau = 0.6 in (0, inf)\n{goal}"
    assert drift(text) == {"tau": "UP" if expected > 0 else "DOWN"}
    for seed in range(5):
        slope = Case(objdsl.loads(text), _batch(seed)).reference().weights["tau"]
        assert slope * expected >= 0
    (finding,) = [x for x in findings(read(text)) if x.name == "learned-runaway"]
    assert ("only ever rises" if expected > 0 else "only ever falls") in finding.message


def test_explain_says_what_becomes_of_them() -> None:
    lines = [line for part in sections(facts_of(read(TEMPERATURE))) for line in part.lines
             if part.title == "Learned beside the policy"]  # fmt: skip
    sentences = [text for _, text in lines]
    assert [name for name, _ in lines if name] == ["log_alpha", "tau"]
    assert "minimises `minimize learn ...`, from 0" in sentences
    assert "raises J, as pi does, from 0.4" in sentences
    assert "put back into (0, 1) after each step of the optimizer" in sentences
    shown = driver.mathematics(read(TEMPERATURE))
    assert "L(log_alpha) = " in shown and "tau maximises J in (0, 1), from 0.4" in shown
    weights = driver.mathematics(read(TEMPERATURE), weights=True)
    assert "-dL / d log_alpha = " in weights and "dJ / d tau = " in weights
    assert r"\arg\min L" in driver.mathematics(read(TEMPERATURE), latex=True)


# --- elsewhere -----------------------------------------------------------------------------------


def test_trl_refuses_them_by_name() -> None:
    objective = objdsl.loads(LAGRANGIAN)
    (reason,) = refused(objective, ("pi", "mu", "ref"))
    assert "it learns `beta`" in reason and "`param` in place of `learn`" in reason


def test_a_kernel_computes_terms_of_their_derivatives() -> None:
    tokens = "learn tau = 1 in (0, inf)\nmaximize mean[p,i,t] (tau * reward * log(pi) - tau^2 * pi)"
    kernel = driver.triton_kernel(read(tokens))
    assert kernel.learned == ("tau",) and kernel.reports == () and not kernel.needs
    assert {(x.kind, x.key) for x in kernel.inputs} >= {("column", "tau")}
    coupled = driver.triton_kernel(read(tokens + " + log(tau)"))
    assert coupled.learned == () and "which is not a sum over tokens" in coupled.needs
