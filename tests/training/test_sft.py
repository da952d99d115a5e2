from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.tiny_models import tiny_llava, tiny_qwen
from tests.training.toy import (
    COLOURS,
    Run,
    files_of,
    ignore_adapter,
    ignore_checkpoint,
    ignore_progress,
    image_example,
    image_pool,
    load_image,
    mixed_pool,
    settings,
    text_pool,
    train_toy_proxy,
    train_toy_target,
)
from xmas_job.errors import BadDataError, UsageError
from xmas_job.evaluation.generate import load_target
from xmas_job.models.adapter import LVLM
from xmas_job.training.schedule import training_order
from xmas_job.training.sft import train_full, train_lora


def _train(lvlm: LVLM, examples: list[Any], **changes: object) -> dict[str, Any]:
    return train_full(
        lvlm,
        examples,
        load_image,
        settings(**changes),
        checkpoint_steps=[1],
        on_checkpoint=ignore_checkpoint,
        on_progress=ignore_progress,
    )


def _weights(lvlm: LVLM) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in lvlm.model.named_parameters()}


def _logits(lvlm: LVLM) -> torch.Tensor:
    encoded = [lvlm.encode(image_example(colour), [load_image(colour)]) for colour in COLOURS]
    with torch.inference_mode():
        return lvlm.model(**lvlm.collate(encoded).model_inputs).logits


@pytest.fixture(scope="module")
def base_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("base")
    tiny_llava().save(directory)
    return directory


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train_toy_proxy(tmp_path_factory.mktemp("proxy"))


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train_toy_target(tmp_path_factory.mktemp("target"))


def test_checkpoints_are_saved_at_their_steps_with_the_examples_seen(proxy):
    assert proxy.checkpoints == [(0, 0, 0), (1, 2, 16), (2, 3, 24), (3, 5, 36)]


def test_progress_counts_examples_to_the_end(proxy):
    assert proxy.progress == [(0, 36), (8, 36), (16, 36), (24, 36), (32, 36), (36, 36)]


def test_checkpoint_0_is_the_model_before_and_the_last_is_the_trained_model(proxy):
    first, last = LVLM.load(proxy.directory / "0"), LVLM.load(proxy.directory / "3")
    assert all(torch.equal(_weights(tiny_llava())[name], weight) for name, weight in _weights(first).items())
    assert torch.equal(_logits(last), _logits(proxy.lvlm))
    assert not torch.equal(_logits(first), _logits(last))


def test_every_checkpoint_differs_from_the_one_before(proxy):
    digests = {hashlib.sha256((proxy.directory / str(i) / "model.safetensors").read_bytes()).digest() for i in range(4)}
    assert len(digests) == 4


def test_checkpoints_keep_the_configuration_of_the_model(proxy, base_dir):
    for name in ("config.json", "generation_config.json", "processor_config.json"):
        assert (proxy.directory / "2" / name).read_bytes() == (base_dir / name).read_bytes()


def test_full_training_moves_all_but_the_vision_tower(proxy):
    moved = {name for name, now in _weights(proxy.lvlm).items() if not torch.equal(now, _weights(tiny_llava())[name])}
    # k_proj biases cancel in the softmax, so their gradient is rounding: they may stay.
    expected = {
        name for name in _weights(tiny_llava()) if "vision_tower" not in name and not name.endswith("k_proj.bias")
    }
    assert expected <= moved
    assert not any("vision_tower" in name for name in moved)
    assert any("multi_modal_projector" in name for name in moved)


def test_metrics_count_what_was_learned_from(proxy):
    metrics = proxy.metrics
    lvlm = tiny_llava()
    encoded = [lvlm.encode(one, [load_image(uri) for uri in one.image_uris]) for one in mixed_pool(36)]
    assert metrics["num_supervised_tokens"] == sum(int((one.labels != -100).sum()) for one in encoded)
    assert (metrics["num_examples"], metrics["num_steps"], metrics["num_unsupervised_examples"]) == (36, 5, 0)
    assert metrics["checkpoint_steps"] == [2, 3, 5]
    assert metrics["loss_last"] < metrics["loss_mean"] < metrics["loss_first"]
    assert metrics["examples_per_second"] == pytest.approx(36 / metrics["seconds"])


def test_nothing_is_printed(capfd):
    _train(tiny_llava(), mixed_pool(8))
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize("pool", [image_pool, text_pool, mixed_pool])
def test_loss_falls_whatever_the_modality(pool):
    # Batches of 3 of a pool with every fourth text-only: some batches hold images only, some both.
    metrics = _train(tiny_llava(), pool(96), global_batch=6, per_device_batch=3, learning_rate=1e-2)
    assert metrics["loss_last"] < 0.6 * metrics["loss_first"]


def test_batches_of_one_modality_each_can_alternate():
    # One example a batch: every batch has either an image or none.
    assert _train(tiny_llava(), mixed_pool(12), global_batch=2, per_device_batch=1)["num_steps"] == 6


