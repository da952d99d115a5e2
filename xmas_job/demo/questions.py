"""What is asked about a scene: seven task families of very unequal frequency, and other questions to pre-train on.

Owns wording and answers. Refuses to own pictures (drawing) and files (pool).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from xmas_job.demo.drawing import pick

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np

    from xmas_job.demo.drawing import Scene, Shape


@dataclass(frozen=True, slots=True)
class Question:
    """One question with its short answer."""

    text: str
    answer: str


@dataclass(frozen=True, slots=True)
class Family:
    """A kind of question; `share` is its part of the pool's image examples. `ask` gives None where it has no answer."""

    name: str
    share: float
    ask: Callable[[Scene, np.random.Generator], Question | None]


def _ask_colour(scene: Scene, rng: np.random.Generator) -> Question:
    shape = pick(rng, scene.shapes)
    wordings = ("What colour is the {}?", "Which colour does the {} have?", "Name the colour of the {}.")
    return Question(pick(rng, wordings).format(shape.kind), shape.colour)


def _ask_shape(scene: Scene, rng: np.random.Generator) -> Question:
    shape = pick(rng, scene.shapes)
    wordings = ("What shape is at the {}?", "Which shape do you see {}?", "Name the shape in the {} corner.")
    return Question(pick(rng, wordings).format(shape.place), shape.kind)


def _ask_count(scene: Scene, rng: np.random.Generator) -> Question:
    wordings = ("How many shapes are there?", "Count the shapes.", "How many things does the picture show?")
    return Question(pick(rng, wordings), str(len(scene.shapes)))


def _ask_position(scene: Scene, rng: np.random.Generator) -> Question:
    shape = pick(rng, scene.shapes)
    wordings = ("Where is the {}?", "In which corner is the {}?", "Find the {}.")
    return Question(pick(rng, wordings).format(shape.kind), shape.place)


def _ask_larger(scene: Scene, rng: np.random.Generator) -> Question | None:
    large = [shape.kind for shape in scene.shapes if shape.size == "large"]
    small = [shape.kind for shape in scene.shapes if shape.size == "small"]
    if not large or not small:
        return None
    answer = pick(rng, large)
    pair = [answer, pick(rng, small)]
    rng.shuffle(pair)
    wordings = ("Which is larger, the {} or the {}?", "Of the {} and the {}, which is bigger?")
    return Question(pick(rng, wordings).format(*pair), answer)


def _ask_same_colour(scene: Scene, rng: np.random.Generator) -> Question | None:
    if len(scene.shapes) == 1:
        return None
    first, second = (scene.shapes[index] for index in rng.permutation(len(scene.shapes))[:2])
    wordings = ("Do the {} and the {} have the same colour?", "Are the {} and the {} painted alike?")
    answer = "yes" if first.colour == second.colour else "no"
    return Question(pick(rng, wordings).format(first.kind, second.kind), answer)


def _ask_pattern(scene: Scene, rng: np.random.Generator) -> Question:
    shape = pick(rng, scene.shapes)
    wordings = ("How is the {} filled?", "Which pattern does the {} have?", "What is the texture of the {}?")
    return Question(pick(rng, wordings).format(shape.kind), shape.pattern)


FAMILIES = (
    Family("colour", 0.60, _ask_colour),
    Family("shape", 0.20, _ask_shape),
    Family("count", 0.08, _ask_count),
    Family("position", 0.05, _ask_position),
    Family("size", 0.04, _ask_larger),
    Family("same_colour", 0.02, _ask_same_colour),
    Family("pattern", 0.01, _ask_pattern),
)


def arithmetic_questions() -> list[Question]:
    """All text-only questions: sums and differences of digits."""
    return [Question(f"What is {a} plus {b}?", str(a + b)) for a in range(10) for b in range(10)] + [
        Question(f"What is {a} minus {b}?", str(a - b)) for a in range(10) for b in range(a + 1)
    ]


def describe(shape: Shape) -> str:
    """The shape in words, its kind first, e.g. `circle : large red striped , top left`."""
    return f"{shape.kind} : {shape.size} {shape.colour} {shape.pattern} , {shape.place}"


def general_questions(scene: Scene, rng: np.random.Generator, num_questions: int) -> list[Question]:
    """Questions outside the seven families, which teach to see and to speak: a caption and descriptions of parts."""
    caption = Question("Describe the picture.", " ; ".join(describe(shape) for shape in scene.shapes))
    # The caption comes last: before it, the answers can only be read from the picture.
    return [*(_general_question(scene, rng) for _ in range(num_questions - 1)), caption]


def _general_question(scene: Scene, rng: np.random.Generator) -> Question:
    shape = pick(rng, scene.shapes)
    return pick(
        rng,
        (
            Question(f"Tell me about the {shape.kind}.", describe(shape)),
            Question(f"Tell me about the {shape.place}.", describe(shape)),
            Question(f"{shape.kind} : colour", shape.colour),
            Question(f"{shape.kind} : size", shape.size),
            Question(f"{shape.kind} : pattern", shape.pattern),
            Question(f"{shape.kind} : place", shape.place),
            Question(f"{shape.place} : shape", shape.kind),
        ),
    )
