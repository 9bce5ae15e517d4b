# `make demo` and `make test` need nothing but Python 3.11+ and make: each sets itself up in .venv.
# Windows: see README.md, which does the same with pip alone.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
SETUP := pyproject.toml constraints.txt

# What only an installation without extras can prove: every module is imported, models are found and run, formats without their
# package say so, processes are begun, and the commands work from end to end. `make test` runs all the rest in its own
# environment, and the CI of the project runs all of kernels and runtime on base installations of three systems.
BASE_TESTS := $(addprefix tests/runtime/,test_base.py test_cli.py test_models.py test_scan.py test_session.py \
	engine/test_workers.py readers/test_real_files.py readers/test_registry.py results/test_save.py) \
	tests/kernels/test_warm.py tests/test_exported_models.py

.PHONY: demo test torture check bench base wheelhouse clean

## the whole job on three real STM images; open demo-out/index.html
demo: $(VENV)/.demo
	$(BIN)/spm-infer demo --out demo-out

## every test, on up to four cores; those on real scans skip where the folder of scans is absent
test: $(VENV)/.dev
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile

## the watch killed 50 times while 500 scans come in and the disk fills; minutes. ADATOM_TORTURE_SEED=N repeats the scans of a run
torture: $(VENV)/.dev
	ADATOM_TORTURE_SCANS=500 ADATOM_TORTURE_KILLS=50 $(BIN)/python -m pytest tests/torture

## linters, types, layers
check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

## ratios measured side by side, written to bench/results.json
bench: $(VENV)/.dev
	$(BIN)/python -m bench.run

## a few tests on the base install alone, as an acquisition PC has it: no torch, no scikit-learn, no lightning
base: .venv-base/.base
	.venv-base/bin/python -m pip --disable-pip-version-check install --quiet --no-deps --force-reinstall .
	.venv-base/bin/python -c "import importlib.util as u; found = [m for m in ('torch', 'sklearn', 'lightning') if u.find_spec(m)]; assert not found, found"
	.venv-base/bin/python -m pytest $(BASE_TESTS)

## wheels for a PC without network: copy the folder, then pip install --no-index --find-links wheelhouse "adatom[demo,formats]"
wheelhouse: $(VENV)/.demo
	$(PIP) wheel --quiet -c constraints.txt --wheel-dir wheelhouse ".[demo,formats]"

clean:
	rm -rf .venv .venv-base build dist wheelhouse demo-out .mypy_cache .ruff_cache .pytest_cache .import_linter_cache

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: $(SETUP) | $(BIN)/python
	$(PIP) install --quiet -c constraints.txt -e ".[demo]"
	touch $@

$(VENV)/.dev: $(SETUP) | $(BIN)/python
	$(PIP) install --quiet -c constraints.txt -e ".[dev]"
	touch $@ $(VENV)/.demo

.venv-base/.base: $(SETUP)
	$(PYTHON) -m venv .venv-base
	.venv-base/bin/python -m pip --disable-pip-version-check install --quiet -c constraints.txt . pytest hypothesis
	touch $@
