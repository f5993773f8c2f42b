"""The text's model: a `DNNClassifier` of the three species, from four numeric features."""

from estimator_inference import tf
from iris.iris_data import FEATURES


def feature_columns():
    """Returns the numeric columns: what the Estimator reads, and what its export parses."""
    return [tf.feature_column.numeric_column(key=key) for key in FEATURES]


def build_classifier(model_dir, config=None):
    """Returns the Estimator, its checkpoints in `model_dir`."""
    return tf.estimator.DNNClassifier(
        feature_columns=feature_columns(),
        hidden_units=[10, 10],
        n_classes=3,
        model_dir=model_dir,
        config=config,
    )
