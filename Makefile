# Every target makes what it needs: a fresh clone needs only `make train` or `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PYTEST := $(BIN)/python -m pytest
# Tests of different files run in parallel. Those that start Ray or pods wait for much of their time, but each uses several
# processes, so that more than two at once would starve each other. Where one of the processes of pytest dies, the run ends:
# pytest-xdist may wait for the replaced one without end.
PARALLEL := -n logical --dist loadfile --max-worker-restart 0
PARALLEL_SLOW := -n 2 --dist loadfile --max-worker-restart 0
ifdef COVERAGE
PYTEST := PYTHONPATH=tests/site $(BIN)/coverage run -m pytest
PARALLEL :=
PARALLEL_SLOW :=
endif
STAMP := $(VENV)/.installed

BROWSERS := chromium chromium-browser google-chrome google-chrome-stable chrome

.PHONY: browser sshd env train tune check test slow campaign coverage lint format docs bench lock clean

env: $(STAMP)

$(STAMP): pyproject.toml requirements.lock
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v <= (3, 13) else f"rainbow_ray needs Python 3.11 to 3.13, and $(PYTHON) is {v[0]}.{v[1]}: make PYTHON=python3.12 env")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c requirements.lock torch -e '.[dev]'
	@touch $@

train: env
	$(BIN)/python -m rainbow_ray.train --phase 1

tune: env
	$(BIN)/python -m rainbow_ray.tune --phase 1 --trials 30

check: env
	$(BIN)/python -m rainbow_ray.check --phase 1

test: env
	$(PYTEST) $(PARALLEL)

slow: env
	$(PYTEST) $(PARALLEL_SLOW) -m "slow and not long" --durations=15

# Install a browser for the tests of HTML pages, which are skipped without one.
browser:
	@for name in $(BROWSERS); do command -v $$name && exit 0; done; \
	if command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ]; then apt-get update -qq && apt-get install -y -qq chromium; \
	else echo "install Chromium or Chrome (Debian, Ubuntu: sudo apt-get install chromium)"; exit 1; fi

# Install sshd, rsync and shellcheck for the tests of clusters, which are skipped without them.
sshd:
	@missing=; for tool in sshd rsync shellcheck; do PATH="$$PATH:/usr/sbin" command -v $$tool || missing=1; done; \
	[ -z "$$missing" ] && exit 0; \
	if command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ]; then \
	  apt-get update -qq && apt-get install -y -qq openssh-server rsync shellcheck; \
	else echo "install sshd, rsync, shellcheck (Debian, Ubuntu: sudo apt-get install openssh-server rsync shellcheck)"; exit 1; fi

# Kills and faults in full, and the tests that take minutes; `slow` runs a few seeds and the shorter ones.
campaign: env
	$(PYTEST) -m "slow and long"
	$(PYTEST) -m "slow and not long" tests/fault_injection tests/cluster/test_faults.py --kills 10

# All tests, with what Ray's workers run; at least 90% of the package.
coverage: env
	$(BIN)/coverage erase
	$(MAKE) COVERAGE=1 test slow campaign
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

lint: env
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/mypy

format: env
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: env
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

bench: env
	$(BIN)/python -m tests.benchmarks

# Written from an environment that `make env` made and the slow tests passed in.
lock: env
	{ echo "# Exact versions that the tests pass with; \`make env\` installs them. torch is pinned without a local"; \
	  echo "# version, so that a machine with a GPU gets the CUDA build of the same release."; \
	  $(BIN)/python -m pip freeze --exclude-editable | sed 's/+cpu$$//'; } > requirements.lock.new
	mv requirements.lock.new requirements.lock

clean:
	rm -rf $(VENV) build site *.egg-info
