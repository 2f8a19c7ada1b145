"""The audit: the exact bias of an objective's gradient, on policies so small that every
expectation is a finite sum.

    result = objdsl.audit.audit("grpo")
    print(result)                # the table of `objdsl audit grpo`
    result.residual              # 0: unbiased up to the learning rate

The modules, in the order in which data flows: a `world` (all responses of a small language), the
`roles` of policies, an `instance` (policies and rewards), a `plan`, `columns` and `generate`
(random instances), or a Python `function` in place of an objective; the expected `gradient`, its
`target`, and how they `compare`; `rows` and `penalty` are figures over several instances, `terms`
are removed for them, and the `experiment` puts it together; `result`, `report` and `picture` show
it.
"""

from __future__ import annotations

from objdsl.audit.experiment import audit, audit_function
from objdsl.audit.function import function_of
from objdsl.audit.instance import UnauditableError
from objdsl.audit.report import Audit
from objdsl.audit.result import Figure, Length, Match, Penalty, Row

__all__ = [
    "Audit",
    "Figure",
    "Length",
    "Match",
    "Penalty",
    "Row",
    "UnauditableError",
    "audit",
    "audit_function",
    "function_of",
]
