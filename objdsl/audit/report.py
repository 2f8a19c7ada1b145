"""An audit as data, and as tables for people."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from io import StringIO

from rich.box import SIMPLE_HEAD
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from objdsl.audit.result import EXACT, Figure, Length, Penalty, Row, number
from objdsl.frozen import dataclass
from objdsl.ir.indices import decimal

# A residual above this is shown in red.
_LARGE = 0.1
# Characters: wider than any table, so that no number is cut off.
_WIDEST = 1000


@dataclass(frozen=True)
class Audit:
    """The measured bias of an objective. `str` is the table that `objdsl audit` prints.

    Attributes:
        params: the values of the hyper-parameters that it reads.
        rewards: the domain of each reward in the rows of real rewards.
        exact: whether all draws are summed; otherwise `draws` random ones are averaged.
        draws: the number of optimizer steps evaluated for each policy.
        policies: the number of random policies that figures are taken over.
        raises: what the gradient is compared with the gradient of: `E[reward]`, or a sum of rewards
            with the constants that fit best, minus divergences that cannot be separated from them.
    """

    objective: str
    params: dict[str, float]
    rewards: dict[str, str]
    vocabulary: int
    horizon: int
    prompts: int
    group: int
    exact: bool
    draws: int
    policies: int
    raises: str
    rows: tuple[Row, ...]
    lengths: tuple[Length, ...]
    penalties: tuple[Penalty, ...]
    notes: tuple[str, ...]

    @property
    def residual(self) -> float:
        """The worst residual on policy; NaN for an objective that reads no reward."""
        on_policy = [row.residual.worst for row in self.rows if row.policies == "on policy"]
        return max(on_policy, default=float("nan"))

    def row(self, policies: str = "on policy", reward: str | None = None) -> Row:
        """A row by its names. Raises KeyError if there is none."""
        for row in self.rows:
            if row.policies == policies and reward in (None, row.reward):
                return row
        raise KeyError(f"{reward or 'any'} reward, {policies}")

    def to_json(self) -> str:
        return json.dumps(asdict(self) | {"residual": _or_none(self.residual)}, indent=2)

    def __str__(self) -> str:
        return plain(self)


def render(audit: Audit) -> list[RenderableType]:
    """The sentences and tables of an audit, for a rich console."""
    parts: list[RenderableType] = [_heading(audit), ""]
    if audit.rows:
        parts += [Text(f"Expected gradient against that of {audit.raises}", "bold")]
        parts += [_rows(audit.rows)]
    if audit.lengths:
        parts += [Text("Weight of a token, on policy; 1 in the true gradient", "bold")]
        parts += [_lengths(audit.lengths)]
    for penalty in audit.penalties:
        parts += [Text(f"Terms against {penalty.against}: {_verdict(penalty)}", "bold")]
        parts += [_matches(penalty)]
    parts += [Text(f"note: {note}", "dim") for note in audit.notes]
    return parts


def show(audit: Audit, console: Console, width: int = 100) -> None:
    """Prints an audit; sentences are wrapped at `width`, tables are not."""
    console.width = _WIDEST
    for part in render(audit):
        console.print(part, width=width if isinstance(part, Text) else None)


def plain(audit: Audit, width: int = 100) -> str:
    """The sentences and tables of an audit as plain text."""
    console = Console(file=StringIO(), width=_WIDEST, no_color=True, highlight=False)
    show(audit, console, width)
    assert isinstance(console.file, StringIO)
    lines = console.file.getvalue().splitlines()
    return "\n".join(line.rstrip() for line in lines).rstrip() + "\n"


def _heading(audit: Audit) -> Text:
    def count(number: int, singular: str, plural: str = "") -> str:
        return f"{number} {singular if number == 1 else plural or singular + 's'}"

    size = f"a vocabulary of {audit.vocabulary}, at most {count(audit.horizon, 'token')}"
    step = f"{count(audit.prompts, 'prompt')} x {count(audit.group, 'response')}"
    how = (
        f"exact: all {audit.draws} outcomes of a step are summed"
        if audit.exact
        else f"Monte Carlo: {audit.draws} random steps are averaged"
    )
    return Text.assemble(
        (audit.objective, "bold"),
        f"  {how}\n{step}, {size}; "
        f"mean (worst) over {count(audit.policies, 'random policy', 'random policies')}",
        *(f"\n{line}" for line in _settings(audit)),
    )


def _settings(audit: Audit) -> Iterator[str]:
    if audit.params:
        yield "at " + ", ".join(f"{name} = {decimal(x)}" for name, x in audit.params.items())
    if audit.rewards:
        domains = "; ".join(
            f"{name} {domain if domain == 'any number' else f'in {domain}'}"
            for name, domain in audit.rewards.items()
        )
        yield f"rewards: {domains}"


def _table(*columns: str) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False, header_style="")
    for k, column in enumerate(columns):
        table.add_column(column, justify="left" if k == 0 else "right", no_wrap=True)
    return table


def _rows(rows: tuple[Row, ...]) -> Table:
    table = _table("reward, policies", "cosine", "residual", "norm", "bias", "variance")
    for row in rows:
        table.add_row(
            f"{row.reward}, {row.policies}",
            str(row.cosine),
            _residual(row.residual, row.interval),
            *map(str, (row.norm, row.bias, row.variance)),
        )
    return table


def _residual(figure: Figure, interval: tuple[float, float] | None) -> Text:
    if interval is None:
        is_large, is_zero, text = figure.worst > _LARGE, figure.worst < EXACT, str(figure)
    else:
        low, high = interval
        is_large, is_zero = low > _LARGE, low == 0 and high < _LARGE
        text = f"{figure} [{number(low)}, {number(high)}]"
    return Text(text, "red" if is_large else "green" if is_zero else "yellow")


def _lengths(lengths: tuple[Length, ...]) -> Table:
    table = _table("tokens of the response", *(str(x.length) for x in lengths))
    for name, values in (
        ("better than average", [x.above for x in lengths]),
        ("worse than average", [x.below for x in lengths]),
    ):
        table.add_row(name, *("" if x is None else number(x) for x in values))
    return table


def _verdict(penalty: Penalty) -> str:
    sampled = any(match.interval is not None for match in penalty.matches)
    if penalty.descends == "nothing":
        return (
            "no gradient stands out from the noise" if sampled else "their expected gradient is 0"
        )
    if sampled:
        return f"they descend something near the {penalty.nearest.divergence}"
    if penalty.descends:
        return f"they descend the {penalty.descends}, exactly"
    return f"they descend none of these exactly; the nearest is the {penalty.nearest.divergence}"


def _matches(penalty: Penalty) -> Table:
    table = _table("reward 0, on policy", "cosine", "residual")
    for match in penalty.matches:
        table.add_row(
            match.divergence, str(match.cosine), _residual(match.residual, match.interval)
        )
    return table


def _or_none(x: float) -> float | None:
    return None if x != x else x
