"""Tables of windows against torch's own convolutions, paddings and poolings."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from equipoise.schemes.convolution import Convolution
from equipoise.schemes.sites import Pooling, Sites, block_sites, central_slices, window_sites


def _maps(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def _flat(maps):
    return maps.reshape(*maps.shape[:2], -1)


def _out(size, window, stride, padding, dilation):
    return (size + 2 * padding - dilation * (window - 1) - 1) // stride + 1


GEOMETRIES = [
    ((8, 8), (2, 2), (2, 2), (0, 0), (1, 1)),
    ((7, 9), (3, 2), (2, 3), (1, 1), (1, 1)),
    ((9, 6), (3, 3), (1, 2), (1, 0), (2, 1)),
    ((5, 5), (5, 5), (1, 1), (0, 0), (1, 1)),
]


def _table(sites, window, stride, padding, dilation):
    out = [_out(*axis) for axis in zip(sites, window, stride, padding, dilation, strict=True)]
    return window_sites(sites, out, window, stride, padding, dilation)


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_joined_windows_are_an_unfolded_map(geometry):
    sites, window, stride, padding, dilation = geometry
    maps = _maps(3, 4, *sites)
    expected = F.unfold(torch.from_numpy(maps), window, dilation, padding, stride).numpy()
    np.testing.assert_array_equal(_table(*geometry).joined(_flat(maps)), expected)


@pytest.mark.parametrize("counts", [True, False])
@pytest.mark.parametrize("geometry", [g for g in GEOMETRIES if g[4] == (1, 1)])
def test_averages(geometry, counts):
    sites, window, stride, padding, _ = geometry
    maps = _maps(3, 4, *sites)
    expected = F.avg_pool2d(
        torch.from_numpy(maps), window, stride, padding, count_include_pad=counts
    ).numpy()
    found = Pooling("average", _table(*geometry), counts).pooled(_flat(maps))
    np.testing.assert_allclose(found, _flat(expected), atol=1e-14)


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_maxima(geometry):
    sites, window, stride, padding, dilation = geometry
    maps = _maps(3, 4, *sites)
    expected = F.max_pool2d(torch.from_numpy(maps), window, stride, padding, dilation).numpy()
    found = Pooling("maximum", _table(*geometry)).pooled(_flat(maps))
    np.testing.assert_array_equal(found, _flat(expected))


@pytest.mark.parametrize("kind", ["average", "maximum"])
@pytest.mark.parametrize("geometry", GEOMETRIES[:2])
def test_cotangents_go_back_as_autograd_sends_them(kind, geometry):
    """Mean squares over many independent cotangents and maps."""
    sites, window, stride, padding, _ = geometry
    draws = 20000
    maps = torch.from_numpy(_maps(draws, 1, *sites)).requires_grad_()
    pool = F.avg_pool2d if kind == "average" else F.max_pool2d
    out = pool(maps, window, stride, padding)
    # Louder where the number of the site is higher.
    loud = torch.arange(1, out[0].numel() + 1, dtype=torch.float64).reshape(out.shape[1:])
    out.backward(torch.from_numpy(_maps(*out.shape, seed=1)) * loud.sqrt())
    squares = maps.grad.reshape(draws, -1).square()
    error = (squares.std(0) / draws**0.5).numpy()
    totals = loud.reshape(1, -1).numpy()
    found = Pooling(kind, _table(*geometry)).returned(totals)[0]
    if kind == "maximum":
        # A window of a border holds fewer sites: chances are equal within each window only.
        assert found.sum() == pytest.approx(totals.sum())
    assert (abs(squares.mean(0).numpy() - found) <= 4 * error + 1e-12).all()


@pytest.mark.parametrize("mode", ["circular", "reflect", "replicate"])
def test_padding_modes(mode):
    maps = _maps(2, 3, 6, 5)
    padded = F.pad(torch.from_numpy(maps), (1, 1, 2, 2), mode=mode)
    expected = F.unfold(padded, (3, 2)).numpy()
    table = window_sites((6, 5), (8, 6), (3, 2), (1, 1), (2, 1), mode=mode)
    np.testing.assert_array_equal(table.joined(_flat(maps)), expected)


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "size", "unread", "edge"),
    [
        (3, 1, 1, 8, 0, False),  # the centre
        (3, 2, 1, 8, 0, False),  # two taps, every site once
        (3, 2, 1, 7, 0, True),  # the last window reaches beyond the map
        (7, 2, 3, 8, 0, False),
        (1, 2, 0, 8, 4, False),  # kernel smaller than the stride
        (3, 1, 0, 8, 2, False),  # no padding: the border is not read
    ],
)
def test_blocks_of_a_kernel(kernel, stride, padding, size, unread, edge):
    """The block reads what the kernel reads through the same taps."""
    convolution = Convolution((kernel,), (stride,), ((padding, padding),), (1,))
    block = (min(kernel, stride),)
    out = _out(size, kernel, stride, padding, 1)
    table = block_sites(convolution, block, (size,), (out,))
    assert (table.unread, table.reads_padding) == (unread, edge)
    maps = _maps(2, 3, size)
    weight = np.zeros((4, 3, kernel))
    weight[(slice(None), slice(None), *central_slices((kernel,), block))] = _maps(4, 3, *block)
    expected = F.conv1d(
        torch.from_numpy(maps), torch.from_numpy(weight), stride=stride, padding=padding
    ).numpy()
    matrix = weight[(slice(None), slice(None), *central_slices((kernel,), block))].reshape(4, -1)
    np.testing.assert_allclose(
        np.einsum("of,rfs->ros", matrix, table.joined(maps)), expected, atol=1e-13
    )


def test_a_linear_layer_reads_its_one_site():
    assert block_sites(Convolution(), (), (), ()).is_identity
    assert not Sites(3, np.arange(3)[None]).is_identity
