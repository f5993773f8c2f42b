"""Predicts with the newest export and a predictor: the posts' good way.

    python serve.py

needs no model.py and no checkpoint.
"""

import pathlib
import time

import support
from estimator_inference import predictor


def my_service(examples):  # as in predict.py, which needs model.py
    """Yields numbers from 100 on, one at a time, as the requests of a service come in."""
    for number in range(100, 100 + examples):
        yield number


def main(argv=None):
    args = support.parser(__doc__, export_dir='saved_model', examples=10_000).parse_args(argv)

    # While an export is being written, it is called temp-<timestamp>.
    paths = pathlib.Path(args.export_dir).glob('*')
    subdirs = [path for path in paths if path.is_dir() and path.name.isdecimal()]
    if not subdirs:
        raise support.Error(
            f'no export in {args.export_dir}: run python export.py --export-dir {args.export_dir}'
        )
    latest = str(max(subdirs, key=lambda path: int(path.name)))
    print(f'Serving {latest}')
    predict_fn = predictor.from_saved_model(latest)  # or, without an export, from_estimator
    if 'number' not in predict_fn.feed_tensors:  # an export of iris.train, for one
        raise support.Error(f"expected an export with the input 'number', got {predict_fn}")

    predictions, times = {}, []
    for nb in my_service(args.examples):
        start = time.perf_counter()
        pred = predict_fn({'number': [[nb]]})
        times.append(time.perf_counter() - start)
        if 'output' in pred:  # post A's model
            predictions[nb] = pred['output']
        else:  # post B's
            predictions[nb] = {'hidden': pred['hidden'], 'predictions': pred['predictions']}

    support.report('serve.py', predictions, times)


if __name__ == '__main__':
    support.run(main)
