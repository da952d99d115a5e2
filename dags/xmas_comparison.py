"""Which method, at which budget? One run of `xmas_selection` for each, what they share built once, and one report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator
from airflow.sdk import DAG, Param, TriggerRule, get_current_context, task
from airflow.sdk.exceptions import AirflowFailException
from dag_factory import BUDGET, LOOK_TIMEOUT, NUM_RETRIES, RETRY_DELAY, known_params
from launching import call, run_id_of
from telling import alert_run, alert_task

from xmas_job.catalog.methods import METHODS

POLL_SECONDS = 10
PARAMS = {
    "recipe": Param(
        "demo", type="string", minLength=1, description="A shipped recipe, or the path of a YAML file on the worker."
    ),
    "methods": Param(
        ["xmas"],
        type="array",
        items={"type": "string", "anyOf": [{"enum": [*METHODS]}, {"pattern": r"^[A-Za-z0-9_.]+:[A-Za-z0-9_]+$"}]},
        minItems=1,
        description="Methods to compare with random, one a line; module:class for one of your own. full: the whole "
        "pool as a reference.",
    ),
    "budgets": Param(
        ["5%", "15%"],
        type="array",
        items={"type": "string", "pattern": BUDGET},
        minItems=1,
        description="How much of the pool to select, one a line: 15%, 0.15 or 300 (examples).",
    ),
    "seeds": Param(
        None, type=["null", "integer"], minimum=1, description="Target trainings an arm. Empty: the recipe's."
    ),
}


def request(params: Mapping[str, Any]) -> list[str]:
    """The params as arguments of `xmas-job compare-start`.

    Raises:
        AirflowFailException: for a key that is none of ours; Airflow itself lets a misspelt one pass.
    """
    known_params(params, PARAMS)
    lists = [argument for name in ("methods", "budgets") for argument in (f"--{name}", ",".join(params[name]))]
    seeds = [] if params["seeds"] is None else ["--seeds", str(params["seeds"])]
    return ["--recipe", params["recipe"], *lists, *seeds]


with DAG(
    "xmas_comparison",
    description="Methods at budgets beside random: scores, overlap and cost in one report.",
    doc_md=__doc__,
    schedule=None,
    catchup=False,
    params=PARAMS,
    default_args={"retries": NUM_RETRIES, "retry_delay": RETRY_DELAY},
    on_failure_callback=alert_run,
    tags=["xmas_job"],
) as dag:

    @task(task_id="start", execution_timeout=LOOK_TIMEOUT, on_failure_callback=alert_task)
    def start() -> list[dict[str, Any]]:
        """Fix versions and models for all runs, and refuse what cannot run, before anything is built."""
        context = get_current_context()
        started = call("compare-start", *request(context["params"]), "--id", run_id_of(context))
        return [
            {"trigger_run_id": run["run"], "conf": {"recipe": run["recipe"], "budget": run["budget"]}}
            for run in started["runs"]
        ]

    @task(
        task_id="report",
        execution_timeout=LOOK_TIMEOUT,
        on_failure_callback=alert_task,
        # A run that fails is shown in the report; without a start there is nothing to report.
        trigger_rule=TriggerRule.ALL_DONE_MIN_ONE_SUCCESS,
    )
    def report() -> str:
        """Write the joint report; its address."""
        found = call("compare-report", run_id_of(get_current_context()), "--json")
        if not any(result["state"] == "done" for result in found["results"]):
            raise AirflowFailException(f"none of the runs has ended well; see {found['report']}")
        return str(found["report"])

    runs = start()
    # Leases keep what the runs share from being built twice. The run that fails has told so itself, and was retried.
    triggered = TriggerDagRunOperator.partial(
        task_id="run",
        trigger_dag_id="xmas_selection",
        logical_date=None,
        reset_dag_run=True,
        wait_for_completion=True,
        deferrable=True,
        poke_interval=POLL_SECONDS,
        retries=0,
        map_index_template="{{ task.trigger_run_id }}",
    ).expand_kwargs(runs)
    [runs, triggered] >> report()
