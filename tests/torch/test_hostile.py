"""Models, inputs and surroundings that break libraries: each is served, or refused by name."""

import dataclasses
import random
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils import _pytree as pytree

import equipoise.torch as eq
from equipoise.errors import EquipoiseError, PlanError

X = torch.randn(64, 16, generator=torch.Generator().manual_seed(0))


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def mlp():
    return nn.Sequential(nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 4))


class Written(nn.Module):
    """Two linear layers, anything else, and any function of module and input for a forward."""

    def __init__(self, function, **attributes):
        super().__init__()
        self.a, self.b, self.function = nn.Linear(16, 16), nn.Linear(16, 4), function
        for name, value in attributes.items():
            setattr(self, name, value)

    def forward(self, *args, **kwargs):
        return self.function(self, *args, **kwargs)


def plain(m, x):
    return m.b(torch.tanh(m.a(x)))


def bits(tensor):
    tensor = getattr(tensor, "held", tensor)
    is_plain = tensor.layout == torch.strided and not tensor.is_meta
    if not is_plain or isinstance(tensor, nn.parameter.UninitializedParameter):
        return None
    return tensor.detach().reshape(-1).clone().view(torch.uint8).numpy().tobytes()


def snapshot(model):
    """Everything that a refused call must leave as it was."""
    tensors = [*model.named_parameters(), *model.named_buffers()]
    return {
        "tensors": [
            (name, id(t), bits(t), t.requires_grad, t.is_leaf, t.grad is None or bits(t.grad))
            for name, t in tensors
        ],
        "storage": [
            t.untyped_storage().data_ptr() for _, t in tensors if bits(t) and not hasattr(t, "held")
        ],
        "modules": [
            (name, id(m), m.training, sorted(vars(m)), len(m._forward_hooks))
            for name, m in model.named_modules()
        ],
        "torch": bits(torch.get_rng_state()),
        "numpy": np.random.get_state()[1].tobytes(),
        "python": random.getstate(),
        "settings": (torch.is_grad_enabled(), torch.get_default_dtype()),
    }


def refused(model, inputs, *calls):
    """The message of the refusal, the same of every call, and nothing changed by any."""
    messages = []
    for call in calls or (eq.initialize,):
        before, generator = snapshot(model), seeded(7)
        state = generator.get_state()
        arguments = {"generator": generator} if call is eq.initialize else {}
        with pytest.raises(EquipoiseError) as stop:
            call(model, inputs, **arguments)
        assert snapshot(model) == before
        assert torch.equal(generator.get_state(), state)
        # Without a generator it is torch's global state that must not move.
        with pytest.raises(EquipoiseError):
            call(model, inputs)
        assert snapshot(model) == before
        messages.append(str(stop.value))
    return messages[0]


def with_parameter(make):
    model = mlp()
    model[0].weight = make()
    return model


def shared_storage():
    model, values = mlp(), torch.randn(16, 16)
    model[0].weight = nn.Parameter(values)
    model.append(nn.Linear(4, 16))
    model[3].weight = nn.Parameter(values[:, 4:8])
    return model


def buffer_over_weight():
    model = mlp()
    model.register_buffer("view", model[0].weight.detach())
    return model


def float8():
    model = mlp()
    for p in model.parameters():
        p.data = p.data.to(torch.float8_e4m3fn)
    return model


def made_in_inference_mode():
    with torch.inference_mode():
        return mlp()


def part_on_meta():
    model = mlp()
    model[0].to("meta")
    return model


def contains_itself():
    model = Written(plain)
    model.child = model
    return model


def quantized():
    return nn.Sequential(torch.ao.nn.quantized.dynamic.Linear(16, 16), nn.Tanh(), nn.Linear(16, 4))


class Packed(torch.Tensor):
    """A tensor that keeps its values in a form of its own, as sharded and packed ones do."""

    @staticmethod
    def __new__(cls, held):
        return cls._make_wrapper_subclass(cls, held.shape, dtype=held.dtype)

    def __init__(self, held):
        self.held = held

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        args, kwargs = pytree.tree_map_only(cls, lambda t: t.held, (args, kwargs or {}))
        return pytree.tree_map_only(torch.Tensor, cls, function(*args, **kwargs))


class Sharded(nn.Linear):
    __module__ = "torch.distributed.fsdp._fully_shard"


