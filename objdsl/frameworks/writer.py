"""Writing an objective: statements, with what asked for them beside, and what they leave out."""

from __future__ import annotations

from collections.abc import Collection

from objdsl.frameworks.settings import Settings
from objdsl.frozen import dataclass
from objdsl.spelling import identifier


@dataclass(frozen=True)
class Imported:
    """What a configuration computes.

    Attributes:
        text: an objective in the language.
        outside: what the configuration does besides, a sentence each.
    """

    text: str
    outside: tuple[str, ...]


class Statements:
    """Writes an objective statement by statement; a comment beside each says what asked for it."""

    def __init__(self, settings: Settings, name: str) -> None:
        self.settings, self.name = settings, name
        self.lines: list[str] = []
        self.outside: list[str] = []

    def write(self, statement: str, comment: str = "") -> None:
        self.lines.append(f"{statement}  # {comment}" if comment else statement)

    def gap(self) -> None:
        if self.lines and self.lines[-1]:
            self.lines.append("")

    def param(self, name: str, setting: str, domain: str, value: float | None = None) -> str:
        """A parameter with the value of a setting; its name."""
        value = self.settings.number(setting) if value is None else value
        self.write(f"param {name} = {value:.12g} in {domain}", setting)
        return name

    def document(self, framework: str, trainer: str = "") -> str:
        """The whole text, with its heading."""
        heading = [
            f"# What {framework} computes{trainer} under {self.settings.source.name}.",
            *(f"# Not in the formula: {sentence}." for sentence in self.outside),
            f"objective {self.name}",
            "",
        ]
        return "\n".join([*heading, *self.lines]).rstrip() + "\n"


def reward_name(name: str, taken: Collection[str]) -> str:
    """The name of a reward function, as a name of the language: its last part."""
    short = identifier(name.rpartition("/")[2].rpartition(".")[2])
    return f"{short}_reward" if short in taken else short
