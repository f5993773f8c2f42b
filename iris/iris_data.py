"""What the iris scripts share: the CSV files, the features, three flowers, and the table of their predictions."""

import csv
import os

import tensorflow as tf

FEATURES = (
    'SepalLength',
    'SepalWidth',
    'PetalLength',
    'PetalWidth',
)  # the columns of the CSV files
SPECIES = ('Setosa', 'Versicolor', 'Virginica')

# The flowers that every script asks for: {feature: values [3]}, and their classes.
FLOWERS = {
    'SepalLength': [5.1, 5.9, 6.9],
    'SepalWidth': [3.3, 3.0, 3.1],
    'PetalLength': [1.7, 4.2, 5.4],
    'PetalWidth': [0.5, 1.5, 2.1],
}
EXPECTED = [0, 1, 2]


def load(name):
    """Returns the flowers of a CSV file in data/: features {name: [n]}, in cm, and labels [n], 0 to 2."""
    with open(os.path.join(os.path.dirname(__file__), 'data', name), newline='') as file:
        _, *lines = csv.reader(
            file
        )  # the first line: how many flowers, how many features, the species
    *columns, labels = zip(*lines)
    return {key: list(map(float, column)) for key, column in zip(FEATURES, columns)}, list(
        map(int, labels)
    )


def rows(features):
    """Returns features {name: [n]} as n dicts, one for each flower."""
    return [dict(zip(features, values)) for values in zip(*features.values())]


def to_examples(features):
    """Returns features {name: [n]} as n `tf.train.Example`s."""
    return [
        tf.train.Example(
            features=tf.train.Features(
                feature={
                    key: tf.train.Feature(float_list=tf.train.FloatList(value=[value]))
                    for key, value in row.items()
                }
            )
        )
        for row in rows(features)
    ]


def serialized(features):
    """Returns features {name: [n]} as n serialized `tf.train.Example`s."""
    return [example.SerializeToString() for example in to_examples(features)]


def table(classes, scores):
    """Returns the predictions for FLOWERS as a table: for each flower its features, likeliest class and probability.

    Args:
      classes: The ids of the classes, as an export names them: str or bytes [3, 3].
      scores: Their probabilities: float [3, 3].
    """
    cells = [(*FEATURES, 'ClassID', 'Probability')]
    for flower, ids, probabilities in zip(zip(*FLOWERS.values()), classes, scores):
        probability, class_id = max(zip(probabilities, ids))
        cells.append((*map(str, flower), tf.compat.as_text(class_id), f'{probability:.6f}'))
    return '\n'.join(
        '  '.join(cell.rjust(len(name)) for cell, name in zip(row, cells[0])) for row in cells
    )
