# Two commands do everything on a fresh machine: `make demo` and `make test`.
VENV := .venv
PYTHON := $(VENV)/bin/python
RUN := PATH="$(CURDIR)/$(VENV)/bin:$$PATH" OMP_NUM_THREADS=1

.PHONY: install demo test test-long test-gpu lint format clean

install: $(VENV)/installed

# Stamped by the files that say what to install, so that a changed requirement is picked up.
$(VENV)/installed: requirements.txt setup.py
	test -x $(PYTHON) || python3 -m venv $(VENV)
	$(PYTHON) -m pip install --quiet --upgrade pip
	$(PYTHON) -m pip install --quiet --editable ".[dev]"
	touch $@

demo: install
	test -f data/demo/val/manifest.json || $(RUN) python tools/make_shards.py demo data/demo
	$(RUN) deepspeed --num_accelerators $$($(RUN) python -m sar_dist.devices 2) tools/train.py --config configs/demo.py
	$(RUN) python tools/transfer_eval.py --task knn --model runs/demo --data data/demo workers=2
	$(RUN) python tools/transfer_eval.py --task voc_attention --model runs/demo --data data/demo image_size=64 workers=2
	$(RUN) python tools/report.py runs/demo --out runs/demo/report
	@echo "pictures: runs/demo/figures, runs/demo/transfer/*/*.png; everything on one page: runs/demo/report/report.html"

test: lint
	$(RUN) python -m pytest

test-long: install
	$(RUN) python -m pytest -m "long or not long"

# Needs an NVIDIA GPU; everything else of the tests computes on the CPU, also where there are GPUs.
test-gpu: install
	$(RUN) python -m pytest -m gpu

lint: install
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	$(RUN) mypy

format: install
	$(RUN) ruff check --fix .
	$(RUN) ruff format .

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
