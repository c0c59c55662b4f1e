"""Callbacks on real trainers, where they are installed."""

import copy
import logging
import math
import sys
import types
import warnings
from importlib.util import find_spec

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import equipoise.torch as eq
from equipoise.errors import ArgumentError
from equipoise.training.trainer_watch import TrainerWatch
from equipoise.training.transformers_callback import unwrapped

needs_lightning = pytest.mark.skipif(find_spec("lightning") is None, reason="needs lightning")
needs_transformers = pytest.mark.skipif(
    find_spec("transformers") is None or find_spec("accelerate") is None,
    reason="needs transformers and accelerate",
)


def net(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 1))


def rows(count=64, bad=None):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(count, 6, generator=generator)
    y = x[:, :1] * x[:, 1:2]
    if bad is not None:
        x[bad] = math.nan
    return x, y


def by_hand(x, y, batch, rate=0.05, parts=1):
    """The same training without any trainer, and with the bad batches left out."""
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), rate)
    pieces = list(zip(x.split(batch), y.split(batch), strict=True))
    for i in range(0, len(pieces), parts):
        optimizer.zero_grad()
        for a, b in pieces[i : i + parts]:
            (F.mse_loss(model(a), b) / parts).backward()
        if all(p.grad.isfinite().all() for p in model.parameters()):
            optimizer.step()
    return model


def same(model, other):
    for (name, a), (_, b) in zip(
        model.state_dict().items(), other.state_dict().items(), strict=True
    ):
        assert torch.allclose(a, b, rtol=1e-5, atol=1e-7), name


def fit(callback, data, batch=8, module=None, **options):
    with warnings.catch_warnings():
        # What Lightning says of itself, and of the number of workers, is not looked at here.
        warnings.simplefilter("ignore")
        import lightning.pytorch as pl

        class Module(pl.LightningModule):
            def __init__(self):
                super().__init__()
                self.net = net()

            def training_step(self, pair, index):
                return F.mse_loss(self.net(pair[0]), pair[1])

            def configure_optimizers(self):
                optimizer = torch.optim.SGD(self.parameters(), 0.05)
                return [optimizer], [torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0)]

        class ByHand(Module):
            def __init__(self):
                super().__init__()
                self.automatic_optimization = False

            def training_step(self, pair, index):
                first, second = self.optimizers()
                first.zero_grad()
                second.zero_grad()
                loss = super().training_step(pair, index)
                self.manual_backward(loss)
                first.step()
                second.step()
                return loss

            def configure_optimizers(self):
                return [torch.optim.SGD(self.net[i].parameters(), 0.05) for i in (0, 2)]

        made = {"automatic": Module, "by hand": ByHand}[module or "automatic"]()
        loader = torch.utils.data.DataLoader(
            torch.utils.data.TensorDataset(*data), batch_size=batch
        )
        logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
        trainer = pl.Trainer(
            accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False, callbacks=[callback], **options,
        )  # fmt: skip
        trainer.fit(made, loader)
    return trainer, made


@needs_lightning
def test_lightning_trains_as_without_and_skips_a_bad_batch():
    x, y = rows(bad=20)
    said = []
    callback = eq.lightning_callback(every=1, on_finding=said.append)
    trainer, module = fit(callback, (x, y))
    same(module.net, by_hand(x, y, 8))
    watch = callback.watch
    (guard,) = watch.guards
    assert (guard.steps, guard.skipped, watch.monitor.steps) == (8, 1, 8)
    assert ("non-finite-given", "inputs") in {(f.code, f.where) for f in watch.monitor.findings}
    assert set(watch.findings) == set(said)
    assert not isinstance(trainer.optimizers[0], eq.Guard)
    losses = watch.monitor.history["loss"]
    assert math.isnan(losses[2])
    expected = F.mse_loss(net()(x[:8]), y[:8]).item()
    assert losses[0] == pytest.approx(expected, rel=1e-5)


@needs_lightning
def test_lightning_accumulates():
    x, y = rows()
    callback = eq.lightning_callback(every=1)
    _, module = fit(callback, (x, y), accumulate_grad_batches=2)
    same(module.net, by_hand(x, y, 8, parts=2))
    assert callback.watch.monitor.steps == 4
    assert callback.watch.guards[0].steps == 4
    model = net()
    first = (F.mse_loss(model(x[:8]), y[:8]) + F.mse_loss(model(x[8:16]), y[8:16])) / 2
    assert callback.watch.monitor.history["loss"][0] == pytest.approx(first.item(), rel=1e-5)


@needs_lightning
def test_lightning_with_two_optimizers_by_hand():
    x, y = rows()
    callback = eq.lightning_callback(every=1)
    _, module = fit(callback, (x, y), module="by hand")
    same(module.net, by_hand(x, y, 8))
    assert [g.steps for g in callback.watch.guards] == [8, 8]
    assert callback.watch.monitor.steps == 8


@needs_lightning
def test_lightning_goes_on_from_a_checkpoint():
    callback = eq.lightning_callback(clip=eq.Percentile(50))
    fit(callback, rows())
    state = callback.state_dict()
    later = eq.lightning_callback(clip=eq.Percentile(50))
    later.load_state_dict(copy.deepcopy(state))
    fit(later, rows())
    fresh = eq.lightning_callback(clip=eq.Percentile(50))
    fit(fresh, rows())
    # The limit of the first step comes from norms of the training before.
    assert fresh.watch.guards[0].history["limit"][0] != later.watch.guards[0].history["limit"][0]


