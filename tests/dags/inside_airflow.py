"""What the tests ask of Airflow, in processes of their own: it sets up logging and a home as soon as it is imported.

`facts` prints what a DAG processor sees; `pod STAGE UNIT` the pod of a unit; `try CONF` runs the DAG through
`dag.test()`. JSON on the last line.
"""

from __future__ import annotations

import copy
import json
import os
import sys
import time
from typing import Any

FOLDER = os.environ.get("AIRFLOW__CORE__DAGS_FOLDER", "")  # set where this runs as a program
sys.path.insert(0, FOLDER)  # as Airflow does

CONFS: list[dict[str, Any]] = [
    {},
    {"budget": "0"},
    {
        "budget": "300",
        "method": "random",
        "datasets": ["a", "b@v2"],
        "selector": "s3://b/o",
        "seed": 7,
        "train_target": False,
        "channel": "x",
    },
    {"method": "magic"},
    {"seed": -1},
    {"datasets": []},
    {"train_target": "maybe"},
    {"channel": "Not A Key"},
    {"recipe": ""},
    {"bugdet": "10%"},
]


COMPARISON_CONFS: list[dict[str, Any]] = [
    {},
    {"methods": ["xmas", "my_module.more:Mine", "full"], "budgets": ["10%", "300"], "seeds": 2, "recipe": "mine.yaml"},
    {"methods": ["magic"]},
    {"methods": []},
    {"budgets": ["10%", "0%"]},
    {"seeds": 0},
    {"method": "xmas"},
]


SAID = '{"event": "e"}\n{"error": "bad rows.", "remedy": "Look.", "exit_code": 64}\nerror: bad rows.\n  Look.\n'
ENDS: list[dict[str, Any]] = [
    {"terminated": {"exit_code": 64, "reason": "Error", "message": SAID}},
    {"terminated": {"exit_code": 137, "reason": "OOMKilled"}},
    {"terminated": {"exit_code": 143, "reason": "Error", "message": '{"event": "e"}'}},
    {"terminated": {"exit_code": 99, "reason": "Error", "message": SAID.replace("64", "99")}},
    {"waiting": {"reason": "ErrImagePull", "message": "no such host"}},
    {"waiting": {"reason": "ContainerCreating"}},
]


def facts() -> dict[str, Any]:
    started = time.perf_counter()
    import airflow.sdk

    after_airflow, before = time.perf_counter(), set(sys.modules)
    import xmas_selection  # noqa: F401

    parsed = {"seconds": time.perf_counter() - after_airflow, "modules": sorted(set(sys.modules) - before)}
    parsed["seconds_of_airflow"] = after_airflow - started
    import airflow.providers.standard.operators.trigger_dagrun  # noqa: F401

    started, before = time.perf_counter(), set(sys.modules)
    import xmas_comparison

    compared = {"seconds": time.perf_counter() - started, "modules": sorted(set(sys.modules) - before)}

    import launching
    import selection_request
    from airflow.dag_processing.dagbag import BundleDagBag
    from airflow.serialization.serialized_objects import DagSerialization

    from xmas_job import errors

    bag = BundleDagBag(dag_folder=FOLDER, bundle_path=FOLDER, bundle_name="dags-folder")
    dag = bag.dags["xmas_selection"]
    data = DagSerialization.to_dict(dag)
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.XmasError)]
    return {
        "import_errors": bag.import_errors,
        "dags": sorted(bag.dags),
        "schedules": {name: _schedule(found) for name, found in bag.dags.items()},
        "landing_params": bag.dags["xmas_landing"].params.dump() if "xmas_landing" in bag.dags else None,
        "parsed": parsed,
        "comparison": _comparison(bag.dags["xmas_comparison"], xmas_comparison.request, compared),
        "tasks": {task.task_id: _task(task) for task in dag.tasks},
        "tasks_after_a_round_trip": sorted(DagSerialization.from_dict(json.loads(json.dumps(data))).task_dict),
        "serialized": json.dumps(data),
        "budget": selection_request.BUDGET,
        "confs": [_answer(dag, conf, selection_request.request) for conf in CONFS],
        "outcomes": {kind.__name__: type(launching.outcome_of(kind("what", "remedy"))).__name__ for kind in kinds},
        "message": str(launching.outcome_of(errors.BadDataError("what.", "remedy."))),
    }


