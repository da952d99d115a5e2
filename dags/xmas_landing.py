"""New data has landed: one run of xmas_selection for what is there now.

An event on the queue and the clock both only make this look; what has landed is read from the store, and the run's id
follows from it. So heaps of events, lost ones and doubled ones lead to one run a snapshot.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator
from airflow.sdk import DAG, Asset, AssetOrTimeSchedule, AssetWatcher, DeltaTriggerTimetable, get_current_context, task
from dag_factory import LOOK_TIMEOUT, NUM_RETRIES, RETRY_DELAY
from launching import call
from selection_request import params_with, request
from telling import alert_look, all_is_well

from xmas_job.environment import LandingSettings, load_settings

SETTINGS = load_settings(LandingSettings)
LANDED = "xmas_landed"
MESSAGES_AT_ONCE = 10
"""What SQS gives at most."""


def when() -> Any:
    """By the clock and, if there is a queue, by its events; never, if nothing is asked for."""
    if SETTINGS.conf is None:
        return None
    clock = DeltaTriggerTimetable(timedelta(seconds=SETTINGS.reconcile_seconds))
    if SETTINGS.queue is None:
        return clock
    # By its use: it imports boto3, and its provider is wanted only where there is a queue.
    from airflow.providers.amazon.aws.triggers.sqs import SqsSensorTrigger  # noqa: PLC0415

    trigger = SqsSensorTrigger(
        sqs_queue=SETTINGS.queue,
        aws_conn_id=SETTINGS.connection,
        max_messages=MESSAGES_AT_ONCE,
        wait_time_seconds=SETTINGS.poll_seconds,
        waiter_delay=1,
    )
    landed = Asset(LANDED, uri="x-xmas://landed", watchers=[AssetWatcher(LANDED, trigger=trigger)])
    return AssetOrTimeSchedule(timetable=clock, assets=[landed])


with DAG(
    "xmas_landing",
    description="New data has landed: one run of xmas_selection for what is there now.",
    doc_md=__doc__,
    schedule=when(),
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    catchup=False,
    max_active_runs=1,
    params=params_with(SETTINGS.conf or {}),
    default_args={
        "retries": NUM_RETRIES,
        "retry_delay": RETRY_DELAY,
        "on_failure_callback": alert_look,
    },
    tags=["xmas_job"],
) as dag:

    @task(
        multiple_outputs=True,
        execution_timeout=LOOK_TIMEOUT,
        on_success_callback=all_is_well,
        on_skipped_callback=all_is_well,
    )
    def look() -> dict[str, Any]:
        """The run that the newest landed versions ask for; skipped if it was started."""
        params = dict(get_current_context()["params"])
        found = call("landed", *request(params))
        return {"run": found["run"], "conf": {**params, "datasets": found["datasets"]}}

    looked: Any = look()
    TriggerDagRunOperator(
        task_id="select",
        trigger_dag_id="xmas_selection",
        trigger_run_id=looked["run"],
        logical_date=None,  # what is selected depends on no date
        conf=looked["conf"],
        skip_when_already_exists=True,  # the run is there, but has not written into the store yet
        openlineage_inject_parent_info=False,  # the conf stays what it is
    )
