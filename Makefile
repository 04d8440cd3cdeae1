# make site   everything for the site: environment, catalogue check, pages, build/site
# make test   everything else: lint, types, layers, tests, the contract of every entry
PYTHON ?= python3
DEVICE ?= cpu
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input
export OMP_NUM_THREADS ?= 1
export NO_MKDOCS_2_WARNING := 1

.PHONY: help site serve pages test test-zoo test-zoo-all lint types layers unit smoke record notebooks bench zensical browser gpu-wheels clean
help:
	@echo "make site | serve | test | test-zoo | test-zoo-all | smoke DEVICE=cuda | record | notebooks | bench | browser | zensical | clean"

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "skipkb needs Python 3.11 or newer, found " + sys.version.split()[0])'
	$(PYTHON) -m venv .venv

# Two levels of one environment: what the site needs (no torch), and everything.
.venv/site.stamp: pyproject.toml constraints.txt | .venv/bin/python
	@echo "== Installing what the site needs (about half a minute)"
	$(PIP) install -q --progress-bar on -c constraints.txt -e ".[site]"
	@touch $@
.venv/dev.stamp: .venv/site.stamp
	@echo "== Installing everything, torch included (a few minutes, about 6 GB)"
	$(PIP) install --progress-bar on -c constraints.txt -e ".[dev]" | grep -v "already satisfied"
	@touch $@

pages: .venv/site.stamp
	@echo "== Checking the catalogue"
	$(BIN)/skipkb check
	@echo "== Writing the pages"
	$(BIN)/skipkb site

site: pages
	@echo "== Building the site"
	@SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct 2>/dev/null || echo 1767225600) $(BIN)/mkdocs build --strict --quiet
	@echo "Done: open build/site/index.html in a browser (file://$(CURDIR)/build/site/index.html), or run make serve"

zensical: pages .venv/dev.stamp
	SITE_DIR=build/site-zensical $(BIN)/zensical build --clean

serve: .venv/site.stamp
	$(BIN)/python -m skipkb.site.serve

test: lint types layers unit smoke
	@if $(BIN)/python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then \
		$(BIN)/skipkb smoke --device cuda; else echo "== No CUDA device here: the contract ran on the CPU only"; fi

lint: .venv/dev.stamp
	@echo "== Lint"
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
types: .venv/dev.stamp
	@echo "== Types"
	$(BIN)/mypy
layers: .venv/dev.stamp
	@echo "== Layers"
	$(BIN)/lint-imports
unit: .venv/dev.stamp
	@echo "== Tests"
	$(BIN)/pytest -n auto -m "not browser and not zoo and not zoo_all"
test-zoo: .venv/dev.stamp
	@echo "== Both captures on one variant of each timm family and all of torchvision"
	$(BIN)/pytest -n auto -m zoo tests/zoo
test-zoo-all: .venv/dev.stamp
	@echo "== Every model of timm"
	$(BIN)/pytest -n auto -m zoo_all tests/zoo/test_all.py
smoke: .venv/dev.stamp
	@echo "== The contract of every entry on $(DEVICE)"
	$(BIN)/skipkb smoke --device $(DEVICE)
record: .venv/dev.stamp
	$(BIN)/skipkb smoke --device $(DEVICE) --record
notebooks: .venv/dev.stamp
	@echo "== Notebooks"
	$(BIN)/skipkb notebooks
bench: .venv/dev.stamp
	@for file in benchmarks/models.py benchmarks/search.py benchmarks/trace.py; do $(BIN)/python $$file || exit 1; done
browser: site zensical
	@echo "== The pages in a real browser"
	$(BIN)/pytest -m browser

# What a machine with a GPU and without a network lacks, for its Python 3.12: see benchmarks/gpu.sh.
gpu-wheels: constraints-gpu.txt
	@mkdir -p .wheels-gpu
	@for name in $$(sed '1,/^# wheels/d' $<); do \
		$(PYTHON) -m pip download -q --disable-pip-version-check --no-deps --only-binary=:all: --python-version 3.12 --implementation cp \
			--platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 --platform manylinux_2_12_x86_64 \
			-d .wheels-gpu $$name || exit 1; done
	@ls .wheels-gpu

clean:
	rm -rf build
