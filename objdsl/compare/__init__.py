"""Two losses beside each other: do they have the same value and the same gradient, and if not, on
which smallest step do they differ, and by what?

    result = objdsl.compare.compare("grpo", "my_losses.py:grpo")
    print(result)                # what `objdsl compare grpo my_losses.py:grpo` prints
    result.same                  # True

The modules, in the order in which data flows: `draw` makes random steps, with the `advantages` for
losses that are given them; a `relation` is judged over steps, and over the `splits` of one; the
`smallest` step shows a difference, and a `diagnosis` names it; `experiment` puts it together, and a
`report` shows it; `golden` values are recorded for a CI.
"""

from __future__ import annotations

from objdsl.compare.experiment import assert_same, compare, loss_of
from objdsl.compare.golden import against, golden
from objdsl.compare.report import Comparison

__all__ = ["Comparison", "against", "assert_same", "compare", "golden", "loss_of"]
