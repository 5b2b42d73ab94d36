# The commands of a developer's day. `make demo` and `make test` do all their set-up themselves.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
PYTEST_ARGS ?= -n 2 -q

.PHONY: help demo test check lint types floors format protos completions docs openapi deps bench scale converge copies test-lab lab lab-sim lab-soak clean

help:  ## Show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | sort

$(BIN)/rage: pyproject.toml scripts/rage
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "rage needs Python 3.11 or newer; set PYTHON=")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(VENV)/.dev: $(BIN)/rage
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

demo: $(BIN)/rage  ## Install rage and run its demonstration: two organisations, an outsider, a CDN
	$(BIN)/rage demo

deps: $(VENV)/.dev  ## Everything the tests need, system packages included where the user is root
	sh scripts/test-deps.sh $(VENV)

test: deps  ## Everything the tests need, and the tests
	$(BIN)/pytest $(PYTEST_ARGS)

test-lab: deps  ## As root: tests of real nodes in network namespaces of their own, and mDNS beside js-libp2p
	$(BIN)/pytest -n 0 -q tests/lab tests/rage_lab tests/foreign/test_foreign_mdns.py

lab: $(BIN)/rage  ## As root: the fault lab, each fault with real nodes; SCENARIO=NAME, RUNS=N, SEED=N
	$(BIN)/rage lab run $(or $(SCENARIO),partition one-way kill pause clock full-disk slow-disk bit-flip add drain destroy mix rungs) \
	    --runs $(or $(RUNS),10) $(if $(SEED),--seed $(SEED)) --format table

lab-sim: $(BIN)/rage  ## The fault lab's simulator: 10,000 seeds of replication alone, 1,000 of whole engines; SEEDS=N, SEED=N
	$(BIN)/rage lab run copies --seeds $(or $(SEEDS),10000) $(if $(SEED),--seed $(SEED)) --progress plain --format table
	$(BIN)/rage lab run sim --seeds $(or $(SEEDS),1000) $(if $(SEED),--seed $(SEED)) --progress plain --format table

lab-soak: $(BIN)/rage  ## As root: an hour of five real nodes under churn, their memory drawn; MINUTES=N
	$(BIN)/rage lab run soak --minutes $(or $(MINUTES),60) --out bench/out/soak --format table

check: lint types floors test  ## All that CI runs: lint, types, floors, tests

lint: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(VENV)/.dev
	$(BIN)/mypy

floors: $(VENV)/.dev
	$(BIN)/lint-imports

format: $(VENV)/.dev  ## Rewrite the code as ruff wants it
	$(BIN)/ruff check --fix --exit-zero --quiet .
	$(BIN)/ruff format .

protos: $(VENV)/.dev  ## Regenerate the protobuf modules from contracts/
	sh scripts/protos.sh $(BIN)

completions: $(BIN)/rage  ## Regenerate completions/ from the command tree
	$(BIN)/python -m rage_cli.completions

docs: $(BIN)/rage  ## Regenerate docs/reference.md from the tables in the code
	$(BIN)/python -m rage_cli.reference

openapi: $(BIN)/rage  ## Regenerate the verbs' part of contracts/network-layer.yaml
	$(BIN)/python scripts/openapi.py

bench: $(VENV)/.dev  ## Benchmarks beside the peers; installs the peers itself
	$(BIN)/python -m bench

scale: $(VENV)/.dev  ## Simulated networks: gossip at 1,000 nodes, the DHT at 10,000, 200 whole engines; SEED=N repeats
	$(BIN)/python -m bench.gossip_scale $(if $(SEED),--seed $(SEED))
	$(BIN)/python -m bench.dht_scale $(if $(SEED),--seed $(SEED))
	$(BIN)/python -m bench.sim_scale $(if $(SEED),--seed $(SEED))

converge: $(VENV)/.dev  ## 10,000 simulated runs that must end in one state on all nodes; RUNS=N, SEED=N
	$(BIN)/python -m bench.convergence $(if $(RUNS),--runs $(RUNS)) $(if $(SEED),--seed $(SEED))

copies: $(VENV)/.dev  ## Replication at scale: placement, the audit of a million chunks, repair beside readers, puts that wait
	$(BIN)/python -m bench.place
	$(BIN)/python -m bench.audit_plan
	$(BIN)/python -m bench.repair
	$(BIN)/python -m bench.put_wait

clean:  ## Remove what make made
	rm -rf $(VENV) bench/.peers bench/out tests/foreign/.peers
