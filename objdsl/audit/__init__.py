"""The audit: the exact bias of an objective's gradient, on policies so small that every
expectation is a finite sum.

    found = objdsl.audit.audit("grpo")
    print(found)                 # the table of `objdsl audit grpo`
    found.residual               # 0: unbiased up to the learning rate
"""

from __future__ import annotations

from objdsl.audit.experiment import audit
from objdsl.audit.measure import UnauditableError
from objdsl.audit.report import Audit
from objdsl.audit.result import Figure, Length, Match, Penalty, Row

__all__ = ["Audit", "Figure", "Length", "Match", "Penalty", "Row", "UnauditableError", "audit"]
