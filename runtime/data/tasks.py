"""Tasks: prompts and the data that responses are scored with, in a fixed order."""

from __future__ import annotations

import codecs
import hashlib
import json
import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from objdsl.frozen import dataclass
from objdsl.runtime.data.judge import shown
from objdsl.runtime.settings.config import ARITHMETIC, ConfigError, TaskSection

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Chat = list[dict[str, str]]


@dataclass(frozen=True, slots=True)
class Example:
    """One prompt, a text or chat messages, and the other columns of its row.

    Attributes:
        place: the location of the row, for messages: `data.jsonl:7`.
    """

    prompt: str | Chat
    columns: Mapping[str, Any]
    place: str = ""

    @property
    def name(self) -> str:
        """Its name in messages: its place, or the prompt itself where it is generated."""
        return self.place or f"prompt {self.text!r}"

    @property
    def text(self) -> str:
        """The prompt as people read it."""
        if isinstance(self.prompt, str):
            return self.prompt
        return "\n".join(f"{message['role']}: {message['content']}" for message in self.prompt)


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


def columns_of(examples: Iterable[Example]) -> tuple[str, ...]:
    """The columns of any of the examples, in order of appearance."""
    return tuple(dict.fromkeys(name for example in examples for name in example.columns))


def load_task(config: TaskSection, seed: int) -> Task:
    """The task that the settings name. Raises ConfigError where there is none."""
    if config.name == ARITHMETIC:
        return _arithmetic(config, seed)
    path = Path(config.name)
    rows: Sequence[Mapping[str, Any]]
    held_out: Sequence[Mapping[str, Any]] | None
    if path.suffix in {".jsonl", ".json"} or (path.is_file() and path.suffix not in _TABLES):
        rows, held_out = _json_rows(path), None
    else:
        rows, held_out = _data_set_rows(config, path)
    train = [_example(row, config, f"{config.name} row {k + 1}") for k, row in enumerate(rows)]
    if held_out is None:
        random.Random(seed).shuffle(train)
        # Evaluation needs examples, but not most of a small dataset.
        count = min(config.held_out, len(train) // 5)
        measured, train = train[:count], train[count:]
    else:
        measured = [
            _example(row, config, f"{config.name} {config.held_out_split} row {k + 1}")
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


# --- files and the hub ---------------------------------------------------------------------------


# Neither Python nor the process of the reward functions reads rows that are nested deeper.
_DEEPEST = 100


class _Long(str):
    """A number with more digits than Python reads."""


def _json_rows(path: Path) -> list[Mapping[str, Any]]:
    """The rows of a file: an object a line, or, in a `.json`, one list of them."""
    if path.exists() and not path.is_file():
        raise ConfigError([f"{path}: cannot be read: it is not a file"])
    try:
        # Lines end at newlines only, not at every character that ends a line for Python.
        content = path.read_bytes().removeprefix(codecs.BOM_UTF8)
        lines = [line.decode("utf-8") for line in content.split(b"\n")]
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([f"{path}: cannot be read: {error}"]) from None
    if path.suffix == ".json" and content.lstrip()[:1] == b"[":
        whole = _parsed("\n".join(lines), str(path))
        return [_row(row, f"{path} row {k}") for k, row in enumerate(whole, start=1)]
    numbered = ((f"{path}:{k}", line) for k, line in enumerate(lines, start=1) if line.strip())
    return [_row(_parsed(line, place), place) for place, line in numbered]


def _parsed(text: str, place: str) -> Any:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        row = dict(pairs)
        if len(row) < len(pairs):
            counts = Counter(name for name, _ in pairs)
            raise ConfigError([f"{place}: `{counts.most_common(1)[0][0]}` is there twice"])
        return row

    def whole(digits: str) -> int | _Long:
        try:
            return int(digits)
        except ValueError:  # Python's limit of 4300 digits
            return _Long(digits)

    try:
        return json.loads(text, object_pairs_hook=once, parse_int=whole)
    except json.JSONDecodeError as error:
        raise ConfigError([f"{place}: not JSON: {error.msg}"]) from None
    except RecursionError:
        raise ConfigError([f"{place}: JSON that is nested more than {_DEEPEST} deep"]) from None


def _row(row: Any, place: str) -> Mapping[str, Any]:
    if not isinstance(row, dict):
        raise ConfigError([f'{place}: a row is an object such as {{"prompt": ...}}'])
    return row


# Files that `datasets` reads, by their suffix.
_TABLES = {".parquet": "parquet", ".csv": "csv"}


def _data_set_rows(
    config: TaskSection, path: Path
) -> tuple[list[Mapping[str, Any]], list[Mapping[str, Any]] | None]:
    """The rows of a table, a folder (of files, or by `save_to_disk`), or a hub data set."""
    try:
        from datasets import DatasetDict, load_dataset, load_from_disk
    except ImportError:
        raise ConfigError(
            [f"task.name {config.name}: data sets need `pip install datasets`"]
        ) from None

    def load(split: str) -> Any:
        if path.is_file():
            return load_dataset(_TABLES[path.suffix], data_files={"train": str(path)}, split=split)
        if any((path / name).is_file() for name in ("dataset_dict.json", "state.json")):
            whole = load_from_disk(str(path))
            return whole[split] if isinstance(whole, DatasetDict) else whole
        return load_dataset(config.name, config.subset, split=split, revision=config.revision)

    def rows(split: str) -> list[Mapping[str, Any]]:
        try:
            return list(load(split))
        except Exception as error:  # the library's own classes differ from version to version
            where = f"split `{split}`: " if path.exists() else "neither a file nor a hub data set: "
            raise ConfigError([f"task.name {config.name}: {where}{error}"]) from None

    return rows(config.split), rows(config.held_out_split) if config.held_out_split else None


def _example(row: Mapping[str, Any], config: TaskSection, place: str) -> Example:
    """The example of a row. Raises ConfigError with the name of the field where it is invalid."""
    if config.prompt not in row:
        raise ConfigError(
            [f"{place}: no column `{config.prompt}` (task.prompt); it has {', '.join(row)}"]
        )
    for name, value in row.items():
        problem = _unreadable(name) or _unreadable(value)
        if problem:
            raise ConfigError([f"{place}: `{shown(name)[1:-1]}` {problem}"])
    prompt = row[config.prompt]
    columns = {name: value for name, value in row.items() if name != config.prompt}
    if config.answer in columns:
        columns["answer"] = columns.pop(config.answer)
    system = [] if config.system is None else [{"role": "system", "content": config.system}]
    if isinstance(prompt, str):
        chat = [*system, {"role": "user", "content": prompt}]
        return Example(chat if config.chat or system else prompt, columns, place)
    if not isinstance(prompt, list):
        raise ConfigError([f"{place}: `{config.prompt}` is neither a text nor a list of messages"])
    if not prompt:
        raise ConfigError([f"{place}: `{config.prompt}` is a list without a message"])
    for number, message in enumerate(prompt, start=1):
        texts = [message.get(k) for k in ("role", "content")] if isinstance(message, dict) else []
        if not texts or not all(isinstance(text, str) for text in texts):
            raise ConfigError(
                [
                    f"{place}: `{config.prompt}` is neither a text nor a list of messages: message "
                    f"{number} is {shown(message)}, and has to have a `role` and a `content`, texts"
                ]
            )
    return Example([*system, *prompt], columns, place)


def _unreadable(value: Any, depth: int = 0) -> str:
    """Why a value of a row cannot be read, or an empty string."""
    if isinstance(value, _Long):
        return f"holds a number of {len(value)} digits"
    if isinstance(value, str):
        half = next((letter for letter in value if "\ud800" <= letter <= "\udfff"), None)
        return "" if half is None else f"holds half a character (U+{ord(half):04X})"
    if not isinstance(value, (list, dict)):
        return ""
    if depth > _DEEPEST:
        return f"is nested more than {_DEEPEST} deep"
    inner = value if isinstance(value, list) else [*value, *value.values()]
    return next(filter(None, (_unreadable(x, depth + 1) for x in inner)), "")


# --- tokens and order ----------------------------------------------------------------------------


def character_tokenizer(alphabet: str) -> PreTrainedTokenizerBase:
    """A tokenizer with a token per character of `alphabet`, besides `<pad>` (0) and `<eos>` (1)."""
    from tokenizers import Regex, Tokenizer
    from tokenizers.decoders import Fuse
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Split
    from transformers import PreTrainedTokenizerFast

    vocabulary = {token: k for k, token in enumerate(["<pad>", "<eos>", "<unk>", *alphabet])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="<eos>",
        unk_token="<unk>",
        clean_up_tokenization_spaces=False,
    )


# A chat as `Example.text` shows it, for a model that comes without a template.
PLAIN_CHAT = (
    "{% for message in messages %}{{ '' if loop.first else '\n' }}"
    "{{ message['role'] }}: {{ message['content'] }}{% endfor %}"
)


def encode(
    tokenizer: PreTrainedTokenizerBase,
    example: Example,
    options: Mapping[str, Any] = MappingProxyType({}),
) -> tuple[int, ...]:
    """The tokens of a prompt, chat template and beginning-of-text included where there are any.

    Args:
        options: variables of the chat template.
    """
    if isinstance(example.prompt, str):
        tokens = tuple(tokenizer(example.prompt)["input_ids"])
    elif tokenizer.chat_template is None:
        raise ConfigError(["the prompts are chats, but the model's tokenizer has no chat template"])
    else:
        try:
            encoded = tokenizer.apply_chat_template(
                example.prompt, add_generation_prompt=True, return_dict=True, **options
            )
        except Exception as error:  # each template raises its own errors
            raise ConfigError(
                [f"{example.name}: the chat template of the model refuses it: {error}"]
            ) from None
        tokens = tuple(encoded["input_ids"])
    if not tokens:
        raise ConfigError(
            [f"{example.name}: the prompt is empty: it has no token to continue from"]
        )
    return tokens


@dataclass(frozen=True, slots=True)
class Prompt:
    """An example as the model reads it."""

    tokens: tuple[int, ...]
    example: Example


def encode_all(
    tokenizer: PreTrainedTokenizerBase,
    examples: Sequence[Example],
    limit: int,
    options: Mapping[str, Any] = MappingProxyType({}),
) -> list[Prompt]:
    """The prompts of at most `limit` tokens; `options` are variables of the chat template."""
    prompts = [Prompt(encode(tokenizer, example, options), example) for example in examples]
    return [prompt for prompt in prompts if len(prompt.tokens) <= limit]


def chosen_at(position: int, count: int, size: int, seed: int) -> list[int]:
    """The indices of `count` of `size` examples, from `position` of an endless shuffled order.

    Every epoch has its own permutation. The position is the only state: a resumed run needs nothing
    else to continue with the next examples.
    """
    chosen: list[int] = []
    while len(chosen) < count:
        epoch, start = divmod(position + len(chosen), size)
        chosen += _order(size, seed, epoch)[start : start + count - len(chosen)]
    return chosen


@lru_cache(maxsize=2)
def _order(size: int, seed: int, epoch: int) -> tuple[int, ...]:
    order = list(range(size))
    random.Random(f"{seed}/{epoch}").shuffle(order)
    return tuple(order)
