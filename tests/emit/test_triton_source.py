"""The Triton code of an objective, in golden files, and the reasons why some objectives have none.

tests/fused/triton runs it.
"""

from __future__ import annotations

import ast
from collections.abc import Callable

import pytest

import objdsl
from objdsl import driver
from objdsl.analysis.schedule.coupling import Coupling, coupled
from objdsl.emit.triton_source import Kernel, emit
from objdsl.emit.triton_writer import NotElementwiseError
from objdsl.ir.nodes import Order
from objdsl.objectives import gallery


def kernel_of(name: str) -> Kernel:
    return emit(driver.compile_source(gallery.find(name)))


@pytest.mark.parametrize("name", ["grpo", "sapo", "kl_exact"])
def test_golden(name: str, golden: Callable[[str, str], None]) -> None:
    golden(f"emit/{name}_triton.py", kernel_of(name).source)


@pytest.mark.parametrize("name", gallery.names())
def test_what_needs_its_own_token_alone_has_a_kernel(name: str) -> None:
    """The analysis of coupling, which is independent of emission, says which objectives have one;
    except for those that order the vocabulary, of which a kernel sees a piece at a time."""
    formula = driver.compile_source(gallery.find(name))
    try:
        kernel = emit(formula)
    except NotElementwiseError as error:
        kernel, needs = None, error.needs
    try:
        known = coupled(formula)
    except ValueError:  # it trains a layer besides the head
        return
    ordered = any(isinstance(node, Order) and "v" in node.over for node in formula.nodes)
    assert (kernel is not None) == (known.worst <= Coupling.TOKEN and not ordered)
    if kernel is None:
        assert needs
        return
    assert (kernel.reports is None) == bool(kernel.needs)
    lines = kernel.source.splitlines()
    assert max(map(len, lines)) <= 100
    functions = {f.name: f for f in ast.parse(kernel.source).body if isinstance(f, ast.FunctionDef)}
    loaded = {x.name for x in kernel.inputs}
    assert loaded <= {argument.arg for argument in functions["head"].args.args}
    assert ("vocab_weights" in functions) == (known.distribution is not None)


def test_columns_with_the_names_of_the_kernel() -> None:
    text = "objective o\ngiven z[p,i,t]\ngiven d[p,i]\nmaximize mean[p,i,t] exp(z * log(pi) - d)\n"
    kernel = emit(objdsl.loads(text).formula)
    assert "def objective(log_pi, " in kernel.source
    assert "tl.load(z_ + i)" in kernel.source


@pytest.mark.parametrize(
    ("weight", "written"),
    [
        ("(pi / old)^3", " * "),
        ("logsigmoid(log(pi))", "log_sigmoid("),
        ("sqrt(-log(pi))", "tl.sqrt("),
        ("max(sg(pi), 0.1) * log(pi)", "tl.full((), 0.1, log_pi.dtype)"),
        ("sg(pi / old) * log(pi) * t / |y|", "position"),
    ],
)
def test_how_operations_are_written(weight: str, written: str) -> None:
    text = f"objective o\nmaximize mean[p,i,t] ({weight})\n"
    assert written in emit(objdsl.loads(text).formula).source


@pytest.mark.parametrize(
    ("goal", "needs"),
    [
        ("mean[p,i] (reward * exp(sum[t] log(pi)))", "sum[t]"),
        ("mean[p,i,t] (reward * (-log(pi))^1.7)", "0.7"),
        ("mean[p,i,t] (log(pi) + log(inner))", "2 policies"),
    ],
)
def test_what_has_no_kernel(goal: str, needs: str) -> None:
    inner = "policy inner = pi at layer 2\n" if "inner" in goal else ""
    with pytest.raises(NotElementwiseError, match="single tokens") as caught:
        emit(objdsl.loads(f"objective o\n{inner}maximize {goal}\n").formula)
    assert needs in caught.value.needs
