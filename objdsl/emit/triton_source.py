"""From an objective to a Triton kernel over the logits of a chunk of tokens.

Where the weight of a token needs nothing but its own log-probability and data, one kernel does all
that happens between two matrix products: it computes the log-probability from the logits, the
objective's terms and weight from that, and the gradient by the logits from the weight. Of a value
or a report that needs more, the weight alone is computed here, and PyTorch does the rest.
"""

from __future__ import annotations

import objdsl.ir.nodes as n
from objdsl.emit.helpers import called, triton_helpers
from objdsl.emit.identifiers import Identifiers
from objdsl.emit.stages import ENVIRONMENT, Input, Staged, staged
from objdsl.emit.triton_writer import NotElementwiseError, TokenWriter, VocabWriter, function
from objdsl.emit.writer import title
from objdsl.frozen import dataclass
from objdsl.ir.build import ZERO
from objdsl.ir.columns import column_of
from objdsl.ir.differentiate import is_learned
from objdsl.ir.indices import SCALAR, VOCAB
from objdsl.ir.objective import Objective

RESERVED = {
    "tl", "triton", "objective", "vocab_weights", "head", "z", "grad", "rows", "target", "terms",
    "lse", "bias", "kept", "softcap", "temperature", "stride", "grad_stride", "kept_stride", "V",
    "BLOCK", "c", "i", "y", "logit", "w", "J", "v", "W", "log_p", "all_W", "total", "start",
    "softcap_grad", "valid", "grad_logit", "z_v",
}  # fmt: skip
"""Names of the kernel itself."""

LAUNCHER = {
    "num_warps", "num_stages", "num_ctas", "maxnreg", "grid", "warmup", "debug", "noinline",
    "device", "stream", "options", "params", "specialization", "specialize_impl", "backend",
    "constexpr", "JITCallable", "sanitize_overflow", "arch", "ir_override",
}  # fmt: skip
"""Names by which Triton's launcher knows its own arguments and variables."""


@dataclass(frozen=True)
class Kernel:
    """An emitted module, whose function `head` is the kernel.

    Attributes:
        inputs: what it loads, in order: a number for each token, or one number.
        reports: those whose terms it computes, after the term of J; None if it computes weights
            alone.
        learned: the numbers beside the policy, by which it computes terms of the derivative then.
        needs: what keeps it from computing more; empty if nothing does.
    """

    source: str
    inputs: tuple[Input, ...]
    reports: tuple[str, ...] | None
    learned: tuple[str, ...]
    needs: str


def emit(ir: Objective) -> Kernel:
    """The kernel of an objective that trains one policy. Needs neither Triton nor PyTorch.

    Raises:
        NotElementwiseError: the weight of a token needs more than that token.
    """
    stages = staged(ir, "packed")
    policies = {leaf.policy for leaf in stages.weights if isinstance(leaf, n.LogProb | n.LogDist)}
    if len(policies) != 1:
        raise NotElementwiseError(f"the log-probabilities of {len(policies)} policies")
    needs = ""
    try:
        source, inputs = _written(ir, stages, _terms(ir, stages))
    except NotElementwiseError as error:
        if any(leaf.indices == VOCAB for leaf in stages.weights):
            raise  # PyTorch could not tell the value: distributions are gone by then
        source, inputs = _written(ir, stages, None)
        needs = error.needs
    body = "\n\n\n".join(source)
    imports = "import triton\nimport triton.language as tl"
    blocks = [f"{title(ir)}\n\n{imports}", *called(triton_helpers(), body), body]
    reports = None if needs else tuple(report.name for report in ir.reports)
    learned = () if needs else tuple(_learned(stages))
    return Kernel("\n\n\n".join(blocks) + "\n", inputs, reports, learned, needs)


def _learned(stages: Staged) -> list[str]:
    return [column_of(leaf).name for leaf in stages.weights if is_learned(leaf)]


def _terms(ir: Objective, stages: Staged) -> list[tuple[str, n.Expr]]:
    """What the value, each report and each derivative by a learned number is a sum of, over tokens,
    by what each term is called.

    Raises:
        NotElementwiseError: they are sums over something else.
    """
    if any(isinstance(leaf, n.Column) and not is_learned(leaf) for leaf in stages.weights):
        raise NotElementwiseError("the gradient of the critic")
    terms = []
    names = {"value": "J"} | {f"report {report.name}": report.name for report in ir.reports}
    names |= {f"learned {name}": f"w_{name}" for name in _learned(stages)}
    for name, term in names.items():
        if stages.roots[f"{name} responses"] != ZERO:
            what = f"derivative by {name}" if name.startswith("learned") else name
            raise NotElementwiseError(f"the {what}, which is not a sum over tokens")
        terms.append((term, stages.roots[f"{name} tokens"]))
    return terms


def _written(
    ir: Objective, stages: Staged, terms: list[tuple[str, n.Expr]] | None
) -> tuple[list[str], tuple[Input, ...]]:
    """The functions of a kernel, and what it loads.

    Args:
        terms: what `_terms` returns; None to compute weights alone.
    """
    policy = next(x.policy for x in stages.weights if isinstance(x, n.LogProb | n.LogDist))
    weights = {type(x): stages.weight(x) for x in stages.weights if not is_learned(x)}
    identifiers = _identifiers(ir, stages)
    token = TokenWriter(stages, policy, identifiers)
    roots = {"w": weights[n.LogProb]} if n.LogProb in weights else {}
    if terms is not None:
        (_, value), *others = terms
        named = {token.identifiers.fresh(name): term for name, term in others}
        roots = {"J": value, **roots, **named}
    results = token.results(roots)
    given = [token.log_pi, *token.sums.values()]
    functions = [token.function("objective", given, results, _TOKEN_DOC[len(results) > 1])]
    vocab: VocabWriter | None = None
    if n.LogDist in weights:
        vocab = VocabWriter(stages, policy, identifiers, token.sums)
        partial = vocab.results(
            {"W": weights[n.LogDist], **{name: x.x for x, name in token.sums.items()}}
        )
        functions.insert(0, vocab.function("vocab_weights", ["log_p"], partial, _VOCAB_DOC))
    inputs = {**token.inputs, **(vocab.inputs if vocab else {})}
    functions.append(_head(token, list(roots), vocab, tuple(inputs.values())))
    return functions, tuple(inputs.values())


