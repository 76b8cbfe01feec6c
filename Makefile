# The two commands of the README start from a bare checkout with Python, pip and make.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-web test-model test-other test-light check format clean

demo: .venv/.light
	$(BIN)/twotower classify examples/photos --labels examples/labels.txt --top 3
	@echo
	$(BIN)/twotower index examples/photos --library build/demo-library
	$(BIN)/twotower search "a city at night" --library build/demo-library
	$(BIN)/twotower search "a brain scan" --library build/demo-library
	@echo
	$(BIN)/twotower ask examples/photos/oranges.jpg "what colour is the fruit?"
	$(BIN)/twotower ask examples/photos/cat.jpg "is it a cat or a dog?"
	$(BIN)/twotower ask build/demo-library "how many of my pictures show a beach?"
	@echo
	$(BIN)/twotower tag --library build/demo-library --dry-run
	@echo
	@echo "Next, try:"
	@echo "  $(BIN)/twotower classify YOUR_PICTURES --labels \"cat, dog, birthday party\" --none"
	@echo "  $(BIN)/twotower classify examples/photos --labels \"indoors, outdoors\" --json"
	@echo "  $(BIN)/python -c 'import twotower; print(twotower.load().encode_text(\"a red car\").shape)'"
	@echo "  $(BIN)/pip install --editable '.[serve]'    # for a page in the browser:"
	@echo "  $(BIN)/twotower serve examples/photos --library build/demo-library"

# In CI the same command also checks, and runs the groups that the default run leaves out, the longest
# first. Two jobs share two cores: threads of OpenMP that wait for each other would keep the other job
# from running.
ifdef CI
export OMP_NUM_THREADS := 1
test: .venv/.dev
	$(MAKE) --jobs=2 --output-sync=none test-model test-other test-web test-light check
else
test: .venv/.dev
	$(BIN)/pytest -q
endif

# All groups, in thirds of about the same time: most tests wait for one core, or for a server.
MODEL_ROOMS := tests/model tests/train tests/recipes
WEB_ROOMS := tests/serve tests/pages tests/pairs
test-model: .venv/.dev
	$(BIN)/pytest -q -m "" $(MODEL_ROOMS)
test-web: .venv/.dev
	$(BIN)/pytest -q -m "" $(WEB_ROOMS)
test-other: .venv/.dev
	$(BIN)/pytest -q -m "" tests $(addprefix --ignore=,$(MODEL_ROOMS) $(WEB_ROOMS))

# The rooms that need no torch, in an environment without it.
LIGHT_ROOMS := inputs metadata pairs index search tagging asking pages calibration
test-light:
	$(PYTHON) -m venv build/light
	build/light/bin/pip install --quiet --editable ".[test]"
	build/light/bin/pytest -q $(addprefix tests/,$(LIGHT_ROOMS))

check: .venv/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pytest -q tests/test_architecture.py tests/test_wording.py

format: .venv/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/.light: pyproject.toml | .venv/bin/python
	$(BIN)/pip install --quiet --editable .
	@touch $@

# torch first and by itself: the dependencies that follow are then content with the CPU build
.venv/.dev: pyproject.toml | .venv/bin/python
	$(BIN)/python -c "import torch" 2>/dev/null || $(BIN)/pip install --quiet "torch==2.13.0"
	$(BIN)/pip install --quiet --editable ".[dev]"
	@touch $@

clean:
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache
