"""transformers' Trainer as the loop uses it: our optimizer, counts and weights, and states by names in memory.

Owns what is overridden, because the Trainer has no other place for it. Refuses to own when things happen (loop).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import Trainer

from xmas_job.errors import BadDataError
from xmas_job.models.saving import os_errors
from xmas_job.training.batches import counts_of, num_answers
from xmas_job.training.watch import Seen

TRAINED = "trained.safetensors"
"""In a state: what is trained, beside what the Trainer writes."""

NO_MATCH = "Image features and image tokens do not match"
"""What transformers' models raise."""


class LoopTrainer(Trainer):  # type: ignore[misc]
    """transformers' Trainer with our optimizer, our counts, and states that leave the local disk."""

    make_optimizer: Callable[[], torch.optim.Optimizer]
    keep_state: Callable[[Path], None]
    optimizer: Any
    example_weights: Tensor | None = None
    """(B,) of the batch that is computed."""
    counts: Tensor | None = None
    """Counts of this process since they were last taken, (5,) as from `counts_of`."""

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:  # noqa: ARG002
        """Ours, once."""
        optimizer: torch.optim.Optimizer | None = self.optimizer
        if optimizer is None:
            self.optimizer = optimizer = self.make_optimizer()
        return optimizer

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """As the Trainer's, with what is ours in the batch taken out and counted."""
        counts = counts_of(inputs, inputs.pop("num_fillers"), inputs.pop("num_image_tokens"))
        self.counts = counts if self.counts is None else self.counts + counts
        self.example_weights = inputs.pop("example_weights", None)
        try:
            loss: Tensor = super().training_step(model, inputs, num_items_in_batch)
        except ValueError as error:
            if NO_MATCH not in str(error):
                raise
            raise BadDataError(
                f"The processor writes other image tokens than the model has features: {error}",
                "Mend patch_size, num_additional_image_tokens or image_seq_length of the model's folder.",
            ) from error
        return loss

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> Any:
        """What divides the loss of an optimizer step: the Trainer's count of answer tokens, or the weighted one."""
        if not batch_samples or "example_weights" not in batch_samples[0]:
            return super()._get_num_items_in_batch(batch_samples, device)
        weighted = [num_answers(batch["labels"], batch["example_weights"]) for batch in batch_samples]
        return self.accelerator.reduce(torch.stack(weighted).sum().to(device), reduction="sum")

    def take_counts(self) -> Seen:
        """Counts of all processes since they were last taken. Called by all."""
        if self.counts is None:
            self.counts = torch.zeros(5, dtype=torch.long, device=self.args.device)
        total = self.accelerator.reduce(self.counts, reduction="sum")
        self.counts = None
        return Seen(*(int(count) for count in total))

    def agreed(self, *wishes: bool) -> list[bool]:
        """Whether any process wishes it, for each wish. Called by all."""
        if self.args.world_size == 1:
            return list(wishes)
        total = self.accelerator.reduce(torch.tensor(wishes, dtype=torch.int, device=self.args.device), "sum")
        return [bool(wish) for wish in total]

    def weights(self) -> dict[str, Tensor] | None:
        """All weights on the CPU of the first process, where they are spread; called by all."""
        if not self.is_deepspeed_enabled or self.accelerator.state.deepspeed_plugin.zero_stage < 3:
            return None
        gathered: dict[str, Tensor] = self.accelerator.get_state_dict(self.model_wrapped)
        return gathered if self.args.should_save else {}

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """What is trained, by its names in memory. DeepSpeed saves it itself.

        The Trainer's own way writes the names of the published format, and on loading finds none of them in the model
        and goes on with fresh weights (transformers 5.23, `strict=False`).
        """
        assert output_dir is not None
        if self.args.should_save and not self.is_deepspeed_enabled:
            Path(output_dir).mkdir(parents=True, exist_ok=True)
            weights = {name: weight.detach().contiguous() for name, weight in self._trained().items()}
            save_file(weights, Path(output_dir) / TRAINED)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:  # noqa: ARG002
        saved, trained = load_file(Path(resume_from_checkpoint) / TRAINED), self._trained()
        if saved.keys() != trained.keys():
            raise BadDataError(f"{resume_from_checkpoint} is the state of another model.", "Delete it to start anew.")
        with torch.no_grad():
            for name, weight in trained.items():
                weight.copy_(saved[name])

    def _trained(self) -> dict[str, Tensor]:
        return {name: weight for name, weight in self.model.named_parameters() if weight.requires_grad}

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        with os_errors():
            super()._save_checkpoint(model, trial)
        self.keep_state(Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}")
