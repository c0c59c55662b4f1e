"""One of two processes that train a model in shards; prints what it found as JSON.

    python shards.py RANK FILE

FILE is where the processes meet.
"""

import json
import math
import sys
from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    SequenceParallel,
    parallelize_module,
)

import equipoise.torch as eq
from equipoise.training.gradient_norms import tensor_norms

RULES = {
    "norm": eq.GlobalNorm(0.3),
    "value": eq.Value(0.01),
    "layer": eq.PerLayer(0.05),
    "unit": eq.PerUnit(0.02),
    "percentile": eq.Percentile(20.0, window=4),
    "zscore": eq.ZScore(0.5, warmup=2),
}


class Net(nn.Module):
    """Sizes that two processes cannot divide evenly are among them."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.up = nn.LayerNorm(6), nn.Linear(6, 14)
        self.down, self.head = nn.Linear(14, 5), nn.Linear(5, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.tanh(self.down(torch.relu(self.up(self.norm(x))))))


def net() -> Net:
    torch.manual_seed(0)
    return Net()


def fully(model: Net) -> nn.Module:
    for part in (model.up, model.down):
        fully_shard(part)
    return fully_shard(model)


def tensor_parallel(model: Net) -> nn.Module:
    mesh = init_device_mesh("cpu", (2,))
    plan = {"up": ColwiseParallel(), "down": RowwiseParallel()}
    return parallelize_module(model, mesh, plan)


def sequence_parallel(model: Net) -> nn.Module:
    """The norm is on every rank, which sees half of the rows: its gradient is a sum over both."""
    mesh = init_device_mesh("cpu", (2,))
    plan = {
        "norm": SequenceParallel(),
        "up": ColwiseParallel(input_layouts=Shard(1)),
        "down": RowwiseParallel(),
    }
    # Each rank reads its half of the rows.
    model.register_forward_pre_hook(lambda _, args: args[0].chunk(2, dim=1)[dist.get_rank()])
    return parallelize_module(model, mesh, plan)


def both(model: Net) -> nn.Module:
    """Tensor parallel over one axis of a mesh, fully sharded over the other, of length 1."""
    mesh = init_device_mesh("cpu", (1, 2), mesh_dim_names=("data", "tensor"))
    plan = {"up": ColwiseParallel(), "down": RowwiseParallel()}
    parallelize_module(model, mesh["tensor"], plan)
    for part in (model.up, model.down):
        fully_shard(part, mesh=mesh["data"])
    return model


def whole(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def batch(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(4, 6, 6, generator=generator)
    return x * (1 + step % 3), torch.randint(3, (24,), generator=generator)


def trained(
    model: nn.Module, rule: object, spoil_at: int = -1
) -> tuple[list[torch.Tensor], eq.Guard]:
    """Parameters in full after some guarded steps."""
    guard = eq.Guard(
        torch.optim.SGD(model.parameters(), 0.1), rule, model=model,
        rollback=eq.Rollback(every=2, patience=1, cut=0.5, recovery=0) if spoil_at >= 0 else None,
    )  # fmt: skip
    for step in range(6):
        x, y = batch(step)
        guard.zero_grad()
        loss = nn.functional.cross_entropy(model(x).flatten(0, 1), y)
        loss.backward()
        # Only one process sees that the loss is not finite.
        is_spoiled = step == spoil_at and dist.get_rank() == 0
        guard.step(loss=loss.detach() + (math.inf if is_spoiled else 0.0))
    return [whole(p.detach()).clone() for p in model.parameters()], guard


def difference(mine: list[torch.Tensor], theirs: list[torch.Tensor]) -> float:
    return max((a - b).abs().max().item() for a, b in zip(mine, theirs, strict=True))


def compared(shard: Callable[[Net], nn.Module]) -> dict[str, object]:
    found: dict[str, object] = {}
    for name, rule in RULES.items():
        plain, alone = trained(net(), rule)
        sharded, guard = trained(shard(net()), rule)
        norms, expected = (g.history["gradient_norm"] for g in (guard, alone))
        updates, moved = (g.history["update_norm"] for g in (guard, alone))
        found[name] = {
            "difference": difference(sharded, plain),
            "norms": abs(norms / expected - 1).max(),
            "updates": abs(updates / moved - 1).max(),
            "clipped": [guard.clipped_share, alone.clipped_share],
            "moved": difference(plain, [p.detach() for p in net().parameters()]),
        }
    plain, _ = trained(net(), None, spoil_at=3)
    sharded, guard = trained(shard(net()), None, spoil_at=3)
    found["rollback"] = {
        "difference": difference(sharded, plain) if dist.get_rank() == 0 else 0.0,
        "skipped": guard.skipped, "rollbacks": guard.rollbacks, "factor": guard.rate_factor,
        "code": guard.findings[0].code,
    }  # fmt: skip
    return found


def torch_itself() -> dict[str, float]:
    """clip_grad_norm_ of torch on the same shards."""
    models = [fully(net()), fully(net())]
    x, y = batch(2)
    for model in models:
        nn.functional.cross_entropy(model(x).flatten(0, 1), y).backward()
    norm = whole(torch.nn.utils.clip_grad_norm_(models[0].parameters(), 0.3))
    found = eq.clip_gradients_(list(models[1].parameters()), RULES["norm"])
    gradients = [[whole(p.grad) for p in model.parameters()] for model in models]
    return {"norm": abs(found.norm / norm - 1).item(), "difference": difference(*gradients)}


def placements() -> dict[str, float]:
    """Norms of every way a tensor may lie, against that of the whole."""
    mesh = init_device_mesh("cpu", (2,))
    torch.manual_seed(3)
    full = torch.randn(7, 4)
    found = {}
    for name, placement in (("rows", Shard(0)), ("columns", Shard(1)), ("copies", Replicate())):
        tensor = distribute_tensor(full, mesh, [placement])
        for order in (2.0, math.inf):
            norm = tensor_norms([tensor, full], order)
            found[f"{name}, {order}"] = abs(norm[0] / norm[1] - 1).item()
    parts = DTensor.from_local(full * (0.25 + 0.5 * dist.get_rank()), mesh, [Partial()])
    (kept,), clipping = eq.clip_gradients([parts], eq.GlobalNorm(1e9))
    found["sum"] = abs(clipping.norm / full.norm() - 1).item()
    found["sum, clipped"] = (whole(kept) - full).abs().max().item()
    (cut,), _ = eq.clip_gradients([parts], eq.Value(0.2))
    found["sum, cut"] = (whole(cut) - full.clamp(-0.2, 0.2)).abs().max().item()
    # More processes than rows: one of them holds nothing.
    thin = torch.randn(1, 4)
    shards = distribute_tensor(thin, mesh, [Shard(0)])
    found["empty"] = abs(tensor_norms([shards], math.inf)[0] - thin.abs().max()).item()
    p = distribute_tensor(torch.ones(1, 4), mesh, [Shard(0)])
    found["empty, units"] = float(not eq.clip_gradients([shards], eq.PerUnit(), [p])[1].is_clipped)
    return found


def main() -> None:
    rank, meeting = int(sys.argv[1]), sys.argv[2]
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    shards = (fully, tensor_parallel, sequence_parallel, both)
    found: dict[str, object] = {shard.__name__: compared(shard) for shard in shards}
    found |= {"torch": torch_itself(), "placements": placements()}
    dist.barrier()
    dist.destroy_process_group()
    print(json.dumps(found))


if __name__ == "__main__":
    main()
