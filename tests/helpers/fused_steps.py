"""Small steps for the fused head: hidden states, a head of the model, and the data of a batch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import objdsl
from objdsl.objectives import gallery

V, H = 11, 6
LENGTHS = torch.tensor([3, 6, 1, 2, 4, 6, 2, 3])
PARAMS = {
    "clip_cov": {"low": 0.0, "high": 0.5, "fraction": 0.3},
    "kl_cov": {"fraction": 0.3},
    "gspo": {"eps_low": 0.1, "eps_high": 0.1},
    "dapo": {"L_max": 5, "L_cache": 3},
    "qae": {"L_max": 5, "L_cache": 3},
    "deepseek_v32": {"beta": 0.1, "delta": 0.05},
}


def trainable(name: str) -> bool:
    return len([x for x in objdsl.load(name).live if x.startswith("log_") and "dist" not in x]) <= 1


NAMES = [name for name in gallery.names() if trainable(name)]


def scene(objective: objdsl.Objective, packed: bool, seed: int = 0) -> dict[str, Any]:
    """Hidden states, a head, and the data of a step whose policies are close to each other."""
    torch.manual_seed(seed)
    mask = torch.arange(6) < LENGTHS[:, None]
    f64 = {"dtype": torch.float64}
    hidden, weight = torch.randn(8, 6, H, **f64), torch.randn(V, H, **f64) / 2
    bias, tokens = torch.randn(V, **f64) / 3, torch.randint(V, (8, 6))
    log_p = torch.log_softmax(hidden @ weight.T + bias, -1)
    near = log_p.gather(-1, tokens[..., None]).squeeze(-1)
    columns: dict[str, Tensor] = {}
    for name, column in objective.columns.items():
        match column.indices:
            case ("p", "i", "t", "v"):
                x = torch.log_softmax(log_p + 0.3 * torch.randn(8, 6, V, **f64), -1)
            case ("p", "i", "t"):
                x = near + 0.3 * torch.randn(8, 6, **f64)
            case ("p",):
                x = torch.ones(8, **f64)
            case ():
                x = torch.tensor(0.5, **f64)
            case _:
                x = torch.tensor([1.0, 0, 0, 1, 0, 0, 1, 0], **f64)
        columns[name] = x
    pick = (lambda x: x[mask]) if packed else (lambda x: x)
    columns = {n: pick(x) if x.dim() > 1 else x for n, x in columns.items()}
    rows = {"lengths": LENGTHS} if packed else {"mask": mask}
    return {
        "hidden": pick(hidden), "weight": weight, "bias": bias, "tokens": pick(tokens),
        "columns": columns, "rows": {**rows, "prompt": torch.arange(8) // 2}, "mask": mask,
    }  # fmt: skip


def prepared(objective: objdsl.Objective, data: dict[str, Any]) -> tuple[Any, dict[str, Tensor]]:
    """The step, and the trained inputs that do not come from the head."""
    columns = dict(data["columns"])
    live = {name: columns.pop(name) for name in objective.live}
    others = {n: x.requires_grad_() for n, x in live.items() if not n.startswith("log_")}
    generator = torch.Generator().manual_seed(0)
    return objective.prepare(**columns, **data["rows"], generator=generator), others


def plain(
    objective: objdsl.Objective, data: dict[str, Any], step: Any, others: dict[str, Tensor],
    temperature: float, softcap: float | None,
) -> tuple[objdsl.objective.Output, list[Tensor]]:  # fmt: skip
    """The same through logits and autograd."""
    leaves = [data[k].clone().requires_grad_() for k in ("hidden", "weight", "bias")]
    z = leaves[0] @ leaves[1].T + leaves[2]
    if softcap is not None:
        z = softcap * torch.tanh(z / softcap)
    log_p = torch.log_softmax(z / temperature, -1)
    inputs: dict[str, Tensor] = {}
    for name in objective.live:
        if name.endswith("_dist"):
            inputs[name] = log_p
        elif name.startswith("log_"):
            inputs[name] = log_p.gather(-1, data["tokens"][..., None]).squeeze(-1)
    out = objective(step=step, **inputs, **others)
    out.loss.backward()
    return out, [x.grad for x in (*leaves, *others.values())]  # type: ignore[misc]
