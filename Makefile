# make app     set up and open the app on port 8501
# make test    set up and run every test
# make test-quick  those that take a minute or two together: no browser, no killed process, no whole run
# make test-gguf  also build llama.cpp, and compare exported GGUF files with it
# make test-transformers4  also install transformers 4 by itself, and read exports with it
# make test-kills  kill whole commands at each of their file operations, one after the other (half an hour)
# make pictures  walk the road in a browser, and make the README's pictures of it
# make lint    check the code's form and types
# make lock    write the lock files anew: the newest releases that requirements*.txt allow
# make clean   remove the environment and caches; experiments in prune_log/ stay
#
# PYTHON, PORT and what the app itself takes can be given: make app PYTHON=python3.12 PORT=8502 APP_ARGS=--no-token

PYTHON ?= python3
PORT ?= 8501
APP_ARGS ?=
WORKERS ?= 2
PYTEST_ARGS ?=

VENV := .venv
# Everything runs as `python -m ...`: scripts of an environment break when its folder is moved or has a space in its name.
PY := $(VENV)/bin/python
APP_READY := $(VENV)/.requirements
TESTS_READY := $(VENV)/.requirements-dev
GGUF_READY := $(VENV)/.requirements-gguf
# Two versions of one library cannot share an environment.
VENV4 := .venv-transformers4
TRANSFORMERS4_READY := $(VENV4)/.requirements
# What installs: far quicker than pip, which takes over where this cannot be had or fails. INSTALLER= leaves all to pip.
INSTALLER ?= uv>=0.13.8,<0.14
RETRY := make $(or $(MAKECMDGOALS),app)

.PHONY: app test test-quick test-gguf test-transformers4 test-kills pictures lint lock clean check-port check-chromium
.DELETE_ON_ERROR:

app: $(APP_READY) check-port
	@echo "Starting the app on port $(PORT)."
	@"$(PY)" -m streamlit run app.py --server.port $(PORT) $(if $(APP_ARGS),-- $(APP_ARGS))

# One math thread per worker: more only fight over the cores. In the order of the folders: the browser's files are few and long,
# and one of them left to the end would keep one core waiting.
test: $(TESTS_READY) check-chromium
	OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false "$(PY)" -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder -rfEs $(PYTEST_ARGS)

# Without browsers, killed processes and whole runs.
test-quick: $(TESTS_READY)
	OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false "$(PY)" -m pytest -q -n $(WORKERS) --dist loadfile --quick $(PYTEST_ARGS)

test-gguf: $(GGUF_READY) $(TESTS_READY)
	OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false "$(PY)" -m pytest -v tests/export/test_llama_cpp.py $(PYTEST_ARGS)

test-transformers4: $(TRANSFORMERS4_READY) $(TESTS_READY)
	OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false "$(PY)" -m pytest -v tests/export/test_transformers4.py $(PYTEST_ARGS)

test-kills: $(TESTS_READY)
	KILLS=all OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false "$(PY)" -m pytest -v tests/test_kills.py $(PYTEST_ARGS)

pictures: $(TESTS_READY) check-chromium
	PICTURES=1 OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false "$(PY)" -m pytest tests/browser/test_road.py $(PYTEST_ARGS)
	"$(PY)" -m tests.browser.pictures

lint: $(TESTS_READY)
	"$(PY)" -m ruff check .
	"$(PY)" -m ruff format --check .
	"$(PY)" -m mypy

clean:
	rm -rf "$(VENV)" "$(VENV4)" .pytest_cache .mypy_cache .ruff_cache .hypothesis tests/browser/screenshots
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Left out of the locks: packages for GPUs. Which of them there are is said by the torch build, and each person chooses theirs.
GPU_PACKAGES := ^(cuda-|nvidia-|triton==)

# From the registry alone, so that no other place's build (2.13.0+cpu) gets into the lock; all Pythons share one release of each.
lock:
	@$(make_environment)
	@"$(PY)" -m pip install --quiet --disable-pip-version-check "$(INSTALLER)"
	@$(call write_lock,requirements-dev.txt requirements-gguf.txt,requirements.lock)
	@$(call write_lock,requirements-transformers4.txt,requirements-transformers4.lock)

define write_lock
"$(PY)" -m uv pip compile --quiet --universal --python-version 3.11 --fork-strategy fewest --annotation-style line \
	--custom-compile-command "make lock" --output-file "$(2).new" $(1) && \
