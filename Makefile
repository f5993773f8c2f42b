# make run: train, export, predict in each way. make test: the tests. Both set up .venv first, if need be.

VENV ?= .venv
SERVES = import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 14))
PYTHON ?= $(firstword $(foreach python,python3 python3.13 python3.12 python3.11 python3.10,\
	$(shell $(python) -c '$(SERVES)' 2>/dev/null && echo $(python))))
RUN = $(VENV)/bin/python

.PHONY: run test clean

run: $(VENV)/.run
	$(RUN) train.py
	$(RUN) export.py
	$(RUN) predict.py
	$(RUN) fast_predict.py
	$(RUN) serve.py

test: $(VENV)/.test
	$(RUN) -m pytest $(TESTS)

clean:
	rm -rf model saved_model

$(VENV)/.run: requirements.txt | $(VENV)/bin/python
	$(RUN) -m pip install --quiet --requirement requirements.txt
	@touch $@

$(VENV)/.test: requirements-dev.txt $(VENV)/.run
	$(RUN) -m pip install --quiet --requirement requirements-dev.txt
	@touch $@

$(VENV)/bin/python:
	@$(or $(PYTHON),false) -c '$(SERVES)' 2>/dev/null || { \
		echo 'TensorFlow 2.21 needs Python 3.10, 3.11, 3.12 or 3.13, which $(or $(PYTHON),python3) is not:' \
		'install one, or name one: make PYTHON=/path/to/python3.12' >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		echo '$(PYTHON) has no venv module:' \
		'install it (on Debian and Ubuntu: apt-get install python3-venv)' >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
