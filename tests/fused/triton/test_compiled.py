"""The kernels as Triton's compiler translates them for a GPU that is not present.

The interpreter accepts much that the compiler refuses, and knows nothing about registers.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("triton")
NAMES = ["grpo", "dapo", "ppo", "sapo", "kl_k1_loss", "kl_exact"]


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    if torch.cuda.is_available():
        pytest.skip("where there is a GPU, the kernels run on it")
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    folders = [str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment["PYTHONPATH"] = os.pathsep.join(folders)
    environment["TRITON_CACHE_DIR"] = str(tmp_path_factory.mktemp("cache"))
    process = subprocess.run(
        [sys.executable, "-m", "helpers.compile_kernels", *NAMES],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout)  # type: ignore[no-any-return]


def test_they_compile_and_spill_nothing(compiled: dict[str, Any]) -> None:
    assert compiled.keys() > set(NAMES)
    for name, report in compiled.items():
        assert report["spilled"] == 0, name
        # 256 threads of 64 registers: four programs share a processor, and hide each other's loads.
        # Those that shape logits in every way, or weigh the whole vocabulary, have more to keep.
        rich = name in ("score", "gradient", "kl_exact")
        assert report["registers"] <= (96 if rich else 64), name


def test_offsets_between_tokens_are_64_bits_wide(compiled: dict[str, Any]) -> None:
    """A chunk of 16 384 tokens over a vocabulary of 152 064 has more than 2^31 logits."""
    assert 16_384 * 152_064 > 2**31
    for name, report in compiled.items():
        offsets = report["offsets"]
        assert {"z", "target"} <= offsets.keys(), name
        assert set(offsets.values()) == {"i64"}, (name, offsets)
    for name in NAMES:
        assert {"z", "grad", "rows", "target", "log_pi"} <= compiled[name]["offsets"].keys(), name
