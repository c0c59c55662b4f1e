"""Whether a number may be read from a tensor to choose what to do next."""

import torch

_PLAIN = (torch.Tensor, torch.nn.Parameter)


def can_read(tensor: torch.Tensor) -> bool:
    """Whether ``tensor.item()`` would neither wait for a device nor break what is being recorded.

    True for plain tensors in the memory of the host, outside of ``torch.compile``,
    ``torch.export``, ``torch.jit.trace``, the transforms of ``torch.func`` and dispatch modes (fake
    tensors, ``make_fx``).

    Args:
        tensor: of any shape.

    >>> can_read(torch.zeros(3)), can_read(torch.zeros(3, device="meta"))
    (True, False)
    """
    # The order matters: the compiler must not get to see the calls after the first.
    return (
        not torch.compiler.is_compiling()
        and tensor.is_cpu
        and type(tensor) in _PLAIN
        # torch has no public word for these, or none with types.
        and not torch._C._are_functorch_transforms_active()
        and torch._C._len_torch_dispatch_stack() == 0
        and torch._C._get_tracing_state() is None
        # What torch.autograd.grad(..., is_grads_batched=True) hands to a backward pass.
        and not torch._C._functorch.is_legacy_batchedtensor(tensor)
    )
