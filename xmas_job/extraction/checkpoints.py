"""The proxy's checkpoints as models: loaded, compared, put on the device, and what is equal in all of them run once.

Owns which weights are where. Refuses to own what is computed with them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from xmas_job.errors import BadDataError
from xmas_job.models.adapter import LVLM

# Of a device's memory, what weights may take; the rest is for activations.
_SHARE_FOR_WEIGHTS = 0.5
_OF_A_SAVE = frozenset({"_name_or_path", "transformers_version", "dtype", "use_cache"})


class Checkpoints:
    """Models by checkpoint index, all of one architecture.

    Attributes:
        is_resident: whether all are on the device at once; else `on_device` brings one at a time.
        equal_modules: names of the modules that are equal in all checkpoints and run once a batch.
    """

    def __init__(self, folders: Mapping[int, Path], *, device: str, dtype: torch.dtype) -> None:
        """Load them.

        Raises:
            BadDataError: a checkpoint holds NaN or infinity, has another architecture or other tokens.
            UsageError: a folder is no model.
        """
        self._device = torch.device(device)
        self._folders = folders
        self._models = {t: LVLM.load(folder, dtype=dtype) for t, folder in folders.items()}
        for t, folder in folders.items():
            _require_finite(self._models[t], folder)
            _require_alike(self._models[t], folder, self.first, next(iter(folders.values())))
        self._memory = _Memory()
        models = [lvlm.model for lvlm in self._models.values()]
        self.equal_modules = _share_equal_modules(models, self.first, self._memory)
        self.is_resident = self._fits()
        if self.is_resident:
            for lvlm in self._models.values():
                lvlm.model.to(self._device)

    @property
    def first(self) -> LVLM:
        """The first checkpoint: its processor is everybody's."""
        return next(iter(self._models.values()))

    def __iter__(self) -> Iterator[int]:
        return iter(self._models)

    def where(self, checkpoint: int) -> str:
        """How an error names a checkpoint."""
        return f"checkpoint {checkpoint} ({self._folders[checkpoint]})"

    @contextmanager
    def on_device(self, checkpoint: int) -> Iterator[LVLM]:
        """The model, ready to run."""
        lvlm = self._models[checkpoint]
        if self.is_resident:
            yield lvlm
            return
        lvlm.model.to(self._device)
        try:
            yield lvlm
        finally:
            lvlm.model.to("cpu")

    def batch(self, key: object) -> None:
        """Say which batch runs next: outputs of equal modules are kept by batch."""
        self._memory.key = key

    def forget(self) -> None:
        """Free the kept outputs."""
        self._memory.kept.clear()

    def _fits(self) -> bool:
        if self._device.type != "cuda":
            return True
        weights = {id(p): p.nbytes for one in self._models.values() for p in one.model.parameters()}
        _, total = torch.cuda.mem_get_info(self._device)
        return bool(sum(weights.values()) <= _SHARE_FOR_WEIGHTS * total)


class _Memory:
    """Inputs and outputs of modules in the present batches."""

    def __init__(self) -> None:
        self.key: object = None
        self.kept: dict[tuple[object, str], tuple[list[Any], Any]] = {}

    def remembering(self, name: str, forward: Callable[..., Any]) -> Callable[..., Any]:
        """`forward`, called again only for other inputs."""

        def remembered(*arguments: Any, **named: Any) -> Any:
            inputs, _ = pytree.tree_flatten((arguments, named))
            kept = self.kept.get((self.key, name))
            if kept is None or not _same(kept[0], inputs):
                kept = inputs, forward(*arguments, **named)
                self.kept[self.key, name] = kept
            return kept[1]

        return remembered


def _same(before: list[Any], now: list[Any]) -> bool:
    return len(before) == len(now) and all(map(_same_value, before, now))


def _same_value(before: Any, now: Any) -> bool:
    if before is now:
        return True
    if isinstance(before, Tensor) or isinstance(now, Tensor):
        is_pair = isinstance(before, Tensor) and isinstance(now, Tensor)
        return is_pair and before.device == now.device and before.shape == now.shape and torch.equal(before, now)
    return bool(before == now)


