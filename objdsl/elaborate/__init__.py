"""From the tree to the formula: names, indices, the prelude, `from`.

    entry > collect > statements > expressions > names, calls, reductions

`entry` is the whole; `collect` puts the statements of a file and of its bases into the `scope`;
`statements` reads declarations and goals; `expressions` makes the node of an expression by way of
`names`, `calls` and `reductions`. `readings` refuses reductions that read two ways, `checks` what a
place cannot take; `suggestions` and `wording` say what was probably meant. `context` holds what is
known on the way, and the errors.

Every statement is elaborated, also after an error in another, so that one run reports all of them.
A name whose own statement is wrong is not reported again where it is used.
"""

from __future__ import annotations

from objdsl.elaborate.context import SHALLOWER
from objdsl.elaborate.entry import Spellings, elaborate, spellings, too_deep, undecided

__all__ = [
    "SHALLOWER",
    "Spellings",
    "elaborate",
    "spellings",
    "too_deep",
    "undecided",
]
