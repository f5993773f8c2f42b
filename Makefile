# make run: train, export, predict in each way, compare. make test: linter, types, tests. make cluster: train in three
# processes. Each sets up .venv first, if need be.

VENV ?= .venv
SERVES = import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 14))
PYTHON ?= $(firstword $(foreach python,python3 python3.13 python3.12 python3.11 python3.10,\
	$(shell $(python) -c '$(SERVES)' 2>/dev/null && echo $(python))))
RUN = $(VENV)/bin/python
FAST = predictor.from_saved_model 'ONNX Runtime' LiteRT
GROWTH = Estimator.predict 'Session.run: what tf.contrib.predictor did' predictor.from_saved_model

.PHONY: run compare cluster test test-all benchmark figures pretrained clean

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

cluster: $(VENV)/.run
	rm -rf cluster
	$(RUN) -m beyond.cluster

test: $(VENV)/.test
	@echo 'Linter, types and the tests that are not slow: two to three minutes on two cores.'
	$(RUN) -m ruff format --check --quiet
	$(RUN) -m ruff check --quiet
	$(RUN) -m mypy --no-error-summary
	$(RUN) -m pytest $(TESTS)

test-all: $(VENV)/.test
	$(MAKE) test
	@echo 'The slow tests: about 12 minutes on two cores.'
	$(RUN) -m pytest -m slow

benchmark: $(VENV)/.test
	$(RUN) compare.py --model-dir pretrained/model --check

# All figures and pictures of docs/speed.md, and README's table, in some five minutes.
figures: $(VENV)/.test
	$(RUN) compare.py --model-dir pretrained/model --plot pictures/protocols.svg
	$(RUN) compare.py --model-dir pretrained/model --threads 8 --rows $(FAST)
	$(RUN) compare.py --parameters 1000 1000000 30000000 --rows $(GROWTH) --plot pictures/scale.svg
	$(MAKE) benchmark

pretrained: $(VENV)/.run
	rm -rf pretrained
	$(RUN) train.py --model-dir pretrained/model
	$(RUN) export.py --model-dir pretrained/model --export-dir pretrained/saved_model
	cd pretrained/model && rm -r $$(ls | grep -v '^model.ckpt-1000.[di]')
	echo 'model_checkpoint_path: "model.ckpt-1000"' > pretrained/model/checkpoint

clean:
	rm -rf model saved_model held_out cluster hidden iris/model iris/saved_model build *.egg-info

$(VENV)/.run: requirements.txt | $(VENV)/bin/python
	$(RUN) -m pip install --quiet --requirement requirements.txt
	@touch $@

$(VENV)/.test: pyproject.toml $(VENV)/.run
	$(RUN) -m pip install --quiet --requirement requirements.txt --editable '.[benchmark,dev,plot,serving,web]'
	@touch $@

$(VENV)/bin/python:
	@$(or $(PYTHON),false) -c '$(SERVES)' 2>/dev/null || { \
		echo 'TensorFlow 2.21 needs Python 3.10, 3.11, 3.12 or 3.13, which $(or $(PYTHON),python3) is not:' \
		'install one, or name one: make PYTHON=/path/to/python3.12' >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		echo '$(PYTHON) has no venv module:' \
		'install it (on Debian and Ubuntu: apt-get install python3-venv)' >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
