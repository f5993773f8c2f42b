"""The successor of `tf.contrib.predictor`: the same calls on today's TensorFlow, and faster.

    import predictor

    predict_fn = predictor.from_saved_model(predictor.latest_export('saved_model'))
    predict_fn({'number': [[3]]})  # {'output': array([[6.]], dtype=float32)}

It needs tensorflow and numpy and nothing else of this repository: to use it elsewhere, copy the file.
A SavedModel is a program: load only those you trust.
"""
from __future__ import annotations

import atexit
import ctypes
import functools
import hashlib
import os
import re
import threading
import weakref
from typing import Any, Callable, Iterator, Mapping, Optional

import numpy as np
import tensorflow.compat.v1 as tf
from google.protobuf import message, text_format
from tensorflow.core.protobuf import config_pb2, meta_graph_pb2, rewriter_config_pb2, saved_model_pb2

# A model with variables of up to this many bytes is frozen. That saves a few microseconds a call: much for a small
# model, nothing for a large one, whose memory it would double.
FREEZE_BYTES = 4 << 20


class Predictor:
    """Calls one signature of a graph: a dict of values in, a dict of arrays out.

    Made by `from_saved_model` and `from_estimator`. It may be called from many threads at once. `close()`, or the end
    of a `with` block, frees its session. In a child that is forked after one was made, calling it or making
    another raises RuntimeError, since TensorFlow's threads stay in the parent: fork first.

    Where the caller brings neither a graph nor a config, it is tuned for the latency of one call:

    - Operations run in the thread that calls (`RunOptions.inter_op_thread_pool = -1`) instead of being handed to
      TensorFlow's pool. A large operation still uses all cores, but parallel branches of a graph run one after the
      other: on 2 cores, 8 branches of 10 us each are 1.6 times faster that way, and 8 of 1 ms up to a quarter slower.
      For such a model, the more so with many cores, pass `config=tf.ConfigProto()`. And in that thread arithmetic is
      exact below 1.2e-38 (float32) too, where TensorFlow's own threads, and so `tf.Session.run`, take numbers for 0.
    - Operations aren't fused (`RewriterConfig.remapping` off): with oneDNN, a fused matrix product costs a small batch
      2 us more, and saves a batch of 10,000 a tenth.
    - A model that is small (`FREEZE_BYTES`), stateless but for reading its variables, and on the CPU, is frozen: a
      copy of its graph, with constants for variables, runs in TensorFlow's single-threaded executor. Assigning to a
      variable through `session` doesn't change that copy. Graphs with tables, queues, 1.x control flow, functions
      with variables or over 2 GB are run as they are.

    Attributes:
      graph: The `tf.Graph` that was loaded.
      session: The `tf.Session` that holds its variables.
      feed_tensors: {input key: `tf.Tensor`}.
      fetch_tensors: {output key: `tf.Tensor`}.
    """

    def __init__(self, session: tf.Session, feed_tensors: Mapping[str, tf.Tensor],
                 fetch_tensors: Mapping[str, tf.Tensor], tuned: bool) -> None:
        self.graph, self.session = session.graph, session
        self.feed_tensors, self.fetch_tensors = dict(feed_tensors), dict(fetch_tensors)
        self._tuned = tuned
        self._frozen_session = self._freeze() if tuned else None
        self._lock = threading.Lock()
        self._functions: dict[tuple[str, ...], Callable] = {}  # one for each set of inputs that was fed
        # For each input the shapes already found to fit. A set, since looking up is 0.3 us faster than comparing.
        self._inputs: list[tuple[str, Any, set]] = [
            (key, tensor.dtype.as_numpy_dtype, set()) for key, tensor in self.feed_tensors.items()]
        self._outputs = tuple(self.fetch_tensors)
        self._run = self._function(tuple(self.feed_tensors))
        global _pid
        _pid = os.getpid()
        _opened.add(self)

    def __call__(self, input_dict: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the outputs for one batch of inputs.

        Args:
          input_dict: {input key: value}. A value is a scalar, a list, an array, str or bytes, and is cast to the dtype
            of its tensor as `tf.Session.run` casts; but Python's numbers that it can't hold, nan as int32 say, are
            refused. An input that has a default may be left out or be None.

        Returns:
          {output key: value}, values as `tf.Session.run` returns them: np.ndarray, for strings of dtype object.

        Raises:
          ValueError: An unknown or missing key, a shape that doesn't fit, a value that can't be cast.
          RuntimeError: The predictor is closed, or was made in the parent process.
          tf.errors.OpError: An operation of the graph failed, say for a malformed `tf.train.Example`, or `close()` in
            another thread cancelled it.
        """
        run, arrays = self._run, []
        try:
            for key, dtype, shapes in self._inputs:
                value = input_dict[key]
                array = np.asarray(value, dtype)
                if array.shape not in shapes or value is None or type(value) is int and array != value:
                    raise LookupError
                arrays.append(array)
            if len(input_dict) != len(arrays):
                raise LookupError
        except (LookupError, TypeError, ValueError, OverflowError, np.ma.MaskError):
            run, arrays = self._check(input_dict)
        return dict(zip(self._outputs, run(arrays, None)))

    def __repr__(self) -> str:
        def describe(tensors):
            return ', '.join(f'{key!r}: {tensor.dtype.base_dtype.name} {_shape(tensor)}'
                             for key, tensor in tensors.items())
        return f'<Predictor: feed {{{describe(self.feed_tensors)}}}, fetch {{{describe(self.fetch_tensors)}}}>'

    def __enter__(self) -> Predictor:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Frees the sessions. Later calls raise RuntimeError; closing again does nothing."""
        def closed(arrays, _):
            raise RuntimeError('this predictor is closed')

        with self._lock:
            self._run = closed
            self._functions = dict.fromkeys(self._functions, closed)
            self._function = lambda keys: closed  # type: ignore[method-assign]
        self.session.close()
        if self._frozen_session:
            self._frozen_session.close()

    def _check(self, input_dict):
        """The slow way of `__call__`: returns (function, arrays) or tells what is wrong with the inputs."""
        if not isinstance(input_dict, Mapping):
            raise ValueError(f'expected a dict with the keys {list(self.feed_tensors)}, got {_shown(input_dict)}')
        unknown = [key for key in input_dict if key not in self.feed_tensors]
        if unknown:
            raise ValueError(f'unknown inputs {_shown(unknown)}: expected {list(self.feed_tensors)}')
        keys, arrays = [], []
        for key, dtype, shapes in self._inputs:
            value, tensor = input_dict.get(key), self.feed_tensors[key]
            if value is None:
                if tensor.op.type == 'PlaceholderWithDefault':
                    continue
                raise ValueError(f'missing input {key!r}: expected {tensor.dtype.name} {_shape(tensor)}')
            try:
                array = np.asarray(value, dtype)
                if dtype is object:
                    array = np.vectorize(tf.compat.as_bytes, otypes=[object])(array)
                elif type(value) is int and array != value:
                    raise OverflowError('it does not fit')  # NumPy 1 would wrap it around
            except (TypeError, ValueError, OverflowError, RecursionError, np.ma.MaskError) as error:
                raise ValueError(f'input {key!r}: expected {tensor.dtype.name} {_shape(tensor)}, '
                                 f'got {_shown(value)}: {error!s:.200}') from None
            if not tensor.shape.is_compatible_with(array.shape):
                raise ValueError(f'input {key!r}: expected {tensor.dtype.name} {_shape(tensor)}, '
                                 f'got the shape {list(array.shape)}')
            if dtype is not object and len(shapes) < 1000:
                shapes.add(array.shape)
            keys.append(key)
            arrays.append(array)
        return self._function(tuple(keys)), arrays

    def _function(self, keys):
        """Returns the function from a arrays, one for each of `keys`, to the list of outputs."""
        with self._lock:
            if keys not in self._functions:
                self._functions[keys] = self._make_function([self.feed_tensors[key] for key in keys])
            return self._functions[keys]

    def _make_function(self, feeds):
        fed = [tensor.name for tensor in feeds]
        fetches = [tensor for tensor in self.fetch_tensors.values() if tensor.name not in fed]
        run = self._make_run(feeds, fetches)
        # The C function returns some outputs without a copy, though they are the memory of a variable or an input.
        aliases = [not _is_computed(tensor, fed) for tensor in fetches]
        if len(fetches) == len(self.fetch_tensors) and not any(aliases):
            return run

        def run_and_copy(arrays, _):
            outputs = iter([output.copy() if alias and isinstance(output, np.ndarray) else output
                            for output, alias in zip(run(arrays, None), aliases)])
            return [arrays[fed.index(tensor.name)].copy() if tensor.name in fed else next(outputs)
                    for tensor in self.fetch_tensors.values()]
        return run_and_copy

    def _make_run(self, feeds, fetches):
        run_options = config_pb2.RunOptions(inter_op_thread_pool=-1 if self._tuned else 0)
        if not hasattr(self.session, '_make_callable_from_options'):
            function = self.session.make_callable(fetches, feeds, accept_options=True)
            return lambda arrays, _: function(*arrays, options=run_options)
        # Private, in TensorFlow from 1.5 to 2.21 at least. Without it: make_callable above, public and 10 times slower.
        options = config_pb2.CallableOptions(feed=[tensor.name for tensor in feeds],
                                             fetch=[tensor.name for tensor in fetches], run_options=run_options)
        if self._frozen_session:
            try:
                return _unwrapped(self._frozen_session._make_callable_from_options(options))
            except tf.errors.OpError:
                pass  # the single-threaded executor refuses some graphs, those with 1.x control flow for one
        return _unwrapped(self.session._make_callable_from_options(options))

    def _freeze(self) -> Optional[tf.Session]:
        """Returns a session for a copy of the graph with its variables made constants, or None."""
        if any(device.device_type != 'CPU' for device in self.session.list_devices()):
            return None  # the single-threaded executor runs on one device
        if not _is_freezable(self.feed_tensors.values(), self.fetch_tensors.values()):
            return None
        try:
            frozen = tf.graph_util.convert_variables_to_constants(
                self.session, self.graph.as_graph_def(),
                [tensor.op.name for tensor in (*self.fetch_tensors.values(), *self.feed_tensors.values())])
            with tf.Graph().as_default() as graph:
                tf.import_graph_def(frozen, name='')
        except ValueError:  # over the 2 GB of a GraphDef, or a variable that goes into a function
            return None
        config = _config(inter_op_parallelism_threads=-1)
        config.experimental.executor_type = 'SINGLE_THREADED_EXECUTOR'
        return tf.Session(graph=graph, config=config)


_opened: weakref.WeakSet[Predictor] = weakref.WeakSet()
_pid: Optional[int] = None  # of the process that opened them


def _check_process(*_):
    if _pid not in (None, os.getpid()):
        raise RuntimeError('predictor.py was used in the parent process, and TensorFlow does not work in a child that '
                           'is forked after that: fork first, then open a predictor')


def _after_fork():
    """In a child: puts out of use what the parent opened. It would wait for threads and locks that stayed there."""
    if _pid is None:
        return
    kept = [(predictor, predictor._run) for predictor in _opened]
    for predictor, _ in kept:
        predictor._run = predictor._function = _check_process
        predictor.close = lambda: None
    try:  # TensorFlow's eager context, which from_estimator makes: deleted as Python ends, it waits or crashes too
        from tensorflow.python.eager import context
        kept.append(context.context())
    except (ImportError, AttributeError):  # private; in TensorFlow 2.15 and 2.21
        pass
    _never_delete(kept)


def _never_delete(objects):
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(objects))


