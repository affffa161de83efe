# The list of commands. `make` alone prints it.
SHELL := /bin/bash
PYTHON ?= python3
VENV ?= .venv
EXTRAS ?= cpu,dev
CORES ?= $(shell nproc 2>/dev/null || sysctl -n hw.ncpu 2>/dev/null || echo 2)
CONFIG ?= config/demo.yaml
comma := ,
BIN := $(abspath $(VENV))/bin
RUN := PATH="$(BIN):$$PATH" PYTHONNOUSERSITE=1
MLFLOW := MLFLOW_DISABLE_TELEMETRY=true MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false $(RUN) python -m mlflow
STAMP := $(VENV)/.installed-$(subst $(comma),-,$(EXTRAS))

.DEFAULT_GOAL := help
.PHONY: help setup programs slurm-programs demo resume test test-cluster bench scale kill real-sky universal lint format docs config lock ui server clean paper paper-draw paper-estimate

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-15s %s\n", $$1, $$2}'

setup: $(STAMP) ## create the virtual environment .venv with pinned packages (EXTRAS=gpu,dev for CUDA)

# Versions are pinned, including those of the build tools (PIP_CONSTRAINT, or PIP_BUILD_CONSTRAINT from pip 26 on). Hashes are not pinned:
# pip does not accept them together with an editable package, and one list serves CPU, GPU and all platforms.
$(STAMP): pyproject.toml requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or later is needed; choose one with make PYTHON=python3.12 ...")'
	@echo "Setting up $(VENV) (about 200 packages, 3 GB; only once)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@PIP_CONSTRAINT=requirements.txt PIP_BUILD_CONSTRAINT=requirements.txt $(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[$(EXTRAS)]"
	@touch $@

# Programs of the pipelines gmadet and stdpipe, and the browser and database of the tests. Tests that need a missing program are skipped.
PROGRAMS := source-extractor psfex scamp SWarp chromium

