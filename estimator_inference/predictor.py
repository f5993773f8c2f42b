"""The successor of `tf.contrib.predictor`: the same calls on today's TensorFlow, and faster.

    from estimator_inference import predictor

    predict_fn = predictor.from_saved_model('saved_model/1700000000')
    predict_fn({'number': [[3]]})  # {'output': array([[6.]], dtype=float32)}

A SavedModel is a program: load only those you trust.
"""

from __future__ import annotations

import contextlib
import os
import re
from typing import Any, Callable, Dict, Iterable, Iterator, Mapping, Optional, Sequence, Union

import tensorflow.compat.v1 as tf
from tensorflow.core.protobuf import config_pb2, meta_graph_pb2

from estimator_inference import _private_api, exports
from estimator_inference.fast_session import (
    FastSession,
    check_process,
    close_session,
    open_session,
)
from estimator_inference.feeds import Feed, Missing, check_keys, described, shown


class Predictor:
    """Calls one signature of a graph: a dict of values in, a dict of arrays out.

    Made by `from_saved_model` and `from_estimator`. It may be called from many threads at once.
    `close()`, or the end of a `with` block, frees its session. In a child that is forked after one
    was made, calling it or making another raises RuntimeError, since TensorFlow's threads stay in
    the parent: fork first.

    A subclass may set `_graph`, `_session`, `_feed_tensors` and `_fetch_tensors` itself, as those
    of tf.contrib.predictor's did. To assign another later takes effect with the next call.

    Attributes:
      graph: The `tf.Graph` that was loaded.
      session: The `tf.Session` that holds its variables.
      feed_tensors: {input key: `tf.Tensor`}.
      fetch_tensors: {output key: `tf.Tensor`}.
    """

    _call: Optional[Callable[[Any], Dict[str, Any]]] = None

    def __init__(
        self,
        session: tf.Session,
        feed_tensors: Mapping[str, tf.Tensor],
        fetch_tensors: Mapping[str, tf.Tensor],
    ) -> None:
        """Takes a session whose variables are initialized; a `fast_session.tuned` config helps."""
        self._graph, self._session = session.graph, session
        self._feed_tensors, self._fetch_tensors = feed_tensors, fetch_tensors
        self._call = self._make_call()

    def __call__(self, input_dict: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the outputs for one batch of inputs.

        Args:
          input_dict: {input key: value}, or what else has `keys` and `items`, a pandas DataFrame
            for one. A value is a scalar, a list, an array, str or bytes, and is cast to the dtype
            of its tensor as `tf.Session.run` casts; but Python's numbers that it can't hold, nan as
            int32 say, are refused. An input that has a default, or that the outputs don't need, may
            be left out or be None.

        Returns:
          {output key: value}, values as `tf.Session.run` returns them: np.ndarray, for strings of
          dtype object. Each is the caller's own: no later call changes it, nor does a change of it
          change later answers.

        Raises:
          ValueError: An unknown or missing key, a shape that doesn't fit, a value of another kind.
          RuntimeError: The predictor is closed, or was made in the parent process.
          tf.errors.OpError: An operation of the graph failed, say for a malformed
            `tf.train.Example`, or `close()` in another thread cancelled it.
        """
        if self._call is None:
            self._call = self._make_call()
        return self._call(input_dict)

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
        close_session(self._session)

    graph = property(lambda self: self._graph)
    session = property(lambda self: self._session)
    feed_tensors = property(lambda self: self._feed_tensors)
    fetch_tensors = property(lambda self: self._fetch_tensors)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in ('_feed_tensors', '_fetch_tensors'):
            value = _Tensors(value)
        super().__setattr__(name, value)
        if name in ('_session', '_feed_tensors', '_fetch_tensors'):
            self._call = None  # made anew, for what is there now

    def _make_call(self) -> Callable[[Any], dict[str, Any]]:
        """Returns a function for `__call__`, in which nothing is left that can be done before."""
        feeds = {key: Feed(f'input {key!r}', tensor) for key, tensor in self.feed_tensors.items()}
        tensors = {feed.tensor.name: feed for feed in feeds.values()}
        keys = tuple(self.fetch_tensors)
        fast_session = FastSession(self.session, list(self.fetch_tensors.values()), 'predictor')
        run = fast_session.function(list(tensors.values()))
        functions = {tuple(tensors): run}  # {names of the tensors that are fed: function}
        array_of = [(key, feed.array) for key, feed in feeds.items()]
        # How many inputs the short way takes. Where two of them feed one tensor, it is never taken.
        count = len(feeds) if len(tensors) == len(feeds) else -1

        def call(input_dict: Any) -> dict[str, Any]:
            if type(input_dict) is dict and len(input_dict) == count:
                try:
                    arrays = [array(input_dict[key]) for key, array in array_of]
                except (KeyError, Missing):
                    pass
                else:
                    return dict(zip(keys, run(arrays)))
            return call_with_some(_as_dict(input_dict, list(feeds)))

        def call_with_some(input_dict: dict[str, Any]) -> dict[str, Any]:
            check_keys(input_dict, feeds)
            given = {}  # of two values for one tensor, the later one
            for key, value in input_dict.items():
                if value is not None:
                    given[feeds[key].tensor.name] = feeds[key].check(value)
            names = tuple(name for name in tensors if name in given)
            if names not in functions:
                functions[names] = fast_session.function([tensors[name] for name in names])
            try:
                outputs = functions[names]([given[name] for name in names])
            except tf.errors.InvalidArgumentError as error:
                missing = re.search("feed a value for placeholder tensor '(.*?)'", str(error))
                if missing and f'{missing[1]}:0' in tensors:
                    feed = tensors[f'{missing[1]}:0']
                    raise ValueError(f'missing {feed.expected}') from error
                raise
            return dict(zip(keys, outputs))

        return call


class _Tensors(Dict[str, Any]):
    """The tensors that a Predictor feeds or fetches. A change of them would go unnoticed."""

    def _refuse(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError('the tensors of a Predictor can not be changed: assign another dict')

    __setitem__ = __delitem__ = __ior__ = clear = pop = popitem = setdefault = update = _refuse


def from_saved_model(
    export_dir: exports.Path,
    signature_def_key: Optional[str] = None,
    signature_def: Optional[meta_graph_pb2.SignatureDef] = None,
    input_names: Optional[Mapping[str, str]] = None,
    output_names: Optional[Mapping[str, str]] = None,
    tags: Union[str, Iterable[str], None] = None,
    graph: Optional[tf.Graph] = None,
    config: Optional[config_pb2.ConfigProto] = None,
) -> Predictor:
    """Returns a Predictor for a SavedModel, as `tf.contrib.predictor.from_saved_model` did.

    Args:
      export_dir: The directory of the SavedModel: an Estimator's export of TensorFlow 1.x or 2.x,
        or what TensorFlow 2's `tf.saved_model.save` wrote.
      signature_def_key: The signature to call. Default: 'serving_default'.
      signature_def: A `SignatureDef` to call instead.
      input_names: {key of your choice: name of a tensor} to feed instead, with `output_names`.
      output_names: {key of your choice: name of a tensor} to fetch.
      tags: Comma-separated tags of the graph, or a list of them. Default: 'serve'.
      graph: The `tf.Graph` to load into. Default: a new one.
      config: The `tf.ConfigProto` of the session; what it leaves open is tuned for latency.
        Default: that of a `tf.Session` without one, tuned. `tf.ConfigProto(device_count={'GPU':
        0})` runs a small model on the CPU.

    Raises:
      ValueError: More than one of signature key, signature and names; input names without output
        names; an unknown signature key; a graph for another device or TensorFlow;
        `exports.DamagedExport`: a damaged SavedModel.
      RuntimeError: No graph with these tags in the SavedModel, or the process was forked from one
        that had used TensorFlow.
      KeyError, ValueError: A name of no tensor.
      OSError: No SavedModel there.
    """
    check_process()
    if (input_names is None) != (output_names is None):
        raise ValueError('input_names and output_names must both be given, or neither')
    if sum(way is not None for way in (signature_def_key, signature_def, input_names)) > 1:
        raise ValueError(
            'at most one of signature_def_key, signature_def and (input_names, output_names) may '
            'be given'
        )
    export_dir = os.fsdecode(export_dir)  # Estimator.export_saved_model returns bytes
    graph, tags = graph or tf.Graph(), tags or 'serve'
    tag_list = tags.split(',') if isinstance(tags, str) else tags
    with _explained(export_dir):
        meta_graph, restore = _private_api.read_graph(
            export_dir, {tag.strip() for tag in tag_list}, graph
        )
    if input_names is None or output_names is None:
        key = signature_def_key or 'serving_default'
        feeds, fetches = _signature_tensors(
            graph, signature_def or _signature_def(export_dir, meta_graph.signature_def, key)
        )
    else:
        feeds, fetches = (
            {key: graph.get_tensor_by_name(name) for key, name in names.items()}
            for names in (input_names, output_names)
        )

    def open_with(config: config_pb2.ConfigProto) -> Predictor:
        session = tf.Session(graph=graph, config=config)
        restore(session)
        return Predictor(session, feeds, fetches)

    with _explained(export_dir):
        return open_session(open_with, graph, config)


def from_estimator(
    estimator: Any,
    serving_input_receiver_fn: Callable[[], Any],
    output_key: Optional[str] = None,
    graph: Optional[tf.Graph] = None,
    config: Optional[config_pb2.ConfigProto] = None,
) -> Predictor:
    """Returns a Predictor for the newest checkpoint of an Estimator, as contrib's function did.

    Args:
      estimator: A `tf.estimator.Estimator`. Without a checkpoint it predicts with its initial
        weights, or those that it starts from, as in `Estimator.predict`.
      serving_input_receiver_fn: A function without arguments that returns a `ServingInputReceiver`.
      output_key: The entry of the model_fn's `export_outputs` to fetch. Default: 'serving_default'.
      graph: The `tf.Graph` to build in. Default: a new one.
      config: The `tf.ConfigProto` of the session; what it leaves open is tuned for latency.
        Default: the `session_config` of the Estimator's RunConfig, tuned.

    Raises:
      KeyError: An unknown output key.
      ValueError: An export output that doesn't take the receiver's inputs.
      RuntimeError: The process was forked from one that had used TensorFlow.
    """
    graph, receiver_tensors = graph or tf.Graph(), {}

    def features_fn() -> Any:
        receiver = serving_input_receiver_fn()
        # Copied before the model_fn changes its features, which may be this very dict.
        receiver_tensors.update(receiver.receiver_tensors)
        return receiver.features

    def opener_fn(spec: Any) -> Callable[[tf.Session], Predictor]:
        key = output_key or 'serving_default'
        signature_def = _output_signature(spec.export_outputs or {}, key, receiver_tensors)
        feeds, fetches = _signature_tensors(graph, signature_def)
        return lambda session: Predictor(session, feeds, fetches)

    opened: Predictor = open_estimator(estimator, features_fn, opener_fn, graph, config)
    return opened


class _SessionCreator(tf.train.SessionCreator):  # type: ignore[misc]
    """Calls a function where a MonitoredSession asks for a session, and keeps what it returned."""

    def __init__(self, open_fn: Callable[[], Any]) -> None:
        self._open_fn = open_fn

    def create_session(self) -> tf.Session:
        self.opened = self._open_fn()
        return self.opened.session


def open_estimator(
    estimator: Any,
    features_fn: Callable[[], Any],
    opener_fn: Callable[[Any], Callable[[tf.Session], Any]],
    graph: tf.Graph,
    config: Optional[config_pb2.ConfigProto],
    hooks_fn: Callable[[Any], Optional[Sequence[Any]]] = lambda spec: (),
) -> Any:
    """Opens the newest checkpoint in the graph that `Estimator.predict` builds.

    The session is of this process, whatever `master` the RunConfig names.

    Args:
      estimator: A `tf.estimator.Estimator`.
      features_fn: A function that makes the features, within the graph.
      opener_fn: A function from the EstimatorSpec, called within the graph, to a function from a
        session to what is to be returned, which has that `session`.
      graph: Where to build.
      config: As in `from_estimator`.
      hooks_fn: A function from the EstimatorSpec to hooks that are told that the session opens.
    """
    check_process()
    checkpoint = estimator.latest_checkpoint()
    if checkpoint is None:  # in Estimator.predict's words
        tf.logging.info(
            f'Could not find trained model in model_dir: {estimator.model_dir}, running '
            'initialization to predict.'
        )
    with graph.as_default():
        tf.set_random_seed(estimator.config.tf_random_seed)
        tf.train.get_or_create_global_step()
        # 'infer' is tf.estimator.ModeKeys.PREDICT.
        spec = estimator.model_fn(features_fn(), None, 'infer', estimator.config)
        _private_api.warm_start(estimator, checkpoint)
        opener = opener_fn(spec)

        def open_with(config: config_pb2.ConfigProto) -> Any:
            chief = tf.train.ChiefSessionCreator(
                spec.scaffold, config=config, checkpoint_filename_with_path=checkpoint
            )
            return opener(chief.create_session())

        config = config or estimator.config.session_config
        creator = _SessionCreator(lambda: open_session(open_with, graph, config))
        monitored = tf.train.MonitoredSession(creator, list(hooks_fn(spec) or ()))
    if monitored.should_stop():
        monitored.close()
        raise RuntimeError('a prediction hook asked to stop before the first prediction')
    return creator.opened


def _as_dict(input_dict: Any, keys: list[str]) -> dict[str, Any]:
    if isinstance(input_dict, type) or not (
        hasattr(input_dict, 'keys') and hasattr(input_dict, 'items')
    ):
        raise ValueError(f'expected a dict with the keys {keys}, got {shown(input_dict)}')
    return dict(input_dict.items())


def _signature_def(
    export_dir: str, signature_defs: Mapping[str, meta_graph_pb2.SignatureDef], key: str
) -> meta_graph_pb2.SignatureDef:
    for name in (key, f'default_input_alternative:{key}'):  # as old exports of several heads have
        if name in signature_defs:
            return signature_defs[name]
    raise ValueError(f'{export_dir} has no signature {key!r}, only {sorted(signature_defs)}')


def _output_signature(
    outputs: Mapping[str, Any], key: str, receiver_tensors: Mapping[str, tf.Tensor]
) -> meta_graph_pb2.SignatureDef:
    """Returns the signature of one of the `export_outputs` of a model_fn."""
    if key not in outputs:
        raise KeyError(f'no export output {key!r}, only {sorted(outputs)}')
    try:
        return outputs[key].as_signature_def(receiver_tensors)
    except ValueError as error:  # that of a classifier takes one string, a tf.train.Example
        raise ValueError(
            f'the export output {key!r} does not take the inputs {list(receiver_tensors)}, as '
            f"output_key='predict' does, of {sorted(outputs)}: {error!s:.100}"
        ) from error


def _signature_tensors(
    graph: tf.Graph, signature_def: meta_graph_pb2.SignatureDef
) -> list[dict[str, tf.Tensor]]:
    """Returns the feed tensors and the fetch tensors of a signature: two dicts, sorted by key."""
    tensors = []
    for infos in (signature_def.inputs, signature_def.outputs):
        for key, info in infos.items():
            if info.WhichOneof('encoding') != 'name':
                raise ValueError(
                    f'{key!r} is sparse or composite, and a Predictor feeds and fetches single '
                    'tensors'
                )
        tensors.append({key: graph.get_tensor_by_name(infos[key].name) for key in sorted(infos)})
    return tensors


# What keeps a SavedModel from running here, by TensorFlow's text.
_REASONS = (
    (r'(/job:(?!localhost)\w+)', 'asks for the devices of {}, a job of a cluster'),
    (r"No OpKernel was registered to support Op '(\w+)'", 'needs {}, which no device here has'),
    (
        r'Cannot assign a device for operation (\S+)',
        'asks for a device that is not here, for {}, and the config does not let it run elsewhere '
        '(allow_soft_placement)',
    ),
    (r"Op type not registered '(\w+)'", 'needs {}, an operation that is not here'),
)


@contextlib.contextmanager
def _explained(export_dir: str) -> Iterator[None]:
    """Says in one line what is wrong with a SavedModel that TensorFlow can't load."""
    try:
        yield
    except (OSError, RuntimeError):  # TensorFlow doesn't say what is missing or damaged
        exports.read(export_dir)
        raise
    except (tf.errors.OpError, ValueError, TypeError, LookupError) as error:
        line = exports.reason(error)
        for pattern, words in _REASONS:
            found = re.search(pattern, str(error))
            if found:
                raise ValueError(f'{export_dir} {words.format(found[1])}: {line}') from error
        raise exports.DamagedExport(
            f'{export_dir} is damaged, or not for TensorFlow {tf.__version__} or the config: {line}'
        ) from error