os.register_at_fork(after_in_child=_after_fork)
# As Python 3.13 ends, TensorFlow's modules are emptied first, and its sessions, deleted later, complain on stderr.
atexit.register(lambda: _never_delete(list(_opened)))


def from_saved_model(export_dir: str, signature_def_key: Optional[str] = None,
                     signature_def: Optional[meta_graph_pb2.SignatureDef] = None,
                     input_names: Optional[Mapping[str, str]] = None,
                     output_names: Optional[Mapping[str, str]] = None, tags: Optional[str] = None,
                     graph: Optional[tf.Graph] = None, config: Optional[tf.ConfigProto] = None) -> Predictor:
    """Returns a Predictor for a SavedModel, as `tf.contrib.predictor.from_saved_model` did.

    Args:
      export_dir: The directory of the SavedModel: an Estimator's export of TensorFlow 1.x or 2.x, or what TensorFlow
        2's `tf.saved_model.save` wrote.
      signature_def_key: The signature to call. Default: 'serving_default'.
      signature_def: A `SignatureDef` to call instead.
      input_names: {key of your choice: name of a tensor} to feed instead, together with `output_names`.
      output_names: {key of your choice: name of a tensor} to fetch.
      tags: Comma-separated tags of the graph. Default: 'serve'.
      graph: The `tf.Graph` to load into. Default: a new one.
      config: The `tf.ConfigProto` of the session. Default: tuned for latency, see `Predictor`.

    Raises:
      ValueError: More than one of signature key, signature and names; input names without output names; an unknown
        signature key; a damaged SavedModel.
      RuntimeError: No graph with these tags in the SavedModel, or the process was forked from one with a Predictor.
      OSError: No SavedModel there.
    """
    _check_process()
    if (input_names is None) != (output_names is None):
        raise ValueError('input_names and output_names must both be given, or neither')
    if sum(argument is not None for argument in (signature_def_key, signature_def, input_names)) > 1:
        raise ValueError('at most one of signature_def_key, signature_def and (input_names, output_names) may be given')
    export_dir = os.fsdecode(export_dir)  # Estimator.export_saved_model returns bytes
    tag_set = frozenset(tag.strip() for tag in (tags or 'serve').split(','))
    meta_graphs = {frozenset(meta_graph.meta_info_def.tags): meta_graph
                   for meta_graph in _read_saved_model(export_dir).meta_graphs}
    if tag_set not in meta_graphs:
        raise RuntimeError(f'{export_dir} has no graph with the tags {sorted(tag_set)}, '
                           f'only with {[sorted(tags) for tags in meta_graphs]}')
    signature_defs = meta_graphs[tag_set].signature_def
    if input_names is None:
        key = signature_def_key or 'serving_default'
        if signature_def is None and key not in signature_defs:
            raise ValueError(f'{export_dir} has no signature {key!r}, only {sorted(signature_defs)}')
        signature_def = signature_def or signature_defs[key]

    tuned = graph is None and config is None
    graph = graph or tf.Graph()
    session = tf.Session(graph=graph, config=_config() if tuned else config)
    try:
        with graph.as_default():
            _load(session, tag_set, export_dir)
        if input_names is None or output_names is None:
            feeds, fetches = _signature_tensors(graph, signature_def)
        else:
            feeds, fetches = ({key: graph.get_tensor_by_name(name) for key, name in names.items()}
                              for names in (input_names, output_names))
        return Predictor(session, feeds, fetches, tuned)
    except BaseException:
        session.close()
        raise


