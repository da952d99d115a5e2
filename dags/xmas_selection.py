"""The main job: which B of these N examples should the next fine-tune use? One run, one selection."""

from __future__ import annotations

from airflow.sdk import DAG
from dag_factory import NUM_RETRIES, RETRY_DELAY, add_line
from selection_request import PARAMS, request
from telling import alert_run, alert_task

with DAG(
    "xmas_selection",
    description="From landed data to a verified subset and a tuned target, with a budget.",
    doc_md=__doc__,
    schedule=None,
    catchup=False,
    params=PARAMS,
    default_args={"retries": NUM_RETRIES, "retry_delay": RETRY_DELAY, "on_failure_callback": alert_task},
    on_failure_callback=alert_run,
    tags=["xmas_job"],
) as dag:
    add_line(request)
