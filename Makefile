# What you can do with a checkout; needs only Python 3.11+, pip and make.

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin
CARAT := $(RUN)/carat

# Arguments of `make etl`: DATE=2026-03-01, or FROM= and TO=; JOBS=sessions,events
ETL_ARGUMENTS = $(if $(DATE),--date $(DATE)) $(if $(FROM),--from $(FROM)) $(if $(TO),--to $(TO)) $(if $(JOBS),--jobs $(JOBS))
DEMO_ARGUMENTS = $(if $(CALLS),--calls $(CALLS)) $(if $(SEED),--seed $(SEED))

.DEFAULT_GOAL := help
.PHONY: help setup setup-dev demo test test-fast test-long etl plan hourly serve dashboards preview charts bench bench-contest \
	bench-day bench-arrival bench-hours bench-map bench-snapshots bench-collector bench-middleware bench-enrichment \
	bench-dashboards bench-fixed lint format lock install-systemd uninstall-systemd clean

help: ## List the targets.
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/.runtime ## Install Carat into .venv/.

setup-dev: $(VENV)/.dev ## Install what tests, lint and benchmarks need as well.

demo: setup ## Generate a demo shop, build its warehouse, print a summary. [CALLS=300000 SEED=7]
	$(CARAT) demo $(DEMO_ARGUMENTS)

preview: setup ## Write the dashboards as one offline page. [OUT=var/dashboards.html]
	$(CARAT) dashboards preview $(if $(OUT),--out $(OUT))

PYTEST := $(RUN)/python -m pytest -q -n auto --dist worksteal

test: setup-dev ## Run all tests but soaks and large data sets.
	$(PYTEST) -m "not long"

test-fast: setup-dev ## Run the tests that need no server, no browser and less than a second each.
	$(PYTEST) -m "not slow and not long"


test-long: setup-dev ## Run the soaks, the large data sets, and many more random examples.
	CARAT_TEST_LONG=1 $(PYTEST) -m "long or slow"

etl: setup ## Build the stale days. [DATE=2026-03-01 | FROM= TO=] [JOBS=a,b]
	$(CARAT) etl $(ETL_ARGUMENTS)

plan: setup ## List the stale days and why.
	$(CARAT) plan

hourly: setup ## Load the spool, take a snapshot, build what is stale.
	$(CARAT) hourly

serve: setup ## Run collector, loader, hourly run and dashboards on this machine. [PORT=8787]
	$(CARAT) serve $(if $(PORT),--port $(PORT))

dashboards: setup ## Check the dashboards' files and run every card.
	$(CARAT) dashboards validate

bench: bench-contest bench-day bench-arrival bench-hours bench-map bench-snapshots bench-collector bench-middleware bench-enrichment bench-dashboards bench-fixed ## Run all benchmarks.

bench-contest: setup-dev ## Benchmark a day that arrives in files, from file to published. [BENCH="--calls 100000"]
	$(RUN)/python -m bench.contest $(BENCH)

bench-day: setup-dev ## Benchmark a day of calls, from raw to published. [BENCH="--calls 1000000"]
	$(RUN)/python -m bench $(BENCH)

bench-arrival: setup-dev ## Benchmark a file into pd.api_calls, and the search for known ids. [BENCH="--calls 1000000"]
	$(RUN)/python -m bench.arrival $(BENCH)

bench-hours: setup-dev ## Benchmark a day that arrives hour by hour, and the plan of a year. [BENCH="--calls 1000000"]
	$(RUN)/python -m bench.hours $(BENCH)

bench-map: setup-dev ## Benchmark typing by the demo's map and by a GraphQL shop's. [BENCH="--calls 100000"]
	$(RUN)/python -m bench.endpoint_map $(BENCH)

bench-snapshots: setup-dev ## Benchmark a snapshot of a table in MariaDB. [BENCH="--rows 5000000"]
	$(RUN)/python -m bench.snapshots $(BENCH)

bench-collector: setup-dev ## Benchmark the HTTP collector. [BENCH="--seconds 5"]
	$(RUN)/python -m bench.collector $(BENCH)

