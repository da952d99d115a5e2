"""An example of a DAG that follows published selections: it pulls each one, every byte checked. Paused; copy it."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory

import structlog
from airflow.sdk import DAG, get_current_context, task
from assets import SELECTIONS
from dag_factory import LOOK_TIMEOUT, NUM_RETRIES, RETRY_DELAY
from launching import call

with DAG(
    "xmas_example_consumer",
    description="Pulls every published selection.",
    doc_md=__doc__,
    schedule=[SELECTIONS],
    catchup=False,
    is_paused_upon_creation=True,
    default_args={"retries": NUM_RETRIES, "retry_delay": RETRY_DELAY},
    tags=["xmas_job", "example"],
) as dag:

    @task(execution_timeout=LOOK_TIMEOUT)
    def pull() -> list[str]:
        """URIs of the selections that were pulled. One run may answer several events, and an event may come twice."""
        events = get_current_context()["triggering_asset_events"][SELECTIONS]
        told = {event.extra["selection_id"]: str(event.extra["uri"]) for event in events}
        for selection in told:
            with TemporaryDirectory() as folder:
                call("pull", selection, f"{folder}/selection", "--json")
                manifest = json.loads((Path(folder) / "selection" / "manifest.json").read_text())
            structlog.get_logger("xmas_job").info("pulled", selection=selection, resolved=manifest["resolved"])
        return list(told.values())

    pull()
