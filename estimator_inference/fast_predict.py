"""Predictions of an Estimator without a new graph and a restored checkpoint for each."""

from __future__ import annotations

from typing import Any, Callable, Collection, Iterable, Iterator, Mapping, Optional

import tensorflow.compat.v1 as tf
from tensorflow.core.protobuf import config_pb2

from estimator_inference import _private_api
from estimator_inference.fast_session import FastSession, check_process, close_session
from estimator_inference.feeds import Feed, shown
from estimator_inference.predictor import open_estimator


class FastPredict:
    """What `Estimator.predict` predicts, with the graph built and the checkpoint restored once.

        with FastPredict(estimator, tf.TensorSpec([None, 2], tf.float32)) as fast_predict:
            fast_predict.predict([[3, 3]])  # [array([6.], dtype=float32)]

    It may be called from many threads at once, and be open beside others and beside other
    TensorFlow code. In a child that is forked after one was opened, calling it or opening another
    raises RuntimeError, since TensorFlow's threads stay in the parent: fork first.

    It keeps the checkpoint that was the newest when it was opened. `close()`, or the end of a
    `with` block, frees its session. Hooks of the model_fn (`prediction_hooks`) are told that the
    session is made, but not of each call.
    """

    def __init__(
        self,
        estimator: Any,
        feature_spec: Any,
        config: Optional[config_pb2.ConfigProto] = None,
        predict_keys: Optional[Collection[str]] = None,
        yield_single_examples: bool = True,
    ) -> None:
        """Opens the newest checkpoint of an Estimator.

        Args:
          estimator: A `tf.estimator.Estimator`, canned ones included. Without a checkpoint it
            predicts with its initial weights, or those that it starts from.
          feature_spec: What its model_fn takes for features: a `tf.TensorSpec`, or dicts, tuples
            and lists of them. Where the number of examples may vary, a dimension is None.
          config: The `tf.ConfigProto` of the session; what it leaves open is tuned for latency.
            Default: the `session_config` of the Estimator's RunConfig, tuned.
          predict_keys: Which predictions to return, by their keys. Default: all.
          yield_single_examples: False returns the predictions of a call whole.

        Raises:
          ValueError: A spec that is none; keys that no prediction has.
          RuntimeError: The process was forked from one that had used TensorFlow, or a prediction
            hook asked to stop.
        """
        check_process('FastPredict')
        # A copy, since the caller may change theirs.
        self._spec = feature_spec = tf.nest.map_structure(lambda spec: spec, feature_spec)
        self._single = yield_single_examples
        specs = [(name, spec) for name, spec, _ in _leaves('features', feature_spec, feature_spec)]
        if not specs:
            raise ValueError(
                f'expected a TensorSpec, or a dict of at least one, got {feature_spec}'
            )
        for name, spec in specs:
            if type(spec) is not tf.TensorSpec:
                raise ValueError(f'{name}: expected a TensorSpec, got {shown(spec)}')

        def features_fn() -> Any:
            features = tf.nest.map_structure(
                lambda spec: tf.placeholder(spec.dtype, spec.shape), feature_spec
            )
            # Now, since the model_fn may change the features.
            self._feeds = [
                Feed(name, tensor)
                for name, _, tensor in _leaves('features', feature_spec, features)
            ]
            _private_api.predict_on_tpu_estimator(estimator)
            return features

        def opener_fn(spec: Any) -> Callable[[tf.Session], FastSession]:
            self._keys, fetches = _predictions(spec.predictions, predict_keys)

            def opener(session: tf.Session) -> FastSession:
                fast_session = FastSession(session, fetches, 'FastPredict')
                # Made here, so that `open_session` sees what the executor refuses.
                self._run = fast_session.function(self._feeds)
                return fast_session

            return opener

        self._fast_session = open_estimator(
            estimator,
            features_fn,
            opener_fn,
            tf.Graph(),
            config,
            lambda spec: spec.prediction_hooks,
        )

    def predict(self, features: Any) -> Any:
        """Returns the predictions for n examples, each as `Estimator.predict` yields it.

        Args:
          features: An array-like, or dicts, tuples and lists of them, that fits the feature_spec.
            Values are cast as `tf.Session.run` casts what is fed.

        Returns:
          A list of n arrays, or dicts of them. With `yield_single_examples=False` one array, or one
          dict of arrays, as the model_fn predicts it.

        Raises:
          ValueError: The features don't fit the feature_spec; a prediction has no row for each
            example.
          RuntimeError: It is closed, or was opened in the parent process.
          tf.errors.OpError: An operation of the graph failed. Later calls work.
        """
        values = (
            [features]
            if type(self._spec) is tf.TensorSpec
            else [value for _, _, value in _leaves('features', self._spec, features)]
        )
        arrays = [feed.array(value) for feed, value in zip(self._feeds, values)]
        outputs = self._run(arrays)
        if not self._single:
            return outputs[0] if self._keys is None else dict(zip(self._keys, outputs))
        shapes = [getattr(output, 'shape', ()) for output in outputs]  # a scalar string has none
        if not shapes[0] or len({shape[:1] for shape in shapes}) > 1:
            raise ValueError(
                f'the predictions {self._keys or ""} have the shapes {shapes}, not a row for each '
                'example: use predict_keys to leave one out, or yield_single_examples=False'
            )
        if self._keys is None:
            return list(outputs[0])
        return [dict(zip(self._keys, values)) for values in zip(*outputs)]

    def close(self) -> None:
        """Frees the session. Later calls raise RuntimeError; closing again does nothing."""
        close_session(self._fast_session.session)

    def __enter__(self) -> FastPredict:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def _leaves(name: str, spec: Any, features: Any) -> Iterator[tuple[str, Any, Any]]:
    """Yields (name, TensorSpec, value) for each leaf of dicts, tuples and lists.

    Raises:
      ValueError: The features are built otherwise than their spec.
    """
    if isinstance(spec, Mapping):
        if not isinstance(features, Mapping) or features.keys() != spec.keys():
            got = shown(list(features) if isinstance(features, Mapping) else features)
            raise ValueError(f'{name}: expected a dict with the keys {list(spec)}, got {got}')
        keys: Iterable[Any] = spec
    elif isinstance(spec, (tuple, list)):
        if not isinstance(features, (tuple, list)) or len(features) != len(spec):
            raise ValueError(f'{name}: expected a tuple of {len(spec)}, got {shown(features)}')
        keys = range(len(spec))
    else:
        yield name, spec, features
        return
    for key in keys:
        yield from _leaves(f'{name}[{key!r}]', spec[key], features[key])


def _predictions(
    predictions: Any, predict_keys: Optional[Collection[str]]
) -> tuple[Optional[list[str]], list[tf.Tensor]]:
    """Returns the keys of what to fetch, or None for one prediction without, and the tensors."""
    if not isinstance(predictions, Mapping):
        if predict_keys:
            raise ValueError(f'predict_keys are {list(predict_keys)}, but predictions are no dict')
        return None, [tf.convert_to_tensor(predictions)]
    keys = [key for key in predictions if key in (predict_keys or predictions)]
    if not keys:
        raise ValueError(f'no prediction {list(predict_keys or ())}, only {list(predictions)}')
    return keys, [tf.convert_to_tensor(predictions[key]) for key in keys]
