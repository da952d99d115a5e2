"""One headless forward pass that shows inner tensors to consumers and ends at the deepest one that is wanted.

Owns hooks, the order of events and the early end. Refuses to own what is computed from the tensors.
Legend: B batch, S tokens of the pass, P tokens of a shared prefix, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from xmas_job.errors import UsageError
from xmas_job.extraction.projections import Tap, projection_taps
from xmas_job.models.adapter import LVLM

Kind = Literal["query_key", "heads", "attention_output", "final_state"]
_ORDER: tuple[Kind, ...] = ("query_key", "heads", "attention_output", "final_state")
_HEADS = "xmas_heads"


class Event(NamedTuple):
    """A tensor of one layer; `final_state` has no layer of its own and stands behind all (layer 0 is written)."""

    layer: int
    kind: Kind


class Consumer(Protocol):
    """Takes tensors while the pass runs and keeps what it needs; what it does not copy is freed."""

    def events(self, num_layers: int) -> frozenset[Event]:
        """What it wants to be shown."""

    def take(self, event: Event, shown: Shown) -> None:
        """One tensor, in the order of the layers."""


@dataclass(frozen=True)
class Shown:
    """The tensors of one event; which are there depends on its kind.

    `query` and `state` hold the tokens of this pass, `key` and `whole` also those of a shared prefix before them.
    query_key: query (B, S, Dq), key (B, P + S, Dk), as the projections put them out.
    heads: query (B, H, S, d), key (B, Hk, P + S, d), rotated; mask as the model made it, None for causal; scale.
    attention_output, final_state: whole (B, P + S, D).
    """

    query: Tensor | None = None
    key: Tensor | None = None
    whole: Tensor | None = None
    mask: Tensor | None = None
    scale: float = 1.0


class Prefix:
    """What the pass over shared prefixes (G, P, ...) leaves for the passes over what follows them."""

    def __init__(self, groups: Tensor | None = None) -> None:
        self.groups = groups
        self.kept: dict[Event, Tensor] = {}

    def before(self, event: Event, own: Tensor) -> Tensor:
        """`own` (B, S, D) with its prefix's tokens in front: (B, P + S, D)."""
        kept = self.kept.get(event)
        return own if kept is None else torch.cat([kept[self.groups], own], dim=1)


class _DoneError(Exception):
    """Leaves the forward pass: nothing behind is wanted."""


def num_layers(lvlm: LVLM) -> int:
    """Layers of the decoder.

    Raises:
        UsageError: the decoder has none under the name that every family uses.
    """
    layers = getattr(lvlm.language_model(), "layers", None)
    if not layers:
        raise UsageError(
            f"{type(lvlm.language_model()).__name__} has no decoder layers.", "Take a decoder-only language model."
        )
    return len(layers)


def run_pass(
    lvlm: LVLM,
    forward: Callable[[], object],
    consumers: Sequence[Consumer],
    *,
    prefix: Prefix | None = None,
    keep: bool = False,
) -> None:
    """Run `forward` as far as the consumers need.

    Args:
        lvlm: the model that `forward` runs.
        forward: calls the model or its decoder.
        consumers: shown the tensors, unless `keep`.
        prefix: of the tokens that came before those of this pass.
        keep: this pass is over the prefixes themselves: `prefix` keeps their tensors and no consumer is called.

    Raises:
        UsageError: the model's attention cannot be looked into.
    """
    with torch.no_grad(), _Pass(lvlm, consumers, prefix or Prefix(), keep=keep).hooked():
        try:
            forward()
        except _DoneError:
            return
    raise UsageError(f"{type(lvlm.model).__name__} ran without its last wanted tensor.", "Take another proxy model.")