def _share_equal_modules(models: list[Any], first: LVLM, memory: _Memory) -> tuple[str, ...]:
    """Let all models use the first one's modules where the weights are equal: normally the vision tower.

    Found by weight, never by name: a projector inside the tower's module is trained, the rest of the tower is not.
    Memory of outputs goes by their inputs too, so a module behind a trained one is never mistaken.
    """
    if len(models) < 2:
        return ()
    digests = [_digests(model) for model in models]
    equal = {name for name in digests[0] if len({digest[name] for digest in digests}) == 1}
    names = _topmost_equal(models[0], first.language_model(), equal)
    for name in names:
        module = models[0].get_submodule(name)
        parent, _, leaf = name.rpartition(".")
        for model in models[1:]:
            setattr(model.get_submodule(parent), leaf, module)
        module.forward = memory.remembering(name, module.forward)
    return names


def _topmost_equal(model: nn.Module, decoder: nn.Module, equal: set[str]) -> tuple[str, ...]:
    """Modules before the decoder all of whose weights are equal, none inside another of them."""
    inside_decoder = set(decoder.modules())
    ends: Any = model
    ends = {ends.get_input_embeddings(), ends.get_output_embeddings()}
    found: list[str] = []
    for name, module in model.named_modules():
        weights = list(_weights(module, f"{name}."))
        is_free = module not in inside_decoder and module not in ends and decoder not in set(module.modules())
        is_inside_found = any(name.startswith(f"{outer}.") for outer in found)
        is_called = not isinstance(module, nn.ModuleList | nn.ModuleDict)
        if weights and is_free and is_called and not is_inside_found and equal.issuperset(weights):
            found.append(name)
    return tuple(found)


def _digests(model: nn.Module) -> dict[str, str]:
    """sha256 of every weight's bytes."""
    return {
        name: hashlib.sha256(weight.reshape(-1).view(torch.uint8).numpy().tobytes()).hexdigest()
        for name, weight in _weights(model).items()
    }


def _weights(module: nn.Module, prefix: str = "") -> dict[str, Tensor]:
    """Parameters, and what else is stored with them: running means are not trained but still change."""
    weights: dict[str, Tensor] = module.state_dict(prefix=prefix)
    return weights


def _require_finite(lvlm: LVLM, folder: Path) -> None:
    if all(bool(torch.isfinite(weight).all()) for weight in lvlm.model.parameters()):
        return
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - it is no mapping
                if not bool(torch.isfinite(tensors.get_tensor(name)).all()):
                    raise BadDataError(
                        f"{file}: weight {name} is not finite.",
                        "The training diverged: look at its loss, lower the learning rate and train the proxy again.",
                    )
    raise BadDataError(f"{folder}: the weights overflow in the dtype they are read in.", "Extract in float32.")


def _require_alike(lvlm: LVLM, folder: Path, first: LVLM, first_folder: Path) -> None:
    """One architecture and one vocabulary. Weights of one shape may still be other heads or other frequencies."""
    remedy = "Give checkpoints of one training, or train the proxy again."
    config, expected = _architecture(lvlm.model.config.to_dict()), _architecture(first.model.config.to_dict())
    if odd := sorted(name for name in config.keys() | expected.keys() if config.get(name) != expected.get(name)):
        raise BadDataError(
            f"{folder / 'config.json'}: another architecture than {first_folder}: "
            f"{odd[0]} is {config.get(odd[0])!r}, not {expected.get(odd[0])!r}.",
            remedy,
        )
    vocabulary, num_embeddings = lvlm.processor.tokenizer.get_vocab(), lvlm.model.get_input_embeddings().num_embeddings
    if max(vocabulary.values()) >= num_embeddings:
        raise BadDataError(
            f"{folder / 'tokenizer.json'}: token id {max(vocabulary.values())}, but the model embeds {num_embeddings}.",
            remedy,
        )
    if vocabulary != first.processor.tokenizer.get_vocab():
        raise BadDataError(f"{folder / 'tokenizer.json'}: other tokens than {first_folder}.", remedy)


def _architecture(config: Mapping[str, Any], prefix: str = "") -> dict[str, object]:
    """Dotted name -> value of a configuration, without where and by what it was saved."""
    flat: dict[str, object] = {}
    for name, value in config.items():
        if isinstance(value, Mapping):
            flat.update(_architecture(value, f"{prefix}{name}."))
        elif name not in _OF_A_SAVE:
            flat[f"{prefix}{name}"] = value
    return flat
