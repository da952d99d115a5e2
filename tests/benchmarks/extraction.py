"""What extraction costs: `python -m tests.benchmarks.extraction [--json]`.

Sides, interleaved, CPU seconds of one thread, minimum of the rounds:
floor    one headless forward with PyTorch's fused attention, batched by length: nothing is scored
peer     the public approach restated: batches of 8 as they come, padded, eager attention with all maps, with the head,
         queries and keys of all layers kept, one map a layer, summed, randomised decomposition of rank 5
ours     alignment alone; and, apart, every signal of the catalogue in one pass
On a GPU the same command runs a 1.6-billion-parameter model in bfloat16 and adds its rates.
"""

from __future__ import annotations

import argparse
import copy
import json
import multiprocessing
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from tests.extraction.alignment_reference import Reference
from tests.tiny_models import tiny_llava
from xmas_job.extraction.batching import Sample, batches_of
from xmas_job.extraction.signals import Request, plain_signals, shared_signals
from xmas_job.models.adapter import LVLM, Encoded
from xmas_job.sections import AlignmentConfig

NUM_IMAGE_TOKENS = 576
PREFIX = 35
NUM_EXAMPLES = 16
ALONE = Request()
TOKEN_BUDGET = 800 * (64 if torch.cuda.is_available() else 8)


@dataclass(frozen=True)
class Shape:
    """Sizes of the decoder and of the vision tower."""

    layers: int
    width: int
    inner: int
    heads: int
    key_heads: int
    vocabulary: int
    tower_layers: int
    tower_width: int


CPU = Shape(6, 512, 1408, 8, 8, 1000, 2, 384)
GPU = Shape(24, 2048, 5632, 32, 32, 100_352, 24, 1024)


def build(shape: Shape, device: str = "cpu", dtype: torch.dtype = torch.float32) -> LVLM:
    """A random Llava: 336-pixel images in patches of 14, queries and keys sharpened so that maps are not flat."""
    torch.manual_seed(0)
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=shape.tower_width,
            intermediate_size=4 * shape.tower_width,
            num_hidden_layers=shape.tower_layers,
            num_attention_heads=shape.tower_width // 64,
            image_size=336,
            patch_size=14,
            projection_dim=shape.tower_width,
        ),
        text_config=LlamaConfig(
            vocab_size=shape.vocabulary,
            hidden_size=shape.width,
            intermediate_size=shape.inner,
            num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads,
            num_key_value_heads=shape.key_heads,
            max_position_embeddings=4096,
        ),
        image_token_index=2,
        image_seq_length=NUM_IMAGE_TOKENS,
    )
    with torch.device(device):
        # Not .to(dtype), which would round the rotary frequencies too.
        model = LlavaForConditionalGeneration._from_config(config, dtype=dtype)
    for name, parameter in model.named_parameters():
        if "language_model" in name and name.endswith(("q_proj.weight", "k_proj.weight")):
            parameter.data.mul_(3)
    return LVLM(model.eval(), tiny_llava().processor)


