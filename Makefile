# `make setup` once, then `make test`. Everything lives in .venv; nothing else on the machine is touched.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
LOCK := docker/locks/dev.txt
# Agrees with the lock above wherever both name a package, so that one .venv holds both.
AIRFLOW_LOCK := docker/locks/airflow.txt
BUDGET ?= 15%
CONF ?= {}
KILLS ?= 50
# Processes share the cores; one thread each keeps them from fighting.
export OMP_NUM_THREADS ?= 1
# Without byte code every process that imports torch would compile it again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help setup airflow test test-line test-launch soak check demo run stop locks clean
.DEFAULT_GOAL := help

help: ## Show the targets.
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(VENV)/.installed ## Make .venv with the locked packages and this package.

$(VENV)/.installed: $(LOCK) pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --requirement $(LOCK)
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

airflow: $(VENV)/.airflow ## Add Airflow to .venv; then `make test` tests the DAGs too.

$(VENV)/.airflow: $(VENV)/.installed $(AIRFLOW_LOCK)
	$(BIN)/python -m pip install --quiet --requirement $(AIRFLOW_LOCK)
	$(BIN)/python -m pip check --quiet
	touch $@

test: setup ## Run the tests that need no engine, server or GPU, but for the two below.
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not service and not end_to_end and not launch"

test-line: setup ## Kill a whole line at every point, spoil every call of a run on S3; minutes more.
	$(BIN)/python -m pytest -n 2 --dist worksteal -m end_to_end

test-launch: setup ## Trainings of several processes: equal to one, killed, stopped; minutes more.
	$(BIN)/python -m pytest -m launch

soak: setup ## KILLS=50 times kill -9 at random moments of small runs: the same bytes, nothing left. Outside CI.
	$(BIN)/python -m tests.soak --kills $(KILLS)

check: airflow ## Lint, types and the layers of the architecture.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	MYPYPATH=dags $(BIN)/mypy --explicit-package-bases dags/*.py infra/*.py
	$(BIN)/lint-imports

demo: setup ## Land the demo and run the whole line on it, budget 15%.
	$(BIN)/xmas-job demo land
	$(BIN)/xmas-job run --recipe demo --budget 15%

run: airflow ## The main job in a real Airflow here: BUDGET=15%, CONF='{"method": "random"}', KEEP=1 leaves it up.
	$(BIN)/python -m infra.make_run --budget '$(BUDGET)' --conf '$(CONF)' $(if $(KEEP),--keep)

stop: airflow ## Stop an Airflow that KEEP=1 left up.
	$(BIN)/python -m infra.make_run --stop

# UV_FIND_LINKS: uv does not read pip's own variable, and would take the CUDA build of torch where pip takes a local one.
# All of a CPU machine is solved once and shared out, so that one .venv can hold any two of the files. gpu.txt stands
# alone: there torch is the CUDA build of a plain index.
COMPILE := -m uv pip compile pyproject.toml --quiet --python-version 3.11 --no-header --no-annotate \
	--no-emit-index-url --no-emit-find-links
locks: setup ## Pin every package again (needs uv).
	mkdir -p .out
	UV_FIND_LINKS="$(PIP_FIND_LINKS)" $(BIN)/python $(COMPILE) --extra train --extra cpu --extra dev --extra airflow \
		--upgrade -o .out/all.txt
	sed -i 's/+cpu$$//' .out/all.txt
	for lock in "dev train cpu dev" "job train cpu" "airflow airflow"; do \
		set -- $$lock; name=$$1; shift; rm -f docker/locks/$$name.txt; \
		UV_FIND_LINKS="$(PIP_FIND_LINKS)" $(BIN)/python $(COMPILE) $$(printf -- ' --extra %s' "$$@") \
			--constraint .out/all.txt -o docker/locks/$$name.txt; \
		sed -i 's/+cpu$$//' docker/locks/$$name.txt; \
	done
	rm -f docker/locks/gpu.txt
	env -u UV_FIND_LINKS $(BIN)/python $(COMPILE) --extra train --extra gpu -o docker/locks/gpu.txt

clean: ## Remove .venv and the caches; the store in .xmas stays.
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
