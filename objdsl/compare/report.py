"""A comparison as text, as JSON, and as a test to paste."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from torch import Tensor

from objdsl.compare.diagnosis import Difference
from objdsl.compare.relation import Pair, Relation
from objdsl.compare.splits import Split
from objdsl.frozen import dataclass
from objdsl.ir.indices import decimal
from objdsl.losses.batch import ADVANTAGE


@dataclass(frozen=True, eq=False)
class Comparison:
    """Two losses on random steps.

    Attributes:
        a, b: their names.
        like: the convention of Python functions.
        settings: their other arguments.
        advantages: the objective whose advantages they were given, if they were.
        steps: how many were drawn.
        relation, on_policy: on steps where the policies differ, and where they do not.
        splits: of each Python function, by its name.
        differences: what is recognised.
        example: the smallest step on which they differ.
    """

    a: str
    b: str
    like: str
    settings: dict[str, Any]
    advantages: str | None
    steps: int
    seed: int
    relation: Relation
    on_policy: Relation
    splits: tuple[tuple[str, Split], ...]
    differences: tuple[Difference, ...]
    example: Pair | None

    @property
    def same(self) -> bool:
        """Whether values and gradients are the same on all steps."""
        return all(x.value and x.gradient for x in (self.relation, self.on_policy))

    def __str__(self) -> str:
        return "".join(f"{line}\n" for line in self._lines())

    def _lines(self) -> Iterator[str]:
        yield f"A = {self.a}"
        yield f"B = {self.b}"
        if self.advantages is not None:
            yield f"advantages are those of {self.advantages}"
        yield ""
        yield f"value      {_same(self.relation.value)}"
        yield f"gradient   {self._gradient(self.relation)}"
        yield f"on policy  {self._gradient(self.on_policy)}"
        for name, split in self.splits:
            yield f"split      {name}: {split}"
        if self.same:
            yield ""
            yield f"the same on {self.steps} random steps (seed {self.seed})"
            return
        yield ""
        for difference in self.differences:
            yield difference.text
        if not self.differences:
            yield "they differ, and not in a way that is recognised"
        if self.example is not None:
            yield ""
            yield "the smallest step on which they differ:"
            yield from (f"  {line}" for line in table(self.example))

    def _gradient(self, relation: Relation) -> str:
        if relation.gradient:
            return "the same"
        if (c := relation.factor) is not None:
            return f"the same up to a constant factor: B's is {c:.6g} times A's"
        if relation.parallel:
            factors = ", ".join(f"{c:.4g}" for c in relation.factors if c is not None)
            return f"the same direction in each step, with factors that differ: {factors}"
        return "different"

    def to_json(self) -> str:
        """The comparison as a JSON object."""
        record: dict[str, Any] = {
            "a": self.a, "b": self.b, "like": self.like, "settings": self.settings,
            "advantages": self.advantages,
            "steps": self.steps, "seed": self.seed, "same": self.same,
            "off_policy": _relation(self.relation), "on_policy": _relation(self.on_policy),
            "splits": [
                {"loss": name, "unit": x.unit, "sums": x.sums, "means": x.means}
                for name, x in self.splits
            ],
            "differences": [{"kind": x.kind, "text": x.text} for x in self.differences],
            "example": None if self.example is None else _example(self.example),
        }  # fmt: skip
        return json.dumps(record, indent=2)

    def as_test(self) -> str:
        """A test of pytest that fails until the two are the same on the smallest step."""
        assert self.example is not None
        batch = self.example.batch
        columns = "".join(
            f"        {name}={rows_of(x, batch.lengths)},\n"
            for name, x in sorted(batch.columns.items())
            if name != ADVANTAGE
        )
        advantages = f"        advantages={self.advantages!r},\n" if self.advantages else ""
        settings = f"        settings={self.settings!r},\n" if self.settings else ""
        return (
            f'"""The smallest step on which {self.a} and {self.b} differ."""\n\n'
            "from objdsl.compare import assert_same\n\n\n"
            "def test_they_are_the_same() -> None:\n"
            "    assert_same(\n"
            f"        {self.a!r},\n        {self.b!r},\n        like={self.like!r},\n"
            f"{advantages}{settings}"
            f"        prompt={batch.prompt.tolist()},\n"
            f"        lengths={batch.lengths.tolist()},\n"
            f"{columns}    )\n"
        )


def _same(same: bool) -> str:
    return "the same" if same else "different"


def _relation(relation: Relation) -> dict[str, Any]:
    return {
        "same_value": relation.value,
        "same_gradient": relation.gradient,
        "factor": relation.factor,
        "factors": list(relation.factors),
    }


def rows_of(x: Tensor, lengths: Tensor) -> Any:
    """A column as lists, without its padding."""
    if x.dim() < 2:
        return x.tolist()
    return [row[:length].tolist() for row, length in zip(x, lengths.tolist(), strict=True)]


def _example(pair: Pair) -> dict[str, Any]:
    batch = pair.batch

    def lists(columns: dict[str, Tensor]) -> dict[str, Any]:
        return {name: rows_of(x, batch.lengths) for name, x in sorted(columns.items())}

    columns = {("advantage" if k == ADVANTAGE else k): x for k, x in batch.columns.items()}
    return {
        "prompt": batch.prompt.tolist(),
        "lengths": batch.lengths.tolist(),
        "columns": lists(columns),
        "values": list(pair.values),
        "gradients": [lists(pair.a.gradients), lists(pair.b.gradients)],
    }


def table(pair: Pair) -> Iterator[str]:
    """The step, a response after the other."""
    batch = pair.batch
    names = list(dict.fromkeys(batch.prompt.tolist()))
    for row, length in enumerate(batch.lengths.tolist()):
        yield f"response {row + 1}, prompt {names.index(int(batch.prompt[row])) + 1}"
        for name, x in sorted(batch.columns.items()):
            shown = "advantage" if name == ADVANTAGE else name
            of_row = x[row, :length] if x.dim() > 1 else x[row] if x.dim() else x
            yield f"  {shown:<12} {_numbers(of_row)}"
        for side, evaluation in (("A", pair.a), ("B", pair.b)):
            for name, gradient in evaluation.gradients.items():
                yield f"  dL/d{name} of {side}: {_numbers(gradient[row, :length])}"
    yield "loss of A: {:.8g}, of B: {:.8g}".format(*(x + 0.0 for x in pair.values))


def _numbers(x: Tensor) -> str:
    return " ".join(decimal(float(f"{number:.8g}") + 0.0) for number in x.flatten().tolist())
