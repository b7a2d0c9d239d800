# Everything goes through .venv; `make help` lists the targets.
SHELL := /bin/bash
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
STAMP := .venv/.installed-$(shell cat pyproject.toml constraints.txt | cksum | cut -d' ' -f1)
export PATH := $(CURDIR)/$(BIN):$(PATH)
export DO_NOT_TRACK := 1
export DVC_NO_ANALYTICS := 1
export GX_ANALYTICS_ENABLED := false
export PREFECT_SERVER_ANALYTICS_ENABLED := false
export HF_HUB_OFFLINE := 1
export PYTHONPATH := $(CURDIR)
export PREFECT_HOME := $(CURDIR)/.gear/prefect
# on disk: in memory, a reboot would hold the slot of a deployment's run for ever; so it is free again after five minutes
export PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE := prefect.server.concurrency.lease_storage.filesystem
export PREFECT_API_URL ?= http://127.0.0.1:4200/api
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: help setup repro tiny test test-slow lint server worker deploy stop clean
help:  ## List the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 12

setup: $(STAMP)  ## Make .venv with the pinned packages (7 GB, a few minutes, once)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11")'
	@$(PYTHON) -m venv .venv
	@echo "installing (1/4): build tools"; $(PIP) --upgrade pip wheel "setuptools<82" ninja
	@echo "installing (2/4): torch"; $(PIP) torch torchvision
	@echo "installing (3/4): deepspeed"; DS_BUILD_OPS=0 $(PIP) --no-build-isolation deepspeed
	@echo "installing (4/4): the rest"; $(PIP) --no-build-isolation -e '.[dev]'
	@$(BIN)/python -m pip check
	@rm -f .venv/.installed-* && touch $@

repro: setup  ## Run the pipeline of params.yaml (dvc repro) and say where the report is
	@dvc repro && echo "report: $(CURDIR)/reports/index.html"

tiny: setup  ## The whole pipeline in a minute or two on the tiny preset (writes params.yaml)
	@python -m gear preset tiny && dvc repro && echo "report: $(CURDIR)/reports/index.html"

test: setup  ## Run the tests
	@python -m pytest

test-slow: setup  ## Run the tests that take minutes each: every quantizer and recipe through the pipeline, a step at XL's width
	@python -m pytest -m slow

lint: setup  ## Style, types, import contracts, spelling
	@ruff check gear flows tests benchmarks && mypy && lint-imports && codespell gear flows tests benchmarks docs presets *.md

server: setup  ## Start Prefect's server on 127.0.0.1:4200 in the background (SQLite in .gear/prefect)
	@mkdir -p .gear/logs
	@prefect server start --host 127.0.0.1 --background > .gear/logs/server.log 2>&1 || { cat .gear/logs/server.log; exit 1; }
	@python -m flows.wait $(PREFECT_API_URL)
	@echo "server: http://127.0.0.1:4200"

worker: setup  ## Start one worker a pool in the background: gpu one run at a time, cpu four (the monitor runs beside the pipeline)
	@for pool in cpu gpu; do \
	  prefect work-pool create $$pool --type process > /dev/null 2>&1 || true; \
	  nohup prefect worker start --pool $$pool --type process --limit $$([ $$pool = gpu ] && echo 1 || echo 4) > .gear/logs/worker-$$pool.log 2>&1 & \
	  echo $$! > .gear/worker-$$pool.pid; echo "worker of pool $$pool: .gear/logs/worker-$$pool.log"; done

deploy: setup  ## Register prefect.yaml's deployments (schedules stay switched off)
	@GEAR_CHECKOUT=$(CURDIR) prefect --no-prompt deploy --all

stop: setup  ## Stop the workers and the server
	@for file in .gear/worker-*.pid; do [ -f $$file ] && kill $$(cat $$file) 2>/dev/null; rm -f $$file; done; prefect server stop 2>/dev/null || true

clean:  ## Remove resumable training state and volatile reports (not data, models or the cache)
	@rm -rf .gear reports/data-docs reports/drift
