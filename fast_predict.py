"""Predicts with FastPredict: one `Estimator.predict` that stays open, so that the graph is built only once.

    python fast_predict.py             one example a call
    python fast_predict.py --batch 10  several examples a call: post B's faster_predict.py

First the posts' idea, a generator kept open, made right; then the library's FastPredict on the same numbers.
"""

import itertools
import time

import numpy as np

from support import (
    report,
    script,
)  # first, since it keeps TensorFlow's start-up noise off the screen
from estimator_inference import FastPredict as LibraryFastPredict
from estimator_inference import tf
from model import model_fn
from predict import my_service


class FastPredict:
    """Keeps the generator of one `Estimator.predict` open, and lets it go on by an answer for each example.

    In the posts `tf.data` reads the requests, now ahead of time: most answers are late. Here the graph reads them.
    """

    def __init__(self, estimator):
        self.predictions = estimator.predict(self.input_fn)

    def input_fn(self):
        features = tf.numpy_function(lambda: self.features, [], tf.float32)
        features.set_shape([None, 2])
        return features

    def predict(self, features):
        self.features = np.array(features, np.float32)
        return [next(self.predictions) for _ in features]


def get_predictions(name, fast_predict, args):
    service, predictions, times = my_service(args.examples), {}, []
    while numbers := list(itertools.islice(service, args.batch)):
        start = time.perf_counter()
        answers = fast_predict.predict([[nb, nb] for nb in numbers])
        times.append((time.perf_counter() - start) / len(numbers))
        predictions.update(zip(numbers, answers))
    report(name, predictions, times)


@script(reads='model', examples=10_000, batch=1)
def main(args):
    estimator = tf.estimator.Estimator(model_fn, args.model_dir, params=args.params)

    fast_predict = FastPredict(estimator)
    get_predictions('fast_predict.py', fast_predict, args)
    fast_predict.predictions.close()

    with LibraryFastPredict(estimator, tf.TensorSpec([None, 2], tf.float32)) as fast_predict:
        get_predictions("fast_predict.py with the library's FastPredict", fast_predict, args)


if __name__ == '__main__':
    main()
