"""Formulas as papers print them, in LaTeX, to objectives: `objdsl import tex`.

    lexer > parse > translate > objective

`lexer` makes tokens and leaves layout out; `parse` finds the equations and reads each by the
grammar `tex.lark`; `translate` says what every factor is here, by `sums`, `policies`, `symbols` and
`names`, and puts the text together from `pieces`; `objective` is the whole file, with what was
guessed beside it.
"""

from __future__ import annotations

from objdsl.tex.objective import imported

__all__ = ["imported"]
