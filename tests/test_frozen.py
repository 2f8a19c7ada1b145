"""Our frozen data classes behave like those of the standard library."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import pickle
from typing import Any

import pytest

from objdsl.frozen import dataclass as ours

DEFAULT = object()


def make(decorate: Any, **options: Any) -> tuple[type, type]:
    """A class and a subclass, with every kind of field that objdsl uses."""

    @decorate(frozen=True, **options)
    class Base:
        """A base."""

        a: int
        span: object = dataclasses.field(default=DEFAULT, compare=False, repr=False, kw_only=True)
        twice: int = dataclasses.field(init=False, repr=False)

        def __post_init__(self) -> None:
            object.__setattr__(self, "twice", 2 * self.a)

    @decorate(frozen=True, **options)
    class Derived(Base):
        """One more."""

        b: str = "b"
        c: dict[str, int] = dataclasses.field(default_factory=dict, compare=False)

    return Base, Derived


# To be pickled, a class has a name in its module.
Base, Derived = make(ours)
SlottedBase, Slotted = make(ours, slots=True)
for name, named in {"Base": Base, "Derived": Derived, "S": SlottedBase, "Slotted": Slotted}.items():
    named.__qualname__ = named.__name__ = name


@pytest.mark.parametrize("slots", [False, True])
@pytest.mark.parametrize("eq", [False, True])
def test_as_the_standard_library(slots: bool, eq: bool) -> None:
    (_, theirs), (_, mine) = (
        make(decorate, slots=slots, eq=eq) for decorate in (dataclasses.dataclass, ours)
    )
    assert inspect.signature(mine).parameters.keys() == inspect.signature(theirs).parameters.keys()
    assert mine.__match_args__ == theirs.__match_args__
    assert hasattr(mine(1), "__dict__") == hasattr(theirs(1), "__dict__")
    for cls in (mine, theirs):
        x = cls(1, "x", {"k": 2}, span="here")
        assert (x.a, x.b, x.c, x.span, x.twice) == (1, "x", {"k": 2}, "here", 2)
        assert cls(a=1).span is DEFAULT and cls(1).c == {} and cls(1).c is not cls(1).c
        assert repr(x).endswith("Derived(a=1, b='x', c={'k': 2})")
        assert (cls(1) == cls(1, span=3)) is eq
        assert (hash(cls(1)) == hash(cls(1, span=3))) is eq
        assert cls(1) != cls(2) and cls(1) != (1, "b")
        changed = dataclasses.replace(x, a=5)
        assert (changed.a, changed.b, changed.twice) == (5, "x", 10)
        assert dataclasses.asdict(x)["b"] == "x"
        for wrong in ((), (1, "x", {}, "span"), (1, "x", {}, 4, 5)):
            with pytest.raises(TypeError):
                cls(*wrong)
        with pytest.raises(TypeError):
            cls(1, d=2)
        with pytest.raises(dataclasses.FrozenInstanceError, match="a"):
            x.a = 2
        with pytest.raises(dataclasses.FrozenInstanceError, match="b"):
            del x.b


@pytest.mark.parametrize("cls", [Derived, Slotted])
def test_copies(cls: type, monkeypatch: pytest.MonkeyPatch) -> None:
    value = cls(3, "x", {"k": [1]}, span=None)
    monkeypatch.setitem(globals(), cls.__name__, cls)
    for other in (copy.copy(value), copy.deepcopy(value), pickle.loads(pickle.dumps(value))):
        assert other == value and (other.c, other.twice) == ({"k": [1]}, 6)
    assert copy.deepcopy(value).c["k"] is not value.c["k"]


def test_a_method_of_the_class_stays() -> None:
    @ours(frozen=True)
    class Shown:
        a: int

        def __repr__(self) -> str:
            return "shown"

        def __hash__(self) -> int:
            return 7

    assert repr(Shown(1)) == "shown" and hash(Shown(1)) == 7 and Shown(1) == Shown(1)


def test_only_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        ours(frozen=False)
