"""The objective alone, forward and backward on [64, 4096] log-probabilities, beside other code.

    python benchmarks/elementwise.py            # a table
    python benchmarks/elementwise.py --save     # and benchmarks/results/elementwise-<chip>.json

Every contestant computes the same value and the same gradient, which is checked first. Then they
take turns in interleaved rounds, and the result is the median over the rounds of the ratio to
objdsl's time in the same round. TRL and verl run as installed: TRL's `GRPOTrainer._compute_loss`
with a trainer that passes it the log-probabilities, and verl's `vanilla` policy loss. Both also
compute their metrics, and so does objdsl: the objectives below report them.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
import warnings
from collections import defaultdict
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import torch

import objdsl

N, T, GROUP, ROUNDS = 64, 4096, 8, 15

TRL_GRPO = """
objective trl_grpo
param eps = 0.2 in (0, 1)
param beta = 0.04 in [0, inf)
given A[p,i]
r = pi / old
report low = mean[p,i,t] (r < 1 - eps and A < 0)
report high = mean[p,i,t] (r > 1 + eps and A > 0)
report clipped = mean[p,i,t] (r < 1 - eps and A < 0 or r > 1 + eps and A > 0)
report kl = mean[p,i,t] k3(pi, ref)
maximize mean[p,i,t] (surrogate(r, A, 1 - eps, 1 + eps) - beta * k3(pi, ref))
"""

VERL_VANILLA = """
objective verl_vanilla
param eps = 0.2 in (0, 1)
given A[p,i]
r = pi / old
plain = surrogate(r, A, 1 - eps, 1 + eps)
report clipped = mean[p,i,t] (clip(r, 1 - eps, 1 + eps) * A < r * A)
report kl = mean[p,i,t] log(old / pi)
report clipped_lower = mean[p,i,t] (plain < 3 * A and A < 0)
maximize mean[p,i,t] dual_clip(plain, A, 3)
"""

Run = Callable[[], tuple[torch.Tensor, torch.Tensor]]


def data() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    lengths = torch.randint(T // 4, T + 1, (N,))
    old = -torch.rand(N, T) * 3
    return {
        "mask": torch.arange(T) < lengths[:, None],
        "prompt": torch.arange(N) // GROUP,
        "A": torch.randn(N),
        "log_old": old,
        "log_ref": old + 0.1 * torch.randn(N, T),
        "log_pi": old + 0.3 * torch.randn(N, T),
    }


def ours(text: str, columns: dict[str, torch.Tensor], compiled: bool) -> Run:
    objective = objdsl.loads(text)
    if compiled:
        objective.compile()
    log_pi = columns["log_pi"].clone().requires_grad_()
    step = objective.prepare(**{k: x for k, x in columns.items() if k != "log_pi"})

    def run() -> tuple[torch.Tensor, torch.Tensor]:
        log_pi.grad = None
        out = objective(log_pi, step)
        out.loss.backward()
        return out.loss, log_pi.grad

    return run


def verl(columns: dict[str, torch.Tensor]) -> Run:
    from verl.trainer.ppo.core_algos import compute_policy_loss_vanilla
    from verl.workers.config import ActorConfig

    config = ActorConfig(strategy="fsdp", rollout_n=GROUP, ppo_micro_batch_size_per_gpu=N)
    log_pi = columns["log_pi"].clone().requires_grad_()
    advantages = columns["A"][:, None].expand(N, T)

    def run() -> tuple[torch.Tensor, torch.Tensor]:
        log_pi.grad = None
        loss, _ = compute_policy_loss_vanilla(
            old_log_prob=columns["log_old"],
            log_prob=log_pi,
            advantages=advantages,
            response_mask=columns["mask"],
            config=config,
        )
        loss.backward()
        return loss, log_pi.grad

    return run


def trl(columns: dict[str, torch.Tensor]) -> Run:
    from trl import GRPOTrainer

    log_pi = columns["log_pi"].clone().requires_grad_()
    entropies = torch.zeros(N, T)
    trainer = SimpleNamespace(
        _get_per_token_logps_and_entropies=lambda *_, **__: (log_pi, entropies, None),
        _entropy_bonus_enabled=False,
        _metrics={"train": defaultdict(list)},
        accelerator=SimpleNamespace(
            num_processes=1, gather=lambda x: x, reduce=lambda x, reduction: x
        ),
        args=SimpleNamespace(delta=None, steps_per_generation=1, use_bias_correction_kl=False),
        aux_loss_enabled=False,
        beta=0.04,
        current_gradient_accumulation_steps=1,
        epsilon_high=0.2,
        epsilon_low=0.2,
        importance_sampling_level="token",
        loss_type="dapo",
        model=SimpleNamespace(training=True),
        off_policy_mask_threshold=None,
        top_entropy_quantile=1.0,
        use_vllm=False,
        vllm_importance_sampling_correction=False,
    )
    mask = columns["mask"].long()
    ids = torch.zeros(N, T, dtype=torch.long)
    inputs = {
        "prompt_ids": ids[:, :1],
        "prompt_mask": ids[:, :1],
        "completion_ids": ids,
        "completion_mask": mask,
        "advantages": columns["A"],
        "num_items_in_batch": mask.sum(),
        "old_per_token_logps": columns["log_old"],
        "ref_per_token_logps": columns["log_ref"],
    }

    def run() -> tuple[torch.Tensor, torch.Tensor]:
        log_pi.grad = None
        loss = GRPOTrainer._compute_loss(trainer, None, inputs)
        loss.backward()
        return loss, log_pi.grad

    return run


def compare(contestants: dict[str, Run]) -> dict[str, dict[str, float]]:
    """Interleaved rounds; times in milliseconds and ratios to the first contestant."""
    names = list(contestants)
    loss, gradient = contestants[names[0]]()
    for name in names[1:]:
        other, other_gradient = contestants[name]()
        torch.testing.assert_close(other, loss, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(other_gradient, gradient, rtol=1e-4, atol=1e-8)
    times: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(ROUNDS):
        for name in names:
            start = time.perf_counter()
            contestants[name]()
            times[name].append(1e3 * (time.perf_counter() - start))
    return {
        name: {
            "milliseconds": statistics.median(times[name]),
            "ratio": statistics.median(
                a / b for a, b in zip(times[name], times[names[0]], strict=True)
            ),
        }
        for name in names
    }


def chip() -> str:
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/")
    save = parser.parse_args().save
    warnings.simplefilter("ignore")
    columns = data()
    results = {}
    for peer, run, text in (("verl", verl, VERL_VANILLA), ("trl", trl, TRL_GRPO)):
        try:
            theirs = run(columns)
        except ImportError as error:
            print(f"{peer} is not installed: {error}")
            continue
        contestants = {
            "objdsl compiled": ours(text, columns, compiled=True),
            "objdsl eager": ours(text, columns, compiled=False),
            f"{peer} {version(peer)}": theirs,
        }
        results[peer] = compare(contestants)
        for name, row in results[peer].items():
            print(f"{peer:6} {name:18} {row['milliseconds']:9.2f} ms {row['ratio']:7.2f} x")
    if save and results:
        record = {
            "chip": chip(),
            "threads": torch.get_num_threads(),
            "shape": [N, T],
            "rounds": ROUNDS,
            "versions": {name: version(name) for name in ("objdsl", "torch")},
            "command": "python benchmarks/elementwise.py --save",
            "results": results,
        }
        name = "cuda" if torch.cuda.is_available() else "cpu"
        path = Path(__file__).parent / "results" / f"elementwise-{name}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(record, indent=2) + "\n")
        print(f"wrote {path.name}")


if __name__ == "__main__":
    main()
