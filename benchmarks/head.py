"""The language-model head under an objective, forward and backward, beside its peers.

    python benchmarks/head.py                   # a table
    python benchmarks/head.py --save            # and benchmarks/results/head-<chip>.json

Every contestant starts from the same hidden states and ends with the gradients by them and by the
head. The peers compute log-probabilities by their own code, as it is installed, and objdsl's
objective follows; objdsl itself goes by its plan. Losses and gradients are compared first.
Contestants then take turns in interleaved rounds; what counts is the median over the rounds of the
ratio to the plain computation (logits, log-softmax, objective) in the same round. Peak memory is
what is alive at once in one run, hidden states, head and their gradients among it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
import warnings
import weakref
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import objdsl

ROWS, TOKENS, GROUP = 8, 256, 4
BUDGET = 32 << 20  # bytes of logits at a time
OBJECTIVES: dict[str, dict[str, float]] = {
    "dapo": {},
    "gspo": {},
    "grpo": {},
    "clip_cov": {"fraction": 0.01},
}
LogProbs = Callable[[Tensor, Tensor, Tensor], Tensor]


def plain(hidden: Tensor, weight: Tensor, tokens: Tensor) -> Tensor:
    logits = hidden @ weight.T
    return logits.log_softmax(-1).gather(-1, tokens[..., None]).squeeze(-1)


def trl(hidden: Tensor, weight: Tensor, tokens: Tensor) -> Tensor:
    from trl.trainer.utils import selective_log_softmax

    return selective_log_softmax(hidden @ weight.T, tokens)


def verl(hidden: Tensor, weight: Tensor, tokens: Tensor) -> Tensor:
    from verl.utils.experimental.torch_functional import FusedLinearForPPO

    log_probs, _ = FusedLinearForPPO()(hidden, weight, tokens)
    return log_probs


def torch_fused(hidden: Tensor, weight: Tensor, tokens: Tensor) -> Tensor:
    flat = hidden.flatten(0, 1)
    loss = torch.nn.functional.linear_cross_entropy(
        flat, weight, tokens.flatten(), reduction="none"
    )
    return -loss.view(tokens.shape)


PEERS: dict[str, LogProbs] = {
    "plain": plain,
    "TRL selective_log_softmax": trl,
    "verl FusedLinearForPPO": verl,
    "torch linear_cross_entropy": torch_fused,
}


class Peak(TorchDispatchMode):
    """The most bytes that were alive at once, of those that were made or read as a leaf inside."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self._seen: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for x in out if isinstance(out, tuple | list) else (out,):
            if isinstance(x, Tensor):
                self._count(x.untyped_storage())
        return out

    def _count(self, storage: Any) -> None:
        key = storage._cdata
        if key in self._seen:
            return
        size = storage.nbytes()
        self._seen.add(key)
        self.now += size
        self.most = max(self.most, self.now)
        weakref.finalize(storage, self._free, key, size)

    def _free(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self.now -= size


def scene(hidden: int, words: int, case: str) -> dict[str, Tensor]:
    torch.manual_seed(0)
    lengths = torch.full((ROWS,), TOKENS)
    if case == "half padded":
        lengths = torch.randint(1, TOKENS, (ROWS,))
    mask = torch.arange(TOKENS) < lengths[:, None]
    reward = torch.tensor([1.0, 0, 0, 1] * (ROWS // GROUP))
    if case == "a group without advantage":
        reward[:GROUP] = 1
    h, w = torch.randn(ROWS, TOKENS, hidden), torch.randn(words, hidden) / hidden**0.5
    tokens = torch.randint(words, (ROWS, TOKENS))
    with torch.no_grad():
        log_pi = plain(h, w, tokens)
    noise = 0.1 * torch.randn(2, ROWS, TOKENS)
    return {
        "hidden": h, "weight": w, "tokens": tokens, "mask": mask, "reward": reward,
        "prompt": torch.arange(ROWS) // GROUP, "log_old": log_pi + noise[0],
        "log_ref": log_pi + noise[1],
    }  # fmt: skip


def contestants(objective: Any, data: dict[str, Tensor]) -> dict[str, Callable[[], list[Tensor]]]:
    columns = {k: data[k] for k in ("mask", "reward", "prompt", "log_old", "log_ref")}
    step = objective.prepare(**columns, generator=torch.Generator().manual_seed(0))

    def leaves() -> tuple[Tensor, Tensor]:
        return data["hidden"].detach().requires_grad_(), data["weight"].detach().requires_grad_()

    def peer(log_probs: LogProbs) -> Callable[[], list[Tensor]]:
        def run() -> list[Tensor]:
            hidden, weight = leaves()
            out = objective(log_probs(hidden, weight, data["tokens"]).float(), step)
            out.loss.backward()
            return [out.value, hidden.grad, weight.grad]

        return run

    def ours() -> list[Tensor]:
        hidden, weight = leaves()
        out = objective.fused(hidden, weight, data["tokens"], step, budget=BUDGET)
        out.loss.backward()
        return [out.value, hidden.grad, weight.grad]

    return {"objdsl": ours, **{name: peer(function) for name, function in PEERS.items()}}


def measured(
    hidden: int, words: int, case: str, name: str, params: dict[str, float], rounds: int
) -> dict[str, dict[str, float]]:
    objective = objdsl.load(name, **params)
    runs = contestants(objective, scene(hidden, words, case))
    expected = runs["plain"]()
    peaks, usable = {}, {}
    for who, run in runs.items():
        try:
            with Peak() as peak:
                found = run()
        except Exception as error:
            print(f"    {who}: {type(error).__name__}: {str(error)[:100]}")
            continue
        for x, y in zip(found, expected, strict=True):
            torch.testing.assert_close(x, y, rtol=2e-3, atol=1e-5)
        peaks[who], usable[who] = peak.most / 2**20, run
    times: dict[str, list[float]] = {who: [] for who in usable}
    for _ in range(rounds):
        for who, run in usable.items():
            start = time.perf_counter()
            run()
            times[who].append(time.perf_counter() - start)
    return {
        who: {
            "ratio": statistics.median(
                a / b for a, b in zip(times[who], times["plain"], strict=True)
            ),
            "peak_mib": peaks[who],
        }
        for who in usable
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--save", action="store_true")
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--words", type=int, default=16_384)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    cases = ("dense", "half padded", "a group without advantage")
    found: dict[str, Any] = {}
    for case in cases:
        for name, params in OBJECTIVES.items():
            rows = measured(options.hidden, options.words, case, name, params, options.rounds)
            found[f"{name}, {case}"] = rows
            print(f"{name}, {case}")
            for who, row in rows.items():
                print(f"    {who:<28} {row['ratio']:5.2f} x the time, {row['peak_mib']:6.0f} MiB")
    if options.save:
        chip = "cuda" if torch.cuda.is_available() else "cpu"
        report = {
            "command": f"python benchmarks/head.py --save --rounds {options.rounds}",
            "machine": f"{platform.machine()}, {os.cpu_count()} cores, {_chip()}",
            "threads": torch.get_num_threads(),
            "versions": {p: version(p) for p in ("torch", "trl", "verl")},
            "sizes": {
                "tokens": ROWS * TOKENS, "hidden": options.hidden, "words": options.words,
            },
            "results": found,
        }  # fmt: skip
        path = Path(__file__).parent / "results" / f"head-{chip}.json"
        path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        print(f"wrote {path}")


def _chip() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((x.split(":")[1].strip() for x in lines if x.startswith("model name")), "")


if __name__ == "__main__":
    main()
