"""A name means the same at every stage, whatever it is: names of the file never clash with
others."""

from __future__ import annotations

import ast
import inspect
import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import Tensor

import objdsl
from objdsl import driver
from objdsl.emit import identifiers
from objdsl.emit.identifiers import Identifiers
from objdsl.errors import ObjectiveError
from objdsl.ir.objective import ARGUMENTS
from objdsl.objective import Objective

PYTHON = (
    "lambda", "class", "for", "is", "global", "None", "True", "async", "await", "match", "type",
    "print", "len", "id", "float", "__debug__", "__name__", "_", "__",
)  # fmt: skip
EMITTED = (
    "J", "w", "weights", "reports", "prepare", "couple", "torch", "math", "self",
    "mask", "dtype", "prompt", "n_prompts", "group_size", "length", "row", "position", "log_pi",
    "x", "x_2", "divisor", "active", "ratio", "log_ratio", "reward_mean", "n_responses", "n_tokens",
    "r_above", "w_log_pi", "J_terms", "extra_terms", "product", "masked", "reward_centered",
)  # fmt: skip
HELPERS = ("group_mean", "group_sum", "segment", "many", "running_sum", "to_rows", "top_mask")
TRITON = ("tl", "triton", "z", "d", "y", "c", "W", "BLOCK", "log_p", "num_warps", "options")
PYTHON_FACE = ("step", "params", "name", "text", "value", "noise", "lengths", "check", "group")
NAMES = tuple(dict.fromkeys((*PYTHON, *EMITTED, *HELPERS, *TRITON, *PYTHON_FACE)))

PLAIN = "unremarkable"
TEXTS = {
    "param": """objective o
param NAME = 0.1
maximize mean[p,i] (NAME * reward * sum[t] log(pi)) - NAME * mean[p,i,t] k3(pi, ref)
report extra = NAME * mean[p,i] (1 - reward)
""",
    "binding": """objective o
param lr = 0.1
NAME = mean[i] reward
maximize mean[p,i,t] ((reward - NAME) * log(pi)) - lr * mean[p,i] ((mean[t] log(pi) - NAME)^2)
report extra = mean[p] NAME
""",
    "column of responses": """objective o
given NAME[p,i]
other = NAME - mean[i] NAME
maximize mean[p,i,t] (reward * other * pi / sg(pi))
report extra = mean[p,i] NAME
""",
    "column of tokens": """objective o
given NAME[p,i,t]
maximize mean[p,i,t] (reward * NAME * log(pi)) - mean[p,i,t] k3(pi, ref)
report extra = mean[p,i,t] NAME
""",
    "function": """objective o
def NAME(a, b) = a * b + 1
maximize mean[p,i,t] (NAME(reward, 2) * log(pi))
report extra = mean[p,i] NAME(reward, 3)
""",
    "argument": """objective o
def f(NAME, b) = NAME * b + 1
maximize mean[p,i,t] (f(reward, 2) * log(pi))
report extra = mean[p,i] f(reward, 3)
""",
    "report": """objective o
maximize mean[p,i,t] (reward * log(pi))
report NAME = mean[p,i,t] reward
report extra = mean[p,i] (1 - reward)
""",
    "policy": """objective o
policy NAME
maximize mean[p,i,t] (reward * log(pi) - 0.1 * k3(pi, NAME))
report extra = mean[p,i,t] (log(NAME) > log(pi))
""",
    "objective": """objective NAME
maximize mean[p,i,t] (reward * log(pi))
report extra = mean[p,i] (1 - reward)
""",
}  # fmt: skip


def _tensors(objective: Objective, packed: bool) -> dict[str, Tensor | list[int]]:
    """A random step, whose columns depend on their places alone."""
    make = torch.Generator().manual_seed(0)
    mask = torch.tensor([[1, 1, 1], [1, 1, 0], [1, 0, 0], [1, 1, 1]], dtype=torch.bool)
    shape: dict[str, Tensor | list[int]] = {"prompt": [0, 0, 1, 1]}
    shape |= {"lengths": mask.sum(-1)} if packed else {"mask": mask}
    log_pi = torch.rand(4, 3, generator=make, dtype=torch.float64).log()
    reward = torch.tensor([1.0, 0.0, 0.25, 1.0], dtype=torch.float64)
    spare = torch.rand(4, 3, generator=make, dtype=torch.float64).log()
    for name, column in objective.columns.items():
        x = {"log_pi": log_pi, "reward": reward}.get(name)
        if x is None:
            x = spare if len(column.indices) > 2 else spare[:, 0]
        shape[name] = x[mask] if packed and len(column.indices) > 2 else x
    return shape


def _numbers(text: str, name: str, packed: bool) -> list[Tensor]:
    objective = objdsl.loads(text)
    tensors = _tensors(objective, packed)
    log_pi = tensors.pop("log_pi")
    assert isinstance(log_pi, Tensor)
    log_pi = log_pi.clone().requires_grad_()
    out = objective(log_pi, **tensors)
    out.loss.backward()  # type: ignore[no-untyped-call]
    assert log_pi.grad is not None
    step = objective.prepare(**tensors)
    half = (
        [objective(log_pi[:2], step[:2]).value]
        if not packed and not objective.reports_need_couple
        else []
    )
    reports = [out.reports["extra"], *(x for key, x in out.reports.items() if key == name)]
    return [out.loss, log_pi.grad, *half, *reports]


