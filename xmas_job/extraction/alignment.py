"""The alignment score family: attention maps of all layers, their cross-modal blocks, and singular values of those.

Owns the mathematics from queries and keys to values. Refuses to own forward passes (capture.py) and checkpoints.
Legend: B batch, S tokens, T text rows, V image columns, L layers, D width, H heads, k values.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from xmas_job.errors import BadDataError, UsageError
from xmas_job.extraction.capture import Event, Kind, Shown
from xmas_job.extraction.spans import Positions, Spans
from xmas_job.sections import AlignmentConfig


class Alignment:
    """Consumer of queries and keys that ends in one row of values an example.

    With A_l the attention map of layer l over an example's real tokens, and B_l = A_l[text, image] its block of T text
    rows and V image columns (all rows and columns for block `full`):

    attention   paper: A_l = softmax(Q_l K_lᵀ / √D) with Q, K as q_proj and k_proj put them out, all heads side by
                side, key heads repeated for the query heads that share them; no causal mask.
                head_mean: A_l = 1/H Σ_h softmax(Q_lh K_lhᵀ · scale + mask), rotated and normed as the model attends.
    aggregation sum: B = Σ_l B_l.  concat_text: B = [B_1; …; B_L], (L·T, V).  concat_vision: B = [B_1, …, B_L].
    values      the `top_k` largest singular values σ of B, zeros where there are fewer; for `all`, Σ σ alone;
                for `leading_vector`, the right singular vector of σ_1 (V,), its entry of largest size positive.

    Source: XMAS, definition 4.1 and equation 4; the options are its tables 2 to 5.
    Choice: rows are whatever stands after the last image token; the paper is silent on several images.
    Differs: the released code computes softmax(K Qᵀ), counts padding as rows and keys, assumes a 35-token prefix and
    takes singular values from a randomised decomposition.
    """

    def __init__(self, config: AlignmentConfig, spans: Spans, num_key_heads: int) -> None:
        self._config = config
        self._rows, self._columns = (spans.text, spans.image) if config.block == "cross_modal" else (spans.real,) * 2
        self._spans = spans
        self._num_key_heads = num_key_heads
        self._sum: Tensor | None = None
        self._num_layers = 0
        self._keys_there = spans.real.is_there[:, None, :]
        self._column_slice = _common_slice(self._columns)

    def events(self, num_layers: int) -> frozenset[Event]:
        """The layers of the configuration.

        Raises:
            UsageError: it names a layer that the decoder has not.
        """
        kind: Kind = "query_key" if self._config.attention == "paper" else "heads"
        return frozenset(Event(layer, kind) for layer in chosen_layers(self._config.layers, num_layers))

    def take(self, _event: Event, shown: Shown) -> None:
        """Add one layer's block, (B, T, V) float32, or its Gram matrix."""
        weights = self._paper_rows(shown) if self._config.attention == "paper" else self._head_mean_rows(shown)
        block = self._masked(self._column_part(weights))
        added = self._combined(block)
        self._num_layers += 1
        self._sum = added if self._sum is None else self._sum.add_(added)

    def values(self) -> Tensor:
        """Shape (B, k), (B, 1) or (B, V), float32, on the CPU."""
        assert self._sum is not None
        if self._config.score == "leading_vector":
            return self._leading_vectors().float().cpu()
        if self._config.top_k == "all":
            sizes = self._gram_sizes()
            grams = [gram[:size, :size] for gram, size in zip(self._grams(), sizes, strict=True)]
            return torch.stack([_roots(torch.linalg.eigvalsh(gram)).sum() for gram in grams])[:, None].float().cpu()
        values = top_singular_values(self._grams(), self._config.top_k)
        is_there = torch.arange(self._config.top_k, device=values.device) < self._ranks()[:, None]
        return values.masked_fill_(~is_there, 0).float().cpu()

    def is_finite(self) -> Tensor:
        """Shape (B,) bool: whether the example's blocks are finite."""
        assert self._sum is not None
        return torch.isfinite(self._sum).flatten(1).all(dim=1)

    # --- attention maps --------------------------------------------------------------------------------------------

    def _paper_rows(self, shown: Shown) -> Tensor:
        """Shape (B, T, S) float32; only the wanted rows' softmax is ever computed."""
        assert shown.query is not None
        assert shown.key is not None
        query = self._rows.take(shown.query, self._spans.offset)
        key_width = shown.key.shape[-1]
        # Repeating a key head for the query heads that share it equals adding those query heads up.
        grouped = query.float().reshape(*query.shape[:2], self._num_key_heads, -1, key_width // self._num_key_heads)
        scores = torch.bmm(grouped.sum(dim=3).flatten(2), shown.key.float().transpose(1, 2))
        scores.mul_(1 / math.sqrt(shown.query.shape[-1])).masked_fill_(~self._keys_there, -torch.inf)
        return torch.softmax(scores, dim=-1)

    def _head_mean_rows(self, shown: Shown) -> Tensor:
        """Shape (B, T, S) float32."""
        assert shown.query is not None
        assert shown.key is not None
        num_heads, num_sharing = shown.query.shape[1], shown.query.shape[1] // shown.key.shape[1]
        hidden = self._hidden(shown)
        total = torch.zeros(hidden.shape, device=hidden.device)
        for head in range(num_heads):
            query = self._rows.take(shown.query[:, head], self._spans.offset).float()
            scores = torch.bmm(query, shown.key[:, head // num_sharing].float().transpose(1, 2)) * shown.scale
            total += torch.softmax(scores.masked_fill_(hidden, -torch.inf), dim=-1)
        return total / num_heads

    def _hidden(self, shown: Shown) -> Tensor:
        """Shape (B, T, S) bool: which keys a row does not attend to. Without a mask the model is causal."""
        if shown.mask is None or self._spans.offset:  # only causal models share prefixes
            keys = torch.arange(self._keys_there.shape[-1], device=self._keys_there.device)
            hidden = keys > self._rows.index[..., None]
        else:
            mask = shown.mask if shown.mask.dtype == torch.bool else shown.mask >= 0
            hidden = ~self._rows.take(mask[:, 0].expand(len(self._rows.index), -1, -1))
        return hidden | ~self._keys_there

    # --- blocks ----------------------------------------------------------------------------------------------------

    def _column_part(self, weights: Tensor) -> Tensor:
        if self._column_slice is not None:
            return weights[..., self._column_slice]
        return torch.take_along_dim(weights, self._columns.index[:, None, :], dim=2)

    def _masked(self, block: Tensor) -> Tensor:
        """Padding rows and columns are zero: they change no other singular value."""
        is_there = self._rows.is_there[:, :, None] & self._columns.is_there[:, None, :]
        return block.masked_fill(~is_there, 0)

    def _combined(self, block: Tensor) -> Tensor:
        """What is added up over layers: stacked blocks have the sum of the blocks' Gram matrices."""
        if self._config.aggregation == "concat_text":
            return torch.bmm(block.double().transpose(1, 2), block.double())
        if self._config.aggregation == "concat_vision":
            return torch.bmm(block.double(), block.double().transpose(1, 2))
        return block

    def _grams(self) -> Tensor:
        """Shape (B, n, n) float64; of the smaller side where blocks were summed."""
        assert self._sum is not None
        if self._config.aggregation != "sum":
            return self._sum
        block = self._sum.double()
        return block @ block.mT if block.shape[1] <= block.shape[2] else block.mT @ block

    def _ranks(self) -> Tensor:
        """Shape (B,): singular values that an example's own matrix can have; the rest is rounding."""
        rows, columns = self._rows.counts, self._columns.counts
        stacked = {"sum": (1, 1), "concat_text": (self._num_layers, 1), "concat_vision": (1, self._num_layers)}
        times_rows, times_columns = stacked[self._config.aggregation]
        return torch.minimum(rows * times_rows, columns * times_columns)

    def _gram_sizes(self) -> list[int]:
        """Rows of each example's own Gram matrix inside the padded one."""
        assert self._sum is not None
        is_of_rows = self._config.aggregation == "concat_vision" or (
            self._config.aggregation == "sum" and self._sum.shape[1] <= self._sum.shape[2]
        )
        return [int(count) for count in (self._rows if is_of_rows else self._columns).counts]

    def _leading_vectors(self) -> Tensor:
        assert self._sum is not None
        counts = self._columns.counts
        if int(counts.min()) != int(counts.max()):
            raise _ragged_columns(sorted({int(count) for count in counts}))
        columns = self._sum.double().mT @ self._sum.double() if self._config.aggregation == "sum" else self._sum
        vectors: Tensor = torch.linalg.eigh(columns).eigenvectors[:, :, -1]
        largest = torch.take_along_dim(vectors, vectors.abs().argmax(dim=1, keepdim=True), dim=1)
        return vectors * largest.sign()


def top_singular_values(grams: Tensor, top_k: int) -> Tensor:
    """Shape (B, top_k), descending, from Gram matrices (B, n, n) float64; zeros where there are fewer.

    Exact to about 1e-14 of the largest.
    """
    eigenvalues: Tensor = torch.linalg.eigvalsh(grams)
    missing = max(0, top_k - eigenvalues.shape[1])
    return nn.functional.pad(_roots(eigenvalues)[:, -top_k:].flip(-1), (0, missing))


def chosen_layers(layers: str | tuple[int, ...], num_layers: int) -> tuple[int, ...]:
    """Indices of all, first, last or listed layers.

    Raises:
        UsageError: a listed layer is not there.
    """
    named = {"all": tuple(range(num_layers)), "first": (0,), "last": (num_layers - 1,)}
    chosen = named[layers] if isinstance(layers, str) else layers
    if outside := [layer for layer in chosen if not 0 <= layer < num_layers]:
        raise UsageError(
            f"layer {outside[0]} is asked for, but the proxy has layers 0 to {num_layers - 1}.",
            "Correct extract.alignment.layers or extract.coincide_layers.",
        )
    return chosen


def require_finite(uids: tuple[str, ...], is_finite: Tensor, *, signal: str, where: str) -> None:
    """Stop at the first example whose `signal` is not finite.

    Raises:
        BadDataError: names the example and the checkpoint's folder.
    """
    bad = [uid for uid, fine in zip(uids, is_finite.tolist(), strict=True) if not fine]
    if bad:
        raise BadDataError(
            f"The {signal} of example {bad[0]} at {where} is not finite.",
            "The checkpoint's activations overflow: look at its training loss, or extract in float32.",
        )


def _roots(eigenvalues: Tensor) -> Tensor:
    """Singular values from eigenvalues that rounding may have put below 0."""
    return eigenvalues.clamp(min=0).sqrt()


def _common_slice(positions: Positions) -> slice | None:
    """The slice that is everybody's positions, if there is one: no gather is needed then."""
    index = positions.index
    if not bool(positions.is_there.all()) or not bool((index == index[:1]).all()):
        return None
    first = index[0]
    is_run = bool((first.diff() == 1).all())
    return slice(int(first[0]), int(first[-1]) + 1) if is_run else None


def _ragged_columns(counts: list[int]) -> UsageError:
    return UsageError(
        f"leading_vector needs the same number of image tokens in every example, not {counts[0]} and {counts[1]}.",
        "Set extract.alignment.score to singular_values, or take a proxy without tiles.",
    )
