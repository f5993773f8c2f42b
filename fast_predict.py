"""Predicts with FastPredict: one `Estimator.predict` that is kept open, so that the graph is built only once.

    python fast_predict.py

FastPredict works in any project that has Estimators. To use it elsewhere, copy this file: what stands above `main`
needs tensorflow and numpy only.
"""
from __future__ import annotations

import contextlib
import threading
import weakref
from concurrent import futures
from typing import Any, Callable, Iterator, Mapping, Optional, Sequence, Union

import numpy as np

try:
    from tf1 import tf
except ModuleNotFoundError:  # in a project of its own, with an Estimator from elsewhere
    import tensorflow.compat.v1 as tf


class FastPredict:
    """Predictions of an Estimator without a new graph and a restored checkpoint for each.

        with FastPredict(estimator, tf.TensorSpec([None, 2], tf.float32)) as fast_predict:
            fast_predict.predict([[3, 3]])  # [array([6.], dtype=float32)]

    One `Estimator.predict` generator stays open over a generator of requests: each call of `predict` puts one request
    in and takes one answer out, so that no answer belongs to another question. It may be called from many threads at
    once; they are answered one after the other.

    It keeps the checkpoint that was the newest when it was opened. To pick up a newer one, open another FastPredict and
    close this one. `close()`, or the end of a `with` block, frees its session.

    Operations run in the thread that calls (`RunOptions.inter_op_thread_pool = -1`, which TensorFlow recommends for
    simple graphs): parallel branches of a graph run one after the other.
    """

    def __init__(self, estimator: Any, feature_spec: Union[tf.TensorSpec, Mapping[str, tf.TensorSpec]]) -> None:
        """Opens the newest checkpoint of an Estimator.

        Args:
          estimator: A trained `tf.estimator.Estimator`, canned ones included.
          feature_spec: What its model_fn takes for features: a `tf.TensorSpec`, or a dict of them. The first dimension
            of each is None, the number of examples.

        Raises:
          ValueError: A spec without that dimension, or an Estimator without a checkpoint.
        """
        self._is_dict = isinstance(feature_spec, Mapping)
        self._specs = dict(feature_spec) if self._is_dict else {'features': feature_spec}
        for key, spec in self._specs.items():
            if not spec.shape.rank or spec.shape.as_list()[0] is not None:
                raise ValueError(f'{key}: expected a TensorSpec whose first dimension is None, got {spec}')
        checkpoint = estimator.latest_checkpoint()
        if checkpoint is None:
            raise ValueError(f'no checkpoint in {estimator.model_dir}: train the Estimator first')
        predictions = _OpenPredict(estimator, feature_spec, checkpoint)
        self._ask = predictions.ask
        self._close = weakref.finalize(self, predictions.close)  # at the latest when the interpreter exits

    def predict(self, features: Any) -> list:
        """Returns the predictions for n examples: a list of n, each as `Estimator.predict` yields it.

        Args:
          features: An array-like, or a dict of them, that fits the feature_spec: [n, ...].

        Raises:
          ValueError: The features don't fit the feature_spec, or hold no example.
          RuntimeError: It is closed.
          tf.errors.OpError: An operation of the graph failed. Later calls work.
        """
        arrays = self._check(features)
        predictions = self._ask(arrays)
        examples = len(arrays[0])
        for value in predictions.values() if isinstance(predictions, dict) else [predictions]:
            if np.shape(value)[:1] != (examples,):
                raise ValueError(f'the model_fn predicts an array of shape {np.shape(value)} for {examples} examples')
        if isinstance(predictions, dict):
            return [dict(zip(predictions, values)) for values in zip(*predictions.values())]
        return list(predictions)

    def close(self) -> None:
        """Closes the session, once the calls under way are answered. Closing again does nothing."""
        self._close()

    def __enter__(self) -> FastPredict:
        return self

    def __exit__(self, *exc_info) -> None:
        self.close()

    def _check(self, features):
        """Returns the features as arrays in the order of the specs, or tells what is wrong with them."""
        given = features if self._is_dict else {'features': features}
        if not isinstance(given, Mapping) or given.keys() != self._specs.keys():
            got = list(given) if isinstance(given, Mapping) else f'{features!r:.200}'
            raise ValueError(f'expected a dict with the features {list(self._specs)}, got {got}')
        arrays = []
        for key, spec in self._specs.items():
            dtype, shape = spec.dtype.as_numpy_dtype, spec.shape.as_list()
            try:
                array = np.asarray(given[key], dtype)
                if dtype is object and not all(isinstance(element, (str, bytes)) for element in array.flat):
                    raise TypeError('neither str nor bytes')
            except (TypeError, ValueError, OverflowError) as error:
                raise ValueError(f'{key}: expected {spec.dtype.name} {shape}, '
                                 f'got {given[key]!r:.200}: {error}') from None
            if len(shape) != array.ndim or any(size not in (None, got) for size, got in zip(shape, array.shape)):
                raise ValueError(f'{key}: expected {spec.dtype.name} {shape}, got the shape {list(array.shape)}')
            if not len(array) or len(array) != len(arrays[0] if arrays else array):
                raise ValueError(f'{key}: expected {len(arrays[0]) if arrays else "at least one"} example(s) '
                                 f'as in the features before it, got {len(array)}')
            arrays.append(array)
        return arrays


