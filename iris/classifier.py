"""The text's model: a `DNNClassifier` of the three species, from four numeric features."""
from __future__ import annotations

import os
import sys
from typing import Any, Optional

import model
from iris import iris_data
from tf1 import tf


def build_estimator(model_dir: str, **config: Any) -> tf.estimator.Estimator:
    """Returns the Estimator of all iris scripts, its checkpoints in `model_dir`; `config` goes to its RunConfig."""
    os.environ.pop('TF_CONFIG', None)  # for train.py
    return tf.estimator.DNNClassifier(feature_columns=feature_columns(), hidden_units=[10, 10], n_classes=3,
                                      config=tf.estimator.RunConfig(model_dir, **config))


def feature_columns() -> list:
    """Returns the numeric columns: what the Estimator reads, and what its export parses."""
    return [tf.feature_column.numeric_column(key=key) for key in iris_data.FEATURES]


def load_estimator(model_dir: str) -> tf.estimator.Estimator:
    """Returns the trained Estimator in `model_dir`, or ends the script with a line on what is wrong there."""
    if latest_checkpoint(model_dir) is None:
        sys.exit(f'no checkpoint in {model_dir}: run python -m iris.train --model-dir {model_dir}')
    return build_estimator(model_dir)


def latest_checkpoint(model_dir: str) -> Optional[str]:
    """Returns the path of the newest checkpoint, or None; ends the script with a line where it doesn't fit."""
    checkpoint = model.latest_checkpoint(model_dir, 'python -m iris.train')
    if checkpoint and dict(tf.train.list_variables(checkpoint)).get('dnn/logits/kernel') != [10, 3]:
        sys.exit(f'the checkpoint {checkpoint} is of another network: choose another --model-dir')
    return checkpoint
