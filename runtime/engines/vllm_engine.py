"""The child process of `vllm_sampler`: its environment, its engine, and the calls to it."""

from __future__ import annotations

import os
import signal
import textwrap
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

from torch import Tensor

from objdsl.frozen import dataclass
from objdsl.runtime.engines.sampler import Sampling
from objdsl.runtime.processes.children import end_with_parent, without_rank
from objdsl.runtime.settings.config import SamplerSection


@dataclass(frozen=True, slots=True)
class Engine:
    """The settings of the child's engine, which can be pickled."""

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


def environment_of(config: SamplerSection, engine: Engine) -> dict[str, str]:
    """Variables that vLLM and torch read on import: they have to be set before the child starts."""
    always = {
        "HF_HUB_OFFLINE": "1",  # the child loads nothing from the hub
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "VLLM_LOGGING_LEVEL": os.environ.get("VLLM_LOGGING_LEVEL", "WARNING"),
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    }
    if not engine.on_cpu:
        return always
    return always | {
        "OMP_NUM_THREADS": str(config.threads),
        # Pinned threads of several engines, or of the learner, would share a core.
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_CPU_KVCACHE_SPACE": str(config.cpu_cache_gib),
        # Otherwise g++ compiles a small function for log-probabilities: 15 s at the start.
        "TORCHDYNAMO_DISABLE": "1",
    }


@contextmanager
def environment(settings: dict[str, str]) -> Iterator[None]:
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


def serve(pipe: Connection, engine: Engine) -> None:
    """Answers calls until the pipe closes."""
    # Ctrl-C reaches the whole process group; the parent decides when to stop.
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
    """An error in one line; for validation errors of pydantic, the messages only."""
    message = str(error)
    if callable(problems := getattr(error, "errors", None)):
        message = "; ".join(str(x["msg"]).removeprefix("Value error, ") for x in problems())
    line = textwrap.shorten(message, 300, placeholder=" ...")
    return f"{type(error).__name__}: {line}" if line else type(error).__name__


def _log_to(path: str) -> None:
    """Sends the output of Python, C++ and the engine to a file, not to the parent's terminal."""
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
    """Uses the linear layers of torch, whose weights stay in place.

    The CPU kernels of vLLM pack the weights and forget the originals, and an update does not reach
    every packed copy (tied embeddings and experts keep the old ones, silently). Plain layers
    generate as fast, and are updated in place.
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
    # Cached keys and values belong to the old weights.
    llm.reset_prefix_cache()


def _generate(
    llm: Any, requests: Sequence[tuple[tuple[int, ...], int]], sampling: Sampling
) -> list[tuple[Any, ...]]:
    from vllm import SamplingParams

    params = []
    for _, seed in requests:
        param = SamplingParams(
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k or 0,
            max_tokens=sampling.max_tokens,
            stop_token_ids=list(sampling.stop),
            logprobs=-1 if sampling.keep_mask else 0,
            seed=seed,
            detokenize=False,
        )
        if hasattr(param, "skip_clone"):
            # Each is used once; a deep copy takes a third of the time of a short request.
            param.skip_clone = True
        params.append(param)
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
            tuple(token for token, entry in step.items() if entry.logprob > -1e30) for step in steps
        )
    return tokens, log_probs, written.finish_reason == "length", kept
