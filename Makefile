# make app     set up and open the app on port 8501
# make test    set up and run every test
# make test-gguf  also build llama.cpp, and compare exported GGUF files with it
# make test-transformers4  also install transformers 4 by itself, and read exports with it
# make test-kills  kill whole commands at each of their file operations, one after the other (half an hour)
# make pictures  walk the road in a browser, and make the README's pictures of it
# make lint    check the code's form
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
RETRY := make $(or $(MAKECMDGOALS),app)

.PHONY: app test test-gguf test-transformers4 test-kills pictures lint clean check-port check-chromium
.DELETE_ON_ERROR:

app: $(APP_READY) check-port
	@echo "Starting the app on port $(PORT)."
	@"$(PY)" -m streamlit run app.py --server.port $(PORT) $(if $(APP_ARGS),-- $(APP_ARGS))

# One math thread per worker: more only fight over the cores. In the order of the folders: the browser's files are few and long,
# and one of them left to the end would keep one core waiting.
test: $(TESTS_READY) check-chromium
	OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false "$(PY)" -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder -rs $(PYTEST_ARGS)

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

clean:
	rm -rf "$(VENV)" "$(VENV4)" .pytest_cache .ruff_cache .hypothesis tests/browser/screenshots
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Stamp files: pip runs again only when a requirements file is newer than the last complete installation.
$(APP_READY): requirements.txt
	@$(make_environment)
	@echo "Installing requirements into $(VENV) - a few minutes the first time."
	@"$(PY)" -m pip install --disable-pip-version-check -r requirements.txt
	@touch "$@"

$(TESTS_READY): requirements-dev.txt $(APP_READY)
	@echo "Installing what the tests need into $(VENV)."
	@"$(PY)" -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch "$@"

$(GGUF_READY): requirements-gguf.txt $(APP_READY)
	@echo "Building llama.cpp, which takes about ten minutes and needs a C++ compiler."
	@"$(PY)" -m pip install --disable-pip-version-check -r requirements-gguf.txt
	@touch "$@"

$(TRANSFORMERS4_READY): requirements-transformers4.txt $(APP_READY)
	@echo "Installing transformers 4 into $(VENV4)."
	@"$(PY)" -m venv --clear "$(VENV4)"
	@"$(VENV4)/bin/python" -m pip install --quiet --disable-pip-version-check -r requirements-transformers4.txt
	@touch "$@"

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
