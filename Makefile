# SPDX-License-Identifier: GPL-2.0-only
VENV := .venv
BIN := $(VENV)/bin
SAMPLE := traces/samples/ztree-6.1-1cpu.parquet

# The posted mail of ztree, for the tests that load it into a kernel; without it they are skipped.
PATCH ?=

.PHONY: help demo test lint docs samples clean

help: ## Show this
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/'

demo: $(VENV)/.installed ## Replay a bundled recording of a real kernel through the ztree model
	@echo "demo: ztree's recorded calls, replayed through the model of it" >&2
	$(BIN)/ztrace replay $(SAMPLE) --backend ztree

test: lint ## Pass all tests (in-kernel ones as root on Debian; PATCH=mail for ztree's)
	@echo "test: what the in-kernel tests need, from Debian, if this is Debian and root" >&2
	tools/kernel-packages
	@echo "test: all tests; about 10 minutes, 20 with kernels booted in QEMU" >&2
	$(BIN)/pytest tests $(if $(PATCH),--patch=$(PATCH))

lint: $(VENV)/.developed ## Check style and types
	@echo "lint: ruff, mypy" >&2
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

docs: $(VENV)/.developed ## Build the documentation as a site, build/site/index.html
	@echo "docs: build/site/index.html" >&2
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

samples: $(VENV)/.developed ## Record the bundled samples anew (needs PATCH)
	tools/record-samples $(PATCH)

CORE := setup.py $(wildcard allocator/*/*.[ch] replay/native/*.[ch])

$(VENV)/.installed: pyproject.toml $(CORE)
	tools/venv $(VENV)
	@touch $@

$(VENV)/.developed: pyproject.toml $(CORE)
	tools/venv $(VENV) dev
	@touch $@ $(VENV)/.installed

clean: ## Remove the environment and caches
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
