"""apply_selector: confidence and cluster of the pool's examples, by a selector of this run or one from elsewhere."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from xmas_job.catalog.methods import SignalNeed
from xmas_job.core.kmeans import Clustering
from xmas_job.extraction.layout import absent_path, signal_path
from xmas_job.models.hardware import apply_hardware
from xmas_job.sections import ApplySelectorSection, Hardware
from xmas_job.stage_io import Metrics, StageIO
from xmas_job.stages.cluster_tables import write_clusters
from xmas_job.stages.stored_signals import join_signal, read_absent, uids_with_image, without
from xmas_job.stages.train_selector import FOLDER
from xmas_job.storage.schemas import ABSENT, feature_schema
from xmas_job.storage.selectors import require_encoder
from xmas_job.storage.tables import lists_of
from xmas_job.training.selector import load_selector

CONFIDENCE = "ofa_confidence"


def run(_: ApplySelectorSection, io: StageIO) -> Metrics:
    """Write the signal "ofa_confidence", and `assignments`, `centroids` and `absent` as the cluster stage does."""
    apply_hardware(Hardware())
    with_image = uids_with_image(io.artifact("pool"))
    encoded = io.artifacts["encode"]
    absent = read_absent(encoded, ["clip"], with_image)
    uids = without(with_image, absent)
    features = join_signal(encoded, SignalNeed("clip", "none"), uids, io.output.scratch)
    is_given = "selector" in io.sources
    selector = load_selector(io.model_folder("selector") if is_given else io.artifact("selector").local_folder(FOLDER))
    (encoder,) = encoded[0].record.inputs["encoder"]
    name = io.source("selector").uri if is_given else "of this run"
    require_encoder(selector.card, encoder, selector=name, encoder="encoder.model")
    confidence, clusters, distances = selector.score(features)
    sizes = np.bincount(clusters, minlength=len(selector.centroids)).astype(np.int64)
    values = pa.table({"uid": uids, "value": lists_of(confidence[:, None])})
    io.output.table(signal_path(None, 0, CONFIDENCE), values, feature_schema(1))
    io.output.table(absent_path(0, CONFIDENCE), absent, ABSENT)
    told = write_clusters(io.output, uids, Clustering(clusters, distances, selector.centroids, sizes), absent)
    return {**told, "mean_confidence": float(confidence.mean(dtype=np.float64))}
