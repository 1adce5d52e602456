# Two commands do everything: `make demo` and `make test`. Each sets up what it needs on a bare machine with
# python3 and make; once set up they work without a network.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UV := UV_PYTHON_DOWNLOADS=never $(BIN)/uv
STAMP := $(VENV)/.installed

.PHONY: demo test check serve setup extras lock clean

demo: $(STAMP) ## restore two dozen pictures made on the spot
	$(BIN)/mpsr demo

test: $(STAMP) ## the tests, without those marked slow, gpu or weights; two files at once, since they wait a lot
	$(BIN)/python -m pytest -n 2 --dist loadfile

check: $(STAMP) ## lint, format, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

serve: $(STAMP) ## Prefect's server, the deployments and a worker on this machine
	$(BIN)/mpsr serve

setup: $(STAMP)

extras: $(STAMP) ## optional packages: make extras EXTRAS=iqa,gfpgan
	$(UV) pip install --python $(BIN)/python -e '.[$(EXTRAS)]'

$(STAMP): requirements.lock pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet --disable-pip-version-check uv==0.13.8
	$(UV) pip install --quiet --python $(BIN)/python --require-hashes -r requirements.lock
	$(UV) pip install --quiet --python $(BIN)/python --no-deps -e .
	touch $(STAMP)

lock: $(BIN)/uv ## resolve again; versions and hashes only, no hosts
	$(UV) pip compile pyproject.toml --extra dev --universal --generate-hashes --no-emit-index-url --no-header \
		--upgrade -o requirements.lock

$(BIN)/uv:
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==0.13.8

clean: ## what the demo made; not the virtual environment
	rm -rf data_manifests/demo build
