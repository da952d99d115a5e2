"""The selector on features whose clusters are known; small, but the real network and optimizer."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import nn

from xmas_job.core.pseudo_labels import PseudoLabels
from xmas_job.errors import BadDataError, UsageError
from xmas_job.training.selector import GatedSelector, SelectorSettings, _fit, load_selector, train_selector

NUM_CLUSTERS = 4
SETTINGS = SelectorSettings(num_clusters=NUM_CLUSTERS, core_share=0.5, num_epochs=12, batch_size=32, learning_rate=1e-3)


def heaps(num_rows: int, spread: float, seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Joint features (N, 12) around one direction a heap, both halves unit vectors."""
    centres = np.random.default_rng(9).normal(size=(NUM_CLUSTERS, 12))
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, NUM_CLUSTERS, num_rows)
    rows = centres[truth] + spread * rng.normal(size=(num_rows, 12))
    halves = [half / np.linalg.norm(half, axis=1, keepdims=True) for half in np.split(rows, 2, axis=1)]
    return (np.concatenate(halves, axis=1) / 2**0.5).astype(np.float32), truth


def test_network_is_the_published_formula() -> None:
    torch.manual_seed(1)
    network = GatedSelector(6, 3, hidden=8).eval()
    joint = torch.randn(5, 12)
    u, v = (half / half.norm(dim=1, keepdim=True) for half in (joint[:, :6], joint[:, 6:]))
    first, last = network.gate[0], network.gate[2]
    assert isinstance(first, nn.Linear)
    assert isinstance(last, nn.Linear)
    inner = (torch.cat([u, v, u * v], 1) @ first.weight.T + first.bias).clamp(min=0)
    g = 1 / (1 + torch.exp(-(inner @ last.weight.T + last.bias)))
    h_u, h_v = ((x @ layer.weight.T + layer.bias).clamp(min=0) for x, layer in ((u, network.image), (v, network.text)))
    f = g * h_u + (1 - g) * h_v + 0.1 * (u * v) @ network.product.weight.T
    norm, classify = network.head[0], network.head[3]
    assert isinstance(norm, nn.LayerNorm)
    assert isinstance(classify, nn.Linear)
    centred = (f - f.mean(1, keepdim=True)) / (f.var(1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    expected = centred.clamp(min=0) @ classify.weight.T + classify.bias
    assert torch.allclose(network(joint), expected, atol=1e-5)
    assert network.product.bias is None


def test_the_epoch_nearest_to_the_target_is_kept() -> None:
    features, _ = heaps(400, 0.3)
    cards = {
        target: train_selector(
            features, dataclasses.replace(SETTINGS, target_macro_accuracy=target), encoder="tiny"
        ).card
        for target in (0.0, 0.6, 1.0)
    }
    # Every epoch's accuracy, by stopping there: training is the same up to that epoch.
    by_epoch = [
        train_selector(
            features, dataclasses.replace(SETTINGS, num_epochs=epochs, target_macro_accuracy=1.0), encoder="tiny"
        ).card["macro_accuracy"]
        for epochs in range(1, 13)
    ]
    assert cards[1.0]["macro_accuracy"] == max(by_epoch)
    assert cards[0.0]["epoch"] == 1
    assert cards[0.0]["macro_accuracy"] == by_epoch[0]
    assert by_epoch[0] < by_epoch[-1]


def test_it_learns_its_heaps_and_is_least_sure_between_them() -> None:
    features, _ = heaps(600, 0.2)
    selector = train_selector(features, dataclasses.replace(SETTINGS, target_macro_accuracy=1.0), encoder="tiny")
    assert selector.card["macro_accuracy"] > 0.9
    centres = selector.centroids
    between = (centres[:-1] + centres[1:]) / 2
    sure, clusters, _ = selector.score(centres)
    unsure, *_ = selector.score(between)
    assert clusters.tolist() == list(range(NUM_CLUSTERS))
    assert unsure.max() < sure.max()
    assert unsure.mean() < sure.mean()


def test_classes_are_drawn_alike_whatever_their_size() -> None:
    """Equal features, 300 of one class and 10 of the other: it should not learn that one is common."""
    features = np.repeat(heaps(1, 0.3)[0], 400, axis=0)
    labels = PseudoLabels(
        centroids=np.zeros((2, 12), dtype=np.float32),
        train_rows=np.arange(310),
        train_labels=(np.arange(310) >= 300).astype(np.int64),
        validation_rows=np.arange(310, 400),
        validation_labels=np.arange(90) % 2,
    )
    torch.manual_seed(0)
    network = GatedSelector(6, 2)
    settings = dataclasses.replace(SETTINGS, num_clusters=2, num_epochs=8, target_macro_accuracy=1.0)
    _fit(network, features, labels, settings)
    network.eval()
    probability = float(network(torch.from_numpy(features[:1])).detach().softmax(dim=1)[0, 0])
    assert 0.3 < probability < 0.7


def test_same_features_same_selector_and_the_global_generator_is_left() -> None:
    features, _ = heaps(200, 0.3)
    before = torch.get_rng_state()
    first, again = (train_selector(features, SETTINGS, encoder="tiny") for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(
        torch.equal(a, b)
        for a, b in zip(first.network.state_dict().values(), again.network.state_dict().values(), strict=True)
    )
    assert first.score(features)[0].tobytes() == again.score(features)[0].tobytes()


def test_it_travels_as_a_folder_and_scores_another_pool_alike(tmp_path: Path) -> None:
    source, _ = heaps(300, 0.3)
    other, truth = heaps(90, 0.1, seed=5)
    selector = train_selector(source, SETTINGS, encoder="openai/clip-vit-base-patch32")
    selector.save(tmp_path / "selector")
    loaded = load_selector(tmp_path / "selector")
    for mine, theirs in zip(selector.score(other), loaded.score(other), strict=True):
        assert mine.tobytes() == theirs.tobytes()
    assert loaded.card == json.loads((tmp_path / "selector" / "card.json").read_text())
    assert loaded.card["encoder"] == "openai/clip-vit-base-patch32"
    # No new clustering: the source's clusters hold in the other pool, one number a heap.
    numbers = {int(heap): set(loaded.score(other)[1][truth == heap].tolist()) for heap in range(NUM_CLUSTERS)}
    assert sorted(len(found) for found in numbers.values()) == [1] * NUM_CLUSTERS
    assert len(set.union(*numbers.values())) == NUM_CLUSTERS


def test_a_score_does_not_depend_on_the_others() -> None:
    features, _ = heaps(50, 0.3)
    selector = train_selector(features, SETTINGS, encoder="tiny")
    whole, alone = selector.score(features)[0], selector.score(features[7:8])[0]
    assert alone[0] == pytest.approx(whole[7], abs=1e-6)
    assert ((whole > 1 / NUM_CLUSTERS - 1e-6) & (whole <= 1)).all()


def test_features_of_another_encoder_are_refused() -> None:
    features, _ = heaps(50, 0.3)
    selector = train_selector(features, SETTINGS, encoder="tiny")
    with pytest.raises(UsageError, match="12 numbers, these have 10") as caught:
        selector.score(features[:, :10])
    assert "tiny" in caught.value.remedy


def test_folder_without_a_selector_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is no selector"):
        load_selector(tmp_path)
    (tmp_path / "card.json").write_text("{}")
    with pytest.raises(BadDataError, match=r"card.json is broken: KeyError\('encoder'\)"):
        load_selector(tmp_path)
    (tmp_path / "card.json").write_text('{"encoder": "tiny"}')
    with pytest.raises(UsageError, match=r"there is no selector\.safetensors"):
        load_selector(tmp_path)
    (tmp_path / "selector.safetensors").write_bytes(b"broken")
    with pytest.raises(BadDataError, match="broken selector"):
        load_selector(tmp_path)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"centroids": None}, "no centroids"),
        ({"centroids": torch.zeros(12)}, "no centroids of shape"),
        ({"centroids": torch.full((NUM_CLUSTERS, 12), torch.nan)}, "not finite in centroids"),
        ({"image.weight": torch.full((256, 6), torch.inf)}, "not finite in image.weight"),
        ({"gate.0.bias": None}, "gate.0.bias"),
        ({"text.weight": torch.zeros(256, 5)}, "text.weight"),
        ({"centroids": torch.zeros(NUM_CLUSTERS + 1, 12)}, "head.3.weight"),
    ],
)
def test_weights_that_do_not_fit_are_refused_by_name(
    change: dict[str, torch.Tensor | None], named: str, tmp_path: Path
) -> None:
    features, _ = heaps(50, 0.3)
    train_selector(features, dataclasses.replace(SETTINGS, num_epochs=1), encoder="tiny").save(tmp_path)
    tensors = {**load_file(tmp_path / "selector.safetensors"), **change}
    save_file({name: value for name, value in tensors.items() if value is not None}, tmp_path / "selector.safetensors")
    with pytest.raises(BadDataError, match=named) as caught:
        load_selector(tmp_path)
    assert "\n" not in caught.value.message
