"""All that this package uses of TensorFlow without its promise to keep it, but for tf1.py.

Each function tells since when TensorFlow has what it uses, and what happens without it.
"""

from __future__ import annotations

import functools
from typing import Any, Callable, List, Optional

import tensorflow.compat.v1 as tf
from tensorflow.core.protobuf import config_pb2, meta_graph_pb2


def make_callable(
    session: tf.Session, feeds: List[tf.Tensor], fetches: List[tf.Tensor]
) -> Callable[[List[Any], None], List[Any]]:
    """Returns a function from (a list of arrays, None for RunMetadata) to what is fetched, a list.

    `Session._make_callable_from_options` is in TensorFlow 1.5 to 2.21, and `TF_SessionRunCallable`,
    which does in C what that returns, in 2.15 to 2.21. A call takes a twentieth of the time of one
    of the public `Session.make_callable`, which does without them.
    """
    if not fetches:
        return lambda arrays, _: []
    names = [tensor.name for tensor in feeds]
    options = config_pb2.CallableOptions(feed=names, fetch=[tensor.name for tensor in fetches])
    try:
        from tensorflow.python.client import pywrap_tf_session

        function = session._make_callable_from_options(options)
        run = functools.partial(
            pywrap_tf_session.TF_SessionRunCallable, session._session, function._handle
        )
    except (ImportError, AttributeError):
        public = session.make_callable(fetches, names)
        return lambda arrays, _: public(*arrays)
    run.owner = function  # type: ignore[attr-defined]  # it frees the handle when it is deleted
    return run


def read_graph(
    export_dir: str, tags: set[str], graph: tf.Graph
) -> tuple[meta_graph_pb2.MetaGraphDef, Callable[[tf.Session], None]]:
    """Reads a graph of a SavedModel: its MetaGraphDef, and a function that restores a session.

    These are the two steps of `tf.saved_model.loader.load`, apart, since which session is fastest
    depends on the graph. SavedModelLoader is in TensorFlow 1.13 to 2.21; without it, this fails.
    """
    from tensorflow.python.saved_model import loader_impl

    loader = loader_impl.SavedModelLoader(export_dir)
    saver, _ = loader.load_graph(graph, tags)

    def restore(session: tf.Session) -> None:
        loader.restore_variables(session, saver)
        loader.run_init_ops(session, tags)

    return loader.get_meta_graph_def_from_tags(tags), restore


def default_config() -> config_pb2.ConfigProto:
    """Returns the config of a `tf.Session` without one: what calls of `tf.config` have set.

    Only the eager context knows it, in TensorFlow 2.0 to 2.21. Without it: soft placement alone.
    """
    try:
        from tensorflow.python.eager import context

        with tf.init_scope():  # within a graph, it would answer that soft placement is off
            return context.context().config
    except (ImportError, AttributeError):
        return config_pb2.ConfigProto(allow_soft_placement=True)


def warm_start(estimator: Any, checkpoint: Optional[str]) -> None:
    """Starts an Estimator without a checkpoint from others' weights, as `Estimator.predict` does.

    A Keras model's weights come that way. The method is in tensorflow-estimator 1.13 to 2.15, which
    is the last. Without it, such an Estimator predicts with its initial weights.
    """
    if hasattr(estimator, '_maybe_warm_start'):
        estimator._maybe_warm_start(checkpoint)


def predict_on_tpu_estimator(estimator: Any) -> None:
    """Makes a TPUEstimator give its model_fn `params['batch_size']`, as `predict` does.

    Otherwise it takes the call for an export, which has none. The attribute is in
    tensorflow-estimator 1.13 to 2.15, which is the last.
    """
    if hasattr(estimator, '_is_input_fn_invoked'):
        estimator._is_input_fn_invoked = True


def runtime_started() -> bool:
    """Whether TensorFlow's threads may run: there was a session, or an operation was run eagerly.

    The counter of sessions is in TensorFlow 2.2 to 2.21, the eager context's handle in 2.0 to 2.21.
    Without them, a child forked from a process that has used TensorFlow hangs, without an error.
    """
    try:
        from tensorflow.python.client.session import _python_session_create_counter as counter

        return counter.get_cell().value() > 0 or bool(eager_context()._context_handle)
    except (ImportError, AttributeError):
        return False


def eager_context() -> Any:
    """Returns TensorFlow's eager context, or None. In a forked child, its deletion may hang."""
    try:
        from tensorflow.python.eager import context

        return context.context_safe()
    except (ImportError, AttributeError):
        return None