def from_estimator(estimator: Any, serving_input_receiver_fn: Callable, output_key: Optional[str] = None,
                   graph: Optional[tf.Graph] = None, config: Optional[tf.ConfigProto] = None) -> Predictor:
    """Returns a Predictor for the newest checkpoint of an Estimator, as `tf.contrib.predictor.from_estimator` did.

    Args:
      estimator: A trained `tf.estimator.Estimator`.
      serving_input_receiver_fn: A function without arguments that returns a `ServingInputReceiver`.
      output_key: The entry of the model_fn's `export_outputs` to fetch. Default: 'serving_default'.
      graph: The `tf.Graph` to build in. Default: a new one.
      config: The `tf.ConfigProto` of the session. Default: tuned for latency, see `Predictor`.

    Raises:
      ValueError: The Estimator has no checkpoint.
      KeyError: An unknown output key.
      RuntimeError: The process was forked from one with a Predictor.
    """
    _check_process()
    checkpoint = estimator.latest_checkpoint()
    if checkpoint is None:
        raise ValueError(f'no checkpoint in {estimator.model_dir}: train the Estimator first')
    output_key = output_key or 'serving_default'
    tuned = graph is None and config is None
    with (graph or tf.Graph()).as_default() as graph:
        receiver = serving_input_receiver_fn()
        spec = estimator.model_fn(receiver.features, None, 'infer', estimator.config)  # tf.estimator.ModeKeys.PREDICT
        export_outputs = spec.export_outputs or {}
        if output_key not in export_outputs:
            raise KeyError(f'no export output {output_key!r}, only {sorted(export_outputs)}')
        signature_def = export_outputs[output_key].as_signature_def(receiver.receiver_tensors)
        session = tf.train.ChiefSessionCreator(spec.scaffold, config=_config() if tuned else config,
                                               checkpoint_filename_with_path=checkpoint).create_session()
        feeds, fetches = _signature_tensors(graph, signature_def)
        return Predictor(session, feeds, fetches, tuned)


