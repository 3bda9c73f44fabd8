# `make reproduce` and `make test` each work alone on a fresh machine that has git, make and Python >= 3.11.

# The first interpreter that is new enough and can make virtual environments; `make PYTHON=/path/to/python` overrides.
PYTHON ?= $(firstword $(foreach p,python3 python3.14 python3.13 python3.12 python3.11 python,\
	$(shell $(p) -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2])' 2>/dev/null && echo $(p))))

.PHONY: setup reproduce test test-slow lint docs benchmark dist release-check clean

# A claim that fails (exit code 1) is a result to read, and no failure of the command.
reproduce: setup
	.venv/bin/mesalens reproduce || test $$? -eq 1

test: setup
	.venv/bin/python -m pytest

# Everything, the tests that train for minutes included.
test-slow: setup
	.venv/bin/python -m pytest -m "slow or not slow"

lint: setup
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/pyright

# The documentation, in build/site. KaTeX comes from a package that carries it, of which nothing else is used.
docs: setup .venv/docs-up-to-date
	.venv/bin/python docs/build.py

.venv/docs-up-to-date: .venv/up-to-date
	.venv/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[docs]'
	.venv/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --no-deps djangocms-katex
	@touch $@

# Measures everything (nothing else should run), and writes docs/pages/benchmarks.md
benchmark: setup
	.venv/bin/python benchmarks/benchmark.py

# The wheel and the source distribution.
dist: setup
	rm -rf dist
	mkdir dist
	.venv/bin/python -c "from flit_core import buildapi as flit; flit.build_wheel('dist'); flit.build_sdist('dist')"

# Each has to install into an empty environment, and to work from an empty folder.
release-check: dist
	set -e; for file in $(CURDIR)/dist/*; do \
		rm -rf build/release; mkdir -p build/release/empty; \
		$(PYTHON) -m venv build/release/env; \
		build/release/env/bin/python -m pip install --quiet --disable-pip-version-check $$file; \
		(cd build/release/empty; ../env/bin/python $(CURDIR)/tests/smoke.py); \
	done

setup: .venv/up-to-date

.venv/up-to-date: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "mesalens needs Python 3.11 or newer with the venv module: install it (python3 and python3-venv) or call make PYTHON=/path/to/python." >&2; exit 2; }
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[test]'
	@touch $@

clean:
	rm -rf .venv build dist
