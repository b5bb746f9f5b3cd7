# make demo       set up .venv and run the main job, offline, on the CPU
# make test       the tests, with what they need
# make lab        JupyterLab on the notebooks
# make notebooks  build and execute the notebooks that are not fresh
# make bundle     pack kit, bases, notebooks and committed runs into dist/mbf-kit.zip, to upload or to open offline
# make colab-check  the notebooks and figures under Colab's own versions (constraints-colab.txt), in a .venv-colab
# make figures    re-make the tables and figures of figures/ from their runs
# make figures-check  settings, runs, tables and pictures once more in a copy of the tree (hours); says which differ, changes none
# make handout    the notebooks as one static page, dist/mbf-handout.html, for reading without a kernel or a network
# make lint       ruff and mypy, as make test runs them too
# make soak       faults at random moments, 100 of each kind, every crash point, and many examples for the fuzzers
# make audit      known vulnerabilities of the installed packages (asks pypi.org)
# make dist       wheel and source archive in dist/
# make clean      remove .venv and caches
# Another Python: make PY=python3.12 demo.   Options of the command: make demo ARGS="--help"

PY ?= python3
TESTS ?= tests
PIP = .venv/bin/python -m pip install -c constraints.txt

.DELETE_ON_ERROR:
.PHONY: demo test lab notebooks bundle colab-check figures figures-check handout lint soak audit dist clean

demo: .venv/demo.stamp
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 .venv/bin/mbf demo $(ARGS)

test: .venv/all.stamp
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 MBF_FAST=1 .venv/bin/python -m pytest -n 2 --dist loadgroup $(TESTS) $(ARGS)

lab: .venv/all.stamp
	.venv/bin/jupyter lab --notebook-dir=notebooks --LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate --LabApp.news_url=None $(ARGS)

notebooks: .venv/all.stamp
	.venv/bin/python notebooks/build.py $(ARGS)

bundle:
	$(PY) notebooks/bundle.py $(ARGS)

colab-check: .venv-colab/all.stamp
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 MBF_FAST=1 .venv-colab/bin/python -m pytest -n 2 -k "from_its_source or not notebooks" \
		tests/test_notebooks.py tests/test_lessons.py $(wildcard tests/test_plots*.py tests/test_widgets*.py) $(ARGS)

figures: .venv/all.stamp
	bash figures/make.sh

figures-check: .venv/all.stamp
	.venv/bin/python figures/check.py $(ARGS)

handout: .venv/all.stamp
	.venv/bin/python notebooks/handout.py $(ARGS)

lint: .venv/all.stamp
	.venv/bin/python -m ruff check .
	.venv/bin/python -m mypy

soak: .venv/all.stamp
	.venv/bin/python tests/soak.py $(ARGS)

audit: .venv-audit/audit.stamp .venv/all.stamp
	.venv/bin/python -m pip freeze --exclude-editable | sed "s/+.*//" > .venv-audit/requirements.txt
	.venv-audit/bin/pip-audit --strict --disable-pip --no-deps -r .venv-audit/requirements.txt $(ARGS)

dist: .venv-audit/audit.stamp
	.venv-audit/bin/python -m build --outdir dist .

clean:
	rm -rf .venv .venv-colab .venv-audit .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist *.egg-info
	find mbf_utils notebooks tests -name __pycache__ -type d -prune -exec rm -rf {} +
	find notebooks -name .ipynb_checkpoints -type d -prune -exec rm -rf {} +

.venv/pyvenv.cfg:
	@$(PY) -c 'import sys; sys.exit(None if (3, 10) <= sys.version_info[:2] <= (3, 13) else "Python 3.10 to 3.13 is needed, $(PY) is %d.%d: name another, as in make PY=python3.12 demo" % sys.version_info[:2])'
	$(PY) -m venv .venv

.venv/demo.stamp: pyproject.toml constraints.txt | .venv/pyvenv.cfg
	@echo "Installing into .venv: about 2 to 3 minutes and 1.8 GB."
	$(PIP) -e .
	@touch $@

.venv/all.stamp: pyproject.toml constraints.txt | .venv/pyvenv.cfg
	@echo "Installing into .venv: about 2 to 3 minutes and 2 GB."
	$(PIP) -e ".[notebooks,test]"
	@touch $@ .venv/demo.stamp

.venv-colab/all.stamp: pyproject.toml constraints-colab.txt
	$(PY) -m venv .venv-colab
	.venv-colab/bin/python -m pip install -c constraints-colab.txt -e . ipywidgets ipykernel nbclient nbconvert jupytext latex2mathml \
		pytest pytest-xdist hypothesis
	@touch $@

.venv-audit/audit.stamp:
	$(PY) -m venv .venv-audit
	.venv-audit/bin/python -m pip install pip-audit build
	@touch $@
