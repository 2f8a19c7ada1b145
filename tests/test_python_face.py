"""An objective is an ordinary object of Python and PyTorch: it can be traced, copied, pickled and
differentiated once; anything else is refused with a reason."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad

import objdsl
from objdsl import DerivativeError

LENGTHS = torch.tensor([3, 5, 1, 2])
MASK = torch.arange(5) < LENGTHS[:, None]
VOCABULARY = 7


def step_of(objective: objdsl.Objective) -> tuple[objdsl.Step, dict[str, Tensor]]:
    """A step, and the trained inputs."""
    torch.manual_seed(1)
    columns: dict[str, Any] = {}
    for name, column in objective.columns.items():
        match column.indices:
            case ("p",):
                columns[name] = torch.ones(4)
            case ("p", "i"):
                binary = name in objective.formula.domains
                columns[name] = torch.tensor([1.0, 0.0, 1.0 if binary else 0.5, 0.0])
            case ("p", "i", "t"):
                columns[name] = -torch.rand(4, 5) - 0.1
            case _:
                columns[name] = torch.randn(4, 5, VOCABULARY).log_softmax(-1)
    trained = {name: columns.pop(name) for name in objective.live}
    return objective.prepare(mask=MASK, prompt=[9, 9, 4, 4], **columns), trained


def gradients(loss: Callable[..., Tensor], trained: dict[str, Tensor]) -> dict[str, Tensor]:
    live = {name: x.clone().requires_grad_() for name, x in trained.items()}
    loss(**live).backward()
    return {name: x.grad for name, x in live.items()}


@pytest.mark.parametrize("name", ["grpo", "gspo", "ppo", "dpo", "clip_cov", "kl_exact"])
def test_inside_a_compiled_function_of_the_user(name: str) -> None:
    """All of it is one graph: no part of an objective breaks it."""
    torch.compiler.reset()
    objective = objdsl.load(name)
    step, trained = step_of(objective)

    def loss(**live: Tensor) -> Tensor:
        return objective(step=step, **{key: 1.0 * x for key, x in live.items()}).loss

    eager = gradients(loss, trained)
    compiled = gradients(torch.compile(loss, fullgraph=True, backend="aot_eager"), trained)
    torch.testing.assert_close(compiled, eager)


def test_a_compiled_function_that_prepares_and_cuts() -> None:
    """Code that waits for the device breaks the graph, and nothing else changes."""
    torch.compiler.reset()
    objective = objdsl.load("grpo")
    step, trained = step_of(objective)
    columns = {"log_old": step.tokens["log_old"], "log_ref": step.tokens["log_ref"]}

    def loss(log_pi: Tensor) -> Tensor:
        fresh = objective.prepare(
            mask=MASK, prompt=[9, 9, 4, 4], reward=step.responses["reward"], **columns
        )
        return objective(log_pi[:2], fresh[:2]).loss + objective(log_pi[2:], fresh[2:]).loss

    compiled = gradients(torch.compile(loss, backend="eager"), trained)
    torch.testing.assert_close(compiled, gradients(loss, trained))


def test_a_step_outlives_its_objective_in_a_compiled_function() -> None:
    """An objective that was unpickled has emitted no code yet."""
    torch.compiler.reset()
    objective = objdsl.load("rloo")
    step, trained = step_of(objective)
    fresh = pickle.loads(pickle.dumps(objective))
    function = torch.compile(lambda log_pi: fresh(1.0 * log_pi, step).loss, backend="eager")
    torch.testing.assert_close(
        gradients(function, trained),
        gradients(lambda log_pi: objective(log_pi, step).loss, trained),
    )


def used(objective: objdsl.Objective) -> objdsl.Objective:
    step, trained = step_of(objective)
    objective(step=step, **trained)
    assert objective.findings is not None and objective.digest
    return objective


@pytest.mark.parametrize(
    "make",
    [
        lambda: objdsl.load("grpo", eps=0.1),
        lambda: used(objdsl.load("grpo", eps=0.1)),
        lambda: used(objdsl.load("grpo", eps=0.1).compile(backend="eager")),
    ],
    ids=["new", "used", "compiled"],
)
@pytest.mark.parametrize(
    "copied",
    [lambda x: pickle.loads(pickle.dumps(x)), copy.deepcopy, copy.copy],
    ids=["pickle", "deepcopy", "copy"],
)
def test_a_copy_computes_the_same(
    make: Callable[[], objdsl.Objective], copied: Callable[[Any], Any]
) -> None:
    torch.compiler.reset()
    objective = make()
    other = copied(objective)
    step, trained = step_of(objective)
    assert other.digest == objective.digest and repr(other) == repr(objective)
    for at in (step, copied(step)):
        assert other(step=at, **trained).loss == objective(step=step, **trained).loss
    assert other.with_params(eps=0.3).params["eps"] == 0.3


def test_options_of_the_compiler_are_kept() -> None:
    backends: list[str] = []

    def backend(graph: Any, inputs: Any) -> Any:
        backends.append("here")
        return graph.forward

    torch.compiler.reset()
    used(objdsl.load("rloo").compile(backend=backend).with_params())
    assert backends


ELSEWHERE = """
import pickle, sys, torch
with open(sys.argv[1], "rb") as file:
    objective, step = pickle.load(file)