def examples(shape: Shape, images_of: int, num_examples: int = NUM_EXAMPLES) -> list[Sample]:
    """Examples with log-normal texts (median 90 tokens), `images_of` of them on one image; the last third is answer."""
    rng = np.random.default_rng(0)
    generator = torch.Generator().manual_seed(0)
    lengths = np.clip(rng.lognormal(np.log(90), 0.6, num_examples).astype(int), 20, 400)
    head = torch.randint(3, shape.vocabulary, (PREFIX,), generator=generator)
    image = torch.full((NUM_IMAGE_TOKENS,), 2)
    samples = []
    for index, length in enumerate(lengths):
        if index % images_of == 0:
            pixels = torch.randn(1, 3, 336, 336, generator=generator)
        text = torch.randint(3, shape.vocabulary, (int(length),), generator=generator)
        ids = torch.cat([head, image, text])
        labels = torch.full_like(ids, -100)
        labels[-int(length) // 3 :] = ids[-int(length) // 3 :]
        one = Encoded(f"{index:04d}", ids, labels, ids == 2, {"pixel_values": pixels})
        samples.append(Sample(one, (f"{index // images_of}",)))
    return samples


def floor(lvlm: LVLM, samples: Sequence[Sample]) -> None:
    """Every token through every layer once, no head."""
    for batch in batches_of(samples, TOKEN_BUDGET, share=False):
        inputs = dict(lvlm.collate(batch.members).to(lvlm.device).model_inputs)
        del inputs["attention_mask"]  # right padding needs none
        with torch.no_grad():
            lvlm.model.model(**inputs, use_cache=False)


def peer(lvlm: LVLM, samples: Sequence[Sample]) -> list[Tensor]:
    """The public approach, its fixed offsets replaced by the true ones."""
    kept: list[Tensor] = []
    layers = lvlm.model.model.language_model.layers
    hooks = [
        projection.register_forward_hook(lambda _m, _i, output: kept.append(output))
        for layer in layers
        for projection in (layer.self_attn.q_proj, layer.self_attn.k_proj)
    ]
    lvlm.model.set_attn_implementation("eager")
    values = []
    for start in range(0, len(samples), 8):
        batch = lvlm.collate([sample.encoded for sample in samples[start : start + 8]]).to(lvlm.device)
        inputs = dict(batch.model_inputs)
        del inputs["attention_mask"]
        kept.clear()
        with torch.no_grad():
            lvlm.model(**inputs, output_attentions=True)
            total = torch.zeros(())
            for query, key in zip(kept[::2], kept[1::2], strict=True):
                total = total.to(query) + torch.softmax(query @ key.mT / query.shape[-1] ** 0.5, dim=-1)
            block = total[:, PREFIX + NUM_IMAGE_TOKENS :, PREFIX : PREFIX + NUM_IMAGE_TOKENS]
            values += [torch.svd_lowrank(one.float(), q=5)[1] for one in block]
    lvlm.model.set_attn_implementation("sdpa")
    for hook in hooks:
        hook.remove()
    return values


def ours(lvlm: LVLM, samples: Sequence[Sample], request: Request) -> dict[str, Tensor]:
    """Values of the first signal by uid."""
    values: dict[str, Tensor] = {}
    for batch in batches_of(samples, TOKEN_BUDGET, share=True):
        if batch.is_shared:
            found = shared_signals(lvlm, batch.groups, request, where="benchmark")
        else:
            found = plain_signals(lvlm, batch.members, request, where="benchmark")
        values.update(zip((one.uid for one in batch.members), found[request.signals[0]], strict=True))
    return values


def seconds(run: Callable[[], object]) -> float:
    """CPU seconds of this thread; on a GPU those of the wall, after it has finished."""
    on_gpu = torch.cuda.is_available()
    begin = time.perf_counter() if on_gpu else time.process_time()
    run()
    if on_gpu:
        torch.cuda.synchronize()
    return (time.perf_counter() if on_gpu else time.process_time()) - begin


def peak_megabytes(run: Callable[[], object]) -> float:
    """Memory that `run` needs above what was there before: of the device, or of a process of its own."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_resident_growth, args=(run, sender))
    process.start()
    grown: float = receiver.recv()
    process.join()
    return grown


def _resident_growth(run: Callable[[], object], sender: multiprocessing.connection.Connection) -> None:
    torch.set_num_threads(1)
    Path("/proc/self/clear_refs").write_text("5")  # starts the peak anew
    before = _status("VmRSS")
    run()
    sender.send((_status("VmHWM") - before) / 1024)


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1])


def largest_error() -> float:
    """Of a score in float32 on a CPU, against a float64 copy of the model, straight down."""
    lvlm = build(CPU)
    reference = Reference(lvlm)
    errors = []
    for images_of in (1, 4):
        samples = examples(CPU, images_of)[:4]
        scores = ours(lvlm, samples, ALONE)
        for sample in samples:
            expected = reference.values(sample.encoded).sum()
            errors.append(abs(scores[sample.encoded.uid].double().sum().item() / expected - 1))
    return max(errors)


def rank_correlation(lvlm: LVLM, samples: Sequence[Sample]) -> float:
    """Spearman's, of the scores of these weights in float32 and in their own precision."""
    wide = LVLM(copy.deepcopy(lvlm.model).float(), lvlm.processor)
    scores = [ours(one, samples, ALONE) for one in (lvlm, wide)]
    ranks = [np.argsort(np.argsort([float(values.sum()) for _, values in sorted(one.items())])) for one in scores]
    return float(np.corrcoef(ranks)[0, 1])


def matrix_rate(device: str) -> float:
    """FLOP a second of a large bfloat16 product."""
    left, right = (torch.randn(8192, 8192, device=device, dtype=torch.bfloat16) for _ in range(2))
    torch.mm(left, right)
    return 20 * 2 * 8192**3 / seconds(lambda: [torch.mm(left, right) for _ in range(20)])


def measure(rounds: int) -> dict[str, object]:
    """Everything, as one JSON object."""
    torch.set_num_threads(1)
    on_gpu = torch.cuda.is_available()
    shape = GPU if on_gpu else CPU
    num_examples = 256 if on_gpu else NUM_EXAMPLES
    lvlm = build(shape, *(("cuda", torch.bfloat16) if on_gpu else ()))
    layers = tuple(range(0, shape.layers, max(1, shape.layers // 5)))
    every = Request(
        ("alignment", "loss", "perplexity", "el2n", "aum", "mean_state", "last_state", "coincide"),
        AlignmentConfig(),
        layers,
    )
    sides = {
        "floor": floor,
        "peer": peer,
        "ours": lambda lvlm, samples: ours(lvlm, samples, ALONE),
        "ours_all_signals": lambda lvlm, samples: ours(lvlm, samples, every),
    }
    pools = {images_of: examples(shape, images_of, num_examples) for images_of in (1, 4)}
    memory = {
        name: peak_megabytes(lambda side=sides[name]: side(lvlm, pools[1][:8])) for name in ("floor", "peer", "ours")
    }
    times: dict[int, dict[str, float]] = {images_of: {} for images_of in pools}
    for _ in range(rounds):
        for images_of, samples in pools.items():
            for name, side in sides.items():
                spent = seconds(lambda side=side, samples=samples: side(lvlm, samples))
                times[images_of][name] = min(spent, times[images_of].get(name, spent))
    result: dict[str, object] = {
        "model": f"Llava, {shape.layers} layers of width {shape.width}, "
        f"{sum(parameter.numel() for parameter in lvlm.model.parameters()) / 1e6:.0f}M parameters, {lvlm.model.dtype}",
        "tokens": {
            str(images_of): sum(len(sample.encoded.input_ids) for sample in samples)
            for images_of, samples in pools.items()
        },
        "examples": num_examples,
        "rounds": rounds,
        "seconds": {str(images_of): by_side for images_of, by_side in times.items()},
        "ours_over_floor": _ratio(times, "ours", "floor"),
        "all_signals_over_floor": _ratio(times, "ours_all_signals", "floor"),
        "peer_over_ours": _ratio(times, "peer", "ours"),
        "megabytes": memory,
        "memory_ours_over_peer": memory["ours"] / memory["peer"],
        "max_relative_error": largest_error(),
    }
    if on_gpu:
        num_weights = sum(parameter.numel() for parameter in lvlm.language_model().parameters())
        tokens = sum(len(sample.encoded.input_ids) for sample in pools[1])
        result["examples_per_second"] = {key: num_examples / by_side["ours"] for key, by_side in times.items()}
        result["rank_correlation_with_float32"] = rank_correlation(lvlm, pools[1])
        result["share_of_matrix_rate"] = 2 * num_weights * tokens / times[1]["ours"] / matrix_rate("cuda")
    return result


def _ratio(times: dict[int, dict[str, float]], above: str, below: str) -> dict[str, float]:
    return {str(images_of): by_side[above] / by_side[below] for images_of, by_side in times.items()}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    measured = measure(arguments.rounds)
    if arguments.json:
        json.dump(measured, sys.stdout)
    else:
        for key, value in measured.items():
            print(f"{key:24} {value}")
