from __future__ import annotations

from pathlib import Path

import pytest

from xmas_job.errors import UsageError
from xmas_job.storage.roots import open_store


@pytest.mark.parametrize("as_root", [str, Path.as_uri], ids=["path", "uri"])
def test_folder_is_opened_by_path_and_by_uri(tmp_path: Path, as_root: object) -> None:
    folder = tmp_path / "with space and ü"
    assert callable(as_root)
    open_store(as_root(folder)).put("a", b"1")
    assert (folder / "a").read_bytes() == b"1"


def test_home_is_understood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    open_store("~/store").put("a", b"1")
    assert (tmp_path / "store/a").is_file()


@pytest.mark.parametrize("root", ["gs://bucket", "http://host/path"])
def test_unknown_scheme_is_refused(root: str) -> None:
    with pytest.raises(UsageError, match="there is no store for") as caught:
        open_store(root)
    assert root in caught.value.message
