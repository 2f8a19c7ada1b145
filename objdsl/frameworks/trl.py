"""What TRL computes under a configuration of `trl grpo`, `trl rloo` or `trl dpo`, as an objective.

Read in TRL 1.16.0: `GRPOTrainer._compute_loss` and `_generate_and_score_completions`, the same of
`RLOOTrainer`, and `DPOTrainer._compute_loss`. tests/frameworks/test_trl.py runs those trainers on
random settings, and compares value and gradient.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath

from objdsl.frameworks.settings import Setting, Settings
from objdsl.frameworks.trl_dpo import LOSSES, Dpo
from objdsl.frameworks.trl_grpo import Grpo
from objdsl.frameworks.trl_rloo import Rloo
from objdsl.frameworks.trl_settings import ALONE, KNOWN, OTHERS, VERSION
from objdsl.frameworks.writer import Imported
from objdsl.source import Source


def objective(
    source: Source, values: Mapping[str, Setting], name: str, processes: int = 1
) -> Imported:
    """The objective that a configuration of TRL's trainer computes.

    It is a configuration of RLOO or of DPO if it has a setting that no other trainer has, a loss of
    DPO's, or its file is called so; otherwise one of GRPO.

    Args:
        source: the file, for messages.
        values: the settings, by name.
        name: of the objective.
        processes: how many processes train; each takes its own micro-batches.

    Raises:
        ObjectiveError: a setting that TRL does not have, a value that it refuses, or a loss that
            the language cannot express; each at its place.
    """
    framework = f"TRL {VERSION}"
    kind = _trainer(source, values)
    settings = Settings(source, values, framework, KNOWN[kind], OTHERS[kind])
    if kind == "dpo":
        dpo = Dpo(settings, name, processes)
        text, outside = dpo.text(framework), dpo.outside
    else:
        writer = (Rloo if kind == "rloo" else Grpo)(settings, name, processes)
        text, outside = writer.text(), writer.outside
    settings.finish()
    return Imported(text, tuple(outside))


def _trainer(source: Source, values: Mapping[str, Setting]) -> str:
    """The trainer that a configuration is of."""
    losses = values["loss_type"].value if "loss_type" in values else ()
    words = losses.split() if isinstance(losses, str) else losses
    if isinstance(words, list | tuple) and {*map(str, words)} & {*LOSSES}:
        return "dpo"
    called = PurePath(source.name).name.lower()
    for kind in ("rloo", "dpo"):
        if kind in called or ALONE[kind] & values.keys():
            return kind
    return "grpo"
