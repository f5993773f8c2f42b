"""Predicts with FastPredict: one `Estimator.predict` that is kept open, so that the graph is built only once.

    python fast_predict.py

FastPredict works in any project that has Estimators. To use it elsewhere, copy this file: what stands above `main`
needs tensorflow and numpy only.
"""
from __future__ import annotations

import contextlib
import functools
import os
import threading
import weakref
from concurrent import futures
from typing import Any, Callable, Iterator, Mapping, Optional, Sequence, Union

import numpy as np

if __name__ == '__main__':
    import cli  # noqa: F401  before TensorFlow

try:
    from tf1 import tf
except ModuleNotFoundError:  # in a project of its own, with an Estimator from elsewhere
    import tensorflow.compat.v1 as tf  # type: ignore[no-redef]


class FastPredict:
    """Predictions of an Estimator without a new graph and a restored checkpoint for each.

        with FastPredict(estimator, tf.TensorSpec([None, 2], tf.float32)) as fast_predict:
            fast_predict.predict([[3, 3]])  # [array([6.], dtype=float32)]

    One `Estimator.predict` generator is kept open: it has built the graph, restored the checkpoint, and waits in its
    first step. Each call of `predict` runs that step on one request, so that no answer belongs to another question.
    It may be called from many threads at once; they are answered one after the other. In a child that is forked
    after one was opened, calling it or opening another raises RuntimeError, since TensorFlow's threads stay in the
    parent: fork first.

    It keeps the checkpoint that was the newest when it was opened. To pick up a newer one, open another FastPredict and
    close this one. `close()`, or the end of a `with` block, frees its session.

    Operations run in the thread that calls (`RunOptions.inter_op_thread_pool = -1`, which TensorFlow recommends for
    simple graphs): parallel branches of a graph run one after the other. Hooks of the model_fn (`prediction_hooks`)
    aren't called.
    """

    def __init__(self, estimator: Any, feature_spec: Union[tf.TensorSpec, Mapping[str, tf.TensorSpec]]) -> None:
        """Opens the newest checkpoint of an Estimator.

        Args:
          estimator: A trained `tf.estimator.Estimator`, canned ones included.
          feature_spec: What its model_fn takes for features: a `tf.TensorSpec`, or a dict of them. The first dimension
            of each is None, the number of examples.

        Raises:
          ValueError: A spec without that dimension, or an Estimator without a checkpoint.
          RuntimeError: The process was forked from one that had opened a FastPredict.
        """
        _check_process()
        self._is_dict = isinstance(feature_spec, Mapping)
        if not feature_spec:
            raise ValueError(f'expected a TensorSpec, or a dict of at least one, got {feature_spec}')
        self._specs: dict[str, Any] = dict(feature_spec) if self._is_dict else {'features': feature_spec}
        for key, spec in self._specs.items():
            if not spec.shape.rank or spec.shape.as_list()[0] is not None:
                raise ValueError(f'{key}: expected a TensorSpec whose first dimension is None, got {spec}')
        checkpoint = estimator.latest_checkpoint()
        if checkpoint is None:
            raise ValueError(f'no checkpoint in {estimator.model_dir}: train the Estimator first')
        self._generator = _OpenPredict(estimator, feature_spec, checkpoint)
        # At the latest when the interpreter exits: a generator that is open then would print a traceback.
        self._finalizer = weakref.finalize(self, self._generator.close, for_good=True)

    def predict(self, features: Any) -> list:
        """Returns the predictions for n examples: a list of n, each as `Estimator.predict` yields it.

        Args:
          features: An array-like, or a dict of them, that fits the feature_spec: [n, ...].

        Raises:
          ValueError: The features don't fit the feature_spec, or hold no example.
          RuntimeError: It is closed, or was opened in the parent process.
          tf.errors.OpError: An operation of the graph failed. Later calls work.
        """
        arrays = self._check(features)
        predictions = self._generator.ask(arrays)
        examples = len(arrays[0])
        for value in predictions.values() if isinstance(predictions, dict) else [predictions]:
            if np.shape(value)[:1] != (examples,):
                raise ValueError(f'the model_fn predicts an array of shape {np.shape(value)} for {examples} examples')
        if isinstance(predictions, dict):
            return [dict(zip(predictions, values)) for values in zip(*predictions.values())]
        return list(predictions)

    def close(self) -> None:
        """Closes the session, once the calls under way are answered. Closing again does nothing."""
        if self._finalizer.detach():
            self._generator.close()

    def __enter__(self) -> FastPredict:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _check(self, features):
        """Returns the features as arrays in the order of the specs, or tells what is wrong with them."""
        given = features if self._is_dict else {'features': features}
        if not isinstance(given, Mapping) or given.keys() != self._specs.keys():
            got = _shown(list(given) if isinstance(given, Mapping) else features)
            raise ValueError(f'expected a dict with the features {list(self._specs)}, got {got}')
        arrays = []
        for key, spec in self._specs.items():
            dtype, shape = spec.dtype.as_numpy_dtype, spec.shape.as_list()
            try:
                array = _cast(given[key], dtype)
            except (TypeError, ValueError, OverflowError, RecursionError) as error:
                raise ValueError(f'{key}: expected {spec.dtype.name} {shape}, '
                                 f'got {_shown(given[key])}: {error!s:.200}') from None
            if len(shape) != array.ndim or any(size not in (None, got) for size, got in zip(shape, array.shape)):
                raise ValueError(f'{key}: expected {spec.dtype.name} {shape}, got the shape {list(array.shape)}')
            if not len(array) or len(array) != len(arrays[0] if arrays else array):
                raise ValueError(f'{key}: expected {len(arrays[0]) if arrays else "at least one"} example(s) '
                                 f'as in the features before it, got {len(array)}')
            arrays.append(array)
        return arrays


