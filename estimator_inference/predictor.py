"""The successor of `tf.contrib.predictor`: the same calls on today's TensorFlow, and faster.

    from estimator_inference import predictor

    predict_fn = predictor.from_saved_model('saved_model/1700000000')
    predict_fn({'number': [[3]]})  # {'output': array([[6.]], dtype=float32)}

A SavedModel is a program: load only those you trust.
"""

from __future__ import annotations

import os
import re
from typing import Any, Callable, Mapping, Optional, Sequence

import tensorflow.compat.v1 as tf
from tensorflow.core.protobuf import config_pb2, meta_graph_pb2

from estimator_inference import _private_api, exports
from estimator_inference.fast_session import FastSession, ancestors, check_process, tuned
from estimator_inference.feeds import Feed, Missing, check_keys, described, shown


class Predictor:
    """Calls one signature of a graph: a dict of values in, a dict of arrays out.

    Made by `from_saved_model` and `from_estimator`. It may be called from many threads at once. `close()`, or the end
    of a `with` block, frees its session. In a child that is forked after one was made, calling it or making another
    raises RuntimeError, since TensorFlow's threads stay in the parent: fork first.

    fast_session.py says what is tuned, when a model is frozen, and which config turns that off.

    Attributes:
      graph: The `tf.Graph` that was loaded.
      session: The `tf.Session` that holds its variables. To close it is to close the predictor.
      feed_tensors: {input key: `tf.Tensor`}.
      fetch_tensors: {output key: `tf.Tensor`}.
    """

    def __init__(
        self,
        session: tf.Session,
        feed_tensors: Mapping[str, tf.Tensor],
        fetch_tensors: Mapping[str, tf.Tensor],
        config: config_pb2.ConfigProto,
        freeze: bool = True,
    ) -> None:
        """Takes a session made with `config`, which fast_session.py's `tuned` returned; `freeze`: see FastSession."""
        self.graph, self.session = session.graph, session
        self.feed_tensors, self.fetch_tensors = dict(feed_tensors), dict(fetch_tensors)
        self._feeds = {
            key: Feed(f'input {key!r}', tensor) for key, tensor in self.feed_tensors.items()
        }
        self._arrays = [(key, feed.array) for key, feed in self._feeds.items()]
        tensors = {tensor.name: self._feeds[key] for key, tensor in self.feed_tensors.items()}
        # How many values the short way takes. Where two keys feed one tensor, it is never taken.
        self._count = len(tensors) if len(tensors) == len(self._feeds) else None
        self._enough: set[tuple[str, ...]] = (
            set()
        )  # the tensors that it has been found to be enough to feed
        self._outputs = tuple(self.fetch_tensors)
        self._fast_session = FastSession(
            session, list(tensors.values()), list(self.fetch_tensors.values()), config, freeze
        )

    def __call__(self, input_dict: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the outputs for one batch of inputs.

        Args:
          input_dict: {input key: value}, or what else has `keys` and `items`, a pandas DataFrame for one. A value is a
            scalar, a list, an array, str or bytes, and is cast to the dtype of its tensor as `tf.Session.run` casts;
            but Python's numbers that it can't hold, nan as int32 say, are refused. An input that has a default, or that
            the outputs don't need, may be left out or be None.

        Returns:
          {output key: value}, values as `tf.Session.run` returns them: np.ndarray, for strings of dtype object. Each is
          the caller's own: no later call changes it, nor does a change of it change later answers.

        Raises:
          ValueError: An unknown or missing key, a shape that doesn't fit, a value that can't be cast.
          RuntimeError: The predictor is closed, or was made in the parent process.
          tf.errors.OpError: An operation of the graph failed, say for a malformed `tf.train.Example`, or `close()` in
            another thread cancelled it.
        """
        if type(input_dict) is not dict:
            input_dict = _as_dict(input_dict, list(self._feeds))
        run, arrays = self._fast_session.run, []
        try:
            for key, array in self._arrays:
                arrays.append(array(input_dict[key]))
        except (KeyError, Missing):
            pass
        if not len(arrays) == len(input_dict) == self._count:
            run, arrays = self._general(input_dict)
        return dict(zip(self._outputs, run(arrays, None)))

    def __repr__(self) -> str:
        feed, fetch = (
            ', '.join(f'{key!r}: {described(tensor)}' for key, tensor in tensors.items())
            for tensors in (self.feed_tensors, self.fetch_tensors)
        )
        return f'<Predictor: feed {{{feed}}}, fetch {{{fetch}}}>'

    def __enter__(self) -> Predictor:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Frees the session. Later calls raise RuntimeError; closing again does nothing."""
        self._fast_session.close()

    # The names under which programs that were written for tf.contrib.predictor reach into it.
    _graph = property(lambda self: self.graph)
    _session = property(lambda self: self.session)
    _feed_tensors = property(lambda self: self.feed_tensors)
    _fetch_tensors = property(lambda self: self.fetch_tensors)

    def _general(self, input_dict):
        """Returns (function, arrays) for inputs some of which may be left out, or tells what is wrong with them."""
        check_keys(input_dict, self._feeds)
        given = {}  # of two values for one tensor, the later one
        for key, value in input_dict.items():
            if value is not None:
                feed = self._feeds[key]
                given[feed.tensor.name] = feed, feed.check(value)
        names = tuple(sorted(given))
        feeds = [given[name][0] for name in names]
        if names not in self._enough:
            needed = {
                op.name
                for op in ancestors(self.fetch_tensors.values(), [feed.tensor for feed in feeds])
                if op.type == 'Placeholder'
            }
            for feed in self._feeds.values():
                if feed.tensor.op.name in needed:
                    raise ValueError(f'missing {feed.expected}')
            self._enough.add(names)
        return self._fast_session.function(feeds), [given[name][1] for name in names]


def from_saved_model(
    export_dir: exports.Path,
    signature_def_key: Optional[str] = None,
    signature_def: Optional[meta_graph_pb2.SignatureDef] = None,
    input_names: Optional[Mapping[str, str]] = None,
    output_names: Optional[Mapping[str, str]] = None,
    tags: Optional[str] = None,
    graph: Optional[tf.Graph] = None,
    config: Optional[config_pb2.ConfigProto] = None,
) -> Predictor:
    """Returns a Predictor for a SavedModel, as `tf.contrib.predictor.from_saved_model` did.

    Args:
      export_dir: The directory of the SavedModel: an Estimator's export of TensorFlow 1.x or 2.x, or what TensorFlow
        2's `tf.saved_model.save` wrote.
      signature_def_key: The signature to call. Default: 'serving_default'.
      signature_def: A `SignatureDef` to call instead.
      input_names: {key of your choice: name of a tensor} to feed instead, together with `output_names`.
      output_names: {key of your choice: name of a tensor} to fetch.
      tags: Comma-separated tags of the graph. Default: 'serve'.
      graph: The `tf.Graph` to load into, which then isn't frozen. Default: a new one.
      config: The `tf.ConfigProto` of the session; what it leaves open is tuned for latency. Default: that of a
        `tf.Session` without one, tuned. `tf.ConfigProto(device_count={'GPU': 0})` runs a small model on the CPU.

    Raises:
      ValueError: More than one of signature key, signature and names; input names without output names; an unknown
        signature key; a graph for another device or TensorFlow; `exports.DamagedExport`: a damaged SavedModel.
      RuntimeError: No graph with these tags in the SavedModel, or the process was forked from one that had used
        TensorFlow.
      KeyError: A name of no tensor.
      OSError: No SavedModel there.
    """
    check_process()
    if (input_names is None) != (output_names is None):
        raise ValueError('input_names and output_names must both be given, or neither')
    if (
        sum(argument is not None for argument in (signature_def_key, signature_def, input_names))
        > 1
    ):
        raise ValueError(
            'at most one of signature_def_key, signature_def and (input_names, output_names) may be given'
        )
    export_dir = os.fsdecode(export_dir)  # Estimator.export_saved_model returns bytes
    tag_set = frozenset(tag.strip() for tag in (tags or 'serve').split(','))
    meta_graphs = {
        frozenset(meta_graph.meta_info_def.tags): meta_graph
        for meta_graph in exports.read(export_dir).meta_graphs
    }
    if tag_set not in meta_graphs:
        raise RuntimeError(
            f'{export_dir} has no graph with the tags {sorted(tag_set)}, '
            f'only with {[sorted(tags) for tags in meta_graphs]}'
        )
    if input_names is None and signature_def is None:
        signature_def = _signature_def(
            export_dir, meta_graphs[tag_set].signature_def, signature_def_key or 'serving_default'
        )

    freeze, graph, config = graph is None, graph or tf.Graph(), tuned(config)
    session = tf.Session(graph=graph, config=config)
    try:
        with graph.as_default():
            _load(session, tag_set, export_dir)
        if input_names is None or output_names is None:
            feeds, fetches = _signature_tensors(graph, signature_def)
        else:
            feeds, fetches = (
                {key: graph.get_tensor_by_name(name) for key, name in names.items()}
                for names in (input_names, output_names)
            )
        return Predictor(session, feeds, fetches, config, freeze)
    except BaseException:
        session.close()
        raise


def from_estimator(
    estimator: Any,
    serving_input_receiver_fn: Callable,
    output_key: Optional[str] = None,
    graph: Optional[tf.Graph] = None,
    config: Optional[config_pb2.ConfigProto] = None,
) -> Predictor:
    """Returns a Predictor for the newest checkpoint of an Estimator, as `tf.contrib.predictor.from_estimator` did.

    Args:
      estimator: A `tf.estimator.Estimator`. Without a checkpoint it predicts with its initial weights, or those that
        it starts from, as in `Estimator.predict`.
      serving_input_receiver_fn: A function without arguments that returns a `ServingInputReceiver`.
      output_key: The entry of the model_fn's `export_outputs` to fetch. Default: 'serving_default'.
      graph: The `tf.Graph` to build in, which then isn't frozen. Default: a new one.
      config: The `tf.ConfigProto` of the session; what it leaves open is tuned for latency. Default: the
        `session_config` of the Estimator's RunConfig, tuned.

    Raises:
      KeyError: An unknown output key.
      RuntimeError: The process was forked from one that had used TensorFlow.
    """
    receiver = None

    def features():
        nonlocal receiver
        receiver = serving_input_receiver_fn()
        return receiver.features

    def tensors(spec):
        key, export_outputs = output_key or 'serving_default', spec.export_outputs or {}
        if key not in export_outputs:
            raise KeyError(f'no export output {key!r}, only {sorted(export_outputs)}')
        return _signature_tensors(
            graph, export_outputs[key].as_signature_def(receiver.receiver_tensors)
        )

    freeze, graph = graph is None, graph or tf.Graph()
    session, (feeds, fetches), config = open_estimator(estimator, features, tensors, graph, config)
    return Predictor(session, feeds, fetches, config, freeze)


def open_estimator(
    estimator: Any,
    features_fn: Callable,
    fetches_fn: Callable,
    graph: tf.Graph,
    config: Optional[config_pb2.ConfigProto],
    hooks_fn: Callable[[Any], Sequence] = lambda spec: (),
) -> tuple[tf.Session, Any, config_pb2.ConfigProto]:
    """Builds the graph that `Estimator.predict` builds, restores the newest checkpoint, and leaves its session open.

    The session is of this process, whatever `master` the RunConfig names.

    Args:
      estimator: A `tf.estimator.Estimator`.
      features_fn: A function that makes the features, within the graph.
      fetches_fn: A function from the EstimatorSpec to what is to be returned, called within the graph.
      graph: Where to build.
      config: As in `from_estimator`.
      hooks_fn: A function from the EstimatorSpec to hooks that are told that the session opens.

    Returns:
      The session, what `fetches_fn` returned, and the session's config.
    """
    check_process()
    config = tuned(estimator.config.session_config if config is None else config)
    checkpoint = estimator.latest_checkpoint()
    if checkpoint is None:
        tf.logging.info(
            f'Could not find trained model in model_dir: {estimator.model_dir}, running initialization to '
            'predict.'
        )  # what Estimator.predict says
    with graph.as_default():
        tf.set_random_seed(estimator.config.tf_random_seed)
        tf.train.get_or_create_global_step()
        features = features_fn()
        spec = estimator.model_fn(
            features, None, 'infer', estimator.config
        )  # tf.estimator.ModeKeys.PREDICT
        _private_api.warm_start(estimator, checkpoint)
        fetches = fetches_fn(spec)
        monitored = tf.train.MonitoredSession(
            tf.train.ChiefSessionCreator(
                spec.scaffold, config=config, checkpoint_filename_with_path=checkpoint
            ),
            list(hooks_fn(spec) or ()),
        )
    if monitored.should_stop():
        monitored.close()
        raise RuntimeError('a prediction hook asked to stop before the first prediction')
    return monitored.run_step_fn(lambda step_context: step_context.session), fetches, config


def _as_dict(input_dict, keys):
    if (
        not hasattr(input_dict, 'keys')
        or not hasattr(input_dict, 'items')
        or isinstance(input_dict, type)
    ):
        raise ValueError(f'expected a dict with the keys {keys}, got {shown(input_dict)}')
    return dict(input_dict.items())


def _signature_def(export_dir, signature_defs, key):
    for name in (key, f'default_input_alternative:{key}'):  # as old exports of several heads have
        if name in signature_defs:
            return signature_defs[name]
    raise ValueError(f'{export_dir} has no signature {key!r}, only {sorted(signature_defs)}')


def _load(session, tag_set, export_dir):
    try:
        with _private_api.undeprecated():
            tf.saved_model.loader.load(session, list(tag_set), export_dir)
    except (tf.errors.OpError, ValueError, TypeError, LookupError) as error:
        text = str(error)
        # TensorFlow's text has the reason after the node that failed, in between stack traces.
        reason = re.search('^Node: .*\n(.+)', text, re.M) or re.search('(.+)', text)
        reason = f'{reason[1] if reason else type(error).__name__:.300}'
        if 'Cannot assign a device' in text:
            raise ValueError(
                f'{export_dir} asks for a device that is not here, and the config does not let it run '
                f'elsewhere (allow_soft_placement): {reason}'
            ) from error
        if 'Op type not registered' in text:
            raise ValueError(
                f'{export_dir} needs an operation that is not here: {reason}'
            ) from error
        raise exports.DamagedExport(
            f'{export_dir} is damaged, or not for TensorFlow {tf.__version__}: {reason}'
        ) from error


def _signature_tensors(graph, signature_def):
    """Returns the feed tensors and the fetch tensors of a signature: two dicts, sorted by key."""
    tensors = []
    for tensor_infos in (signature_def.inputs, signature_def.outputs):
        for key, tensor_info in tensor_infos.items():
            if tensor_info.WhichOneof('encoding') != 'name':
                raise ValueError(
                    f'{key!r} is sparse or composite, and a Predictor feeds and fetches single tensors'
                )
        tensors.append(
            {key: graph.get_tensor_by_name(tensor_infos[key].name) for key in sorted(tensor_infos)}
        )
    return tensors
