"""The fused head computes the same as logits, log-softmax, the objective and autograd."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

import objdsl
from helpers.fused_steps import LENGTHS, NAMES, PARAMS, H, V, plain, prepared, scene
from helpers.samples import entries
from objdsl.analysis.schedule.plan import Coupling, Schedule, Sizes, legal, plan
from objdsl.errors import InputError
from objdsl.fused.autograd import precomputed
from objdsl.fused.counts import Counts

# Bytes: for a token at a time where sums over responses are kept apart, for three of them, for all.
BUDGETS = (500, 3000, 1 << 30)
SCALED: Schedule = "one pass, scaled afterwards"
pytestmark = pytest.mark.usefixtures("chunks_of_any_size")


def fused(
    objective: objdsl.Objective, data: dict[str, Any], step: Any, others: dict[str, Tensor],
    **options: Any,
) -> tuple[objdsl.objective.Output, list[Tensor]]:  # fmt: skip
    leaves = [data[k].clone().requires_grad_() for k in ("hidden", "weight", "bias")]
    again = {name: x.detach().clone().requires_grad_() for name, x in others.items()}
    out = objective.fused(
        leaves[0], leaves[1], data["tokens"], step, bias=leaves[2], **again, **options
    )
    out.loss.backward()
    return out, [x.grad for x in (*leaves, *again.values())]  # type: ignore[misc]


def assert_same(ours: Any, theirs: Any, reports: bool = True) -> None:
    (out, gradients), (other, others) = ours, theirs
    torch.testing.assert_close(out.value, other.value, rtol=1e-11, atol=1e-12)
    for x, y in zip(gradients, others, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-10, atol=1e-12)
    if reports:
        assert out.reports.keys() == other.reports.keys()
    for name in out.reports:
        torch.testing.assert_close(out.reports[name], other.reports[name], rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", entries(NAMES))
def test_every_schedule_is_the_plain_computation(name: str, packed: bool) -> None:
    objective = objdsl.load(name, **PARAMS.get(name, {}))
    data = scene(objective, packed)
    step, others = prepared(objective, data)
    expected = plain(objective, data, step, others, 1.3, 5.0)
    schedules = legal(objective.fused_loss.coupled)
    assert schedules
    for schedule in schedules:
        for budget in BUDGETS:
            actual = fused(
                objective, data, step, others, temperature=1.3, softcap=5.0,
                schedule=schedule, budget=budget,
            )  # fmt: skip
            whole = objective.fused_loss.coupled.distribution is None or budget > 10_000
            assert_same(actual, expected, reports=whole)


@pytest.mark.parametrize("name", ["grpo", "gspo", "gmpo", "kl_exact", "clip_cov"])
def test_micro_batches_add_up(name: str) -> None:
    objective = objdsl.load(name, **PARAMS.get(name, {}))
    data = scene(objective, packed=False)
    step, others = prepared(objective, data)
    expected = plain(objective, data, step, others, 1.0, None)
    if objective.needs_couple:
        log_p = torch.log_softmax(data["hidden"] @ data["weight"].T + data["bias"], -1)
        log_pi = log_p.gather(-1, data["tokens"][..., None]).squeeze(-1)
        step = objective.couple(step, log_pi=log_pi)
    for budget in BUDGETS:
        leaves = [data[k].clone().requires_grad_() for k in ("hidden", "weight", "bias")]
        value = torch.zeros((), dtype=torch.float64)
        for rows in torch.randperm(8).split(3):
            out = objective.fused(
                leaves[0][rows], leaves[1], data["tokens"][rows], step[rows], bias=leaves[2],
                budget=budget,
            )  # fmt: skip
            out.loss.backward()
            value += out.value
        torch.testing.assert_close(value, expected[0].value)
        for x, y in zip(leaves, expected[1], strict=False):
            torch.testing.assert_close(x.grad, y, rtol=1e-10, atol=1e-12)


def test_what_couples_responses_is_known_or_held_together() -> None:
    """With everything in memory, or after `couple`, no product is computed twice."""
    objective = objdsl.load("clip_cov", **PARAMS["clip_cov"])
    data = scene(objective, packed=False)
    step, others = prepared(objective, data)
    expected = plain(objective, data, step, others, 1.0, None)
    log_p = torch.log_softmax(data["hidden"] @ data["weight"].T + data["bias"], -1)
    log_pi = log_p.gather(-1, data["tokens"][..., None]).squeeze(-1)
    coupled = objective.couple(step, log_pi=log_pi)
    weighted = int(
        objective.fused_loss.may_be_nonzero(step, torch.float64)[data["mask"].flatten()].sum()
    )
    weighty = int((objective.weights(log_pi, step)[1]["log_pi"] != 0).sum())
    total = int(LENGTHS.sum())
    assert 0 < weighty < weighted < total
    for ready, schedule, products in (
        (step, None, total + 2 * weighted),
        (coupled, None, total + 2 * weighted),
        (coupled, "one pass", total + 2 * weighted),
        (step, "two passes", total + 3 * weighty),
    ):
        with Counts() as counts:
            actual = fused(objective, data, ready, others, schedule=schedule)
        assert_same(actual, expected)
        assert sum(counts.units(1, H, V).values()) == pytest.approx(products)


def test_entries_are_weighted_by_other_responses() -> None:
    text = """
        objective spread_out
        above = sg(entropy) - mean[p,i,t] sg(entropy)
        maximize mean[p,i,t] (reward * log(pi) + above * entropy)
    """
    objective = objdsl.loads(text)
    data = scene(objective, packed=False)
    step, others = prepared(objective, data)
    expected = plain(objective, data, step, others, 1.3, 5.0)
    assert legal(objective.fused_loss.coupled) == ("one pass, whole step",)
    for budget in BUDGETS:
        actual = fused(objective, data, step, others, temperature=1.3, softcap=5.0, budget=budget)
        assert_same(actual, expected)


def test_dead_tokens_of_a_response_that_lives() -> None:
    """A weight may need the log-probability of a token that has no weight itself."""
    text = """
        objective some_tokens
        c = sg(mean[t] log(pi / old))
        maximize mean[p,i] (reward * c * mean[t] ((log(mu) > -2.5) * log(pi)))
    """
    objective = objdsl.loads(text)
    data = scene(objective, packed=False)
    data["columns"]["reward"] = data["columns"]["reward"] + 1
    step, others = prepared(objective, data)
    expected = plain(objective, data, step, others, 1.0, None)
    weighted = int((data["columns"]["log_mu"][data["mask"]] > -2.5).sum())
    total = int(LENGTHS.sum())
    assert 0 < weighted < total
    for schedule in legal(objective.fused_loss.coupled):
        for budget in BUDGETS:
            with Counts() as counts:
                actual = fused(objective, data, step, others, schedule=schedule, budget=budget)
            assert_same(actual, expected)
            again = 3 if schedule == "two passes" else 2
            products = sum(counts.units(1, H, V).values())
            assert products == pytest.approx(total + again * weighted)


@pytest.mark.parametrize("packed", [False, True])
def test_dead_tokens_are_known_in_micro_batches_too(packed: bool) -> None:
    """All groups but the last have equal rewards, which no single row can tell."""
    objective = objdsl.load("dapo", **PARAMS["dapo"])
    data = scene(objective, packed)
    data["columns"]["reward"][:4] = 1.0
    step, _ = prepared(objective, data)
    for rows in (torch.tensor([6, 1, 4]), torch.tensor([0, 2, 3]), torch.tensor([5, 7])):
        places = step.tokens_of(rows) if packed else rows
        part = step[torch.cat([rows, rows])][: len(rows)]
        hidden, weight = data["hidden"][places].clone(), data["weight"].clone()
        with Counts() as counts:
            objective.fused(
                hidden.requires_grad_(), weight.requires_grad_(), data["tokens"][places], part
            )
        dead, weighted = (int(LENGTHS[rows[mask]].sum()) for mask in (rows < 6, rows >= 6))
        assert sum(counts.units(1, H, V).values()) == pytest.approx(dead + 3 * weighted)


BONUS = """
objective bonus
entropy = -sum[v] (pi[v] * log(pi[v]))
report mean_entropy = mean[p,i,t] entropy
maximize mean[p,i,t] (reward * log(pi) + 0.1 * entropy)
"""
RESPONSE_BONUS = """
objective response_bonus
entropy = -sum[v] (pi[v] * log(pi[v]))
maximize mean[p,i] (reward * exp(mean[t] log(pi)) + (mean[t] entropy) ^ 2)
"""


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("text", [BONUS, RESPONSE_BONUS])
def test_weights_of_vocabulary_entries(text: str, packed: bool) -> None:
    objective = objdsl.loads(text)
    data = scene(objective, packed)
    step, others = prepared(objective, data)
    expected = plain(objective, data, step, others, 1.3, 5.0)
    for budget in BUDGETS:
        actual = fused(objective, data, step, others, temperature=1.3, softcap=5.0, budget=budget)
        assert_same(actual, expected)


@pytest.mark.parametrize("name", ["grpo", "gspo"])
def test_entries_that_were_not_kept_have_no_part(name: str) -> None:
    objective = objdsl.load(name)
    data = scene(objective, packed=False)
    step, others = prepared(objective, data)
    kept = torch.rand(8, 6, V) < 0.6
    kept.scatter_(-1, data["tokens"][..., None], True)
    leaves = [data[k].clone().requires_grad_() for k in ("hidden", "weight", "bias")]
    z = (leaves[0] @ leaves[1].T + leaves[2]).masked_fill(~kept, -torch.inf)
    log_pi = torch.log_softmax(z, -1).gather(-1, data["tokens"][..., None]).squeeze(-1)
    out = objective(log_pi, step)
    out.loss.backward()
    expected = out, [x.grad for x in leaves]
    for schedule in legal(objective.fused_loss.coupled):
        for budget in BUDGETS:
            actual = fused(
                objective, data, step, others, kept=kept, schedule=schedule, budget=budget
            )
            assert_same(actual, expected)


def test_dead_responses_take_one_product_and_change_nothing() -> None:
    """Where all rewards of a group are equal, and no KL is left, nothing is learned."""
    objective = objdsl.load("dapo", **PARAMS["dapo"])
    data = scene(objective, packed=False)
    data["columns"]["reward"][:4] = 1.0
    step, others = prepared(objective, data)
    weighted = objective.fused_loss.may_be_nonzero(step, torch.float64)
    assert weighted is not None
    assert not weighted.view(8, 6)[:4].any()
    assert weighted.view(8, 6)[4:].any()
    expected = plain(objective, data, step, others, 1.0, None)
    assert_same(fused(objective, data, step, others), expected)


# Weights that need their response for a factor that its tokens have in common, and the others.
SEPARABLE = {
    "a_star_po", "dr_gspo", "gepo", "gmpo", "gspo", "intellect3", "kimi_k15", "kimi_k2", "opsm",
    "topr", "vespo", "frameworks/trl_rloo",
}  # fmt: skip
NOT_SEPARABLE = {"gspo_token", "deepseek_v32"}


def test_which_weights_come_apart() -> None:
    """Every objective of the gallery whose weights need their response is in one of the sets."""
    verdicts: dict[str, bool] = {}
    for name in NAMES:
        coupled = objdsl.load(name).fused_loss.coupled
        if coupled.worst is Coupling.RESPONSE and coupled.distribution is None:
            verdicts[name] = "one pass, scaled afterwards" in legal(coupled)
    assert {name for name, apart in verdicts.items() if apart} == SEPARABLE
    assert {name for name, apart in verdicts.items() if not apart} == NOT_SEPARABLE


def test_a_factor_may_read_a_critic() -> None:
    objective = objdsl.loads("""
        objective baseline
        s = exp(mean[t] log(pi / old))
        maximize mean[p,i] ((reward - sg(mean[t] V)) * s)
    """)
    data = scene(objective, packed=False)
    step, others = prepared(objective, data)
    assert [*others] == ["value"]
    expected = plain(objective, data, step, others, 1.0, None)
    actual = fused(objective, data, step, others, schedule=SCALED, budget=500)
    assert_same((actual[0], actual[1][:3]), (expected[0], expected[1][:3]))


def test_a_response_without_a_weight_may_have_any_share() -> None:
    """Tokens that a mask leaves out have no effect, even if their ratio overflows."""
    text = """
        objective masked
        r = pi / mu
        M = mean[t] log(mu / pi) <= 1 and mean[t] log(pi / mu) <= 1
        maximize mean[p,i] sum[t] (M * r * reward)
    """
    objective = objdsl.loads(text)
    data = scene(objective, packed=False)
    data["columns"]["log_mu"][1, 2] = -2000.0
    step, others = prepared(objective, data)
    expected = plain(objective, data, step, others, 1.0, None)
    assert expected[0].value.isfinite()
    actual = fused(objective, data, step, others, schedule=SCALED, budget=500)
    assert_same(actual, expected)


def test_long_responses_are_scaled_afterwards_where_that_is_faster() -> None:
    gspo = objdsl.load("gspo").fused_loss.coupled
    sizes = Sizes(65_536, 8192, 4096, 128_256, weight_bytes=2)
    assert plan(gspo, replace(sizes, longest=4096)).schedule == "one pass, whole responses"
    assert plan(gspo, sizes).schedule == SCALED
    # Chunks are balanced: two of 4096 here, one of which is made larger for its response.
    assert plan(gspo, replace(sizes, tokens=8192, longest=5000)).chunk == 5000
    assert plan(gspo, replace(sizes, vocabulary=256_000)).schedule == "two passes"
    apart = objdsl.load("gspo_token").fused_loss.coupled
    assert plan(apart, sizes).schedule == "two passes"
    assert plan(gspo, replace(sizes, vocabulary=256_000, frozen_head=True)).schedule == SCALED


@settings(max_examples=25)
@given(
    name=st.sampled_from(["dapo", "gspo", "gmpo", "grpo", "clip_cov"]),
    lengths=st.lists(st.integers(1, 6), min_size=8, max_size=8),
    rewards=st.lists(st.sampled_from([0.0, 1.0]), min_size=8, max_size=8),
    tokens=st.integers(1, 20),
)
@example("dapo", [3] * 8, [1.0] * 8, 4)
def test_any_lengths_and_rewards(
    name: str, lengths: list[int], rewards: list[float], tokens: int
) -> None:
    """In chunks of any size; and where all rewards are equal, so that nothing has a weight."""
    objective = objdsl.load(name, **PARAMS.get(name, {}))
    data = scene(objective, packed=False)
    data["rows"]["mask"] = torch.arange(6) < torch.tensor(lengths)[:, None]
    data["columns"]["reward"] = torch.tensor(rewards, dtype=torch.float64)
    step, others = prepared(objective, data)
    expected = plain(objective, data, step, others, 1.0, None)
    for schedule in legal(objective.fused_loss.coupled):
        actual = fused(objective, data, step, others, schedule=schedule, budget=8 * V * tokens)
        assert_same(actual, expected)


@pytest.mark.parametrize("name", ["grpo", "gspo"])
def test_a_frozen_head_has_no_gradient(name: str) -> None:
    objective = objdsl.load(name)
    data = scene(objective, packed=True)
    step, _ = prepared(objective, data)
    hidden = data["hidden"].clone().requires_grad_()
    schedules = legal(objective.fused_loss.coupled)
    for schedule in schedules:
        out = objective.fused(
            hidden, data["weight"], data["tokens"], step, bias=data["bias"], schedule=schedule,
            budget=500,
        )  # fmt: skip
        out.loss.backward()
    assert len(schedules) == 3
    expected = plain(objective, data, step, {}, 1.0, None)
    torch.testing.assert_close(hidden.grad, 3 * expected[1][0])


def test_what_cannot_be_is_refused() -> None:
    objective = objdsl.load("gspo")
    data = scene(objective, packed=True)
    step, _ = prepared(objective, data)
    arguments = (data["hidden"], data["weight"], data["tokens"], step)
    schedule: Schedule = "one pass"
    with pytest.raises(ValueError, match="needs the log-probabilities of its response"):
        objective.fused(*arguments, schedule=schedule)
    with pytest.raises(ValueError, match="hidden must be"):
        objective.fused(data["hidden"][:-1], *arguments[1:])
    for name in ("log_pi", "log_pi_dist"):
        with pytest.raises(InputError, match=f"fused computes '{name}' from `hidden`"):
            objective.fused(*arguments, **{name: data["columns"]["log_old"]})
    with pytest.raises(InputError, match="unknown input 'valeu'"):
        objective.fused(*arguments, valeu=data["columns"]["log_old"])
    with pytest.raises(TypeError, match="is called `sequence_parallel` now"):
        objective.fused(*arguments, spread=data["columns"]["log_old"])
    with pytest.raises(AttributeError, match="is called `SequenceParallel` now"):
        _ = objdsl.fused.Spread
    critic = objdsl.load("ppo")
    data = scene(critic, packed=True)
    step, others = prepared(critic, data)
    arguments = (data["hidden"], data["weight"], data["tokens"], step)
    with pytest.raises(InputError, match="ppo needs the trained input 'value'"):
        critic.fused(*arguments)
    with pytest.raises(InputError, match="did you mean 'value'"):
        critic.fused(*arguments, valeu=others["value"])


def test_log_probs_without_a_gradient() -> None:
    objective = objdsl.load("grpo")
    data = scene(objective, packed=False)
    actual, entropy = objdsl.fused.log_probs(
        data["hidden"], data["weight"], data["tokens"], bias=data["bias"], entropy=True, chunk=7
    )
    log_p = torch.log_softmax(data["hidden"] @ data["weight"].T + data["bias"], -1)
    torch.testing.assert_close(actual, log_p.gather(-1, data["tokens"][..., None]).squeeze(-1))
    assert entropy is not None
    torch.testing.assert_close(entropy, -(log_p.exp() * log_p).sum(-1))


def test_backward_happens_once() -> None:
    objective = objdsl.load("grpo")
    data = scene(objective, packed=True)
    step, _ = prepared(objective, data)
    hidden = data["hidden"].clone().requires_grad_()
    out = objective.fused(hidden, data["weight"], data["tokens"], step)
    (3 * out.loss).backward(retain_graph=True)
    once = objective.fused(data["hidden"].requires_grad_(), data["weight"], data["tokens"], step)
    once.loss.backward()
    torch.testing.assert_close(hidden.grad, 3 * data["hidden"].grad)
    with pytest.raises(RuntimeError, match="backward was called before"):
        out.loss.backward()


def test_a_gradient_as_large_as_the_head_is_there_once() -> None:
    head, gradient = torch.zeros(7, requires_grad=True), torch.ones(7)
    place = gradient.data_ptr()
    loss = precomputed(torch.tensor(1.0), [head], [gradient], once=True)
    del gradient
    (2 * loss).backward(retain_graph=True)
    assert head.grad is not None and head.grad.data_ptr() == place
    assert head.grad.tolist() == [-2.0] * 7


@pytest.mark.parametrize("name", ["reinforce", "grpo", "gspo"])
def test_weights_are_wide_where_the_model_is_narrow(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even those that are known beforehand: bfloat16 cannot represent a length of 515."""
    objective = objdsl.load(name)
    data = scene(objective, packed=True)
    step, _ = prepared(objective, data)
    asked = []

    def weights(self: objdsl.Objective, log_pi: Tensor, step: Any) -> Any:
        asked.append(log_pi.dtype)
        return whole(self, log_pi, step)

    whole = objdsl.Objective.weights
    monkeypatch.setattr(objdsl.Objective, "weights", weights)
    for schedule in legal(objective.fused_loss.coupled):
        hidden, weight = (data[k].bfloat16().requires_grad_() for k in ("hidden", "weight"))
        out = objective.fused(hidden, weight, data["tokens"], step, schedule=schedule, budget=500)
        out.loss.backward()
        assert hidden.grad is not None
        assert weight.grad is not None
        assert hidden.grad.dtype == weight.grad.dtype == torch.bfloat16
    assert set(asked) == {torch.float32}
