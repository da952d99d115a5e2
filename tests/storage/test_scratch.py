from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.processes import Child, wait_until
from xmas_job.storage.scratch import scratch_folder


def test_folder_is_empty_own_and_gone_at_the_end(tmp_path: Path) -> None:
    with scratch_folder(tmp_path / "scratch") as one, scratch_folder(tmp_path / "scratch") as two:
        assert one != two
        assert list(one.iterdir()) == []
        (one / "deep").mkdir()
        (one / "deep/file").write_bytes(b"x")
    assert list((tmp_path / "scratch").iterdir()) == []


def test_folder_is_gone_after_a_failure(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), scratch_folder(tmp_path) as folder:
        (folder / "none").read_bytes()
    assert list(tmp_path.iterdir()) == []


def _fill_and_wait(root: Path, let_go: Path) -> None:
    with scratch_folder(root) as folder:
        (folder / "file").write_bytes(b"x")
        wait_until(let_go.exists, "the order to go")


def test_folders_of_killed_processes_are_removed_and_those_of_living_ones_are_not(
    tmp_path: Path, start: Callable[..., Child]
) -> None:
    root, let_go = tmp_path / "scratch", tmp_path / "let go"
    killed, living = start(_fill_and_wait, root, let_go), start(_fill_and_wait, root, let_go)
    wait_until(lambda: len(list(root.glob("*/file"))) == 2, "both folders")
    killed.kill()
    with scratch_folder(root):
        assert len(list(root.glob("*/file"))) == 1
    let_go.touch()
    living.result()
    assert list(root.iterdir()) == []


def test_files_of_others_are_left_alone(tmp_path: Path) -> None:
    for name in ("notes", "new-of-another"):
        (tmp_path / name).mkdir()
    with scratch_folder(tmp_path):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new-of-another", "notes"]


def test_folder_of_another_container_is_left_alone_while_its_owner_lives(
    tmp_path: Path, start: Callable[..., Child]
) -> None:
    """Its process number may mean nothing, or another process, here: only the lock tells."""
    root, let_go = tmp_path / "scratch", tmp_path / "let go"
    code = (
        "import sys, time; from pathlib import Path; from xmas_job.storage.scratch import scratch_folder\n"
        "with scratch_folder(Path(sys.argv[1])) as folder:\n"
        "    (folder / 'file').touch()\n"
        "    while not Path(sys.argv[2]).exists(): time.sleep(0.01)\n"
    )
    command = ["unshare", "--pid", "--fork", sys.executable, "-c", code, str(root), str(let_go)]
    if subprocess.run(["unshare", "--pid", "--fork", "true"], capture_output=True, check=False).returncode:
        assert os.environ.get("CI") != "true", "CI must be able to make a process namespace"
        pytest.skip("another process namespace needs root")
    with subprocess.Popen(command) as container:
        wait_until(lambda: list(root.glob("*/file")), "the other container's folder")
        with scratch_folder(root):
            assert len(list(root.glob("*/file"))) == 1
        let_go.touch()
    assert container.returncode == 0
    assert list(root.iterdir()) == []
