"""Configurations by name: `trl:grpo.yaml` is the objective that TRL computes under that file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from objdsl.frameworks import PREFIXES, trl, trl_settings, versions
from objdsl.frameworks.settings import Setting, from_mapping, from_yaml
from objdsl.source import Source
from objdsl.spelling import identifier
from objdsl.syntax.read import read as read_file

LARGEST = 1024 * 1024
"""Bytes of a configuration."""


def configured(name: str, called: str | None = None, processes: int = 1) -> trl.Imported:
    """What a framework computes under a configuration, `trl:CONFIG.yaml`.

    Args:
        called: the name of the objective; by default that of the file.
        processes: how many train.

    Raises:
        FileNotFoundError: there is no such file.
        ObjectiveError: it is not a configuration of that framework, or one whose loss the language
            cannot express; with every error at its place.
    """
    framework, _, path = name.partition(":")
    assert f"{framework}:" in PREFIXES
    file = Path(path).expanduser()
    if not file.is_file():
        raise FileNotFoundError(f"there is no configuration `{path}`")
    source = read_file(file, LARGEST)
    return _trl(source, from_yaml(source), identifier(called or file.stem), processes)


def from_config(config: Any, processes: int = 1) -> trl.Imported:
    """What TRL computes under a `GRPOConfig` or `RLOOConfig`, or under a mapping of settings.

    Raises:
        ObjectiveError: as for `configured`.
    """
    kind = "config"
    if isinstance(config, Mapping):
        values = dict(config)
    else:
        kind = type(config).__name__
        known = trl_settings.RLOO if kind == "RLOOConfig" else trl_settings.GRPO
        present = {field.name for field in fields(config)}
        values = {name: getattr(config, name) for name in known if name in present}
        # TRL derives one of the two from the other.
        values.pop("generation_batch_size", None)
    source, settings = from_mapping(values, kind)
    name = "trl_rloo" if kind == "RLOOConfig" else "trl_grpo"
    return _trl(source, settings, name, processes)


def _trl(source: Source, values: Mapping[str, Setting], name: str, processes: int) -> trl.Imported:
    remark = versions.comment(
        "trl", trl_settings.VERSION, trl_settings.DIGESTS, trl_settings.FUNCTIONS, source
    )
    imported = trl.objective(source, values, name, processes)
    if not remark:
        return imported
    first, _, rest = imported.text.partition("\n")
    return trl.Imported(f"{first}\n# {remark}.\n{rest}", (*imported.outside, remark))
