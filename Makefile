# Everything starts here. `make run` and `make test` set themselves up on a fresh machine.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
ARGS   ?=
SECONDS ?= 60

SOURCES := sentinel_extproc tests bench scripts deploy

.DEFAULT_GOAL := help
.PHONY: help docs site examples setup run test quick unit browser faketime soak reliability fuzz lint fmt proto encodings accuracy lock wheel audit sbom bench clean

help: ## show this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

$(VENV)/.installed: requirements/dev.txt pyproject.toml
	@echo "setting up $(VENV) (once; a minute or so)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed (set PYTHON=...)"; exit 1; }
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --require-hashes -r requirements/dev.txt
	@$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

setup: $(VENV)/.installed ## create the virtual environment from the pinned requirements

run: setup ## run the main job on embedded parts; ARGS=--once ends after the scenario
	@$(BIN)/sentinel-extproc demo $(ARGS)

test: setup ## run every test, the real Envoy and Redis included
	@$(BIN)/python -m pytest $(ARGS)

quick: setup ## the tests of what decides: a thousand in some seconds, no process, no network
	@$(BIN)/python -m pytest -q tests/unit/test_exchange*.py tests/unit/test_endpoints*.py \
		tests/unit/test_limits*.py tests/unit/test_sse.py $(ARGS)

unit: setup ## all unit tests; a minute or so
	@$(BIN)/python -m pytest -q tests/unit $(ARGS)

browser: ## install Chromium with apt, for the live page's tests; they are skipped without
	@command -v chromium >/dev/null || command -v google-chrome >/dev/null || { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium >/dev/null; }

faketime: ## install libfaketime with apt, for tests of clocks that step; they are skipped without
	@ls /usr/lib/*/faketime/libfaketimeMT.so.1 >/dev/null 2>&1 || { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends faketime >/dev/null; }

bench: setup ## compare CPU, latency and memory with empty processors; PEERS=1 adds LiteLLM and Portkey; 12 min
	@$(BIN)/python -m bench.gateway --record $(if $(PEERS),--peers) $(ARGS)

soak: setup ## kill the sidecar 200 times under load and account for every token; prints its seed
	@SOAK_CYCLES=$${SOAK_CYCLES:-200} $(BIN)/python -m pytest tests/faults/test_soak.py $(ARGS)

fuzz: setup ## fuzz every target for SECONDS each (60), or only TARGETS="a b"; finds are kept as cases
	@PYTHONPATH=$(CURDIR) $(BIN)/python tests/fuzz/run.py --seconds $(SECONDS) $(TARGETS)

reliability: setup ## try every fault and load, the long forms too, and write the results into docs/reliability.md
	@$(BIN)/python -m tests.faults.report $(ARGS)

lint: setup ## ruff, mypy --strict and the import-direction test
	@$(BIN)/ruff check $(wildcard $(SOURCES))
	@$(BIN)/ruff format --check $(wildcard $(SOURCES))
	@$(BIN)/mypy
	@$(BIN)/python -m pytest -q tests/unit/test_imports.py

fmt: setup ## format and apply safe fixes
	@$(BIN)/ruff format $(wildcard $(SOURCES))
	@$(BIN)/ruff check --fix $(wildcard $(SOURCES))

proto: setup ## regenerate the wire types from proto/
	@sh proto/generate.sh $(BIN)

docs: setup ## write what docs/ has from the code: configuration.md, attach/doctor.md; draw its pictures
	@$(BIN)/python scripts/document_settings.py
	@$(BIN)/python scripts/document_findings.py
	@$(BIN)/python scripts/document_metrics.py
	@$(BIN)/python scripts/draw_pictures.py

site: setup ## build docs/ into build/site; a dead link or anchor is an error
	@$(BIN)/python -m sphinx -q -W --keep-going -d build/doctrees docs build/site
	@echo "open build/site/index.html"

examples: setup ## render envoy/ again and, with helm on the PATH, the chart's kept output
	@$(BIN)/python -m sentinel_extproc.envoyconf.examples envoy
	@$(BIN)/python scripts/render_chart.py

encodings: setup ## derive the shipped tokenizer ranks again and check their hashes
	@$(BIN)/python scripts/make_encodings.py

accuracy: setup ## compare estimates with what providers reported, over recorded calls
	@$(BIN)/python scripts/accuracy.py $(ARGS)

# A lock without addresses: names, versions and hashes only.
LOCK := $(BIN)/pip-compile --quiet --generate-hashes --strip-extras --allow-unsafe --no-header \
	--no-annotate --no-emit-index-url --no-emit-find-links --no-emit-trusted-host

lock: setup ## resolve the requirements again
	@$(LOCK) --all-extras --output-file requirements/dev.txt pyproject.toml
	@$(LOCK) --extra tracing --constraint requirements/dev.txt --output-file requirements/serve.txt pyproject.toml

wheel: setup ## build the wheel into dist/
	@$(BIN)/python -m build --wheel --no-isolation

audit: setup ## what we ship from others: locks, licences, known vulnerabilities; ARGS=--offline asks nobody
	@$(BIN)/python scripts/audit.py $(ARGS)

sbom: setup ## write dist/sbom.json (CycloneDX) of what the image and `pip install` run
	@$(BIN)/python scripts/sbom.py dist/sbom.json

clean: ## remove what the targets above made
	rm -rf $(VENV) .bench dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis
