"""What the iris scripts share: the flowers, the model, and the table of its predictions."""

import pathlib

import numpy as np
from estimator_inference import tf

FEATURES = ('SepalLength', 'SepalWidth', 'PetalLength', 'PetalWidth')  # in cm
COLUMNS = [tf.feature_column.numeric_column(key=key) for key in FEATURES]
SPECIES = ('Setosa', 'Versicolor', 'Virginica')

# The three flowers that every script asks for. Their classes are 0, 1 and 2.
FLOWERS = {
    'SepalLength': [5.1, 5.9, 6.9],
    'SepalWidth': [3.3, 3.0, 3.1],
    'PetalLength': [1.7, 4.2, 5.4],
    'PetalWidth': [0.5, 1.5, 2.1],
}
ROWS = [dict(zip(FLOWERS, values)) for values in zip(*FLOWERS.values())]  # one dict a flower


def load(name):
    """Returns the flowers of a file in data/: features {name: float32 [n]} and labels, int [n]."""
    path = pathlib.Path(__file__).parent / 'data' / name
    *columns, labels = np.loadtxt(path, np.float32, delimiter=',', skiprows=1, unpack=True)
    return dict(zip(FEATURES, columns)), labels.astype(int)


def build_classifier(model_dir):
    """Returns Ji Zhang's Estimator, with its checkpoints in `model_dir`."""
    config = tf.estimator.RunConfig(model_dir, tf_random_seed=1)
    return tf.estimator.DNNClassifier(
        feature_columns=COLUMNS, hidden_units=[10, 10], n_classes=3, config=config
    )


def to_examples(flowers):
    """Returns flowers, each a dict {feature: value}, as `tf.train.Example`s."""
    examples = [tf.train.Example() for _ in flowers]
    for flower, example in zip(flowers, examples):
        for key, value in flower.items():
            example.features.feature[key].float_list.value.append(value)
    return examples


def print_table(classes, scores):
    """Prints the three flowers, each with its likeliest class and the probability of that.

    Takes the ids of the classes, str or bytes [3, 3], and their probabilities, float [3, 3].
    """
    head = (*FEATURES, 'ClassID', 'Probability')
    print(*head, sep='  ')
    for flower, ids, probabilities in zip(ROWS, classes, scores):
        best = np.argmax(probabilities)
        cells = *flower.values(), tf.compat.as_text(ids[best]), f'{probabilities[best]:.6f}'
        print(*(str(cell).rjust(len(name)) for cell, name in zip(cells, head)), sep='  ')
