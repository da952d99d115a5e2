from __future__ import annotations

import pytest

from xmas_job.catalog.methods import METHODS, Checkpoints, SignalNeed
from xmas_job.catalog.needs import needs_of, parse_needs, steps_of, unclustered_needs, united, written


@pytest.mark.parametrize(
    ("needs", "together"),
    [
        (["loss@last", "loss@last"], "loss@last"),
        (["loss@last", "loss"], "loss"),
        (["loss@last", "loss@first and last"], "loss@first and last"),
        (["loss@first and last", "loss"], "loss@first and all"),
        (["loss", "loss@first and all", "loss@last"], "loss@first and all"),
    ],
)
def test_one_need_serves_all_of_a_signal(needs: list[str], together: str) -> None:
    assert written(parse_needs(needs)) == (together,)
    assert written(parse_needs(needs[::-1])) == (together,)


def test_needs_are_written_by_name_and_read_back() -> None:
    texts = ("alignment", "el2n@last", "loss@first and last")
    assert written(parse_needs(texts[::-1])) == texts


@pytest.mark.parametrize(
    ("text", "says"), [("clip", "unknown signal 'clip'"), ("loss@none", "unknown checkpoints 'none' of 'loss'")]
)
def test_what_extraction_does_not_know_is_refused(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        parse_needs([text])


@pytest.mark.parametrize(
    ("checkpoints", "steps"),
    [
        ("last", (3,)),
        ("first and last", (0, 3)),
        ("all", (1, 2, 3)),
        ("first and all", (0, 1, 2, 3)),
    ],
)
def test_checkpoints_as_numbers(checkpoints: Checkpoints, steps: tuple[int, ...]) -> None:
    assert steps_of(checkpoints, range(4)) == steps


def test_clusters_count_as_a_need_and_vectors_are_read_beside_them() -> None:
    assert needs_of(METHODS["s2l"]) == (SignalNeed("loss", "all"),)
    assert unclustered_needs(METHODS["s2l"]) == unclustered_needs(METHODS["xmas"]) == ()
    assert unclustered_needs(METHODS["coincide"]) == (SignalNeed("coincide", "last"),)
    both = united([*needs_of(METHODS["density"]), *needs_of(METHODS["highest_learnability"])])
    assert written(both) == ("alignment", "loss@first and all")
