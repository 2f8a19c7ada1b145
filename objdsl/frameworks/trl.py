"""What TRL computes under a configuration of `trl grpo` or `trl rloo`, as an objective.

Read in TRL 1.16.0: `GRPOTrainer._compute_loss` and `_generate_and_score_completions`, and the same
of `RLOOTrainer`. tests/frameworks/test_trl.py runs those trainers on random settings, and compares
value and gradient.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath

from objdsl.frameworks.settings import Setting, Settings
from objdsl.frameworks.trl_grpo import Grpo
from objdsl.frameworks.trl_rloo import Rloo
from objdsl.frameworks.trl_settings import GRPO, OTHERS, RLOO, VERSION
from objdsl.frameworks.trl_writer import Writer
from objdsl.frameworks.writer import Imported
from objdsl.source import Source


def objective(
    source: Source, values: Mapping[str, Setting], name: str, processes: int = 1
) -> Imported:
    """The objective that a configuration of TRL's trainer computes.

    It is a configuration of RLOO if it has a setting of RLOOConfig alone, or its file is
    called so; otherwise one of GRPO.

    Args:
        source: the file, for messages.
        values: the settings, by name.
        name: of the objective.
        processes: how many processes train; each takes its own micro-batches.

    Raises:
        ObjectiveError: a setting that TRL does not have, a value that it refuses, or a loss that
            the language cannot express; each at its place.
    """
    alone = {*RLOO} - {*GRPO}
    rloo = "rloo" in PurePath(source.name).name.lower() or bool(alone & values.keys())
    framework = f"TRL {VERSION}"
    if rloo:
        settings = Settings(source, values, framework, RLOO, OTHERS["rloo"])
        writer: Writer = Rloo(settings, name, processes)
    else:
        settings = Settings(source, values, framework, GRPO, OTHERS["grpo"])
        writer = Grpo(settings, name, processes)
    text = writer.text()
    settings.finish()
    return Imported(text, tuple(writer.outside))
