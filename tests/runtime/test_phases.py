"""Conditions on `step` are decided before planning, differentiation and the rules."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

import objdsl
from helpers.evaluators import Case
from helpers.random_objectives import data
from objdsl import driver
from objdsl.audit.experiment import audit
from objdsl.ir.objective import Objective
from objdsl.ir.phases import STEPS, at, conditions, phases, phases_of, together
from objdsl.lint.run import findings
from objdsl.runtime.engines.policy import Policy
from objdsl.runtime.run.run import Result
from objdsl.runtime.settings.config import ConfigError
from objdsl.source import Source

GOAL = "maximize mean[p,i,t] (reward * log(pi) * x)\n"
TEXT = """objective phased
param warm = 100 in [0, inf)
policy inner = pi at layer 1
policy inner_old = old at layer 1
beta = 0 if step < 50 else 0.04
eps = 0.2 if step < warm else 0.1
r = inner / inner_old if step < 2 else pi / old
A = reward - mean[j != i] reward
keep p where max[i] reward > 0.3 or step < 2
maximize mean[p,i,t] (surrogate(r, A, 1 - eps, 1 + eps) - beta * k2(pi, ref))
"""


def formula(text: str) -> Objective:
    return driver.compile_source(Source("x.obj", text))


def test_a_phase_reads_what_it_has_a_use_for() -> None:
    every = phases(formula(TEXT))
    assert [str(phase) for phase in every] == [
        "steps 0 to 1", "steps 2 to 49", "steps 50 to 99", "from step 100 on",
    ]  # fmt: skip
    assert [set(phase.objective.columns) - {"reward"} for phase in every] == [
        {"log_inner", "log_inner_old"}, {"log_pi", "log_old"},
        {"log_pi", "log_old", "log_ref"}, {"log_pi", "log_old", "log_ref"},
    ]  # fmt: skip
    assert [phase.objective.keep is None for phase in every] == [True, False, False, False]
    assert not any(conditions(phase.objective) for phase in every)
    assert together(every[1:]) == "from step 2 on"
    assert together([every[0], every[2]]) == "steps 0 to 1, steps 50 to 99"


@pytest.mark.parametrize(
    ("x", "expected"),
    [
        (
            "2 if step < 10 and step >= 3 else 1",
            ["steps 0 to 2, from step 10 on", "steps 3 to 9"],
        ),
        ("2 if step == 7 else 1", ["steps 0 to 6, from step 8 on", "step 7"]),
        ("2 if step / 3 <= n else 1", ["steps 0 to 12", "from step 13 on"]),
        ("2 if step < 0.1 * steps else 1", ["0 to 10 % of the run", "10 to 100 % of the run"]),
        ("2 if exp(-step / 10) > 0.5 else 1", ["steps 0 to 6", "from step 7 on"]),
        ("2 if step < 10 and reward > 0 else 1", ["steps 0 to 9", "from step 10 on"]),
        ("2 if not (step < 10 or reward > 0) else 1", ["steps 0 to 9", "from step 10 on"]),
        ("2 if 0.99 ^ step > 0.001 else 1", ["steps 0 to 687", "from step 688 on"]),
        (
            "2 if (step - 900)^2 < 100 else 1",
            ["steps 0 to 890, from step 910 on", "steps 891 to 909"],
        ),
        ("min(step / 10, 1)", ["from step 0 on"]),
        ("1 - step / 200", ["steps 0 to 200", "from step 201 on"]),
        ("max(1 - step / 200, 0)", ["steps 0 to 199", "from step 200 on"]),
        ("1 - step / steps", ["from step 0 on"]),
        ("1 - 2 * step / steps", ["0 to 50.05 % of the run", "50.05 to 100 % of the run"]),
        ("(step - 50) * (step - 60)", ["steps 0 to 50, from step 61 on", "steps 51 to 60"]),
        (
            "(1 - step / 200 if step < 300 else n)",
            ["steps 0 to 200", "steps 201 to 299", "from step 300 on"],
        ),
        ("1 if n > 2 else 0", ["from step 0 on"]),
    ],
)
def test_phases_begin_where_a_condition_turns(x: str, expected: list[str]) -> None:
    given = formula(f"param n = 4.2\nx = {x}\n{GOAL}")
    assert [str(phase) for phase in phases(given)] == expected


def test_a_condition_that_goes_on_changing_is_decided_for_some_steps() -> None:
    """By interval arithmetic, which decides of others for all steps."""
    again = "if step == 3 * floor(step / 3) else 1"
    every, known = (part := phases_of(formula(f"x = 2 {again}\n{GOAL}"))).every, part.known
    assert known is not None and known > 300
    assert str(every[0]).startswith("step 0, step 3, step 6, step 9 and so on") and len(every) == 2
    assert every[0].holds(300) and every[1].holds(301) and not every[1].holds(3)
    messages = [x.message for x in findings(formula(f"x = 2 {again}\n{GOAL}"))]
    assert any(f"decided for the first {known} steps" in message for message in messages)


def test_a_schedule_is_judged_before_and_after_its_sign_changes() -> None:
    def judged(x: str) -> list[tuple[str, str]]:
        goal = f"A = reward - mean[j != i] reward\nmaximize mean[p,i] ({x} * A * sum[t] log(pi))\n"
        reported = findings(formula(f"sample from pi\n{goal}"))
        return [
            (x.severity, x.message.partition("(")[2])
            for x in reported
            if x.name == "reward-descent"
        ]

    assert judged("(1 - step / 200)") == [("note", "from step 201 on)")]
    assert judged("(step / 200 - 1)") == [("error", "steps 0 to 200)")]
    assert judged("(1 - 2 * step / steps)") == [("error", "50.05 to 100 % of the run)")]
    assert judged("(1 - step / steps)") == judged("min(step / 50, 1)") == []
    loose = findings(formula("x = (1 - step / 9) * (2 if step < steps / 2 else 1)\n" + GOAL))
    assert [x.name for x in loose].count("not-judged") == 0
    loose = findings(formula("x = 2 if step < steps / 2 else 1 - step / 9\n" + GOAL))
    assert not any(x.name == "not-judged" for x in loose)
    apart = "(1 - step / 9) * reward * (2 if step < steps / 2 else 1)"
    loose = findings(formula(f"x = {apart}\n{GOAL}"))
    assert [x.span.text for x in loose if x.name == "not-judged" and x.span] == ["(1 - step / 9)"]


@pytest.mark.parametrize("step", [0, 5, 40, 70, 100])
def test_a_phase_computes_what_the_whole_does(step: int) -> None:
    text = TEXT.replace("policy inner = pi at layer 1", "").replace("inner / inner_old", "old / pi")
    text += "report kept = sum[p,i | step < 60 and chosen] (1 if step < 5 or chosen else reward)\n"
    text += "report top = sum[p,i,t] top[p,i,t]((V_old if step < 50 else 0 * V_old), 0.4)\n"
    objective = objdsl.loads(text.replace("policy inner_old = old at layer 1", "given chosen[p,i]"))
    for seed in range(3):
        batch = data(seed)
        clock = {"rollout_step": float(step), "rollout_steps": 200.0}
        batch.batch.columns.update(clock)  # type: ignore[attr-defined]
        batch.columns.update({k: batch.columns[k].new_tensor(x) for k, x in clock.items()})
        expected = Case(objective, batch).reference()
        phase = objective.phase(objdsl.States(step, 200))
        for numbers in (Case(phase, batch).padded(), Case(objective, batch).packed()):
            assert not [*expected.differences(numbers)]


def test_phases_are_made_once() -> None:
    objective = objdsl.loads(TEXT)
    first = objective.phase(objdsl.States(0))
    assert first is objective.phase(objdsl.States(1)) is not objective.phase(objdsl.States(2))
    assert objective.with_params(warm=60).phase(objdsl.States(70)).digest != (
        objective.phase(objdsl.States(70)).digest
    )
    plain = objdsl.load("grpo")
    assert plain.phase(objdsl.States(0)) is plain
    with pytest.raises(objdsl.InputError, match="trains nothing at step 3"):
        objdsl.loads(f"x = 1 if step < 3 else 0\n{GOAL}").phase(objdsl.States(3))


def test_each_phase_is_checked_by_itself() -> None:
    text = "x = 1 / |y| if step < 30 else 1 / 5\nmaximize mean[p,i] (reward * x * sum[t] log(pi))\n"
    messages = {x.name: x.message for x in findings(formula(text))}
    assert messages["length-normalisation"].endswith("(steps 0 to 29)")
    shared = formula("eps = 0.2 if step < 9 else 0.1\n" + GOAL.replace(" x)", " (|y| + eps))"))
    assert not any("(step" in x.message or "from step" in x.message for x in findings(shared))


def test_a_phase_is_audited() -> None:
    text = "x = 1 / |y| if step < 30 else 1 / 5\nmaximize mean[p,i] (reward * x * sum[t] log(pi))\n"
    objective = objdsl.loads(text)
    early, late = (audit(objective, policies=2, drifts=(), step=step) for step in (0, None))
    assert early.rows[0].residual.worst > 1e-3 > 1e-8 > late.rows[0].residual.worst
    assert any("from step 30 on" in note for note in late.notes)
    fading = objdsl.loads(text.replace("1 / |y| if step < 30 else 1 / 5", "1 - step / 30"))
    assert any("steps 0 to 30" in x for x in audit(fading, policies=1, drifts=()).notes)


def test_a_step_outside_of_a_run_that_reads_its_length() -> None:
    relative = formula(f"x = 1 if step < 0.5 * steps else 2\n{GOAL}")
    assert at(relative, STEPS - 1).digest == phases(relative)[1].objective.digest
    assert at(relative, 3, steps=4).digest == at(relative, STEPS - 1).digest


# --- the trainer ---------------------------------------------------------------------------------


def test_a_run_computes_what_its_phase_needs(
    run: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the first phase gradients reach the layers below the policy; `ref` is computed later."""
    (tmp_path / "phased.obj").write_text(TEXT.replace("step < 50", "step < 3"))
    asked: list[tuple[str, ...]] = []
    columns = Policy.columns

    def recorded(self: Policy, batch: Any, wanted: Any) -> Any:
        frozen = not any(p.requires_grad for p in self.model.parameters())
        asked.append(("ref" if frozen else "pi", *sorted(wanted)))
        return columns(self, batch, wanted)

    monkeypatch.setattr(Policy, "columns", recorded)
    more = {"model.layers": 2, "checkpoint.every": 1, "checkpoint.keep": 9, "steps": 4}
    result = run(str(tmp_path / "phased.obj"), **more, warm_start__steps=0)
    steps = [set(names) for names in asked]
    assert any("log_inner" in names for names in steps)
    assert any("ref" in names for names in steps)
    first_ref = next(k for k, names in enumerate(asked) if names[0] == "ref")
    assert "log_inner" not in {name for names in asked[first_ref:] for name in names}
    weights = [
        load_file(result.folder / "checkpoints" / f"step-{k:06d}" / "model.safetensors")
        for k in (1, 2, 3)
    ]
    upper = [name for name in weights[0] if ".layers.1." in name]
    assert upper and all(bool((weights[0][k] == weights[1][k]).all()) for k in upper)
    assert any(bool((weights[1][k] != weights[2][k]).any()) for k in upper)


