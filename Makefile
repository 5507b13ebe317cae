# Two commands do everything on a fresh machine: `make demo` and `make test`.
VENV := .venv
PYTHON := $(VENV)/bin/python
RUN := PATH="$(CURDIR)/$(VENV)/bin:$$PATH" OMP_NUM_THREADS=1

# Trainings of several processes, launchers and Slurm have the machine for themselves; the rest runs on two cores at once.
SIDE_BY_SIDE := tests/unit tests/counting tests/faults tests/integration
ONE_BY_ONE := tests/cluster tests/distributed tests/gpu

# DeepSpeed's launcher warns of a machine without GPUs unless it is told that the CPU is meant.
WITHOUT_GPU := $(if $(wildcard /dev/nvidiactl /dev/dxg /dev/kfd),,DS_ACCELERATOR=cpu)

.PHONY: help install demo test test-long test-gpu docs lint format clean

help:  ## show this
	@sed -nE 's/^([a-z-]+):[^#]*## (.*)/  make \1|\2/p' $(MAKEFILE_LIST) | column -t -s '|'

install: $(VENV)/installed  ## everything into .venv

# Asks for pip: where Debian's python3-venv is missing, the first attempt leaves a .venv without it behind.
# Stamped by the files that say what to install, so that a changed requirement is picked up.
$(VENV)/installed: requirements.txt setup.py pyproject.toml
	@$(PYTHON) -m pip --version > /dev/null 2>&1 || python3 -m venv $(VENV)
	$(PYTHON) -m pip install --quiet --upgrade pip
	$(PYTHON) -m pip install --quiet --editable ".[dev]"
	touch $@

demo: install  ## make a data set, train on it, evaluate, and show it all on one page
	test -f data/demo/val/manifest.json || $(RUN) python tools/make_shards.py demo data/demo
	$(RUN) $(WITHOUT_GPU) deepspeed --log_level critical --num_accelerators $$($(RUN) python -m sar_dist.devices 2) tools/train.py --config configs/demo.py
	$(RUN) python tools/transfer_eval.py --task knn --model runs/demo --data data/demo workers=2
	$(RUN) python tools/transfer_eval.py --task voc_attention --model runs/demo --data data/demo image_size=64 workers=2
	$(RUN) python tools/report.py runs/demo --out runs/demo/report
	@echo "pictures: runs/demo/figures, runs/demo/transfer/*/*.png; everything on one page: runs/demo/report/report.html"

test: lint  ## what continuous integration runs: under 25 minutes on 2 cores (21 when last measured)
	$(RUN) python -m pytest -n 2 --dist loadfile $(SIDE_BY_SIDE)
	$(RUN) python -m pytest $(ONE_BY_ONE)

test-long: install  ## every test, for hours
	$(RUN) python -m pytest -m "long or not long"

# Needs an NVIDIA GPU; everything else of the tests computes on the CPU, also where there are GPUs.
test-gpu: install  ## what needs an NVIDIA GPU
	$(RUN) python -m pytest -m gpu

docs: install  ## the documentation as a site, in site/; a broken link fails
	$(RUN) NO_MKDOCS_2_WARNING=1 python -m mkdocs build
	@echo "open site/index.html; for the search too: python -m http.server --directory site"

lint: install  ## ruff and mypy
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	$(RUN) mypy

format: install  ## let ruff mend and format
	$(RUN) ruff check --fix .
	$(RUN) ruff format .

clean:  ## remove .venv and caches
	rm -rf $(VENV) build *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
