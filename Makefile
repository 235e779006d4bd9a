# Two commands do everything on a fresh machine: `make demo` and `make test`.
# Beside them: `make faults` (docs/faults.md, under 15 minutes) and `make fuzz` (FUZZ_SECONDS in all, 10 minutes), and
# `make soak` (docs/camera.md, SOAK_MINUTES of a camera at twice the rate the model can take, 10).
# PYTHON names the interpreter to build .venv with; DEMO_OPTIONS, TEST_OPTIONS and FAULT_OPTIONS are handed on.
PYTHON ?= python3
SHELL := /bin/bash
export PYTHON LOCKED UV

.PHONY: lock demo test faults fuzz soak lint setup setup-demo clean

demo: setup-demo
	@source scripts/env.sh && exec install/gridkp_ros/lib/gridkp_ros/demo --out out/demo $(DEMO_OPTIONS)

# Without ROS 2 or the messages most tests of the nodes are skipped: here that is a failure. (test/ holds no gridkp_ros,
# which without the messages would be found first.)
test: setup lint
	@source scripts/env.sh && cd test && python -c 'import rclpy, gridkp_ros.msg'
	@source scripts/env.sh && ROS_AUTOMATIC_DISCOVERY_RANGE=LOCALHOST ROS_DOMAIN_ID=$$((RANDOM % 100 + 1)) \
	  pytest $(TEST_OPTIONS)

faults: setup
	@source scripts/env.sh && pytest test/faults $(FAULT_OPTIONS)

FUZZ_SECONDS ?= 600
fuzz: setup
	@source scripts/env.sh && { python -c 'import atheris' 2>/dev/null || pip install -q -r requirements/fuzz.txt; } && \
	for target in manifest onnx bag; do \
	  python test/fuzz/fuzz.py $$target --seconds $$(($(FUZZ_SECONDS) / 3)) || exit 1; \
	done

SOAK_MINUTES ?= 10
soak: setup
	@source scripts/env.sh && gridkp bench node --soak $(SOAK_MINUTES) --out out/soak $(SOAK_OPTIONS)

lint: setup
	@source scripts/env.sh && ruff check . && lint-imports

setup:
	@scripts/setup.sh test

setup-demo:
	@scripts/setup.sh demo

# Needs uv; after a change of requirements/. `make LOCKED=1 test` then uses exactly these versions.
lock:
	@scripts/lock.sh

clean:
	rm -rf .venv build install log out .pytest_cache .ruff_cache .hypothesis .import_linter_cache
