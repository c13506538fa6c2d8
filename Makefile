# Each target brings what it needs. The first one makes a virtual environment in the checkout; later ones find it.
# Another one can be used with VENV=path, another interpreter to make it with PY=python3.12.

VENV ?= .venv
PY ?= python3
OUT ?= retroclip-demo
DATA ?= ../shared/data

# Named after the content of pyproject.toml: installed anew when that changes, and only then.
STAMP := $(VENV)/.installed-$(shell cksum < pyproject.toml | tr ' ' '-')
# The checkout's own source comes first, also when the environment was made by another checkout.
RUN := PYTHONPATH=src $(VENV)/bin/python

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint bench bench-memory results clean

help:
	@echo "make setup | demo | test | lint | bench | bench-memory | results | clean"

setup: $(STAMP)

$(STAMP): pyproject.toml
	@$(PY) -c 'import sys; sys.exit("retroclip needs Python 3.11 or newer: make PY=python3.12 ..." if sys.version_info < (3, 11) else 0)'
	@$(VENV)/bin/python -m pip --version >/dev/null 2>&1 || $(PY) -m venv --clear $(VENV)
	@echo "setting up $(VENV), once: some minutes and up to 7 GB, most of it PyTorch for GPUs; pip says nothing meanwhile"
	$(VENV)/bin/python -m pip install --quiet torch torchvision
	$(VENV)/bin/python -m pip install --quiet --editable '.[dev]'
	@rm -f $(VENV)/.installed-*
	@touch $@

demo: setup
	@$(RUN) -m retroclip demo --out $(OUT)

test: setup
	@$(RUN) -m pytest

lint: setup
	@$(RUN) -m ruff check .
	@$(RUN) -m ruff format --check .
	@$(RUN) -m mypy

bench: setup
	@set -e; for script in benchmarks/bench_*.py; do echo "== $$script"; $(RUN) $$script; done

bench-memory: setup
	@set -e; for name in import embed index; do script=benchmarks/bench_$$name.py; test ! -f $$script || { echo "== $$script"; $(RUN) $$script; }; done

results: setup
	@$(RUN) recipes/systems.py $(DATA)
	@$(RUN) recipes/ablations.py $(DATA)
	@$(RUN) recipes/dense_results.py $(DATA)
	@$(RUN) recipes/icar.py $(DATA)
	@$(RUN) recipes/ra_clip.py $(DATA)
	@set -e; if test -d runs/small-clip/model; then mkdir -p docs/results/small-clip; for task in cifar10 caltech101; do \
		$(RUN) -m retroclip evaluate runs/small-clip/model $$task "$(DATA)/$$task.parquet#val" --json > runs/small-clip/$$task.json; \
		mv runs/small-clip/$$task.json docs/results/small-clip/; done; \
		else echo "small-clip is left as it is: runs/small-clip/model is made by \`retroclip train recipes/small-clip.yaml\`"; fi
	@$(RUN) recipes/page.py

clean:
	rm -rf $(VENV) $(OUT) build dist .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find . -name __pycache__ -not -path './.git/*' -prune -exec rm -rf {} +
