# Every target makes .venv first (once) and needs no activation.
#   PYTHON=python3.12   the interpreter for .venv     EXTRAS=torch,plan   extras of setup.py
#   ARGS="..."          more words for the command below it

.PHONY: help setup test test-slow test-tpu demo demo-full lint format types lock
.DEFAULT_GOAL := help

PYTHON ?=
EXTRAS ?=
ARGS ?=
RUN := .venv/bin/python -m

help:
	@echo "make demo       the whole loop, small, in minutes (out/demo)"
	@echo "make demo-full  the same, longer, to good scores (out/demo-full)"
	@echo "make test       the tests;  make test-slow  the long ones;  make test-tpu  with TPU's compiler"
	@echo "make setup      only make .venv;  make lint  checks;  make format  fixes"

setup:
	@PYTHON="$(PYTHON)" EXTRAS="$(EXTRAS)" tools/setup/setup.sh

test: setup
	@$(RUN) pytest -n 2 -m "not slow and not tpu" $(ARGS)

test-slow: setup
	@$(RUN) pytest -m "slow and not tpu" --timeout 3600 $(ARGS)

# They need TPU's compiler, which the extra brings (libtpu, 0.7 GB), and no TPU. The environment keeps
# it afterwards. Further extras: make test-tpu EXTRAS=torch,plan
test-tpu: EXTRAS = plan
test-tpu: setup
	@$(RUN) pytest -m tpu --timeout 3600 $(ARGS)

demo: setup
	@.venv/bin/poet demo --out out/demo $(ARGS)

demo-full: setup
	@.venv/bin/poet demo --full --out out/demo-full $(ARGS)

lint: setup
	@$(RUN) ruff check .
	@$(RUN) ruff format --check .

format: setup
	@$(RUN) ruff check --fix .
	@$(RUN) ruff format .

types: setup
	@$(RUN) pyright poet tasks $(ARGS)

lock:
	@tools/setup/lock.sh
