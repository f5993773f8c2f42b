"""Predicts with `Estimator.predict`, called for each number as it comes: the problem that the posts set out to solve.

    python predict.py

The log shows why it is slow: each call builds the graph again and restores the checkpoint from disk, a line
`Restoring parameters from model/model.ckpt-1000` for each number.
"""
from __future__ import annotations

import contextlib
from typing import Callable, Iterator, Optional, Sequence

import cli
import latency
import model
from tf1 import tf


def example_input_fn(numbers: Sequence[float]) -> tf.data.Dataset:
    """Returns a dataset of one batch, with an example for each number: features float32 [n, 2]."""
    return tf.data.Dataset.from_tensors([[float(number)] for number in numbers]).map(model.number_to_features)


@contextlib.contextmanager
def open_estimator(model_dir: str) -> Iterator[Callable[[Sequence[float]], list[float]]]:
    """Gives `get_predictions`, which asks the Estimator."""
    estimator = model.load_estimator(model_dir)

    def get_predictions(numbers):
        return [model.output(prediction) for prediction in estimator.predict(lambda: example_input_fn(numbers))]

    yield get_predictions


def main(argv: Optional[Sequence[str]] = None) -> None:
    parser = cli.Parser(__doc__)
    parser.add('--model-dir')
    parser.add('--examples', default=10)
    args = parser.parse_args(argv)

    tf.logging.set_verbosity(tf.logging.INFO)
    timing = latency.measure(open_estimator(args.model_dir), args.examples)
    print(f'Average time in predict.py: {timing}')


if __name__ == '__main__':
    main()