def write_checksum(export_dir: str) -> None:
    """Writes the checksum of an export's graph into the export; whoever loads it with this module then compares it.

    TensorFlow compares checksums of variables only: with a byte changed, saved_model.pb may load and answer wrong.
    `cd EXPORT_DIR && sha256sum --check assets.extra/sha256sum` compares it by hand.
    """
    path = os.path.join(export_dir, _CHECKSUM)
    tf.gfile.MakeDirs(os.path.dirname(path))
    with tf.gfile.Open(os.path.join(export_dir, 'saved_model.pb'), 'rb') as file:
        checksum = _checksum(file.read())
    with tf.gfile.Open(path + '.temp', 'wb') as file:
        file.write(checksum)
    tf.gfile.Rename(path + '.temp', path, overwrite=True)


_CHECKSUM = 'assets.extra/sha256sum'  # TensorFlow's place for files that it doesn't know


def _checksum(content):
    return f'{hashlib.sha256(content).hexdigest()}  saved_model.pb\n'.encode()


def latest_export(export_dir_base: str) -> str:
    """Returns the path of the newest complete export below a directory.

    Raises:
      OSError: There is none, or no such directory.
    """
    for export_dir in exports(export_dir_base):
        return export_dir
    raise FileNotFoundError(f'no complete export in {export_dir_base}')


