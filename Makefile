# Everything a person does with this repository. `make` alone lists it.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
KUBECTL := $(VENV)/.kubectl
PACKAGES := libs/common services/edge services/scheduler services/verifier
ARGS ?=
PROMPTS ?=

.DEFAULT_GOAL := help
.PHONY: help setup check lint-deploy k8s-alerts format test test-compose test-pods demo up bench bench-acceptance bench-controller bench-engine bench-paper bench-policy bench-scale bench-sim clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) $(KUBECTL) ## Make the virtual environment in .venv and install all packages into it

# Keyed on what decides the installation, so that a change of any of them installs again. An
# environment that was interrupted while it was made has a python already, and no pip yet.
$(STAMP): requirements-dev.txt $(PACKAGES:%=%/pyproject.toml)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "SpecEdge needs Python 3.11 or later: make PYTHON=python3.12 ..."; exit 1; }
	$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
	  -e 'libs/common[engine,text,broker]' -e services/edge -e services/scheduler -e services/verifier \
	  -r requirements-dev.txt
	touch $@

# What tests render manifests with. Without it they say so, and use what is on the PATH.
$(KUBECTL): tests/deploy/fetch_kubectl.py $(STAMP)
	$(BIN)/python tests/deploy/fetch_kubectl.py $(BIN)/kubectl
	test ! -x $(BIN)/kubectl || touch $@

check: $(STAMP) lint-deploy ## Lint, format, types, the rings, and what deploys it
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

# Compose's own checks need its binary alone, no engine; the package's own command hides exit codes.
COMPOSE = $$($(BIN)/python -c 'import compose; print(compose.__path__[0])')/docker-compose

# The broker's generated configuration, with everything that it can hold, by the broker itself.
GENERATED := .specedge/credentials-check

lint-deploy: $(STAMP) $(KUBECTL) ## Lint Dockerfiles, Compose's files, manifests, monitoring, the broker's configuration
	$(BIN)/hadolint services/*/Dockerfile
	$(BIN)/yamllint --strict .yamllint.yaml docker-compose.yml deploy k8s
	$(COMPOSE) --profile '*' config --quiet
	$(BIN)/python -m pytest -q tests/deploy/test_monitoring.py
	$(BIN)/specedge creds init --dir $(GENERATED) --edge edge-1 --observer observer-1 \
	  --websocket 0.0.0.0:8443 --json >/dev/null
	$(BIN)/nats-server -t -c $(GENERATED)/broker/nats-server.conf

k8s-alerts: ## Wrap deploy/monitoring/alerts.yml for the Prometheus operator
	{ sed '/^spec:/q' k8s/components/monitoring/alerts.yaml; \
	  sed -n '/^groups:/,$$p' deploy/monitoring/alerts.yml | sed 's/^\(.\)/  \1/'; } >.alerts.part
	mv .alerts.part k8s/components/monitoring/alerts.yaml

format: $(STAMP) ## Let ruff put the code into shape
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Tests with their own processes and timing run one at a time, after the rest.
# With ARGS="-k NAME" one of two runs may have nothing to do, which pytest ends with 5.
UNLESS_NONE_CHOSEN = $(if $(ARGS),|| [ $$? -eq 5 ])

test: $(STAMP) $(KUBECTL) ## Run every test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist worksteal \
	  --ignore=tests/integration --ignore=tests/e2e --ignore=tests/deploy/test_compose.py \
	  --ignore=tests/deploy/test_pods.py --ignore=tests/deploy/test_pods_in_containers.py $(ARGS) \
	  $(UNLESS_NONE_CHOSEN)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q tests/integration tests/e2e tests/deploy/test_pods.py $(ARGS) \
	  $(UNLESS_NONE_CHOSEN)

test-compose: $(STAMP) ## Build the images, run the whole of docker-compose.yml and take it down; needs Docker
	$(BIN)/python -m pytest -s -v tests/deploy/test_compose.py $(ARGS)

test-pods: $(STAMP) $(KUBECTL) ## Run the pods of k8s/overlays/dev-cpu as containers; needs Docker and the images
	$(BIN)/python -m pytest -v tests/deploy/test_pods_in_containers.py $(ARGS)

demo: $(STAMP) ## Ask a real model a few questions through the whole system, and show a table
	$(BIN)/specedge demo $(ARGS)

up: $(STAMP) ## Start broker, scheduler, verifier and edge; serves the OpenAI API on port 8000
	$(BIN)/specedge up $(ARGS)

bench: $(STAMP) ## Compare plain, server-only and SpecEdge, near and far (25 minutes; ARGS=--quick)
	$(BIN)/python -m benchmarks compare $(ARGS)

bench-acceptance: $(STAMP) ## How much of a drafter's trees the target accepts: ARGS="--drafter ..."
	$(BIN)/python -m benchmarks acceptance $(ARGS)

bench-controller: $(STAMP) ## The controller against every fixed setting, in virtual time; its figure
	$(BIN)/python -m benchmarks controller --json docs/figures/controller.json \
	  --figure docs/figures/controller.png $(ARGS)

bench-paper: $(STAMP) ## The paper's table on emulated devices: 20 minutes (ARGS=--quick: 6)
	$(BIN)/python -m benchmarks paper $(ARGS)

bench-policy: $(STAMP) ## Batches just in time against barrier and greedy, in virtual time; its figure
	$(BIN)/python -m benchmarks policy --json docs/figures/policy.json \
	  --figure docs/figures/policy.png $(ARGS)

bench-scale: $(STAMP) ## What the scheduler costs: 300 edges on 12 verifiers, by script
	$(BIN)/python -m benchmarks scale $(ARGS)

bench-sim: $(STAMP) ## The simulator against the real services on emulated devices (3 to 6 minutes)
	$(BIN)/python -m benchmarks against $(ARGS)

bench-engine: $(STAMP) ## Measure engine, round sizes, round overhead and memory
	PROMPTS="$(PROMPTS)" $(BIN)/python -m benchmarks engine

clean: ## Remove the virtual environment and everything generated
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis \
	  .coverage* htmlcov benchmarks/out .specedge
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
