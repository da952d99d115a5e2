"""All signals that are asked for, from one pass over a batch.

Owns which consumer gives which signal, and the choice of the pass: plain, or with shared prefixes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from xmas_job.extraction import prefix as prefixes
from xmas_job.extraction.alignment import Alignment, require_finite
from xmas_job.extraction.answers import ANSWER_SIGNALS, Answers
from xmas_job.extraction.capture import Consumer, run_pass
from xmas_job.extraction.projections import head_counts
from xmas_job.extraction.spans import Spans
from xmas_job.extraction.states import EMBEDDINGS, Coincide, Embeddings
from xmas_job.models.adapter import LVLM, Encoded
from xmas_job.sections import AlignmentConfig

BLOCK_SIGNALS = ("alignment", "coincide")
"""Signals of examples that have a cross-modal block."""


@dataclass(frozen=True)
class Request:
    """What to compute.

    Attributes:
        signals: names from the catalogue.
        alignment: of the family which score; used if it is among the signals.
        coincide_layers: decoder layers of COINCIDE's features.
    """

    signals: tuple[str, ...] = ("alignment",)
    alignment: AlignmentConfig = field(default_factory=AlignmentConfig)
    coincide_layers: tuple[int, ...] = (3, 7, 11, 15, 19)

    def of(self, *, with_block: bool, with_answer: bool) -> Request:
        """The same without the signals that such examples do not have."""
        wanted = [
            name
            for name in self.signals
            if (with_block or name not in BLOCK_SIGNALS) and (with_answer or name not in ANSWER_SIGNALS)
        ]
        return replace(self, signals=tuple(wanted))

    @property
    def allows_sharing(self) -> bool:
        """Whether a prefix's own rows are needed by no signal."""
        return "alignment" not in self.signals or self.alignment.block == "cross_modal"


def widths(request: Request, lvlm: LVLM) -> dict[str, int]:
    """Values an example of each signal; of a leading vector 1, because only examples tell its width."""
    width = int(lvlm.model.config.get_text_config().hidden_size)
    alignment = request.alignment
    num_values = alignment.top_k if alignment.score == "singular_values" and alignment.top_k != "all" else 1
    known = {"alignment": num_values, "coincide": 2 * len(request.coincide_layers) * width}
    return {name: known.get(name, width if name in EMBEDDINGS else 1) for name in request.signals}


def plain_signals(lvlm: LVLM, members: Sequence[Encoded], request: Request, *, where: str) -> dict[str, Tensor]:
    """Each signal's values, (B, D) float32 on the CPU, from one forward pass over the examples.

    Args:
        lvlm: the checkpoint.
        members: the batch.
        request: signals that all members have.
        where: names the checkpoint in an error.

    Raises:
        UsageError: the model's attention cannot be looked into, or it has not the wanted layers.
        BadDataError: an example's value is not finite.
    """
    device = lvlm.device
    batch = lvlm.collate(members).to(device)
    consumers = _Consumers(lvlm, Spans.of(members, device), request)
    with prefixes.without_padding_mask(lvlm):
        run_pass(lvlm, partial(lvlm.model, **batch.model_inputs, use_cache=False), consumers.all)
    return consumers.values(batch.uids, where)


def shared_signals(
    lvlm: LVLM, groups: Sequence[Sequence[Encoded]], request: Request, *, where: str
) -> dict[str, Tensor]:
    """As `plain_signals`, with each group's common prefix run once; values are in the order of groups and members."""
    device = lvlm.device
    members = [one for group in groups for one in group]
    length = prefixes.prefix_length(members[0])
    consumers = _Consumers(lvlm, Spans.of(members, device, offset=length), request)
    prefixes.run_shared(lvlm, groups, consumers.all)
    return consumers.values(tuple(one.uid for one in members), where)


class _Consumers:
    """The consumers of one batch."""

    def __init__(self, lvlm: LVLM, spans: Spans, request: Request) -> None:
        self._request = request
        self._by_family: dict[str, Any] = {}
        wanted = set(request.signals)
        if "alignment" in wanted:
            self._by_family["alignment"] = Alignment(request.alignment, spans, head_counts(lvlm)[1])
        if "coincide" in wanted:
            self._by_family["coincide"] = Coincide(spans, request.coincide_layers)
        if wanted & set(EMBEDDINGS):
            self._by_family["states"] = Embeddings(spans)
        if wanted & set(ANSWER_SIGNALS):
            self._by_family["answers"] = Answers(lvlm, spans)

    @property
    def all(self) -> list[Consumer]:
        return list(self._by_family.values())

    def values(self, uids: tuple[str, ...], where: str) -> dict[str, Tensor]:
        if "alignment" in self._by_family:  # before the decomposition, which fails on what is not finite
            require_finite(uids, self._by_family["alignment"].is_finite(), signal="alignment", where=where)
        values = {name: self._of(name) for name in self._request.signals}
        for name, value in values.items():
            require_finite(uids, torch.isfinite(value).all(dim=1), signal=name, where=where)
        return values

    def _of(self, name: str) -> Tensor:
        if name in EMBEDDINGS or name in ANSWER_SIGNALS:
            family: Mapping[bool, str] = {True: "states", False: "answers"}
            value: Tensor = self._by_family[family[name in EMBEDDINGS]].values(name)
        else:
            value = self._by_family[name].values()
        return value
