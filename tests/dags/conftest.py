from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

DAGS = Path(__file__).parent.parent.parent / "dags"
Ask = Callable[..., dict[str, Any]]


@pytest.fixture(scope="session")
def ask_airflow(tmp_path_factory: pytest.TempPathFactory) -> Ask:
    """Run `inside_airflow` with an Airflow home of its own; its answer."""
    if importlib.util.find_spec("airflow") is None:
        assert os.environ.get("CI") != "true", "CI must have Airflow: make airflow"
        pytest.skip("Airflow is not installed: make airflow")
    home = tmp_path_factory.mktemp("airflow")

    def ask(*arguments: str, **variables: str) -> dict[str, Any]:
        settings = {
            "AIRFLOW_HOME": str(home),
            "AIRFLOW__CORE__DAGS_FOLDER": str(DAGS),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        }
        command = [sys.executable, "-m", "tests.dags.inside_airflow", *arguments]
        environment = {**os.environ, **settings, **variables}
        # Without byte code, Airflow would be compiled anew: 16 seconds.
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=400)
        assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
        answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return {**answer, "output": done.stdout}

    return ask


@pytest.fixture(scope="session")
def facts(ask_airflow: Ask) -> dict[str, Any]:
    """What a DAG processor sees."""
    return ask_airflow("facts")
