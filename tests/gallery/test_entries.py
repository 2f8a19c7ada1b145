"""Each file of the gallery: its layout, its value, its gradient, its emitted code."""

from __future__ import annotations

import inspect
import re

import numpy as np
import pytest

import objdsl
from helpers import gallery_steps, paper_formulas
from objdsl import driver
from objdsl.ir.columns import column_of
from objdsl.ir.differentiate import differentiate, is_learned, weights_of
from objdsl.ir.evaluate import evaluate
from objdsl.ir.nodes import Order, Pick
from objdsl.ir.objective import Objective
from objdsl.ir.phases import phases
from objdsl.objectives import gallery

PUBLISHED = """
    reinforce rejection_sampling rloo reinforce_pp remax ppo grpo dr_grpo dapo gspo gspo_token
    dr_gspo sapo cispo gmpo mini_rl just_rl deepseek_v32 lite_ppo decoupled_ppo tis mis
    geometric_mask icepop dual_clip log_clip clip_cov kl_cov differential_smoothing bupo opo dppo
    kimi_k15 vespo on_policy_distillation dpo ipo simpo kto kl_k1_loss kl_k2_loss kl_k3_loss
    kl_k1_reward kl_k2_reward kl_k3_reward kl_k1_is kl_k2_is kl_k3_is kl_exact gdpo m2po qae
    gigpo adaptive_kl ppo_annealed spo warp prorl gepo pass_at_k online_dpo gpg max_rl w_reinforce
    topr aspo up_dapo reinforce_pp_baseline scale_rl high_entropy best_of_k otb dppo_kl kimi_k2
    a_star_po intellect3 opsm oreal dcpo vapo orpo cpo sft gkd top_k_distillation domain_teachers
    echo hierarchical_grpo safe_rlhf frameworks/prime_rl frameworks/nemo_grpo frameworks/skyrl_grpo
    frameworks/openrlhf_grpo frameworks/openrlhf_ppo frameworks/slime_grpo frameworks/areal_grpo
    frameworks/tinker_ppo frameworks/tinker_importance_sampling frameworks/tinker_cispo
    frameworks/tinker_dro
""".split()

# Those are compared with the framework itself, see test_trl.py and test_verl.py.
INSTALLED = {
    f"frameworks/{name}"
    for name in ("trl_grpo", "trl_grpo_vllm", "trl_rloo", "verl_grpo", "verl_ppo")
}

SOURCE = re.compile(r"arXiv:\d{4}\.\d{5}|doi:\S+|https://\S+")
MOST_LINES = 30

entries = pytest.mark.parametrize("name", PUBLISHED)
seeds = pytest.mark.parametrize("seed", [0, 1, 2])


def formula(name: str) -> Objective:
    return driver.compile_source(gallery.find(name))


def params(objective: Objective) -> dict[str, float]:
    defaults = {param.name: param.default for param in objective.params}
    return {**defaults, **gallery_steps.PARAMS.get(objective.name, {})}


def by_hand(name: str, step: paper_formulas.Step, values: dict[str, float]) -> float:
    function = getattr(paper_formulas, name.rpartition("/")[2])
    wanted = inspect.signature(function).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in wanted.values()):
        return function(step, **values)
    return function(step, **{key: values[key] for key in list(wanted)[1:] if key in values})


def by_phases(objective: Objective, step: paper_formulas.Step) -> list[tuple[float, Objective]]:
    """A rollout of each phase, with the objective of that phase."""
    every = phases(objective)
    if len(every) == 1:
        return [(step.rollout_step, objective)]
    return [(phase.first, phase.objective) for phase in every]


def test_the_gallery_is_complete() -> None:
    assert {*gallery.names()} - INSTALLED == set(PUBLISHED)


@pytest.mark.parametrize("name", gallery.names())
def test_reads_well(name: str) -> None:
    """The name of the file, its paper and what confirms it at the top, one screen."""
    text = gallery.find(name).text
    header = text[: text.index("\nobjective ")]
    assert SOURCE.search(header), "the header names no paper"
    assert all(line.startswith("#") for line in header.splitlines())
    assert [*gallery.fields(gallery.find(name))] == ["group", "use", "source"]
    assert "from memory" not in header
    assert formula(name).name == name.rpartition("/")[2]
    assert len(text.splitlines()) <= MOST_LINES
    assert max(map(len, text.splitlines())) <= 100


