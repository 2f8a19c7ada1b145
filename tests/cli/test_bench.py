"""`objdsl bench`."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from click.testing import Result

Run = Callable[..., Result]
SMALL = (
    "--tokens",
    "48",
    "--hidden",
    "8",
    "--vocabulary",
    "4096",
    "--budget",
    "1",
    "--rounds",
    "1",
)


@pytest.mark.parametrize(
    ("name", "products"), [("dapo", 3), ("gspo", 3), ("kl_exact", 3), ("ppo", 3)]
)
def test_products_and_memory(run: Run, name: str, products: int) -> None:
    result = run("bench", name, "--json", *SMALL)
    assert result.exit_code == 0, result.output
    report = json.loads(result.output)
    assert report["objective"] == name
    fused, plain = report["costs"]["fused"], report["costs"]["plain"]
    assert fused["products"] == pytest.approx(products)
    assert plain["products"] == pytest.approx(3)
    assert plain["time"] == 1
    if name != "kl_exact":  # which looks at whole distributions
        assert fused["peak"] < plain["peak"] / 2


def test_two_passes_leave_out_what_has_no_weight(run: Run) -> None:
    result = run("bench", "clip_cov", "--set", "fraction=0.1", "--json", *SMALL)
    assert result.exit_code == 0, result.output
    assert 1 < json.loads(result.output)["costs"]["fused"]["products"] <= 4


def test_the_table(run: Run) -> None:
    lines = run("bench", "grpo", *SMALL).output.splitlines()
    assert lines[0].split() == ["products", "peak", "time"]
    assert [line.split()[0] for line in lines[1:]] == ["fused", "plain"]
    assert lines[2].endswith("1.00")


def test_what_cannot_be_measured(run: Run) -> None:
    result = run("bench", "grpo", "--set", "betta=0", *SMALL)
    assert result.exit_code == 2
    assert "did you mean 'beta'?" in result.output
    assert run("bench", "grpo", "--set", "beta").exit_code == 2
    assert run("bench", "no such file").exit_code == 2
    result = run("bench", "grpo", "--kernels", "triton", *SMALL)
    assert result.exit_code == 2
    assert "kernels='triton'" in result.output
