"""The base of all exceptions of objdsl, and those that several modules raise."""

from __future__ import annotations

from collections.abc import Iterable

from objdsl.diagnostic import Diagnostic


class ObjdslError(Exception):
    """The base class of all exceptions that objdsl raises on purpose."""


class InputError(ObjdslError, ValueError):
    """An input that an objective cannot compute with; the message says what it is, and what is
    needed."""


class NaNInputError(InputError):
    """A trained input that is NaN at a token that counts."""


class InputTypeError(InputError, TypeError):
    """An input of a wrong type altogether."""


class DerivativeError(ObjdslError, RuntimeError):
    """A derivative that an objective does not have."""


class ObjectiveError(ObjdslError):
    """A text that is not an objective. `diagnostics` holds every error that was found in it."""

    def __init__(self, diagnostics: Iterable[Diagnostic]) -> None:
        self.diagnostics = tuple(diagnostics)
        super().__init__(self.diagnostics)

    def __str__(self) -> str:
        from objdsl.render.terminal import render

        return "\n" + "\n".join(render(diagnostic) for diagnostic in self.diagnostics)
