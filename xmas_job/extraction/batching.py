"""Which examples go through the model together: batches of a token budget, of like lengths, images shared or not.

Owns the packing; a function of the examples alone. Refuses to own the passes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from xmas_job.extraction.prefix import has_own_suffix, prefix_key, prefix_length
from xmas_job.models.adapter import Encoded


@dataclass(frozen=True)
class Sample:
    """An encoded example with the URIs of its images."""

    encoded: Encoded
    image_uris: tuple[str, ...]

    @property
    def kind(self) -> tuple[bool, bool]:
        """(has a block, has an answer): a batch's examples have the same signals."""
        one = self.encoded
        has_block = bool(one.image_token_mask.any()) and not bool(one.image_token_mask[-1])
        return has_block, bool((one.labels[1:] >= 0).any())


@dataclass(frozen=True)
class PassBatch:
    """Examples of one pass: groups that share their prefix, or single ones."""

    groups: tuple[tuple[Encoded, ...], ...]
    kind: tuple[bool, bool]
    is_shared: bool

    @property
    def members(self) -> list[Encoded]:
        """All examples, group by group."""
        return [one for group in self.groups for one in group]

    def halves(self) -> tuple[PassBatch, PassBatch] | None:
        """Two batches with the same examples, or None for a single one."""
        if len(self.groups) > 1:
            middle = len(self.groups) // 2
            parts = self.groups[:middle], self.groups[middle:]
        elif len(self.groups[0]) > 1:
            (group,) = self.groups
            middle = len(group) // 2
            parts = (group[:middle],), (group[middle:],)
        else:
            return None
        first, second = (PassBatch(part, self.kind, self.is_shared) for part in parts)
        return first, second


def batches_of(samples: Sequence[Sample], token_budget: int, *, share: bool) -> Iterator[PassBatch]:
    """Batches whose padded tokens stay within the budget; an example above it is a batch of its own.

    Longest first, ties by uid. With `share`, two or more examples on the same images behind the same words are a
    group; a batch's groups have prefixes of one length.
    """
    for kind in sorted({sample.kind for sample in samples}, reverse=True):
        of_kind = [sample for sample in samples if sample.kind == kind]
        groups = _groups(of_kind, token_budget) if share and kind[0] else []
        grouped = {one.uid for group in groups for one in group}
        for packed in _packs(groups, token_budget):
            yield PassBatch(packed, kind, is_shared=True)
        single = [(sample.encoded,) for sample in of_kind if sample.encoded.uid not in grouped]
        for packed in _packs(single, token_budget):
            yield PassBatch(packed, kind, is_shared=False)


def _groups(samples: Sequence[Sample], token_budget: int) -> list[tuple[Encoded, ...]]:
    """Examples that share a prefix, two or more, in pieces that fit the budget."""
    by_prefix: dict[tuple[object, ...], list[Encoded]] = {}
    for sample in samples:
        if has_own_suffix(sample.encoded):
            by_prefix.setdefault(prefix_key(sample.encoded, sample.image_uris), []).append(sample.encoded)
    pieces = [piece for group in by_prefix.values() for piece in _pieces(group, token_budget)]
    return [piece for piece in pieces if len(piece) > 1]


def _pieces(group: list[Encoded], token_budget: int) -> Iterator[tuple[Encoded, ...]]:
    members: list[Encoded] = []
    for one in sorted(group, key=_length_and_uid):
        if members and _cost([(*members, one)]) > token_budget:
            yield tuple(members)
            members = []
        members.append(one)
    yield tuple(members)


def _packs(groups: Iterable[tuple[Encoded, ...]], token_budget: int) -> Iterator[tuple[tuple[Encoded, ...], ...]]:
    """Groups put together up to the budget; only groups of one prefix length, where they are groups."""

    def shape(group: tuple[Encoded, ...]) -> int:
        return prefix_length(group[0]) if len(group) > 1 else 0

    ordered = sorted(groups, key=lambda group: (-shape(group), *_length_and_uid(group[0])))
    for _, alike in groupby(ordered, key=shape):
        packed: list[tuple[Encoded, ...]] = []
        for group in alike:
            if packed and _cost([*packed, group]) > token_budget:
                yield tuple(packed)
                packed = []
            packed.append(group)
        yield tuple(packed)


def _cost(groups: Sequence[tuple[Encoded, ...]]) -> int:
    """Padded tokens of a batch: prefixes once, what follows them padded to the longest."""
    shared = prefix_length(groups[0][0]) if len(groups[0]) > 1 else 0
    longest = max(len(one.input_ids) for group in groups for one in group) - shared
    return len(groups) * shared + sum(len(group) for group in groups) * longest


def _length_and_uid(one: Encoded) -> tuple[int, str]:
    return -len(one.input_ids), one.uid
