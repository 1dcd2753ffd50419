# Every target makes its own .venv first. PYTHON picks the interpreter: make test PYTHON=python3.12
PYTHON ?= python3
BIN := .venv/bin

.PHONY: install demo test check docs dist bench gpu chaos calibrate clean

install: .venv/installed

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet torch torchvision
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

demo: install
	$(BIN)/aaebench demo --out demo

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

# Two processes of tests, of one thread each: most tests wait for processes that they have started.
test: check
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --no-loadscope-reorder

# site/index.html. A broken link or a warning fails, here and in the tests, which build them too.
docs: install
	$(BIN)/python docs/tools/floors.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

# dist/: the source distribution, and the wheel that is built from it.
dist: install
	$(BIN)/python -m build

bench: install
	$(BIN)/python -m pytest tests/benchmarks -s --override-ini=addopts=

# What only a GPU can show, on one.
gpu: install
	$(BIN)/python -m pytest tests/gpu -s --override-ini=addopts=

# kill -9 at random moments, KILLS times; CHAOS_SEED=<what was printed> repeats them.
KILLS ?= 60
chaos: install
	CHAOS_KILLS=$(KILLS) $(BIN)/python -m pytest tests/harness/training/test_chaos.py -s --override-ini=addopts=

# What the verdicts promise, simulated in full: writes docs/calibration.md and docs/calibration.png, within 15 minutes.
calibrate: install
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.calibration.run

clean:
	rm -rf .venv build dist *.egg-info demo site