@pytest.mark.parametrize("name", [*gallery.names(), gallery.PRELUDE])
def test_is_laid_out_as_fmt_does(name: str) -> None:
    layout = pytest.importorskip("objdsl.syntax.format")
    from objdsl.syntax.parse import parse

    source = gallery.find(name)
    assert layout.format(parse(source)) == source.text


@entries
def test_parameters_are_used(name: str) -> None:
    """A parameter that a file declares itself enters its formula (an inherited one need not)."""
    objective = formula(name)
    used = {param.name for param in objective.used_params}
    declared = re.findall(r"^param (\w+)", gallery.find(name).text, re.MULTILINE)
    assert set(declared) <= used


@entries
@seeds
def test_value_is_that_of_the_paper(name: str, seed: int) -> None:
    objective = formula(name)
    step = gallery_steps.random_step(seed, objective.domains)
    values = params(objective)
    for rollout, _ in by_phases(objective, step):
        step.rollout_step = rollout
        (value,) = evaluate([objective.goal], gallery_steps.batch(step), values)
        assert value == pytest.approx(by_hand(name, step, values), rel=1e-12, abs=1e-12)


@pytest.mark.parametrize(
    ("name", "direct"),
    [
        ("ppo", "ppo_critic"),
        ("dual_clip", "ppo_critic"),
        ("vapo", "vapo_critic"),
        ("frameworks/openrlhf_ppo", "openrlhf_ppo_critic"),
    ],
)
@seeds
def test_critic_loss_is_that_of_the_paper(name: str, direct: str, seed: int) -> None:
    objective = formula(name)
    step = gallery_steps.random_step(seed, objective.domains)
    values = params(objective)
    assert objective.critic is not None
    (value,) = evaluate([objective.critic], gallery_steps.batch(step), values)
    critic = by_hand(direct, step, values)
    assert value == pytest.approx(critic, rel=1e-12, abs=1e-12)


@seeds
def test_states_become_what_the_paper_says(seed: int) -> None:
    for name, names in (("adaptive_kl", ["beta"]), ("spo", ["won", "lost"])):
        objective = formula(name)
        step = gallery_steps.random_step(seed, objective.domains)
        values = params(objective) | ({"target": 0.3} if name == "adaptive_kl" else {})
        assert [state.name for state in objective.states] == names
        after = [state.next for state in objective.states]
        actual = evaluate(after, gallery_steps.batch(step), values)
        if name == "spo":
            expected = [*paper_formulas.spo_tracker(step, values["rho"])]
        else:
            expected = [paper_formulas.adaptive_kl_beta(step, values["target"])]
        for got, wanted in zip(actual, expected, strict=True):
            assert got == pytest.approx(wanted, rel=1e-12)


@seeds
def test_the_multiplier_moves_as_the_code_does(seed: int) -> None:
    objective = formula("safe_rlhf")
    step = gallery_steps.random_step(seed, objective.domains)
    (number,) = objective.learned
    assert objective.dual is not None
    batch, values = gallery_steps.batch(step), params(objective)
    slope, loss = evaluate([weights_of(objective)[number.column], objective.dual], batch, values)
    expected = paper_formulas.safe_rlhf_multiplier(step, values["limit"])
    assert loss == pytest.approx(expected, rel=1e-12)
    assert slope == pytest.approx(-expected, rel=1e-12)  # of exp, the slope is the value


@entries
def test_gradient_is_that_of_the_paper(name: str) -> None:
    """The derived weights against finite differences of the direct computation."""
    objective = formula(name)
    step = gallery_steps.random_step(5, objective.domains)
    values = params(objective)
    for rollout, phase in by_phases(objective, step):
        step.rollout_step = rollout
        weights = {leaf: w for leaf, w in differentiate(phase.goal).items() if not is_learned(leaf)}
        actual = evaluate(list(weights.values()), gallery_steps.batch(step), values)
        assert weights
        for (leaf, weight), w in zip(weights.items(), actual, strict=True):
            column = column_of(leaf).name
            slopes = gallery_steps.differences(
                lambda moved: by_hand(name, moved, values), step, column
            )
            assert any(np.any(slope != 0) for slope in slopes)
            for i, slope in enumerate(slopes):
                here = w if weight.indices == () else w[i]
                np.testing.assert_allclose(np.broadcast_to(here, slope.shape), slope, atol=2e-8)