class _OpenPredict(tf.train.SessionRunHook):
    """One `Estimator.predict` generator, kept open, and the generator of requests that feeds it.

    The default graph of the thread that starts such a generator is the generator's until it is closed, and has to be
    closed there: other TensorFlow code in that thread would fail meanwhile. So a thread of its own starts it, waits,
    and closes it. Any thread can resume it in between, at no cost, as long as no exception ends it there.
    """

    def __init__(self, estimator, feature_spec, checkpoint):
        self._feature_spec = feature_spec
        self._lock = threading.Lock()
        self._request, self._asked, self._closed = None, threading.Event(), threading.Event()
        self._opened, self._first_answer = futures.Future(), futures.Future()
        self._answers = None
        self._thread = threading.Thread(target=self._hold_open, args=(estimator, checkpoint), daemon=True)
        self._thread.start()
        self._opened.result()

    def ask(self, arrays):
        """Returns the predictions, an array or a dict of them, for a list of arrays of features."""
        with self._lock:
            if self._closed.is_set():
                raise RuntimeError('this FastPredict is closed')
            self._request = arrays
            if self._answers is None:
                self._asked.set()
                answer = self._first_answer.result()
            else:
                answer = next(self._answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def close(self):
        with self._lock:
            self._closed.set()
            self._asked.set()
        self._thread.join()

    def _requests(self):
        self._asked.wait()  # the thread that opens comes here before there is anything to ask
        while not self._closed.is_set():
            yield self._request

    def _input_fn(self):
        specs = self._feature_spec
        keys, specs = zip(*specs.items()) if isinstance(specs, Mapping) else (None, [specs])
        # Not a tf.data.Dataset: it reads ahead, and from the second request on each answer is to an earlier one.
        tensors = tf.numpy_function(self._requests().__next__, [], [spec.dtype for spec in specs])
        for tensor, spec in zip(tensors, specs):
            tensor.set_shape(spec.shape)
        return dict(zip(keys, tensors)) if keys else tensors[0]

    def _hold_open(self, estimator, checkpoint):
        logger = tf.get_logger()
        logger.addFilter(_is_wanted)
        try:
            answers = estimator.predict(self._input_fn, hooks=[self], checkpoint_path=checkpoint,
                                        yield_single_examples=False)
            first_answer = next(answers)
        except BaseException as error:
            (self._first_answer if self._opened.done() else self._opened).set_exception(error)
            self._closed.set()
            return
        finally:
            logger.removeFilter(_is_wanted)
        self._answers = answers
        self._first_answer.set_result(first_answer)
        self._closed.wait()
        answers.close()

    def after_create_session(self, session, coord):
        """Called by TensorFlow when the graph is built and the checkpoint restored."""
        run, function = session.run, None
        inline = tf.RunOptions(inter_op_thread_pool=-1)

        # Takes the place of this session's run, which MonitoredSession calls with what to predict under 'caller', and
        # expects it under 'caller' (a detail of it, the same from TensorFlow 1.4 to 2.21). An error of an operation
        # is handed out as an answer: raised here, it would end the generator, in a thread that is not its own. And
        # fetches are resolved once instead of in each call, which halves the latency.
        def run_caught(fetches, feed_dict=None, options=None, run_metadata=None):
            nonlocal function
            if not isinstance(fetches, dict) or 'caller' not in fetches:
                return run(fetches, feed_dict, options, run_metadata)
            try:
                if feed_dict or len(fetches) > 1:  # a hook of the model_fn wants something too
                    return run(fetches, feed_dict, options, run_metadata)
                if function is None:
                    function = session.make_callable(fetches, accept_options=True)
                return function(options=inline)
            except tf.errors.OpError as error:
                return {'caller': error}

        session.run = run_caught
        self._opened.set_result(None)


def _is_wanted(record):
    """Leaves out Estimator's warning that features which don't come from a tf.data.Dataset are probably a mistake."""
    return 'does not use tf.data.Dataset' not in str(record.msg)


# The script: the posts' fast_predict.py, and with --batch their faster_predict.py.


@contextlib.contextmanager
def open_fast_predict(model_dir: str) -> Iterator[Callable[[Sequence[float]], list[float]]]:
    """Gives `get_predictions`, which asks a FastPredict."""
    import model
    with FastPredict(model.load_estimator(model_dir), tf.TensorSpec([None, 2], tf.float32)) as fast_predict:

        def get_predictions(numbers):
            predictions = fast_predict.predict([[number, number] for number in numbers])
            return [model.output(prediction) for prediction in predictions]

        yield get_predictions


def main(argv: Optional[Sequence[str]] = None) -> None:
    import cli
    import latency
    parser = cli.Parser(__doc__)
    parser.add('--model-dir', '--examples')
    parser.add_argument('--batch', type=cli.positive, default=10, metavar='N',
                        help='examples in a call, for the second line (default: %(default)s)')
    args = parser.parse_args(argv)

    tf.logging.set_verbosity(tf.logging.INFO)
    for batch in (1, args.batch):
        timing = latency.measure(open_fast_predict(args.model_dir), args.examples, batch)
        print(f'Average time in fast_predict.py: {timing}')


if __name__ == '__main__':
    import cli
    cli.run(main)
