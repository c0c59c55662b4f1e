"""The zoo of architectures and the benchmark of coverage: rules, inputs, processes, arithmetic."""

import importlib
import io
import json
import math
import os
import time
from pathlib import Path

import pytest
import torch
from rich.console import Console

from equipoise.measurement import LayerMeasurement, Measurements
from equipoise.plan.plan import Plan, Prediction

pytest.importorskip("transformers")
BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def module(monkeypatch):
    """Imports a module of the benchmarks."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.setenv(name, "1")
    # Its import sets what a run needs.
    monkeypatch.setenv("OMP_NUM_THREADS", os.environ.get("OMP_NUM_THREADS", "1"))
    return importlib.import_module


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("hidden_size", "width"),
        ("d_model", "width"),
        ("moe_intermediate_size", "expert_feed_forward"),
        ("decoder_ffn_dim", "feed_forward"),
        ("num_key_value_heads", "key_value_heads"),
        ("encoder_attention_heads", "heads"),
        ("qk_rope_head_dim", "head_dim"),
        ("decoder_layers", "layers"),
        ("num_feat_extract_layers", "keep"),
        ("n_routed_experts", "experts"),
        ("num_experts_per_token", "top_experts"),
        ("vocab_size", "vocabulary"),
        ("image_token_id", "keep"),
        ("conv_kernel", "keep"),
        ("max_position_embeddings", "positions"),
        ("image_size", "images"),
    ],
)
def test_names_say_what_their_numbers_are(module, name, role):
    assert module("zoo_roles").role_of(name) == role


def test_one_layer_of_each_kind_stays_and_what_is_read_from(module):
    kept = module("zoo_layers").kept_layers
    assert kept(6, {"layer_types": ["a", "a", "a", "b", "a", "b"]}, {}, 0) == [0, 3]
    assert kept(6, {"layer_types": ["a"] * 6}, {}, 0) == [0, 1]
    assert kept(6, {}, {"moe_layers": [4, 5]}, 0) == [0, 4]
    assert kept(6, {}, {}, 3) == [0, 1, 2]


def test_numbers_of_layers_go_with_the_lists_by_layer(module):
    zoo, sizes = module("zoo"), module("zoo_sizes")
    config = zoo.configuration("llama4")
    sizes.shrink(config, module("zoo_roles").ATTEMPTS[0])
    assert len(set(config.text_config.layer_types)) == 2
    assert config.text_config.num_hidden_layers == len(config.text_config.layer_types)
    # What goes to the first layers of a decoder goes to those that are left of it.
    config = zoo.configuration("qwen3_vl")
    sizes.shrink(config, module("zoo_roles").ATTEMPTS[0])
    assert len(config.vision_config.deepstack_visual_indexes) == 2


def test_parts_of_a_number_keep_their_ratios_and_their_sum(module):
    split = module("zoo_sizes").split
    assert split(8, [16, 24, 24]) == [2, 3, 3]
    assert split(32, [16, 24, 24]) == [8, 12, 12]
    assert sum(split(7, [24, 20, 20])) == 7


def test_widths_fit_in_a_tree_of_configurations(module):
    sizes, zoo = module("zoo_sizes"), module("zoo")
    config = zoo.configuration("llava")
    sizes.shrink(config, module("zoo_roles").ATTEMPTS[0])
    text, vision = config.text_config, config.vision_config
    assert text.hidden_size == text.num_attention_heads * text.head_dim == vision.hidden_size == 64
    assert text.num_attention_heads % text.num_key_value_heads == 0
    assert vision.image_size % vision.patch_size == 0
    assert config.image_token_index < text.vocab_size == module("zoo_roles").VOCABULARY


def test_placeholder_tokens_follow_the_message_of_an_error(module):
    zoo, repairs = module("zoo"), module("zoo_repairs")
    sizes = module("zoo_sizes")
    config = zoo.configuration("llava")
    sizes.shrink(config, module("zoo_roles").ATTEMPTS[0])
    model = zoo.instance(config)
    ids = torch.full((4, 16), 7)
    text = "Image features and image tokens do not match, tokens: 0, features: 12"
    made = repairs.with_tokens(text, {"input_ids": ids}, model, config)
    assert (made["input_ids"] == config.image_token_index).sum(1).tolist() == [3, 3, 3, 3]
    assert torch.equal(made["input_ids"][:, -16:], ids)
    assert repairs.with_tokens("of other things", {"input_ids": ids}, model, config) is None


def test_placeholder_tokens_follow_what_was_compared_with_them(module):
    zoo, repairs = module("zoo"), module("zoo_repairs")
    config = zoo.configuration("llava")
    config.image_token_index = 250
    model = torch.nn.Identity()

    def get_placeholder_mask(inputs_embeds, image_features):
        raise ValueError("no number that says how many")

    inputs = {"input_ids": torch.full((4, 16), 7), "attention_mask": torch.ones(4, 16)}
    with pytest.raises(ValueError, match="no number") as caught:
        get_placeholder_mask(torch.ones(4, 16, 8), torch.ones(4, 5, 8))
    made = repairs.with_tokens(caught.value, inputs, model, config)
    assert (made["input_ids"] == 250).sum(1).tolist() == [5, 5, 5, 5]
    assert made["attention_mask"].shape == (4, 21)
    # As many as wanted: what else is wrong is no matter of tokens.
    assert repairs.with_tokens(caught.value, made, model, config) is None


def test_sounds_have_placeholders_where_nothing_counts_them(module):
    arguments, zoo = module("zoo_arguments"), module("zoo")
    config = zoo.configuration("qwen2_audio")
    config.audio_token_index = 250
    inputs = {"input_ids": torch.full((4, 16), 7)}
    assert arguments.with_sounds("qwen2_audio", inputs, config) is inputs
    inputs["input_features"] = torch.ones(4, 8, 8)
    made = arguments.with_sounds("qwen2_audio", inputs, config)
    assert (made["input_ids"] == 250).sum(1).tolist() == [16] * 4
    assert arguments.with_sounds("llava", inputs, config) is inputs


@pytest.mark.parametrize("name", ["florence2", "qwen2_audio", "video_llava", "minicpmv4_6"])
def test_inputs_reach_all_of_a_model_with_towers(module, name):
    made = module("zoo").build(name)
    made.model(**made.inputs).last_hidden_state.square().sum().backward()
    matrices = [(n, p) for n, p in made.model.named_parameters() if p.requires_grad and p.ndim > 1]
    assert [n for n, p in matrices if p.grad is None] == []


def test_features_follow_the_message_of_an_error(module):
    with_width = module("zoo_repairs").with_width
    text = "mat1 and mat2 shapes cannot be multiplied (8x5 and 7x3)"
    made = with_width(text, {"x": torch.ones(2, 4, 5), "ids": torch.ones(2, 5).long()})
    assert made["x"].shape == (2, 4, 7)
    assert made["ids"].shape == (2, 5)
    assert with_width("of other things", {"x": torch.ones(2, 5)}) is None


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("bert", "encoder"),
        ("llama", "text decoder"),
        ("t5", "encoder-decoder"),
        ("mixtral", "mixture of experts"),
        ("mamba", "state space"),
        ("vit", "vision"),
        ("wav2vec2", "audio"),
        ("patchtst", "time series"),
        ("clip", "multimodal"),
    ],
)
def test_architectures_are_small_run_and_belong_to_a_family(module, name, family):
    zoo = module("zoo")
    made = zoo.build(name)
    assert sum(p.numel() for p in made.model.parameters()) < 1_000_000
    assert not made.model.training
    zoo.forward(made.model, made.inputs)
    assert module("zoo_families").family(name) == family


def test_what_cannot_be_built_says_why(module):
    zoo = module("zoo")
    with pytest.raises(zoo.NotBuilt, match="timm"):
        zoo.build("timm_wrapper")
    assert zoo.kind_of_failure("build: ImportError: X requires the timm library") == (
        "missing package"
    )
    assert zoo.kind_of_failure("forward: RuntimeError: shapes") == "forward"


def test_a_crash_or_hang_of_one_process_is_its_result(module):
    each = module("zoo_processes").each
    found = {}
    each(['{"a": 1}', "no json"], json.loads, 2, 60.0, found.__setitem__, [])
    assert found == {'{"a": 1}': {"a": 1}, "no json": {"died": "exit status 1"}}
    each([60], time.sleep, 1, 0.5, found.__setitem__, [])
    assert found[60] == {"died": "over 0 s"}


def layer(weight: str, signal: float, gradient: float) -> LayerMeasurement:
    return LayerMeasurement("", weight, 4, signal, 1.0, gradient, 0.0, 0.0, 0.0)


def test_predictions_are_compared_by_weight_and_turn(module):
    ratios = module("coverage").prediction_ratios
    predictions = [("a", 1.0), ("a", 4.0), ("b", math.nan)]
    plan = Plan(
        "auto", (), (), (),
        predictions=tuple(Prediction("", w, signal, 1.0, 0) for w, signal in predictions),
    )  # fmt: skip
    seen = (layer("a", 2.0, 1.0), layer("b", 1.0, 1.0), layer("a", 2.0, 1.0))
    assert ratios(plan, Measurements(seen, 1.0, 0.0, 0.0, 1.0, True, 64)) == [2.0, 0.5]


def test_layers_are_compared_where_they_differ_in_their_blocks_only(module):
    ratio = module("coverage_rival").ratio
    deep = (layer("h.0.w", 2, 1.0), layer("h.1.w", 1, 4.0), layer("h.0.v", 1, 9.0))
    assert ratio(deep, "weight_gradient") == 4.0
    assert ratio(deep, "signal") == 2.0
    none = (layer("h.0.w", 1, 0.0), layer("h.1.w", 1, 4.0))
    assert ratio(none, "weight_gradient") == math.inf
    # fc1 and fc2 are no two depths of one layer.
    assert math.isnan(ratio((layer("h.fc1.w", 1, 1.0), layer("h.fc2.w", 1, 4.0)), "signal"))


def test_a_rival_is_measured_and_its_failures_are_results(module):
    rival, zoo = module("coverage_rival"), module("zoo")
    pytest.importorskip("anyinit")
    net = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.ReLU(), torch.nn.Linear(8, 8))
    made = zoo.Built("net", net, {"input": torch.randn(4, 8)}, 0, frozenset())
    found = rival.rival(made)
    assert found["status"] == "done"
    assert found["set"] == 128
    empty = rival.rival(zoo.Built("none", torch.nn.Identity(), {}, 0, frozenset()))
    assert "status" in empty
    out = io.StringIO()
    ours = {
        "status": "planned", "assigned": 128, "matrices": 128, "plan_seconds": 0.5,
        "initialize": {"gradient_ratio": 2.0, "signal_ratio": 20.0}, "anyinit": found,
    }  # fmt: skip
    rival.show_rival(Console(file=out, width=100), {"net": ours})
    assert "within a factor 10 across depth: 0% /" in out.getvalue()


def test_reasons_lose_what_is_particular_to_one_model(module):
    group = module("coverage_report").group
    assert group("belongs to h.3.mlp: operation 'topk' of Router is not modelled") == (
        "belongs to a layer: operation 'topk' is not modelled"
    )
    assert group("forward of BltModel cannot be followed: Eq(u0, 1)") == (
        "forward cannot be followed: Eq(#, #)"
    )


def test_a_report_has_a_row_for_each_family_and_for_all(module):
    report = module("coverage_report")
    planned = {
        "status": "planned", "family": "vision", "parameters": 20, "matrices": 10, "assigned": 5,
        "untouched": {"no operation of the model uses it": 5}, "under_opaque": 10,
        "predictions": 4, "finite_predictions": 2, "told_gradients": 1, "plan_seconds": 1.0,
        "unread": {"topk": 3},
        "initialize": {
            "status": "planned", "measured": 4, "compared": [1.0, 3.0], "within_factor": 1,
            "gradients": [1.0], "gradients_within": 1,
            "gradient_ratio": 20.0, "forward_is_finite": True, "gradient_is_finite": True,
        },
    }  # fmt: skip
    refused = {"status": "refused", "family": "audio", "reason": "forward of X: 3"}
    crashed = {"status": "crashed", "reason": "process: over 60 s"}
    results = {"a": planned, "b": refused, "c": crashed, "d": {"status": "not built"}}
    numbers = report.summary(results)
    assert set(numbers) == {"vision", "audio", "other", "all"}
    assert numbers["all"]["run"] == 3
    assert numbers["all"]["planned"] == pytest.approx(1 / 3)
    assert numbers["all"]["crashes"] == 1
    vision = numbers["vision"]
    assert [vision[k] for k in ("assigned", "opaque", "predicted", "within 2")] == [0.5] * 4
    assert (vision["gradients"], vision["in 2"]) == (0.25, 1.0)
    assert vision["gradient"] == 0
    console = Console(width=118, record=True, file=io.StringIO())
    report.show(console, results)
    text = console.export_text()
    assert "crash c: process: over 60 s" in text
    assert "topk (3)" in text
    page = report.markdown(results, "versions", ["Beside:", "", "- one"])
    assert "| vision | 1 | 100% |" in page
    assert "1 could not" in page.replace("\n", " ")
    assert page.endswith("- one\n")


@pytest.mark.slow
def test_coverage_of_one_architecture_is_plain_data(module):
    found = module("coverage").cover("bert")
    assert found["status"] == "planned"
    assert found["initialize"]["forward_is_finite"]
    assert found["assigned"] + sum(found["untouched"].values()) == found["matrices"]
    json.dumps(found)
