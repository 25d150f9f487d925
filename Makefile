# Everything runs in .venv, which is made when it is missing or older than what it is made from.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
NOTEBOOKS := $(sort $(wildcard notebooks/[0-9]*.ipynb))

ROOT := $(if $(filter 0,$(shell id -u)),--allow-root)  # in a container, Jupyter asks for it

export HF_HUB_OFFLINE ?= 1
SHIPPED := GSCAM_FIGURES=$(CURDIR)/figures  # elsewhere figures are saved beside the shipped ones

.PHONY: figures book lessons lab app live test soak claims lowest lint bench reproduce clean

figures: $(READY)  ## run the notebooks on the bundled models; rewrites figures/
	$(SHIPPED) $(BIN)/jupyter nbconvert --Application.log_format='%(asctime)s %(message)s' \
	    --to notebook --execute --inplace --ExecutePreprocessor.record_timing=False \
	    --ExecutePreprocessor.store_widget_state=False $(NOTEBOOKS)
	$(BIN)/python notebooks/build.py class index

book: lessons  ## the executed notebooks as a static site in build/book, with the lessons beside it
	$(BIN)/python notebooks/build.py site build/book

lessons: $(READY)  ## three lessons of 45 minutes: plan, quiz, handout, slides, key, in build/lessons
	$(BIN)/python notebooks/build.py lessons build/lessons

lab: $(READY)  ## open the notebooks
	$(BIN)/jupyter lab $(ROOT) notebooks

app: $(READY)  ## serve the explorer to a classroom; APP='--ip 0.0.0.0 --model photo-lite' for more
	$(BIN)/python -m gscam_lib.explorer.app $(APP)

live: $(READY)  ## pages in which the models run in the browser, in build/live; open its index.html
	$(BIN)/python -m data.build.browser build/live

ALONE := tests/test_browser.py tests/test_live.py tests/test_lessons.py  # in a browser, or built once
test: lint  ## the whole test suite; COVER=--cov=gscam_lib measures its coverage, too
	$(BIN)/python -m pytest $(ALONE:%=--ignore=%) --numprocesses=auto --maxprocesses=4 \
	    --dist=worksteal $(COVER)
	$(BIN)/python -m pytest $(ALONE) --numprocesses=2 --dist=loadgroup $(COVER:%=% --cov-append)

soak: $(READY)  ## 1,000 random interactions in a browser: memory, errors
	GSCAM_SOAK=1000 $(BIN)/python -m pytest tests/test_browser.py -k 'soak and on'

claims: $(READY)  ## what the notebooks claim, and on which models it is true: figures/table_claims.md
	$(BIN)/python notebooks/run.py figures/table_claims.md

lowest:  ## the core tests with the lowest versions that pyproject.toml promises
	PYTHON=$(PYTHON) .ci/lowest

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(READY)  ## time the library against plain ways to do the same
	$(SHIPPED) $(BIN)/python tests/bench/bench.py
	$(BIN)/python notebooks/build.py index

reproduce: $(READY)  ## the paper's tables and figures; ARGS='--dry-run', '--bundled', '--shard 0/16'
	HF_HUB_OFFLINE=0 $(BIN)/python -m gscam_lib.cli reproduce --out build/reproduce $(ARGS)

clean:
	rm -rf .venv build *.egg-info .mypy_cache .pytest_cache .ruff_cache .import_linter_cache

$(READY): pyproject.toml .ci/constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; set PYTHON=…")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --no-compile --constraint .ci/constraints.txt \
	    $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) --editable '.[dev,dask,slurm]'
	$(BIN)/python -m compileall -qq -j 0 .venv/lib gscam_lib || true  # on all cores; pip uses one
	touch $(READY)
