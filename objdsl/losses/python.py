"""A Python function as a loss."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import re
import sys
import traceback
from collections.abc import Callable, Mapping
from functools import reduce
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from objdsl.diagnostic import near
from objdsl.ir.columns import BUILT_IN, CLOCK, IDS, Clock, Column, Data, LogProbs
from objdsl.ir.declarations import Domain
from objdsl.ir.indices import SCALAR, TOKEN, VOCAB
from objdsl.losses.batch import ADVANTAGE, Batch, masked
from objdsl.losses.conventions import CONVENTIONS, PI, Settings
from objdsl.losses.loss import Evaluation, LossError

_FUNCTION = re.compile(r"(?P<module>.+\.py|\w+(\.\w+)+):(?P<function>[A-Za-z_][\w.]*)")
_LOG_PROBS = re.compile(r"log_(?P<policy>\w+?)(?P<distribution>_dist)?")
_GIVEN = {"mask", "prompt", "lengths", "advantages"}


def is_python(name: str) -> bool:
    """Whether a name is that of a Python function: `my_losses.py:loss`, `package.module:loss`."""
    return _FUNCTION.fullmatch(name) is not None


class PythonLoss:
    """A function of a file or a module, called as a framework would.

    Args:
        name: `my_losses.py:loss` or `package.module:loss`. The module is imported, which runs it.
        like: the name of a convention.
        known: the columns of the loss beside it, which it may read, too.
        settings: other arguments of the function; for verl also settings of the actor.

    Raises:
        LossError: there is no such function, its module fails, or it asks for something that is
            no column.
    """

    def __init__(
        self,
        name: str,
        like: str = "torch",
        known: Mapping[str, Column] | None = None,
        settings: Settings | None = None,
    ) -> None:
        self.name, self.like = name, like
        self.convention = CONVENTIONS[like]
        self.settings = settings or {}
        self.function = _loaded(name)
        self.domains: Mapping[str, Domain] = {}
        self.names = self._names()
        known = known or {}
        columns = dict.fromkeys(self.convention.reads)
        if like == "torch":
            columns |= dict.fromkeys(sorted(self._asked(known)))
        elif like in ("trl", "tinker"):
            columns |= dict.fromkeys(known)
        standard = {key: column for key in columns if (column := _standard(key)) is not None}
        self.columns: Mapping[str, Column] = {k: known.get(k) or standard[k] for k in columns}

    @property
    def takes_advantages(self) -> bool:
        return ADVANTAGE in self.columns

    def __call__(self, batch: Batch) -> Evaluation:
        live = {
            name: batch.columns[name].detach().clone().requires_grad_(True)
            for name, column in self.columns.items()
            if column.trained
        }
        try:
            result = self.convention.call(
                self.function, batch.with_columns(**live), self.settings, self.names
            )
        except Exception as error:
            raise LossError(self._failure(error, error.__traceback__)) from error
        loss = result[0] if isinstance(result, tuple) and result else result
        if not isinstance(loss, Tensor):
            raise LossError(f"{self.name} returns {_described(loss)}, and not a tensor")
        if loss.numel() != 1:
            raise LossError(
                f"{self.name} returns a tensor of shape {list(loss.shape)}, and not a scalar: a "
                "loss is a single number"
            )
        loss = loss.reshape(())
        if not bool(torch.isfinite(loss.detach())):
            raise LossError(f"{self.name} is {float(loss.detach())}")
        if not loss.requires_grad:
            raise LossError(f"{self.name} has no gradient: its result does not depend on log_pi")
        try:
            derivatives = torch.autograd.grad(loss, list(live.values()), allow_unused=True)
        except RuntimeError as error:
            raise LossError(f"{self.name} cannot be differentiated: {error}") from error
        gradients = {}
        for (key, x), gradient in zip(live.items(), derivatives, strict=True):
            gradients[key] = masked(
                torch.zeros_like(x) if gradient is None else gradient, batch.mask
            )
            if not bool(torch.isfinite(gradients[key]).all()):
                at = [int(k) for k in (~torch.isfinite(gradients[key])).nonzero()[0]]
                raise LossError(f"the gradient of {self.name} by {key} is not finite at {at}")
        return Evaluation(loss.detach().to(torch.float64), gradients)

    def _names(self) -> frozenset[str]:
        """The names of its parameters."""
        try:
            parameters = inspect.signature(self.function).parameters
        except (TypeError, ValueError) as error:
            raise LossError(f"{self.name} has no signature: {error}") from None
        return frozenset(parameters)

    def _asked(self, known: Mapping[str, Column]) -> set[str]:
        """The columns that the parameters of a function of columns ask for."""
        columns: set[str] = set()
        for name, parameter in inspect.signature(self.function).parameters.items():
            if parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
                continue
            if name in self.settings or name in _GIVEN - {"advantages"}:
                continue
            if name == "advantages":
                columns.add(ADVANTAGE)
            elif name in known or _standard(name) is not None:
                columns.add(name)
            elif parameter.default is parameter.empty:
                hint = near(name, [*known, *_standards(), *_GIVEN])
                raise LossError(
                    f"{self.name} asks for {name!r}, which is no column"
                    + (f"; did you mean {hint!r}?" if hint else "")
                    + f" A setting is passed by `--pass {name}=...`, or has a default"
                )
        if PI not in columns:
            raise LossError(f"{self.name} does not ask for {PI}, so it has nothing to train")
        return columns

    def _failure(self, error: Exception, trace: TracebackType | None) -> str:
        """An error of the function, with the place in its file where it was raised."""
        frames = traceback.extract_tb(trace)
        file = getattr(getattr(self.function, "__code__", None), "co_filename", None)
        inside = [k for k, frame in enumerate(frames) if frame.filename == file]
        shown = frames[inside[0] :] if inside else frames[-1:]
        lines = [
            f"  {Path(frame.filename).name}:{frame.lineno} in {frame.name}: {frame.line}"
            for frame in shown[-3:]
        ]
        return "\n".join([f"{self.name} fails: {type(error).__name__}: {error}", *lines])


def _described(x: object) -> str:
    return "nothing" if x is None else f"a {type(x).__name__}"


def _standards() -> list[str]:
    policies = ("pi", "old", "mu", "ref")
    return [
        *(LogProbs(policy).name for policy in policies),
        *(row.name for row in (*BUILT_IN.values(), *CLOCK.values(), IDS)),
    ]


def _standard(name: str) -> Column | None:
    """A column that every loss can read, by its name."""
    if name == ADVANTAGE:
        return Column(name, TOKEN, Data())
    for row in (*BUILT_IN.values(), *CLOCK.values(), IDS):
        if row.name == name:
            indices = SCALAR if isinstance(row.role, Clock) else row.leaf.over
            return Column(name, indices, row.role, row.leaf.trained)
    if match := _LOG_PROBS.fullmatch(name):
        distribution = match["distribution"] is not None
        role = LogProbs(match["policy"], distribution)
        return Column(name, VOCAB if distribution else TOKEN, role, match["policy"] == "pi")
    return None


def _loaded(name: str) -> Callable[..., Any]:
    match = _FUNCTION.fullmatch(name)
    if match is None:
        raise LossError(f"{name!r} is no Python function: write FILE.py:FUNCTION")
    module = _module(match["module"])
    try:
        function = reduce(getattr, match["function"].split("."), module)
    except AttributeError:
        functions = [
            key for key, x in vars(module).items() if callable(x) and not key.startswith("_")
        ]
        hint = near(match["function"], functions)
        raise LossError(
            f"{match['module']} has no function {match['function']!r}"
            + (f"; did you mean {hint!r}?" if hint else "")
        ) from None
    if not callable(function):
        raise LossError(f"{name} is {_described(function)}, and no function")
    return function  # type: ignore[no-any-return]


def _module(name: str) -> Any:
    """A module, by its path or its name."""
    try:
        if not name.endswith(".py"):
            return importlib.import_module(name)
        path = Path(name).expanduser().resolve()
        if not path.is_file():
            raise LossError(f"there is no file {name}")
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.path.insert(0, str(path.parent))  # as for a program that is run
        try:
            spec.loader.exec_module(module)
        finally:
            sys.path.remove(str(path.parent))
        return module
    except LossError:
        raise
    except Exception as error:
        last = traceback.format_exception_only(error)[-1].strip()
        frames = [
            f for f in traceback.extract_tb(error.__traceback__) if "importlib" not in f.filename
        ]
        place = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames[1:] else ""
        raise LossError(f"{name} cannot be imported: {last}{place}") from error
