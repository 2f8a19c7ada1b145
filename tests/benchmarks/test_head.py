"""The benchmark of the head: it runs, all contestants compute the same, and its pages show its
numbers."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import head
import pytest
import tables
import torch
from audit import Audit, audit
from contestants import PEERS, Contestant, Unable, objdsl
from problems import CASES, TASKS, Model, Problem, Shape
from torch import Tensor

ROOT = Path(__file__).resolve().parents[2]
CONTESTANTS = {"objdsl": objdsl(1 << 16), **PEERS}
SHAPE = Shape(rows=8, length=6, hidden=16, vocabulary=300)
SAVED = sorted((ROOT / "benchmarks/results").glob("head-*.json"))

# Who is not there, or does not compute an objective, says so in these vocabulary.
REASONS = re.compile("No module named|not installed|needs a GPU|no such|no entropy|alone|has no ")


@pytest.fixture(scope="module")
def report() -> Iterator[dict[str, Any]]:
    objectives = ("--objective=dapo", "--objective=dapo + entropy")
    with torch.compiler.set_stance("force_eager"):  # until the tests of this module are over
        yield head.main(["--quick", "--minutes=0", "--rounds=1", "--device=cpu", *objectives])


@pytest.mark.slow
@pytest.mark.parametrize("who", CONTESTANTS)
def test_everyone_runs_or_says_why_not(report: dict[str, Any], who: str) -> None:
    rows = [by_who[who] for by_who in report["shapes"][0]["results"].values()]
    assert len(rows) == 2 * len(CASES)
    reasons = [row["reason"] for row in rows if "reason" in row]
    for reason in reasons:
        assert REASONS.search(reason), reason
    if len(reasons) == len(rows):
        pytest.skip(f"{who}: {reasons[0].strip().splitlines()[0]}")
    for row in rows:
        if "reason" not in row:
            assert row["ratio"] > 0 and row["peak_mib"] > 0
            assert max(row["errors"]["hidden"], row["errors"]["weight"]) < 1e-5
            assert row["errors"]["flips"] in (0, None)


@pytest.mark.slow
def test_pages_of_a_report(report: dict[str, Any], tmp_path: Path) -> None:
    path, readme = tmp_path / "head-cpu.json", tmp_path / "README.md"
    path.write_text(json.dumps(report), encoding="utf-8")
    start, end = tables.markers("head-cpu")
    readme.write_text(f"before\n{start}\nold\n{end}\nafter\n", encoding="utf-8")
    page, image, _ = tables.publish(path, readme)
    assert "| dapo, dense | " in page.read_text(encoding="utf-8")
    assert image.read_text(encoding="utf-8").count("</svg>") == 1
    shown = readme.read_text(encoding="utf-8")
    assert shown.startswith("before\n") and shown.endswith("\nafter\n")
    assert "old" not in shown and tables.short(report) in shown


@pytest.mark.parametrize("path", SAVED, ids=lambda path: path.stem)
def test_pages_are_the_saved_numbers(path: Path) -> None:
    saved = json.loads(path.read_text(encoding="utf-8"))
    assert path.with_suffix(".md").read_text(encoding="utf-8") == tables.text(saved) + "\n"
    page = tables.README.read_text(encoding="utf-8")
    assert page == tables.with_table(page, path.stem, tables.short(saved))
    assert tables.short(saved) in page


@pytest.fixture(scope="module")
def model() -> Model:
    return Model.random(SHAPE, torch.float64, "cpu")


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", TASKS)
def test_exact_is_what_objdsl_computes(model: Model, name: str, case: str) -> None:
    """Autograd through logits, and the fused head, in float64."""
    problem = Problem.random(TASKS[name], case, model)
    exact, outcome = problem.exact(), head.runs(CONTESTANTS["objdsl"], problem)()
    wrong = head.errors(outcome, exact, problem, packed=False)
    # Advantages and the policies that sampled are float32 for everyone.
    assert max(wrong.value, wrong.hidden, wrong.weight, wrong.log_pi) < 1e-6
    assert bool((exact.hidden[~problem.mask] == 0).all())


def test_who_computes_something_else_is_not_timed() -> None:
    problem = Problem.random(TASKS["dapo"], "dense", Model.random(SHAPE, torch.float32, "cpu"))

    def twice(problem: Problem) -> Any:
        forward = PEERS["plain"].make(problem)

        def wrong(hidden: Tensor, weight: Tensor) -> tuple[Tensor, Tensor | None]:
            loss, log_pi = forward(hidden, weight)
            return 1.01 * loss, log_pi

        return wrong

    clock, exact = head.Clock("cpu"), problem.exact()
    with pytest.raises(Unable, match="computes something else"):
        head.checked(Contestant(twice, "torch"), problem, exact, clock)
    assert head.checked(PEERS["plain"], problem, exact, clock)["peak_mib"] > 0


def test_flips_and_errors_are_seen(model: Model) -> None:
    problem = Problem.random(TASKS["dapo"], "50 % padded", model)
    exact, run = problem.exact(), head.runs(PEERS["plain"], problem)
    outcome = run()
    assert outcome.log_pi is not None
    off = replace(outcome, log_pi=outcome.log_pi + 0.5)
    wrong = head.errors(off, exact, problem, packed=False)
    assert wrong.log_pi == pytest.approx(0.5, abs=1e-3)
    assert wrong.flips is not None and wrong.flips > int(problem.mask.sum()) / 2  # to more than 1.2


@pytest.mark.parametrize("who", CONTESTANTS)
def test_in_bfloat16(who: str) -> None:
    """As on a GPU. Only objdsl's logits are float32; the others may be off, but not by much."""
    problem = Problem.random(TASKS["dapo"], "dense", Model.random(SHAPE, torch.bfloat16, "cpu"))
    try:
        with torch.compiler.set_stance("force_eager"):
            result = head.checked(CONTESTANTS[who], problem, problem.exact(), head.Clock("cpu"))
    except (Unable, ImportError) as reason:
        assert REASONS.search(str(reason)), reason
        pytest.skip(f"{who}: {str(reason).strip().splitlines()[0]}")
    if who == "objdsl":
        wrong = result["errors"]
        assert wrong["log_pi"] < 1e-5 and wrong["flips"] == 0
        assert max(wrong["hidden"], wrong["weight"]) < 1e-2


