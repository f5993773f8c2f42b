"""The text's model: a `DNNClassifier` of the three species, from four numeric features."""
from __future__ import annotations

import sys
from typing import Optional

import model
from iris import iris_data
from tf1 import tf


def build_estimator(model_dir: str, **config) -> tf.estimator.Estimator:
    """Returns the Estimator of all iris scripts, its checkpoints in `model_dir`; `config` goes to its RunConfig."""
    return tf.estimator.DNNClassifier(feature_columns=feature_columns(), hidden_units=[10, 10], n_classes=3,
                                      config=tf.estimator.RunConfig(model_dir, **config))


def feature_columns() -> list:
    """Returns the numeric columns: what the Estimator reads, and what its export parses."""
    return [tf.feature_column.numeric_column(key=key) for key in iris_data.FEATURES]


def latest_checkpoint(model_dir: str) -> Optional[str]:
    """Returns the path of the newest checkpoint, or None; ends the script with a line where it isn't whole."""
    try:
        return model.latest_checkpoint(model_dir)
    except SystemExit as error:
        sys.exit(str(error).replace('python train.py', 'python -m iris.train'))
