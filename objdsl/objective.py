"""The Python face of an objective: from tensors to a loss.

A training step uses the two halves of it:

    step  = objective.prepare(mask=..., prompt=..., reward=..., ...)   # the whole optimizer step
    micro = objective(log_pi[rows], step[rows])                        # any part of its rows

Losses, gradients and reports of the parts add up to the step's, however it is cut; also into the
rows of several processes, which `prepare` then brings together (`group`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property, reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor

from objdsl import driver, gallery
from objdsl.analysis.coupling import Coupled, Coupling
from objdsl.analysis.coupling import coupled as coupled_weights
from objdsl.diagnostic import Diagnostic, near
from objdsl.emit.load import Compiled, load_kernel
from objdsl.emit.load import load as load_program
from objdsl.emit.stages import Layout
from objdsl.emit.torch_source import Function
from objdsl.emit.triton_source import Kernel, NotElementwiseError
from objdsl.errors import InputError, InputTypeError
from objdsl.fused.autograd import Formed, closed_form, refuse_batches
from objdsl.fused.head import Head, Precision
from objdsl.fused.kernels import TORCH, Kernels, Name, choose
from objdsl.fused.run import Run, sizes_of
from objdsl.fused.spread import Spread
from objdsl.gather import exchange, gather
from objdsl.inputs import (
    as_tensor,
    check_drawn,
    check_head,
    check_trained,
    cleaned,
    possible,
    prompt_numbers,
    read_rows,
    refuse_unknown,
)
from objdsl.ir.build import mul
from objdsl.ir.indices import PROMPT, RESPONSE, TOKEN, WORD, Indices
from objdsl.ir.nodes import Column as Leaf
from objdsl.ir.nodes import (
    Expr,
    LogDist,
    LogProb,
    Others,
    Pick,
    Position,
    Reduce,
    Scan,
    Shift,
    Stop,
)
from objdsl.ir.objective import Objective as Formula
from objdsl.ir.objective import Sampling, column_of, columns_of
from objdsl.plan import BUDGET, Schedule, plan
from objdsl.source import Source
from objdsl.step import Share, Step, mask_of
from objdsl.syntax.parse import parse
from objdsl.syntax.read import written
from objdsl.syntax.tree import Given, Policy

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

_OTHERS = "the mean over the other responses to a prompt"
# Schedules whose weights are final as soon as a token's own log-probability is known.
_AT_ONCE: tuple[Schedule, ...] = ("one pass", "one pass, whole responses")


@dataclass(frozen=True)
class Output:
    """What an objective says of some rows of an optimizer step.

    Attributes:
        loss: 0-d, to be minimised; `backward` reaches the trained inputs.
        value: 0-d, what is maximised (J, minus the critic's loss), without gradient.
        reports: the values that the file reports, 0-d, without gradient.
        log_pi: from `fused` alone, the log-probabilities that it computed, without gradient.
    """

    loss: Tensor
    value: Tensor
    reports: dict[str, Tensor]
    log_pi: Tensor | None = None


@dataclass(frozen=True)
class Column:
    """A column that an objective reads, and whether a gradient reaches it."""

    name: str
    indices: Indices
    trained: bool


class Objective:
    """An objective, ready to be trained with. Made by `objdsl.load` and `objdsl.loads`."""

    def __init__(self, formula: Formula, params: Mapping[str, float] | None = None) -> None:
        self.formula = formula
        self.params = {one.name: one.default for one in formula.at(params or {}).params}
        self._options: dict[str, Any] | None = None  # of torch.compile, if it runs under that
        self._compiled: dict[Layout, Any] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        """Copied and pickled as the formula that it is: its functions are made again."""
        return _restored, (self.formula, self.params, self._options)

    def __repr__(self) -> str:
        params = "".join(f", {name}={value:g}" for name, value in self.params.items())
        return f"<objdsl objective {self.formula.name}{params}>"

    def with_params(self, /, **params: float) -> Objective:
        """The same formula with other hyper-parameters.

        Raises:
            ValueError: for an unknown name, or a value outside the declared domain.
        """
        other = Objective(self.formula, {**self.params, **params})
        return other if self._options is None else other.compile(**self._options)

    # --- facts -----------------------------------------------------------------------------------

    @cached_property
    def findings(self) -> list[Diagnostic]:
        """What `objdsl check` says of it, at these hyper-parameters, whatever its text accepts."""
        from objdsl.lint.run import findings

        return findings(self.formula.at(self.params))

    def _repr_latex_(self) -> str:
        """The formula, for notebooks."""
        return f"$$\n{driver.mathematics(self.formula, latex=True)}\n$$"

    @property
    def name(self) -> str:
        return self.formula.name

    @cached_property
    def columns(self) -> dict[str, Column]:
        """The data that it reads. Token columns are `[N, T]` or `[M]`, response columns `[N]`."""
        trained = self.formula.trained
        return {
            name: Column(name, indices, name in trained)
            for name, indices in self.formula.columns.items()
        }

    @property
    def live(self) -> tuple[str, ...]:
        """The inputs that a gradient reaches, `log_pi` first."""
        return self.formula.trained

    @property
    def sample(self) -> Sampling:
        """How responses are to be drawn."""
        return self.formula.sampling

    @property
    def report_names(self) -> tuple[str, ...]:
        return tuple(report.name for report in self.formula.reports)

    @property
    def coupled(self) -> bool:
        """Whether the weights of one response depend on the current policy's log-probabilities of
        others. Before it is cut into micro-batches, such a step needs `couple`."""
        return self._program("padded").program.coupled

    @property
    def couples(self) -> bool:
        """Whether value, weights or reports of some rows depend on the current policy's
        log-probabilities of others."""
        return self._program("padded").couple is not None

    @cached_property
    def early(self) -> frozenset[str]:
        """The columns that `prepare` or `couple` compute with; all others matter only when the
        rows themselves are evaluated."""
        program = self._program("padded").program
        functions = [program.prepare, *([program.couple] if program.couple else [])]
        return frozenset(_columns_read(functions))

    @cached_property
    def digest(self) -> str:
        """A hash of the formula and its parameters: equal digests compute equal numbers."""
        state = hashlib.blake2b(self.formula.digest.encode(), digest_size=8)
        for name, value in sorted(self.params.items()):
            state.update(f"{name}={value!r};".encode())
        return state.hexdigest()

    def source(self, layout: Layout = "padded") -> str:
        """The PyTorch that it runs."""
        return self._program(layout).program.source

    # --- running ---------------------------------------------------------------------------------

    def compile(self, **options: Any) -> Objective:
        """Runs from now on under `torch.compile`, as one graph. Returns itself."""
        self._options = options
        self._compiled.clear()
        return self

    def prepare(
        self,
        /,
        *,
        prompt: Tensor | Sequence[Hashable] | None = None,
        mask: Tensor | None = None,
        lengths: Tensor | Sequence[int] | None = None,
        dtype: torch.dtype | None = None,
        generator: torch.Generator | None = None,
        check: bool = True,
        group: ProcessGroup | None = None,
        **columns: Any,
    ) -> Step:
        """Everything about an optimizer step that does not depend on the policy.

        With `group`, every rank of it calls this with the rows that it has, which may be none, and
        gets their part of the whole step: losses, gradients and reports of all ranks add up to
        what one process would compute.

        Args:
            prompt: `[N]`, ids that say which responses answer the same prompt, on whatever rank:
                numbers, strings, or anything that can be hashed.
            mask: `[N, T]`, which tokens belong to a response; padding may hold anything. Holes
                (the outputs of tools) are fine where the objective does not read the order.
            lengths: `[N]`, instead of `mask`, for packed tokens `[M]`.
            dtype: of the computation; by default the widest of the float columns, float32 at least.
            generator: draws what `pick` chooses, on the first of several ranks; the column `noise`
                may be given instead.
            check: look at the values of the columns; each look waits for the device.
            group: the ranks that the step is spread over.
            columns: `self.columns` but the trained ones. No gradient reaches them. Standard columns
                (`reward`, `log_ref`, ...) that it does not read are left aside.

        Raises:
            InputError: a ValueError, for a missing or an unknown column, a wrong shape or type, a
                value that cannot be (NaN or infinite in a live token, a log-probability above 0, a
                number outside of its declared domain), a mask that is neither 0 nor 1, an empty
                response, a group of one under `std` or `mean[j != i]`.
        """
        if group is None:
            own, own_dtype = self._rows(prompt, mask, lengths, columns, dtype, check, False)
            return self._prepared(own, own_dtype, generator, check)
        failure: ValueError | None = None
        try:
            own, own_dtype = self._rows(prompt, mask, lengths, columns, dtype, check, True)
            said = len(own), own_dtype, ""
        except ValueError as error:
            failure, said = error, (0, torch.float32, str(error))
        # What is wrong on one rank ends all of them, rather than let them wait for it.
        told = exchange(said, group)
        if failure is not None:
            raise failure
        for rank, (_, _, message) in enumerate(told):
            if message:
                raise InputError(f"rank {rank}: {message}")
        return self._shared(own, [(n, d) for n, d, _ in told], generator, check, group)

    def couple(self, step: Step, log_pi: Tensor | None = None, **trained: Tensor) -> Step:
        """The step with what couples its responses through the current policy.

        Args:
            step: the whole step, or all rows that a rank has of it; then every rank calls this.
            log_pi: `[N, T]` or `[M]`, the current log-probabilities of these rows.
            trained: other trained inputs, if the objective has any.

        Raises:
            InputError: for a part of a step, and for inputs that are wrong, or NaN in a live token.
        """
        self._check_step(step)
        if self._program(step.layout).couple is None:
            return step
        if not step.whole and step.share is None:
            raise InputError("couple needs the whole step, not a part of its rows")
        inputs = self._computable(self._trained(step, log_pi, trained))
        step.find_nan(inputs)
        return self._coupled(step, inputs)

    def _coupled(self, step: Step, inputs: Mapping[str, Tensor]) -> Step:
        compiled = self._program(step.layout)
        assert compiled.couple is not None and compiled.program.couple is not None
        function, share = compiled.program.couple, step.share
        read = _columns_read([function])
        live = {name: x for name, x in inputs.items() if name in read}
        whole = step
        if share is not None:
            whole, live = share.whole, gather(live, share.group)
        dtype = next(iter(live.values())).dtype
        with torch.no_grad():
            arguments = whole.arguments(function.inputs, dtype, live, self.params)
            found = compiled.couple(**arguments)
        coupled = replace(whole.with_values(found, function.outputs, dtype), coupled=True)
        return coupled if share is None else share.own(coupled)

    def __call__(
        self, /, log_pi: Tensor | None = None, step: Step | None = None, **columns: Any
    ) -> Output:
        """The loss of some rows.

        Args:
            log_pi: `[N, T]` or `[M]`, log-probabilities of the sampled tokens under the policy.
            step: what `prepare` returned, or some rows of it. Without it, the columns of the whole
                step are given instead, and prepared on the way.
            columns: other trained inputs (`value`, `log_pi_dist`, ...).

        Raises:
            InputError: for inputs of a wrong name, shape, type or device; on a CPU also for
                log-probabilities above 0, and for NaN and -inf in live tokens. On a GPU no value is
                looked at here, which would wait for the device.
        """
        trained = {name: columns.pop(name) for name in self.live[:] if name in columns}
        if step is None:
            if "prompt" not in columns:
                raise InputError(
                    f"{self.name} needs a step (what `prepare` returned), or `prompt`, `mask` and "
                    "the columns of a whole step"
                )
            columns.setdefault("dtype", _wide(log_pi, *trained.values()))
            step = self.prepare(**columns)
        elif columns:
            raise InputError(f"unknown input {next(iter(columns))!r}; it has {list(self.live)}")
        inputs = self._trained(step, log_pi, trained)
        with torch.no_grad():
            value, weights, reports = self._evaluate(step, inputs)
        names = list(weights)
        loss = closed_form(value, [inputs[k] for k in names], [weights[k] for k in names])
        return Output(loss, value, reports)

    def weights(
        self, log_pi: Tensor | None = None, step: Step | None = None, **trained: Tensor
    ) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
        """The value, its derivative by each trained input (`w = dJ / dlog pi`), and the reports.

        The closed form: no autograd. The loss is minus the value, its gradient minus the weights.
        """
        if step is None:
            raise InputError("weights needs a step; make one by `prepare`")
        inputs = self._trained(step, log_pi, trained)
        with torch.no_grad():
            return self._evaluate(step, inputs)

    def fused(
        self,
        hidden: Tensor,
        weight: Tensor,
        tokens: Tensor,
        step: Step,
        *,
        bias: Tensor | None = None,
        temperature: float = 1.0,
        softcap: float | None = None,
        kept: Tensor | None = None,
        schedule: Schedule | None = None,
        kernels: Name | None = None,
        precision: Precision = "inputs",
        spread: Spread | None = None,
        budget: int = BUDGET,
        **trained: Tensor,
    ) -> Output:
        """The loss from the hidden states on: logits and their gradients are never stored.

        `loss.backward()` reaches `hidden`, `weight`, `bias` and the inputs in `trained`, once.
        Logits, log-probabilities and sums are float32 whatever the model's type (float64 for
        float64).

        Args:
            hidden: `[N, T, H]` or `[M, H]`, what the head is applied to: the states that *predict*
                the tokens.
            weight: `[V, H]`, of the head; frozen if it needs no gradient.
            tokens: `[N, T]` or `[M]`, the words that were sampled.
            step: what `prepare` returned, or some rows of it.
            bias: `[V]`.
            temperature: by which the logits are divided.
            softcap: `c tanh(z / c)` is applied to the logits before that.
            kept: `[N, T, V]` or `[M, V]`, the words that the sampler kept.
            schedule: instead of the one that is chosen; see `objdsl compile --stage plan`.
            kernels: `torch` for tensor operations instead of Triton's kernels, which run on a GPU
                where Triton is installed; `triton` to be refused where they cannot run.
            precision: of the logits, where the head is float32 and `hidden` bfloat16: `inputs`
                multiplies in float32; `bf16x2` takes two products of bfloat16, which has 16 bits
                of the head; `bf16x3` three, which has all.
            spread: which of the step's tokens are here, where each rank has other tokens of the
                same responses (sequence parallelism). `hidden` and `kept` are then `[m, ...]` and
                `tokens` `[m]`; `step` and inputs in `trained` are the same on all ranks, whose
                values, reports and gradients add up.
            budget: bytes for all that is alive besides inputs and gradients.
            trained: trained inputs that do not come out of the head, such as `value`.

        Raises:
            ValueError: for inputs of a wrong name or shape, and for a schedule that cannot compute
                the objective.
        """
        self._check_step(step)
        coupled = self._coupled_afterwards if step.coupled else self._coupled_weights
        by_head = columns_of(coupled.name)
        for name in by_head:
            if name in trained:
                raise InputError(
                    f"fused computes {name!r} from `hidden` and `weight`; it is not given to it"
                )
        self._check_names(trained, [name for name in self.live if name not in by_head])
        tail = 2 if step.layout == "padded" else 1
        shape = tuple(step.mask.shape) if tail == 2 else (int(step.lengths.sum()),)
        here = shape if spread is None else tuple(spread.places.shape)
        if tuple(hidden.shape[:-1]) != here or tuple(tokens.shape) != here:
            raise InputError(
                f"hidden must be [{', '.join(map(str, here))}, H] and tokens the same without H, "
                f"not {list(hidden.shape)} and {list(tokens.shape)}"
            )
        live = step.mask if tail == 2 and spread is None else None
        check_head(hidden, weight, tokens, live, bias, kept, temperature, softcap)
        with torch.no_grad():
            head = Head.under(
                hidden, weight, bias=bias, temperature=temperature, softcap=softcap, kept=kept,
                precision=precision,
            )  # fmt: skip
            frozen = not weight.requires_grad and (bias is None or not bias.requires_grad)
            sizes = sizes_of(head, step, frozen, spread)
            sweeps = spread is None and self._sweeps(kernels, head, schedule)
            if coupled.words is not None and sweeps:
                coupled = replace(coupled, log_prob=Coupling.TOKEN, words=None)
            chosen = plan(coupled, sizes, budget=budget, schedule=schedule)
            others = {name: x.detach() for name, x in trained.items()}
            at_once = spread is None and chosen.schedule in _AT_ONCE
            chosen_kernels = self._kernels(kernels, head, step, others, at_once)
            factors = None
            if chosen.schedule == "one pass, scaled afterwards":
                share, scale = (
                    self._part(name, step, head.wide, others) for name in ("share", "scale")
                )
                factors = share, scale
            alive = self._alive(step, head.wide)
            if spread is not None and alive is not None:
                alive = alive[spread.places]
            run = Run(self, step, coupled, others, alive, factors, chosen_kernels, spread)
            made, (value, weights, reports) = run(
                head, hidden.detach().flatten(0, -2), tokens.flatten(), chosen, frozen=frozen
            )
        formed = [
            (hidden, made.hidden.view(hidden.shape)), (weight, made.weight), (bias, made.bias),
            *((x, weights[name].clone()) for name, x in trained.items() if name in weights),
        ]  # fmt: skip
        pairs = [(x, by.to(x.dtype)) for x, by in formed if x is not None and by is not None]
        inputs, gradients = zip(*pairs, strict=True)
        loss = Formed.apply(value, len(pairs), *inputs, *gradients)  # type: ignore[no-untyped-call]
        return Output(loss, value, reports, made.log_pi.view(shape))

    def _sweeps(self, wish: Name | None, head: Head, schedule: Schedule | None) -> bool:
        """Whether a kernel sees to the weights of words, so that a schedule need not."""
        if choose(wish, head.weight.device) == "torch" or self._emitted_kernel is None:
            return False
        return schedule in (None, *_AT_ONCE)

    def _kernels(
        self,
        wish: Name | None,
        head: Head,
        step: Step,
        others: Mapping[str, Tensor],
        at_once: bool,
    ) -> Kernels:
        """What is done to logits: with the objective in it, where that needs single tokens, and
        weights are used as soon as they are known (`at_once`)."""
        if choose(wish, head.weight.device) == "torch":
            return TORCH
        from objdsl.fused import triton

        if self._emitted_kernel is None or not at_once:
            return triton.TritonKernels()
        return triton.with_objective(*self._emitted_kernel, step, self.params, others, head)

    @cached_property
    def _emitted_kernel(self) -> tuple[Kernel, Any] | None:
        try:
            return load_kernel(self.formula)
        except NotElementwiseError:
            return None

    @cached_property
    def _coupled_weights(self) -> Coupled:
        return coupled_weights(self.formula)

    @cached_property
    def _coupled_afterwards(self) -> Coupled:
        """The same once `couple` has found out what couples responses."""
        return coupled_weights(self.formula, statistics=True)

    @cached_property
    def _helpers(self) -> dict[str, Objective]:
        """Objectives whose weights are parts of this one's: `share` and `scale`, if it comes apart;
        `alive`, which is 1 where this one may have a weight."""
        coupled = self._coupled_weights
        parts: dict[str, Expr] = {}
        if coupled.alive is not None:
            parts["alive"] = coupled.alive
        if coupled.separated is not None:
            parts["share"] = Stop(coupled.separated.share)
            parts["scale"] = Stop(coupled.separated.scale)
        log_pi = LogProb(coupled.name, trained=True)
        return {
            name: Objective(
                replace(
                    self.formula,
                    goal=Reduce("sum", TOKEN, mul(part, log_pi)),
                    critic=None,
                    reports=(),
                    keep=None,
                ),
                self.params,
            )
            for name, part in parts.items()
        }

    def _alive(self, step: Step, dtype: torch.dtype) -> Tensor | None:
        """`[N * T]` or `[M]`, the tokens that may have a weight, as far as data say so."""
        if "alive" not in self._helpers:
            return None
        zeros = torch.zeros(step.mask.shape, dtype=dtype, device=step.mask.device)
        if step.layout == "packed":
            zeros = zeros[step.mask]
        return self._part("alive", step, dtype, {})(zeros) != 0

    def _helped(self, name: str, step: Step, dtype: torch.dtype) -> Step:
        """What a helper knows before training of the rows of a step: of the whole step, it was
        prepared once."""
        if step.origin is not None:
            whole, rows = step.origin
            part = self._helped(name, whole, dtype)[rows]
            if step.layout == "packed":
                return part
            width = step.mask.shape[1]
            tokens = {key: x[:, :width] for key, x in part.tokens.items()}
            return replace(part, mask=part.mask[:, :width], tokens=tokens)
        helper = self._helpers[name]
        key = f"{helper.digest} {dtype}"
        if key not in step.helped:
            compiled = helper._program(step.layout)
            prepare = compiled.program.prepare
            arguments = step.arguments(prepare.inputs, dtype, {}, helper.params)
            stored = compiled.prepare(**arguments)
            helped = step.with_values(stored, prepare.outputs, dtype)
            step.helped[key] = replace(helped, objective=helper.digest)
        return step.helped[key]

    def _part(
        self, name: str, step: Step, dtype: torch.dtype, others: Mapping[str, Tensor]
    ) -> Callable[[Tensor], Tensor]:
        """The weights of a helper, as a function of the log-probabilities of the flattened rows."""
        helper, ready = self._helpers[name], self._helped(name, step, dtype)
        live = f"log_{self._coupled_weights.name}"
        given = {key: x for key, x in others.items() if key in helper.live}

        def part(log_pi: Tensor) -> Tensor:
            shaped = log_pi.view(step.mask.shape) if step.layout == "padded" else log_pi
            return helper.weights(step=ready, **{live: shaped}, **given)[1][live].flatten()

        return part

    def _evaluate(
        self, step: Step, trained: Mapping[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
        inputs = self._computable(trained)
        compiled = self._program(step.layout)
        program = compiled.program
        silent: tuple[str, ...] = ()
        if program.couple is not None and not step.coupled:
            if step.whole:
                step = self._coupled(step, inputs)
            elif program.coupled:
                raise InputError(
                    f"{self.name} couples responses through the current policy: call "
                    "`step = objective.couple(step, log_pi=...)` on the whole step before it is cut"
                )
            else:
                # Only reports are coupled: those of a part of the step have no meaning.
                silent = program.whole_step_reports
                step = step.with_placeholders(program.couple.outputs)
        dtype = next(iter(inputs.values())).dtype
        arguments = step.arguments(program.objective.inputs, dtype, inputs, self.params)
        value, weights, reports = self._function(step.layout)(**arguments)
        if not torch.compiler.is_compiling() and value.device.type == "cpu" and value.isnan():
            step.find_nan(inputs)
        for name, x in trained.items():
            if name in weights:
                weights[name] = weights[name].to(x.dtype).expand(x.shape)
        return value, weights, {k: v for k, v in reports.items() if k not in silent}

    def _function(self, layout: Layout) -> Any:
        if self._options is None or torch.compiler.is_compiling():
            return self._program(layout).objective
        if layout not in self._compiled:
            function = self._program(layout).objective
            self._compiled[layout] = torch.compile(function, fullgraph=True, **self._options)
        return self._compiled[layout]

    def _program(self, layout: Layout) -> Compiled:
        programs = self.__dict__.setdefault("_programs", {})
        if layout not in programs:
            programs[layout] = load_program(self.formula, layout)
        return programs[layout]  # type: ignore[no-any-return]

    # --- inputs ----------------------------------------------------------------------------------

    def _check_step(self, step: Step) -> None:
        if not isinstance(step, Step):
            raise InputTypeError(f"a step is what `prepare` returns, not {type(step).__name__}")
        if step.objective != self.digest:
            raise InputError(
                f"this step was prepared by another objective than {self!r}: each stores what it "
                "needs itself, at its own hyper-parameters"
            )

    def _check_names(self, given: Mapping[str, Tensor], names: Sequence[str]) -> None:
        """That these are the trained inputs, no fewer and no others."""
        for name in given:
            if name not in names:
                guess = near(name, names)
                raise InputError(
                    f"unknown input {name!r}; it has {list(names)}"
                    + (f"; did you mean {guess!r}?" if guess else "")
                )
        for name in names:
            if name not in given:
                raise InputError(f"{self.name} needs the trained input {name!r}")

    def _trained(
        self, step: Step, log_pi: Tensor | None, others: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        self._check_step(step)
        given = dict(others) if log_pi is None else {"log_pi": log_pi, **others}
        if not torch.compiler.is_compiling():
            refuse_batches(x for x in given.values() if isinstance(x, Tensor))
        self._check_names(given, self.live)
        found: dict[str, Tensor] = {}
        for name in self.live:
            leaf = self._leaves[name]
            check_trained(name, given[name], leaf.indices, step)
            x = given[name].detach()
            # Anywhere else a look at the values would wait for the device.
            if isinstance(leaf, LogProb) and x.is_cpu and not torch.compiler.is_compiling():
                check_drawn(name, x, step)
            found[name] = given[name]
        return found

    def _computable(self, trained: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Trained inputs without their graph, as float32 at least, and finite where words cannot
        come."""
        found = {name: x.detach().to(_wide(x)) for name, x in trained.items()}
        words = {name for name, leaf in self._leaves.items() if isinstance(leaf, LogDist)}
        return {name: possible(x) if name in words else x for name, x in found.items()}

    @cached_property
    def _leaves(self) -> dict[str, Expr]:
        """The columns that it reads, as they stand in the formula."""
        named = {column_of(node): node for node in self.formula.nodes}
        leaves = {name: node for name, node in named.items() if name is not None}
        drawn = {name: Leaf(name, TOKEN) for name, x in leaves.items() if isinstance(x, Pick)}
        return leaves | drawn

    @cached_property
    def _accepted(self) -> set[str]:
        """Names of columns that it may be given although it does not read them: those that its own
        file declares, or one of the gallery."""
        own = [] if self.formula.source is None else [self.formula.source]
        return _declared(*own) | _declared(*map(gallery.bundled, gallery.names()))

    def _missing(self, name: str, column: Column, given: Mapping[str, Any]) -> str:
        shape = {PROMPT: "[N]", RESPONSE: "[N]", TOKEN: "[N, T]", WORD: "[N, T, V]"}
        text = f"{self.name} reads the column {name!r} {shape[column.indices]}, which is missing"
        guess = near(name, [k for k in given if k not in self.columns])
        return text + (f"; did you mean it by {guess!r}?" if guess else "")

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
        """The rows that were given, each of them checked for itself, and the type to compute in."""
        refuse_unknown(self.name, self._leaves, columns, lambda: self._accepted)
        layout, size, mask = read_rows(mask, lengths)
        ids = prompt_numbers(prompt, len(size), size.device, shared)
        ordered = [n for n in self.formula.nodes if isinstance(n, Position | Shift | Scan)]
        if ordered and not bool((mask[:, 1:] <= mask[:, :-1]).all()):
            raise InputError(
                f"{self.name} uses the order of the tokens, so mask must have no holes: "
                "all tokens of a response first, then its padding"
            )
        step = Step(layout, size, mask, {}, {"prompt": ids}, {}, {})
        given = {name: as_tensor(name, x, mask.device) for name, x in columns.items()}
        if dtype is None:
            dtype = _wide(*(x for x in given.values() if x.is_floating_point()))
        if not dtype.is_floating_point:
            raise InputError(f"dtype must be a float type, not {dtype}")
        for name, column in self.columns.items():
            if column.trained or (name == "noise" and name not in given):
                continue
            if name not in given:
                raise InputError(self._missing(name, column, columns))
            domain = self.formula.domains.get(name)
            x = cleaned(name, self._leaves[name], given[name], step, dtype, check, domain)
            (step.tokens if len(column.indices) > 2 else step.responses)[name] = x
        return step, dtype

    def _shared(
        self,
        own: Step,
        told: Sequence[tuple[int, torch.dtype]],
        generator: torch.Generator | None,
        check: bool,
        group: ProcessGroup,
    ) -> Step:
        """A rank's part of the step that the rows of all ranks are.

        Args:
            told: how many rows each rank has, and the type that it would compute in.
        """
        program = self._program(own.layout).program
        functions = [program.prepare, *([program.couple] if program.couple else [])]
        read = _columns_read(functions)
        wide = [name for name, column in self.columns.items() if column.indices == WORD]
        local = {name: own.tokens[name] for name in wide if name in own.tokens.keys() - read}
        tokens = {name: x for name, x in own.tokens.items() if name not in local}
        shape = {"mask": own.mask} if own.layout == "padded" else {"lengths": own.lengths}
        found = gather({**shape, **tokens, **own.responses}, group)
        dtypes = [dtype for many, dtype in told if many] or [told[0][1]]
        dtype = reduce(torch.promote_types, dtypes)
        for name in self.columns.keys() & found.keys():
            if found[name].is_floating_point():
                found[name] = found[name].to(dtype)
        padded = own.layout == "padded"
        lengths = found["mask"].sum(-1) if padded else found["lengths"]
        whole = Step(
            own.layout,
            lengths,
            found["mask"] if padded else mask_of(lengths),
            {name: found[name] for name in tokens},
            {name: found[name] for name in own.responses},
            {},
            {},
        )
        whole = self._prepared(whole, dtype, generator, check, group)
        counts = [many for many, _ in told]
        first = sum(counts[: group.rank()])
        mine = slice(first, first + len(own))
        return Share(group, whole, mine, own.mask.shape[1], local).own(whole)

    def _prepared(
        self,
        step: Step,
        dtype: torch.dtype,
        generator: torch.Generator | None,
        check: bool,
        group: ProcessGroup | None = None,
    ) -> Step:
        """The whole step, from its rows."""
        if len(step) == 0:
            raise InputError("a step needs at least one response")
        unique, rank = torch.unique(step.responses["prompt"], return_inverse=True)
        first = torch.full_like(unique, len(step), dtype=torch.long).scatter_reduce(
            0, rank, torch.arange(len(step), device=rank.device), "amin"
        )
        step.responses["prompt"] = rank
        step.environment.update(
            n_prompts=len(unique),
            group_size=torch.bincount(rank, minlength=len(unique)),
            first=first,
        )
        if "noise" in self.columns and "noise" not in step.tokens:
            # A number for each token, however wide the padding is.
            many = int(step.lengths.sum())
            noise = torch.rand(many, generator=generator, dtype=torch.float64)
            noise = noise.to(step.mask.device)
            if group is not None:
                dist.broadcast(noise, group=group, group_src=0)
            if step.layout == "padded":
                noise = noise.new_zeros(step.mask.shape).masked_scatter(step.mask, noise)
            step.tokens["noise"] = cleaned(
                "noise", self._leaves["noise"], noise, step, dtype, check
            )
        if check:
            self._check_prompts(step)
            self._check_counts(step)
        compiled = self._program(step.layout)
        with torch.no_grad():
            inputs = compiled.program.prepare.inputs
            arguments = step.arguments(inputs, dtype, {}, self.params)
            stored = compiled.prepare(**arguments)
        step = replace(step, objective=self.digest)
        return step.with_values(stored, compiled.program.prepare.outputs, dtype)

    def _check_prompts(self, step: Step) -> None:
        """What belongs to a prompt is the same for all its responses."""
        for name, column in self.columns.items():
            if column.indices != PROMPT or column.trained:
                continue
            x = step.responses[name]
            if not bool((x == x[step.environment["first"]][step.responses["prompt"]]).all()):
                raise InputError(f"the column {name!r} differs between responses to one prompt")

    def _check_counts(self, step: Step) -> None:
        """What divides by n - 1 needs two elements."""
        overs = {n.over for n in self.formula.nodes if isinstance(n, Reduce) and n.op == "std"}
        sizes = step.environment["group_size"]
        alone = any(isinstance(n, Others) and n.op == "mean" for n in self.formula.nodes)
        if (("i",) in overs or alone) and int(sizes.min()) < 2:
            group = int(sizes.argmin())
            row = int((step.responses["prompt"] == group).nonzero()[0])
            what = "the standard deviation over a group" if ("i",) in overs else _OTHERS
            raise InputError(
                f"{self.name} takes {what}, but the prompt of response {row} has one response only"
            )
        if (("p", "i") in overs and len(step) < 2) or (("p",) in overs and len(sizes) < 2):
            raise InputError(f"{self.name} takes a standard deviation over one element")
        if ("t",) in overs and int(step.lengths.min()) < 2:
            row = int(step.lengths.argmin())
            raise InputError(
                f"{self.name} takes a standard deviation over the one token of response {row}"
            )


