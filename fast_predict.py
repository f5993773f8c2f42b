"""Predicts with FastPredict: one `Estimator.predict` stays open, and its graph is built only once.

    python fast_predict.py             one example a call
    python fast_predict.py --batch 10  several examples a call, as in post B's faster_predict.py,
                                       whose graph takes them one by one, and this one all at once

`PostsFastPredict` is the posts' class; compare.py runs it and counts its wrong answers. This script
measures `FastPredict`, which is the same with one method changed, and then the library's.
"""

import time

import support
import estimator_inference
import numpy as np
from estimator_inference import tf
from model import model_fn
from predict import my_service


class PostsFastPredict:
    """FastPredict as the posts have it: an endless generator of features keeps `predict` open.

    Right on TensorFlow 1, and distrusted by the author of post A all the same: two generators may
    get out of step. Since TensorFlow 2 they do. tf.data reads ahead, before a call has set the
    features that it asks for: nearly every answer is that to an earlier call.
    """

    def __init__(self, estimator):
        # A generator: nothing runs before the first `next`, and by then `features` is set.
        self.predictions = estimator.predict(self.input_fn)

    def generator(self):
        while True:
            yield from self.features

    def input_fn(self):
        return tf.data.Dataset.from_generator(self.generator, tf.float32, [2]).batch(1)

    def predict(self, features):
        """Returns the predictions for features [n, 2]: a list of n."""
        self.features = np.array(features, np.float32)
        return [next(self.predictions) for _ in features]

    def close(self):
        self.predictions.close()


class FastPredict(PostsFastPredict):
    """The posts' idea, made right: the graph itself reads the features, once it is asked."""

    def input_fn(self):
        features = tf.numpy_function(lambda: self.features, [], tf.float32)
        features.set_shape([None, 2])
        return features


def measure(name, fast_predict, args):
    """Asks for all numbers, a batch a call, and reports the answers and the times."""
    numbers = list(my_service(args.examples))
    predictions, times = {}, []
    for place in range(0, len(numbers), args.batch):
        batch = numbers[place : place + args.batch]
        start = time.perf_counter()
        answers = fast_predict.predict([[nb, nb] for nb in batch])
        times.append(time.perf_counter() - start)
        predictions.update(zip(batch, answers))
    fast_predict.close()
    support.report(name, predictions, times)


def main(argv=None):
    args = support.parser(__doc__, model_dir='model', examples=10_000, batch=1).parse_args(argv)

    estimator = tf.estimator.Estimator(
        model_fn, args.model_dir, params=support.params(args.model_dir)
    )
    measure('fast_predict.py', FastPredict(estimator), args)

    library = estimator_inference.FastPredict(estimator, tf.TensorSpec([None, 2], tf.float32))
    measure("fast_predict.py with the library's FastPredict", library, args)


if __name__ == '__main__':
    support.run(main)
