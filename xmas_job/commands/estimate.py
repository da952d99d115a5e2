"""What the GPU stages of a run will cost, from model folders and counts of examples; no weight is read.

Owns where the numbers come from. The formulas are in core.cost.
"""

from __future__ import annotations

from pathlib import Path

from xmas_job.catalog.needs import parse_needs, steps_of
from xmas_job.config import ProxyConfig, TargetConfig, TrainingConfig
from xmas_job.core.budget import parse_budget
from xmas_job.core.cost import (
    TOKENS_A_WORD,
    Load,
    ModelSize,
    extraction_flops,
    gpu_hours,
    training_flops,
    training_memory,
)
from xmas_job.environment import Environment
from xmas_job.fingerprint import Json
from xmas_job.models.size import read_size
from xmas_job.pipeline import FULL, Node, split_training_key
from xmas_job.runner import Runner
from xmas_job.sections import ExtractConfig
from xmas_job.stage_io import model_folder


def estimate(runner: Runner, node: Node, environment: Environment) -> dict[str, Json] | None:
    """PFLOPs, GPU-hours on `environment.gpu` and memory of a process; None for other stages, or before ingest."""
    section = node.section
    if not isinstance(section, ProxyConfig | TargetConfig | ExtractConfig):
        return None
    is_target = isinstance(section, TargetConfig)
    size = read_size(_folder(runner, "model:target" if is_target else "model:proxy"))
    load = _load(runner, node)
    if size is None or load is None:
        return None
    if isinstance(section, ExtractConfig):
        proxy = runner.run.config.proxy
        assert proxy is not None, "extraction has a proxy"
        there = range(proxy.num_checkpoints + 1)
        steps = {t for need in parse_needs(section.signals) for t in steps_of(need.checkpoints, there)}
        flops = extraction_flops(size, load, len(steps))
        return _shown(flops, environment.gpu, section.hardware.dtype, None)
    training = section.training
    load = Load(load.num_images * training.num_epochs, load.num_text_tokens * training.num_epochs)
    memory = _memory(size, training, environment, is_lora=is_target)
    return _shown(training_flops(size, load, is_lora=is_target), environment.gpu, training.hardware.dtype, memory)


def _folder(runner: Runner, source: str) -> Path:
    return model_folder(runner.store, runner.run.sources[source].uri)


def _load(runner: Runner, node: Node) -> Load | None:
    """Of the pool, of the subset, or of one dataset version, as far as ingest has counted them."""
    ingested = [runner.find(item) for name, items in node.inputs.items() if name == "ingest" for item in items]
    if any(artifact is None for artifact in ingested):
        return None
    metrics = [artifact.record.metrics for artifact in ingested if artifact is not None]
    if any("num_words" not in one for one in metrics):
        return None  # ingested by a version that did not count them
    num_images = sum(int(str(one["num_shown_images"])) for one in metrics)
    num_tokens = sum(int(str(one["num_words"])) for one in metrics) * TOKENS_A_WORD
    share = _share(runner, node, sum(int(str(one["num_examples"])) for one in metrics))
    return Load(round(num_images * share), round(num_tokens * share))


def _share(runner: Runner, node: Node, num_examples: int) -> float:
    if not isinstance(node.section, TargetConfig) or split_training_key(node.key)[0] == FULL:
        return 1.0
    budget = parse_budget(runner.run.config.publish.budget)
    return min(1.0, budget / num_examples if isinstance(budget, int) else float(budget))


def _memory(size: ModelSize, training: TrainingConfig, environment: Environment, *, is_lora: bool) -> float:
    num_processes = (environment.processes or 1) * environment.num_nodes
    stage = environment.zero_stage
    return training_memory(
        size,
        num_tokens=training.per_device_batch * training.max_length,
        num_processes=num_processes,
        zero_stage=(2 if num_processes > 1 else 0) if stage is None else stage,
        is_lora=is_lora,
        recomputes=environment.activation_checkpointing is not False,
    )


def _shown(flops: float, device: str, dtype: str, memory: float | None) -> dict[str, Json]:
    hours = gpu_hours(flops, device, dtype)
    return {
        "pflops": _rounded(flops / 1e15),
        "gpu": device,
        "gpu_hours": None if hours is None else _rounded(hours),
        "memory_gb": None if memory is None else _rounded(memory / 1e9),
    }


def _rounded(value: float) -> float:
    """To the four digits that an estimate deserves at most."""
    return float(f"{value:.4g}")
