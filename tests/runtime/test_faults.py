"""Damaged files, full disks and kills: nothing is lost, and the run resumes."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from objdsl.runtime.data.pretrained import pretrained
from objdsl.runtime.learning.optimizer import Optimizer, TrainingError
from objdsl.runtime.run.loop import train
from objdsl.runtime.run.run import Result
from objdsl.runtime.settings.config import Config, ConfigError
from objdsl.runtime.settings.config_io import config_yaml
from objdsl.runtime.storage import checkpoint
from objdsl.runtime.storage.lock import Lock
from objdsl.runtime.storage.sealed_folder import CheckpointError, DamagedError, SaveError

Run = Callable[..., Result]
Numbers = Callable[[Path], list[dict[str, float]]]

DAMAGES = ("missing", "empty", "truncated", "flipped", "another run's")


def damage(path: Path, how: str, other: Path, rng: random.Random) -> None:
    """Damages a file as a bad disk or an incomplete copy would."""
    content = bytearray(path.read_bytes())
    match how:
        case "missing":
            path.unlink()
        case "empty":
            path.write_bytes(b"")
        case "truncated":
            path.write_bytes(content[: rng.randrange(1, len(content))])
        case "flipped":
            for place in rng.sample(range(len(content)), min(9, len(content))):
                content[place] ^= 1 << rng.randrange(8)
            path.write_bytes(content)
        case "another run's":
            shutil.copyfile(other, path)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Callable[..., Config]], Any]:
    """A complete run of four steps, and a second one with a different seed; made once."""
    folders: list[Path] = []

    def make(settings: Callable[..., Config]) -> tuple[Path, Path]:
        folder = tmp_path_factory.mktemp("whole") if not folders else folders[0]
        if not folders:
            folders.append(folder)
            for seed in (0, 1):
                # The texts differ in content only, not in length.
                config = settings("grpo", output=folder / str(seed), seed=seed)
                train(config, console=Console(file=StringIO()))
        return folder / "0", folder / "1"

    return make


@pytest.fixture
def whole(runs: Any, settings: Callable[..., Config]) -> tuple[Path, Path]:
    first, second = runs(settings)
    return first, second


def newest(folder: Path) -> Path:
    return folder / "checkpoints" / "step-000004"


def names_of(checkpoint_folder: Path) -> list[str]:
    return sorted(
        path.relative_to(checkpoint_folder).as_posix()
        for path in checkpoint_folder.rglob("*")
        if path.is_file()
    )


@pytest.mark.parametrize("how", DAMAGES)
def test_every_damaged_file_is_named(whole: tuple[Path, Path], tmp_path: Path, how: str) -> None:
    """For any damage to any file of the newest checkpoint, the previous one is found."""
    folder, other = whole
    rng = random.Random(how)
    names = names_of(newest(folder))
    assert {"model.safetensors", "trainer.pt", "state.json", "manifest.json"} <= {*names}
    for name in names:
        content = (newest(folder) / name).read_bytes()
        if how == "another run's" and (newest(other) / name).read_bytes() == content:
            continue
        copy = tmp_path / "copy"
        shutil.copytree(folder, copy)
        damage(newest(copy) / name, how, newest(other) / name, rng)
        result = checkpoint.find(copy / "checkpoints")
        assert result.saved is not None, name
        assert result.saved.path.name == "step-000002", name
        (error,) = result.damaged
        # If the manifest has wrong digests, the first file with a different one is named.
        assert name in str(error) or name == "manifest.json"
        shutil.rmtree(copy)


@pytest.mark.parametrize("how", DAMAGES)
def test_a_run_resumes_from_the_newest_complete_checkpoint(
    run: Run, numbers: Numbers, whole: tuple[Path, Path], tmp_path: Path, how: str
) -> None:
    folder, other = whole
    copy = tmp_path / "run"
    shutil.copytree(folder, copy)
    name = dict(zip(DAMAGES, ("state.json", "state.json", "trainer.pt"), strict=False)).get(
        how, "model.safetensors"
    )
    damage(newest(copy) / name, how, newest(other) / name, random.Random(how))
    before = (newest(copy) / "config.json").read_bytes()
    out = StringIO()
    run("grpo", _resume="auto", _console=Console(file=out, soft_wrap=True))
    assert numbers(copy) == numbers(folder)
    assert f"{newest(copy)} is damaged: " in out.getvalue()
    assert name in out.getvalue()
    aside = copy / "checkpoints" / "damaged-step-000004"
    assert (aside / "config.json").read_bytes() == before
    dropped = (copy / "metrics.dropped.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in dropped] == [3, 4]
    weights = [(path / "model.safetensors").read_bytes() for path in (newest(copy), newest(folder))]
    assert weights[0] == weights[1]


@pytest.mark.parametrize("resume", ["auto", "path"])
def test_without_a_complete_checkpoint_everything_is_kept(
    run: Run, whole: tuple[Path, Path], tmp_path: Path, resume: str
) -> None:
    folder, _ = whole
    copy = tmp_path / "run"
    shutil.copytree(folder, copy)
    for path in checkpoint.all_of(copy / "checkpoints"):
        (path / "state.json").write_text("{")
    before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    asked = "auto" if resume == "auto" else str(copy)
    for _ in range(2):  # the second time as the first
        with pytest.raises(CheckpointError, match=r"no .* is complete[^$]*state\.json"):
            run("grpo", _resume=asked)
        assert {p: p.read_bytes() for p in copy.rglob("*") if p.is_file()} == before
    with pytest.raises(ConfigError, match="holds a run already"):
        run("grpo")
    named = str(newest(copy))
    with pytest.raises(CheckpointError, match=r"step-000004 is damaged: state\.json"):
        run("grpo", _resume=named)
    assert {p: p.read_bytes() for p in copy.rglob("*") if p.is_file()} == before


def test_resuming_from_a_checkpoint_without_a_manifest(
    run: Run, numbers: Numbers, whole: tuple[Path, Path], tmp_path: Path
) -> None:
    """Versions without manifests wrote them; unreadable files still count as damaged."""
    folder, _ = whole
    copy = tmp_path / "run"
    shutil.copytree(folder, copy)
    shutil.rmtree(newest(copy))
    (old,) = checkpoint.all_of(copy / "checkpoints")
    (old / "manifest.json").unlink()
    with pytest.raises(DamagedError, match=r"manifest\.json is missing"):
        checkpoint.inspect(old)
    state = json.loads((old / "state.json").read_text())
    del state["version"], state["progress"]["unreported"]
    (old / "state.json").write_text(json.dumps(state))
    for name in ("trainer.pt", "model.safetensors", "config.json"):
        content = (old / name).read_bytes()
        for cut in (b"", content[: len(content) // 2]):
            (old / name).write_bytes(cut)
            with pytest.raises(DamagedError, match=f"{name} cannot be read"):
                checkpoint.inspect(old)
        (old / name).write_bytes(content)
    out = StringIO()
    run("grpo", _resume="auto", _console=Console(file=out, soft_wrap=True))
    assert "was written without a manifest" in out.getvalue()
    assert numbers(copy) == numbers(folder)


def test_a_different_width_is_reported(run: Run, whole: tuple[Path, Path], tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(whole[0], copy)
    before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    for change in ({"model.width": 32}, {"model.layers": 2}):
        with pytest.raises(CheckpointError, match=r"weights of .* do not fit this model: `"):
            run("grpo", _resume="auto", _allow_changed=True, steps=6, **change)
    assert {p: p.read_bytes() for p in copy.rglob("*") if p.is_file()} == before


def test_incomplete_weights_are_refused(whole: tuple[Path, Path], tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    model = tmp_path / "model"
    shutil.copytree(newest(whole[0]), model)
    weights = load_file(model / "model.safetensors")
    name = next(name for name in weights if "up_proj" in name)

    def written(**changed: torch.Tensor | None) -> str:
        now = {**weights, **{key.replace("__", "."): x for key, x in changed.items()}}
        kept = {key: x for key, x in now.items() if x is not None}
        save_file(kept, model / "model.safetensors", {"format": "pt"})
        return str(model)

    key = name.replace(".", "__")
    with pytest.raises(ConfigError, match=rf"incomplete: `{name}` is missing"):
        pretrained(written(**{key: None}))
    with pytest.raises(ConfigError, match=rf"incomplete: `{name}` is \[3, 3\], and \["):
        pretrained(written(**{key: torch.zeros(3, 3)}))
    with pytest.raises(ConfigError, match=rf"`{name}` has NaN or infinite entries"):
        pretrained(written(**{key: torch.full_like(weights[name], torch.nan)}))
    pretrained(written())


# --- full disks and killed processes -------------------------------------------------------------


class Killed(BaseException):
    """The process ends here."""


class Disk:
    """Counts operations on the disk, and fails from a certain one on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        self.last: int | None = None
        self.kills = False
        writes = [
            *((os, name) for name in ("fsync", "write", "replace", "rename", "ftruncate")),
            (torch, "save"),
            (checkpoint, "save_model"),
            (Path, "write_text"),
        ]
        for owner, name in writes:
            monkeypatch.setattr(owner, name, self._counted(getattr(owner, name), True))
        for owner, name in ((os, "unlink"), (os, "rmdir"), (shutil, "rmtree")):
            monkeypatch.setattr(owner, name, self._counted(getattr(owner, name), False))

    def _counted(self, call: Callable[..., Any], needs_space: bool) -> Callable[..., Any]:
        def counted(*arguments: Any, **options: Any) -> Any:
            self.count += needs_space
            if self.last is None or self.count <= self.last:
                return call(*arguments, **options)
            if self.kills:
                raise Killed
            if needs_space and call.__name__ != "ftruncate":
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return call(*arguments, **options)

        return counted

    def fail_after(self, last: int | None, *, kills: bool) -> None:
        self.count, self.last, self.kills = 0, last, kills


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    disk = Disk(monkeypatch)
    yield disk
    disk.fail_after(None, kills=False)


