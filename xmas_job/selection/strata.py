"""The text-only stratum beside what a method makes of the rows with an image. Owns no choice among images."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from xmas_job.core.ranking import weave_proportionally
from xmas_job.selection.contract import CandidatePool, Ranking, Selection

# N rows of the pool, M of them with an image


def rank_by_score(pool: CandidatePool, scores_M: NDArray[np.floating], rng: np.random.Generator) -> Ranking:
    """Rows with an image by ascending score, ties by uid; the text-only stratum woven in by its share."""
    return rank_images(pool, np.argsort(scores_M, kind="stable"), rng)


def rank_images(pool: CandidatePool, images: NDArray[np.integer], rng: np.random.Generator) -> Ranking:
    """A ranking from places among the rows with an image, in order; text-only rows are drawn and woven in."""
    order = np.flatnonzero(pool.has_image)[images]
    if pool.text_only != "exclude":
        order = weave_proportionally(order, _drawn_text(pool, rng))
    return Ranking(order.astype(np.int64), _clusters_of(pool, order), np.full(order.size, np.nan))


def select_images(
    pool: CandidatePool,
    budget: int,
    rng: np.random.Generator,
    choose: Callable[[int], NDArray[np.integer]],
) -> Selection:
    """A selection from `choose(B)`, which gives B places among the rows with an image.

    Text-only rows get floor(budget * share) of the places, as in a woven ranking; they come last.
    """
    drawn = _drawn_text(pool, rng)  # always, so that the policy changes no other draw
    num_text = 0 if pool.text_only == "exclude" else budget * drawn.size // max(pool.uids.size, 1)
    images = np.flatnonzero(pool.has_image)[choose(budget - num_text)]
    rows = np.concatenate([images, drawn[:num_text]]).astype(np.int64)
    return Selection(rows, _clusters_of(pool, rows))


def _drawn_text(pool: CandidatePool, rng: np.random.Generator) -> NDArray[np.int64]:
    """Text-only rows in drawn order."""
    return rng.permutation(np.flatnonzero(~pool.has_image)).astype(np.int64)


def _clusters_of(pool: CandidatePool, rows: NDArray[np.integer]) -> NDArray[np.int32]:
    clusters = np.full(pool.uids.size, -1, dtype=np.int32)
    if pool.cluster_ids is not None:
        clusters[pool.has_image] = pool.cluster_ids
    return np.asarray(clusters[rows])
