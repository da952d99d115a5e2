from __future__ import annotations

import numpy as np
import pytest

from tests.selection.small_pools import chosen_by, small_pool
from xmas_job.selection.ofa_dpp import OfaDpp


def test_candidates_are_the_least_confident_twice_the_quota() -> None:
    # One cluster of eight, two places: rows 0 to 3 are candidates.
    features = np.eye(8)
    pool = small_pool({"ofa_confidence": np.arange(8) / 8, "clip": features}, clusters=[0] * 8)
    drawn = [chosen_by(OfaDpp(), pool, 2, seed) for seed in range(300)]
    assert {row for rows in drawn for row in rows} == {0, 1, 2, 3}


def test_pairs_come_as_often_as_quality_and_likeness_say() -> None:
    """Candidates 0 1 2 3 with q = 1, 3/4, 1/2, 1/4: P(pair) is its determinant, q_i q_j (1 - s²), s = (1 + cos) / 2."""
    angles = np.radians([0, 30, 120, 200])
    features = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    pool = small_pool({"ofa_confidence": [0.1, 0.2, 0.3, 0.4], "clip": features}, clusters=[0] * 4)
    drawn = [tuple(sorted(chosen_by(OfaDpp(), pool, 2, seed))) for seed in range(3000)]
    q = [1, 0.75, 0.5, 0.25]
    pairs = [(i, j) for i in range(4) for j in range(i)]
    weights = {(j, i): q[i] * q[j] * (1 - ((1 + np.cos(angles[i] - angles[j])) / 2) ** 2) for i, j in pairs}
    total = sum(weights.values())
    for pair, weight in weights.items():
        assert drawn.count(pair) / 3000 == pytest.approx(weight / total, abs=0.035)


def test_blocks_share_a_quota_by_size() -> None:
    """Of 20 candidates in blocks of at most 8 (7 7 6) ten are drawn, none twice."""
    rng = np.random.default_rng(0)
    pool = small_pool({"ofa_confidence": rng.random(20), "clip": rng.normal(size=(20, 5))}, clusters=[0] * 20)
    for seed in range(10):
        assert len(set(chosen_by(OfaDpp(block=8), pool, 10, seed))) == 10