grep -Ev '$(GPU_PACKAGES)' "$(2).new" >"$(2)" && rm -f "$(2).new"
endef

# Stamp files: what is installed is looked at again only when a requirements or lock file is newer than the last complete installation.
$(APP_READY): requirements.txt requirements.lock
	@$(make_environment)
	@echo "Installing requirements into $(VENV) - a minute or more the first time."
	@$(call install,$(VENV),-r requirements.txt -c requirements.lock)
	@touch "$@"

$(TESTS_READY): requirements-dev.txt $(APP_READY)
	@echo "Installing what the tests need into $(VENV)."
	@$(call install,$(VENV),--quiet -r requirements-dev.txt -c requirements.lock)
	@touch "$@"

$(GGUF_READY): requirements-gguf.txt $(APP_READY)
	@echo "Building llama.cpp, which takes about ten minutes and needs a C++ compiler."
	@$(call install,$(VENV),-r requirements-gguf.txt -c requirements.lock)
	@touch "$@"

$(TRANSFORMERS4_READY): requirements-transformers4.txt requirements-transformers4.lock $(APP_READY)
	@echo "Installing transformers 4 into $(VENV4)."
	@"$(PY)" -m venv --clear "$(VENV4)"
	@$(call install,$(VENV4),--quiet -r requirements-transformers4.txt -c requirements-transformers4.lock)
	@touch "$@"

# uv knows nothing of pip's settings, so it is told where those look for packages: a mirror, or the index of torch's CPU builds.
# `unsafe-best-match` is what pip does: the newest release that fits, whichever of the indexes has it.
define install
pip_setting() { "$(PY)" -m pip config list | sed -n "s/^[^=]*[.]$$1='\(.*\)'$$/\1/p" | sed 's/\\n/ /g' | tail -n 1; }; \
if [ -n "$(INSTALLER)" ] && "$(PY)" -m pip install --quiet --disable-pip-version-check --only-binary uv "$(INSTALLER)" && \
	UV_DEFAULT_INDEX="$${UV_DEFAULT_INDEX:-$$(pip_setting index-url)}" UV_INDEX="$${UV_INDEX:-$$(pip_setting extra-index-url)}" \
	UV_FIND_LINKS="$${UV_FIND_LINKS:-$$(pip_setting find-links | tr ' ' ',')}" \
	"$(PY)" -m uv pip install --python "$(1)/bin/python" --index-strategy unsafe-best-match $(2); then :; else \
	echo "Installing with pip."; \
	"$(1)/bin/python" -m pip install --disable-pip-version-check $(2); \
fi
endef

# An environment that is there and works is kept; one left half-made, or whose Python is gone, is made anew.
define make_environment
if ! "$(PY)" -m pip --version >/dev/null 2>&1; then \
	command -v "$(PYTHON)" >/dev/null || { \
		echo "$(PYTHON) was not found. Install Python 3.11, 3.12 or 3.13, or name one: $(RETRY) PYTHON=/path/to/python3.11" >&2; exit 1; }; \
	"$(PYTHON)" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || { \
		echo "$(PYTHON) is $$("$(PYTHON)" --version 2>&1); this project needs Python 3.11, 3.12 or 3.13. Name one: $(RETRY) PYTHON=python3.11" >&2; exit 1; }; \
	"$(PYTHON)" -m venv --clear "$(VENV)" || { \
		echo "The virtual environment could not be made. On Debian and Ubuntu: sudo apt-get install python3-venv" >&2; exit 1; }; \
fi
endef

check-port: $(APP_READY)
	@"$(PY)" -c 'import socket, sys; s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1); s.bind(("127.0.0.1", int(sys.argv[1])))' "$(PORT)" 2>/dev/null || { \
		echo "Port $(PORT) cannot be used. If the app is already running, open the link that its start printed; otherwise choose another port: make app PORT=8502" >&2; exit 1; }

# The browser tests drive Debian's chromium. Without it they are skipped, but never where CI decides by the result.
check-chromium:
	@command -v chromium >/dev/null || if [ -n "$$CI" ]; then \
		echo "chromium is not installed, and the browser tests must run here: apt-get install chromium" >&2; exit 1; \
	else echo "NOTE: chromium is not installed, so the browser tests will be skipped (Debian: sudo apt-get install chromium)."; fi