def test_a_model_with_images_of_many_sizes_trains():
    lvlm = tiny_qwen()
    before = _weights(lvlm)
    metrics = _train(lvlm, mixed_pool(64))
    assert metrics["loss_last"] < metrics["loss_first"]
    towers = {id(parameter) for parameter in lvlm.vision_parameters()}
    for name, parameter in lvlm.model.named_parameters():
        if id(parameter) in towers:
            assert torch.equal(parameter, before[name])


def test_gradient_accumulation_does_not_change_the_training():
    """Answers differ in length, so a mean of batch means would not be the mean over the step's tokens."""
    at_once, in_parts = tiny_llava(), tiny_llava()
    _train(at_once, mixed_pool(24), global_batch=8, per_device_batch=8, learning_rate=1e-3)
    _train(in_parts, mixed_pool(24), global_batch=8, per_device_batch=2, learning_rate=1e-3)
    torch.testing.assert_close(_logits(at_once), _logits(in_parts), atol=2e-4, rtol=1e-4)


def test_the_seed_changes_the_order_and_the_input_order_does_not():
    models = [tiny_llava(), tiny_llava(), tiny_llava()]
    _train(models[0], mixed_pool(24))
    _train(models[1], mixed_pool(24)[::-1])
    _train(models[2], mixed_pool(24), seed=1)
    assert torch.equal(_logits(models[0]), _logits(models[1]))
    assert not torch.allclose(_logits(models[0]), _logits(models[2]))


def test_examples_are_seen_in_training_order():
    examples = [replace(image_example("red", number), image_uris=(str(number),)) for number in range(20)]
    seen: list[str] = []

    def load_red(uri: str) -> Any:
        seen.append(uri)
        return load_image("red")

    train_lora(
        tiny_llava(),
        examples,
        load_red,
        settings(seed=5),
        on_adapter=ignore_adapter,
        on_progress=ignore_progress,
    )
    expected = [str(index) for index in training_order([example.uid for example in examples], seed=5)]
    assert seen == [expected[0], *expected]  # the first is looked at once more, for an answer


def test_two_epochs_see_everything_twice():
    metrics = _train(tiny_llava(), mixed_pool(12), num_epochs=2)
    assert (metrics["num_examples"], metrics["num_steps"]) == (24, 3)


def test_the_projector_has_its_own_rate():
    lvlm = tiny_llava()
    before = _weights(lvlm)
    _train(lvlm, mixed_pool(16), projector_learning_rate=0.0)
    moved = {name for name, now in _weights(lvlm).items() if not torch.equal(now, before[name])}
    assert any("language_model" in name for name in moved)
    assert not any("multi_modal_projector" in name for name in moved)


def test_weight_decay_spares_vectors():
    """At a rate where gradients hardly count, decay alone shrinks matrices by (1 - rate * decay) a step."""
    plain, decayed = tiny_llava(), tiny_llava()
    _train(plain, mixed_pool(8), learning_rate=1e-4, warmup_fraction=0.0)
    _train(decayed, mixed_pool(8), learning_rate=1e-4, warmup_fraction=0.0, weight_decay=100.0)
    for name, weight in _weights(decayed).items():
        if name.endswith(("norm.weight", ".bias")) or "vision_tower" in name:
            assert torch.equal(weight, _weights(plain)[name]), name
    name = "lm_head.weight"
    torch.testing.assert_close(_weights(decayed)[name], _weights(plain)[name] - 0.01 * _weights(tiny_llava())[name])


def test_rows_whose_answer_is_cut_off_are_counted():
    lvlm, examples = tiny_llava(), mixed_pool(16)
    # Text rows fit into their own length; image rows, longer by 16 image tokens, lose their answer.
    length = max(len(lvlm.encode(one, []).input_ids) for one in examples if one.modality == "text")
    metrics = _train(lvlm, examples, max_length=length)
    assert metrics["num_unsupervised_examples"] == 12


def test_data_without_any_answer_token_is_refused_before_the_first_step():
    called = []
    with pytest.raises(BadDataError, match="None of the 9 examples has an answer token"):
        train_full(
            tiny_llava(),
            mixed_pool(9),
            load_image,
            settings(max_length=5),
            checkpoint_steps=[1],
            on_checkpoint=lambda *_: called.append(1),
            on_progress=ignore_progress,
        )
    assert not called


def test_a_loss_that_is_not_finite_stops_the_training_and_saves_nothing_more():
    saved = []
    with pytest.raises(BadDataError, match=r"broke at optimizer step \d+: loss"):
        train_full(
            tiny_llava(),
            mixed_pool(64),
            load_image,
            settings(learning_rate=1e30, warmup_fraction=0.0),
            checkpoint_steps=[1, 8],
            on_checkpoint=lambda index, step, seen, save: saved.append(index),
            on_progress=ignore_progress,
        )
    assert saved == [0, 1]  # the first step's loss was still that of the good weights


def test_a_poisoned_weight_is_named_at_the_first_step():
    lvlm = tiny_llava()
    lvlm.model.lm_head.weight.data[5, 5] = float("nan")
    with pytest.raises(BadDataError, match=r"broke at optimizer step 1: loss nan"):
        _train(lvlm, mixed_pool(16))


