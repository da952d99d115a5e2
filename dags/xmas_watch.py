"""What no failure tells: heartbeats that stand still, bad rows, skewed clusters. Runs while alerts have receivers."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from airflow.sdk import DAG, DeltaTriggerTimetable, task
from dag_factory import LOOK_TIMEOUT, NUM_RETRIES, RETRY_DELAY
from launching import call
from telling import alert_look, all_is_well

from xmas_job.environment import AlertSettings, load_environment, load_settings

EVERY = timedelta(seconds=load_settings(AlertSettings).watch_seconds)

with DAG(
    "xmas_watch",
    description="Tells what the alert rules say of the last runs.",
    doc_md=__doc__,
    schedule=DeltaTriggerTimetable(EVERY) if load_environment().alert_urls else None,
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    catchup=False,
    max_active_runs=1,
    default_args={
        "retries": NUM_RETRIES,
        "retry_delay": RETRY_DELAY,
        "on_failure_callback": alert_look,
        "on_success_callback": all_is_well,
    },
    tags=["xmas_job"],
) as dag:

    @task(execution_timeout=LOOK_TIMEOUT)
    def look() -> int:
        """Tell what is not told yet; how much there is to tell of."""
        return len(call("watch", "--json")["alerts"])

    look()
