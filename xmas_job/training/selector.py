"""OFA's selector: a small gated network over frozen features of a dual encoder, trained once and portable.

Owns the network, its training with the checkpoint rule, and its folder. Features come from extraction.clip.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from xmas_job.core.pseudo_labels import PseudoLabels, label_cores, mini_batch_kmeans, nearest_centroids
from xmas_job.errors import BadDataError, UsageError
from xmas_job.storage.selectors import CARD, WEIGHTS, read_card

# N examples, d dimension of one half, K classes

CENTROIDS = "centroids"
SCORED_AT_ONCE = 8192


@dataclass(frozen=True)
class SelectorSettings:
    """The release's settings. Its selector is under-trained on purpose: only the order of confidences matters."""

    num_clusters: int = 128
    core_share: float = 0.03
    validation_share: float = 0.2
    num_epochs: int = 100
    batch_size: int = 1024
    learning_rate: float = 1e-5
    weight_decay: float = 1e-4
    target_macro_accuracy: float = 0.60
    """The epoch whose accuracy on the held-out core is nearest is kept; the earliest of equal ones."""
    seed: int = 42


class GatedSelector(nn.Module):
    """f = g h_u + (1 - g) h_v + s W(u ⊙ v), g a scalar gate of [u; v; u ⊙ v]; then a class for each cluster.

    Source: OFA's released network.
    """

    def __init__(self, half: int, num_classes: int, hidden: int = 256) -> None:
        super().__init__()
        self.image = nn.Linear(half, hidden)
        self.text = nn.Linear(half, hidden)
        self.gate = nn.Sequential(nn.Linear(3 * half, hidden // 2), nn.ReLU(), nn.Linear(hidden // 2, 1))
        self.product = nn.Linear(half, hidden, bias=False)
        self.product_scale = nn.Parameter(torch.tensor(0.1))
        self.head = nn.Sequential(nn.LayerNorm(hidden), nn.ReLU(), nn.Dropout(0.1), nn.Linear(hidden, num_classes))

    def forward(self, joint: Tensor) -> Tensor:
        """Logits (B, K) of joint features (B, 2d): the image half, then the text half, each made a unit vector."""
        u, v = (nn.functional.normalize(half, dim=1) for half in joint.chunk(2, dim=1))
        product = u * v
        gate = torch.sigmoid(self.gate(torch.cat([u, v, product], dim=1)))
        mixed = gate * torch.relu(self.image(u)) + (1 - gate) * torch.relu(self.text(v))
        logits: Tensor = self.head(mixed + self.product_scale * self.product(product))
        return logits


@dataclass(frozen=True)
class Selector:
    """A trained selector: the network, its source's centroids, and what is known of it."""

    network: GatedSelector
    centroids: NDArray[np.float32]
    """Shape (K, 2d)."""
    card: dict[str, Any]

    def score(
        self, joint_N2d: NDArray[np.floating]
    ) -> tuple[NDArray[np.float32], NDArray[np.int32], NDArray[np.float32]]:
        """Confidence (largest class probability), cluster (nearest source centroid) and distance to it, shape (N,).

        Raises:
            UsageError: if the features are of another encoder.
        """
        if joint_N2d.shape[1] != self.centroids.shape[1]:
            raise UsageError(
                f"the selector reads features of {self.centroids.shape[1]} numbers, these have {joint_N2d.shape[1]}.",
                f"Use the encoder it was trained with: {self.card['encoder']}.",
            )
        self.network.eval()
        confidence = np.empty(len(joint_N2d), dtype=np.float32)
        with torch.inference_mode():
            for start in range(0, len(joint_N2d), SCORED_AT_ONCE):
                block = torch.from_numpy(np.array(joint_N2d[start : start + SCORED_AT_ONCE], dtype=np.float32))
                confidence[start : start + SCORED_AT_ONCE] = self.network(block).softmax(dim=1).amax(dim=1).numpy()
        return confidence, *nearest_centroids(joint_N2d, self.centroids)

    def save(self, folder: Path) -> None:
        """Write weights with centroids, and the card."""
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {name: value.contiguous() for name, value in self.network.state_dict().items()}
        save_file({**tensors, CENTROIDS: torch.from_numpy(self.centroids.copy())}, folder / WEIGHTS)
        (folder / CARD).write_text(json.dumps(self.card, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def load_selector(folder: Path) -> Selector:
    """The selector of a folder that `save` wrote.

    Raises:
        UsageError: if there is none.
        BadDataError: if its files do not fit together.
    """
    card = read_card(folder)
    try:
        tensors = load_file(folder / WEIGHTS)
    except (ValueError, SafetensorError) as error:
        raise _broken(folder, str(error)) from error
    centroids = tensors.pop(CENTROIDS, torch.empty(0))
    if centroids.ndim != 2:
        raise _broken(folder, f"{WEIGHTS} has no {CENTROIDS} of shape (K, 2d)")
    if bad := sorted(name for name, value in {**tensors, CENTROIDS: centroids}.items() if not value.isfinite().all()):
        raise _broken(folder, f"{WEIGHTS} has values that are not finite in {', '.join(bad)}")
    network = GatedSelector(centroids.shape[1] // 2, len(centroids))
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:  # torch names every tensor that lacks, is too many or has another shape
        raise _broken(folder, " ".join(str(error).split()).rstrip(".")) from error
    return Selector(network, centroids.numpy(), card)


def _broken(folder: Path, why: str) -> BadDataError:
    return BadDataError(f"{folder} holds a broken selector: {why}.", "Fetch or train it again.")


def train_selector(joint_N2d: NDArray[np.floating], settings: SelectorSettings, *, encoder: str) -> Selector:
    """Pseudo-labels from the features themselves, then the network; the same features and seed, the same selector.

    Args:
        joint_N2d: features of the source pool, shape (N, 2d).
        settings: hyper-parameters.
        encoder: names the dual encoder on the card.
    """
    centroids = mini_batch_kmeans(joint_N2d, settings.num_clusters, settings.seed)
    labels = label_cores(
        joint_N2d,
        centroids,
        core_share=settings.core_share,
        validation_share=settings.validation_share,
        rng=np.random.default_rng(settings.seed),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        network = GatedSelector(joint_N2d.shape[1] // 2, settings.num_clusters)
        epoch, accuracy, num_predicted = _fit(network, joint_N2d, labels, settings)
    card = {
        "kind": "OFA selector",
        "paper": "arXiv 2605.26761",
        "encoder": encoder,
        "settings": asdict(settings),
        "epoch": epoch,
        "macro_accuracy": accuracy,
        "num_classes_predicted": num_predicted,
        "num_source_examples": len(joint_N2d),
        "num_train": int(labels.train_rows.size),
        "num_validation": int(labels.validation_rows.size),
    }
    return Selector(network, centroids, card)


def _fit(
    network: GatedSelector, joint_N2d: NDArray[np.floating], labels: PseudoLabels, settings: SelectorSettings
) -> tuple[int, float, int]:
    """Train, and leave the network at the chosen epoch: its number from 1, macro accuracy, classes predicted."""
    features, targets = _tensors(joint_N2d, labels.train_rows, labels.train_labels)
    held_out, truth = _tensors(joint_N2d, labels.validation_rows, labels.validation_labels)
    optimizer = torch.optim.AdamW(network.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
    # Class-balanced draws with replacement, as many an epoch as there are examples.
    weights = 1.0 / torch.bincount(targets, minlength=settings.num_clusters)[targets].double()
    best: tuple[float, int, float, int] | None = None
    state: dict[str, Tensor] = {}
    for epoch in range(1, settings.num_epochs + 1):
        network.train()
        for rows in torch.split(torch.multinomial(weights, len(targets), replacement=True), settings.batch_size):
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(features[rows]), targets[rows]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        accuracy, num_predicted = _macro_accuracy(network, held_out, truth)
        distance = abs(accuracy - settings.target_macro_accuracy)
        if best is None or distance < best[0]:
            best = (distance, epoch, accuracy, num_predicted)
            state = {name: value.clone() for name, value in network.state_dict().items()}
    assert best is not None
    network.load_state_dict(state)
    return best[1:]


def _tensors(
    joint_N2d: NDArray[np.floating], rows: NDArray[np.int64], labels: NDArray[np.int64]
) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(np.array(joint_N2d[rows], dtype=np.float32)), torch.from_numpy(labels)


def _macro_accuracy(network: GatedSelector, features: Tensor, truth: Tensor) -> tuple[float, int]:
    """Mean over the classes present of the share found, and the number of classes that are predicted at all."""
    network.eval()
    with torch.inference_mode():
        predicted = network(features).argmax(dim=1)
    is_right = (predicted == truth).double()
    counts = torch.bincount(truth)
    found = torch.zeros(len(counts), dtype=torch.float64).index_add(0, truth, is_right)
    return float((found[counts > 0] / counts[counts > 0]).mean()), int(predicted.unique().numel())
