"""Samples that are too large for every test run: each runs a part, `make proofs` the rest."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from functools import cache
from typing import Any

import pytest

import objdsl
from objdsl.analysis.schedule.coupling import is_statistic
from objdsl.objectives import gallery


def parts(many: int, taken: int) -> list[Any]:
    """The numbers of the parts; all but the first few are run with `--proofs` alone."""
    rest = [pytest.param(part, marks=pytest.mark.proof) for part in range(taken, many)]
    return [*range(taken), *rest]


def thinned(values: Iterable[Any], every: int) -> list[Any]:
    """Values of which each run takes one of so many, beginning with the first; `--proofs` runs the
    others alone."""
    return [
        value if k % every == 0 else pytest.param(value, marks=pytest.mark.proof)
        for k, value in enumerate(values)
    ]


def entries(names: Iterable[str] | None = None) -> list[Any]:
    """Entries of the gallery; all but two of each kind are run with `--proofs` alone."""
    every = gallery.names() if names is None else names
    return [
        name if name in _of_each_kind() else pytest.param(name, marks=pytest.mark.proof)
        for name in every
    ]


@cache
def _of_each_kind() -> frozenset[str]:
    """Two entries of each kind: the policies they read, what they train, and whether a statistic of
    the step depends on the current policy. Nothing is emitted: every worker collects this."""
    kinds: defaultdict[tuple[object, ...], list[str]] = defaultdict(list)
    for name in gallery.names():
        formula = objdsl.load(name).formula
        policies = frozenset(column for column in formula.columns if column.startswith("log_"))
        coupled = any(is_statistic(node) for node in formula.nodes if node not in formula.roots)
        kinds[policies, formula.trained, coupled].append(name)
    return frozenset(name for names in kinds.values() for name in (names[0], names[-1]))