@needs_lightning
def test_lightning_is_left_as_it_was_when_training_fails():
    class Stop(RuntimeError):
        pass

    def stop(finding):
        raise Stop

    callback = eq.lightning_callback(every=1, on_finding=stop)
    with pytest.raises(Stop):
        fit(callback, rows(bad=20))
    assert not callback.watch.monitor._is_open


class Regression(nn.Module):
    """As the models of transformers: returns its loss."""

    def __init__(self):
        super().__init__()
        self.net = net()

    def forward(self, x, labels=None):
        out = self.net(x)
        return {"loss": F.mse_loss(out, labels), "logits": out}


def hugged(callback, data, folder, **options):
    with warnings.catch_warnings():
        # What the packages say of themselves is not looked at here.
        warnings.simplefilter("ignore")
        from transformers import Trainer, TrainingArguments

        class InOrder(Trainer):
            def _get_train_sampler(self, dataset=None):
                return torch.utils.data.SequentialSampler(self.train_dataset)

        model = Regression()
        arguments = TrainingArguments(
            output_dir=str(folder), per_device_train_batch_size=8, num_train_epochs=1,
            max_grad_norm=0.0, report_to=[], use_cpu=True, disable_tqdm=True, save_strategy="no",
            logging_strategy="no", **options,
        )  # fmt: skip
        optimizer = torch.optim.SGD(model.parameters(), 0.05)
        schedule = torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0)
        pairs = [{"x": a, "labels": b} for a, b in zip(*data, strict=True)]
        trainer = InOrder(model, arguments, train_dataset=pairs, callbacks=[callback],
                          optimizers=(optimizer, schedule))  # fmt: skip
        trainer.train()
    return trainer, model


@needs_transformers
def test_transformers_trains_as_without_and_skips_a_bad_batch(tmp_path):
    x, y = rows(bad=20)
    callback = eq.transformers_callback(every=1, on_finding=lambda finding: None)
    trainer, model = hugged(callback, (x, y), tmp_path)
    same(model.net, by_hand(x, y, 8))
    watch = callback.watch
    (guard,) = watch.guards
    assert (guard.steps, guard.skipped, watch.monitor.steps) == (8, 1, 8)
    assert ("non-finite-given", "inputs") in {(f.code, f.where) for f in watch.monitor.findings}
    assert not isinstance(trainer.optimizer.optimizer, eq.Guard)
    expected = F.mse_loss(net()(x[:8]), y[:8]).item()
    assert watch.monitor.history["loss"][0] == pytest.approx(expected, rel=1e-5)
    assert guard.history["loss"][0] == pytest.approx(expected, rel=1e-5)
    assert not model._forward_hooks


@needs_transformers
def test_transformers_accumulates_clips_and_watches_alone(tmp_path):
    x, y = rows()
    callback = eq.transformers_callback(every=2, clip=eq.GlobalNorm(1e-3))
    _, model = hugged(callback, (x, y), tmp_path, gradient_accumulation_steps=2)
    assert callback.watch.guards[0].clipped_share == 1.0
    assert callback.watch.guards[0].steps == callback.watch.monitor.steps == 4
    # Four steps of length 0.05 * 1e-3 at most.
    moved = torch.cat([(a - b).flatten() for a, b in
                       zip(model.net.parameters(), net().parameters(), strict=True)])  # fmt: skip
    assert 0 < moved.norm().item() <= 4 * 0.05 * 1e-3 * 1.001
    alone = eq.transformers_callback(is_guarded=False)
    _, model = hugged(alone, (x, y), tmp_path)
    same(model.net, by_hand(x, y, 8))
    assert not alone.watch.guards
    assert alone.watch.monitor.steps == 8


@needs_transformers
def test_transformers_refuses_what_it_cannot_guard():
    callback = eq.transformers_callback()
    wrapper = types.SimpleNamespace(optimizer=torch.optim.SGD([nn.Parameter(torch.zeros(1))], 0.1))
    wrapper.scaler = torch.amp.GradScaler("cpu")
    with pytest.raises(ArgumentError, match="without a GradScaler"):
        callback.on_train_begin(None, None, None, model=net(), optimizer=wrapper)


def test_refusals(monkeypatch):
    with pytest.raises(ArgumentError, match="is_guarded must be True"):
        TrainerWatch(clip=eq.GlobalNorm(1.0), is_guarded=False)
    with pytest.raises(ArgumentError, match="accelerate's wrapper"):
        unwrapped(object())
    monkeypatch.setitem(sys.modules, "lightning.pytorch.callbacks", None)
    with pytest.raises(ArgumentError, match="lightning must be installed"):
        eq.lightning_callback()
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ArgumentError, match="transformers must be installed"):
        eq.transformers_callback()


def test_findings_go_to_the_log(caplog):
    model = net()
    watch = TrainerWatch(every=1)
    (guard,) = watch.attach(model, [torch.optim.SGD(model.parameters(), 0.1)])
    assert watch.attach(model, [guard]) == [guard]
    x, y = rows(bad=0)
    F.mse_loss(model(x), y).backward()
    with caplog.at_level(logging.INFO, "equipoise"):
        guard.step()
        watch.end_step()
    watch.detach()
    assert "non-finite" in caplog.text
    assert {r.name for r in caplog.records} == {"equipoise"}
