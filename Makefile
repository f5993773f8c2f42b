# make run: train, export, predict in each way, compare. make test: format, linter, types, tests.
# Each makes .venv first, if need be. README.md has the same in plain commands.

VENV ?= .venv
SERVES = import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 14))
PYTHON ?= $(firstword $(foreach python,python3 python3.13 python3.12 python3.11 python3.10,\
	$(shell $(python) -c '$(SERVES)' 2>/dev/null && echo $(python))))
RUN = $(VENV)/bin/python
FAST = predictor.from_saved_model 'ONNX Runtime' LiteRT
GROWTH = Estimator.predict 'Session.run: what tf.contrib.predictor did' predictor.from_saved_model

.PHONY: run compare test test-all benchmark figures clean

run: $(VENV)/.run
	@printf '\n== Training\n'
	$(RUN) train.py
	@printf '\n== Export\n'
	$(RUN) export.py
	@printf '\n== Reload and predict, first attempt: Estimator.predict\n'
	$(RUN) predict.py
	@printf '\n== A clever fix: FastPredict\n'
	$(RUN) fast_predict.py
	@printf '\n== Reload and predict, the good way: the export and a predictor\n'
	$(RUN) serve.py
	@printf '\n== Every way side by side\n'
	$(RUN) compare.py

compare: $(VENV)/.run
	@test -d model || $(RUN) train.py
	$(RUN) compare.py

test: $(VENV)/.test
	$(RUN) -m ruff format --check --quiet
	$(RUN) -m ruff check --quiet
	$(RUN) -m mypy --no-error-summary
	$(RUN) -m pytest $(TESTS)

test-all: test
	$(RUN) -m pytest -m slow

benchmark: $(VENV)/.test
	$(RUN) compare.py --model-dir pretrained/model --check

# All figures and pictures of docs/speed.md, and README's table, in some five minutes.
figures: $(VENV)/.test
	$(RUN) compare.py --model-dir pretrained/model --plot pictures/protocols.svg
	$(RUN) compare.py --model-dir pretrained/model --threads 8 --rows $(FAST)
	$(RUN) compare.py --parameters 1000 1000000 30000000 --rows $(GROWTH) --plot pictures/scale.svg
	$(MAKE) benchmark

clean:
	rm -rf model saved_model hidden iris/model iris/saved_model build *.egg-info

$(VENV)/.run: requirements.txt | $(RUN)
	$(RUN) -m pip install --quiet --requirement requirements.txt
	@touch $@

$(VENV)/.test: pyproject.toml $(VENV)/.run
	$(RUN) -m pip install --quiet --requirement requirements.txt --editable '.[all]'
	@touch $@

$(RUN):
	@test -n '$(PYTHON)' || { echo 'no Python 3.10, 3.11, 3.12 or 3.13 here, as TensorFlow 2.21' \
		'needs: install one, or name one, make PYTHON=/path/to/python3.12' >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
