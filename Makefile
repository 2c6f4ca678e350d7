# Everything runs in a project-local .venv built from the pins of constraints.txt.
# `make demo` and `make test` set themselves up on a machine that has python3 (3.11 or later), make and a C compiler.

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
DEMO ?= demo
SEED ?= 0

.PHONY: demo test test-slow mutants lint docs bench clean

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[beam,dev,dicom-sr,docs,bm3d,effnet,search]'
	touch $@

# A second run trains and prepares nothing again: it evaluates what is there. `make demo SEED=1 DEMO=demo1` is another.
demo: $(READY)
	test -f $(DEMO)/data/dataset_info.json || $(BIN)/osteojax prep --source=phantom --out=$(DEMO)/data \
	    --config=configs/prep/prep_demo.py --config.seed=$(SEED) --config.phantom.seed=$(SEED)
	$(BIN)/osteojax train --config=configs/train/demo.py --workdir=$(DEMO)/run --config.data.dir=$(DEMO)/data --config.seed=$(SEED)
	$(BIN)/osteojax evaluate --workdir=$(DEMO)/run

test: $(READY)
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow"

test-slow: $(READY)
	$(BIN)/python -m pytest -m slow

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	git ls-files -z | xargs -0 $(BIN)/codespell
	git ls-files -z .ci/run '*.sh' '*.sbatch' | xargs -0 $(BIN)/shellcheck

# Puts faults in, one by one, and counts those that the tests notice. About half an hour.
mutants: $(READY)
	$(BIN)/python -m tests.mutants.run

# The pages of docs/ and the API from the docstrings, into .cache/site; any warning is an error.
docs: $(READY)
	$(BIN)/mkdocs build --strict

# Without --quick the first takes an hour and a half: the reference is slow. The last one compares with PyTorch and says what to do where that is not installed.
bench: $(READY)
	$(BIN)/python benchmarks/bm3d.py --quick
	$(BIN)/python benchmarks/scaling.py
	$(BIN)/python benchmarks/convolution.py
	-$(BIN)/python benchmarks/train_step.py

clean:
	rm -rf .venv demo