def test_bupo_trains_the_lower_layers_first(
    run: Callable[..., Result], numbers: Callable[[Path], list[dict[str, float]]]
) -> None:
    """Two rollouts for the policy of layer 1 of 2, which reads no norm, then one for the whole."""
    more = {"model.layers": 2, "params.layer": 1, "params.first": 2, "learner.lr": 1e-2}
    result = run("bupo", **more, steps=3, checkpoint__every=1, checkpoint__keep=9)
    assert all(step["grad_norm"] > 0 for step in numbers(result.folder)[1:])
    weights = [
        load_file(result.folder / "checkpoints" / f"step-{k:06d}" / "model.safetensors")
        for k in (1, 2, 3)
    ]

    def moved(before: int, part: str) -> bool:
        names = [name for name in weights[0] if part in name]
        assert names
        pairs = [(weights[before][name], weights[before + 1][name]) for name in names]
        return any(bool((x != y).any()) for x, y in pairs)

    parts = (".layers.0.", ".layers.1.", "model.norm.")
    assert [moved(0, part) for part in parts] == [True, False, False]
    assert [moved(1, part) for part in parts] == [True, True, True]


def test_a_phase_that_trains_nothing_is_refused(run: Callable[..., Result], tmp_path: Path) -> None:
    (tmp_path / "idle.obj").write_text(f"x = 1 if step < 3 else 0\n{GOAL}")
    with pytest.raises(ConfigError, match="trains nothing at step 3"):
        run(str(tmp_path / "idle.obj"))
