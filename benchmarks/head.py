"""The language-model head with an objective, forward and backward, compared with other libraries.

    python benchmarks/head.py                                # tables
    python benchmarks/head.py --save                         # and benchmarks/results/head-<device>
    python benchmarks/head.py --save FOLDER                  # and FOLDER/head-<device>
    python benchmarks/head.py --quick                        # tiny shapes: does everything run?
    python benchmarks/head.py --objective dapo --shape 8192,2048,151936

Every contestant starts from the same hidden states and ends with the gradients of the hidden states
and of the head. Peers run as installed (`pip install objdsl[bench]`); where one cannot run, or does
not compute an objective, the reason is reported. First, on any machine, the products and memory
traffic of each at the size of a real model are counted (audit.py). Then the loss, log-probabilities
and gradients of each are compared with float64; a contestant that computes something else is not
timed. The others take turns in interleaved rounds, and the result is the median over the rounds of
the ratio to the plain computation (logits, log-softmax, objective) in the same round. The floor is
three matrix products of the same sizes, and nothing else. Peak memory is the most that a run has
allocated at a time, including both gradients.

On a CPU everything is float32. On a GPU it is bfloat16, and times are those of CUDA events, with
the L2 cache emptied before each run.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from audit import SHAPE, audit
from contestants import PEERS, Contestant, Unable, objdsl, versions
from elementwise import chip
from problems import CASES, TASKS, Gradients, Model, Problem, Shape
from tables import README, publish, text
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

RESULTS = Path(__file__).parent / "results"
CPU_SHAPES = (Shape(8, 256, 512, 16_384),)
GPU_SHAPES = tuple(
    Shape(rows, 1024, hidden, vocabulary)
    for rows in (8, 32)
    for hidden, vocabulary in ((2048, 151_936), (4096, 151_936), (4096, 128_256))
)
QUICK = Shape(8, 8, 16, 512)
QUICK_AUDIT = Shape(4, 1024, 1024, 32_768)

# The largest error of a value, and relative error of a gradient, that still counts as the same
# computation. Logits in bfloat16 cost up to a tenth; a wrong normaliser or a lost term, far more.
SAME = {torch.float32: 1e-3, torch.bfloat16: 0.3}
_L2 = 256 << 20  # bytes, several times any cache


@dataclass(frozen=True, eq=False)
class Outcome:
    """The result of a run: a loss and its gradients, and log-probabilities, packed or not."""

    gradients: Gradients
    log_pi: Tensor | None


Run = Callable[[], Outcome]


def runs(contestant: Contestant, problem: Problem) -> Run:
    """A function that runs a contestant once, from leaves to gradients."""
    forward = contestant.make(problem)
    model = problem.model
    states = problem.packed(model.hidden) if contestant.packed else model.hidden

    def run() -> Outcome:
        hidden, weight = states.detach().requires_grad_(), model.weight.detach().requires_grad_()
        loss, log_pi = forward(hidden, weight)
        loss.backward()
        log_pi = None if log_pi is None else log_pi.detach()
        return Outcome(Gradients(loss.detach(), hidden.grad, weight.grad), log_pi)

    return run


# --- correctness ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Errors:
    """Errors against float64.

    Attributes:
        value: absolute error of the loss.
        hidden, weight: relative errors of the gradients, in the Euclidean norm.
        log_pi: largest absolute error of a token's log-probability; None if they are not returned.
        flips: number of tokens whose ratio is on the wrong side of the bounds 0.8 or 1.2.
    """

    value: float
    hidden: float
    weight: float
    log_pi: float | None
    flips: int | None


def errors(outcome: Outcome, exact: Gradients, problem: Problem, *, packed: bool) -> Errors:
    gradients, grad_hidden = outcome.gradients, exact.hidden
    if packed:
        grad_hidden = problem.packed(grad_hidden)
    log_pi = flips = None
    if outcome.log_pi is not None:
        log_probs = (outcome.log_pi if packed else problem.packed(outcome.log_pi)).double()
        truth, old = problem.packed(problem.model.log_pi), problem.packed(problem.log_old)
        log_pi = float((log_probs - truth).abs().max())
        sides = [
            torch.stack([ratio < 0.8, ratio > 1.2])
            for ratio in ((log_probs - old).exp(), (truth - old).exp())
        ]
        flips = int((sides[0] != sides[1]).any(0).sum())
    return Errors(
        float((gradients.value.double() - exact.value).abs()),
        _distance(gradients.hidden, grad_hidden),
        _distance(gradients.weight, exact.weight),
        log_pi,
        flips,
    )


def _distance(x: Tensor, y: Tensor) -> float:
    return float((x.double() - y).norm() / y.norm())


# --- time and memory -----------------------------------------------------------------------------


def first(run: Run, clock: Clock) -> tuple[Outcome, float, int]:
    """The first run: its outcome, its seconds, and its peak memory in bytes, including the
    gradients that it returns."""
    outcomes: list[Outcome] = []
    if clock.device == "cuda":
        seconds = clock(lambda: outcomes.append(run()))
        # Once more: autotuning allocates memory in the first run only.
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return outcomes[0], seconds, torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        seconds = clock(lambda: outcomes.append(run()))
    now = most = 0
    for event in recorded.profiler.kineto_results.events():
        if event.name() == "[memory]":
            now += event.nbytes()
            most = max(most, now)
    return outcomes[0], seconds, most


class Clock:
    """Measures the seconds that a call takes."""

    def __init__(self, device: str) -> None:
        self.device = device
        self._cache = None
        if device == "cuda":
            self._cache = torch.empty(_L2, dtype=torch.int8, device=device)

    def __call__(self, call: Callable[[], object]) -> float:
        if self._cache is None:
            start = time.perf_counter()
            call()
            return time.perf_counter() - start
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        self._cache.zero_()
        start.record()
        call()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1e3


def floor(model: Model) -> Callable[[], object]:
    """Logits and both gradients as matrix products alone."""
    hidden, weight = model.hidden.flatten(0, 1), model.weight
    logits = hidden @ weight.T

    def run() -> object:
        torch.mm(hidden, weight.T, out=logits)
        return logits @ weight, logits.T @ hidden

    return run


# --- the measurement -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Options:
    """What is measured, and for how long.

    Attributes:
        budget: objdsl's memory budget in bytes; None for its default.
        rounds: the minimum number of rounds.
        end: when no further round starts, by `time.monotonic()`.
    """

    device: str
    shapes: tuple[Shape, ...]
    objectives: tuple[str, ...]
    cases: tuple[str, ...]
    budget: int | None
    rounds: int
    end: float
    quick: bool

    @property
    def dtype(self) -> torch.dtype:
        return torch.bfloat16 if self.device == "cuda" else torch.float32

    @property
    def contestants(self) -> dict[str, Contestant]:
        return {"objdsl": objdsl(self.budget), **PEERS}


def audited(options: Options) -> dict[str, dict[str, Any]]:
    """The counts of every contestant for every objective, or the reason why there are none."""
    by_objective: dict[str, dict[str, Any]] = {}
    for name in options.objectives:
        by_objective[name] = {}
        for who, contestant in {"objdsl": objdsl(), **PEERS}.items():
            by_objective[name][who] = _or_reason(_counted, contestant, name, options)
    return by_objective


def _counted(contestant: Contestant, objective: str, options: Options) -> dict[str, Any]:
    _needs(contestant, options.device)
    return asdict(audit(contestant, TASKS[objective], QUICK_AUDIT if options.quick else SHAPE))


def _needs(contestant: Contestant, device: str) -> None:
    if contestant.gpu and device != "cuda":
        raise Unable("it needs a GPU")


def measured(shape: Shape, options: Options) -> dict[str, Any]:
    """All objectives and cases at one shape."""
    torch._dynamo.reset()
    model = Model.random(shape, options.dtype, options.device)
    clock = Clock(options.device)
    problems = {
        f"{name}, {case}": Problem.random(TASKS[name], case, model)
        for name in options.objectives
        for case in TASKS[name].cases
        if case in options.cases
    }
    rows: dict[str, dict[str, dict[str, Any]]] = {name: {} for name in problems}
    usable: dict[str, dict[str, Run]] = {name: {} for name in problems}
    for name, problem in problems.items():
        _say(f"{shape}: {name}")
        exact = problem.exact()
        for who, contestant in options.contestants.items():
            row = _or_reason(checked, contestant, problem, exact, clock)
            if run := row.pop("run", None):
                usable[name][who] = run
            rows[name][who] = row
    least = floor(model)
    times, floors = _rounds(usable, least, clock, options)
    for name, by_who in times.items():
        for who, seconds in by_who.items():
            rows[name][who] |= {
                "milliseconds": 1e3 * min(seconds),
                "floor": min(floors) / min(seconds),
            }
            if plain := by_who.get("plain"):  # it needs the most memory, and may not have run
                ratios = [a / b for a, b in zip(seconds, plain, strict=True)]
                rows[name][who] |= {
                    "ratio": statistics.median(ratios),
                    "least_ratio": min(seconds) / min(plain),
                }
    return {
        **asdict(shape),
        "rounds": len(floors),
        "floor_milliseconds": 1e3 * min(floors),
        "results": rows,
    }


def checked(
    contestant: Contestant, problem: Problem, exact: Gradients, clock: Clock
) -> dict[str, Any]:
    _needs(contestant, clock.device)
    run = runs(contestant, problem)
    outcome, seconds, peak = first(run, clock)
    deviation = errors(outcome, exact, problem, packed=contestant.packed)
    most = SAME[problem.model.hidden.dtype]
    if not all(x <= most for x in (deviation.value, deviation.hidden, deviation.weight)):  # or NaN
        raise Unable(
            f"computes something else: the value is off by {deviation.value:.1e}, the gradients by "
            f"{deviation.hidden:.1e} (hidden) and {deviation.weight:.1e} (weight)"
        )
    return {
        "first_seconds": seconds,
        "peak_mib": peak / 2**20,
        "errors": asdict(deviation),
        "run": run,
    }


def _rounds(
    usable: Mapping[str, Mapping[str, Run]],
    least: Callable[[], object],
    clock: Clock,
    options: Options,
) -> tuple[dict[str, dict[str, list[float]]], list[float]]:
    """The seconds of every contestant and of the floor, in as many rounds as there is time for."""
    times = {name: {who: [] for who in by_who} for name, by_who in usable.items()}
    floors: list[float] = []
    longest = 0.0
    while len(floors) < options.rounds or time.monotonic() + longest < options.end:
        _say(f"round {len(floors) + 1}")
        start = time.monotonic()
        floors.append(clock(least))
        for name, by_who in usable.items():
            for who, run in by_who.items():
                times[name][who].append(clock(run))
        longest = max(longest, time.monotonic() - start)
        if options.quick:
            break
    return times, floors


def _or_reason(measure: Callable[..., dict[str, Any]], *arguments: object) -> dict[str, Any]:
    """The result of a function, or the reason why it failed: the benchmark goes on without a
    peer."""
    try:
        return measure(*arguments)
    except (Unable, ImportError) as error:
        return {"reason": str(error)}
    except Exception as error:
        return {"reason": f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"}


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


# --- the command ---------------------------------------------------------------------------------


def measure(options: Options, command: str) -> dict[str, Any]:
    """The whole report, as it is saved in `results/head-<device>.json`."""
    return {
        "command": command,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {chip()}",
        "device": options.device,
        "threads": torch.get_num_threads(),
        "load": os.getloadavg()[0],
        "dtype": str(options.dtype).removeprefix("torch."),
        "versions": versions(),
        "audit": {
            **asdict(QUICK_AUDIT if options.quick else SHAPE),
            "results": audited(options),
        },
        "shapes": [measured(shape, options) for shape in options.shapes],
    }


def arguments(line: Iterable[str] | None = None) -> tuple[Options, Path | None]:
    """The options of the command line, and the folder to save the report in, if any."""
    gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--save",
        nargs="?",
        const=RESULTS,
        type=Path,
        metavar="FOLDER",
        help="write the report; by default to benchmarks/results, and to the README",
    )
    parser.add_argument("--quick", action="store_true", help="tiny shapes, one round")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if gpu else "cpu")
    parser.add_argument(
        "--objective",
        action="append",
        choices=list(TASKS),
        help="by default all except the one on policy",
    )
    parser.add_argument("--case", action="append", choices=CASES, help="by default all")
    parser.add_argument("--shape", action="append", type=_shape, metavar="N,H,V")
    parser.add_argument("--budget", type=int, help="memory budget of objdsl in MiB")
    parser.add_argument(
        "--rounds", type=int, default=3, help="minimum number of rounds for every shape"
    )
    parser.add_argument(
        "--minutes", type=float, default=12, help="start further rounds for this many minutes"
    )
    given = parser.parse_args(None if line is None else list(line))
    shapes = GPU_SHAPES if given.device == "cuda" else CPU_SHAPES
    budget = given.budget or (None if given.device == "cuda" else 32)
    return Options(
        given.device,
        tuple(given.shape or ()) or ((QUICK,) if given.quick else shapes),
        tuple(given.objective or (name for name, task in TASKS.items() if not task.on_policy)),
        tuple(given.case or CASES),
        None if budget is None else budget << 20,
        given.rounds,
        time.monotonic() + 60 * given.minutes,
        given.quick,
    ), given.save


def _shape(text: str) -> Shape:
    tokens, hidden, vocabulary = map(int, text.split(","))
    rows = max(8, tokens // 1024)
    return Shape(rows, tokens // rows, hidden, vocabulary)


def main(line: Iterable[str] | None = None) -> dict[str, Any]:
    warnings.filterwarnings("ignore")
    options, folder = arguments(line)
    if options.quick:  # compilation would take longer than everything else
        torch.compiler.set_stance("force_eager")
    flags = sys.argv[1:] if line is None else list(line)
    report = measure(options, shlex.join(["python", "benchmarks/head.py", *flags]))
    print(text(report))
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"head-{options.device}.json"
        path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        for written in (path, *publish(path, README if folder == RESULTS else None)):
            _say(f"wrote {written}")
    return report


if __name__ == "__main__":
    main()