@pytest.mark.parametrize("kills", [False, True], ids=["full", "killed"])
def test_whenever_the_disk_fails_the_run_resumes_to_the_same_numbers(
    run: Run, numbers: Numbers, whole: tuple[Path, Path], tmp_path: Path, disk: Disk, kills: bool
) -> None:
    run("grpo", output=tmp_path / "counted")
    total = disk.count
    assert total > 40
    rng = random.Random(7)
    for number, last in enumerate(sorted(rng.sample(range(total), 6))):
        folder = tmp_path / f"run-{number}"
        resume = None
        # It fails the first time, and then once more among the remaining operations.
        for stop in (last, last // 2):
            disk.fail_after(stop, kills=kills)
            try:
                run("grpo", output=folder, _resume=resume)
            except (SaveError, OSError, Killed) as error:
                assert kills or "No space left" in str(error)
            resume = "auto"
            disk.fail_after(None, kills=False)
            if not kills:
                assert not [*folder.glob("**/.writing-*")]
                assert not [*folder.glob("**/*.new")]
        if not (folder / "checkpoints" / "step-000004").exists():
            run("grpo", output=folder, _resume="auto")
        assert numbers(folder) == numbers(whole[0]), last
        assert checkpoint.find(folder / "checkpoints").damaged == ()


def started(config: Config, file: Path, limit: int | None = None) -> subprocess.Popen[str]:
    """`objdsl train` with these settings, and at most `limit` bytes per file."""
    file.write_text(config_yaml(config))
    code = "import sys; from objdsl.cli.app import main; main()"
    if limit is not None:
        sizes = f"({limit}, {limit})"
        code = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, {sizes}); {code}"
    command = [sys.executable, "-c", code, "train", "--config", str(file)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


BUILT_IN = {"rewards": {"exact": 1.0}}


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_same_numbers(
    run: Run, settings: Callable[..., Config], numbers: Numbers, tmp_path: Path
) -> None:
    many = {**BUILT_IN, "steps": 30, "checkpoint.every": 3}
    folder = tmp_path / "run"
    process = started(settings("grpo", **many), tmp_path / "run.yaml")
    lines = random.randrange(1, 8)  # the rest takes longer than to see that they are there
    metrics = folder / "metrics.jsonl"
    while process.poll() is None:
        if metrics.exists() and metrics.read_bytes().count(b"\n") >= lines:
            process.send_signal(signal.SIGKILL)
            break
        time.sleep(0.005)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    run("grpo", _resume="auto", **many)
    straight = run("grpo", output=tmp_path / "straight", **many)
    for step, other in zip(numbers(folder), numbers(straight.folder), strict=True):
        assert step == pytest.approx(other, rel=1e-5)  # of threads there may have been others
    assert not [*folder.glob("**/.writing-*")]


@pytest.mark.slow
def test_a_full_disk_is_reported_in_one_line(
    settings: Callable[..., Config], tmp_path: Path
) -> None:
    process = started(settings("grpo", **BUILT_IN), tmp_path / "run.yaml", limit=20_000)
    _, err = process.communicate(timeout=240)
    assert process.returncode == 1
    (line,) = [line for line in err.splitlines() if line.startswith("error: ")]
    assert "cannot be written: " in line
    assert "Traceback" not in err
    assert not [*(tmp_path / "run").glob("**/.writing-*")]


# --- errors in the middle of a run ---------------------------------------------------------------


@pytest.mark.parametrize("minibatches", [1, 2])
@pytest.mark.parametrize("at", [0, 1, 2, 3])
def test_an_error_ends_the_run_after_a_checkpoint(
    run: Run, numbers: Numbers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int,
    minibatches: int,
) -> None:  # fmt: skip
    options = {"checkpoint.every": 0, "learner.minibatches": minibatches}
    straight = run(output=tmp_path / "straight", **options)
    take = Optimizer.step
    count = 0

    def failing(self: Optimizer, *arguments: Any) -> dict[str, float]:
        nonlocal count
        count += 1
        if count == (at + 1) * minibatches:  # the last optimizer step of the rollout
            raise TrainingError("the gradient is strange")
        return take(self, *arguments)

    monkeypatch.setattr(Optimizer, "step", failing)
    out = StringIO()
    with pytest.raises(TrainingError):
        run(_console=Console(file=out, soft_wrap=True), **options)
    monkeypatch.undo()
    folder = tmp_path / "run"
    assert [path.name for path in checkpoint.all_of(folder / "checkpoints")] == [f"step-{at:06d}"]
    assert f"ended after step {at}, which is saved; resume with: objdsl train" in out.getvalue()
    run(_resume="auto", **options)
    assert numbers(folder) == numbers(straight.folder)


def test_an_evaluation_that_fails_is_repeated(
    run: Run, numbers: Numbers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from objdsl.runtime.engines.sampler import SamplerError
    from objdsl.runtime.learning.evaluation import Evaluation

    straight = run(output=tmp_path / "straight", steps=5)
    evaluate = Evaluation.__call__
    calls = 0

    def failing(self: Evaluation) -> dict[str, float]:
        nonlocal calls
        calls += 1
        if calls in (2, 4):  # after the second step, and after the last one
            raise SamplerError("the engine is gone")
        return evaluate(self)

    monkeypatch.setattr(Evaluation, "__call__", failing)
    folder = tmp_path / "run"
    for step, resume in ((2, None), (4, "auto"), (5, "auto")):
        try:
            run(_resume=resume, steps=5)
        except SamplerError:
            saved = checkpoint.find(folder / "checkpoints").saved
            assert saved is not None and saved.progress.step == step
            assert saved.progress.unreported is not None
    assert numbers(folder) == numbers(straight.folder)
    rows = [(f / "samples.jsonl").read_text() for f in (folder, straight.folder)]
    assert rows[0] == rows[1]


def test_a_sampler_that_drifts_away_ends_the_run_before_it_is_learned_from(
    run: Run, numbers: Numbers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from objdsl.runtime.engines.sampler import Request, Response, SamplerError, Sampling
    from objdsl.runtime.engines.transformers_sampler import TransformersSampler

    straight = run(output=tmp_path / "straight", steps=4)
    generate = TransformersSampler.generate
    folder, rollouts = tmp_path / "run", 0

    def drifting(
        self: TransformersSampler, requests: list[Request], sampling: Sampling
    ) -> list[Response]:
        nonlocal rollouts
        responses = generate(self, requests, sampling)
        rollouts += sampling.temperature > 0
        if rollouts != 3:
            return responses
        off = [tuple(x - 0.01 for x in response.log_probs) for response in responses]
        return [replace(r, log_probs=x) for r, x in zip(responses, off, strict=True)]

    monkeypatch.setattr(TransformersSampler, "generate", drifting)
    with pytest.raises(SamplerError, match=r"^step 3: the sampler and .* disagree by 0\.01 nats"):
        run(steps=4)
    saved = checkpoint.find(folder / "checkpoints").saved
    assert saved is not None and saved.progress.step == 2
    monkeypatch.setattr(TransformersSampler, "generate", generate)
    run(_resume="auto", steps=4)
    assert numbers(folder) == numbers(straight.folder)


# --- two runs in one folder ----------------------------------------------------------------------


def test_a_folder_has_one_run_at_a_time(run: Run, numbers: Numbers, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    lock = Lock(folder)
    assert lock.created_folder
    for resume in (None, "auto"):
        with pytest.raises(
            ConfigError, match=rf"is still active \(process {os.getpid()} on "
        ) as caught:
            run(_resume=resume)
        assert "--resume" not in str(caught.value)
    lock.release()
    assert not folder.exists()
    first = run()
    lock = Lock(folder)
    for resume in (None, "auto", str(folder), str(newest(folder))):
        with pytest.raises(ConfigError, match="belongs to a run that is still active"):
            run(_resume=resume, steps=6)
    lock.release()
    run(_resume="auto", steps=6)
    assert [line["step"] for line in numbers(first.folder)] == list(range(7))
    assert not (folder / ".lock").exists()


def test_a_killed_run_leaves_no_lock(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from objdsl.runtime.storage.lock import Lock;"
        "lock = Lock(Path(sys.argv[1])); print('locked', flush=True); time.sleep(600)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "run")], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "locked\n"
    with pytest.raises(ConfigError, match=f"process {process.pid} on "):
        Lock(tmp_path / "run")
    process.kill()
    process.communicate()
    Lock(tmp_path / "run").release()