def _schedule(dag: Any) -> dict[str, Any]:
    """What starts runs of the DAG: the clock, assets, and the triggers that watch for those."""
    timetable = dag.timetable
    clock = getattr(timetable, "timetable", timetable)
    delta = getattr(clock, "delta", None)
    condition = getattr(timetable, "asset_condition", None)
    assets = list(condition.objects) if condition else []
    triggers = [watcher.trigger.serialize() for asset in assets for watcher in asset.watchers]
    return {
        "seconds": delta.total_seconds() if delta else None,
        "assets": [asset.name for asset in assets],
        "triggers": [{"class": name, **arguments} for name, arguments in triggers],
        "is_paused_at_first": dag.is_paused_upon_creation,
        "max_active_runs": dag.max_active_runs,
        "has_alert": bool(dag.has_on_failure_callback),
    }


def _comparison(dag: Any, request: Any, parsed: dict[str, Any]) -> dict[str, Any]:
    run = dag.task_dict["run"]
    return {
        "parsed": parsed,
        "tasks": {task.task_id: _task(task) for task in dag.tasks if task is not run},
        "run": {name: run.partial_kwargs.get(name) for name in ("trigger_dag_id", "deferrable", "reset_dag_run")},
        "run_retries": run.retries,
        "run_upstream": sorted(run.upstream_task_ids),
        "confs": [_answer(dag, conf, request) for conf in COMPARISON_CONFS],
    }


def _task(task: Any) -> dict[str, Any]:
    return {
        "upstream": sorted(task.upstream_task_ids),
        "is_mapped": task.is_mapped,
        "trigger_rule": str(task.trigger_rule.value),
        "retries": task.retries,
        "hours": task.execution_timeout.total_seconds() / 3600,
        "pool": task.pool,
        "pool_slots": task.pool_slots,
        "has_alert": bool(task.on_failure_callback),
    }


def _answer(dag: Any, conf: dict[str, Any], request: Any) -> list[str] | str:
    """Arguments of `xmas-job resolve`, or the schema's refusal."""
    try:
        params = copy.deepcopy(dag.params)
        params.update(conf)
        return list(request(params.validate()))
    except Exception as error:  # noqa: BLE001 (whatever Airflow raises)
        return str(error)


def pod(stage: str, unit: dict[str, Any]) -> dict[str, Any]:
    """The pod that the launcher asks for, and what becomes of pods that ended otherwise than well."""
    from types import SimpleNamespace

    import xmas_selection
    from kubernetes.client import ApiClient

    operator = xmas_selection.dag.task_dict[f"{stage}.build"].unmap({"unit": unit})
    task = {"dag_id": "xmas_selection", "task_id": f"{stage}.build", "try_number": 2, "map_index": 3}
    run = {"dag": xmas_selection.dag, "dag_run": SimpleNamespace(run_id="m:1+1"), "run_id": "m:1+1"}
    context: Any = {**run, "ti": SimpleNamespace(**task)}
    asked = operator.build_pod_request_obj(context, dry_run=True)
    return {
        "pod": ApiClient().sanitize_for_serialization(asked),
        "unit": context["unit"],
        "operator": {name: str(getattr(operator, name)) for name in ("deferrable", "durable", "on_finish_action")},
        "ends": [_end(operator, asked, state) for state in ENDS],
    }


def _end(operator: Any, pod: Any, state: dict[str, Any]) -> list[str]:
    """What Airflow is told of a pod whose container is in this state."""
    import launching
    from kubernetes.client import models

    status = models.V1ContainerStatus(
        name="base", image="i", image_id="i", ready=False, restart_count=0, state=models.V1ContainerState()
    )
    for name, value in state.items():
        kind = {"waiting": models.V1ContainerStateWaiting, "terminated": models.V1ContainerStateTerminated}[name]
        setattr(status.state, name, kind(**value))
    pod.status = models.V1PodStatus(phase="Failed", container_statuses=[status])
    error = operator._error(pod)
    return [type(launching.outcome_of(error)).__name__, str(error)] if error else []


def try_run(conf: dict[str, Any]) -> dict[str, Any]:
    from airflow.dag_processing.dagbag import BundleDagBag
    from airflow.utils.db import initdb

    initdb()
    bag = BundleDagBag(dag_folder=FOLDER, bundle_path=FOLDER, bundle_name="dags-folder")
    run = bag.dags["xmas_selection"].test(run_conf=conf)
    states: dict[str, list[str]] = {}
    for instance in run.get_task_instances():
        states.setdefault(instance.task_id, []).append(str(instance.state))
    return {"run": run.run_id, "state": str(run.state), "tasks": states}


if __name__ == "__main__":
    command, *arguments = sys.argv[1:]
    if command == "facts":
        result = facts()
    elif command == "pod":
        result = pod(arguments[0], json.loads(arguments[1]))
    else:
        result = try_run(json.loads(arguments[0]))
    print("\n" + json.dumps(result))
