from __future__ import annotations

import pytest

from xmas_job.entrypoints import load_entrypoint


def test_object_is_reached_by_name() -> None:
    assert load_entrypoint("os.path:join")("a", "b") == "a/b"


@pytest.mark.parametrize("reference", ["os.path", "os.path:", "", "os"])
def test_reference_without_a_name_is_refused(reference: str) -> None:
    with pytest.raises(ValueError, match="is not of the form 'module:name'"):
        load_entrypoint(reference)


@pytest.mark.parametrize(("reference", "error"), [("os.path:nothing", AttributeError), ("no_such:run", ImportError)])
def test_missing_object_is_an_error(reference: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        load_entrypoint(reference)
