"""Configurations by name: `trl:grpo.yaml` is the objective that TRL computes under that file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from objdsl.frameworks import PREFIXES, trl, trl_settings, verl, verl_settings, versions
from objdsl.frameworks.settings import Setting, from_mapping, from_overrides, from_yaml
from objdsl.frameworks.writer import Imported
from objdsl.source import Source
from objdsl.spelling import identifier
from objdsl.syntax.read import read as read_file

LARGEST = 1024 * 1024
"""Bytes of a configuration."""

SCRIPTS = (".sh", ".bash", ".slurm", ".sbatch")
"""What a shell's script ends in, of which Hydra's overrides are read."""

_SECTIONS = ("actor_rollout_ref", "algorithm", "critic", "data", "trainer")


def configured(
    name: str, called: str | None = None, processes: int = 1, overrides: Sequence[str] = ()
) -> Imported:
    """What a framework computes under a configuration, `trl:CONFIG.yaml` or `verl:CONFIG`.

    Args:
        called: the name of the objective; by default that of the file.
        processes: how many train with TRL; verl's configuration says it itself.
        overrides: settings of verl besides the file, `section.name=value`; without a file, all.

    Raises:
        FileNotFoundError: there is no such file.
        ObjectiveError: it is not a configuration of that framework, or one whose loss the language
            cannot express; with every error at its place.
    """
    framework, _, path = name.partition(":")
    assert f"{framework}:" in PREFIXES
    file = Path(path).expanduser()
    if path and not file.is_file():
        raise FileNotFoundError(f"there is no configuration `{path}`")
    source = read_file(file, LARGEST) if path else Source("overrides", "")
    called = identifier(called or file.stem or "verl")
    if framework == "trl":
        return _trl(source, from_yaml(source), called, processes)
    script = file.suffix in SCRIPTS
    values = from_overrides(source) if script else from_yaml(source, nested=True)
    beside = Source("overrides", " ".join(overrides))
    return _verl(source if path else beside, {**values, **from_overrides(beside)}, called)


def from_config(config: Any, processes: int = 1) -> Imported:
    """What TRL computes under a `GRPOConfig`, `RLOOConfig` or `DPOConfig`, or a framework under a
    mapping.

    A mapping with verl's sections (`algorithm`, `actor_rollout_ref`, ...) has settings of verl,
    nested or by their whole names; any other has TRL's.

    Raises:
        ObjectiveError: as for `configured`.
    """
    kind = "config"
    if isinstance(config, Mapping):
        values = dict(config)
        if any(str(name).partition(".")[0] in _SECTIONS for name in values):
            source, settings = from_mapping(dict(_flat(config)), kind)
            return _verl(source, settings, "verl")
    else:
        kind = type(config).__name__
        known = trl_settings.KNOWN.get(kind.removesuffix("Config").lower(), trl_settings.GRPO)
        present = {field.name for field in fields(config)}
        values = {name: getattr(config, name) for name in known if name in present}
        # TRL derives one of the two from the other.
        values.pop("generation_batch_size", None)
    source, settings = from_mapping(values, kind)
    name = {"RLOOConfig": "trl_rloo", "DPOConfig": "trl_dpo"}.get(kind, "trl_grpo")
    return _trl(source, settings, name, processes)


def _flat(tree: Mapping[str, Any], section: str = "") -> Iterator[tuple[str, Any]]:
    """The settings of a tree, by their whole names."""
    for name, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{section}{name}.")
        else:
            yield f"{section}{name}", value


def _trl(source: Source, values: Mapping[str, Setting], name: str, processes: int) -> Imported:
    remark = versions.comment(
        "trl", trl_settings.VERSION, trl_settings.DIGESTS, trl_settings.FUNCTIONS, source
    )
    return _with_remark(trl.objective(source, values, name, processes), remark)


def _verl(source: Source, values: Mapping[str, Setting], name: str) -> Imported:
    remark = versions.comment(
        "verl", verl_settings.VERSION, verl_settings.DIGESTS, verl_settings.FUNCTIONS, source,
        _changed_defaults, verl_settings.TREE,
    )  # fmt: skip
    return _with_remark(verl.objective(source, values, name), remark)


def _changed_defaults(text: str) -> list[str]:
    """The settings whose defaults in a tree of verl are not those that were read."""
    tree = from_yaml(Source(verl_settings.TREE, text), nested=True)
    return [
        name
        for name, default in verl_settings.DEFAULTS.items()
        if name in tree and tree[name].value != default
    ]


def _with_remark(imported: Imported, remark: str) -> Imported:
    if not remark:
        return imported
    first, _, rest = imported.text.partition("\n")
    return Imported(f"{first}\n# {remark}.\n{rest}", (*imported.outside, remark))
