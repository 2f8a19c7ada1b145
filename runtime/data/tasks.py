"""Tasks: examples to train on and to evaluate on, generated or read."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Sequence

from objdsl.frozen import dataclass
from objdsl.runtime.data.example import Example
from objdsl.runtime.data.files import example_of, read_rows
from objdsl.runtime.settings.config import ARITHMETIC, ConfigError, TaskSection


@dataclass(frozen=True, slots=True)
class Task:
    """Examples to train on, held-out examples, and, for some tasks, worked examples.

    `digest` identifies the content: a resumed run compares it. `demonstrate` writes the response
    that a supervised warm start imitates; None for a task without worked examples.
    """

    name: str
    train: tuple[Example, ...]
    held_out: tuple[Example, ...]
    digest: str
    max_tokens: int = 256
    demonstrate: Callable[[Example, random.Random], str] | None = None

    @property
    def alphabet(self) -> str:
        """Every character of the task, sorted: the vocabulary of the built-in model."""
        examples = (*self.train, *self.held_out)
        texts = [example.text for example in examples]
        texts += [str(value) for example in examples for value in example.columns.values()]
        return "".join(sorted(set().union(*texts)))


def load_task(config: TaskSection, seed: int) -> Task:
    """The task that the settings name. Raises ConfigError where there is none."""
    if config.name == ARITHMETIC:
        return _arithmetic(config, seed)
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


def _digest(train: Sequence[Example], held_out: Sequence[Example]) -> str:
    seen = hashlib.blake2b(digest_size=16)
    for part in (train, held_out):
        seen.update(b"\x00")
        for example in part:
            row = [example.prompt, dict(example.columns)]
            seen.update(json.dumps(row, sort_keys=True, default=str).encode())
    return seen.hexdigest()


# --- the built-in task ---------------------------------------------------------------------------


def _arithmetic(config: TaskSection, seed: int) -> Task:
    """Addition: `57+68=` is answered by `125`.

    Most worked examples forget to carry (`57+68=15`), so that a policy that imitates them well is
    right only where nothing is carried. Only the reward shows that it can do better.
    """
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
    examples = [Example(f"{a}+{b}=", {"answer": str(a + b)}) for a, b in pairs]
    count = min(config.held_out, len(examples) // 5)
    held_out, train = examples[:count], examples[count:]

    def demonstrate(example: Example, rng: random.Random) -> str:
        if rng.random() >= config.forgotten_carry:
            return str(example.columns["answer"])
        a, b = example.text.removesuffix("=").split("+")
        return "".join(str((int(x) + int(y)) % 10) for x, y in zip(a, b, strict=True))

    return Task(
        name=f"{config.digits}-digit addition",
        train=tuple(train),
        held_out=tuple(held_out),
        digest=_digest(train, held_out),
        max_tokens=config.digits + 3,
        demonstrate=demonstrate,
    )