def _identifiers(ir: Objective, stages: Staged) -> Identifiers:
    """The identifiers of what a kernel loads."""
    identifiers = Identifiers({*RESERVED, *LAUNCHER, *triton_helpers()})
    for kind, keys in (
        ("environment", ENVIRONMENT),
        ("column", ir.columns),
        ("param", (param.name for param in ir.params)),
        ("stored", stages.scope.given.values()),
    ):
        for key in keys:
            identifiers.of(kind, key)
    return identifiers


_TOKEN_DOC = (
    "The weight of a token, w = dJ / dlog pi.",
    "The term of J, the weight w = dJ / dlog pi and the terms of the reports of a token.",
)
_VOCAB_DOC = "Weights W = dJ / dlog p of a block of the vocabulary, and terms of sums over it."


def _head(
    token: TokenWriter, results: list[str], vocab: VocabWriter | None, inputs: tuple[Input, ...]
) -> str:
    """The kernel: what a program does, for one token of a chunk.

    Args:
        results: of the function of a token.
        vocab: who wrote the function of the vocabulary; None if it has no weights.
    """
    shape = "bias, kept, softcap, temperature"
    terms = [name for name in results if name != "w"]
    arguments = ", ".join(
        ["z", "grad", "rows", "target", token.log_pi, *(["terms"] if terms else []),
         *(source.name for source in inputs), shape, "stride", "grad_stride", "kept_stride", "V",
         "BLOCK: tl.constexpr"]
    )  # fmt: skip
    sums = [f"tl.sum({name}, 0)" for name in token.sums.values()]
    given = ", ".join(["logit - lse", *sums, *map(_load, token.inputs.values())])
    lines = [
        '"""A token of a chunk: log-probability, terms and, unless `grad` is None, gradient."""',
        "c = tl.program_id(0).to(tl.int64)",
        "i = tl.load(rows + c)",
        "y = tl.load(target + c)",
        "z += c * stride",
        "if kept is not None:",
        "    kept += i * kept_stride",
        f"lse = log_sum_exp(z, {shape}, V, BLOCK)",
        f"logit, _ = logits(z, {shape}, y, V)",
        *(_sweep(token, vocab, shape) if vocab else []),
        f"{', '.join(results)} = objective({given})",
        f"tl.store({token.log_pi} + i, logit - lse)",
    ]
    for k, name in enumerate(terms):
        place = f"i * {len(terms)} + {k}" if k else f"i * {len(terms)}"
        lines.append(f"tl.store(terms + {place}, {name})")
    lines.append("if grad is not None:")
    if vocab is None:
        call = f"write_gradient(grad + c * grad_stride, z, {shape}, y, lse, w, V, BLOCK)"
        return function("head", arguments, [*lines, f"    {call}"])
    has_token_weight = "w" in results
    gradient = [
        "grad += c * grad_stride",
        f"total = tl.sum(all_W, 0){' + w' if has_token_weight else ''}",
        "for start in range(0, V, BLOCK):",
        "    v = start + tl.arange(0, BLOCK)",
        f"    z_v, softcap_grad = logits(z, {shape}, v, V)",
        f"    {_vocab_call(token, vocab)}",
        '    grad_logit = tl.where(z_v > -float("inf"), W, 0.0) - tl.exp(z_v - lse) * total',
        *(["    grad_logit += tl.where(v == y, w, 0.0)"] if has_token_weight else []),
        "    tl.debug_barrier()",
        "    tl.store(grad + v, (grad_logit * softcap_grad).to(grad.dtype.element_ty), mask=v < V)",
    ]
    return function("head", arguments, [*lines, *(f"    {line}" for line in gradient)])


def _sweep(token: TokenWriter, vocab: VocabWriter, shape: str) -> list[str]:
    """Adds up, over the vocabulary, weights and the terms of sums."""
    names = token.sums.values()
    return [
        "all_W = tl.zeros((BLOCK,), z.dtype.element_ty)",
        *(f"{name} = tl.zeros((BLOCK,), z.dtype.element_ty)" for name in names),
        "for start in range(0, V, BLOCK):",
        "    v = start + tl.arange(0, BLOCK)",
        f"    z_v, softcap_grad = logits(z, {shape}, v, V)",
        f"    {_vocab_call(token, vocab)}",
        '    valid = z_v > -float("inf")',
        "    all_W += tl.where(valid, W, 0.0)",
        *(f"    {name} += tl.where(valid, {token.partial[name]}, 0.0)" for name in names),
    ]


def _vocab_call(token: TokenWriter, vocab: VocabWriter) -> str:
    results = ", ".join(["W", *token.partial.values()])
    return (
        f"{results} = vocab_weights({', '.join(['z_v - lse', *map(_load, vocab.inputs.values())])})"
    )


def _load(source: Input) -> str:
    name = source.name
    if source.indices == SCALAR:
        return f"tl.load({name})"
    if source.indices == VOCAB:
        return f"tl.load({name} + i * V + v, mask=v < V, other=0.0)"
    return f"tl.load({name} + i)"