def test_what_a_gpu_is_given() -> None:
    options, save = head.arguments(["--device=cuda", "--save"])
    assert save and options.dtype == torch.bfloat16 and options.budget is None
    sizes = {(shape.tokens, shape.hidden, shape.vocabulary) for shape in options.shapes}
    assert sizes == {
        (tokens, *size)
        for tokens in (8192, 32_768)
        for size in ((2048, 151_936), (4096, 151_936), (4096, 128_256))
    }
    assert {name for name in TASKS if name not in options.objectives} == {"grpo + k3, on policy"}
    cuda, _ = head.arguments(["--device=cuda", "--shape=65536,2048,151936", "--budget=64"])
    assert [shape.tokens for shape in cuda.shapes] == [65_536] and cuda.budget == 64 << 20


@pytest.mark.gpu
def test_on_a_gpu() -> None:
    report = head.main(["--quick", "--minutes=0", "--device=cuda", "--objective=dapo"])
    for rows in report["shapes"][0]["results"].values():
        for who in ("objdsl", "plain"):
            assert rows[who]["milliseconds"] > 0 and rows[who]["peak_mib"] > 0


def counted(who: str, objective: str) -> Audit:
    return audit({"objdsl": objdsl(), **PEERS}[who], TASKS[objective])


@pytest.mark.parametrize("objective", [name for name in TASKS if name != "clip_cov"])
def test_three_narrow_products(objective: str) -> None:
    """At N=8192, H=4096, V=128256 in bfloat16: none in a higher precision, none done twice."""
    assert counted("objdsl", objective).products == {"bfloat16": pytest.approx(3)}
    assert counted("plain", objective).products == {"bfloat16": pytest.approx(3)}


def test_two_passes_multiply_rows_with_a_weight_again() -> None:
    (units,) = counted("objdsl", "clip_cov").products.values()
    assert 3 < units <= 4


def test_what_is_wide_is_seen() -> None:
    def wide(problem: Problem) -> Any:
        return lambda h, w: ((h.float() @ w.float().T).logsumexp(-1).sum(), None)

    counts = audit(Contestant(wide, "torch"), TASKS["dapo"])
    assert counts.products == {"float32": pytest.approx(3)}
    assert counts.bytes_a_logit > 8 and counts.operations > 5
