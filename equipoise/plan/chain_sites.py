"""Sites on the way through a chain of layers, and how many numbers and products they are."""

import math

from equipoise.plan.stacks import Stack


def numbers(stack: Stack) -> int:
    """Numbers that one row makes on its way through a stack."""
    return stack.affines[0].in_size * math.prod(in_sites(stack)) + sum(
        a.out_size * math.prod(sites)
        for a, sites in zip(stack.affines, out_sites(stack), strict=True)
    )


def products(stack: Stack) -> int:
    """Products that one row takes on its way through a stack."""
    total = 0
    for a, sites in zip(stack.affines, out_sites(stack), strict=True):
        reads = math.prod(a.in_sites if a.convolution.is_transposed else sites)
        total += reads * a.out_size * a.in_size * a.convolution.taps // a.convolution.groups
    return total


def in_sites(stack: Stack) -> tuple[int, ...]:
    """Sites of what enters; before a linear layer they are those of the convolution behind it."""
    for i, affine in enumerate(stack.affines):
        if affine.convolution.kernel:
            return affine.in_sites
        if i < len(stack.hidden) and (stack.hidden[i].copies > 1 or stack.hidden[i].pools):
            break
    return ()


def out_sites(stack: Stack) -> list[tuple[int, ...]]:
    """Sites at the output of each layer; a linear layer keeps those of the maps that it reads."""
    found, sites = list[tuple[int, ...]](), in_sites(stack)
    for i, affine in enumerate(stack.affines):
        sites = affine.out_sites or sites
        found.append(sites)
        if i < len(stack.hidden):
            h = stack.hidden[i]
            for pool in (*h.early_pools, *h.pools):
                sites = pool.out_sites
            # A flatten may join the last axis of sites alone: the others go on beside it.
            left = math.prod(sites) // h.copies
            sites = sites if h.copies == 1 else (left,) if left > 1 else ()
    return found