bench-middleware: setup-dev ## Benchmark what the middleware adds to a request. [BENCH="--rounds 25"]
	$(RUN)/python -m bench.middleware $(BENCH)

bench-enrichment: setup-dev ## Benchmark devices, bots and channels, and measure accuracy. [BENCH="--calls 1000000"]
	$(RUN)/python -m bench.enrichment $(BENCH)

bench-dashboards: setup-dev ## Benchmark every card on a year of data; needs 6 GB in /tmp. [BENCH="--days 60"]
	$(RUN)/python -m bench.dashboards $(BENCH)

bench-fixed: setup-dev ## Benchmark what commands cost when there is nothing to do. [BENCH="--rounds 5"]
	$(RUN)/python -m bench.fixed_costs $(BENCH)

lint: setup-dev ## Check formatting, style, types and layers.
	$(RUN)/ruff format --check .
	$(RUN)/ruff check .
	$(RUN)/mypy
	$(RUN)/lint-imports

format: setup-dev ## Format the code.
	$(RUN)/ruff format .
	$(RUN)/ruff check --fix-only .

lock: setup ## Update the pinned dependencies.
	$(RUN)/python -m pip install --quiet uv
	$(RUN)/uv pip compile --quiet --universal --generate-hashes --no-header --no-annotate --no-emit-index-url \
		--python-version 3.11 --upgrade pyproject.toml --group build -o requirements.lock
	$(RUN)/uv pip compile --quiet --universal --generate-hashes --no-header --no-annotate --no-emit-index-url \
		--python-version 3.11 --upgrade -c requirements.lock pyproject.toml --extra dev --group build -o requirements-dev.lock

# ECharts, bundled from npm with its licences: the only third-party part of the dashboards' page.
CHARTS := app/dashboards/page/echarts
CHARTS_NOTICE := /*! Apache ECharts 6.1.0, Copyright 2017-2026 The Apache Software Foundation, Apache License 2.0 \
(www.apache.org/licenses/LICENSE-2.0); zrender 6.1.0, Copyright (c) 2017 Baidu Inc., BSD-3-Clause; tslib 2.3.0, \
Copyright (c) Microsoft Corporation, 0BSD; parts of d3, Copyright 2010-2016 Mike Bostock, BSD-3-Clause. */
charts: ## Bundle the page's chart library again; needs npm.
	mkdir -p build/charts && cp $(CHARTS)/entry.js build/charts/ && echo '{"private": true}' > build/charts/package.json
	cd build/charts && npm install --silent --no-package-lock --no-audit --no-fund echarts@6.1.0 esbuild@0.28.2
	cd build/charts && node_modules/.bin/esbuild entry.js --bundle --minify --format=iife --global-name=echarts \
		--target=es2020 --charset=utf8 --legal-comments=none --log-level=warning --outfile=echarts.min.js \
		--banner:js="$(CHARTS_NOTICE)"
	cp build/charts/echarts.min.js $(CHARTS)/
	cp build/charts/node_modules/echarts/LICENSE build/charts/node_modules/echarts/NOTICE $(CHARTS)/
	cp build/charts/node_modules/echarts/licenses/LICENSE-d3 $(CHARTS)/
	cp build/charts/node_modules/zrender/LICENSE $(CHARTS)/LICENSE-zrender
	cp build/charts/node_modules/tslib/LICENSE.txt $(CHARTS)/LICENSE-tslib

install-systemd: ## Install Carat as systemd services; needs root. [DESTDIR= PYTHON=]
	DESTDIR="$(DESTDIR)" PYTHON="$(PYTHON)" deploy/systemd/install.sh

uninstall-systemd: ## Remove the systemd services; keeps settings and data.
	DESTDIR="$(DESTDIR)" deploy/systemd/install.sh --uninstall

clean: ## Remove .venv/ and the demo's files.
	rm -rf $(VENV) var/demo

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Carat needs Python 3.11 or later: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.runtime: requirements.lock pyproject.toml | $(VENV)/bin/python
	$(RUN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(RUN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.dev: requirements-dev.lock $(VENV)/.runtime
	$(RUN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	@touch $@
