"""Was the answer right? One 0 or 1 an example.

Owns the normalisation and the comparison. Refuses to own averages and their errors (core.performance).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from xmas_job.errors import BadDataError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


def normalise_answer(text: str) -> str:
    """Lower case, runs of white space made one space, outer white space and one trailing full stop dropped.

    Nothing else is forgiven: "two" is not "2", and "a cat" is not "cat".
    """
    return " ".join(text.lower().split()).removesuffix(".").rstrip()


def exact_match(answers: Sequence[str], references: Sequence[str]) -> NDArray[np.float64]:
    """1.0 where the normalised answer equals the normalised reference, else 0.0; shape (E,).

    Raises:
        BadDataError: the two differ in length, or a reference is empty after normalisation (an empty answer would
            pass as right).
    """
    if len(answers) != len(references):
        raise BadDataError(f"{len(answers)} answers for {len(references)} references.", "Answer every example once.")
    expected = [normalise_answer(reference) for reference in references]
    if "" in expected:
        raise BadDataError(
            f"Reference {expected.index('')} is empty after normalisation.", "Take the example out of the held-out set."
        )
    return np.array([normalise_answer(answer) == right for answer, right in zip(answers, expected, strict=True)], float)