@entries
def test_tensors_agree_with_the_formula(name: str) -> None:
    """Value, weights and reports of the emitted PyTorch against the reference."""
    objective = objdsl.load(name)
    objective = objective.with_params(**gallery_steps.PARAMS.get(objective.name, {}))
    step = gallery_steps.random_step(7, objective.formula.domains)
    mask, columns = gallery_steps.padded(step)
    live = {column: columns.pop(column) for column in objective.live}
    prepared = objective.prepare(mask=mask, prompt=step.prompt, **columns)
    value, weights, reports = objective.weights(step=prepared, **live)

    ir = objective.formula
    total = ir.goal
    roots = [total, *(report.value for report in ir.reports)]
    numbers = evaluate(roots, gallery_steps.batch(step), objective.params)
    critic = (
        []
        if ir.critic is None
        else evaluate([ir.critic], gallery_steps.batch(step), objective.params)
    )
    assert float(value) == pytest.approx(numbers[0] - sum(critic), rel=1e-12)
    for report, expected in zip(ir.reports, numbers[1:], strict=True):
        assert float(reports[report.name]) == pytest.approx(expected, rel=1e-12, abs=1e-12)

    derived = {leaf: w for leaf, w in differentiate(ir.goal).items() if not is_learned(leaf)}
    for (leaf, weight), w in zip(
        derived.items(),
        evaluate(list(derived.values()), gallery_steps.batch(step), objective.params),
        strict=True,
    ):
        for i, length in enumerate(step.lengths):
            got = weights[column_of(leaf).name][i, :length]
            here = w if weight.indices == () else w[i]
            np.testing.assert_allclose(got, np.broadcast_to(here, got.shape), atol=1e-12)


@entries
def test_random_steps_take_every_branch(name: str) -> None:
    """The steps above test a mask only if it holds somewhere and fails somewhere."""
    objective = formula(name)
    masks = [
        node
        for node in objective.nodes
        if node.boolean and node.indices and not isinstance(node, Pick | Order)
    ]
    taken: list[set[bool]] = [set() for _ in masks]
    for seed in range(8):
        step = gallery_steps.random_step(seed, objective.domains)
        outcomes = evaluate(masks, gallery_steps.batch(step), params(objective))
        for values, seen in zip(outcomes, taken, strict=True):
            seen |= set(np.concatenate([np.atleast_1d(x) for x in values]).tolist())
        if all(seen == {True, False} for seen in taken):
            return
    pytest.fail(
        f"always the same: {[m for m, seen in zip(masks, taken, strict=True) if len(seen) < 2]}"
    )


def test_reports_say_what_their_names_say() -> None:
    step = gallery_steps.random_step(3)
    by_name = {report.name: report.value for report in formula("grpo").reports}
    ratios = np.concatenate([np.exp(p - q) for p, q in zip(step.pi, step.old, strict=True)])
    (fraction,) = evaluate([by_name["clip_fraction"]], gallery_steps.batch(step), {"eps": 0.2})
    assert fraction == pytest.approx(np.mean((ratios < 0.8) | (ratios > 1.2)), rel=1e-12)


@pytest.mark.parametrize(
    "same",
    [
        {"gspo": {}, "gspo_token": {}, "sapo": {}, "gmpo": {}},
        {"just_rl": {}, "tis": {}, "mis": {}, "geometric_mask": {}},
        {"dr_gspo": {}, "dr_grpo": {"L": 1.0}},
    ],
    ids=["mean over tokens", "token mean of the step", "sum over tokens"],
)
def test_gradients_coincide_on_policy(same: dict[str, dict[str, float]]) -> None:
    """With pi = old = mu, these ratios, clips and masks do not differ."""
    step = gallery_steps.random_step(4)
    step.old = step.mu = step.now = step.pi
    gradients = []
    for name, values in same.items():
        objective = formula(name)
        (weight,) = differentiate(objective.goal).values()
        (w,) = evaluate([weight], gallery_steps.batch(step), {**params(objective), **values})
        gradients.append(
            np.concatenate([np.broadcast_to(x, k) for x, k in zip(w, step.lengths, strict=True)])
        )
    for other in gradients[1:]:
        np.testing.assert_allclose(other, gradients[0], atol=1e-12)