def exports(export_dir_base: str) -> Iterator[str]:
    """Yields the paths of the complete exports below a directory, the newest first.

    An export is a subdirectory with a number, its timestamp, for a name. It is complete when its `saved_model.pb` can
    be read, has the checksum that was written with it, if any, and all files of its variables are there: what is still
    being copied doesn't count.

    Raises:
      OSError: No such directory.
    """
    export_dir_base = os.fsdecode(export_dir_base)
    if not tf.gfile.IsDirectory(export_dir_base):
        raise FileNotFoundError(f'no directory {export_dir_base}')
    names = (name.rstrip('/') for name in tf.gfile.ListDirectory(export_dir_base))
    for timestamp in sorted(filter(str.isdecimal, names), key=int, reverse=True):
        export_dir = os.path.join(export_dir_base, timestamp)
        if _is_complete(export_dir):
            yield export_dir


def _is_complete(export_dir):
    try:
        saved_model = _read_saved_model(export_dir)
        if not any(meta_graph.HasField('saver_def') for meta_graph in saved_model.meta_graphs):
            return True  # a model without variables
        files = tf.gfile.ListDirectory(os.path.join(export_dir, 'variables'))
    except (OSError, ValueError, tf.errors.OpError):
        return False  # not a SavedModel
    shards = [re.fullmatch(r'variables\.data-\d{5}-of-(\d{5})', name) for name in files]
    shards = [int(shard[1]) for shard in shards if shard]
    return 'variables.index' in files and bool(shards) and len(shards) == shards[0]


def _read_saved_model(export_dir):
    saved_model = saved_model_pb2.SavedModel()
    path = os.path.join(export_dir, 'saved_model.pb')
    if tf.gfile.Exists(path + 'txt') and not tf.gfile.Exists(path):
        path += 'txt'
    try:
        with tf.gfile.Open(path, 'rb') as file:
            content = file.read()
        checksum = os.path.join(export_dir, _CHECKSUM)
        if tf.gfile.Exists(checksum):
            with tf.gfile.Open(checksum, 'rb') as file:
                if file.read() != _checksum(content):
                    raise ValueError(f'{path} is damaged: its checksum is not that of {checksum}')
        if path.endswith('txt'):
            text_format.Parse(content, saved_model)
        else:
            saved_model.ParseFromString(content)
    except (tf.errors.NotFoundError, tf.errors.FailedPreconditionError):
        raise FileNotFoundError(f'no SavedModel in {export_dir}: {path} is missing') from None
    except (message.DecodeError, text_format.ParseError, UnicodeDecodeError) as error:
        raise ValueError(f'{path} is damaged: {error}') from None
    if not saved_model.meta_graphs:
        raise ValueError(f'{path} is damaged: it holds no graph')
    return saved_model


