"""Predicts with `Estimator.predict`, called for each number as it comes: the posts' first attempt.

    python predict.py

The log shows the problem: each call builds the graph again and restores the checkpoint from disk,
a line `Restoring parameters from model/model.ckpt-1000` for each number.
"""

import functools
import time

import support
from estimator_inference import tf
from model import model_fn


def my_service(examples):
    """Yields numbers from 100 on, one at a time, as the requests of a service come in."""
    for number in range(100, 100 + examples):
        yield number


def example_input_fn(number):
    """Returns a dataset of one example: features float32 [1, 2]."""
    dataset = tf.data.Dataset.from_generator(lambda: [[number, number]], tf.float32, [2])
    return dataset.batch(1)


def get_prediction(estimator, number):
    """Returns the prediction for a number: an array [1], or a dict of arrays."""
    # One example, one prediction. Unpacking exhausts the generator, which closes its session.
    [prediction] = estimator.predict(functools.partial(example_input_fn, number))
    return prediction


def main(argv=None):
    args = support.parser(__doc__, model_dir='model', examples=10).parse_args(argv)

    estimator = tf.estimator.Estimator(
        model_fn, args.model_dir, params=support.params(args.model_dir)
    )

    predictions, times = {}, []
    for nb in my_service(args.examples):
        start = time.perf_counter()
        predictions[nb] = get_prediction(estimator, nb)
        times.append(time.perf_counter() - start)

    support.report('predict.py', predictions, times)


if __name__ == '__main__':
    support.run(main)
