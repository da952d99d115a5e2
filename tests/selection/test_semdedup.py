from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.selection.small_pools import order_of, small_pool
from xmas_job.selection.contract import CandidatePool
from xmas_job.selection.semdedup import SemDeDup

ANGLES = [0, 10, 80, 0, 45]
CLUSTERS = [0, 0, 0, 1, 1]


def pool() -> CandidatePool:
    features = [[np.cos(np.radians(angle)), np.sin(np.radians(angle))] for angle in ANGLES]
    return small_pool({"last_state": features}, clusters=CLUSTERS, centroids=[[1, 0], [1, 0]])


@pytest.mark.parametrize(
    ("keep", "expected"),
    [
        # Cluster 0 from far to near: 2 (80°), 1 (10°, cos 70° to 2), 0 (0°, cos 10° to 1).
        # Cluster 1: 4, then 3 (cos 45°). Firsts have -1, by uid: 2 4; then cos 70° < cos 45° < cos 10°.
        ("hard", [2, 4, 1, 3, 0]),
        # From near to far: 0, 1 (cos 10°), 2 (cos 70°); 3, 4 (cos 45°).
        ("easy", [0, 3, 2, 4, 1]),
    ],
)
def test_least_duplicated_first_by_hand(keep: str, expected: list[int]) -> None:
    assert order_of(SemDeDup(keep=keep), pool()) == expected  # type: ignore[arg-type]


def test_mapped_half_precision_features_serve(tmp_path: Path) -> None:
    np.save(tmp_path / "features.npy", np.asarray(pool().signals["last_state"], dtype=np.float16))
    mapped = np.load(tmp_path / "features.npy", mmap_mode="r")
    whole = pool()
    columns = {name: getattr(whole, name) for name in ("uids", "has_image", "cluster_ids", "text_only", "centroids")}
    assert order_of(SemDeDup(), CandidatePool(**columns, signals={"last_state": mapped})) == [2, 4, 1, 3, 0]