@pytest.mark.parametrize("kind", TEXTS)
def test_a_name_changes_no_number(kind: str) -> None:
    """Every name in one layout: half of them in packed tokens."""
    text = TEXTS[kind]
    expected = [_numbers(text.replace("NAME", PLAIN), PLAIN, packed) for packed in (False, True)]
    accepted = 0
    for k, name in enumerate(NAMES):
        try:
            numbers = _numbers(text.replace("NAME", name), name, packed=bool(k % 2))
        except ObjectiveError as error:
            # Where it is refused, that is said of the name, once, and nothing else is.
            assert [diagnostic.name for diagnostic in error.diagnostics] == ["reserved-name"], name
            assert f"`{name}`" in error.diagnostics[0].message
            continue
        accepted += 1
        assert len(numbers) == len(expected[k % 2]), name
        for actual, wanted in zip(numbers, expected[k % 2], strict=True):
            torch.testing.assert_close(actual, wanted, rtol=1e-12, atol=0, msg=name)
    assert accepted > 0.75 * len(NAMES)


@pytest.mark.parametrize("kind", TEXTS)
def test_every_stage_takes_every_name(kind: str) -> None:
    for name in NAMES:
        try:
            formula = objdsl.loads(TEXTS[kind].replace("NAME", name)).formula
        except ObjectiveError:
            continue
        ast.parse(driver.torch_source(formula))
        ast.parse(driver.torch_source(formula, packed=True))
        if kind != "binding":  # the kernel of single tokens
            kernel = driver.triton_kernel(formula)
            arguments = {
                argument.arg
                for function in ast.parse(kernel.source).body
                if isinstance(function, ast.FunctionDef) and function.name == "head"
                for argument in function.args.args
            }
            assert {x.name for x in kernel.inputs} <= arguments
        driver.mathematics(formula, weights=True, latex=True)
        driver.ir(formula)


def test_parameters_are_set_by_their_own_names() -> None:
    for name in NAMES:
        text = TEXTS["param"].replace("NAME", name)
        objective = objdsl.loads(text, **{name: 0.2}).with_params(**{name: 0.3})
        assert objective.params == {name: 0.3}
        expected = objdsl.loads(TEXTS["param"].replace("NAME", PLAIN), **{PLAIN: 0.3})
        values = [x(**_tensors(x, packed=False)).value for x in (objective, expected)]
        torch.testing.assert_close(values[0], values[1], rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    "value",
    [np.float32(0.25), np.float64(0.25), np.array(0.25), torch.tensor(0.25), Fraction(1, 4)],
)
def test_whatever_holds_a_number_sets_a_parameter(value: object) -> None:
    text = TEXTS["param"].replace("NAME", "eps")
    objective = objdsl.loads(text, ε=value)
    assert objective.params == {"eps": 0.25}
    assert type(objective.params["eps"]) is float
    assert objective.digest == objdsl.loads(text, eps=0.25).digest
    assert objective.with_params(eps=math.inf).params == {"eps": math.inf}


@pytest.mark.parametrize(
    "value", ["0.1", b"1", "__import__('os')", None, [1.0], math.nan, 1j, 10**400, torch.ones(2)]
)
def test_what_is_no_number_sets_none(value: object) -> None:
    with pytest.raises(ValueError, match="eps must be a number"):
        objdsl.loads(TEXTS["param"].replace("NAME", "eps"), eps=value)


def test_what_a_column_cannot_be_called_is_what_stands_beside_the_columns() -> None:
    reserved = {
        name
        for function in (Objective.prepare, Objective.__call__)
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind not in (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.VAR_KEYWORD)
    }
    assert reserved - {"log_pi"} == set(ARGUMENTS)


@pytest.mark.parametrize(
    ("declared", "reader"),
    [
        ("given log_old[p,i,t]", "log(old)"),
        ("given log_pi_dist[p,i,t]", "pi[v]"),
        ("policy teacher\ngiven log_teacher[p,i,t]", "log(teacher)"),
        ("given value[p,i,t]", "V"),
        ("given value_old[p,i,t]", "V_old"),
        ("given noise[p,i,t]", "pick"),
    ],
)
def test_two_things_that_would_be_one_column_are_refused(declared: str, reader: str) -> None:
    text = f"objective o\n{declared}\nmaximize mean[p,i,t] (reward * log(pi))\n"
    with pytest.raises(ObjectiveError, match="reserved-name") as caught:
        objdsl.loads(text)
    assert f"is the column that `{reader}` reads" in str(caught.value)


def test_a_policy_is_never_the_distribution_of_another() -> None:
    with pytest.raises(ObjectiveError, match="a policy cannot be called `old_dist`"):
        objdsl.loads("objective o\npolicy old_dist\nmaximize mean[p,i,t] (reward * log(pi))\n")


def test_identifiers_are_given_once() -> None:
    some = Identifiers({"taken"})
    wishes = (
        "taken",
        "taken",
        "taken_",
        "x",
        "x",
        "x_2",
        "lambda",
        "2x",
        "a b",
        "\N{GREEK SMALL LETTER PI}",
        "",
    )
    names = [some.fresh(wish) for wish in wishes]
    assert names[:2] == ["taken_", "taken_2"]
    assert len(set(names)) == len(names)
    assert all(name.isidentifier() and name.isascii() for name in names)
    assert not {*names} & identifiers.PYTHON
    assert some.of("param", "x") == some.of("param", "x") != some.of("column", "x")
    inside = some.copy()
    assert inside.of("param", "x") == some.of("param", "x")
    assert inside.fresh("x") == some.fresh("x")
