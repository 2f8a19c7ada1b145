"""Random objectives by the thousand: `make proofs` runs them all, every test run a part of them.

    proofs.py --seed 7              an objective, and what differs
    proofs.py emitted --many 20000  the interpreter and the emitted code, padded, packed and split
    proofs.py partial --many 5000   the same and autograd, of what is not defined everywhere
    proofs.py compiled --many 500   the interpreter and TorchInductor
    proofs.py ranks --many 200      the interpreter and two processes

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
from helpers.evaluators import Case
from helpers.two_processes import group_of_two, run_two
from objdsl.ir.nodes import Others, topological

EVALUATORS = ("padded", "packed", "split", "loss", "autograd")
KINDS = {
    "emitted": ("padded", "packed", "split"),
    "partial": EVALUATORS,
    "compiled": ("padded",),
    "ranks": (),
}
CHUNK = 50
FOLDER = Path(__file__).parents[1] / "build" / "proofs"


def case(seed: int, kind: str = "emitted") -> Case:
    """The objective and the batch that a seed names."""
    objective = objdsl.loads(random_objectives.text(seed, partial=kind == "partial"))
    nodes = topological(*objective.formula.roots, *objective.formula.memory)
    alone = all(not isinstance(node, Others) and getattr(node, "op", "") != "std" for node in nodes)
    least = 1 if alone else 2
    if kind == "compiled":
        objective.compile()
    return Case(objective, random_objectives.data(seed, least))


def differences(seed: int, evaluators: Iterable[str], kind: str = "emitted") -> list[str]:
    """How evaluators differ from the interpreter; empty if they agree."""
    made = case(seed, kind)
    expected = made.reference()
    found = []
    for name in evaluators:
        parts = {"parts": _parts(made, seed)} if name == "split" else {}
        numbers = getattr(made, name)(**parts)
        found += [f"{name}: {difference}" for difference in expected.differences(numbers)]
    for packed in (False, True):
        found += _of_states(made.remembered(), made.advanced(packed))
    return found


def _of_states(expected: dict[str, list[float]], found: dict[str, list[float]]) -> list[str]:
    """What differs in the next values of states."""
    close = {k: np.allclose(found[k], x, rtol=1e-9, atol=1e-9) for k, x in expected.items()}
    return [f"state {k}: {expected[k]} and {found[k]}" for k, same in close.items() if not same]


def _parts(made: Case, seed: int) -> list[torch.Tensor]:
    """The rows of a step in random order, cut into up to four parts."""
    rows = torch.randperm(len(made.step), generator=torch.Generator().manual_seed(seed))
    return [part for part in rows.tensor_split(1 + seed % 4) if len(part)]


def over_two_ranks(rank: int, folder: Path, seeds: list[int]) -> None:
    """What one of two processes does: rows are dealt at random, and one may have none. Each says
    what differs in its rows, the first what differs in the sums."""
    found: dict[int, list[str]] = {}
    with group_of_two(rank, folder):
        for seed in seeds:
            try:
                found[seed] = _differences_of_ranks(rank, seed)
            except Exception as error:  # the other process would wait without end
                print(f"seed {seed}, rank {rank}: {error!r}", flush=True)
                os._exit(1)
    (folder / f"{rank}.json").write_text(json.dumps(found), encoding="utf-8")


def _differences_of_ranks(rank: int, seed: int) -> list[str]:
    made = case(seed)
    owner = torch.randint(0, 2, (len(made.data.prompt),), generator=_seeded(seed))
    if seed % 5 == 0:
        owner[:] = seed % 2
    rows = (owner == rank).nonzero()[:, 0]
    numbers = made.rank(rows, packed=seed % 2 == 1, group=dist.group.WORLD)
    expected = made.reference().of_rows(rows.tolist())
    found = [f"ranks: {difference}" for difference in expected.differences(numbers)]
    advanced = made.advanced(packed=seed % 2 == 1, rows=rows, group=dist.group.WORLD)
    return found + _of_states(made.remembered(), advanced)


def _seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def failures(kind: str, seeds: list[int]) -> dict[int, list[str]]:
    """The seeds whose evaluators differ from the interpreter, and how."""
    if kind == "ranks":
        with tempfile.TemporaryDirectory() as folder:
            run_two(over_two_ranks, Path(folder), seeds)
            told = [json.loads((Path(folder) / f"{rank}.json").read_text()) for rank in (0, 1)]
        found = {seed: told[0][str(seed)] + told[1][str(seed)] for seed in seeds}
    else:
        found = {}
        for seed in seeds:
            if kind == "compiled":
                torch.compiler.reset()
            found[seed] = _tried(seed, kind)
    return {seed: some for seed, some in found.items() if some}


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
    found = differences(given.seed, EVALUATORS, "partial" if given.kind == "partial" else "emitted")
    print("\n".join(found) or "all agree")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
