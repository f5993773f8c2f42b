"""Predicts with the newest export and a predictor: the posts' good way. No Estimator, no model.py.

python serve.py
"""

import time

from support import (
    report,
    script,
)  # first, since it keeps TensorFlow's start-up noise off the screen
from estimator_inference import exports, predictor


def my_service(examples):
    """Yields numbers from 100 on, one at a time, as the requests of a service come in."""
    for number in range(100, 100 + examples):
        yield number


@script(reads='saved_model', examples=10_000)
def main(args):
    latest = exports.latest(args.export_dir)
    print(f'Serving {latest}')
    predict_fn = predictor.from_saved_model(
        latest
    )  # or, from the Estimator itself, predictor.from_estimator

    predictions, times = {}, []
    for nb in my_service(args.examples):
        start = time.perf_counter()
        predictions[nb] = predict_fn({'number': [[nb]]})['output']
        times.append(time.perf_counter() - start)

    report('serve.py', predictions, times)


if __name__ == '__main__':
    main()
