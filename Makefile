# make chat   talk to an aligned model          make test   everything, real models included
# make demo   one prompt, one answer            make check  lint, format, types, fast tests
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python3.14; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15))' 2>/dev/null && echo $$p && break; done)
ACCEL ?= auto
VENV := .venv
SOAK_MODEL = $(CURDIR)/models/SmolLM2-135M-Instruct.Q4_1.gguf
BIN := $(VENV)/bin
INSTALL = "$(PYTHON)" scripts/install.py --accel $(ACCEL)

.PHONY: chat demo test check bench fuzz soak install dev format clean
.DEFAULT_GOAL := help

help:
	@sed -n '1,2p' Makefile | cut -c3-; echo 'make bench  speed, each figure against what it is divided by'; \
		echo 'make fuzz   10,000 spoilt files of each kind (GGUF 5,000, ONNX 1,000)'; \
		echo 'make soak   faults and long chats, hours of them'

install: python
	@$(INSTALL)

dev: python
	@$(INSTALL) --extras dev,train,report

python:
	@test -n "$(PYTHON)" || { echo 'No Python 3.11 to 3.14 found: install one, or give PYTHON=/path/to/python3' >&2; exit 1; }
.PHONY: python help

chat: install
	@$(BIN)/stars-local models pull --quiet
	@$(BIN)/stars-local chat

demo: install
	@$(BIN)/stars-local models pull --quiet
	@$(BIN)/stars-local generate --seed 0 "How do I stay calm before a difficult conversation?"

check: dev
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/mypy
	@$(BIN)/python -m pytest -m "not model and not slow" -n 2 --ignore tests/faults --ignore tests/fuzz

test: dev
	@$(BIN)/stars-local models pull --quiet
	@$(BIN)/python -m pytest

fuzz: dev
	@STARS_LOCAL_FUZZ_CASES=10000 $(BIN)/python -m pytest tests/fuzz

soak: dev
	@$(BIN)/stars-local models pull --quiet
	@STARS_LOCAL_KILLS=50 $(BIN)/python -m pytest tests/faults/test_*kills.py
	@STARS_LOCAL_SOAK_TURNS=500 $(BIN)/python -m pytest tests/faults/test_soak.py
	@STARS_LOCAL_SOAK_TURNS=500 STARS_LOCAL_SOAK_MODEL=$(SOAK_MODEL) \
		$(BIN)/python -m pytest tests/faults/test_soak.py

bench: install
	@$(BIN)/stars-local models pull --quiet
	@$(BIN)/stars-local bench

format: dev
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
