"""Adapters, with stand-ins of the interfaces that the packages have."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from monitored import Vectors, dense, train

import equipoise.torch as eq
from equipoise.errors import ArgumentError


class Writer:
    """As ``torch.utils.tensorboard.SummaryWriter``."""

    def __init__(self):
        self.rows = []

    def add_scalar(self, tag, scalar_value, global_step=None, walltime=None, new_style=False):
        self.rows.append((global_step, tag, scalar_value))


class Run:
    """As ``wandb.Run``."""

    def __init__(self):
        self.rows = []

    def log(self, data, step=None, commit=None):
        self.rows.extend((step, name, number) for name, number in data.items())


class Client:
    """As the module ``mlflow``."""

    def __init__(self):
        self.rows = []

    def log_metrics(self, metrics, step=None, synchronous=None):
        self.rows.extend((step, name, number) for name, number in metrics.items())


@pytest.mark.parametrize(
    ("make", "kept"),
    [(eq.loggers.tensorboard, Writer()), (eq.loggers.wandb, Run()), (eq.loggers.mlflow, Client())],
)
def test_each_look_is_handed_on(make, kept):
    torch.manual_seed(0)
    m = train(dense(), Vectors(0), 5, every=2, log=make(kept, prefix="m/"))
    assert {step for step, _, _ in kept.rows} == {1, 3, 5}
    last = {name: number for step, name, number in kept.rows if step == 5}
    assert last == {f"m/{name}": number for name, number in m.latest().items()}
    assert {"m/loss", "m/signal/0", "m/update_ratio/8"} <= set(last)


def test_letters_that_mlflow_does_not_take():
    client = Client()
    eq.loggers.mlflow(client)(1, {"signal/a[0]:b": 1.0})
    assert client.rows == [(1, "signal/a_0__b", 1.0)]


@pytest.mark.parametrize(
    ("make", "module"),
    [(eq.loggers.tensorboard, "torch.utils.tensorboard"), (eq.loggers.wandb, "wandb"),
     (eq.loggers.mlflow, "mlflow")],
)  # fmt: skip
def test_a_package_that_is_absent_is_named(make, module, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ArgumentError, match=f"Install {module.rpartition('.')[2]}, or pass"):
        make()


def test_a_package_that_is_there(monkeypatch, tmp_path):
    class Module:
        run = None
        SummaryWriter = staticmethod(lambda folder: Writer())

    monkeypatch.setitem(sys.modules, "wandb", Module)
    with pytest.raises(ArgumentError, match=r"wandb.init\(\) first"):
        eq.loggers.wandb()
    Module.run = Run()
    eq.loggers.wandb()(3, {"a": 1.0})
    assert Module.run.rows == [(3, "a", 1.0)]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", Module)
    eq.loggers.tensorboard(folder=str(tmp_path))(1, {"a": 1.0})
