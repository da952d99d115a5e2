"""Sizes of model folders, and folders that have none."""

from __future__ import annotations

import pytest

from tests.tiny_models import tiny_llava, tiny_qwen
from xmas_job.errors import BadDataError
from xmas_job.models.size import read_size


@pytest.mark.parametrize("build", [tiny_llava, tiny_qwen])
def test_parts_are_counted_as_the_loaded_model_has_them(build, tmp_path):
    lvlm = build()
    lvlm.save(tmp_path)
    size = read_size(tmp_path)
    assert size is not None
    assert size.vision == sum(weight.numel() for weight in lvlm.vision_parameters())
    in_projector = [lvlm.model.get_submodule(name) for name in lvlm.projector_modules()]
    assert size.projector == sum(weight.numel() for module in in_projector for weight in module.parameters())
    assert size.parameters == sum(weight.numel() for weight in lvlm.model.parameters())
    assert size.width == lvlm.model.config.get_text_config().hidden_size


def test_a_folder_without_safetensors_has_no_size_and_one_cut_off_is_named(tmp_path):
    tiny_llava().save(tmp_path)
    weights = tmp_path / "model.safetensors"
    whole = weights.read_bytes()
    for kept in (0, 5, 100):
        weights.write_bytes(whole[:kept])
        with pytest.raises(BadDataError, match=r"model.safetensors is cut off or no safetensors file.* Copy the model"):
            read_size(tmp_path)
    weights.unlink()
    (tmp_path / "pytorch_model.bin").write_bytes(b"a pickle")
    assert read_size(tmp_path) is None
