"""Fixtures of all tests: golden files, and which tests this machine can run."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# The same examples on every machine, whatever else it is busy with: no time is measured.
settings.register_profile(
    "objdsl",
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("objdsl")

GOLDEN = Path(__file__).parent / "golden"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-golden", action="store_true", help="write the golden files instead of comparing"
    )
    parser.addoption(
        "--proofs", action="store_true", help="run all parts of the samples that are marked `proof`"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip what needs a GPU or vLLM where there is none; vLLM tests share one worker.

    Slow tests come first: the last of them would leave the other workers with nothing to do.
    """
    if not config.getoption("--proofs"):
        proofs = [item for item in items if item.get_closest_marker("proof")]
        config.hook.pytest_deselected(items=proofs)
        items[:] = [item for item in items if not item.get_closest_marker("proof")]
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)
    has_vllm = find_spec("vllm") is not None
    for item in items:
        if item.get_closest_marker("gpu") and not _has_gpu():
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
        if item.get_closest_marker("vllm"):
            item.add_marker(pytest.mark.xdist_group("vllm"))
            if not has_vllm:
                item.add_marker(pytest.mark.skip(reason="vLLM is not installed"))


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """`golden("emit/grpo.py", text)` compares `text` with the file `tests/golden/emit/grpo.py`.

    `make golden` writes what the tests print now; its diff is the review.
    """

    def compare(name: str, text: str) -> None:
        path = GOLDEN / name
        if request.config.getoption("--update-golden"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8", newline="\n")
        assert path.is_file(), f"{name} is missing: run `make golden`, and read what it writes"
        assert text == path.read_text(encoding="utf-8")

    return compare