print(repr(objective(torch.full((4, 5), -0.5), step).loss.item()))
"""


def test_another_process_gets_an_objective(tmp_path: Path) -> None:
    objective = used(objdsl.load("grpo"))
    step, _ = step_of(objective)
    file = tmp_path / "sent"
    file.write_bytes(pickle.dumps((objective, step)))
    command = [sys.executable, "-c", ELSEWHERE, str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert float(done.stdout) == objective(torch.full((4, 5), -0.5), step).loss.item()


# --- derivatives ---------------------------------------------------------------------------------


@pytest.fixture
def loss() -> Callable[[Tensor], Tensor]:
    objective = objdsl.load("grpo")
    step, _ = step_of(objective)
    return lambda log_pi: objective(log_pi, step).loss


LOG_PI = -torch.linspace(0.1, 2, 20).view(4, 5)


def gradient(loss: Callable[[Tensor], Tensor]) -> Tensor:
    return gradients(lambda x: loss(x), {"x": LOG_PI})["x"]


def test_the_first_derivative_by_every_way(loss: Callable[[Tensor], Tensor]) -> None:
    expected = gradient(loss)
    assert expected.any()
    x = LOG_PI.clone().requires_grad_()
    (with_graph,) = torch.autograd.grad(loss(x), x, create_graph=True)
    torch.testing.assert_close(with_graph.detach(), expected)
    torch.testing.assert_close(torch.func.grad(loss)(LOG_PI), expected)
    torch.testing.assert_close(torch.func.jacrev(loss)(LOG_PI), expected)
    direction = torch.randn_like(LOG_PI)
    _, along = torch.autograd.functional.jvp(loss, LOG_PI, direction)
    torch.testing.assert_close(along, (expected * direction).sum())


@pytest.mark.parametrize(
    "second",
    [
        lambda f: torch.autograd.functional.hessian(f, LOG_PI),
        lambda f: torch.func.grad(lambda x: torch.func.grad(f)(x).sum())(LOG_PI),
        lambda f: twice(f),
    ],
)
def test_a_second_derivative_is_refused(
    loss: Callable[[Tensor], Tensor], second: Callable[[Callable[[Tensor], Tensor]], Any]
) -> None:
    """It was 0, or had no graph, without an error."""
    with pytest.raises(DerivativeError, match=r"second derivatives .* are not available"):
        second(loss)


def twice(loss: Callable[[Tensor], Tensor]) -> None:
    x = LOG_PI.clone().requires_grad_()
    (first,) = torch.autograd.grad(loss(x), x, create_graph=True)
    first.square().sum().backward()


def test_a_second_derivative_through_the_head_is_refused() -> None:
    objective = objdsl.load("grpo")
    step, _ = step_of(objective)
    hidden = torch.randn(4, 5, 6).requires_grad_()
    tokens = torch.randint(0, VOCABULARY, (4, 5))
    out = objective.fused(hidden, torch.randn(VOCABULARY, 6), tokens, step)
    with pytest.raises(DerivativeError, match="second derivatives"):
        torch.autograd.grad(out.loss, hidden, create_graph=True)


def dual(f: Callable[[Tensor], Tensor]) -> None:
    with forward_ad.dual_level():
        f(forward_ad.make_dual(LOG_PI, LOG_PI))


@pytest.mark.parametrize(
    "forward",
    [
        lambda f: torch.func.jvp(f, (LOG_PI,), (LOG_PI,)),
        lambda f: torch.func.jacfwd(f)(LOG_PI),
        lambda f: torch.func.hessian(f)(LOG_PI),
        dual,
    ],
    ids=["jvp", "jacfwd", "hessian", "dual"],
)
def test_forward_mode_is_refused(
    loss: Callable[[Tensor], Tensor], forward: Callable[[Callable[[Tensor], Tensor]], Any]
) -> None:
    with pytest.raises(DerivativeError, match="reverse mode alone"):
        forward(loss)


@pytest.mark.parametrize("inner", [lambda f: f, torch.func.grad], ids=["loss", "gradient"])
def test_vmap_is_refused(loss: Callable[[Tensor], Tensor], inner: Any) -> None:
    with pytest.raises(DerivativeError, match="vmap cannot run over an objective"):
        torch.func.vmap(inner(loss))(LOG_PI[None])


@pytest.mark.parametrize("packed", [False, True])
def test_steps_of_inference_mode_are_trained_on(packed: bool) -> None:
    objective = objdsl.loads("objective x\nmaximize mean[p,i,t] (reward * log(pi))\n")
    shape: dict[str, Any] = {"lengths": LENGTHS} if packed else {"mask": MASK}
    given = {**shape, "prompt": [1, 1, 2, 2], "reward": torch.ones(4)}
    log_pi = LOG_PI[MASK] if packed else LOG_PI
    with torch.inference_mode():
        step = objective.prepare(**given)
        assert not objective(log_pi, step).loss.requires_grad
    expected = gradients(lambda x: objective(x, objective.prepare(**given)).loss, {"x": log_pi})
    torch.testing.assert_close(
        gradients(lambda x: objective(x, step).loss, {"x": log_pi}), expected
    )


def test_nothing_is_recorded_where_nothing_is_trained(loss: Callable[[Tensor], Tensor]) -> None:
    assert not loss(LOG_PI).requires_grad
    with torch.no_grad():
        assert not loss(LOG_PI.clone().requires_grad_()).requires_grad


def test_columns_bring_no_graph() -> None:
    """The formula has no gradient with respect to them, so no graph of theirs is kept alive."""
    objective = objdsl.load("grpo")
    step, trained = step_of(objective)
    old = step.tokens["log_old"].clone().requires_grad_()
    fresh = objective.prepare(
        mask=MASK,
        prompt=[9, 9, 4, 4],
        log_old=old * 1.0,
        log_ref=step.tokens["log_ref"],
        reward=step.responses["reward"],
    )
    assert not any(x.requires_grad for x in [*fresh.tokens.values(), *fresh.responses.values()])
    assert objective(step=fresh, **trained).loss == objective(step=step, **trained).loss


READ = {
    "mean[p] mean[i,t] (reward * log(pi))": ("mask", "prompt", "reward"),
    "mean[p,i] (sum[t] log(pi))": ("mask", "prompt"),
    "mean[p,i] (|y| * (mean[t] log(pi))^2)": ("mask", "prompt"),
}


@pytest.mark.parametrize("narrow", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("goal", READ)
def test_autocast_and_narrow_inputs_are_computed_wide(narrow: torch.dtype, goal: str) -> None:
    """Counts above 256 and sums of thousands of tokens are not exact in bfloat16."""
    objective = objdsl.loads(f"objective x\nmaximize {goal}\n")
    tokens = 2001
    log_pi = (-torch.rand(2, tokens)).to(narrow)
    given = {"mask": torch.ones(2, tokens), "prompt": [0, 0], "reward": torch.tensor([1.0, 0.5])}
    step = objective.prepare(**{name: given[name] for name in given if name in READ[goal]})
    with torch.autocast("cpu", dtype=torch.bfloat16):
        live = log_pi.clone().requires_grad_()
        out = objective(live, step)
        out.loss.backward()
    wide = objective.weights(log_pi.float(), step)
    assert out.loss.dtype == torch.float32
    torch.testing.assert_close(-out.loss, wide[0])
    assert live.grad is not None and live.grad.dtype == narrow
    torch.testing.assert_close(live.grad, -wide[1]["log_pi"].to(narrow))


@pytest.mark.parametrize(
    ("former", "name"), [("coupled", "needs_couple"), ("couples", "reports_need_couple")]
)
def test_a_former_name_names_the_new_one(former: str, name: str) -> None:
    objective = objdsl.load("dpo")
    assert getattr(objective, name) is True
    with pytest.raises(AttributeError, match=f"`{former}` of an objective is called `{name}` now"):
        getattr(objective, former)
