# make demo   a synthetic drive through the node over DDS; INPUT=clip.mp4 MODEL=models/x.safetensors FRAMES=40 OUTPUT=DIR
# make test   the tests; TESTS="test/node test/labels/test_label_map.py" for some of them
# make lint   ruff, and who may import whom; make format lets it lay out the code
# make docs   the table of docs/parameters.md and config/segmentation.schema.json, from the parameters' specs
# make venv   the virtual environment alone, which the others make on first use from the Python package index
#
# ROS=kilted   the ROS 2 Kilted wheels instead of Jazzy's
# LIBS=oldest  the oldest NumPy and OpenCV that a vehicle may bring
# Each combination has an environment of its own: .venv, .venv-kilted, .venv-oldest, .venv-kilted-oldest.

ROS ?= jazzy
LIBS ?= newest
# EXTRAS=ros,test is what a vehicle has; INSTALL=plain copies the package into the environment instead of linking to it.
EXTRAS ?= ros,replay,cluster,train,imagenet,onnx,openvino,export,int8,test
INSTALL ?= editable
TESTS ?=

# Your own python3 where it will do, else the newest that is found.
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
    $$p -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))' 2>/dev/null \
    && echo $$p && break; done)

empty :=
space := $(empty) $(empty)
overlays := $(filter-out jazzy newest,$(ROS) $(LIBS))
VENV ?= .venv$(subst $(space),,$(addprefix -,$(overlays)))
overlay_files := $(patsubst %,constraints-%.txt,$(overlays))
pip := $(VENV)/bin/python -m pip --disable-pip-version-check install --quiet -c $(VENV)/constraints.txt

.PHONY: demo test lint format docs venv

demo: $(VENV)/.installed
	$(VENV)/bin/python -m drive_seg.evaluation.demo $(if $(INPUT),--input "$(INPUT)") $(if $(MODEL),--model "$(MODEL)") \
	    $(if $(FRAMES),--frames $(FRAMES)) $(if $(OUTPUT),--output "$(OUTPUT)")

test: $(VENV)/.installed
	$(VENV)/bin/pytest $(TESTS)

lint: $(VENV)/.installed
	$(VENV)/bin/ruff check .
	$(VENV)/bin/lint-imports --no-cache

format: $(VENV)/.installed
	$(VENV)/bin/ruff format .

docs: $(VENV)/.installed
	$(VENV)/bin/python -m drive_seg.node.parameters.table

venv: $(VENV)/.installed

# Lines of constraints.txt whose package an overlay pins too are left out: pip takes no two pins of one package.
$(VENV)/.installed: setup.py constraints.txt scripts/link_share $(overlay_files)
	@test -n "$(PYTHON)" || { echo "drive_seg needs Python 3.11 to 3.14 with venv and pip (on Debian and Ubuntu:" \
	    "apt install python3-venv); name one with PYTHON=/path/to/python3" >&2; exit 1; }
	@echo "Making $(VENV) with $(PYTHON); the first time takes a few minutes"
	@"$(PYTHON)" -m venv "$(VENV)"
	@cat /dev/null $(overlay_files) > "$(VENV)/overlays.txt"
	@awk -F '==' 'FILENAME == ARGV[1] {taken[$$1]; next} !($$1 in taken)' "$(VENV)/overlays.txt" constraints.txt \
	    | cat "$(VENV)/overlays.txt" - > "$(VENV)/constraints.txt"
	@$(pip) setuptools
	@$(pip) --no-build-isolation $(if $(filter editable,$(INSTALL)),-e) ".[$(EXTRAS)]"
	@$(if $(filter editable,$(INSTALL)),scripts/link_share "$(VENV)")
	@touch "$@"
