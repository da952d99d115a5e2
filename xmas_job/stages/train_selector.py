"""train_selector: OFA's selector on the pool's features of the dual encoder.

`release` copies it to selectors/<digest>, from where any run may take it: it needs nothing of the pool any more.
"""

from __future__ import annotations

from xmas_job.catalog.methods import SignalNeed
from xmas_job.core.kmeans import supported_clusters
from xmas_job.models.hardware import apply_hardware
from xmas_job.runner import Run
from xmas_job.sections import Hardware, SelectorSection
from xmas_job.stage_io import Metrics, StageIO
from xmas_job.stages.stored_signals import join_signal, read_absent, uids_with_image, without
from xmas_job.storage.record import Artifact
from xmas_job.storage.selectors import CARD, selector_key
from xmas_job.training.selector import SelectorSettings, train_selector

FOLDER = "selector"


def run(section: SelectorSection, io: StageIO) -> Metrics:
    """Write `selector/`: weights with centroids in safetensors, and the card. On the CPU: it is small."""
    apply_hardware(Hardware())
    with_image = uids_with_image(io.artifact("pool"))
    encoded = io.artifacts["encode"]
    uids = without(with_image, read_absent(encoded, ["clip"], with_image))
    features = join_signal(encoded, SignalNeed("clip", "none"), uids, io.output.scratch)
    most = section.num_clusters
    settings = SelectorSettings(
        **section.model_dump(exclude={"num_clusters", "is_most"}),
        num_clusters=supported_clusters(most, len(uids)) if section.is_most else most,
    )
    (encoder,) = encoded[0].record.inputs["encoder"]
    selector = train_selector(features, settings, encoder=encoder)
    with io.output.folder(FOLDER) as folder:
        selector.save(folder)
    told = ("epoch", "macro_accuracy", "num_classes_predicted", "num_train", "num_validation")
    return {"num_clusters": settings.num_clusters, **{name: selector.card[name] for name in told}}


def release(artifact: Artifact, _run: Run, _key: str) -> None:
    """Copy the selector to selectors/<digest>, its card last. Safe to repeat."""
    store, folder = artifact.store, selector_key(artifact.record.digest)
    if store.exists(f"{folder}/{CARD}"):
        return
    card = f"{FOLDER}/{CARD}"
    for path in [*(path for path in artifact.paths if path != card), card]:
        artifact.read(path)  # what is damaged is not released
        store.copy(artifact.key(path), f"{folder}/{path.removeprefix(f'{FOLDER}/')}")
