"""Responses by vLLM, in a process of its own, with the weights of the training engine.

The child process holds an in-process engine: a dead engine is a closed pipe, seen at once, where
vLLM's own processes can leave a call waiting for ever. The weights live in shared memory (on a GPU,
behind IPC handles): an update is a copy inside the child, and the pipe carries tokens only.
"""

from __future__ import annotations

import os
import signal
import tempfile
import textwrap
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from objdsl.errors import ObjdslError
from objdsl.frozen import dataclass
from objdsl.runtime.config import SamplerSection
from objdsl.runtime.processes import end_with_parent, without_rank
from objdsl.runtime.sampler import (
    Request,
    Response,
    Sampler,
    SamplerError,
    Sampling,
    vllm_version,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# What its attention on a CPU has kernels for (`get_supported_head_sizes` of version 0.32).
CPU_HEAD_SIZES = (32, 64, 80, 96, 112, 128, 160, 192, 224, 256, 512)

# Recording which words were kept costs a row of the vocabulary per token.
KEEP_MASK_VOCABULARY = 4096


@dataclass(frozen=True, slots=True)
class Engine:
    """How the child makes its engine. Everything in it can be pickled."""

    folder: str
    log: str
    device: str
    dtype: str
    max_tokens: int
    max_rows: int
    gpu_memory: float
    all_log_probs: bool

    @property
    def on_cpu(self) -> bool:
        return self.device == "cpu"


class EngineDiedError(ObjdslError):
    """The child closed the pipe, or did not answer in time."""


class VllmSampler:
    """A vLLM engine in a child process; restarted if it dies, with the same requests.

    Args:
        model: the training engine's; its weights move to shared memory.
        longest: most tokens of a prompt and its response together.
        folder: of the run; the engine's own log goes there.
        check: called with this sampler after the first update of every engine, new or restarted;
            raises SamplerError where the two engines disagree.
        say: tells people that an engine is restarted.
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
        self._config = config
        self._model = model.share_memory()
        self._files = tempfile.TemporaryDirectory(prefix="objdsl-engine-")
        # The engine starts from the architecture and random numbers; every weight comes from here.
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
        self._check = check
        self._say = say
        self._step = 0
        self._deaths: list[int] = []

    @property
    def pid(self) -> int | None:
        """Of the child, while there is one."""
        return self._process.pid if self._process else None

    def start(self) -> None:
        """Returns as soon as the engine is there.

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
        """Ends the engine, and takes away its log."""
        self._kill()
        Path(self._engine.log).unlink(missing_ok=True)

    def launch(self) -> None:
        """Begins to load; returns before it is done."""
        if self._process is not None:
            return
        spawn = torch.multiprocessing.get_context("spawn")
        ours, theirs = spawn.Pipe()
        with _environment(_settings(self._config, self._engine)):
            process = spawn.Process(target=_serve, args=(theirs, self._engine), daemon=True)
            process.start()
        theirs.close()
        self._process, self._pipe, self._ready = process, ours, False
        self._checked = False

    def update(self, step: int) -> None:
        self._step = step
        self._persist("update")
        if not self._checked:
            self._checked = True
            self._check(self)

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Response]:
        return self.collect(self.submit(requests, sampling))

    def submit(self, requests: Sequence[Request], sampling: Sampling) -> tuple[Any, ...]:
        """Sends the requests; several engines write at the same time. See `collect`."""
        call = ("generate", [(request.prompt, request.seed) for request in requests], sampling)
        try:
            self._send(call)
        except EngineDiedError:
            self._kill()  # `collect` finds it gone, and restarts it
        return call

    def collect(self, call: tuple[Any, ...]) -> list[Response]:
        try:
            written = self._receive(self._config.deadline)
        except EngineDiedError as death:
            self._revive(death)
            written = self._persist(*call)
        return [Response(*response) for response in written]

    def close(self) -> None:
        if self._pipe is not None:
            self._pipe.close()
            self._pipe = None
        if self._process is not None:
            # A closed pipe is the word to leave; one that is busy is not waited for.
            self._process.join(timeout=2)
            self._kill()
        self._files.cleanup()

    # --- calls -----------------------------------------------------------------------------------

    def _persist(self, *call: Any) -> Any:
        """The answer to a call, through restarts: with the same seeds it is the same answer."""
        while True:
            try:
                self._send(call)
                return self._receive(self._config.deadline)
            except EngineDiedError as death:
                self._revive(death)

    def _load(self) -> None:
        self.launch()
        if self._ready:
            return
        self._receive(self._config.start_deadline)
        # Tensors travel as handles to the memory that the optimizer writes to.
        self._put(("weights", {k: p.detach() for k, p in self._model.named_parameters()}))
        self._receive(self._config.start_deadline)
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
            # The request's fault, or the machine's, but not the engine's: again would be the same.
            log = f" (its log is {self._engine.log})" if self._ready else ""
            raise SamplerError(f"vLLM refused: {answer}{log}")
        return answer

    # --- death -----------------------------------------------------------------------------------

    def _revive(self, death: EngineDiedError) -> None:
        """A new engine with the present weights, unless too many have died of late."""
        self._kill()
        self._deaths = [step for step in self._deaths if step > self._step - 100] + [self._step]
        if len(self._deaths) > self._config.restarts:
            raise SamplerError(
                f"vLLM died {len(self._deaths)} times in 100 steps, the last time because "
                f"{death}; its log is {self._engine.log}\n{_tail(self._engine.log)}"
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
    """Several engines that share the requests, each writing a part of them at the same time."""

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


# --- the environment of the child ----------------------------------------------------------------


def _settings(config: SamplerSection, engine: Engine) -> dict[str, str]:
    """Read by vLLM and torch while they are imported, so set before the child begins."""
    always = {
        "HF_HUB_OFFLINE": "1",  # the child needs nothing from the hub
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "VLLM_LOGGING_LEVEL": os.environ.get("VLLM_LOGGING_LEVEL", "WARNING"),
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    }
    if not engine.on_cpu:
        return always
    return always | {
        "OMP_NUM_THREADS": str(config.threads),
        # Bound threads of two engines, or of an engine and the learner, would share one core.
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_CPU_KVCACHE_SPACE": str(config.cpu_cache_gib),
        # One small function of the log-probabilities is compiled by g++ otherwise: 15 s at start.
        "TORCHDYNAMO_DISABLE": "1",
    }


@contextmanager
def _environment(settings: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


# --- the child -----------------------------------------------------------------------------------


def _serve(pipe: Connection, engine: Engine) -> None:
    """The life of the child: calls in, answers out, until the pipe closes."""
    # Ctrl-C reaches the whole group of processes; when to stop is for the parent to say.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()
    for name in os.environ.keys() - without_rank(os.environ).keys():
        del os.environ[name]
    _log_to(engine.log)
    try:
        llm = _make(engine)
    except Exception as error:
        traceback.print_exc()
        pipe.send(("error", f"the engine does not start: {_sentence(error)}"))
        return
    weights: dict[str, Tensor] = {}
    pipe.send(("ready", None))
    while True:
        try:
            call, *arguments = pipe.recv()
        except EOFError:
            return
        answer: Any = None
        try:
            match call:
                case "weights":
                    (weights,) = arguments
                case "update":
                    _update(llm, weights)
                case "generate":
                    answer = _generate(llm, *arguments)
        except Exception as error:
            traceback.print_exc()
            pipe.send(("error", f"{type(error).__name__}: {error}"))
        else:
            pipe.send(("done", answer))


def _sentence(error: Exception) -> str:
    """What an error says, in a line: of what pydantic collects, the messages alone."""
    words = str(error)
    if callable(collected := getattr(error, "errors", None)):
        words = "; ".join(str(one["msg"]).removeprefix("Value error, ") for one in collected())
    line = textwrap.shorten(words, 300, placeholder=" ...")
    return f"{type(error).__name__}: {line}" if line else type(error).__name__


def _log_to(path: str) -> None:
    """Whatever Python, C++ and the engine print goes to a file, not over the parent's progress."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(file, 1)
    os.dup2(file, 2)


def _make(engine: Engine) -> Any:
    if engine.on_cpu:
        _use_plain_linear()
    from vllm import LLM

    return LLM(
        engine.folder,
        load_format="dummy",
        skip_tokenizer_init=True,
        dtype=engine.dtype,
        max_model_len=engine.max_tokens,
        max_num_seqs=engine.max_rows,
        logprobs_mode="processed_logprobs",
        max_logprobs=-1 if engine.all_log_probs else 20,
        disable_log_stats=True,
        seed=0,
        **({"enforce_eager": True} if engine.on_cpu else {}),
        **({} if engine.on_cpu else {"gpu_memory_utilization": engine.gpu_memory}),
    )


def _use_plain_linear() -> None:
    """Linear layers by torch, with their weights where they were.

    The CPU kernels of vLLM pack the weights and forget the originals, and an update does not reach
    every packed copy (tied embeddings and experts keep the old ones, silently). Plain layers
    generate as fast, and take new weights in place.
    """
    import vllm._custom_ops as operators
    import vllm.model_executor.layers.utils as layers

    operators._supports_onednn = False
    layers.check_cpu_sgl_kernel = lambda *_: False


def _update(llm: Any, weights: dict[str, Tensor]) -> None:
    def load(model: Any) -> None:
        model.load_weights(weights.items())
        for module in model.modules():
            # Experts are packed after each load, plain linear or not.
            method = getattr(module, "quant_method", None)
            if hasattr(module, "w13_weight") and method is not None:
                method.process_weights_after_loading(module)

    llm.apply_model(load)
    # Cached keys and values are those of the old weights.
    llm.reset_prefix_cache()


def _generate(
    llm: Any, requests: Sequence[tuple[tuple[int, ...], int]], sampling: Sampling
) -> list[tuple[Any, ...]]:
    from vllm import SamplingParams

    params = []
    for _, seed in requests:
        one = SamplingParams(
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k or 0,
            max_tokens=sampling.max_tokens,
            stop_token_ids=list(sampling.stop),
            logprobs=-1 if sampling.keep_mask else 0,
            seed=seed,
            detokenize=False,
        )
        if hasattr(one, "skip_clone"):
            one.skip_clone = True  # each is used once: the deep copy is a third of a short request
        params.append(one)
    prompts = [{"prompt_token_ids": list(prompt)} for prompt, _ in requests]
    finished = llm.generate(prompts, params, use_tqdm=False)
    return [_response(output.outputs[0], sampling) for output in finished]


def _response(written: Any, sampling: Sampling) -> tuple[Any, ...]:
    tokens = tuple(written.token_ids)
    steps = written.logprobs
    log_probs = tuple(step[token].logprob for step, token in zip(steps, tokens, strict=True))
    kept = None
    if sampling.keep_mask:
        kept = tuple(
            tuple(word for word, entry in step.items() if entry.logprob > -1e30) for step in steps
        )
    return tokens, log_probs, written.finish_reason == "length", kept
