# make quickstart   sets up, then certifies and attacks the shipped MNIST model offline
# make test         sets up, then lints, type-checks and runs the tests
#
# Needs Python 3.11 or newer with venv and pip. Another interpreter: make test PYTHON=python3.12

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.DELETE_ON_ERROR:
.PHONY: quickstart test lint clean

quickstart: $(VENV)/.ready-to-run
	$(BIN)/timm-lipschitz quickstart

test: lint
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 8 --dist worksteal

lint: $(VENV)/.ready-to-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

clean:
	rm -rf $(VENV) .cache .pytest_cache .ruff_cache .hypothesis build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# uv in the environment of its own resolves and installs torch and torchvision together, so that both come from one build,
# in a sixth of pip's time. The stamps are renewed when pyproject.toml changes.
$(BIN)/uv:
	$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 11) and f"Python {v[0]}.{v[1]} is too old: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet uv

$(VENV)/.ready-to-run: pyproject.toml | $(BIN)/uv
	$(BIN)/uv pip install --python $(BIN)/python --editable '.[attacks]'
	touch $@

$(VENV)/.ready-to-test: pyproject.toml | $(BIN)/uv
	$(BIN)/uv pip install --python $(BIN)/python --editable '.[attacks,benchmarks,onnx,sdp,test]'
	$(BIN)/python tests/timm_suite.py
	touch $@