def _cast(value, dtype):
    """Returns an array-like as an array of a dtype; raises TypeError or ValueError where that would change a value."""
    if dtype is object:
        return np.vectorize(tf.compat.as_bytes, otypes=[object])(np.asarray(value, object))
    array = np.asarray(value)
    if array.dtype.kind in 'OSUMm' or array.dtype.kind == 'c' != np.dtype(dtype).kind:
        raise TypeError(f'it is {array.dtype}')
    if np.ma.is_masked(value):
        raise ValueError('a value of it is masked')
    with np.errstate(invalid='ignore'):
        cast = array.astype(dtype, copy=False)
    if cast.dtype.kind in 'biu' and array.dtype != cast.dtype and (cast != array).any():
        raise ValueError('it does not fit')
    return cast


def _shown(value):
    try:
        return f'{value!r:.200}'
    except Exception:  # nested too deep, an int of more digits than Python prints, or an error of its own
        return f'something of type {type(value).__name__}'


class _OpenPredict(tf.train.SessionRunHook):
    """One `Estimator.predict` generator, kept open, and the request that it reads.

    Such a generator makes its graph the default graph of the thread that runs it, until it ends: other TensorFlow code
    in that thread fails meanwhile, and so does ending it in another. So it runs in a thread of its own, where a hook
    makes it wait, and other threads never touch it: they run its step in its session.
    """

    def __init__(self, estimator, feature_spec, checkpoint):
        self._feature_spec, self._request = feature_spec, None
        self._lock, self._closed = threading.Lock(), threading.Event()
        global _pid
        _pid = os.getpid()
        self._opened = futures.Future()  # of the function that runs a step
        self._thread = threading.Thread(target=self._hold_open, args=(estimator, checkpoint), daemon=True)
        self._thread.start()
        try:
            self._step = self._opened.result()
        except BaseException:  # Ctrl-C, for one
            self._closed.set()
            self._thread.join()  # it is within TensorFlow, and Python's exit would kill it there
            raise

    def ask(self, arrays):
        """Returns the predictions, an array or a dict of them, for a list of arrays of features."""
        _check_process()
        with self._lock:
            if self._closed.is_set():
                raise RuntimeError('this FastPredict is closed')
            self._request = arrays
            try:
                return self._step(options=_IN_THIS_THREAD)
            except tf.errors.UnknownError as error:
                if error.message.startswith('KeyboardInterrupt'):  # Ctrl-C while TensorFlow ran a Python function
                    raise KeyboardInterrupt from None
                raise

    def close(self, for_good=False):
        """Ends the generator. `for_good`: nobody will ask again but threads that the interpreter's exit cuts off."""
        if os.getpid() != _pid:
            return  # the thread stayed in the parent
        self._lock.acquire()
        self._closed.set()
        if not for_good:
            self._lock.release()
        self._thread.join()

    def _input_fn(self):
        specs = self._feature_spec
        keys, specs = zip(*specs.items()) if isinstance(specs, Mapping) else (None, [specs])
        # Not a tf.data.Dataset: it reads ahead, and from the second request on each answer is to an earlier one.
        tensors = tf.numpy_function(lambda: self._request, [], [spec.dtype for spec in specs])
        for tensor, spec in zip(tensors, specs):
            tensor.set_shape(spec.shape)
        return dict(zip(keys, tensors)) if keys else tensors[0]

    def _hold_open(self, estimator, checkpoint):
        tf.get_logger().addFilter(self._is_wanted)
        try:
            for _ in estimator.predict(self._input_fn, hooks=[self], checkpoint_path=checkpoint,
                                       yield_single_examples=False):
                pass
        except BaseException as error:
            if self._opened.done():
                raise
            self._opened.set_exception(error)
        finally:
            tf.get_logger().removeFilter(self._is_wanted)

    def before_run(self, run_context):
        """Called by TensorFlow before the first step: the graph is built, and the checkpoint restored."""
        tf.get_logger().removeFilter(self._is_wanted)
        predictions = run_context.original_args.fetches
        self._opened.set_result(run_context.session.make_callable(predictions, accept_options=True))
        self._closed.wait()
        raise tf.errors.OutOfRangeError(None, None, 'closed')  # what the end of the input raises

    def _is_wanted(self, record):
        # Estimator warns that features from elsewhere than a tf.data.Dataset are probably a mistake.
        return 'does not use tf.data.Dataset' not in str(record.msg)


_IN_THIS_THREAD = tf.RunOptions(inter_op_thread_pool=-1)
_pid = None  # of the process that opened a FastPredict


def _check_process():
    if _pid not in (None, os.getpid()):
        raise RuntimeError('FastPredict was used in the parent process, and TensorFlow does not work in a child that '
                           'is forked after that: fork first, then open a FastPredict')


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
    parser.add_argument('--batch', type=functools.partial(cli.positive, most=10 ** 6), default=10, metavar='N',
                        help='examples in a call, for the second line (default: %(default)s)')
    args = parser.parse_args(argv)

    tf.logging.set_verbosity(tf.logging.INFO)
    for batch in (1, args.batch):
        timing = latency.measure(open_fast_predict(args.model_dir), args.examples, batch)
        print(f'Average time in fast_predict.py: {timing}')


if __name__ == '__main__':
    main()
