"""A trial of this machine's GPUs, in a process of its own, because what does not fit may crash it.

torch and faiss may each bring a CUDA of their own. So both compute in one process, in turns.
"""

from __future__ import annotations

import json
import sys
from typing import Any

NUM = 64
"""Side of the matrices."""


def main() -> None:
    """Print a JSON line before every step, so that a crash tells which one it was, and the findings at the end."""
    _say("importing torch")
    import torch

    _say("looking for GPUs")
    gpus = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    for number, gpu in enumerate(gpus):
        _say(f"computing with torch on {gpu}")
        _compute_with_torch(number)
    _say("importing faiss")
    import faiss

    faiss_gpus = faiss.get_num_gpus() if hasattr(faiss, "StandardGpuResources") else 0
    if faiss_gpus:
        _say(f"computing with faiss on {gpus[0] if gpus else 'a GPU'}, beside torch")
        _compute_with_faiss()
    if faiss_gpus and gpus:
        _say("computing with torch again, after faiss")
        _compute_with_torch(0)
    found = {"torch": torch.__version__, "cuda": torch.version.cuda, "gpus": gpus}
    _tell({**found, "faiss": faiss.__version__, "faiss_gpus": faiss_gpus})


def _say(step: str) -> None:
    _tell({"step": step})


def _tell(value: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


def _compute_with_torch(number: int) -> None:
    import torch

    ones = torch.ones(NUM, NUM, device=f"cuda:{number}")
    if (ones @ ones).sum().item() != NUM**3:
        raise ArithmeticError("torch gives a wrong product")


def _compute_with_faiss() -> None:
    import faiss
    import numpy as np  # noqa: PLC0415

    index = faiss.GpuIndexFlatL2(faiss.StandardGpuResources(), NUM)
    index.add(np.eye(NUM, dtype=np.float32))
    _, nearest = index.search(np.eye(NUM, dtype=np.float32), 1)
    if nearest[:, 0].tolist() != list(range(NUM)):
        raise ArithmeticError("faiss finds wrong neighbours")


if __name__ == "__main__":
    main()
