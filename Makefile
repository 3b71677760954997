# Everything Carat does from a checkout, on a machine that has Python 3.11+, pip and make.

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin
CARAT := $(RUN)/carat

# Arguments of `make etl`: DATE=2026-03-01, or FROM= and TO=; JOBS=sessions,events
ETL_ARGUMENTS = $(if $(DATE),--date $(DATE)) $(if $(FROM),--from $(FROM)) $(if $(TO),--to $(TO)) $(if $(JOBS),--jobs $(JOBS))
DEMO_ARGUMENTS = $(if $(CALLS),--calls $(CALLS)) $(if $(SEED),--seed $(SEED))

.DEFAULT_GOAL := help
.PHONY: help setup setup-dev demo test test-fast test-long etl plan hourly serve dashboards preview charts bench bench-day \
	bench-hours bench-snapshots bench-collector bench-middleware bench-enrichment bench-dashboards lint format lock \
	install-systemd uninstall-systemd clean

help: ## Show what there is to make.
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/.runtime ## Install Carat into .venv/.

setup-dev: $(VENV)/.dev ## Install what tests, lint and the benchmark need, too.

demo: setup ## A month of a believable shop, from nothing to its numbers. [CALLS=300000 SEED=7]
	$(CARAT) demo $(DEMO_ARGUMENTS)

preview: setup ## The dashboards as one page that needs no network. [OUT=var/dashboards.html]
	$(CARAT) dashboards preview $(if $(OUT),--out $(OUT))

PYTEST := $(RUN)/python -m pytest -q -n auto --dist worksteal

test: setup-dev ## Run the tests; less than ten minutes on two cores.
	$(PYTEST) -m "not long"

test-fast: setup-dev ## Run the quick tests; less than a minute.
	$(PYTEST) -m "not slow and not long"

test-long: setup-dev ## Run the soaks, and the property tests with many more examples.
	CARAT_TEST_LONG=1 $(PYTEST) -m "long or slow"

etl: setup ## Build what is stale. [DATE=2026-03-01 | FROM= TO=] [JOBS=a,b]
	$(CARAT) etl $(ETL_ARGUMENTS)

plan: setup ## Show what is stale, and why.
	$(CARAT) plan

hourly: setup ## What the timer runs: load the spool, snapshot, build what is stale, audit.
	$(CARAT) hourly

serve: setup ## Collector, loader, hourly schedule and dashboards on this machine. [PORT=8787]
	$(CARAT) serve $(if $(PORT),--port $(PORT))

dashboards: setup ## Check the dashboards' files, and run every card on the warehouse.
	$(CARAT) dashboards validate

bench: bench-day bench-hours bench-snapshots bench-collector bench-middleware bench-enrichment bench-dashboards ## All benchmarks.

bench-day: setup-dev ## A day of calls, from raw to published. [BENCH="--calls 1000000"]
	$(RUN)/python -m bench $(BENCH)

bench-hours: setup-dev ## A day that comes in hour by hour, and the plan of a year. [BENCH="--calls 1000000"]
	$(RUN)/python -m bench.hours $(BENCH)

bench-snapshots: setup-dev ## A table of the shop, from MariaDB to its history. [BENCH="--rows 5000000"]
	$(RUN)/python -m bench.snapshots $(BENCH)

bench-collector: setup-dev ## Calls taken in over HTTP, beside no disk and beside Starlette. [BENCH="--seconds 5"]
	$(RUN)/python -m bench.collector $(BENCH)

bench-middleware: setup-dev ## What the middleware adds to a shop's request. [BENCH="--rounds 25"]
	$(RUN)/python -m bench.middleware $(BENCH)

bench-enrichment: setup-dev ## What devices, bots and channels cost, and how right they are. [BENCH="--calls 1000000"]
	$(RUN)/python -m bench.enrichment $(BENCH)

bench-dashboards: setup-dev ## Every card on a year of 100 000 sessions a day; 6 GB below /tmp. [BENCH="--days 60"]
	$(RUN)/python -m bench.dashboards $(BENCH)

lint: setup-dev ## Check format, style, types and which package imports which.
	$(RUN)/ruff format --check .
	$(RUN)/ruff check .
	$(RUN)/mypy
	$(RUN)/lint-imports

format: setup-dev ## Put the code into its format.
	$(RUN)/ruff format .
	$(RUN)/ruff check --fix-only .

lock: setup ## Pin the dependencies anew, with hashes and without naming a host.
	$(RUN)/python -m pip install --quiet uv
	$(RUN)/uv pip compile --quiet --universal --generate-hashes --no-header --no-annotate --no-emit-index-url \
		--python-version 3.11 --upgrade pyproject.toml --group build -o requirements.lock
	$(RUN)/uv pip compile --quiet --universal --generate-hashes --no-header --no-annotate --no-emit-index-url \
		--python-version 3.11 --upgrade -c requirements.lock pyproject.toml --extra dev --group build -o requirements-dev.lock

# The one part of the page that is not written here: ECharts, bundled from npm, with its licences.
CHARTS := app/dashboards/page/echarts
CHARTS_NOTICE := /*! Apache ECharts 6.1.0, Copyright 2017-2026 The Apache Software Foundation, Apache License 2.0 \
(www.apache.org/licenses/LICENSE-2.0); zrender 6.1.0, Copyright (c) 2017 Baidu Inc., BSD-3-Clause; tslib 2.3.0, \
Copyright (c) Microsoft Corporation, 0BSD; parts of d3, Copyright 2010-2016 Mike Bostock, BSD-3-Clause. */
charts: ## Bundle the page's chart library anew; needs npm.
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

install-systemd: ## Make services of Carat on this machine; needs root. [DESTDIR= PYTHON=]
	DESTDIR="$(DESTDIR)" PYTHON="$(PYTHON)" deploy/systemd/install.sh

uninstall-systemd: ## Stop doing so; settings and data are kept.
	DESTDIR="$(DESTDIR)" deploy/systemd/install.sh --uninstall

clean: ## Remove the virtual environment and the demo's files.
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
