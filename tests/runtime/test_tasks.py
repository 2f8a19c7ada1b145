"""The built-in tasks, and prompts from files."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

import pytest

from objdsl.runtime.data.example import Example, columns_of
from objdsl.runtime.data.prompts import character_tokenizer, chosen_at, encode, encode_all
from objdsl.runtime.data.tasks import load_task
from objdsl.runtime.settings.config import ConfigError, TaskSection


def test_arithmetic_is_right_and_its_parts_are_disjoint() -> None:
    task = load_task(TaskSection(), seed=0)
    assert len(task.held_out) == 500
    assert not {e.text for e in task.held_out} & {e.text for e in task.train}
    for example in task.train:
        a, b = example.text.removesuffix("=").split("+")
        assert int(a) + int(b) == int(example.columns["answer"])
    assert task.digest == load_task(TaskSection(), seed=0).digest
    assert task.digest != load_task(TaskSection(), seed=1).digest
    assert task.digest != load_task(TaskSection(digits=3), seed=0).digest


def test_worked_examples_forget_to_carry() -> None:
    task = load_task(TaskSection(forgotten_carry=1.0), seed=0)
    assert task.demonstrate is not None
    rng = random.Random(0)
    written = {e.text: task.demonstrate(e, rng) for e in task.train}
    assert written["57+68="] == "15"
    assert written["12+34="] == "46"
    diligent = load_task(TaskSection(forgotten_carry=0.0), seed=0)
    assert diligent.demonstrate is not None
    assert all(diligent.demonstrate(e, rng) == e.columns["answer"] for e in diligent.train)


def test_characters_are_encoded_and_decoded() -> None:
    tokenizer = character_tokenizer("0123456789+= \n")
    text = "12 + 34=\n46"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert len(tokenizer(text)["input_ids"]) == len(text)
    tokens = [*tokenizer("46")["input_ids"], tokenizer.eos_token_id]
    assert tokenizer.decode(tokens, skip_special_tokens=True) == "46"


def test_jsonl(tmp_path: Path) -> None:
    path = tmp_path / "task.jsonl"
    rows = [{"question": f"{k}?", "answer": str(k), "hard": k % 2} for k in range(10)]
    path.write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    task = load_task(TaskSection(name=str(path), prompt="question", held_out=2), seed=0)
    assert (len(task.train), len(task.held_out)) == (8, 2)
    example = task.train[0]
    assert example.columns == {"answer": example.text[0], "hard": int(example.text[0]) % 2}
    chat = load_task(TaskSection(name=str(path), prompt="question", chat=True), seed=0)
    assert chat.train[0].prompt == [{"role": "user", "content": chat.train[0].prompt[0]["content"]}]


def test_folders_and_tables(tmp_path: Path) -> None:
    from datasets import Dataset, DatasetDict

    rows = [{"prompt": f"{k}?", "answer": str(k)} for k in range(10)]
    data = Dataset.from_list(rows)
    data.save_to_disk(tmp_path / "saved")
    DatasetDict({"train": data, "test": data.select(range(3))}).save_to_disk(tmp_path / "splits")
    (tmp_path / "files").mkdir()
    data.to_json(tmp_path / "files" / "train.jsonl")
    data.to_csv(tmp_path / "table.csv")
    data.to_parquet(tmp_path / "table.parquet")
    for name in ("saved", "splits", "files", "table.parquet"):
        task = load_task(TaskSection(name=str(tmp_path / name), held_out=2), seed=0)
        assert sorted(e.text for e in task.train + task.held_out) == [e["prompt"] for e in rows]
        assert all(e.columns == {"answer": e.text[0]} for e in task.train)
    table = load_task(TaskSection(name=str(tmp_path / "table.csv"), held_out=0), seed=0)
    assert [e.text for e in table.train] != []
    split = TaskSection(name=str(tmp_path / "splits"), held_out_split="test")
    assert len(load_task(split, seed=0).held_out) == 3
    with pytest.raises(ConfigError, match="split `valid`"):
        load_task(split.model_copy(update={"held_out_split": "valid"}), seed=0)


def test_a_row_need_not_have_every_column() -> None:
    assert columns_of([Example("a", {"x": 1}), Example("b", {"y": 2, "x": 1})]) == ("x", "y")


def test_system_messages_and_template_options(tmp_path: Path) -> None:
    path = tmp_path / "task.jsonl"
    path.write_text('{"prompt": "a"}\n{"prompt": [{"role": "user", "content": "a"}]}\n')
    task = load_task(TaskSection(name=str(path), system="b", held_out=0), seed=0)
    asked = [{"role": "system", "content": "b"}, {"role": "user", "content": "a"}]
    assert [example.prompt for example in task.train] == [asked, asked]
    tokenizer = character_tokenizer("ab!")
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}{{ end }}"
    (prompt, _) = encode_all(tokenizer, task.train, 9, {"end": "!"})
    assert tokenizer.decode(prompt.tokens) == "ba!"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{\n", ":1: not JSON"),
        ("[1]\n", ":1: a row is an object"),
        ('{"text": "a"}\n', "row 1: no column `prompt`"),
        ('{"prompt": 3}\n', "neither a text nor a list of messages"),
        ("", "no example"),
    ],
)
def test_bad_jsonl(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "task.jsonl"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_task(TaskSection(name=str(path)), seed=0)


def test_chats_need_a_template() -> None:
    tokenizer = character_tokenizer("a")
    chat = Example([{"role": "user", "content": "a"}], {})
    with pytest.raises(ConfigError, match="no chat template"):
        encode(tokenizer, chat)
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}a"
    assert encode(tokenizer, chat) == (3, 3)


def test_long_prompts_are_dropped() -> None:
    task = load_task(TaskSection(digits=1), seed=0)
    tokenizer = character_tokenizer(task.alphabet)
    assert len(encode_all(tokenizer, task.train, 4)) == len(task.train)
    assert encode_all(tokenizer, task.train, 3) == []


def test_the_order_has_no_state() -> None:
    straight = chosen_at(0, 25, 10, seed=3)
    pieces = [k for p in range(0, 25, 5) for k in chosen_at(p, 5, 10, seed=3)]
    assert straight == pieces
    for epoch in (straight[:10], straight[10:20]):
        assert sorted(epoch) == list(range(10))
    assert straight[:10] != straight[10:20]
    assert chosen_at(0, 10, 10, seed=4) != straight[:10]


# --- unusual rows --------------------------------------------------------------------------------


def written(path: Path, content: str | bytes) -> TaskSection:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return TaskSection(name=str(path), held_out=0)


def test_every_legal_text_is_a_row(tmp_path: Path) -> None:
    texts = ["a\u2028b", "c\u0085d", "e\u2029\x0b\x0c\x1c\x1df", "g\\nh", "\U0001f600"]
    lines = [json.dumps({"prompt": text, "answer": "1"}, ensure_ascii=False) for text in texts]
    plain = "\n".join(lines)
    for content in (plain, "\ufeff" + plain, plain.replace("\n", "\r\n"), plain + "\n\n"):
        task = load_task(written(tmp_path / "task.jsonl", content), seed=0)
        assert sorted(example.text for example in task.train) == sorted(texts)
    listed = "[\n" + ",\n".join(lines) + "\n]"
    for content in (listed, "\ufeff \n" + listed, plain):
        task = load_task(written(tmp_path / "task.json", content), seed=0)
        assert sorted(example.text for example in task.train) == sorted(texts)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (r'{"prompt": "\ud800", "answer": 1}', r"row 2: `prompt` holds half a character \(U\+D800"),
        (r'{"prompt": "a", "x": [{"y\udfff": 1}]}', r"row 2: `x` holds half a character"),
        ('{"prompt": "a", "answer": ' + "9" * 5000 + "}", "row 2: `answer` holds a number of 50"),
        ('{"prompt": "a", "x": ' + "[" * 200 + "]" * 200 + "}", "row 2: `x` is nested more tha"),
        ('{"prompt": "a", "x": ' + "[" * 90000 + "]" * 90000 + "}", ":2: JSON that is nested"),
        ('{"prompt": []}', "row 2: `prompt` is a list without a message"),
        ('{"prompt": [{"role": "a", "content": null}]}', "row 2: `prompt` is neither .* message 1"),
        ('{"prompt": [{"role": "user"}]}', "row 2: `prompt` is neither .* message 1 is {'role'"),
        ('{"prompt": null}', "row 2: `prompt` is neither"),
        ('{"prompt": "a", "prompt": "b"}', ":2: `prompt` occurs twice"),
        ('{"prompt": "a"', ":2: not JSON"),
    ],
)  # fmt: skip
def test_an_unreadable_row_is_named(tmp_path: Path, row: str, message: str) -> None:
    section = written(tmp_path / "task.jsonl", f'{{"prompt": "fine", "answer": "1"}}\n{row}\n')
    with pytest.raises(ConfigError, match=rf"task\.jsonl ?{message}"):
        load_task(section, seed=0)


def test_a_pipe_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "task.jsonl")
    with pytest.raises(ConfigError, match="it is not a file"):
        load_task(TaskSection(name=str(tmp_path / "task.jsonl")), seed=0)


def test_an_empty_prompt_and_a_refused_chat_are_named(tmp_path: Path) -> None:
    rows = [{"prompt": "a"}, {"prompt": ""}]
    section = written(tmp_path / "task.jsonl", "\n".join(map(json.dumps, rows)))
    tokenizer = character_tokenizer("a")
    with pytest.raises(ConfigError, match=r"task\.jsonl row 2: the prompt is empty"):
        encode_all(tokenizer, load_task(section, seed=0).train, 9)
    tokenizer.chat_template = "{{ raise_exception('roles must alternate') }}"
    chats = load_task(section.model_copy(update={"chat": True}), seed=0)
    with pytest.raises(ConfigError, match=r"row \d: the chat template .* roles must alternate"):
        encode_all(tokenizer, chats.train, 9)
