"""What keeps the house in order, and that it does."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BIN = Path(sys.executable).parent
MODULES = sorted((ROOT / "xmas_job").rglob("*.py"))
HEAVY = ("torch", "transformers", "deepspeed", "faiss", "numpy", "pyarrow", "boto3", "airflow", "matplotlib", "PIL")
LONGEST_FILE = 350


def run(*command: str | Path, text: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=ROOT, input=text, capture_output=True, text=True, check=False)


def test_graph_and_command_line_load_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "for name in ('pipeline', 'cli', 'config', 'environment', 'catalog.methods'):\n"
        "    __import__(f'xmas_job.{name}')\n"
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    done = run(sys.executable, "-c", code)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_layers_are_kept() -> None:
    done = run(BIN / "lint-imports", "--no-cache")
    assert done.returncode == 0, done.stdout
    assert "0 broken" in done.stdout


@pytest.mark.parametrize("module", ["torch", "transformers", "faiss", "boto3", "airflow", "peft"])
def test_heavy_module_is_banned_from_the_top_of_a_light_file(module: str) -> None:
    light = _ruff_findings(f"import {module}\n", "xmas_job/core/x.py")
    assert "TID253" in light
    assert "TID253" not in _ruff_findings(f"def f():\n    import {module}\n", "xmas_job/core/x.py")


def test_torch_is_allowed_in_its_own_rooms() -> None:
    assert "TID253" not in _ruff_findings("import torch\n", "xmas_job/training/x.py")


def test_print_is_banned_everywhere() -> None:
    assert "T201" in _ruff_findings("print(1)\n", "xmas_job/stages/x.py")


def _ruff_findings(text: str, path: str) -> str:
    done = run(BIN / "ruff", "check", "--output-format=concise", "--stdin-filename", path, "-", text=text)
    assert done.returncode in {0, 1}, done.stderr
    return done.stdout


def test_only_the_command_line_writes_to_stdout() -> None:
    writers = {
        path.relative_to(ROOT).as_posix()
        for path in MODULES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) in {"print", "typer.echo", "typer.secho", "sys.stdout.write", "pprint.pprint"}
    }
    # The trial of GPUs is a program of its own: preflight reads what it prints.
    assert writers == {
        f"xmas_job/{name}.py"
        for name in ("cli", "console", "store_commands", "comparison_commands", "commands/kernels")
    }


def test_modules_say_what_they_own_and_stay_short() -> None:
    texts = {path.relative_to(ROOT).as_posix(): path.read_text() for path in MODULES}
    assert [path for path, text in texts.items() if not ast.get_docstring(ast.parse(text))] == []
    assert [path for path, text in texts.items() if len(text.splitlines()) > LONGEST_FILE] == []


def test_nothing_is_called_by_an_empty_name() -> None:
    empty = {"utils", "helpers", "common", "misc", "manager", "handler", "base"}
    assert [path.name for path in MODULES if set(path.stem.split("_")) & empty] == []
