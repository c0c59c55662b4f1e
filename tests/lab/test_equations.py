"""Equations: reference solutions against independent methods, residuals, losses and training."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from scipy.optimize import minimize
from scipy.sparse import diags
from torch import nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from equipoise.errors import ArgumentError
from equipoise.lab.equation import INSIDE, EquationLoss, relative_error, slices
from equipoise.lab.equation_models import FourierFeatures, Sloped
from equipoise.lab.equation_references import allen_cahn_field, burgers_solution, differentiation
from equipoise.lab.equation_training import Descent, solve_, solve_together_
from equipoise.lab.equations import (
    VISCOSITY,
    allen_cahn,
    burgers,
    diffusion,
    helmholtz,
    poisson,
)
from equipoise.lab.models import mlp

ALL = {
    "burgers": burgers, "drifting": lambda: burgers(drift=0.3), "diffusion": diffusion,
    "allen-cahn": lambda: allen_cahn(1e-2), "poisson": poisson, "helmholtz": helmholtz,
}  # fmt: skip


def network(inputs, width=6, depth=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    made = mlp([inputs, *[width] * depth, 1], nn.Tanh).double()
    for p in made.parameters():
        drawn = torch.randn(p.shape, generator=generator, dtype=torch.float64)
        p.data = drawn / math.sqrt(p.shape[-1])
    return made


def spectral_burgers(viscosity, count, steps, time):
    """Fourier in space with an integrating factor and fourth-order Runge-Kutta in time."""
    x = -1 + 2 * np.arange(count) / count
    k = math.pi * np.fft.rfftfreq(count, 1 / count)
    keep = np.arange(len(k)) < count / 3
    h = time / steps
    half = np.exp(-viscosity * k * k * h / 2)

    def flux(v):
        return keep * (-0.5j * k * np.fft.rfft(np.fft.irfft(v, count) ** 2))

    v = np.fft.rfft(-np.sin(math.pi * x))
    for _ in range(steps):
        a = flux(v)
        b = flux(half * (v + h / 2 * a))
        c = flux(half * v + h / 2 * b)
        d = flux(half * half * v + h * half * c)
        v = half * half * (v + h / 6 * a) + h / 6 * (2 * half * (b + c) + d)
    return x, np.fft.irfft(v, count)


@pytest.mark.parametrize("time", [0.25, 0.75])
def test_cole_hopf_against_fourier(time):
    x, u = spectral_burgers(VISCOSITY, 2048, 2000, time)
    assert np.abs(u - burgers_solution(x, np.array(time), VISCOSITY)).max() < 1e-6
    assert burgers_solution(x, np.zeros_like(x), VISCOSITY) == pytest.approx(
        -np.sin(math.pi * x), abs=1e-12
    )


def test_a_drifting_front_is_the_still_one_in_a_moving_frame():
    still, moving = burgers(), burgers(drift=0.3)
    x = np.array([[0.2, 0.5], [1.0, 0.7], [-1.0, 0.7]])
    seen = x - np.outer(x[:, 1], [0.3, 0.0])
    assert moving.reference(x) == pytest.approx(0.3 + still.reference(seen), abs=1e-12)
    assert moving.reference(x)[1] == pytest.approx(moving.reference(x)[2], abs=1e-9)
    assert moving.given(np.array([[0.5, 0.0]]))[0] == pytest.approx(0.3 - 1.0)


def finite_differences(diffusivity, count, time):
    """Allen-Cahn by second differences and an implicit method of variable order."""
    x = np.linspace(-1, 1, count + 1)
    h = x[1] - x[0]
    start = (x * x * np.cos(math.pi * x))[1:-1]
    second = diags([np.ones(count - 2), -2 * np.ones(count - 1), np.ones(count - 2)], [-1, 0, 1])
    second = second.tocsr() / h**2
    walls = np.zeros(count - 1)
    walls[[0, -1]] = -1 / h**2
    found = solve_ivp(
        lambda t, u: diffusivity * (second @ u + walls) + 5 * (u - u**3),
        (0, time), start, "LSODA", rtol=1e-9, atol=1e-11, lband=1, uband=1,
    )  # fmt: skip
    return x, np.concatenate([[-1.0], found.y[:, -1], [-1.0]])


@pytest.mark.parametrize("diffusivity", [1e-2, 1e-3])
def test_allen_cahn_by_chebyshev_against_extrapolated_differences(diffusivity):
    time, solution = 0.63, allen_cahn_field(diffusivity)
    # Two steps of Richardson: errors of h^2 and h^4 cancel.
    grids = [finite_differences(diffusivity, count, time) for count in (500, 1000, 2000)]
    x = grids[0][0]
    coarse, middle, fine = (u[:: 2**i] for i, (_, u) in enumerate(grids))
    once = [(4 * b - a) / 3 for a, b in ((coarse, middle), (middle, fine))]
    twice = (16 * once[1] - once[0]) / 15
    found = solution(np.stack([x, np.full_like(x, time)], axis=1))
    assert np.abs(found - twice).max() < 1e-6


def test_poisson_and_helmholtz_against_chebyshev():
    n = 32
    x = np.cos(math.pi * np.arange(n + 1) / n)
    second = (differentiation(n) @ differentiation(n))[1:n, 1:n]
    inner = x[1:n]
    w = 2 * math.pi
    u = np.linalg.solve(second, -w * w * np.sin(w * inner))
    assert np.abs(u - poisson(2.0).reference(inner[:, None])).max() < 1e-6

    a, b, k = math.pi, 4 * math.pi, 1.5
    source = (k * k - a * a - b * b) * np.outer(np.sin(a * inner), np.sin(b * inner))
    eye = np.eye(n - 1)
    operator = np.kron(second, eye) + np.kron(eye, second) + k * k * np.eye((n - 1) ** 2)
    u = np.linalg.solve(operator, source.ravel())
    points = np.stack([m.ravel() for m in np.meshgrid(inner, inner, indexing="ij")], axis=1)
    assert np.abs(u - helmholtz(wave_number=k).reference(points)).max() < 1e-6


def test_diffusion_against_chebyshev_in_space():
    n = 24
    x = np.cos(math.pi * np.arange(n + 1) / n)[1:n]
    second = (differentiation(n) @ differentiation(n))[1:n, 1:n]
    wave = (math.pi**2 - 1) * np.sin(math.pi * x)
    found = solve_ivp(
        lambda t, u: second @ u + math.exp(-t) * wave, (0, 0.8), np.sin(math.pi * x), "Radau",
        rtol=1e-10, atol=1e-12, jac=second,
    )  # fmt: skip
    expected = diffusion().reference(np.stack([x, np.full_like(x, 0.8)], axis=1))
    assert np.abs(found.y[:, -1] - expected).max() < 1e-6


def differences(equation, x):
    """The jet of the reference by central differences."""
    h = 1e-3

    def moved(axis, steps):
        shift = np.zeros(x.shape[1])
        shift[axis] = steps * h
        return equation.reference(x + shift)

    jet = {(0,) * x.shape[1]: equation.reference(x)}
    for axis in range(x.shape[1]):
        a, b, c, d, e = (moved(axis, k) for k in (-2, -1, 0, 1, 2))
        unit = np.eye(x.shape[1], dtype=int)[axis]
        jet[tuple(unit)] = (a - 8 * b + 8 * d - e) / (12 * h)
        jet[tuple(2 * unit)] = (-a + 16 * b - 30 * c + 16 * d - e) / (12 * h * h)
    return {orders: torch.from_numpy(v[:, None]) for orders, v in jet.items()}


@pytest.mark.parametrize("name", ALL)
def test_the_reference_leaves_no_residual(name):
    equation = burgers(0.05, 0.3) if name == "drifting" else (
        burgers(0.05) if name == "burgers" else ALL[name]()
    )  # fmt: skip
    rng = np.random.default_rng(0)
    low, high = np.array(equation.lower), np.array(equation.upper)
    x = low + (high - low) * rng.uniform(0.1, 0.9, (40, len(low)))
    missing = equation.residual(differences(equation, x), torch.from_numpy(x))
    assert missing.shape == (40, 1)
    assert float(missing.abs().max()) < 2e-5


@pytest.mark.parametrize("name", ALL)
def test_values_given_on_edges_are_those_of_the_reference(name):
    equation = ALL[name]()
    points = equation.points(50, 20, 3)
    assert tuple(points.edges) == equation.terms[1:]
    for term, x in points.edges.items():
        expected = equation.reference(x.numpy())[:, None]
        assert points.values[term].numpy() == pytest.approx(expected, abs=1e-6)
    low, high = np.array(equation.lower), np.array(equation.upper)
    assert points.inside.shape == (50, len(low))
    assert bool(((points.all.numpy() >= low) & (points.all.numpy() <= high)).all())
    again = equation.points(50, 20, 3)
    assert torch.equal(again.all, points.all)
    assert not torch.equal(equation.points(50, 20, 4).inside, points.inside)


def test_a_loss_is_its_terms_in_plain_steps():
    equation, net = burgers(), network(2)
    points = equation.points(30, 10, 0)
    loss = EquationLoss(equation, points, {"edges": 3.0})
    terms = loss.terms(net)
    x = points.inside.clone().requires_grad_()
    u = net(x)
    (slope,) = torch.autograd.grad(u.sum(), x, create_graph=True)
    (bend,) = torch.autograd.grad(slope[:, 0].sum(), x, create_graph=True)
    residual = slope[:, 1] + u[:, 0] * slope[:, 0] - VISCOSITY * bend[:, 0]
    assert float(terms[INSIDE].detach()) == pytest.approx(float(residual.detach().square().mean()))
    start = points.edges["edges"]
    is_start = start[:, 1:] == 0
    miss = net(start) + torch.where(is_start, torch.sin(math.pi * start[:, :1]), 0.0)
    assert float(terms["edges"].detach()) == pytest.approx(float(miss.detach().square().mean()))
    expected = terms[INSIDE] + 3 * terms["edges"]
    assert float(loss.weighted(terms).detach()) == pytest.approx(float(expected.detach()))


def test_training_goes_on_where_adam_ends_and_counts_its_evaluations():
    equation, net = poisson(), network(1, 8)
    loss = EquationLoss(equation, equation.points(60, 1, 0))
    found = solve_(net, loss, Descent(50, 1e-2, 60, 20))
    assert 50 + 60 <= found.evaluations[-1] < 50 + 2 * 60
    assert found.evaluations[:50] == tuple(range(1, 51))
    assert len(found.losses) == len(found.evaluations) <= 50 + 60 + 1
    assert found.losses[0] > found.losses[49] > found.losses[-1]
    assert found.loss == pytest.approx(sum(float(t.detach()) for t in loss.terms(net).values()))
    assert found.loss < 1e-2 * found.losses[0]
    x, _ = equation.grid(41)
    assert relative_error(net, x, equation.reference(x)) < 0.2
    assert solve_(net, loss, Descent(iterations=0, steps=3)).evaluations == (1, 2, 3, 3)


def test_networks_side_by_side_train_as_each_alone():
    equation, descent = burgers(), Descent(5, 1e-2, 8, 4)
    losses = [EquationLoss(equation, equation.points(20, 6, i), {"edges": 1.0 + i})
              for i in range(3)]  # fmt: skip
    alone, together = ([network(2, seed=i) for i in range(3)] for _ in range(2))
    found = solve_together_(together, losses, descent)
    for one, net, loss, same in zip(found, alone, losses, together, strict=True):
        single = solve_(net, loss, descent)
        assert single.evaluations == one.evaluations
        assert single.losses == pytest.approx(one.losses, rel=1e-6)
        for a, b in zip(net.parameters(), same.parameters(), strict=True):
            assert torch.allclose(a, b, rtol=1e-5, atol=1e-8)


def test_what_does_not_learn_stays_and_is_each_networks_own():
    equation = poisson()

    def made(seed):
        features = FourierFeatures(1, 4, 3.0, torch.Generator().manual_seed(seed))
        inner = network(8, 5, 1, seed)
        return nn.Sequential(features, Sloped(nn.Tanh()), *inner).double()

    alone, together = ([made(i) for i in range(2)] for _ in range(2))
    losses = [EquationLoss(equation, equation.points(15, 1, i)) for i in range(2)]
    found = solve_together_(together, losses, Descent(4, 1e-2, 5, 3))
    for i, net in enumerate(alone):
        assert solve_(net, losses[i], Descent(4, 1e-2, 5, 3)).losses == pytest.approx(
            found[i].losses, rel=1e-6
        )
        assert torch.equal(together[i][0].weight, made(i)[0].weight)
        assert float(together[i][1].factor.detach()) != 1.0


def test_refining_is_what_scipy_does_with_loss_and_gradient():
    equation, by_hand, ours = poisson(), network(1), network(1)
    loss = EquationLoss(equation, equation.points(20, 1, 0), {"edges": 2.0})
    solve_(ours, loss, Descent(0, 1e-2, 7, 5))
    parameters = list(by_hand.parameters())

    def call(at):
        vector_to_parameters(torch.from_numpy(at.copy()), parameters)
        value = loss.weighted(loss.terms(by_hand))
        slopes = torch.autograd.grad(value, parameters, materialize_grads=True)
        return float(value.detach()), parameters_to_vector(slopes).numpy()

    start = parameters_to_vector(parameters).detach().numpy().copy()
    found = minimize(call, start, jac=True, method="L-BFGS-B",
                     options={"maxcor": 5, "maxiter": 7, "ftol": 1e-16, "gtol": 1e-9})  # fmt: skip
    assert parameters_to_vector(ours.parameters()).detach().numpy() == pytest.approx(
        found.x, abs=1e-7
    )


def test_an_error_while_training_ends_all_threads_and_is_raised():
    equation = poisson()

    def fails(jet, x):
        raise RuntimeError("the residual fails")

    broken = replace(equation, residual=fails)
    loss = EquationLoss(broken, equation.points(5, 1, 0))
    with pytest.raises(RuntimeError, match="the residual fails"):
        solve_together_([network(1), network(1)], [loss, loss], Descent(0, 1e-3, 3))


def test_the_steps_are_those_of_adam_and_of_scipy():
    equation = poisson()
    points = equation.points(20, 1, 0)
    by_hand, ours = network(1), network(1)
    loss = EquationLoss(equation, points)
    solve_(ours, loss, Descent(4, 1e-2, 0))
    adam = torch.optim.Adam(by_hand.parameters(), lr=1e-2)
    for _ in range(4):
        adam.zero_grad()
        loss.weighted(loss.terms(by_hand)).backward()
        adam.step()
    for a, b in zip(ours.parameters(), by_hand.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-13)


def test_grids_and_slices_cover_the_box():
    x, shape = burgers().grid(5)
    assert shape == (5, 5)
    assert x[0].tolist() == [-1.0, 0.0]
    assert x[-1].tolist() == [1.0, 1.0]
    (along,) = slices(poisson(), (0.5,), 3)
    assert along.ravel().tolist() == [-1.0, 0.0, 1.0]
    bad = network(1)
    bad[0].weight.data.fill_(math.nan)
    assert relative_error(bad, along, np.ones(3)) == math.inf


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: burgers(0.0), "viscosity must be positive"),
        (lambda: burgers(drift=math.inf), "drift must be finite"),
        (lambda: allen_cahn(-1.0), "diffusivity must be positive"),
        (lambda: poisson(0.0), "frequency must be positive"),
        (lambda: helmholtz(a=-1.0), "a must be positive"),
        (lambda: helmholtz(wave_number=-1.0), "wave_number must be finite and not negative"),
        (lambda: burgers_solution(np.zeros(1), np.zeros(1), -1.0), "viscosity must be positive"),
        (lambda: burgers_solution(np.zeros(1), -np.ones(1), 1.0), "t must be finite and not neg"),
        (lambda: differentiation(0), "n must be an integer of at least 1"),
        (lambda: poisson().points(0, 1, 0), "inside must be an integer of at least 1"),
        (lambda: poisson().points(1, 0, 0), "on_edge must be an integer of at least 1"),
        (lambda: poisson().points(1, 1, -1), "seed must be an integer of at least 0"),
        (lambda: poisson().grid(1), "count must be an integer of at least 2"),
        (lambda: EquationLoss(poisson(), poisson().points(5, 1, 0), {"initial": 2.0}),
         "weights must be one of edges, residual"),
        (lambda: EquationLoss(poisson(), poisson().points(5, 1, 0), {"edges": 0.0}),
         "weight of edges must be positive"),
        (lambda: relative_error(network(1), np.zeros((3, 1)), np.zeros(3)),
         "reference must differ from 0"),
        (lambda: solve_together_([], [], Descent()), "losses must be one for each network"),
        (lambda: solve_together_([network(1), network(1, 7)],
                                 [EquationLoss(poisson(), poisson().points(5, 1, 0))] * 2,
                                 Descent()), "networks must have one form"),
        (lambda: Descent(steps=-1), "steps must be an integer of at least 0"),
        (lambda: Descent(rate=0.0), "rate must be positive"),
        (lambda: Descent(iterations=-1), "iterations must be an integer of at least 0"),
        (lambda: Descent(corrections=0), "corrections must be an integer of at least 1"),
    ],
)  # fmt: skip
def test_arguments_out_of_range_are_refused(call, message):
    with pytest.raises(ArgumentError, match=message):
        call()