class Distributed(nn.parallel.DistributedDataParallel):
    """Its constructor wants a process group."""

    def __init__(self, module):
        nn.Module.__init__(self)
        self.module = module


def scripted(module):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.script(module)


UNUSABLE = {
    "expanded": (
        lambda: with_parameter(lambda: nn.Parameter(torch.randn(1, 16).expand(16, 16))),
        "'0.weight' must have a place in memory for each entry",
    ),
    "overlapping": (
        lambda: with_parameter(lambda: nn.Parameter(torch.randn(80).as_strided((16, 16), (2, 3)))),
        "'0.weight' must have a place in memory for each entry",
    ),
    "shared storage": (shared_storage, "must have memory of its own, got some that '3.weight'"),
    "buffer over weight": (buffer_over_weight, "got some that 'view' shares"),
    "complex": (
        lambda: nn.Sequential(nn.Linear(16, 4, dtype=torch.complex64)),
        "must hold real numbers",
    ),
    "float8": (float8, "'0.weight' must be of 16 bits at least"),
    "inference": (made_in_inference_mode, "made in inference mode"),
    "lazy": (lambda: nn.Sequential(nn.LazyLinear(4)), "must have a shape, got a lazy one"),
    "part on meta": (part_on_meta, "got 2 of 4 on the meta device, the first is '0.weight'"),
    "itself inside": (contains_itself, "got 'child', which contains itself"),
    "scripted": (lambda: scripted(mlp()), "must be an eager module"),
    "scripted part": (lambda: nn.Sequential(scripted(nn.Linear(16, 4)), nn.Linear(4, 4)), "'0'"),
    "quantized": (quantized, "module '0' must hold floating-point weights"),
    "sharded": (lambda: nn.Sequential(Sharded(16, 4)), "module '0' must be whole"),
    "data parallel": (lambda: nn.DataParallel(mlp()), "Pass model.module"),
    "distributed": (lambda: Distributed(mlp()), "Pass model.module"),
    "wrapped part": (lambda: nn.Sequential(nn.DataParallel(mlp())), "module '0'"),
    "no parameters": (lambda: nn.ParameterList([]), "must have parameters, got none"),
    "subclass": (
        lambda: with_parameter(lambda: nn.Parameter(Packed(torch.randn(16, 16)))),
        "must be a plain tensor, got Packed",
    ),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
@pytest.mark.parametrize("name", UNUSABLE)
def test_models_that_cannot_be_initialized_are_named_and_stay(name):
    make, message = UNUSABLE[name]
    inputs = X.to(torch.complex64) if name == "complex" else X
    assert message in refused(make(), inputs)


def test_a_sparse_weight_is_refused_where_it_would_be_drawn():
    with pytest.raises(PlanError, match="must be dense, got layout"):
        eq.draw_(torch.eye(3).to_sparse(), _he())
    for tensor in (torch.zeros(3, 3, dtype=torch.int8), torch.zeros(3, 3, dtype=torch.bool)):
        with pytest.raises(PlanError, match="must hold real numbers"):
            eq.draw_(tensor, _he())


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
def test_quantized_tensors_are_refused_on_both_sides():
    packed = torch.quantize_per_tensor(X, 0.1, 0, torch.qint8)
    with pytest.raises(PlanError, match="must be dense, got a quantized one"):
        eq.draw_(packed, _he())
    assert "Call .dequantize()" in refused(mlp(), packed)


def _he():
    return eq.plan(nn.Linear(3, 3), torch.randn(8, 3), "he").assignments[0].law


def test_axes_that_interleave_but_never_meet_are_fine():
    model = with_parameter(lambda: nn.Parameter(torch.zeros(16, 32)[:, ::2].t()))
    assert not model[0].weight.is_contiguous()
    reference = mlp()
    for m in (model, reference):
        eq.initialize(m, X, generator=seeded())
    assert torch.equal(model[0].weight, reference[0].weight)
    # Strides (2, 3) over (3, 2): the places 0, 2, 4 and 3, 5, 7 interleave.
    odd = torch.zeros(8).as_strided((3, 2), (2, 3))
    eq.draw_(odd, eq.plan(nn.Linear(2, 3), torch.randn(8, 2), "he").assignments[0].law)
    assert bool((odd != 0).all())


def test_parameters_side_by_side_in_one_buffer_are_fine():
    flat, model = torch.zeros(16 * 16 + 4 * 16), mlp()
    model[0].weight = nn.Parameter(flat[:256].view(16, 16))
    model[2].weight = nn.Parameter(flat[256:].view(4, 16))
    eq.initialize(model, X)
    assert model[2].weight.data_ptr() == flat[256:].data_ptr()
    assert bool((flat != 0).all())


def test_integer_and_frozen_packed_parameters_are_left_alone():
    model = mlp()
    for name, dtype in (("i", torch.int8), ("b", torch.bool), ("f", torch.float8_e5m2)):
        model.register_parameter(name, nn.Parameter(torch.ones(3).to(dtype), requires_grad=False))
    report = eq.initialize(model, X)
    assert {u.parameter for u in report.plan.untouched} == {"i", "b", "f"}


@dataclasses.dataclass
class Fields:
    x: torch.Tensor


INPUTS = {
    "list": ([X], "batch[0] for (inputs, targets)"),
    "numpy": (X.numpy(), "Pass torch.from_numpy(array)"),
    "numpy inside": ((X.numpy(),), "inputs[0] must be a tensor, a number"),
    "loader": (torch.utils.data.DataLoader(X), "next(iter(DataLoader(...)))[0]"),
    "dataclass": (Fields(X), "Pass its fields"),
    "dataclass inside": ((Fields(X),), "torch.export.register_dataclass(Fields)"),
    "object": (object(), "Pass one batch as forward takes it"),
    "string": ("data", "got str"),
    "sparse": (X.to_sparse(), "Call .to_dense()"),
    "nested": (torch.nested.nested_tensor([X[0]], layout=torch.jagged), "got a nested tensor"),
    "meta": (X.to("meta"), "on the meta device"),
    "empty": (X[:0], "at least one entry"),
    "nan": (X.where(X > -1, torch.nan), "inputs must be finite"),
    "half infinity": (X.half() * 1e5, "inputs must be finite"),
    "float8 nan": ((X * torch.nan).to(torch.float8_e4m3fn), "inputs must be finite"),
    "complex nan": (X * complex(0, float("inf")), "inputs must be finite"),
    "nothing": ((), "no tensors"),
    "scalar": (torch.tensor(1.0), "(), "),
    "other width": (X[:, :7], "(64, 7)"),
    "keyword": ({"data": X}, "unexpected keyword"),
}  # fmt: skip


@pytest.mark.parametrize("name", INPUTS)
def test_inputs_that_cannot_be_used_are_named_and_the_model_stays(name):
    inputs, message = INPUTS[name]
    if name == "scalar":
        message = "must accept the inputs given"
    assert message in refused(mlp(), inputs, eq.initialize, eq.plan, eq.diagnose)


@pytest.mark.parametrize(
    "inputs",
    [X[:1], X[0], (X * 1.0).requires_grad_(), X.clone().requires_grad_() * 2, X[:1].expand(5, 16)],
    ids=["one row", "no batch axis", "requires grad", "in a graph", "expanded"],
)
def test_inputs_of_unusual_kinds_are_served_and_left_alone(inputs):
    before = inputs.detach().clone()
    report = eq.initialize(mlp(), inputs)
    assert len(report.plan.assignments) == 4
    assert torch.equal(inputs.detach(), before)


def test_tokens_constants_and_dicts_are_inputs():
    words = nn.Sequential(nn.Embedding(10, 16), nn.Linear(16, 4))
    report = eq.initialize(words, torch.arange(20).reshape(4, 5) % 10)
    assert "1.weight" in {a.parameter for a in report.plan.assignments}
    sparse = nn.Sequential(nn.Embedding(10, 16, sparse=True), nn.Linear(16, 4))
    assert eq.initialize(sparse, torch.arange(20).reshape(4, 5) % 10).measurements.layers
    mode = Written(lambda m, x, mode, mask=None: m.b(m.a(x)) if mode == "train" else x)
    assert eq.initialize(mode, (X, "train")).ok
    named = Written(lambda m, x, mask=None: plain(m, x))
    assert eq.initialize(named, {"x": X, "mask": None}).ok


def test_a_diagnosis_names_a_model_of_which_a_part_has_no_storage():
    with pytest.raises(PlanError, match=r"got 2 of 4 on the meta device, the first is '0\.weight'"):
        eq.diagnose(part_on_meta(), X)
