# The commands of the README. Everything the pipeline keeps lives in $(ATLAS_HOME).
export ATLAS_HOME ?= $(CURDIR)/.atlas
export DAGSTER_HOME ?= $(ATLAS_HOME)/dagster
export DO_NOT_TRACK := 1
export DAGSTER_DISABLE_TELEMETRY := yes
export MLFLOW_DISABLE_TELEMETRY := true
export HF_HUB_OFFLINE := 1

PYTHON ?= python3
PORT ?= 3000
MLFLOW_PORT ?= 5000
VENV := .venv
BIN := $(VENV)/bin
# One thread a worker: two workers already fill two cores.
PYTEST := env -u ATLAS_HOME -u DAGSTER_HOME OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile

.PHONY: demo ingest ui mlflow test check bench docs format

demo: $(VENV)/ready
	$(BIN)/python -m atlas_pipeline.demo

ingest: $(VENV)/ready
	$(BIN)/python -m atlas_pipeline.ingest

ui: $(VENV)/ready
	$(BIN)/python -m atlas_pipeline.demo --prepare
	$(BIN)/dagster dev -w workspace.yaml -h 127.0.0.1 -p $(PORT)

mlflow: $(VENV)/ready
	$(BIN)/mlflow ui --backend-store-uri sqlite:///$(ATLAS_HOME)/mlflow.db --host 127.0.0.1 --port $(MLFLOW_PORT)

test: $(VENV)/ready
	$(PYTEST)

check: $(VENV)/ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	env -u DAGSTER_HOME $(BIN)/dg check defs
	env -u DAGSTER_HOME $(BIN)/dagster definitions validate -w workspace.yaml
	$(PYTEST)

bench: $(VENV)/ready
	@for module in $(basename $(notdir $(filter-out %/__init__.py,$(wildcard benchmarks/*.py)))); do \
		$(BIN)/python -m benchmarks.$$module || exit 1; \
	done

docs: $(VENV)/ready
	$(BIN)/python -m atlas_pipeline.features.documentation

format: $(VENV)/ready
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# The lock file pins every version; the marker is renewed when it or the project's metadata changes.
$(VENV)/ready: requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@