class _Pass:
    def __init__(self, lvlm: LVLM, consumers: Sequence[Consumer], prefix: Prefix, *, keep: bool) -> None:
        depth = num_layers(lvlm)
        self._lvlm = lvlm
        self._wanted = {
            event: [consumer for consumer in consumers if event in consumer.events(depth)]
            for event in frozenset().union(*(consumer.events(depth) for consumer in consumers))
        }
        self._last = max(self._wanted, key=_place)
        self._prefix = prefix
        self._keep = keep
        self._pending: dict[str, Tensor] = {}

    @contextmanager
    def hooked(self) -> Iterator[None]:
        with ExitStack() as stack:
            decoder = self._lvlm.language_model()
            for event in self._wanted:
                for module, hook in self._hooks(decoder, event):
                    stack.callback(module.register_forward_hook(hook).remove)
            if any(event.kind == "heads" for event in self._wanted):
                stack.enter_context(_attention_function(decoder, self._heads))
            yield

    def _hooks(self, decoder: Any, event: Event) -> Iterator[tuple[nn.Module, Callable[..., None]]]:
        if event.kind == "query_key":
            for tap in projection_taps(self._lvlm, event.layer):
                yield tap.module, partial(self._query_key, event, tap)
        elif event.kind == "attention_output":
            yield decoder.layers[event.layer].self_attn, partial(self._output, event)
        elif event.kind == "final_state":
            yield decoder, partial(self._output, event)

    def _query_key(self, event: Event, tap: Tap, _module: nn.Module, _inputs: object, output: Tensor) -> None:
        self._pending.update(tap.split(output))
        if self._keep and "key" in self._pending:
            self._prefix.kept[event] = self._pending.pop("key")
            self._pending.clear()
        elif len(self._pending) == 2:
            query, key = self._pending.pop("query"), self._pending.pop("key")
            self._show(event, Shown(query=query, key=self._prefix.before(event, key)))
        else:
            return
        self._end_after(event)

    def _output(self, event: Event, _module: nn.Module, _inputs: object, output: Any) -> None:
        own = output.last_hidden_state if event.kind == "final_state" else output[0]
        if self._keep:
            self._prefix.kept[event] = own
        else:
            self._show(event, Shown(whole=self._prefix.before(event, own)))
        self._end_after(event)

    def _heads(
        self,
        module: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        scaling: float | None = None,
        **options: Any,
    ) -> tuple[Tensor, None]:
        """Attention as sdpa computes it; shows the rotated queries and keys on the way."""
        unusual = [name for name in ("softcap", "s_aux", "position_bias") if options.get(name) is not None]
        if unusual:
            raise UsageError(
                f"{type(module).__name__} attends with {unusual[0]}, which head_mean does not restate.",
                "Set extract.alignment.attention to paper.",
            )
        event = Event(int(module.layer_idx), "heads")
        if event in self._wanted:
            if not self._keep:
                scale = query.shape[-1] ** -0.5 if scaling is None else scaling
                self._show(event, Shown(query=query, key=key, mask=attention_mask, scale=scale))
            self._end_after(event)
        attended: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **options
        )
        return attended

    def _show(self, event: Event, shown: Shown) -> None:
        for consumer in self._wanted[event]:
            consumer.take(event, shown)

    def _end_after(self, event: Event) -> None:
        if event == self._last:
            raise _DoneError


def _place(event: Event) -> tuple[bool, int, int]:
    return event.kind == "final_state", event.layer, _ORDER.index(event.kind)


@contextmanager
def _attention_function(decoder: Any, function: Callable[..., tuple[Tensor, None]]) -> Iterator[None]:
    """The decoder's layers attend through `function`; the vision tower's do not."""
    AttentionInterface.register(_HEADS, function)
    AttentionMaskInterface.register(_HEADS, sdpa_mask)  # else a mask is silently left out
    before = decoder.config._attn_implementation  # noqa: SLF001 - transformers has no public reader
    decoder.config._attn_implementation = _HEADS  # noqa: SLF001
    try:
        yield
    finally:
        decoder.config._attn_implementation = before  # noqa: SLF001
