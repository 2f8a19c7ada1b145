"""`objdsl bench`: the cost of an objective with a language-model head."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from objdsl.cli.inputs import settings, text
from objdsl.cli.output import data, say
from objdsl.frozen import dataclass
from objdsl.ir.columns import LogProbs

if TYPE_CHECKING:
    from torch import Tensor

    from objdsl.fused.kernels import Name
    from objdsl.objective import Objective, Output

_ROWS, _GROUP = 8, 4


@dataclass(frozen=True)
class Cost:
    """The cost of one way to the gradients.

    Attributes:
        products: matrix products, in units of tokens x hidden x vocabulary; counted.
        peak: bytes in use at once, including hidden states, head and their gradients; counted.
        time: relative to the plain computation in the same round, the median of the rounds.
    """

    products: float
    peak: int
    time: float


@click.command(epilog="Example: objdsl bench gspo --vocabulary 32000")
@click.argument("file")
@click.option("--set", "set_", multiple=True, metavar="NAME=X", help="Set a hyper-parameter.")
@click.option(
    "--tokens",
    type=click.IntRange(1),
    default=256,
    show_default=True,
    help="Number of tokens of each of the eight responses.",
)
@click.option(
    "--hidden",
    type=click.IntRange(1),
    default=512,
    show_default=True,
    help="Size of a hidden state.",
)
@click.option(
    "--vocabulary",
    "vocabulary",
    type=click.IntRange(2),
    default=16_384,
    show_default=True,
    help="Size of the vocabulary.",
)
@click.option(
    "--budget",
    type=click.IntRange(1),
    default=32,
    show_default=True,
    help="Memory budget besides inputs and gradients, in MiB.",
)
@click.option(
    "--rounds", type=click.IntRange(1), default=5, show_default=True, help="Number of timed rounds."
)
@click.option("--device", default="cpu", show_default=True, help="Device, such as cuda.")
@click.option(
    "--kernels",
    type=click.Choice(["torch", "triton"]),
    help="Tensor operations, or Triton kernels; by default Triton kernels on a GPU that supports "
    "them.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def bench(
    file: str,
    set_: tuple[str, ...],
    as_json: bool,
    device: str,
    kernels: Name | None,
    **sizes: int,
) -> None:
    """Measure an objective together with the language-model head, fused and plain.

    The computation goes from hidden states to the gradients of the hidden states and of the head.
    Rounds of the fused head and of the plain computation (logits, log-softmax, objective, autograd)
    alternate on the same random step, in float32, after their values were compared. Matrix products
    and peak memory are counted; they are the same on every machine.

    FILE is a file, a gallery name, or `-` for standard input.
    """
    from objdsl import driver
    from objdsl.objective import Objective

    formula = driver.compile_source(text(file))
    try:
        objective = Objective(formula, settings(set_))
        costs = measure(objective, device=device, kernels=kernels, **sizes)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    if as_json:
        as_dicts = {name: asdict(cost) for name, cost in costs.items()}
        data(json.dumps({"objective": objective.name, "sizes": sizes, "costs": as_dicts}))
        return
    say(f"{'':<8}{'products':>10}{'peak':>12}{'time':>8}")
    for name, cost in costs.items():
        peak = f"{cost.peak / 2**20:.0f} MiB"
        say(f"{name:<8}{cost.products:>10.2f}{peak:>12}{cost.time:>8.2f}")


def measure(
    objective: Objective,
    *,
    tokens: int,
    hidden: int,
    vocabulary: int,
    budget: int,
    rounds: int,
    device: str = "cpu",
    kernels: Name | None = None,
) -> dict[str, Cost]:
    """The costs of the fused head and of the plain computation, on one random step.

    Raises:
        ValueError: the objective has no fused schedule, for instance because it trains two
            policies; or the two disagree.
    """
    from objdsl.fused.counts import Counts

    options = {"budget": budget << 20, "kernels": kernels}
    ways = _ways(objective, tokens, hidden, vocabulary, device, options)
    counts, values = {}, {}
    for name, run in ways.items():
        with Counts() as counted:
            values[name] = run()
        products = sum(counted.units(_ROWS * tokens, hidden, vocabulary).values())
        counts[name] = products, counted.peak
    if not values["fused"].allclose(values["plain"], rtol=1e-3, atol=1e-5):
        raise ValueError(f"the values differ: {values}")
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, run in ways.items():
            start = time.perf_counter()
            run().item()  # waits for the device
            times[name].append(time.perf_counter() - start)
    return {
        name: Cost(
            *counts[name],
            statistics.median(a / b for a, b in zip(times[name], times["plain"], strict=True)),
        )
        for name in ways
    }


def _ways(
    objective: Objective,
    tokens: int,
    hidden: int,
    vocabulary: int,
    device: str,
    options: dict[str, Any],
) -> dict[str, Callable[[], Tensor]]:
    """Two ways from hidden states to gradients; each returns the value.

    Args:
        options: of the fused head.
    """
    import torch

    from objdsl.ir.declarations import Domain

    make = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=make).to(device)

    states, weight = normal(_ROWS, tokens, hidden), normal(vocabulary, hidden) / hidden**0.5
    sampled = torch.randint(vocabulary, (_ROWS, tokens), generator=make).to(device)
    with torch.no_grad():
        log_p = torch.log_softmax(states @ weight.T, -1)
    near = log_p.gather(-1, sampled[..., None]).squeeze(-1)
    columns: dict[str, Any] = {}
    for name, column in objective.columns.items():
        low, high = objective.formula.domains.get(name, Domain()).two
        match column.indices:
            case ("p", "i", "t", "v"):
                x = torch.log_softmax(log_p + 0.1 * normal(_ROWS, tokens, vocabulary), -1)
            case ("p", "i", "t"):
                x = near + 0.1 * normal(_ROWS, tokens)
                if name in objective.formula.domains:
                    x = torch.where(x > x.mean(), high, low)
            case ():
                x = torch.tensor(high)
            case ("p",):
                x = torch.full((_ROWS,), high, device=device)
            case _:
                x = torch.where(torch.arange(_ROWS, device=device) % 3 == 0, high, low)
        columns[name] = x
    columns |= objective.learned(device=device)
    del log_p
    live = {name: columns.pop(name) for name in objective.live}
    heads = {name for name in live if isinstance(objective.columns[name].role, LogProbs)}
    others = {name: x for name, x in live.items() if name not in heads}
    step = objective.prepare(
        **columns,
        mask=torch.ones(_ROWS, tokens, dtype=torch.bool, device=device),
        prompt=torch.arange(_ROWS, device=device) // _GROUP,
        generator=torch.Generator().manual_seed(0),
    )

    def way(evaluate: Callable[[Tensor, Tensor, dict[str, Any]], Output]) -> Tensor:
        trained = {name: x.detach().requires_grad_() for name, x in others.items()}
        leaves = [x.detach().requires_grad_() for x in (states, weight)]
        out = evaluate(leaves[0], leaves[1], trained)
        out.loss.backward()  # type: ignore[no-untyped-call]
        return out.value

    def fused(h: Tensor, w: Tensor, trained: dict[str, Any]) -> Output:
        return objective.fused(h, w, sampled, step, **options, **trained)

    def plain(h: Tensor, w: Tensor, trained: dict[str, Any]) -> Output:
        return objective(step=step, **_by_logits(objective, h, w, sampled), **trained)

    return {"fused": lambda: way(fused), "plain": lambda: way(plain)}


def _by_logits(objective: Objective, h: Tensor, w: Tensor, sampled: Tensor) -> dict[str, Tensor]:
    """The trained log-probabilities that an objective asks for."""
    log_p = (h @ w.T).log_softmax(-1)
    return {
        name: log_p if role.distribution else log_p.gather(-1, sampled[..., None]).squeeze(-1)
        for name in objective.live
        if isinstance(role := objective.columns[name].role, LogProbs)
    }