def test_a_checkpoint_past_the_end_is_refused():
    with pytest.raises(UsageError, match="step 4 lies past the end at 2"):
        train_full(
            tiny_llava(),
            mixed_pool(16),
            load_image,
            settings(),
            checkpoint_steps=[1, 4],
            on_checkpoint=ignore_checkpoint,
            on_progress=ignore_progress,
        )


def test_batches_that_do_not_divide_are_refused():
    with pytest.raises(UsageError, match="not a multiple"):
        _train(tiny_llava(), mixed_pool(16), global_batch=8, per_device_batch=3)


def test_half_precision_weights_are_refused():
    lvlm = tiny_llava()
    lvlm.model.bfloat16()
    with pytest.raises(UsageError, match="not in float32"):
        _train(lvlm, mixed_pool(16))


def test_bfloat16_computes_in_bfloat16_and_keeps_float32_weights():
    lvlm, exact = tiny_llava(), tiny_llava()
    metrics = _train(lvlm, mixed_pool(64), dtype="bfloat16")
    reference = _train(exact, mixed_pool(64))
    assert metrics["loss_first"] != reference["loss_first"]
    assert metrics["loss_first"] == pytest.approx(reference["loss_first"], rel=0.02)
    assert {parameter.dtype for parameter in lvlm.model.parameters()} == {torch.float32}


def test_lora_learns(target):
    assert target.metrics["loss_last"] < target.metrics["loss_first"]
    assert target.progress[-1] == (64, 64)


def test_a_reloaded_adapter_gives_the_same_logits(target, base_dir):
    reloaded = load_target(base_dir, target.directory)
    assert torch.equal(_logits(reloaded), _logits(target.lvlm))
    assert not torch.allclose(_logits(reloaded), _logits(LVLM.load(base_dir)), atol=1e-3)


def test_the_adapter_holds_language_model_matrices_and_the_projector_alone(target):
    weights = load_file(target.directory / "adapter_model.safetensors")
    adapted = {name.split("language_model.")[1].split(".lora_")[0] for name in weights if ".lora_" in name}
    linears = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"]
    linears += ["mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]
    assert adapted == {f"layers.{layer}.{linear}" for layer in range(3) for linear in linears}
    others = {name.split("multi_modal_projector.")[1] for name in weights if ".lora_" not in name}
    assert others == {"linear_1.weight", "linear_1.bias", "linear_2.weight", "linear_2.bias"}


def test_lora_trains_both_its_matrices_and_the_projector(target, base_dir):
    weights = load_file(target.directory / "adapter_model.safetensors")
    assert all(weight.any() for name, weight in weights.items() if name.endswith("lora_B.weight"))
    base = load_file(base_dir / "model.safetensors")
    for name, weight in weights.items():
        if "multi_modal_projector" in name:
            [original] = [w for n, w in base.items() if n.endswith(name.split("base_model.model.model.")[1])]
            assert not torch.equal(weight, original)


def test_lora_leaves_the_base_untouched(target, base_dir):
    now = {
        name.replace(".base_layer", "").replace(".original_module", ""): weight
        for name, weight in _weights(target.lvlm).items()
        if ".lora_" not in name and ".modules_to_save." not in name
    }
    base = _weights(LVLM.load(base_dir))
    assert now.keys() == base.keys()
    assert all(torch.equal(now[name], weight) for name, weight in base.items())


def test_the_adapter_depends_neither_on_the_place_of_its_base_nor_on_the_random_state_before(
    target, base_dir, tmp_path
):
    base = LVLM.load(base_dir)
    torch.manual_seed(12345)
    assert files_of(train_toy_target(tmp_path, base).directory) == files_of(target.directory)
    assert sorted(files_of(tmp_path)) == ["adapter_config.json", "adapter_model.safetensors"]


def test_lora_without_its_settings_is_refused():
    with pytest.raises(UsageError, match="rank, alpha and dropout"):
        train_lora(
            tiny_llava(),
            mixed_pool(8),
            load_image,
            settings(lora=None),
            on_adapter=ignore_adapter,
            on_progress=ignore_progress,
        )


_RETRAIN = """
import sys, torch
from pathlib import Path
from tests.training.toy import train_toy_proxy, train_toy_target
torch.set_num_threads(1)
train_toy_proxy(Path(sys.argv[1]) / "proxy")
train_toy_target(Path(sys.argv[1]) / "target")
"""


def test_training_again_in_a_fresh_process_gives_the_same_bytes(proxy, target, tmp_path):
    root = str(Path(__file__).parents[2])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": root, "PYTHONHASHSEED": "7"}
    subprocess.run([sys.executable, "-c", _RETRAIN, str(tmp_path)], env=environment, check=True, capture_output=True)
    assert len(files_of(proxy.directory)) == 4 * 7
    assert files_of(tmp_path / "proxy") == files_of(proxy.directory)
    assert files_of(tmp_path / "target") == files_of(target.directory)
