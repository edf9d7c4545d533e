PYTHON ?= python3
BIN := .venv/bin
SHARDS := datasets/fashion-mnist-mini
ENCODER := runs/quickstart/encoder.safetensors

.PHONY: install quickstart test test-all lint clean

install: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

# Every step reuses what an earlier one left complete, so that a second run is quick.
quickstart: install
	$(BIN)/python -m data pack fashion-mnist-mini --out $(SHARDS)
	$(BIN)/python -m data verify $(SHARDS)
	$(BIN)/python -m pretrain configs/pretrain/quickstart.yaml name=quickstart --resume
	$(BIN)/python -m downstream curve configs/downstream/quickstart.yaml encoder=$(ENCODER)

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile

test-all: lint
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile -m 'slow or not slow'

clean:
	rm -rf .venv build *.egg-info .mypy_cache .ruff_cache .pytest_cache
