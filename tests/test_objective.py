"""The Python interface: losses that train, parts that add up, and input that is refused clearly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import objdsl


def grpo_columns() -> dict[str, Any]:
    torch.manual_seed(1)
    return {
        "mask": torch.arange(5) < torch.tensor([3, 5, 1, 2])[:, None],
        "prompt": torch.tensor([9, 9, 4, 4]),
        "reward": torch.tensor([1.0, 0.0, 0.5, 0.0]),
        "log_old": -torch.rand(4, 5),
        "log_ref": -torch.rand(4, 5),
    }


def test_the_gradient_of_the_loss_is_minus_the_weights() -> None:
    objective = objdsl.load("grpo")
    log_pi = (-torch.rand(4, 5)).requires_grad_()
    step = objective.prepare(**grpo_columns())
    out = objective(log_pi, step)
    (3 * out.loss).backward()
    value, w, _ = objective.weights(log_pi, step)
    assert out.value == value == -out.loss
    torch.testing.assert_close(log_pi.grad, -3 * w["log_pi"])
    assert w["log_pi"][~step.mask].abs().max() == 0


@pytest.mark.parametrize(("scale", "size"), [("", 1.0), ("b * ", 0.3)])
def test_the_weight_of_a_running_sum_may_be_one_number_of_the_step(scale: str, size: float) -> None:
    """A count, or a parameter divided by one, is not a tensor."""
    text = f"param b = 0.3\nmaximize {scale}mean[p,i] sum[t] (sum[s <= t] log(pi))\n"
    objective = objdsl.loads(f"objective running\n{text}")
    columns = {name: grpo_columns()[name] for name in ("mask", "prompt")}
    log_pi = -torch.rand(4, 5)
    _, w, _ = objective.weights(log_pi, objective.prepare(**columns))
    to_go = columns["mask"].flip(-1).cumsum(-1).flip(-1)
    torch.testing.assert_close(w["log_pi"], size / 4 * to_go * columns["mask"])


def test_one_call_equals_the_two_halves() -> None:
    objective = objdsl.load("grpo")
    log_pi = -torch.rand(4, 5)
    halves = objective(log_pi, objective.prepare(**grpo_columns()))
    assert objective(log_pi=log_pi, **grpo_columns()).loss == halves.loss


@pytest.mark.parametrize(
    "held", ["min(W, 5)", "-max(-5, -W)", "clip(W, 0, 5)", "(W if W < 5 else 0)", "(W < 5) * W"]
)
def test_what_overflows_where_a_bound_holds_changes_nothing(held: str, tmp_path: Path) -> None:
    """A product of ratios is infinite in float32, and the gradient that would multiply it is 0."""
    file = tmp_path / "held.obj"
    goal = f"maximize mean[p,i] ({held} * reward)"
    file.write_text(f"objective held\nW = prod[t] (pi / ref)\n{goal}\n", encoding="utf-8")
    columns = grpo_columns()
    columns["log_ref"] = columns["log_old"] - torch.tensor([[200.0], [0.0], [0.0], [0.0]])
    del columns["log_old"]
    log_pi = (-torch.rand(4, 5)).requires_grad_()
    objdsl.load(file)(log_pi=log_pi, **columns).loss.backward()
    assert log_pi.grad is not None
    assert log_pi.grad[0].abs().max() == 0
    assert log_pi.grad[2].abs().max() > 0


@pytest.mark.parametrize("number", ["(1 + 1 / c)", "log(c)", "exp(1000 - c)", "(c - 1)^0.5"])
@pytest.mark.parametrize("factor", ["reward", "log(pi)", "1"], ids=["before", "with pi", "alone"])
def test_what_parameters_make_impossible_is_no_number(number: str, factor: str) -> None:
    """As with tensors, impossible arithmetic of parameters is NaN, not an exception."""
    objective = objdsl.loads(
        f"objective odd\nparam c = 0\nmaximize mean[p,i,t] (log(pi) * {factor} * {number})\n"
    )
    assert not objective(log_pi=-torch.rand(4, 5), **grpo_columns()).loss.isfinite()


def test_narrow_log_probabilities_are_added_up_wide() -> None:
    """In bfloat16, a sum over 2000 tokens would lose all differences between two policies."""
    objective, tokens = objdsl.load("gspo"), 2000
    log_old = -torch.rand(2, tokens).bfloat16()
    log_pi = (log_old * 1.01).bfloat16()
    columns = {
        "log_old": log_old,
        "reward": torch.tensor([1.0, 0.0]),
        "prompt": torch.tensor([0, 0]),
        "mask": torch.ones(2, tokens, dtype=torch.bool),
    }
    narrow = objective(log_pi=log_pi.requires_grad_(), **columns)
    narrow.loss.backward()
    wide = objective(log_pi=log_pi.detach().float(), **{**columns, "log_old": log_old.float()})
    assert log_pi.grad is not None and log_pi.grad.dtype == torch.bfloat16
    assert narrow.loss.dtype == torch.float32
    assert narrow.loss == wide.loss != 0


def test_the_entropy_of_the_entries_that_were_kept(tmp_path: Path) -> None:
    """The others have probability 0, and 0 log 0 is 0."""
    file = tmp_path / "entropy.obj"
    goal = "maximize mean[p,i] sum[t] (reward * log(pi) + entropy)"
    file.write_text(f"objective x\nsample from mu: keep_mask\n{goal}\n", encoding="utf-8")
    objective, columns = objdsl.load(file), grpo_columns()
    step = objective.prepare(**{name: columns[name] for name in ("mask", "prompt", "reward")})
    hidden, head = torch.randn(4, 5, 8).double().requires_grad_(), torch.randn(6, 8).double()
    tokens, kept = torch.randint(0, 3, (4, 5)), torch.arange(6).expand(4, 5, 6) < 3

    few = torch.log_softmax(hidden @ head[:3].T, -1)
    chosen = few.gather(-1, tokens[..., None]).squeeze(-1)
    total = columns["reward"][:, None] * chosen - (few.exp() * few).sum(-1)
    expected = -(total * step.mask).sum() / 4
    (gradient,) = torch.autograd.grad(expected, hidden)

    out = objective.fused(hidden, head.requires_grad_(), tokens, step, kept=kept)
    out.loss.backward()
    torch.testing.assert_close(out.loss, expected)
    torch.testing.assert_close(hidden.grad, gradient)


def test_a_critic_gets_its_own_gradient() -> None:
    objective = objdsl.load("ppo")
    assert objective.live == ("log_pi", "value")
    columns = grpo_columns()
    columns["value_old"] = torch.randn(4, 5)
    value = columns["value_old"].clone().requires_grad_()
    out = objective(log_pi=-torch.rand(4, 5), value=value, **columns)
    out.loss.backward()
    assert value.grad is not None and value.grad.abs().sum() > 0
    assert "critic_loss" in out.reports


def test_parameters_have_names_and_domains() -> None:
    assert objdsl.load("grpo", eps=0.1).params["eps"] == 0.1
    with pytest.raises(ValueError, match="no parameter 'epz'; did you mean 'eps'"):
        objdsl.load("grpo", epz=0.1)
    with pytest.raises(ValueError, match=r"eps = 2 is outside \(0, 1\)"):
        objdsl.load("grpo", eps=2)
    plain, other = objdsl.load("grpo"), objdsl.load("grpo", eps=0.1)
    assert plain.digest != other.digest and plain.digest == objdsl.load("grpo").digest


def test_an_unknown_name_has_a_near_one() -> None:
    with pytest.raises(FileNotFoundError, match="did you mean `grpo`"):
        objdsl.load("grppo")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"reward": None}, r"reads the column 'reward' \[N\], which is missing"),
        ({"log_old": torch.zeros(4, 4)}, r"the column 'log_old' .* must be \[4, 5\], not \[4, 4\]"),
        ({"reward": torch.zeros(4, 1)}, r"'reward' .* must be \[4\], not \[4, 1\]"),
        ({"reward": torch.zeros(4, dtype=torch.complex64)}, "must hold real numbers"),
        ({"reward": "none"}, "'reward' cannot be made a tensor"),
        ({"prompt": ["a", "a", "b", ["b"]]}, "can be hashed, .* that of response 3 is a list"),
        ({"dtype": torch.int64}, "dtype must be a float type"),
        ({"reward": torch.tensor([0, float("nan"), 0, 0])}, r"'reward' is NaN at \[1\]"),
        ({"mask": torch.zeros(4, 5, dtype=torch.bool)}, "response 0 is empty"),
        ({"mask": torch.ones(4)}, r"mask must be \[N, T\]"),
        ({"mask": None}, "give either mask .* or lengths"),
        ({"prompt": [1, 2]}, r"prompt must be \[4\]"),
        ({"prompt": [1, 1, 1, 2]}, "the prompt of response 3 has one response only"),
    ],
)
def test_bad_columns(change: dict[str, Any], message: str) -> None:
    columns = {**grpo_columns(), **change}
    columns = {name: x for name, x in columns.items() if x is not None}
    with pytest.raises(ValueError, match=message):
        objdsl.load("grpo").prepare(**{"prompt": [0, 0, 0, 0], **columns})


def test_a_nan_in_a_live_token_is_refused_and_in_padding_ignored() -> None:
    objective = objdsl.load("grpo")
    step = objective.prepare(**grpo_columns())
    log_pi = -torch.rand(4, 5)
    clean = objective(log_pi, step).loss
    log_pi[2, 3] = float("nan")
    assert objective(log_pi, step).loss == clean
    log_pi[2, 0] = float("nan")
    with pytest.raises(ValueError, match="log_pi is NaN at an unmasked token"):
        objective(log_pi, step)


@pytest.mark.parametrize(
    "other", [objdsl.load("reinforce"), objdsl.load("dapo"), objdsl.load("grpo", eps=0.1)], ids=repr
)
def test_a_step_belongs_to_the_objective_that_prepared_it(other: objdsl.Objective) -> None:
    step = objdsl.load("grpo").prepare(**grpo_columns())
    for part in (step, step[:2]):
        with pytest.raises(ValueError, match="prepared by a different objective than <objdsl"):
            other(torch.zeros(part.mask.shape), part)
    with pytest.raises(TypeError, match="a step is what `prepare` returns, not dict"):
        other(torch.zeros(4, 5), grpo_columns())  # type: ignore[arg-type]


def test_no_rows_are_a_part_of_a_step() -> None:
    objective = objdsl.load("grpo")
    out = objective(torch.zeros(0, 5), objective.prepare(**grpo_columns())[[]])
    assert out.value == 0


def test_a_text_may_come_from_any_editor() -> None:
    plain = "# \N{GREEK SMALL LETTER PI}\nobjective x\n\nmaximize mean[p,i,t] (reward * log(pi))\n"
    digests = {
        objdsl.loads(mark + plain.replace("\n", end)).digest
        for mark in ("", "\ufeff")
        for end in ("\n", "\r\n", "\r")
    }
    assert len(digests) == 1


def test_trained_inputs_are_checked() -> None:
    objective = objdsl.load("grpo")
    step = objective.prepare(**grpo_columns())
    with pytest.raises(ValueError, match=r"log_pi must be a float tensor \[4, 5\]"):
        objective(torch.zeros(4, 6), step)
    for wrong in ([[0.0] * 5] * 4, torch.zeros(4, 5).numpy(), torch.zeros(4, 5, 1)):
        with pytest.raises(ValueError, match=r"log_pi must be a float tensor \[4, 5\]"):
            objective(wrong, step)
        with pytest.raises(ValueError, match=r"log_pi must be a float tensor \[4, 5\]"):
            objective(wrong, **grpo_columns())
    with pytest.raises(ValueError, match="needs the trained input 'log_pi'"):
        objective(step=step)
    with pytest.raises(ValueError, match="unknown input 'value'"):
        objective(torch.zeros(4, 5), step, value=torch.zeros(4, 5))


def test_a_coupled_objective_says_what_it_needs() -> None:
    objective = objdsl.load("dpo")
    assert objective.needs_couple and not objdsl.load("grpo").needs_couple
    columns = {
        "mask": torch.ones(4, 3, dtype=torch.bool),
        "prompt": [0, 0, 1, 1],
        "log_ref": -torch.rand(4, 3),
        "chosen": torch.tensor([1.0, 0, 0, 1]),
    }
    step = objective.prepare(**columns)
    log_pi = -torch.rand(4, 3)
    with pytest.raises(ValueError, match=r"call `step = objective\.couple"):
        objective(log_pi[:1], step[:1])
    whole = objective(log_pi, step)
    coupled = objective.couple(step, log_pi)
    parts = [objective(log_pi[k : k + 1], coupled[k : k + 1]) for k in range(4)]
    torch.testing.assert_close(sum(part.loss for part in parts), whole.loss)
    with pytest.raises(ValueError, match="couple needs the whole step"):
        objective.couple(step[:2], log_pi[:2])


def test_what_is_drawn_does_not_depend_on_the_layout() -> None:
    objective = objdsl.load("clip_cov")
    mask = torch.arange(5) < torch.tensor([3, 5, 1, 2])[:, None]
    wide = torch.nn.functional.pad(mask, (0, 4))
    given = {"prompt": torch.tensor([9, 9, 4, 4]), "reward": torch.tensor([1.0, 0.0, 0.5, 0.0])}
    old = -torch.rand(4, 9)
    drawn = []
    for shape, log_old in (
        ({"mask": mask}, old[:, :5]),
        ({"mask": wide}, old),
        ({"lengths": mask.sum(1)}, old[wide]),
    ):
        generator = torch.Generator().manual_seed(3)
        step = objective.prepare(generator=generator, log_old=log_old, **shape, **given)
        noise = step.tokens["noise"]
        drawn.append(noise if step.layout == "packed" else noise[step.mask])
    assert len(set(drawn[0].tolist())) == 11
    assert all(torch.equal(drawn[0], other) for other in drawn)


def test_holes_in_the_mask_are_refused_where_order_matters() -> None:
    objective = objdsl.loads("objective o\nmaximize mean[p,i,t] (t * log(pi))\n")
    mask = torch.tensor([[1, 0, 1]], dtype=torch.bool)
    with pytest.raises(ValueError, match="mask must have no holes"):
        objective.prepare(mask=mask, prompt=[0])
    plain = objdsl.loads("objective o\ngiven c[p,i]\nmaximize mean[p,i,t] (c * log(pi))\n")
    step = plain.prepare(mask=mask, prompt=[0], c=torch.ones(1))
    assert plain(-torch.ones(1, 3), step).value == -1


def test_columns_of_a_prompt_must_agree() -> None:
    objective = objdsl.loads("objective o\ngiven c[p]\nmaximize mean[p,i,t] (c * log(pi))\n")
    with pytest.raises(ValueError, match="'c' differs between responses to one prompt"):
        objective.prepare(mask=torch.ones(2, 1), prompt=[0, 0], c=torch.tensor([1.0, 2.0]))


def test_findings_at_other_parameters() -> None:
    assert {x.name for x in objdsl.load("grpo").findings} >= {"forward-kl-gradient", "own-mean"}
    without = objdsl.load("grpo", beta=0.0).findings
    assert "forward-kl-gradient" not in {x.name for x in without}


def test_a_notebook_shows_the_formula() -> None:
    shown = objdsl.load("grpo")._repr_latex_()
    assert shown.startswith("$$")
    assert "clip" in shown
