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

    from xmas_job.demo.drawing import Scene


@dataclass(frozen=True, slots=True)
class Question:
    """One question with its short answer."""

    text: str
    answer: str


@dataclass(frozen=True, slots=True)
class Family:
    """A kind of question: its part of the pool's image examples, its wordings, and its answer where there is one."""

    name: str
    share: float
    wordings: tuple[str, ...]
    answer: Callable[[Scene], str | None]

    def fits(self, scene: Scene) -> bool:
        """Whether the scene has an answer."""
        return self.answer(scene) is not None

    def ask(self, scene: Scene, rng: np.random.Generator) -> Question:
        """The question in one of its wordings; ValueError where the scene has no answer."""
        answer = self.answer(scene)
        if answer is None:
            raise ValueError(f"{self.name} cannot be asked about {scene}")
        return Question(pick(rng, self.wordings).format(kind=scene.kind), answer)


FAMILIES = (
    Family(
        "colour",
        0.60,
        ("What colour is the {kind}?", "Which colour does the {kind} have?", "Name the colour that you see."),
        lambda scene: scene.colour,
    ),
    Family(
        "shape",
        0.20,
        ("What shape is this?", "Which shape does the picture show?", "Name the shape."),
        lambda scene: scene.kind,
    ),
    Family(
        "count",
        0.08,
        ("How many are there?", "Count them.", "How often do you see a {kind}?"),
        lambda scene: str(len(scene.places)),
    ),
    Family(
        "position",
        0.05,
        ("Where is the {kind}?", "In which corner is the {kind}?", "Find the {kind}."),
        lambda scene: scene.places[0] if len(scene.places) == 1 else None,
    ),
    Family(
        "size",
        0.04,
        ("Is the {kind} large or small?", "How big is the {kind}?"),
        lambda scene: scene.size,
    ),
    Family(
        "same_colour",
        0.02,
        ("Do the {kind} and its surroundings match?", "Is everything painted alike?"),
        lambda scene: "yes" if scene.colour == scene.frame else "no",
    ),
    Family(
        "pattern",
        0.01,
        ("How is the {kind} filled?", "Which pattern does the {kind} have?", "What is its texture?"),
        lambda scene: scene.pattern,
    ),
)


def arithmetic_questions() -> list[Question]:
    """All text-only questions: sums and differences of small numbers."""
    return [Question(f"What is {a} plus {b}?", str(a + b)) for a in range(20) for b in range(20)] + [
        Question(f"What is {a} minus {b}?", str(a - b)) for a in range(20) for b in range(a + 1)
    ]


def general_questions(scene: Scene, rng: np.random.Generator) -> list[Question]:
    """Four questions in other words than the families', which teach to see and to speak; a caption comes last."""
    things = f"{len(scene.places)} {scene.size} {scene.colour} {scene.pattern} {scene.kind}"
    where = " , ".join(scene.places)
    facts = {
        "hue": scene.colour,
        "form": scene.kind,
        "amount": str(len(scene.places)),
        "seat": where,
        "extent": scene.size,
        "border": scene.frame,
        "surface": scene.pattern,
    }
    wordings = ("{fact}", "What {fact}?", "Name the {fact} of the {kind}.", "Which {fact} does the {kind} have?")
    asked = [tuple(facts)[index] for index in rng.permutation(len(facts))[:3]]
    questions = [Question(pick(rng, wordings).format(fact=fact, kind=scene.kind), facts[fact]) for fact in asked]
    # Before the caption the answers can only be read from the picture, after it they could be copied.
    return [*questions, Question("Describe the picture.", f"{things} , {where} , {scene.frame} border")]