def _restored(
    formula: Formula, params: Mapping[str, float], options: dict[str, Any] | None
) -> Objective:
    objective = Objective(formula, params)
    return objective if options is None else objective.compile(**options)


def load(name: str | Path, /, **params: float) -> Objective:
    """An objective from a file, or from the gallery by its name.

    Args:
        name: a path ending in `.obj`, or a gallery name such as `grpo`.
        params: hyper-parameters that differ from the file's defaults.

    Raises:
        FileNotFoundError: there is neither.
        ObjectiveError: the text is not an objective.
        ValueError: a parameter is unknown, or outside its domain.
    """
    return Objective(driver.compile_source(gallery.find(name)), params)


def loads(text: str, /, **params: float) -> Objective:
    """An objective from its text."""
    return Objective(driver.compile_source(written("<string>", text)), params)


def _columns_read(functions: Iterable[Function]) -> set[str]:
    """The columns that emitted functions compute with."""
    inputs = (one for function in functions for one in function.inputs)
    return {one.key for one in inputs if one.kind == "column"}


@cache
def _declared(*sources: Source) -> set[str]:
    """The columns that files declare, and those of the policies that they name."""
    names: set[str] = set()
    for statement in (one for source in sources for one in parse(source).statements):
        match statement:
            case Given(name):
                names.add(name.id)
            case Policy(name):
                names.update(columns_of(name.id))
    return names


def _wide(*tensors: Any) -> torch.dtype:
    """The widest type, and float32 at least: narrower sums over a response lose its tokens."""
    types = (x.dtype for x in tensors if isinstance(x, Tensor))
    return reduce(torch.promote_types, types, torch.float32)
