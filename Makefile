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
PORT ?= 4200
export PREFECT_API_URL ?= http://127.0.0.1:$(PORT)/api
ifdef DATABASE
export PREFECT_API_DATABASE_CONNECTION_URL := $(DATABASE)
endif
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
# `make setup CPU=1` installs torch without CUDA, which is the default where there is no NVIDIA device
ifneq ($(origin CPU),command line)
CPU := $(shell { ls /dev/nvidia[0-9]* || command -v nvidia-smi; } >/dev/null 2>&1 && echo 0 || echo 1)
endif
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
ifeq ($(CPU),1)
# builds there end in +cpu, which pip prefers to the same version elsewhere
ANSWERS = $(PYTHON) -c 'import urllib.request as r; r.urlopen("$(TORCH_INDEX)/torch/", timeout=10)' 2>/dev/null
WITHOUT_CUDA = if $(ANSWERS); then export PIP_EXTRA_INDEX_URL=$(TORCH_INDEX); else echo "no answer from $(TORCH_INDEX): torch with CUDA, 4 GB more"; fi;
endif

.PHONY: help setup repro repro-t2i tiny docs test test-slow test-docs test-gpu test-browser test-postgres lint bench zero-table kill-matrix damage-matrix image graph-check schema server worker deploy reports-server stop clean
help:  ## List the targets
	@grep -E '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## /\1\t/' | expand -t 16

setup: $(STAMP)  ## Make .venv with the pinned packages (a few minutes, once; 8 GB, or 4 with CPU=1)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11")'
	@$(PYTHON) -m venv .venv
	@echo "installing (1/4): build tools"; $(PIP) --upgrade pip wheel "setuptools<82" ninja
	@echo "installing (2/4): torch"; $(WITHOUT_CUDA) $(PIP) torch torchvision
	@echo "installing (3/4): deepspeed"; DS_BUILD_OPS=0 $(PIP) --no-build-isolation deepspeed
	@echo "installing (4/4): the rest"; $(PIP) --no-build-isolation -e '.[dev]'
	@$(BIN)/python -m pip check
	@rm -f .venv/.installed-* && touch $@

repro: setup  ## Run the pipeline of params.yaml (dvc repro) and say where the report is
	@dvc repro && echo "report: $(CURDIR)/reports/index.html"

repro-t2i: setup  ## The text-to-image pipeline on captions of the packaged images (writes params.yaml)
	@python -m gear preset t2i-quickstart && dvc repro && echo "report: $(CURDIR)/reports/index.html"

tiny: setup  ## The whole pipeline in a minute or two on the tiny preset (writes params.yaml)
	@python -m gear preset tiny && dvc repro && echo "report: $(CURDIR)/reports/index.html"

# not --quiet, with which --strict lets warnings pass
docs: setup  ## Build the documentation as a site (build/site), which loads nothing from elsewhere; every link is checked
	@NO_MKDOCS_2_WARNING=1 mkdocs build --strict && echo "site: $(CURDIR)/build/site/index.html"

# three processes on two cores, as the flow tests mostly wait; one thread each, or they would slow each other down
test: setup  ## Run the tests
	@OMP_NUM_THREADS=1 python -m pytest -n 3 --dist loadfile --no-loadscope-reorder

test-slow: setup  ## Run the tests that take minutes each: every quantizer and recipe through the pipeline, a step at XL's width
	@python -m pytest -m slow

test-docs: setup  ## Run the commands, Python and settings of the documentation in a finished tiny run (twenty minutes)
	@OMP_NUM_THREADS=1 python -m pytest -m 'slow or not slow' tests/unit/test_docs.py tests/pipeline/test_docs_commands.py

test-gpu: setup  ## Run the tests of what a GPU computes (needs one)
	@python -m pytest -m gpu tests/gpu

test-browser: setup  ## Run the tests of the pages in a browser (needs Chromium)
	@python -m pytest -m browser tests/browser

test-postgres: setup  ## Run the tests of the server on PostgreSQL (Debian: apt-get install postgresql)
	@python -m pytest -m postgres

lint: setup  ## Check style, format, types, import contracts, spelling and the Dockerfile
	@ruff check . && ruff format --check . && mypy && lint-imports && codespell && hadolint Dockerfile

bench: setup  ## Time a step and sampling beside the plainest code for them (ten minutes on a quiet machine)
	@python -m benchmarks.run --record && python -m benchmarks.run --busy --only step && python benchmarks/loader.py

zero-table: setup  ## Every ZeRO stage, rank count and accumulation against a plain loop (a few minutes)
	@python -m tests.distributed.zero_table

kill-matrix: setup  ## Kill trainings at random moments and run them again (an hour or two)
	@python -m tests.distributed.kill_matrix

damage-matrix: setup  ## Damage each file of trainings' states and run them again (half an hour)
	@python -m tests.distributed.damage_matrix

image:  ## Build the CPU image with buildah, as root and without Docker, and run the tiny preset in it (20 minutes, 50 GB)
	@tools/image.sh cpu

graph-check: setup  ## Edit one thing at a time and show which stages would run again
	@python tools/graph_check.py

schema: setup  ## Write presets/params.schema.json anew, after a change of settings
	@python -c "from gear import params, paths; paths.SCHEMA.write_text(params.schema())"

server: setup  ## Start Prefect's server on 127.0.0.1:PORT (4200) in the background: SQLite in .gear/prefect, or DATABASE=postgresql+asyncpg://...
	@python -m flows.server server

worker: setup  ## Start one worker a pool in the background: gpu runs one at a time, cpu up to four
	@python -m flows.server worker

deploy: setup  ## Register prefect.yaml's deployments (schedules stay as they are: switched off at first)
	@python -m flows.server deploy

reports-server: setup  ## Serve reports/ on 127.0.0.1:4201, where artifacts link its pages
	@python -m flows.server reports

stop: setup  ## Stop the workers and servers that were started here
	@python -m flows.server stop

clean:  ## Stop workers and servers; remove .gear (states, logs, costs, Prefect's database) and volatile reports
	@[ ! -d .gear/services ] || python -m flows.server stop
	@rm -rf .gear reports/data-docs reports/drift reports/live
