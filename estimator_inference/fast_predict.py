"""Predictions of an Estimator without a new graph and a restored checkpoint for each."""

from __future__ import annotations

from typing import Any, Iterable, Iterator, Mapping, Optional

import tensorflow.compat.v1 as tf
from tensorflow.core.protobuf import config_pb2

from estimator_inference.fast_session import FastSession, check_process
from estimator_inference.feeds import Feed, shown
from estimator_inference.predictor import open_estimator


class FastPredict:
    """What `Estimator.predict` predicts, from a graph that is built once and a checkpoint that is restored once.

        with FastPredict(estimator, tf.TensorSpec([None, 2], tf.float32)) as fast_predict:
            fast_predict.predict([[3, 3]])  # [array([6.], dtype=float32)]

    It may be called from many threads at once, and be open beside others and beside other TensorFlow code. In a child
    that is forked after one was opened, calling it or opening another raises RuntimeError, since TensorFlow's threads
    stay in the parent: fork first.

    It keeps the checkpoint that was the newest when it was opened. To pick up a newer one, open another FastPredict and
    close this one. `close()`, or the end of a `with` block, frees its session. Hooks of the model_fn
    (`prediction_hooks`) are told that the session is made, but not of each call.

    fast_session.py says what is tuned, when a model is frozen, and which config turns that off.
    """

    def __init__(
        self, estimator: Any, feature_spec: Any, config: Optional[config_pb2.ConfigProto] = None
    ) -> None:
        """Opens the newest checkpoint of an Estimator.

        Args:
          estimator: A `tf.estimator.Estimator`, canned ones included. Without a checkpoint it predicts with its initial
            weights, or those that it starts from, as in `Estimator.predict`.
          feature_spec: What its model_fn takes for features: a `tf.TensorSpec`, or dicts, tuples and lists of them. The
            first dimension of each is None, the number of examples.
          config: The `tf.ConfigProto` of the session; what it leaves open is tuned for latency. Default: the
            `session_config` of the Estimator's RunConfig, tuned.

        Raises:
          ValueError: A spec that is none, or has no such dimension.
          RuntimeError: The process was forked from one that had used TensorFlow, or a prediction hook asked to stop.
        """
        check_process('FastPredict')
        # A copy, since the caller may change theirs.
        self._spec = feature_spec = tf.nest.map_structure(lambda spec: spec, feature_spec)
        specs = [(name, spec) for name, spec, _ in _leaves('features', feature_spec, feature_spec)]
        if not specs:
            raise ValueError(
                f'expected a TensorSpec, or a dict of at least one, got {feature_spec}'
            )
        for name, spec in specs:
            if type(spec) is not tf.TensorSpec:
                raise ValueError(f'{name}: expected a TensorSpec, got {shown(spec)}')
            if not spec.shape.rank or spec.shape.as_list()[0] is not None:
                raise ValueError(
                    f'{name}: expected a TensorSpec whose first dimension is None, got {spec}'
                )

        graph = tf.Graph()
        with graph.as_default():
            placeholders = tf.nest.map_structure(
                lambda spec: tf.placeholder(spec.dtype, spec.shape), feature_spec
            )
        session, (self._keys, fetches), config = open_estimator(
            estimator,
            lambda: placeholders,
            _predictions,
            graph,
            config,
            lambda spec: spec.prediction_hooks,
        )
        self._feeds = [
            Feed(name, tensor)
            for name, _, tensor in _leaves('features', feature_spec, placeholders)
        ]
        self._fast_session = FastSession(session, self._feeds, fetches, config, owner='FastPredict')

    def predict(self, features: Any) -> list:
        """Returns the predictions for n examples: a list of n, each as `Estimator.predict` yields it.

        Args:
          features: An array-like, or dicts, tuples and lists of them, that fits the feature_spec: [n, ...]. Values are
            cast as `tf.Session.run` casts what is fed.

        Raises:
          ValueError: The features don't fit the feature_spec, or hold no example.
          RuntimeError: It is closed, or was opened in the parent process.
          tf.errors.OpError: An operation of the graph failed. Later calls work.
        """
        values = (
            [features]
            if type(self._spec) is tf.TensorSpec
            else [value for _, _, value in _leaves('features', self._spec, features)]
        )
        arrays = [feed.array(value) for feed, value in zip(self._feeds, values)]
        examples = len(arrays[0])
        for feed, array in zip(self._feeds, arrays):
            if len(array) != examples or not examples:
                raise ValueError(
                    f'{feed.name}: expected {examples or "at least one"} example(s) as in the features '
                    f'before it, got {len(array)}'
                )
        outputs = self._fast_session.run(arrays, None)
        for output in outputs:
            if getattr(output, 'shape', ())[:1] != (examples,):
                raise ValueError(
                    f'the model_fn predicts an array of shape {getattr(output, "shape", ())} for '
                    f'{examples} examples'
                )
        if self._keys is None:
            return list(outputs[0])
        return [dict(zip(self._keys, values)) for values in zip(*outputs)]

    def close(self) -> None:
        """Frees the session. Later calls raise RuntimeError; closing again does nothing."""
        self._fast_session.close()

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
        keys: Iterable = spec
    elif isinstance(spec, (tuple, list)):
        if not isinstance(features, (tuple, list)) or len(features) != len(spec):
            raise ValueError(f'{name}: expected a tuple of {len(spec)}, got {shown(features)}')
        keys = range(len(spec))
    else:
        yield name, spec, features
        return
    for key in keys:
        yield from _leaves(f'{name}[{key!r}]', spec[key], features[key])


def _predictions(spec: Any) -> tuple[Optional[list], list[tf.Tensor]]:
    """Returns the predictions of an EstimatorSpec: their keys, or None where there is one without, and the tensors."""
    keys = list(spec.predictions) if isinstance(spec.predictions, Mapping) else None
    predictions = [spec.predictions] if keys is None else spec.predictions.values()
    return keys, [tf.convert_to_tensor(prediction) for prediction in predictions]
