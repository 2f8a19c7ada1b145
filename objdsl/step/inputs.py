"""The checks of an objective's inputs, where they come in: every kind of mistake has its own
message.

The inputs of `prepare` are checked completely, which waits for the device. The inputs of a
micro-batch are checked for shape, dtype and device, and for their values only on a CPU.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from functools import reduce
from hashlib import blake2b
from typing import Any

import torch
from torch import Tensor

from objdsl.diagnostic import near, spelled
from objdsl.emit.stages import Layout
from objdsl.errors import InputError
from objdsl.ir.columns import BUILT_IN, CLOCK, IDS, NOISE, Column, LogProbs, Truncation, of_policy
from objdsl.ir.declarations import BUILT_IN_POLICIES, Domain, Learned
from objdsl.ir.indices import TOKEN, VOCAB, Indices, written
from objdsl.ir.nodes import IMPOSSIBLE
from objdsl.step.rows import Step, mask_of

ROUNDING = 0.5
"""The most that a log-probability may be above 0. It is a logit minus the logarithm of a sum, and
bfloat16 rounds both to multiples of 1/4 if they are between 64 and 128."""
ALL = 0.1
"""The most that a log-probability may be above 0 if none is below 0. Probabilities that are taken
for logarithms are above it at some token, if not above `ROUNDING`."""

STANDARD = frozenset(
    {NOISE.name, *(row.name for row in (*BUILT_IN.values(), *CLOCK.values(), IDS))}
).union(*map(of_policy, BUILT_IN_POLICIES))
"""Columns that every training loop may pass."""


def as_tensor(name: str, x: Any, device: torch.device | None = None) -> Tensor:
    """An input as a tensor on a device, without a graph: no formula has a gradient with respect to
    it.

    Raises:
        InputError: it contains something other than numbers, or is sparse.
    """
    dtype = torch.float64 if isinstance(x, float) else None  # Python's own numbers are as wide
    try:
        tensor = torch.as_tensor(x, device=device, dtype=dtype).detach()
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{name!r} cannot be made a tensor: {error}") from error
    if tensor.layout != torch.strided:
        raise InputError(f"{name!r} must be a dense tensor, not {tensor.layout}")
    return tensor


def read_rows(mask: Any, lengths: Any) -> tuple[Layout, Tensor, Tensor]:
    """The layout of the tokens, the lengths `[N]` and the mask `[N, T]` of the responses.

    Raises:
        InputError: neither or both are given, one has a wrong shape, type or value, or a response
            is empty.
    """
    if (mask is None) == (lengths is None):
        raise InputError("give either mask [N, T] (padded tokens) or lengths [N] (packed tokens)")
    if mask is not None:
        mask = as_tensor("mask", mask)
        if mask.dim() != 2:
            raise InputError(f"mask must be [N, T], not {list(mask.shape)}")
        if mask.dtype != torch.bool and bool((wrong := (mask != 0) & (mask != 1)).any()):
            at = first(wrong)
            raise InputError(
                "mask must be true or false (1 or 0) at every token, not "
                f"{shown(mask, at)} at {at}: weights of tokens are a column of their own"
            )
        mask = mask.bool()
        size = mask.sum(-1)
    else:
        size = as_tensor("lengths", lengths)
        size = size if size.numel() else size.long()  # an empty list has no type
        if size.dim() != 1 or size.dtype == torch.bool or size.dtype.is_floating_point:
            raise InputError(
                f"lengths must be N whole numbers, not {size.dtype} {list(size.shape)}"
            )
        mask = mask_of(size)
    if not bool((size > 0).all()):
        empty = int((size <= 0).nonzero()[0])
        raise InputError(f"response {empty} is empty: it has no token, not even EOS")
    return "padded" if lengths is None else "packed", size, mask


def prompt_numbers(ids: Any, rows: int, device: torch.device, shared: bool) -> Tensor:
    """`[N]`, a number for each response that says which prompt it answers.

    Args:
        ids: N numbers, strings or other things that can be hashed.
        shared: whether other ranks have to find the same numbers.

    Raises:
        InputError: there are not N ids, or one cannot be hashed, or is NaN.
    """
    if ids is None:
        raise InputError("prompt is missing: N ids that say which responses answer the same prompt")
    tensor: Tensor
    if isinstance(ids, str) or not isinstance(ids, Tensor | Sequence | Iterable):
        raise InputError(f"prompt must be [{rows}], an id for each response, not {ids!r}")
    try:
        tensor = torch.as_tensor(ids, device=device).detach()
    except (TypeError, ValueError, RuntimeError):
        tensor = torch.tensor(_numbered(list(ids), shared), dtype=torch.long, device=device)
    if tensor.shape != (rows,):
        raise InputError(
            f"prompt must be [{rows}], an id for each response, not {list(tensor.shape)}"
        )
    if tensor.is_complex() or (tensor.is_floating_point() and bool(tensor.isnan().any())):
        raise InputError("prompt must hold ids: numbers other than NaN, or strings")
    return tensor


def _numbered(ids: list[Any], shared: bool) -> list[int]:
    numbers: dict[Hashable, int] = {}
    for k, id_ in enumerate(ids):
        try:
            numbers.setdefault(id_, len(numbers))
        except TypeError as error:
            raise InputError(
                f"prompt must hold ids that can be hashed, such as numbers or strings; that of "
                f"response {k} is a {type(id_).__name__}"
            ) from error
    if shared:  # ranks that have never met must agree
        numbers = {id_: _digest(id_) for id_ in numbers}
    return [numbers[id_] for id_ in ids]


def _digest(id_: Hashable) -> int:
    return int.from_bytes(blake2b(repr(id_).encode(), digest_size=8).digest(), "big", signed=True)


def refuse_unknown(
    name: str, columns: Mapping[str, Column], given: Iterable[str], known: Callable[[], set[str]]
) -> None:
    """Refuses columns that are neither this objective's nor standard.

    Args:
        name: of the objective.
        columns: those that it reads, by their names.
        given: the names of what it is given.
        known: names that are accepted although it does not read them, besides `STANDARD`: one
            training loop then serves every objective. A misspelled name is never among them.

    Raises:
        InputError: a name is none of these, or that of a trained input.
    """
    for key in given:
        column = columns.get(key)
        if column is not None and column.trained:
            raise InputError(
                f"{key!r} is trained: it belongs to the call, objective({key}=..., step=...), not "
                "to `prepare`"
            )
        if column is not None or key in STANDARD or key in known():
            continue
        read = [read_name for read_name, x in columns.items() if not x.trained]
        hint = ""
        if guess := near(key, read):
            hint = f"; did you mean {guess!r}?"
        elif guess := spelled(key, sorted(STANDARD | known())):
            hint = f"; did you mean {guess!r}, which it ignores?"
        raise InputError(
            f"{name} reads no column {key!r}{hint}; it reads {', '.join(read) or 'none'}"
        )


def cleaned(
    column: Column,
    x: Tensor,
    step: Step,
    dtype: torch.dtype,
    check: bool,
    domain: Domain | None = None,
) -> Tensor:
    """A column's data with its shape checked, its type turned to `dtype`, and 0 in its padding.

    An entry of probability 0 is fine in a whole distribution; see `IMPOSSIBLE`.

    Args:
        check: whether its values are looked at.
        domain: what the file declares of its values.

    Raises:
        InputError: its shape, type or a value is wrong.
    """
    name, indices, role = column.name, column.indices, column.role
    _check_shape(name, indices, x, step)
    if x.is_complex():
        raise InputError(f"the column {name!r} must hold real numbers, not {x.dtype}")
    if isinstance(role, LogProbs) and not x.is_floating_point():
        raise InputError(
            f"the column {name!r} must hold log-probabilities, which are floats, not {x.dtype}"
        )
    boolean = isinstance(role, Truncation)
    if boolean and check and bool((wrong := (x != 0) & (x != 1)).any()):
        at = first(wrong)
        raise InputError(f"the column {name!r} must be true or false, not {shown(x, at)} at {at}")
    given, x = x, x.bool() if boolean else x.to(dtype)
    outside = leaves(domain, given) if check and domain is not None else None
    if step.layout == "padded" and len(indices) > 2:
        mask = step.mask[..., None] if indices == VOCAB else step.mask
        x = torch.where(mask, x, torch.zeros((), dtype=x.dtype, device=x.device))
        outside = None if outside is None else outside & mask
    if check and x.is_floating_point():
        _check_values(column, x)
    if domain is not None and outside is not None and bool(outside.any()):
        at = first(outside)
        value = given[tuple(at)].item()
        short = float(f"{value:g}")
        number = f"{value:g}" if not domain.holds(short) else repr(value)
        raise InputError(f"the column {name!r} is {number} at {at}, outside of its domain {domain}")
    return possible(x) if isinstance(role, LogProbs) and role.distribution else x


def leaves(domain: Domain, x: Tensor) -> Tensor:
    """Where numbers are outside a domain by more than rounding explains."""
    x = x if x.is_floating_point() else x.double()
    rounding = 2 * max(torch.finfo(x.dtype).eps, torch.finfo(torch.float32).eps)
    if domain.values:
        near = ((x - value).abs() <= rounding * abs(value) for value in domain.values)
        return ~reduce(torch.logical_or, near)
    low, high = domain.lower, domain.upper
    below = x < low - rounding * abs(low) if domain.lower_closed else x <= low
    above = x > high + rounding * abs(high) if domain.upper_closed else x >= high
    return below | above


def possible(log_dist: Tensor) -> Tensor:
    """A whole distribution, `[..., V]`, in logarithms, in which probability 0 has a finite
    logarithm."""
    return log_dist.clamp(min=IMPOSSIBLE)


def _check_shape(name: str, indices: Indices, x: Tensor, step: Step) -> None:
    n, packed = len(step), step.layout == "packed"
    if not indices:
        if x.dim():
            raise InputError(f"the column {name!r} must be one number, not {list(x.shape)}")
        return
    tokens = (int(step.lengths.sum()),) if packed else tuple(step.mask.shape)
    wanted = tokens if len(indices) > 2 else (n,)
    shape = tuple(x.shape[:-1] if indices == VOCAB else x.shape)
    if shape != wanted or (indices == VOCAB and x.dim() != len(wanted) + 1):
        text = ", ".join(map(str, wanted)) + (", V" if indices == VOCAB else "")
        raise InputError(
            f"the column {name!r} ({written(indices)}) must be [{text}], not {list(x.shape)}"
        )


def _check_values(column: Column, x: Tensor) -> None:
    name = column.name
    if bool((wrong := x.isnan()).any()):
        raise InputError(f"the column {name!r} is NaN at {first(wrong)}")
    if isinstance(column.role, LogProbs):
        check_log_probs(f"the column {name!r}", x, None, distribution=column.role.distribution)
        return
    if bool((wrong := x.isinf()).any()):
        raise InputError(f"the column {name!r} is infinite at {first(wrong)}")
    most = math.sqrt(torch.finfo(x.dtype).max) / 1024
    if bool((wrong := x.abs() > most).any()):
        at = first(wrong)
        raise InputError(
            f"the column {name!r} is {shown(x, at)} at {at}: sums of its squares are beyond "
            f"{str(x.dtype).removeprefix('torch.')}; scale it down, or compute in a larger `dtype`"
        )


def check_log_probs(name: str, x: Tensor, mask: Tensor | None, *, distribution: bool) -> None:
    """Log-probabilities are at most 0, and finite where a token was drawn.

    Args:
        mask: where `x` counts; None for everywhere.
        distribution: whether these are whole distributions, in which an entry may be impossible.

    Raises:
        InputError: they are not. NaN is not looked for.
    """
    counted = x if mask is None else torch.where(mask, x, 0.0)
    high = counted > ROUNDING
    if bool((counted >= 0).all()):
        high = counted > ALL
    if bool(high.any()):
        at = first(high)
        raise InputError(
            f"{name} is {shown(x, at)} at {at}: a logarithm of a probability is at most 0; are "
            "these probabilities, or negative logarithms?"
        )
    if distribution:
        return
    impossible = counted == -torch.inf
    if bool(impossible.any()):
        raise InputError(
            f"{name} is -inf at {first(impossible)}: a sampled token has a probability above 0"
        )


def check_names(objective: str, given: Collection[str], wanted: Sequence[str]) -> None:
    """Checks that the trained inputs are those that an objective reads, no fewer and no others.

    Raises:
        InputError: one is unknown, or missing.
    """
    for name in given:
        if name not in wanted:
            guess = near(name, wanted)
            raise InputError(
                f"unknown input {name!r}; it has {list(wanted)}"
                + (f"; did you mean {guess!r}?" if guess else "")
            )
    for name in wanted:
        if name not in given:
            raise InputError(f"{objective} needs the trained input {name!r}")


def check_trained(name: str, x: Any, indices: Indices, step: Step) -> None:
    """The shape, type and device of a trained input.

    Raises:
        InputError: one of them is wrong.
    """
    if not indices:
        if not isinstance(x, Tensor) or x.dim() or not x.is_floating_point():
            what = f"{x.dtype} {list(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
            raise InputError(f"{name} is learned: it must be a float tensor [], not {what}")
        _check_device(name, x, step)
        return
    over_vocabulary = indices == VOCAB
    wanted = [*step.mask.shape] if step.layout == "padded" else [int(step.lengths.sum())]
    shape = f"[{', '.join([*map(str, wanted), *('V' * over_vocabulary)])}]"
    if not isinstance(x, Tensor):
        raise InputError(f"{name} must be a float tensor {shape}, not {type(x).__name__}")
    fits = list(x.shape[: x.dim() - over_vocabulary]) == wanted
    if not fits or not x.is_floating_point():
        raise InputError(f"{name} must be a float tensor {shape}, not {x.dtype} {list(x.shape)}")
    _check_device(name, x, step)


def _check_device(name: str, x: Tensor, step: Step) -> None:
    if x.device != step.mask.device:
        raise InputError(f"{name} is on {x.device}, but its step on {step.mask.device}")


def check_drawn(name: str, x: Tensor, step: Step) -> None:
    """Checks trained log-probabilities `[N, T]` or `[M]` of sampled tokens, where reading them is
    cheap.

    Raises:
        InputError: one is above 0, or -inf.
    """
    least, most = torch.aminmax(x) if x.numel() else (x, x)
    if x.numel() and not bool((least > -torch.inf) & (most <= ALL)):  # padding counts, too
        check_log_probs(
            name, x, step.mask if x.dim() == len(TOKEN) - 1 else None, distribution=False
        )


def computable(
    columns: Mapping[str, Column],
    trained: Mapping[str, Tensor],
    dtype: torch.dtype | None = None,
) -> dict[str, Tensor]:
    """Trained inputs without their graph, in float32 at least, with finite logarithms for
    impossible entries.

    Args:
        columns: those that are read, by their names.
        dtype: of learned numbers; by default that of the other inputs.
    """
    dtype = dtype or widest(*(x for x in trained.values() if x.dim()))
    inputs = {name: x.detach().to(widest(x) if x.dim() else dtype) for name, x in trained.items()}
    distributions = {name for name, column in columns.items() if column.indices == VOCAB}
    return {name: possible(x) if name in distributions else x for name, x in inputs.items()}


def check_learned(number: Learned, x: Tensor) -> None:
    """The value of a learned number, where a look is cheap.

    Raises:
        InputError: it is outside of its domain, by more than rounding explains.
    """
    if bool(x.isnan()) or bool(leaves(number.domain, x)):
        raise InputError(
            f"{number.name} is {x.item():g}, outside of its domain {number.domain}: "
            "`objective.project(learned)` puts it back after each step of the optimizer"
        )


def ends(domain: Domain, dtype: torch.dtype) -> tuple[float, float]:
    """The least and the greatest number of a type that lie in an interval. A number next to 0 is
    the smallest that is not denormal: a GPU takes those for 0."""
    low, high = torch.tensor([domain.lower, domain.upper], dtype=dtype)
    tiny = torch.tensor(torch.finfo(dtype).tiny, dtype=dtype)
    if not domain.lower_closed:
        low = tiny if low == 0 else torch.nextafter(low, low.new_tensor(torch.inf))
    if not domain.upper_closed:
        high = -tiny if high == 0 else torch.nextafter(high, high.new_tensor(-torch.inf))
    return low.item(), high.item()


def widest(*tensors: Any) -> torch.dtype:
    """The dtype of highest precision, float32 at least: in lower precision, sums over a response
    lose tokens."""
    types = (x.dtype for x in tensors if isinstance(x, Tensor))
    return reduce(torch.promote_types, types, torch.float32)


def first(wrong: Tensor) -> list[int]:
    """The first place where a mask holds."""
    return [int(k) for k in wrong.nonzero()[0]]


def shown(x: Tensor, at: Sequence[int]) -> str:
    """A number of a tensor, for error messages."""
    return f"{x[tuple(at)].item():g}"
