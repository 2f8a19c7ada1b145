"""Mistakes in inputs are reported where they come in, each kind with its own sentence."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

import objdsl
from objdsl import InputError, ObjdslError
from objdsl.ir.evaluate import Batch, evaluate
from objdsl.ir.nodes import IMPOSSIBLE

MASK = torch.arange(5) < torch.tensor([3, 5, 1, 2])[:, None]


def columns(**change: Any) -> dict[str, Any]:
    torch.manual_seed(1)
    given = {
        "mask": MASK,
        "prompt": torch.tensor([9, 9, 4, 4]),
        "reward": torch.tensor([1.0, 0.0, 0.5, 0.0]),
        "log_old": -torch.rand(4, 5),
        "log_ref": -torch.rand(4, 5),
    }
    return {name: x for name, x in {**given, **change}.items() if x is not None}


def with_value(x: torch.Tensor, at: Any, value: float) -> torch.Tensor:
    x = x.clone()
    x[at] = value
    return x


OLD = -torch.rand(4, 5, generator=torch.Generator().manual_seed(2))
REWARD = torch.tensor([1.0, 0.0, 0.5, 0.0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompt": None}, "prompt is missing"),
        ({"prompt": "abcd"}, r"prompt must be \[4\], an id for each response"),
        ({"prompt": 3}, r"prompt must be \[4\]"),
        ({"prompt": ["a", "b"]}, r"prompt must be \[4\], .* not \[2\]"),
        ({"prompt": [[1], [1], [2, 3], [2]]}, "that of response 0 is a list"),
        ({"prompt": torch.tensor([1, 1, math.nan, 2])}, "numbers other than NaN"),
        ({"mask": MASK * 0.5}, r"mask must be true or false .* not 0\.5 at \[0, 0\]"),
        ({"mask": MASK * 2}, r"mask must be true or false .* not 2 at \[0, 0\]"),
        ({"mask": torch.where(MASK, torch.nan, 0.0)}, "mask must be true or false"),
        ({"mask": "all"}, "'mask' cannot be made a tensor"),
        ({"mask": torch.zeros(4, 0)}, "response 0 is empty"),
        ({"mask": torch.zeros(0, 5), "prompt": [], "reward": torch.zeros(0)}, r"must be \[0, 5\]"),
        ({"mask": None, "lengths": [3, 0, 1, 2]}, "response 1 is empty"),
        ({"mask": None, "lengths": [3, -1, 1, 2]}, "response 1 is empty"),
        ({"mask": None, "lengths": [True] * 4}, "lengths must be N whole numbers"),
        ({"mask": None, "lengths": [1.0] * 4}, "lengths must be N whole numbers"),
        ({"reward": REWARD * math.inf}, "NaN at"),
        ({"reward": with_value(REWARD, 1, math.inf)}, r"'reward' is infinite at \[1\]"),
        ({"reward": with_value(REWARD, 2, -math.inf)}, r"'reward' is infinite at \[2\]"),
        ({"reward": with_value(REWARD, 2, 1e30)}, r"'reward' is 1e\+30 at \[2\]: sums of its squ"),
        ({"reward": REWARD.to_sparse()}, "must be a dense tensor"),
        ({"log_old": OLD.exp()}, "'log_old' is .* a logarithm of a probability is at most 0"),
        ({"log_old": -OLD}, "'log_old' is .* negative logarithms"),
        ({"log_old": torch.zeros(4, 5, dtype=torch.long)}, "log-probabilities, which are floats"),
        ({"log_old": MASK}, "log-probabilities, which are floats, not torch.bool"),
        ({"log_old": with_value(OLD, (1, 4), -math.inf)}, r"'log_old' is -inf at \[1, 4\]"),
        ({"log_old": with_value(OLD, (1, 4), math.inf)}, r"'log_old' is inf at \[1, 4\]"),
        ({"log_old": with_value(OLD, (1, 4), math.nan)}, r"'log_old' is NaN at \[1, 4\]"),
        ({"advantages": torch.zeros(4)}, "reads no column 'advantages'; it reads log_old, log_ref"),
        ({"rewards": torch.zeros(4)}, "no column 'rewards'; did you mean 'reward'"),
        ({"log_pi": OLD}, r"'log_pi' is trained: it belongs to the call"),
        ({"generator": None, "masks": MASK}, "reads no column 'masks'"),
    ],
)
def test_what_is_wrong_with_a_step(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        objdsl.load("grpo").prepare(**columns(**change))
    assert isinstance(caught.value, ValueError) and isinstance(caught.value, ObjdslError)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mask": torch.zeros(0, 5), "prompt": []}, "a step needs at least one response"),
        ({"lengths": [], "prompt": []}, "a step needs at least one response"),
    ],
)
def test_an_empty_step(change: dict[str, Any], message: str) -> None:
    objective = objdsl.loads("objective x\nmaximize mean[p,i] (sum[t] log(pi))\n")
    with pytest.raises(InputError, match=message):
        objective.prepare(**change)


def test_padding_and_rounding_are_no_matter() -> None:
    """The rounding error of bfloat16 in a logit minus the logarithm of a sum may be above 0."""
    objective = objdsl.load("grpo")
    garbage = torch.where(MASK, OLD, torch.tensor([math.inf, 3.0, math.nan, -math.inf, 1.0]))
    step = objective.prepare(**columns(log_old=garbage))
    assert torch.isfinite(objective(garbage, step).loss)
    near = torch.where(MASK, torch.full((4, 5), 0.06), 0.0)
    assert torch.isfinite(objective(near, objective.prepare(**columns(log_old=near))).loss)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"log_pi": OLD.exp()}, "log_pi is .* at most 0"),
        (
            {"log_pi": with_value(OLD, (1, 4), -math.inf)},
            r"log_pi is -inf at \[1, 4\]: a sampled token",
        ),
        ({"log_pi": with_value(OLD, (1, 4), math.nan)}, r"NaN at an unmasked token, at \[1, 4\]"),
        ({"log_pi": torch.zeros(4, 5, dtype=torch.long)}, "float tensor .* not torch.int64"),
        ({"log_pi": torch.zeros(4, 5, device="meta")}, "log_pi is on meta, but its step on cpu"),
        ({"log_pi": OLD, "log_pl": OLD}, r"unknown input 'log_pl'"),
        ({"log_pi": OLD, "reward": REWARD}, r"unknown input 'reward'"),
        ({}, "needs the trained input 'log_pi'"),
    ],
)
@pytest.mark.parametrize("call", ["__call__", "weights"])
def test_what_is_wrong_with_a_micro_batch(change: dict[str, Any], message: str, call: str) -> None:
    objective = objdsl.load("grpo")
    step = objective.prepare(**columns())
    with pytest.raises(InputError, match=message):
        getattr(objective, call)(step=step, **change)


@pytest.mark.parametrize(
    ("value", "message"),
    [(math.nan, "NaN at an unmasked token"), (-math.inf, "is -inf"), (0.7, "at most 0")],
)
def test_couple_looks_at_the_whole_step(value: float, message: str) -> None:
    objective = objdsl.load("dpo")
    step = objective.prepare(
        mask=MASK, prompt=[0, 0, 1, 1], log_ref=OLD, chosen=torch.tensor([1.0, 0, 0, 1])
    )
    with pytest.raises(InputError, match=message):
        objective.couple(step, with_value(OLD, (0, 1), value))
    with pytest.raises(InputError, match="unknown input 'log_ref'"):
        objective.couple(step, OLD, log_ref=OLD)
    with pytest.raises(TypeError, match="a step is what `prepare` returns, not dict"):
        objective.couple({}, OLD)  # type: ignore[arg-type]


def test_a_call_without_a_step_needs_one() -> None:
    with pytest.raises(
        InputError, match=r"grpo needs a step .* or `prompt`, `mask` and the columns"
    ):
        objdsl.load("grpo")(OLD)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden": torch.zeros(4, 5)}, "hidden must be"),
        ({"weight": torch.zeros(7, 5)}, r"weight must be \[V, 6\], as wide as hidden"),
        ({"tokens": torch.zeros(4, 5)}, "tokens must be whole numbers"),
        ({"bias": torch.zeros(6)}, r"bias must be \[7\]"),
        (
            {"kept": torch.zeros(4, 5, 6, dtype=torch.bool)},
            r"must be a bool tensor \[4, 5, 7\]",
        ),
        ({"kept": torch.zeros(4, 5, 7)}, "kept must be a bool tensor"),
        ({"temperature": 0.0}, "temperature must be a number above 0, not 0"),
        ({"temperature": math.nan}, "temperature must be a number above 0"),
        ({"softcap": -30.0}, "softcap must be a number above 0"),
        ({"weight": torch.zeros(7, 6, device="meta")}, "weight is on meta, but hidden on cpu"),
        ({"weight": torch.zeros(7, 6, dtype=torch.long)}, "hidden and weight must be floats"),
        ({"tokens": torch.full((4, 5), 7)}, r"tokens .* id 7 .* vocabulary of 7"),
        ({"tokens": torch.full((4, 5), -1)}, r"tokens .* id -1 .* vocabulary of 7"),
    ],
)
def test_what_is_wrong_with_a_head(change: dict[str, Any], message: str) -> None:
    objective = objdsl.load("grpo")
    given = {
        "hidden": torch.randn(4, 5, 6),
        "weight": torch.randn(7, 6),
        "tokens": torch.zeros(4, 5, dtype=torch.long),
        "step": objective.prepare(**columns()),
    }
    with pytest.raises(InputError, match=message):
        objective.fused(**{**given, **change})


@pytest.mark.parametrize(
    "ids",
    [
        ["b", "b", "a", "a"],
        [b"b", b"b", b"a", b"a"],
        [("x", 1), ("x", 1), ("x", 2), ("x", 2)],
        np.array(["b", "b", "a", "a"]),
        np.array(["b", "b", "a", "a"], dtype=object),
        [2**70, 2**70, 1, 1],
        [7, 7, 3, 3],
        [0.5, 0.5, 0.25, 0.25],
    ],
    ids=repr,
)
def test_prompts_have_any_id(ids: Any) -> None:
    objective = objdsl.load("grpo")
    expected = objective(OLD, objective.prepare(**columns())).loss
    assert objective(OLD, objective.prepare(**columns(prompt=ids))).loss == expected


def test_standard_columns_that_are_not_read_are_left_aside() -> None:
    """So that one loop can train every objective."""
    objective = objdsl.load("rloo")
    assert "log_ref" not in objective.columns
    plain = {name: columns()[name] for name in ("mask", "prompt", "reward")}
    extra = {"log_teacher": OLD, "value_old": OLD, "chosen": REWARD, "greedy": REWARD}
    both = [objective.prepare(**given) for given in (plain, {**columns(), **extra})]
    assert objective(OLD, both[0]).loss == objective(OLD, both[1]).loss
    text = "objective x\ngiven margin[p,i]\nmaximize mean[p,i] (sum[t] log(pi))\n"
    assert len(objdsl.loads(text).prepare(mask=MASK, prompt=[1] * 4, margin=REWARD)) == 4


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("log_reff", "did you mean 'log_ref', which it ignores"),
        ("log_odl", "did you mean 'log_old', which it ignores"),
        ("log_teacher_dits", "did you mean 'log_teacher_dist', which it ignores"),
        ("chosne", "did you mean 'chosen', which it ignores"),
        ("value_odl", "did you mean 'value_old', which it ignores"),
        ("log_expert", "it reads reward$"),
    ],
)
def test_a_slip_is_not_left_aside(name: str, hint: str) -> None:
    plain = {key: columns()[key] for key in ("mask", "prompt", "reward")}
    with pytest.raises(InputError, match=f"^rloo reads no column '{name}'.*{hint}"):
        objdsl.load("rloo").prepare(**plain, **{name: OLD})


def test_policies_of_the_file_are_known_to_it() -> None:
    text = "objective x from rloo\npolicy expert\n"
    plain = {key: columns()[key] for key in ("mask", "prompt", "reward")}
    assert len(objdsl.loads(text).prepare(**plain, log_expert=OLD)) == 4


DOMAINS = """objective x
given chosen[p,i] in {0, 1}
given weight[p,i,t] in (0, 0.3]
given level[p] in [0, inf)
given reward in [-1, 0.7]
maximize mean[p,i] ((chosen + level + reward) * sum[t] (weight * log(pi)))
"""


@pytest.mark.parametrize("layout", ["padded", "packed"])
@pytest.mark.parametrize(
    ("name", "at", "value", "message"),
    [
        ("chosen", 2, 2.0, r"'chosen' is 2 at \[2\], outside of its domain \{0, 1\}$"),
        ("chosen", 0, 0.999, r"'chosen' is 0.999 at \[0\], outside of its domain \{0, 1\}"),
        (
            "weight",
            (1, 4),
            0.0,
            r"'weight' is 0 at \[(1, 4|7)\], outside of its domain \(0, 0\.3\]",
        ),
        ("weight", (1, 4), 0.31, r"'weight' is 0\.31 at \[(1, 4|7)\], outside"),
        ("reward", 1, 0.70000035, r"'reward' is 0\.7000003\d* at \[1\], .* domain \[-1, 0\.7\]"),
        ("level", slice(None), -1e-9, r"'level' is -1e-09 at \[0\], .* domain \[0, inf\)"),
        ("chosen", 1, math.nan, r"'chosen' is NaN at \[1\]"),
    ],
)
def test_columns_lie_where_the_file_says(
    name: str, at: Any, value: float, message: str, layout: str
) -> None:
    objective = objdsl.loads(DOMAINS)
    given = {
        "chosen": torch.tensor([1.0, 0, 0, 1]),
        "weight": torch.where(MASK, 0.3, -7.0),  # padding may be anything
        "level": torch.full((4,), 3.0),
        "reward": torch.tensor([-1.0, 0.7, 0.0, 0.5]),
    }

    def prepare(given: dict[str, torch.Tensor], **options: Any) -> None:
        rows = {"mask": MASK}
        if layout == "packed":
            given = {key: x[MASK] if x.dim() > 1 else x for key, x in given.items()}
            rows = {"lengths": MASK.sum(-1)}
        objective.prepare(prompt=[9, 9, 4, 4], **rows, **given, **options)

    for dtype in (torch.float32, torch.bfloat16, torch.float16, torch.float64):
        # 0.3 and 0.7, as they are in a narrower type, are where they should be.
        prepare({key: x.to(dtype) for key, x in given.items()})
    prepare({**given, "chosen": given["chosen"].bool()})
    prepare({**given, "chosen": given["chosen"].long()})
    wrong = {**given, name: with_value(given[name], at, value)}
    with pytest.raises(InputError, match=message):
        prepare(wrong)
    prepare(wrong, check=False)


@pytest.mark.parametrize("name", ["rloo", "grpo"])
def test_a_prompt_with_one_response_has_no_others(name: str) -> None:
    with pytest.raises(InputError, match=r"but the prompt of response \d has one response only"):
        objdsl.load(name).prepare(**columns(prompt=[1, 2, 3, 3]))


def test_large_rewards_are_fine_where_they_can_be_computed_with() -> None:
    objective = objdsl.load("grpo", beta=0.0)
    scale = torch.tensor([1.0, 1.0, 1.0, 1.0], dtype=torch.float64)
    small = objective.prepare(**columns(reward=REWARD * scale, dtype=torch.float64))
    large = objective.prepare(**columns(reward=REWARD * scale * 1e30, dtype=torch.float64))
    w, wide = (objective.weights(OLD.double(), step)[1]["log_pi"] for step in (small, large))
    torch.testing.assert_close(w, wide, rtol=1e-3, atol=1e-6)
    assert bool(wide[MASK].any())


def test_holes_are_no_tokens() -> None:
    """Where no order is read, the output of a tool inside a response is skipped."""
    objective = objdsl.load("grpo")
    holed = torch.tensor([[1, 0, 1, 1, 0], [1, 1, 1, 1, 1], [0, 1, 0, 0, 0], [1, 0, 0, 0, 1]])
    given = columns(mask=holed)
    loss = objective(OLD, objective.prepare(**given)).loss
    tokens = {name: x[holed.bool()] for name, x in given.items() if name.startswith("log_")}
    packed = {**given, **tokens, "mask": None, "lengths": holed.sum(-1)}
    step = objective.prepare(**{name: x for name, x in packed.items() if x is not None})
    torch.testing.assert_close(objective(OLD[holed.bool()], step).loss, loss)


def test_padding_of_token_ids_is_not_read() -> None:
    objective = objdsl.load("grpo")
    step = objective.prepare(**columns())
    hidden, weight, tokens = torch.randn(4, 5, 6), torch.randn(7, 6), torch.where(MASK, 2, -100)
    padded = objective.fused(hidden, weight, tokens, step).loss
    assert padded == objective.fused(hidden, weight, tokens.clamp(min=0), step).loss


# --- tokens that cannot be sampled ---------------------------------------------------------------

DISTANCES = [
    "-sum[v] (pi[v] * log(pi[v]))",
    "sum[v] (pi[v] * log(pi[v] / ref[v]))",
    "sum[v] (ref[v] * log(ref[v] / pi[v]))",
    "sum[v] (pi[v] * (log(pi[v]))^2)",
]


@pytest.mark.parametrize("distance", DISTANCES)
def test_entries_of_probability_0(distance: str) -> None:
    """0 log 0 is 0, in the value and in the gradient, as if summed over the other entries alone."""
    objective = objdsl.loads(f"objective x\nmaximize mean[p,i,t] ({distance})\n")
    torch.manual_seed(6)
    few = {name: torch.randn(2, 3, 4).double().log_softmax(-1) for name in ("pi", "ref")}
    gap = torch.full((2, 3, 2), -math.inf).double()
    full = {name: torch.cat([x[..., :1], gap, x[..., 1:]], -1) for name, x in few.items()}
    results = []
    for distributions in (few, full):
        given = {f"log_{name}_dist": x for name, x in distributions.items()}
        live = {name: given.pop(name).requires_grad_() for name in objective.live}
        given = {name: x for name, x in given.items() if name in objective.columns}
        step = objective.prepare(mask=torch.ones(2, 3), prompt=[0, 0], **given)
        out = objective(step=step, **live)
        out.loss.backward()
        (x,) = live.values()
        assert x.grad is not None
        results.append((out.loss.detach(), x.grad))
    (loss, gradient), (whole, wide) = results
    torch.testing.assert_close(whole, loss)
    torch.testing.assert_close(wide[..., [0, 3, 4, 5]], gradient)
    assert not wide[..., 1:3].any()
    ragged = {f"log_{name}_dist": x.detach().numpy() for name, x in full.items()}
    batch = Batch([0, 0], [3, 3], ragged, vocabulary=6)
    (value,) = evaluate([objective.formula.goal], batch)
    assert value == pytest.approx(-loss.item())


def test_a_policy_that_rules_out_what_the_other_says_is_far_away() -> None:
    objective = objdsl.loads(
        "objective x\nmaximize mean[p,i,t] (sum[v] (pi[v] * log(pi[v] / ref[v])))\n"
    )
    dist = torch.full((1, 1, 2), math.log(0.5))
    ref = torch.tensor([[[0.0, -math.inf]]])
    step = objective.prepare(mask=torch.ones(1, 1), prompt=[0], log_ref_dist=ref)
    assert objective(log_pi_dist=dist, step=step).value == pytest.approx(-IMPOSSIBLE / 2)
