"""From rows to a step: `prepare` of an objective, or of some of its expressions."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property, reduce
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor

from objdsl.diagnostic import near
from objdsl.emit.load import Compiled, CompiledValues
from objdsl.emit.stages import Layout
from objdsl.errors import InputError
from objdsl.ir.columns import NOISE, Clock, Column, columns_in, of_policy
from objdsl.ir.columns import State as StateRole
from objdsl.ir.indices import PROMPT, RESPONSE, SCALAR, TOKEN, VOCAB
from objdsl.ir.nodes import Expr, Peers, Position, Reduce, Scan, Shift
from objdsl.ir.objective import Objective as Formula
from objdsl.objectives import gallery
from objdsl.source import Source
from objdsl.step.gather import exchange, gather
from objdsl.step.inputs import as_tensor, cleaned, prompt_numbers, read_rows, refuse_unknown, widest
from objdsl.step.rows import Share, Step, mask_of
from objdsl.syntax.parse import parse
from objdsl.syntax.tree import Given, Learn, Policy, State

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

_OTHERS = "the mean over the other responses to a prompt"


@dataclass(frozen=True, eq=False)
class Preparation:
    """How the rows of an objective, or of expressions of one, become a step.

    Attributes:
        formula: the objective.
        nodes: everything that is computed of it.
        params: the hyper-parameters.
        digest: the digest of the objective or the expressions, by which a step is recognised.
        program: the emitted functions, for a layout.
    """

    formula: Formula
    nodes: tuple[Expr, ...]
    params: Mapping[str, float]
    digest: str
    program: Callable[[Layout], Compiled | CompiledValues]

    def __call__(
        self,
        *,
        prompt: Tensor | Sequence[Hashable] | None,
        mask: Tensor | None = None,
        lengths: Tensor | Sequence[int] | None = None,
        dtype: torch.dtype | None = None,
        generator: torch.Generator | None = None,
        check: bool = True,
        group: ProcessGroup | None = None,
        columns: Mapping[str, Any],
    ) -> Step:
        """The step; see `Objective.prepare`."""
        if group is None:
            rows, rows_dtype = self._rows(prompt, mask, lengths, columns, dtype, check, False)
            return self._prepared(rows, rows_dtype, generator, check)
        failure: ValueError | None = None
        try:
            rows, rows_dtype = self._rows(prompt, mask, lengths, columns, dtype, check, True)
            numbers = {name: x.item() for name, x in rows.scalars.items()}
            state = len(rows), rows_dtype, "", numbers
        except ValueError as error:
            failure, state = error, (0, torch.float32, str(error), {})
        # An error on one rank ends all of them, so that none waits for it.
        states = exchange(state, group)
        if failure is not None:
            raise failure
        for rank, (_, _, message, numbers) in enumerate(states):
            if message:
                raise InputError(f"rank {rank}: {message}")
            for name, value in states[0][3].items():
                if numbers[name] != value:
                    other = f"{numbers[name]:g} on rank {rank}"
                    raise InputError(f"{name!r} is {value:g} on rank 0, and {other}")
        return self._shared(rows, [(n, d) for n, d, *_ in states], generator, check, group)

    # --- what is read ----------------------------------------------------------------------------

    @cached_property
    def columns(self) -> dict[str, Column]:
        """The data that is read."""
        return columns_in(self.nodes)

    @cached_property
    def _accepted(self) -> set[str]:
        """Names of columns that may be passed although they are not read: those that the
        objective's own file declares, or one of the gallery."""
        sources = [] if self.formula.source is None else [self.formula.source]
        return _declared(*sources) | _declared(*map(gallery.bundled, gallery.names()))

    # --- the rows of one process -----------------------------------------------------------------

    def _rows(
        self,
        prompt: Tensor | Sequence[Hashable] | None,
        mask: Tensor | None,
        lengths: Tensor | Sequence[int] | None,
        columns: Mapping[str, Any],
        dtype: torch.dtype | None,
        check: bool,
        shared: bool,
    ) -> tuple[Step, torch.dtype]:
        """The rows that were passed, each checked on its own, and the dtype of the computation."""
        refuse_unknown(self.formula.name, self.columns, columns, lambda: self._accepted)
        layout, size, mask = read_rows(mask, lengths)
        ids = prompt_numbers(prompt, len(size), size.device, shared)
        ordered = any(
            isinstance(n, Position | Shift | Scan) or (isinstance(n, Peers) and n.over == ("t",))
            for n in self.nodes
        )
        if ordered and not bool((mask[:, 1:] <= mask[:, :-1]).all()):
            raise InputError(
                f"{self.formula.name} uses the order of the tokens, so mask must have no holes: "
                "all tokens of a response first, then its padding"
            )
        given = {name: as_tensor(name, x, mask.device) for name, x in columns.items()}
        if dtype is None:
            # States have the precision of Python's floats, whatever the dtype of the data.
            remembered = {
                k for k, x in self.columns.items() if isinstance(x.role, StateRole | Clock)
            }
            data = (x for name, x in given.items() if name not in remembered)
            dtype = widest(*(x for x in data if x.is_floating_point()))
        if not dtype.is_floating_point:
            raise InputError(f"dtype must be a float type, not {dtype}")
        bare = Step(layout, size, mask, {}, {}, {}, {})
        tokens: dict[str, Tensor] = {}
        responses, scalars = {"prompt": ids}, dict[str, Tensor]()
        for name, column in self.columns.items():
            if column.trained or (column == NOISE and name not in given):
                continue
            if name not in given:
                raise InputError(self._missing(name, column, columns))
            domain = self.formula.domains.get(name)
            x = cleaned(column, given[name], bare, dtype, check, domain)
            tables = {SCALAR: scalars, PROMPT: responses, RESPONSE: responses}
            tables.get(column.indices, tokens)[name] = x
        return replace(bare, tokens=tokens, responses=responses, scalars=scalars), dtype

    def _missing(self, name: str, column: Column, given: Mapping[str, Any]) -> str:
        shapes = {PROMPT: " [N]", RESPONSE: " [N]", TOKEN: " [N, T]", VOCAB: " [N, T, V]"}
        reader, shape = self.formula.name, shapes.get(column.indices, "")
        if isinstance(column.role, StateRole | Clock):
            what = "the state" if isinstance(column.role, StateRole) else "the number of rollouts"
            return (
                f"{reader} reads {what} {name!r}{shape}, which is missing: "
                "`**objective.recall(states, prompt)` gives it"
            )
        text = f"{reader} reads the column {name!r}{shape}, which is missing"
        guess = near(name, [k for k in given if k not in self.columns])
        return text + (f"; did you mean it by {guess!r}?" if guess else "")

    # --- the rows of several ---------------------------------------------------------------------

    def _shared(
        self,
        rows: Step,
        sizes: Sequence[tuple[int, torch.dtype]],
        generator: torch.Generator | None,
        check: bool,
        group: ProcessGroup,
    ) -> Step:
        """A rank's part of the step that the rows of all ranks are.

        Args:
            sizes: how many rows each rank has, and the type that it would compute in.
        """
        read = self.program(rows.layout).program.early
        distributions = [name for name, column in self.columns.items() if column.indices == VOCAB]
        local = {
            name: rows.tokens[name] for name in distributions if name in rows.tokens.keys() - read
        }
        tokens = {name: x for name, x in rows.tokens.items() if name not in local}
        padded = rows.layout == "padded"
        shape = {"mask": rows.mask} if padded else {"lengths": rows.lengths}
        gathered = gather({**shape, **tokens, **rows.responses}, group)
        dtypes = [dtype for count, dtype in sizes if count] or [sizes[0][1]]
        dtype = reduce(torch.promote_types, dtypes)
        for name in self.columns.keys() & gathered.keys():
            if gathered[name].is_floating_point():
                gathered[name] = gathered[name].to(dtype)
        lengths = gathered["mask"].sum(-1) if padded else gathered["lengths"]
        whole = Step(
            rows.layout,
            lengths,
            gathered["mask"] if padded else mask_of(lengths),
            {name: gathered[name] for name in tokens},
            {name: gathered[name] for name in rows.responses},
            {name: x.to(dtype) for name, x in rows.scalars.items()},
            {},
        )
        whole = self._prepared(whole, dtype, generator, check, group)
        counts = [count for count, _ in sizes]
        first = sum(counts[: group.rank()])
        here = slice(first, first + len(rows))
        return Share(group, whole, here, rows.mask.shape[1], local).local_rows(whole)

    # --- the whole step --------------------------------------------------------------------------

    def _prepared(
        self,
        rows: Step,
        dtype: torch.dtype,
        generator: torch.Generator | None,
        check: bool,
        group: ProcessGroup | None = None,
    ) -> Step:
        """The whole step, from its rows."""
        if len(rows) == 0:
            raise InputError("a step needs at least one response")
        unique, prompt = torch.unique(rows.responses["prompt"], return_inverse=True)
        first = torch.full_like(unique, len(rows), dtype=torch.long).scatter_reduce(
            0, prompt, torch.arange(len(rows), device=prompt.device), "amin"
        )
        tokens = rows.tokens
        if NOISE.name in self.columns and NOISE.name not in tokens:
            tokens = {**tokens, NOISE.name: self._noise(rows, dtype, generator, check, group)}
        step = replace(
            rows,
            tokens=tokens,
            responses={**rows.responses, "prompt": prompt},
            environment={
                "n_prompts": len(unique),
                "group_size": torch.bincount(prompt, minlength=len(unique)),
                "first": first,
            },
            objective=self.digest,
        )
        if check:
            self._check_prompts(step)
            self._check_counts(step)
        compiled = self.program(step.layout)
        prepare = compiled.program.prepare
        with torch.no_grad():
            stored = compiled.prepare(**step.arguments(prepare.inputs, dtype, {}, self.params))
        return step.with_values(stored, prepare.outputs, dtype)

    def _noise(
        self,
        rows: Step,
        dtype: torch.dtype,
        generator: torch.Generator | None,
        check: bool,
        group: ProcessGroup | None,
    ) -> Tensor:
        """A random number for each token, independent of the padding, and the same on all ranks."""
        count = int(rows.lengths.sum())
        noise = torch.rand(count, generator=generator, dtype=torch.float64).to(rows.mask.device)
        if group is not None:
            dist.broadcast(noise, group=group, group_src=0)
        if rows.layout == "padded":
            noise = noise.new_zeros(rows.mask.shape).masked_scatter(rows.mask, noise)
        return cleaned(NOISE, noise, rows, dtype, check)

    def _check_prompts(self, step: Step) -> None:
        """Checks that columns of prompts are the same for all responses to a prompt."""
        for name, column in self.columns.items():
            if column.indices != PROMPT or column.trained:
                continue
            x = step.responses[name]
            if not bool((x == x[step.environment["first"]][step.responses["prompt"]]).all()):
                raise InputError(f"the column {name!r} differs between responses to one prompt")

    def _check_counts(self, step: Step) -> None:
        """Checks that standard deviations, which divide by n - 1, have two elements."""
        reader = self.formula.name
        overs = {n.over for n in self.nodes if isinstance(n, Reduce) and n.op == "std"}
        sizes = step.environment["group_size"]
        alone = any(isinstance(n, Peers) and n.others and n.op == "mean" for n in self.nodes)
        if (("i",) in overs or alone) and int(sizes.min()) < 2:
            group = int(sizes.argmin())
            row = int((step.responses["prompt"] == group).nonzero()[0])
            what = "the standard deviation over a group" if ("i",) in overs else _OTHERS
            raise InputError(
                f"{reader} takes {what}, but the prompt of response {row} has one response only"
            )
        if (("p", "i") in overs and len(step) < 2) or (("p",) in overs and len(sizes) < 2):
            raise InputError(f"{reader} takes a standard deviation over one element")
        if ("t",) in overs and int(step.lengths.min()) < 2:
            row = int(step.lengths.argmin())
            raise InputError(
                f"{reader} takes a standard deviation over the one token of response {row}"
            )


@cache
def _declared(*sources: Source) -> set[str]:
    """The columns and states that files declare, and columns of the policies that they name."""
    names: set[str] = set()
    for statement in (line for source in sources for line in parse(source).statements):
        match statement:
            case Given(name) | State(name) | Learn(name):
                names.add(name.id)
            case Policy(name):
                names.update(of_policy(name.id))
    return names