programs: ## install Source Extractor, PSFEx, SCAMP, SWarp, Chromium and PostgreSQL (Debian packages, as root)
	@missing=$$(for p in $(PROGRAMS); do command -v $$p >/dev/null || echo $$p; done; \
	  ls /usr/lib/postgresql/*/bin/postgres >/dev/null 2>&1 || command -v postgres >/dev/null || echo postgresql); \
	if [ -z "$$missing" ]; then exit 0; fi; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  echo "Installing" $$missing; \
	  { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends source-extractor psfex scamp swarp chromium postgresql; } >/dev/null \
	    || { echo "Installation failed:" $$missing; test -z "$$CI"; }; \
	else echo "Not installed:" $$missing "(Debian: source-extractor psfex scamp swarp chromium postgresql; conda-forge: astromatic-*, postgresql). Tests that need them are skipped."; fi

# Use the same kernels on all x86-64 processors with AVX2. Other kernels change the fitted PSFs in the fifth digit and the noise of
# injected sources by single photons. Training (oneDNN, Eigen) still uses all features of the processor.
SAME_KERNELS := $(shell grep -qsm1 avx2 /proc/cpuinfo && echo OPENBLAS_CORETYPE=Haswell NPY_DISABLE_CPU_FEATURES="'X86_V4 AVX512_ICL AVX512_SPR'")

demo: setup ## one simulated telescope, from raw images to a registered classifier (7 minutes on 2 cores)
	@$(RUN) $(SAME_KERNELS) snakemake --cores $(CORES) --scheduler greedy --scheduler-subsample 20 --configfile $(CONFIG) --rerun-incomplete
	@$(RUN) python -m otrain_core.evaluation.closing results

resume: setup ## resume a run whose process died, also on a cluster (WAIT=1: let its jobs finish first; KEEP_GOING=1: leave bad images out)
	@$(RUN) python -m otrain_core.jobs.resume $(if $(WAIT),--wait) $(if $(GONE),--gone) $(if $(KEEP_GOING),--keep-going)

# tests/cluster start Slurm daemons of their own; without Slurm they are skipped.
slurm-programs: ## install Slurm and munge (Debian packages, as root)
	@missing=$$(for p in slurmctld slurmd munged; do command -v $$p >/dev/null || echo $$p; done); \
	if [ -z "$$missing" ]; then exit 0; fi; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  echo "Installing Slurm"; \
	  { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends slurm-wlm munge; } >/dev/null \
	    || { echo "Slurm could not be installed"; test -z "$$CI"; }; \
	else echo "Not installed:" $$missing "(Debian: slurm-wlm munge). The cluster tests are skipped."; fi

test-cluster: setup slurm-programs ## test the Slurm profile on a local Slurm (as root on Debian)
	@$(RUN) python -m pytest tests/cluster

test: setup programs slurm-programs ## run all tests
	@$(RUN) python -m pytest -n 2 --dist loadfile

PAPER_CONFIGS := config/paper.yaml $(if $(QUICK),config/paper_quick.yaml)

paper: setup programs ## make all figures and tables of the paper in results/paper (QUICK=1: few images, to see that it runs)
	@$(RUN) snakemake --cores $(CORES) --scheduler greedy --scheduler-subsample 20 --configfile $(PAPER_CONFIGS) --rerun-incomplete -- paper

paper-draw: setup ## draw the paper from an unfinished run, in results/unfinished/paper (QUICK=1)
	@$(RUN) python -m otrain_core.paper.paper $(PAPER_CONFIGS)

paper-estimate: setup ## estimate jobs, CPU and GPU hours of make paper; runs nothing (QUICK=1)
	@$(RUN) python -m otrain_core.paper.estimate $(PAPER_CONFIGS)

# A quick model is worse than the shipped one, so it does not replace it.
UNIVERSAL_CONFIGS := config/universal.yaml $(if $(QUICK),config/universal_quick.yaml)
UNIVERSAL_FOLDER := $(if $(QUICK),results/universal,otrain_core/classify/models)

universal: setup ## draw telescopes, train the shipped model and install it with its card (QUICK=1: small, into results/universal)
	@$(RUN) snakemake --cores $(CORES) --scheduler greedy --scheduler-subsample 20 --configfile $(UNIVERSAL_CONFIGS) --rerun-incomplete --keep-going -- universal
	@$(RUN) python -m tools.ship results/pool-drawn/all/any-telescope/seed1 --config $(UNIVERSAL_CONFIGS) -o $(UNIVERSAL_FOLDER)

bench: setup ## measure the cost of otrain2 and of the paper's network (results/bench.json)
	@$(RUN) python -m tools.bench

scale: setup ## measure the cost per cutout in cubes of 1000 to a million (results/scale; 30 GB of disk, half an hour)
	@$(RUN) python -m tools.scale

kill: setup ## search 100 images, killed at 20 random moments; check that each is scored once (results/kill; a quarter of an hour)
	@$(RUN) python -m tools.kill

MODELS ?=

real-sky: setup ## score models on real images (MODELS="A.onnx B.onnx"; needs ../shared/data, half an hour the first time; results/real-sky)
	@$(RUN) python -m tools.real_sky -m $(MODELS)

lint: setup ## check style, types and import rules (ruff, snakefmt, import-linter, mypy, snakemake --lint)
	@$(RUN) ruff check . && $(RUN) ruff format --check . && $(RUN) snakefmt --check workflow && $(RUN) lint-imports && $(RUN) mypy && $(RUN) python -m pytest -q tests/workflow/test_dry_run.py -k lint

format: setup ## format Python and Snakemake files
	@$(RUN) ruff check --fix . ; $(RUN) ruff format . && $(RUN) snakefmt workflow

docs: setup ## build the documentation as a site (site/index.html)
	@NO_MKDOCS_2_WARNING=1 $(RUN) mkdocs build --strict --quiet && echo "Documentation: site/index.html"

config: setup ## regenerate config/config.yaml, its schema and the tables of keys
	@$(RUN) python -m otrain_core.plan.config_docs

lock: setup ## renew the pinned versions in requirements.txt
	@$(RUN) python -m pip install --quiet uv
	@echo '# Versions tested together, made by `make lock` from pyproject.toml; used as constraints by every installation.' > requirements.txt
	@$(RUN) uv pip compile --quiet --upgrade --universal --python-version 3.11 --extra cpu --extra dev --no-header --no-annotate pyproject.toml >> requirements.txt

ui: setup ## serve the MLflow store of results/ on http://127.0.0.1:5000
	@test -f results/mlflow.db || { echo "results/mlflow.db: no store yet; run make demo first"; exit 1; }
	@echo "Runs of all telescopes: http://127.0.0.1:5000/#/experiments/1/runs?workflowType=machine_learning&viewStateShareKey=telescopes (stop with Ctrl-C)"
	@$(MLFLOW) server --backend-store-uri sqlite:///results/mlflow.db --host 127.0.0.1 --port 5000

# MLFLOW_DB=postgresql://USER:PASSWORD@HOST/NAME (in the environment, because every user of the machine can see command lines)
# MLFLOW_NAME: host name by which the group reaches the machine; MLflow refuses browsers and clients that use another name.
MLFLOW_ARTIFACTS ?= mlartifacts
MLFLOW_HOST ?= 127.0.0.1
MLFLOW_PORT ?= 5000
MLFLOW_WORKERS ?= 4
export MLFLOW_DB

server: setup ## serve MLflow to a group, from PostgreSQL (settings: docs/how-to/mlflow.md)
	@case "$$MLFLOW_DB" in postgresql*) ;; *) echo "MLFLOW_DB: set it to the address of the database, postgresql://USER:PASSWORD@HOST/NAME"; exit 1;; esac
	@$(RUN) python -c 'import psycopg2' 2>/dev/null || { echo "psycopg2 is missing: make setup EXTRAS=$(EXTRAS),server"; exit 1; }
	@echo "MLflow for the group: http://$(or $(MLFLOW_NAME),$(MLFLOW_HOST)):$(MLFLOW_PORT)/#/experiments/1/runs?workflowType=machine_learning&viewStateShareKey=telescopes (stop with Ctrl-C)"
	@MLFLOW_BACKEND_STORE_URI="$$MLFLOW_DB" $(MLFLOW) server --artifacts-destination "$(MLFLOW_ARTIFACTS)" \
	  --host $(MLFLOW_HOST) --port $(MLFLOW_PORT) --workers $(MLFLOW_WORKERS) $(if $(MLFLOW_NAME),\
	  --allowed-hosts "$(MLFLOW_NAME)$(comma)$(MLFLOW_NAME):*$(comma)localhost:*$(comma)127.0.0.1:*" \
	  --cors-allowed-origins "http://$(MLFLOW_NAME):$(MLFLOW_PORT)$(comma)https://$(MLFLOW_NAME)")

clean: ## remove the results of all runs, but not the published tables
	@git clean -fdxq results .snakemake