def _load(session, tag_set, export_dir):
    try:
        tf.saved_model.loader.load(session, list(tag_set), export_dir)
    except (tf.errors.OpError, ValueError, TypeError, LookupError) as error:
        # TensorFlow's text has the reason after the node that failed, in between stack traces.
        reason = re.search('^Node: .*\n(.+)', str(error), re.M) or re.search('(.+)', str(error))
        raise ValueError(f'{export_dir} is damaged, or not for TensorFlow {tf.__version__}: '
                         f'{reason[1] if reason else type(error).__name__:.300}') from error


def _signature_tensors(graph, signature_def):
    """Returns the feed tensors and the fetch tensors of a signature: two dicts, sorted by key."""
    tensors = []
    for tensor_infos in (signature_def.inputs, signature_def.outputs):
        for key, tensor_info in tensor_infos.items():
            if tensor_info.WhichOneof('encoding') != 'name':
                raise ValueError(f'{key!r} is sparse or composite, and a Predictor feeds and fetches single tensors')
        tensors.append({key: graph.get_tensor_by_name(tensor_infos[key].name) for key in sorted(tensor_infos)})
    return tensors


def _config(**options):
    config = config_pb2.ConfigProto(**options)
    config.graph_options.rewrite_options.remapping = rewriter_config_pb2.RewriterConfig.OFF
    return config


def _is_freezable(feeds, fetches):
    """Whether between feeds and fetches nothing is stateful but reading variables, of FREEZE_BYTES at most."""
    feeds = {tensor.name for tensor in feeds}
    pending, seen, variable_bytes = [tensor.op for tensor in fetches], set(), 0
    while pending:
        op = pending.pop()
        if op.name in seen:
            continue
        seen.add(op.name)
        if op.type in ('VarHandleOp', 'VariableV2'):
            shape, dtype = tf.TensorShape(op.get_attr('shape')), op.get_attr('dtype')
            if not shape.is_fully_defined() or dtype.name in ('string', 'resource', 'variant'):
                return False
            variable_bytes += shape.num_elements() * dtype.size
        elif op.type not in ('ReadVariableOp', 'ResourceGather') and (op.op_def is None or op.op_def.is_stateful):
            return False
        elif any(tensor.dtype != tensor.dtype.base_dtype for tensor in op.outputs):
            return False  # a reference to a variable passed on: something assigns to it
        pending += op.control_inputs
        pending += [tensor.op for tensor in op.inputs if tensor.name not in feeds]
    return variable_bytes <= FREEZE_BYTES


def _is_computed(tensor, fed):
    """Whether a fetched tensor is new in each call, for sure: the result of arithmetic on something that is fed."""
    if tensor.op.type not in ('Add', 'AddV2', 'ArgMax', 'BiasAdd', 'MatMul', 'Mul', 'Relu', 'Sigmoid', 'Softmax'):
        return False
    pending, seen = [tensor], set()
    while pending:
        tensor = pending.pop()
        if tensor.name in fed:
            return True
        if tensor.name not in seen:
            seen.add(tensor.name)
            pending += tensor.op.inputs
    return False


def _unwrapped(function):
    """Returns the C function under a `session._Callable`: fewer steps in Python, 0.3 us less. Takes (arrays, None)."""
    try:
        from tensorflow.python.client import pywrap_tf_session
        run = functools.partial(pywrap_tf_session.TF_SessionRunCallable, function._session._session, function._handle)
    except (ImportError, AttributeError):  # private, as all of this; in TensorFlow 2.15 and 2.21
        return lambda arrays, _: function(*arrays)
    run.owner = function  # frees the handle when it is deleted
    return run


def _shape(tensor):
    return tensor.shape.as_list() if tensor.shape.rank is not None else 'of any shape'


def _shown(value):
    try:
        return f'{value!r:.200}'
    except Exception:  # nested too deep, an int of more digits than Python prints, or an error of its own
        return f'something of type {type(value).__name__}'
