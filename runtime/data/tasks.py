"""Tasks: examples to train on and to evaluate on, generated or read."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Mapping, Sequence

from objdsl.frozen import dataclass
from objdsl.runtime.data.example import Example
from objdsl.runtime.data.files import example_of, read_rows
from objdsl.runtime.settings.config import (
    ARITHMETIC,
    SECOND_TRY,
    ConfigError,
    SetSection,
    TaskSection,
)


@dataclass(frozen=True, slots=True)
class Task:
    """Examples to train on, held-out examples, and, for some tasks, worked examples.

    `digest` identifies the content: a resumed run compares it. `demonstrate` writes the response
    that a supervised warm start imitates; None for a task without worked examples. `characters` are
    those of responses that occur in no example.
    """

    name: str
    train: tuple[Example, ...]
    held_out: tuple[Example, ...]
    digest: str
    max_tokens: int = 256
    demonstrate: Callable[[Example, random.Random], str] | None = None
    characters: str = ""

    @property
    def alphabet(self) -> str:
        """Every character of the task, sorted: the vocabulary of the built-in model."""
        examples = (*self.train, *self.held_out)
        texts = [example.text for example in examples]
        texts += [str(value) for example in examples for value in example.columns.values()]
        return "".join(sorted(set(self.characters).union(*texts)))


def load_task(config: TaskSection, seed: int) -> Task:
    """The task that the settings name. Raises ConfigError where there is none."""
    if config.name in BUILT_IN:
        return BUILT_IN[config.name](config, seed)
    rows, held_out = read_rows(config)
    train = [example_of(row, config, f"{config.name} row {k + 1}") for k, row in enumerate(rows)]
    if held_out is None:
        random.Random(seed).shuffle(train)
        # Evaluation needs examples, but not most of a small dataset.
        count = min(config.held_out, len(train) // 5)
        measured, train = train[:count], train[count:]
    else:
        measured = [
            example_of(row, config, f"{config.name} {config.held_out_split} row {k + 1}")
            for k, row in enumerate(held_out[: config.held_out])
        ]
    if not train:
        raise ConfigError([f"{config.name} has no example to train on"])
    return Task(config.name, tuple(train), tuple(measured), _digest(train, measured))


def load_sets(sets: Mapping[str, SetSection], task: TaskSection) -> dict[str, tuple[Example, ...]]:
    """The examples of held-out sets, by name. Raises ConfigError for a set without any."""
    loaded = {}
    for name, section in sets.items():
        given = section.model_dump(exclude_none=True)
        unset = {"revision": None, "subset": None, "held_out_split": None}
        config = task.model_copy(update=unset | given)
        rows, _ = read_rows(config)
        examples = tuple(
            example_of(row, config, f"{config.name} row {k + 1}")
            for k, row in enumerate(rows[: task.held_out])
        )
        if not examples:
            raise ConfigError([f"evaluation.sets.{name}: {config.name} has no example"])
        loaded[name] = examples
    return loaded


def _digest(train: Sequence[Example], held_out: Sequence[Example]) -> str:
    seen = hashlib.blake2b(digest_size=16)
    for part in (train, held_out):
        seen.update(b"\x00")
        for example in part:
            row = [example.prompt, dict(example.columns)]
            seen.update(json.dumps(row, sort_keys=True, default=str).encode())
    return seen.hexdigest()


# --- the built-in tasks --------------------------------------------------------------------------


def _arithmetic(config: TaskSection, seed: int) -> Task:
    """Addition: `57+68=` is answered by `125`.

    Most worked examples forget to carry (`57+68=15`), so that a policy that imitates them well is
    right only where nothing is carried. Only the reward shows that it can do better.
    """
    train, held_out = _sums(config, seed)
    return Task(
        name=f"{config.digits}-digit addition",
        train=train,
        held_out=held_out,
        digest=_digest(train, held_out),
        max_tokens=config.digits + 3,
        demonstrate=lambda example, rng: _worked(example, config.forgotten_carry, rng),
    )


def _second_try(config: TaskSection, seed: int) -> Task:
    """Addition in two turns of one text: `57+68=` is answered by `15;no;125`.

    The policy's first turn ends with `;`, then the environment says `ok;` or `no;`, then the policy
    tries again. Here no environment interrupts: the policy writes its text, too, which `turns`
    excludes from the loss.
    """
    train, held_out = _sums(config, seed)

    def demonstrate(example: Example, rng: random.Random) -> str:
        first = _worked(example, config.forgotten_carry, rng)
        right = str(example.columns["answer"])
        second = right if first == right or rng.random() < 0.5 else first
        return f"{first};{'ok' if first == right else 'no'};{second}"

    return Task(
        name=f"{config.digits}-digit addition with a second try",
        train=train,
        held_out=held_out,
        digest=_digest(train, held_out),
        max_tokens=2 * config.digits + 8,
        demonstrate=demonstrate,
        characters=";kno",
    )


def _sums(config: TaskSection, seed: int) -> tuple[tuple[Example, ...], tuple[Example, ...]]:
    """Sums to train on, and sums to evaluate on."""
    low, high = 10 ** (config.digits - 1), 10**config.digits
    rng = random.Random(seed)
    if config.digits == 1:
        pairs = [(a, b) for a in range(10) for b in range(10)]
    elif config.digits == 2:
        pairs = [(a, b) for a in range(low, high) for b in range(low, high)]
    else:
        distinct = {(rng.randrange(low, high), rng.randrange(low, high)) for _ in range(20_000)}
        pairs = sorted(distinct)
    rng.shuffle(pairs)
    examples = tuple(Example(f"{a}+{b}=", {"answer": str(a + b)}) for a, b in pairs)
    count = min(config.held_out, len(examples) // 5)
    return examples[count:], examples[:count]


def _worked(example: Example, forgotten_carry: float, rng: random.Random) -> str:
    """A sum, possibly without its carries."""
    if rng.random() >= forgotten_carry:
        return str(example.columns["answer"])
    a, b = example.text.removesuffix("=").split("+")
    return "".join(str((int(x) + int(y)) % 10) for x, y in zip(a, b, strict=True))


BUILT_IN: dict[str, Callable[[TaskSection, int], Task]] = {
    ARITHMETIC: _arithmetic,
    SECOND_TRY: _second_try,
}
