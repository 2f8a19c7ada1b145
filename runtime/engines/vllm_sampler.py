"""Sampling with vLLM, in a child process, with the weights of the training engine.

The child runs an in-process engine: if it dies, its pipe closes and the call fails at once, where a
call to vLLM's own processes can wait forever. The weights are in shared memory (on a GPU, behind
IPC handles): an update is a copy inside the child, and the pipe carries tokens only.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from objdsl.errors import ObjdslError
from objdsl.runtime.engines.sampler import (
    Request,
    Response,
    Sampler,
    SamplerError,
    Sampling,
    vllm_version,
)
from objdsl.runtime.engines.vllm_engine import Engine, environment, environment_of, serve
from objdsl.runtime.settings.config import SamplerSection

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Head sizes of its attention kernels on a CPU (`get_supported_head_sizes` of version 0.32).
CPU_HEAD_SIZES = (32, 64, 80, 96, 112, 128, 160, 192, 224, 256, 512)

# Recording which tokens were kept costs a row of the vocabulary per token.
KEEP_MASK_VOCABULARY = 4096


class EngineDiedError(ObjdslError):
    """The child has closed its pipe, or did not answer in time."""


class VllmSampler:
    """A vLLM engine in a child process; restarted if it dies, with the same requests.

    Args:
        model: the training engine's; its weights move to shared memory.
        longest: the maximum number of tokens of a prompt and its response together.
        folder: the folder of the run, for the engine's log.
        check: called with this sampler after the first update of every engine, new or restarted;
            raises SamplerError where the two engines disagree.
        say: reports the restart of an engine.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        config: SamplerSection,
        *,
        dtype: str,
        longest: int,
        folder: Path,
        keep_mask: bool = False,
        number: int = 0,
        check: Callable[[Sampler], None] = lambda sampler: None,
        say: Callable[[str], None] = print,
    ) -> None:
        self.name = vllm_version() or "vllm"
        self.config = config
        self._model = model.share_memory()
        self._files = tempfile.TemporaryDirectory(prefix="objdsl-engine-")
        # The engine starts with random weights; every weight is copied from this process.
        model.config.save_pretrained(self._files.name)
        self._engine = Engine(
            folder=self._files.name,
            log=str(folder / f"vllm-{number}.log"),
            device=model.device.type,
            dtype=dtype,
            max_tokens=longest,
            max_rows=256,
            gpu_memory=config.gpu_memory / config.processes,
            all_log_probs=keep_mask,
        )
        self._process: BaseProcess | None = None
        self._pipe: Connection | None = None
        self._ready = False
        self._checked = False
        self.check = check
        self._say = say
        self._step = 0
        self._deaths: list[int] = []

    @property
    def pid(self) -> int | None:
        """The child's process id, while there is one."""
        return self._process.pid if self._process else None

    def start(self) -> None:
        """Returns once the engine is loaded.

        Raises SamplerError, which leaves nothing behind, where vLLM refuses or dies.
        """
        try:
            self._load()
        except BaseException as error:
            tail = _tail(self._engine.log)
            self.forget()
            if not isinstance(error, EngineDiedError):
                raise
            raise SamplerError(f"vLLM does not start: {error}\n{tail}".rstrip()) from None

    def forget(self) -> None:
        """Kills the engine, and removes its log."""
        self._kill()
        Path(self._engine.log).unlink(missing_ok=True)

    def launch(self) -> None:
        """Starts loading; returns before it is done."""
        if self._process is not None:
            return
        spawn = torch.multiprocessing.get_context("spawn")
        ours, theirs = spawn.Pipe()
        with environment(environment_of(self.config, self._engine)):
            process = spawn.Process(target=serve, args=(theirs, self._engine), daemon=True)
            process.start()
        theirs.close()
        self._process, self._pipe, self._ready = process, ours, False
        self._checked = False

    def update(self, step: int) -> None:
        self._step = step
        self._persist("update")
        if not self._checked:
            self._checked = True
            self.check(self)

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Response]:
        return self.collect(self.submit(requests, sampling))

    def submit(self, requests: Sequence[Request], sampling: Sampling) -> tuple[Any, ...]:
        """Sends the requests, so that several engines work at the same time; see `collect`."""
        call = ("generate", [(request.prompt, request.seed) for request in requests], sampling)
        try:
            self._send(call)
        except EngineDiedError:
            self._kill()  # `collect` restarts it
        return call

    def collect(self, call: tuple[Any, ...]) -> list[Response]:
        try:
            written = self._receive(self.config.deadline)
        except EngineDiedError as death:
            self._revive(death)
            written = self._persist(*call)
        return [Response(*response) for response in written]

    def close(self) -> None:
        if self._pipe is not None:
            self._pipe.close()
            self._pipe = None
        if self._process is not None:
            # Closing the pipe asks the child to exit; if it is busy, it is killed after 2 s.
            self._process.join(timeout=2)
            self._kill()
        self._files.cleanup()

    # --- calls -----------------------------------------------------------------------------------

    def _persist(self, *call: Any) -> Any:
        """The answer to a call, through restarts: the same seeds give the same answer."""
        while True:
            try:
                self._send(call)
                return self._receive(self.config.deadline)
            except EngineDiedError as death:
                self._revive(death)

    def _load(self) -> None:
        self.launch()
        if self._ready:
            return
        self._receive(self.config.start_deadline)
        # Tensors travel as handles to the memory that the optimizer writes to.
        self._put(("weights", {k: p.detach() for k, p in self._model.named_parameters()}))
        self._receive(self.config.start_deadline)
        self._ready = True

    def _send(self, call: tuple[Any, ...]) -> None:
        self._load()
        self._put(call)

    def _put(self, call: tuple[Any, ...]) -> None:
        assert self._pipe is not None
        try:
            self._pipe.send(call)
        except OSError as error:
            raise EngineDiedError(f"its pipe is closed ({error})") from None

    def _receive(self, deadline: float) -> Any:
        if self._pipe is None:
            raise EngineDiedError("its process is gone")
        try:
            if not self._pipe.poll(deadline):
                raise EngineDiedError(f"no answer in {deadline:g} s")
            kind, answer = self._pipe.recv()
        except (EOFError, OSError) as error:
            raise EngineDiedError(f"its process ended ({type(error).__name__})") from None
        if kind == "error":
            # A new engine would fail in the same way.
            log = f" (its log is {self._engine.log})" if self._ready else ""
            raise SamplerError(f"vLLM refused: {answer}{log}")
        return answer

    # --- death -----------------------------------------------------------------------------------

    def _revive(self, death: EngineDiedError) -> None:
        """Starts a new engine with the current weights, unless too many have died recently."""
        self._kill()
        self._deaths = [step for step in self._deaths if step > self._step - 100] + [self._step]
        if len(self._deaths) > self.config.restarts:
            raise SamplerError(
                f"vLLM died too often in 100 steps ({len(self._deaths)} > {self.config.restarts}), "
                f"the last time because {death}; its log is {self._engine.log}\n"
                f"{_tail(self._engine.log)}"
            )
        self._say(f"vLLM died ({death}); restarting it")
        self.update(self._step)

    def _kill(self) -> None:
        if self._pipe is not None:
            self._pipe.close()
        if self._process is not None:
            self._process.kill()
            self._process.join()
        self._process = self._pipe = None


class ManySamplers:
    """Several engines that share the requests, and work at the same time."""

    def __init__(self, engines: Sequence[VllmSampler]) -> None:
        self.engines = engines
        self.name = f"{len(engines)} engines of {engines[0].name}"

    def start(self) -> None:
        for engine in self.engines:
            engine.launch()
        try:
            for engine in self.engines:
                engine.start()
        except BaseException:
            for engine in self.engines:
                engine.forget()
            raise

    def update(self, step: int) -> None:
        for engine in self.engines:
            engine.update(step)

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Response]:
        size = -(-len(requests) // len(self.engines))
        parts = [requests[k : k + size] for k in range(0, len(requests), size)]
        calls = [
            (engine, engine.submit(part, sampling))
            for engine, part in zip(self.engines, parts, strict=False)
        ]
        return [response for engine, call in calls for response in engine.collect(call)]

    def close(self) -> None:
        for engine in self.engines:
            engine.close()


def _tail(log: str, lines: int = 8) -> str:
    try:
        return "\n".join(Path(log).read_text(errors="replace").splitlines()[-lines:])
    except OSError:
        return ""
