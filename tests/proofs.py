"""Random objectives by the thousand: `make proofs` runs them all, every test run a part of them.

    proofs.py --seed 7              an objective, and what differs
    proofs.py emitted --many 20000  the interpreter and the emitted code, padded, packed and split
    proofs.py partial --many 5000   the same and autograd, of what is not defined everywhere
    proofs.py compiled --many 500   the interpreter and TorchInductor
    proofs.py ranks --many 200      the interpreter and two processes
    proofs.py trl --many 300        TRL's trainers and their imported configurations
    proofs.py dpo --many 300        the same of its DPOTrainer
    proofs.py verl --many 300       verl's losses and their imported configurations

What is proven is noted in build/proofs/, a line for each range of seeds, and not run again; delete
the folder to begin anew. Failures are printed, with their seeds, and end the run with status 1.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

import objdsl
from helpers import random_objectives
from helpers.evaluators import Case, Numbers
from helpers.two_processes import group_of_two, run_two
from objdsl.ir.nodes import Peers, topological

EVALUATORS = ("padded", "packed", "split", "loss", "autograd")
KINDS = {
    "emitted": ("padded", "packed", "split"),
    "partial": EVALUATORS,
    "compiled": ("padded",),
    "ranks": (),
    "trl": (),
    "verl": (),
    "dpo": (),
}
CHUNK = 50
FOLDER = Path(__file__).parents[1] / "build" / "proofs"


def case(seed: int, kind: str = "emitted") -> Case:
    """The objective and the batch that a seed names."""
    objective = objdsl.loads(random_objectives.text(seed, partial=kind == "partial"))
    nodes = topological(*objective.formula.roots, *objective.formula.memory)
    alone = not any(
        (isinstance(node, Peers) and node.others)
        or (not isinstance(node, Peers) and getattr(node, "op", "") == "std")
        for node in nodes
    )
    least = 1 if alone else 2
    if kind == "compiled":
        objective.compile()
    return Case(objective, random_objectives.data(seed, least))


def differences(seed: int, evaluators: Iterable[str], kind: str = "emitted") -> list[str]:
    """How evaluators differ from the interpreter; empty if they agree."""
    example = case(seed, kind)
    expected = example.reference()
    disagreements = []
    for name in evaluators:
        parts = {"parts": _parts(example, seed)} if name == "split" else {}
        numbers = getattr(example, name)(**parts)
        disagreements += [f"{name}: {difference}" for difference in expected.differences(numbers)]
    disagreements += _of_phase(example, expected)
    for packed in (False, True):
        disagreements += _of_states(example.remembered(), example.advanced(packed))
    return disagreements


def _of_phase(example: Case, expected: Numbers) -> list[str]:
    """What differs in the phase that the step of the batch is in."""
    columns = example.data.columns
    states = objdsl.States(int(columns["rollout_step"]), int(columns["rollout_steps"]))
    try:
        phase = example.objective.phase(states)
    except objdsl.InputError:  # it trains nothing
        return []
    numbers = Case(phase, example.data).padded()
    return [f"phase: {difference}" for difference in expected.differences(numbers)]


def _of_states(expected: dict[str, list[float]], actual: dict[str, list[float]]) -> list[str]:
    """What differs in the next values of states."""
    close = {k: np.allclose(actual[k], x, rtol=1e-9, atol=1e-9) for k, x in expected.items()}
    return [f"state {k}: {expected[k]} and {actual[k]}" for k, same in close.items() if not same]


def _parts(example: Case, seed: int) -> list[torch.Tensor]:
    """The rows of a step in random order, cut into up to four parts."""
    rows = torch.randperm(len(example.step), generator=torch.Generator().manual_seed(seed))
    return [part for part in rows.tensor_split(1 + seed % 4) if len(part)]


def over_two_ranks(rank: int, folder: Path, seeds: list[int]) -> None:
    """What one of two processes does: rows are dealt at random, and one may have none. Each says
    what differs in its rows, the first what differs in the sums."""
    by_seed: dict[int, list[str]] = {}
    with group_of_two(rank, folder):
        for seed in seeds:
            try:
                by_seed[seed] = _differences_of_ranks(rank, seed)
            except Exception as error:  # the other process would wait without end
                print(f"seed {seed}, rank {rank}: {error!r}", flush=True)
                os._exit(1)
    (folder / f"{rank}.json").write_text(json.dumps(by_seed), encoding="utf-8")


def _differences_of_ranks(rank: int, seed: int) -> list[str]:
    example = case(seed)
    owner = torch.randint(0, 2, (len(example.data.prompt),), generator=_seeded(seed))
    if seed % 5 == 0:
        owner[:] = seed % 2
    rows = (owner == rank).nonzero()[:, 0]
    numbers = example.rank(rows, packed=seed % 2 == 1, group=dist.group.WORLD)
    expected = example.reference().of_rows(rows.tolist())
    disagreements = [f"ranks: {difference}" for difference in expected.differences(numbers)]
    advanced = example.advanced(packed=seed % 2 == 1, rows=rows, group=dist.group.WORLD)
    return disagreements + _of_states(example.remembered(), advanced)


def _seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def failures(kind: str, seeds: list[int]) -> dict[int, list[str]]:
    """The seeds whose evaluators differ from the interpreter, and how."""
    if kind == "ranks":
        with tempfile.TemporaryDirectory() as folder:
            run_two(over_two_ranks, Path(folder), seeds)
            by_rank = [json.loads((Path(folder) / f"{rank}.json").read_text()) for rank in (0, 1)]
        by_seed = {seed: by_rank[0][str(seed)] + by_rank[1][str(seed)] for seed in seeds}
    else:
        by_seed = {}
        for seed in seeds:
            if kind in ("trl", "dpo", "verl"):
                by_seed[seed] = _of_framework(kind, seed)
                continue
            if kind == "compiled":
                torch.compiler.reset()
            by_seed[seed] = _tried(seed, kind)
    return {seed: some for seed, some in by_seed.items() if some}


def _of_framework(name: str, seed: int) -> list[str]:
    from importlib import import_module

    if name != "verl":  # TRL looks whether there is a vLLM, and would take seconds to import it
        import_module("trl.import_utils").is_vllm_available = lambda min_version=None: False
    runs = import_module(f"helpers.{name}_runs")
    with tempfile.TemporaryDirectory() as folder:
        try:
            runs.compare(seed, Path(folder))
        except Exception as error:
            return [f"{type(error).__name__}: {error}"]
    return []


def _tried(seed: int, kind: str) -> list[str]:
    try:
        return differences(seed, KINDS[kind], kind)
    except Exception as error:  # an objective that cannot be computed is a difference, too
        return [f"{type(error).__name__}: {error}"[:2000]]


# --- the command ---------------------------------------------------------------------------------


def _left(kind: str, first: int, many: int) -> Iterator[list[int]]:
    """The seeds of a range that are not noted as proven, in chunks."""
    proven: set[int] = set()
    for line in _notes(kind).read_text().splitlines() if _notes(kind).exists() else []:
        start, end = json.loads(line)["seeds"]
        proven |= set(range(start, end))
    for start in range(first, first + many, CHUNK):
        seeds = [s for s in range(start, min(start + CHUNK, first + many)) if s not in proven]
        if seeds:
            yield seeds


def _notes(kind: str) -> Path:
    return FOLDER / f"{kind}.jsonl"


def run(kind: str, first: int, many: int) -> int:
    """Proves a range of seeds; the number of failures."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    gc.disable()
    count = 0
    for seeds in _left(kind, first, many):
        begun = time.monotonic()
        gc.collect()  # seldom: it is a quarter of the time else
        failed = failures(kind, seeds)
        for seed, some in failed.items():
            print(f"seed {seed}: {some[0]}", flush=True)
        count += len(failed)
        note = {"seeds": [seeds[0], seeds[-1] + 1], "failed": sorted(failed)}
        with _notes(kind).open("a", encoding="utf-8") as file:
            file.write(json.dumps(note) + "\n")
        seconds = time.monotonic() - begun
        print(f"{kind} {seeds[0]}..{seeds[-1]}: {len(failed)} differ, {seconds:.0f} s", flush=True)
    return count


def main() -> int:
    parser = argparse.ArgumentParser(description="Random objectives, computed in every way.")
    parser.add_argument("kind", choices=KINDS, nargs="?", default="emitted")
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--many", type=int, default=1000)
    parser.add_argument("--seed", type=int, help="one objective, shown")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.seed is None:
        return int(run(given.kind, given.first, given.many) > 0)
    print(random_objectives.text(given.seed, partial=given.kind == "partial"))
    lines = differences(given.seed, EVALUATORS, "partial" if given.kind == "partial" else "emitted")
    print("\n".join(lines) or "all agree")
    return int(bool(lines))


if __name__ == "__main__":
    sys.exit(main())
