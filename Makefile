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

.PHONY: help setup airflow test soak check demo run stop locks clean
.DEFAULT_GOAL := help

help: ## Show the targets.
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

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

test: setup ## Run all tests that need no engine, server or GPU.
	$(BIN)/python -m pytest -n 2 --dist loadgroup -m "not service"

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
# A new file each time: pins of the old one would be kept, and with them the build that they were made for.
locks: setup ## Pin every package again (needs uv).
	UV_FIND_LINKS="$(PIP_FIND_LINKS)" $(BIN)/python -m uv pip compile pyproject.toml --extra train --extra dev --quiet \
		--python-version 3.11 --no-header --no-annotate --no-emit-index-url --no-emit-find-links -o $(LOCK).new
	sed 's/+cpu$$//' $(LOCK).new >$(LOCK) && rm $(LOCK).new
	$(BIN)/python -m uv pip compile pyproject.toml --extra airflow --constraint $(LOCK) --quiet \
		--python-version 3.11 --no-header --no-annotate --no-emit-index-url --no-emit-find-links -o $(AIRFLOW_LOCK).new
	mv $(AIRFLOW_LOCK).new $(AIRFLOW_LOCK)

clean: ## Remove .venv and the caches; the store in .xmas stays.
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
