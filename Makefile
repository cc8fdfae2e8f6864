# Two commands do everything from a bare machine with Python 3.11: `make plan` and `make test`.
TARGET ?= edge_gpu.yaml
MODEL  ?= vit_b
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV   ?= .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check -q
INPUTS := pyproject.toml constraints.txt

.PHONY: help plan test lint types docs system-packages clean

help:            ## list what can be made
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

plan: $(VENV)/.installed   ## plan MODEL on TARGET; results in out/
	$(BIN)/hwsim plan --target $(TARGET) --model $(MODEL) --output-dir out/$(MODEL)-$(basename $(notdir $(TARGET)))

test: lint types system-packages   ## lint, types and all tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal tests

lint: $(VENV)/.installed-dev   ## ruff
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed-dev   ## basedpyright, strict
	$(BIN)/basedpyright --pythonpath $(BIN)/python

docs: $(VENV)/.installed-dev   ## documentation as HTML in docs/_build/html; a warning is an error
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build/html

# A browser, cross compilers and emulators for the tests that use them; where they cannot be installed
# (no Debian, not root) those tests skip and say so.
system-packages:
	@for tool in chromium:chromium tidy:tidy aarch64-linux-gnu-gcc:gcc-aarch64-linux-gnu \
	  riscv64-linux-gnu-gcc:gcc-riscv64-linux-gnu arm-none-eabi-gcc:gcc-arm-none-eabi \
	  qemu-aarch64:qemu-user qemu-system-arm:qemu-system-arm; do \
	  command -v $${tool%%:*} >/dev/null || missing="$$missing $${tool##*:}"; done; \
	if [ -n "$$missing" ] && command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ]; then \
	  echo "installing for the tests:$$missing"; \
	  (apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $$missing fonts-dejavu-core libnewlib-arm-none-eabi) >/dev/null 2>&1 || \
	  echo "not installed:$$missing (tests that need them skip)"; \
	elif [ -n "$$missing" ]; then echo "absent, tests that need them skip:$$missing"; fi

clean:           ## remove the virtual environment and results
	rm -rf $(VENV) out

$(VENV)/.created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] < (3, 11))' || \
	  { echo "hwsim needs Python 3.11 or newer; set PYTHON=/path/to/python3.11"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.installed: $(VENV)/.created $(INPUTS)
	$(PIP) install -c constraints.txt -e .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.created $(INPUTS)
	$(PIP) install -c constraints.txt -e '.[tvm,dev,docs]'
	@touch $@ $(VENV)/.installed
