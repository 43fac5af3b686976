# `make quickstart` and `make test` do all the set-up themselves, once, in an environment of their own.

VENV = .venv
PYTHON = $(VENV)/bin/python
# Where that environment is active, its python3 would come first, which has no pip to install with.
export PATH := $(subst $(abspath $(VENV))/bin:,,$(PATH))

BENCHMARKS = training checkpoints start scale memory
RESULTS = experiments/results/benchmarks

# Two files of tests at a time: much of a test is waiting for a process to start or to end.
TOGETHER = --numprocesses 2 --dist loadfile --no-loadscope-reorder

.PHONY: quickstart test bench
.DELETE_ON_ERROR:

quickstart: $(VENV)/installed
	$(PYTHON) -m tune_resnet.search --experiment experiments/quickstart.toml --confirm

test: $(VENV)/installed
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m ruff check .
	$(PYTHON) -m mypy
	$(VENV)/bin/lint-imports
	OMP_NUM_THREADS=1 $(PYTHON) -m pytest $(TOGETHER)  # several processes share the cores

# Nothing else should run meanwhile.
bench: $(VENV)/installed
	for name in $(BENCHMARKS); do $(PYTHON) -m experiments.benchmarks.speed.$$name --out $(RESULTS) || exit 1; done
	$(PYTHON) -m experiments.benchmarks.speed.between_trials --full --out $(RESULTS)
	$(PYTHON) -m experiments.benchmarks.speed.goals $(RESULTS)

# --without-pip and --python: some systems' python3 has pip, but not the copy of it that venv would put there.
$(VENV)/installed: pyproject.toml constraints.txt
	@echo "Installing PyTorch, Ray, Optuna and the rest into $(VENV): once, a few minutes, about 6 GB."
	python3 -m venv --without-pip $(VENV)
	python3 -m pip --python $(PYTHON) install --constraint constraints.txt --editable '.[test]'
	@touch $@
