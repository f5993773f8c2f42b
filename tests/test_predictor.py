"""predictor.py: what Session.run answers, for graphs and SavedModels of every kind."""

import contextlib
import itertools
import os
import re
import sys
import threading
from concurrent import futures

import export
import model
import numpy as np
import pytest
import tensorflow as tf2
from conftest import (
    ROOT,
    assert_same,
    double,
    echo,
    linear,
    session_run,
    signature_def,
    variable,
)
from estimator_inference import exports, predictor, tf
from estimator_inference.fast_session import tuned
from tensorflow.core.protobuf.rewriter_config_pb2 import RewriterConfig

SERVING = os.path.join(os.path.dirname(__file__), 'data', 'serving')
IN_POOL = tf.ConfigProto(inter_op_parallelism_threads=2, allow_soft_placement=True)
IN_POOL.graph_options.optimizer_options.do_constant_folding = True
CALLING_THREAD = tf.RunOptions(inter_op_thread_pool=-1)


@pytest.fixture(params=['tuned'])
def load(request, monkeypatch):
    """from_saved_model, as a Predictor runs: tuned, in the pool, on public API alone."""
    if request.param == 'public':
        monkeypatch.delattr(tf.Session.__base__, '_make_callable_from_options')
    config = {'config': IN_POOL} if request.param == 'pool' else {}
    with contextlib.ExitStack() as opened:
        yield lambda export_dir, **arguments: opened.enter_context(
            predictor.from_saved_model(export_dir, **{**config, **arguments})
        )


in_each_way = pytest.mark.parametrize('load', ['tuned', 'pool', 'public'], indirect=True)


def executor(predict_fn):
    """How a predictor runs: the executor of its session, and how many threads operations have."""
    config = predict_fn.session._config
    return config.experimental.executor_type, config.inter_op_parallelism_threads


FAST, OLD = ('SINGLE_THREADED_EXECUTOR', -1), ('', -1)


def with_default():
    x, factor = tf.placeholder(tf.float32, []), tf.placeholder_with_default(2.0, [])
    offset = tf.placeholder_with_default([0.0, 0.0], [2])
    return {'x': x, 'factor': factor, 'offset': offset}, {'y': x * factor + offset}


def of(function, shape=(None, 3), dtype=tf.float32):
    """What `save` takes: the model of one function."""

    def build():
        x = tf.placeholder(dtype, shape, 'x')
        return {'x': x}, {'y': function(x)}

    return build


# Random graphs.

UNARY = [
    *(tf.nn.relu, tf.sigmoid, tf.tanh, tf.exp, tf.log, tf.abs, tf.square, tf.sqrt, tf.nn.softmax),
    *(tf.negative, tf.floor, tf.nn.elu, tf.nn.softplus, tf.nn.leaky_relu, tf.nn.log_softmax),
    *(tf.identity, tf.stop_gradient, tf.nn.relu6, lambda x: tf.clip_by_value(x, -1, 1)),
    *(lambda x: tf.reduce_max(x, 1, keepdims=True) + x, lambda x: tf.cumsum(x, 1)),
    *(lambda x: x - tf.reduce_mean(x, 1, keepdims=True), lambda x: tf.reverse(x, [1])),
    *(lambda x: tf.transpose(tf.transpose(x)), lambda x: tf.where(x > 0, x, -x)),
    *(lambda x: x * 2 - 1, lambda x: x * 1 + 0, lambda x: tf.pow(x, 0.5), lambda x: x / 3),
    *(lambda x: tf.concat([x, x], 1)[:, :4], lambda x: tf.tile(x[:, :1], [1, 4])),
    *(lambda x: tf.cast(tf.cast(x, tf.float32), x.dtype), lambda x: tf.reshape(x, [-1, 4])),
]
BINARY = [
    *(tf.add, tf.subtract, tf.multiply, tf.divide, tf.maximum, tf.minimum, tf.pow),
    *(lambda a, b: tf.where(a > b, a, b), lambda a, b: (a - b) - b, tf.squared_difference),
    lambda a, b: tf.add_n([a, b]),  # of three, the order of the sum varies from run to run
]
LAST = [
    *(lambda x: tf.argmax(x, 1), lambda x: x > 0, lambda x: tf.logical_not(x > 0), tf.reduce_max),
    *(lambda x: tf.reduce_sum(x, 1), lambda x: tf.nn.top_k(x, 2)[1], tf.as_string, tf.shape),
    *(tf.is_nan, lambda x: tf.cast(x > 1, tf.int32), lambda x: tf.reduce_any(x > 2, 1)),
]
# Large, tiny, negative, nan, infinite; those below 1.2e-38 are subnormal as float32.
SPECIAL = [0.0, -0.0, 1, -1, 20, 88, -200, 2**24 + 1, 1e-3, 1e30, -1e30, 3e38, np.nan, np.inf]
SPECIAL += [-np.inf, 1e-30, 1e-42, -1e-45]


def random_graph(rng):
    """Returns (the input [None, 4], {key: output}) with operations and variables by chance."""

    def pick(values):
        return values[rng.integers(len(values))]

    def numbers(*shape):
        return rng.normal(size=shape).astype(dtype.name)

    dtype = pick([tf.float32, tf.float64])
    values = [tf.placeholder(dtype, [None, 4])]
    for i in range(rng.integers(2, 9)):
        kind, value = rng.integers(6), pick(values)
        if kind == 0:
            kernel = tf.get_variable(f'kernel{i}', initializer=numbers(4, 4))
            bias = tf.get_variable(f'bias{i}', initializer=numbers(4))
            values.append(tf.nn.bias_add(tf.matmul(value, kernel), bias))
        elif kind == 1:
            scalar = np.array(pick([1e30, 1e-30, 0, 1, -2.5, 3]), dtype.name)
            scalar = tf.get_variable(f'scalar{i}', initializer=scalar)
            values.append(pick(BINARY)(value, tf.broadcast_to(scalar, tf.shape(value))))
        elif kind == 2:
            values.append(pick(BINARY)(value, pick(values)))
        elif kind == 3:
            values.append(pick(BINARY)(value, numbers(4) + tf.zeros_like(value)))
        else:
            values.append(pick(UNARY)(value))
    fetched = [value for value in values if rng.random() < 0.3] + [values[-1]]
    fetched += [pick(LAST)(pick(values)) for _ in range(2)]
    return values[0], {str(i): value for i, value in enumerate(fetched)}


@pytest.mark.parametrize('graphs', [20, pytest.param(500, marks=pytest.mark.slow)])
@pytest.mark.filterwarnings('ignore:overflow')
def test_random_graphs_answer_bit_for_bit_as_session_run(graphs):
    """In the calling thread, and without fused products; the next two tests bound what these do."""
    config = tf.ConfigProto(allow_soft_placement=True)
    config.graph_options.rewrite_options.remapping = RewriterConfig.OFF
    for seed in range(graphs):
        rng = np.random.default_rng(seed)
        with tf.Graph().as_default() as graph:
            x, outputs = random_graph(rng)
            initializer = tf.global_variables_initializer()
        with (
            tf.Session(graph=graph, config=config) as plain,
            tf.Session(graph=graph, config=tuned(graph)) as fast,
        ):
            for session in (plain, fast):
                session.run(initializer)
            predict_fn = predictor.Predictor(fast, {'x': x}, outputs)
            assert executor(predict_fn) == FAST
            for _ in range(3):
                value = rng.normal(size=(5, 4)) * 10.0 ** rng.integers(-3, 4)
                value = np.where(rng.random((5, 4)) < 0.5, rng.choice(SPECIAL, (5, 4)), value)
                value = value.astype(x.dtype.as_numpy_dtype)
                theirs = plain.run(outputs, {x: value}, CALLING_THREAD)
                assert_same(predict_fn({'x': value}), theirs)


def test_subnormal_numbers_are_exact_in_the_calling_thread(save):
    """Session.run takes them for 0 in its own threads, which is off by 1.2e-38 at most."""
    export_dir = save(of(lambda x: x * 0.5))
    value = np.float32([[2e-38, -2e-38, 1]])
    ours, pool = predictor.from_saved_model(export_dir), session_run(export_dir, {'x': value})['y']
    np.testing.assert_array_equal(ours({'x': value})['y'], value * np.float32(0.5))
    assert np.abs(ours({'x': value})['y'] - pool).max() < 1.2e-38


def test_an_activation_fused_with_a_product_differs_in_the_last_bits(save):
    export_dir = save(
        of(lambda x: tf.tanh(tf.nn.bias_add(tf.matmul(x, variable('w', np.eye(3))), [0.1, 0, 0])))
    )
    x = np.random.default_rng(0).normal(size=(1000, 3)).astype(np.float32)
    ours, theirs = (
        predictor.from_saved_model(export_dir)({'x': x}),
        session_run(export_dir, {'x': x}),
    )
    assert np.abs(ours['y'] - theirs['y']).max() <= 3e-7


@pytest.mark.parametrize(
    'function, x, expected',
    [
        (lambda x: tf.argmax(tf.nn.relu(x), 1), [-3, -2, -1], 0),
        (lambda x: tf.argmax(tf.sigmoid(x), 1), [20, 30, 40], 0),
        (lambda x: -tf.log(tf.nn.softmax(x)), [0, 200, 0], [200, 0, 200]),
        (lambda x: tf.logical_not(x > 0), [np.nan] * 3, [True] * 3),
        (lambda x: tf.reduce_max(tf.log(x), 1), [-1, 2, 3], np.nan),
        (lambda x: (x - variable('a', 1e9)) - variable('b', -1e9), [16, 17, 48], None),
        (lambda x: x * variable('a', 1e30) * variable('b', 1e-30), [1e10] * 3, [np.inf] * 3),
        (lambda x: x / variable('a', 3), [1, 5, 7], None),
        (lambda x: tf.pow(x, variable('a', 0.5)), [-np.inf] * 3, [np.inf] * 3),
    ],
    ids=['relu', 'sigmoid', 'softmax', 'nan', 'log', 'shift', 'scale', 'third', 'pow'],
)
def test_nothing_is_rewritten_that_session_run_does_not_rewrite(load, save, function, x, expected):
    export_dir, x = save(of(function)), np.float32([x])
    answer = load(export_dir)({'x': x})
    assert_same(answer, session_run(export_dir, {'x': x}))
    if expected is not None:
        np.testing.assert_array_equal(answer['y'][0], expected)


# Models of other makers.


@pytest.mark.parametrize('written', ['pretrained', 'tests/data/tensorflow_1_15'])
def test_the_posts_model_and_one_of_tensorflow_1_15(load, written):
    export_dir = exports.latest(os.path.join(ROOT, written, 'saved_model'))
    answer = load(export_dir)({'number': [[3]]})
    assert_same(answer, session_run(export_dir, {'number': [[3]]}))
    assert answer['output'] == pytest.approx(np.array([[6]]), rel=1e-3)


def example(**numbers):
    """A serialized tf.train.Example with these features."""
    features = tf.train.Features()
    for key, number in numbers.items():
        features.feature[key].float_list.value.append(number)
    return tf.train.Example(features=features).SerializeToString()


def serving_signatures():
    for name in sorted(os.listdir(SERVING)):
        if os.path.isdir(os.path.join(SERVING, name)) and name != 'saved_model_counter':
            graphs = exports.read(os.path.join(SERVING, name)).meta_graphs
            for key in sorted(graphs[0].signature_def):
                if key != '__saved_model_init_op':
                    yield name, key


@pytest.mark.parametrize('name, key', list(serving_signatures()))
def test_tensorflow_servings_models(name, key):
    export_dir = os.path.join(SERVING, name)
    with predictor.from_saved_model(export_dir, key) as predict_fn:
        [(feed, tensor)] = predict_fn.feed_tensors.items()
        x = -7.5
        value = [example(x=x, x2=x) if tensor.dtype == tf.string else x]
        value = value if tensor.dtype == tf.string or tensor.shape.rank == 1 else [value]
        answer = predict_fn({feed: value})
        assert_same(answer, session_run(export_dir, {feed: value}, key))
        if key == 'serving_default':
            assert answer['y'].ravel() == [x / 2 + (3 if name.endswith('three') else 2)]


def test_servings_counter_counts():
    export_dir = os.path.join(SERVING, 'saved_model_counter')
    with predictor.from_saved_model(export_dir, 'get_counter') as predict_fn:
        signatures = exports.read(export_dir).meta_graphs[0].signature_def
        for key, feeds, expected in [
            ('incr_counter', {}, 1),
            ('incr_counter_by', {'delta:0': 40}, 41),
            ('reset_counter', {}, 0),
        ]:
            predict_fn.session.run(signatures[key].outputs['output'].name, feeds)
            assert predict_fn({})['output'] == expected


def test_saved_by_tensorflow_2_with_a_table_and_an_asset(load, tmp_path):
    (tmp_path / 'words.txt').write_text('ein\nzwölf\n')

    class Module(tf2.Module):
        def __init__(self):
            self.w = tf2.Variable([[2.0], [3.0]])
            ids = tf.int64, tf.lookup.TextFileIndex.LINE_NUMBER
            words = str(tmp_path / 'words.txt'), tf.string, tf.lookup.TextFileIndex.WHOLE_LINE
            self.table = tf2.lookup.StaticHashTable(tf.lookup.TextFileInitializer(*words, *ids), 0)

        @tf2.function(input_signature=[tf2.TensorSpec([None, 2]), tf2.TensorSpec([], tf.string)])
        def predict(self, x, word):
            y = x @ self.w
            if self.table.lookup(word) > 0:
                y = y * 10.0
            return {'y': y, 'word': word}

    module = Module()
    export_dir = str(tmp_path / 'export')
    tf2.saved_model.save(module, export_dir, {'serving_default': module.predict})
    (tmp_path / 'words.txt').unlink()  # the SavedModel has a copy
    predict_fn = load(export_dir)
    for word, factor in ('ein', 1), ('zwölf'.encode(), 10):
        answer = predict_fn({'x': [[1, 0], [0, 1]], 'word': word})
        assert answer['y'].tolist() == [[2 * factor], [3 * factor]]
        assert answer['word'] == tf.compat.as_bytes(word)


# Graphs of every kind, and how each is run.


@pytest.mark.parametrize('functional', [True, False])
def test_control_flow(load, save, functional):
    def build():
        x, w = tf.placeholder(tf.float32, []), variable('w', 2)
        chosen = tf.cond(x > 0, lambda: x * w, lambda: x - w)
        looped = tf.while_loop(lambda i: i < 100, lambda i: i * w, [x + 101])
        return {'x': x}, {'cond': chosen, 'while': looped}

    was_functional = tf.control_flow_v2_enabled()
    (tf.enable_control_flow_v2 if functional else tf.disable_control_flow_v2)()
    try:
        export_dir = save(build)
    finally:
        (tf.enable_control_flow_v2 if was_functional else tf.disable_control_flow_v2)()
    predict_fn = load(export_dir)
    assert executor(predict_fn) == (FAST if functional else OLD)
    for x in (1, -1, 3, -90):
        assert_same(predict_fn({'x': x}), session_run(export_dir, {'x': x}))
    assert [predict_fn({'x': x})['cond'] for x in (1, -1)] == [2, -3]


def test_a_graph_that_xla_clusters(load, save):
    """XLA adds Switch and Merge when the callable is made: the default executor runs it."""

    def scoped(x):
        with tf.xla.experimental.jit_scope():
            return tf.nn.relu(tf.matmul(x, variable('w', np.eye(3)))) * 2

    predict_fn = load(save(of(scoped)))
    assert predict_fn({'x': [[1, -2, 3]]})['y'].tolist() == [[2, 0, 6]]
    assert executor(predict_fn) == OLD


def test_a_mutex_and_a_config_of_mixed_precision(load, save):
    """What would wait for itself in a single thread, and what Grappler rewrites."""

    def guarded():
        x, section = tf.placeholder(tf.float32, [None]), tf.CriticalSection()
        one, two = section.execute(lambda: x + 1), section.execute(lambda: x * 2)
        return {'x': x}, {'one': one, 'two': two}

    answers = load(save(guarded))({'x': [3]})
    assert (answers['one'].tolist(), answers['two'].tolist()) == ([4], [6])
    config = tf.ConfigProto()
    config.graph_options.rewrite_options.auto_mixed_precision_cpu = 1
    predict_fn = load(save(of(lambda x: tf.matmul(x, variable('w', np.eye(3))))), config=config)
    assert predict_fn({'x': [[1, 2, 3]]})['y'].tolist() == [[1, 2, 3]]


def test_two_handles_of_one_variable(load, save):
    def build():
        x = tf.placeholder(tf.float32, [])
        one, two = (
            tf.raw_ops.VarHandleOp(dtype=tf.float32, shape=[], shared_name='one') for _ in range(2)
        )
        tf.raw_ops.AssignVariableOp(resource=two, value=x)
        return {'x': x}, {'y': tf.raw_ops.ReadVariableOp(resource=one, dtype=tf.float32) * x}

    predict_fn = load(save(build))
    [assign] = [op for op in predict_fn.graph.get_operations() if op.type == 'AssignVariableOp']
    for value in (2, 5):
        predict_fn.session.run(assign, {predict_fn.feed_tensors['x']: value})
        assert predict_fn({'x': 10})['y'] == 10 * value


def test_what_blocks_times_out(load, save):
    """In the calling thread nothing would: such graphs and configs run in the pool."""

    def build():
        x, queue = tf.placeholder(tf.float32, []), tf.FIFOQueue(1, tf.float32, [])
        tf.identity(queue.size(), 'size')
        queue.enqueue(1.0, name='enqueue')
        return {'x': x}, {'y': x + queue.dequeue()}

    predict_fn = load(save(build), config=tf.ConfigProto(operation_timeout_in_ms=200))
    assert executor(predict_fn) == ('', 0)
    with pytest.raises(tf.errors.DeadlineExceededError):
        predict_fn({'x': 1})
    predict_fn.session.run('enqueue')
    assert predict_fn({'x': 1}) == {'y': 2}
    timed = load(save(double), config=tf.ConfigProto(operation_timeout_in_ms=200))
    assert executor(timed) == ('', 0)


def test_a_model_on_two_devices(save):
    config = tf.ConfigProto(device_count={'CPU': 2})

    def build():
        x = tf.placeholder(tf.float32, [None])
        with tf.device('/device:CPU:1'):
            product = x * variable('w', 2)
        with tf.device('/device:CPU:0'):
            return {'x': x}, {'y': product + 1}

    with predictor.from_saved_model(save(build, config=config), config=config) as predict_fn:
        assert executor(predict_fn) == OLD
        assert predict_fn({'x': [1, 2]})['y'].tolist() == [3, 5]
    with predictor.from_saved_model(save(linear), config=config) as predict_fn:
        assert executor(predict_fn) == FAST  # where one of them runs all


@in_each_way
@pytest.mark.parametrize('use_resource', [True, False])
def test_variables_that_calls_change(load, save, use_resource):
    def build():
        x, count = tf.placeholder(tf.float32, []), variable('count', 0, use_resource)
        tf.assign(count, 5, name='beside')
        with tf.control_dependencies([tf.assign_add(count, x)]):
            return {'x': x}, {'sum': count.read_value(), 'random': tf.random.uniform([])}

    predict_fn = load(save(build))
    answers = [predict_fn({'x': x}) for x in (1, 2, 3)]
    assert [answer['sum'] for answer in answers] == [1, 3, 6]
    assert len({float(answer['random']) for answer in answers}) == 3
    predict_fn.session.run(predict_fn.graph.get_operation_by_name('beside'))
    assert predict_fn({'x': 1})['sum'] == 6
    if executor(predict_fn) != ('', 2):
        assert executor(predict_fn) == (FAST if use_resource else OLD)


@pytest.mark.parametrize('stateful', [True, False])
def test_python_functions(load, save, stateful):
    predict_fn = load(save(of(lambda x: tf.py_func(np.sort, [x], tf.float32, stateful))))
    assert predict_fn({'x': [[3, 1, 2]]})['y'].tolist() == [[1, 2, 3]]
    assert executor(predict_fn) == ('', 0)


def test_examples_in_and_a_malformed_one(load, save):
    spec = {'x': tf.FixedLenFeature([], tf.float32)}
    predict_fn = load(save(of(lambda x: tf.parse_example(x, spec)['x'], [None], tf.string)))
    assert predict_fn({'x': [example(x=1), example(x=2)]})['y'].tolist() == [1, 2]
    with pytest.raises(tf.errors.InvalidArgumentError, match='parse'):
        predict_fn({'x': [example(x=1)[:-1]]})
    assert predict_fn({'x': [example(x=1)]})['y'].tolist() == [1]


# Answers.


@in_each_way
def test_scalars(load, save):
    export_dir = save(lambda: ({}, {'y': tf.constant(3.0), 'word': tf.constant('é')}))
    assert_same(load(export_dir)({}), session_run(export_dir, {}))


@in_each_way
def test_an_output_that_is_fed(load, save):
    """It is a copy of what was fed, a string as bytes."""

    def build():
        x, key = tf.placeholder(tf.float32, [None], 'x'), tf.placeholder(tf.string, [None])
        inner = tf.multiply(x, 3, 'inner')
        outputs = {'key': key, 'y': inner + 1, 'x': x, 'z': inner, 'x again': x}
        return {'x': x, 'key': key, 'inner': inner}, outputs

    predict_fn, x = load(save(build)), np.float32([1, 2])
    answer = predict_fn({'x': x, 'key': ['a', b'\xff'], 'inner': [5, 5]})
    x[:] = 9
    expected = {'key': [b'a', b'\xff'], 'y': [6, 6], 'x': [1, 2], 'z': [5, 5], 'x again': [1, 2]}
    assert {key: value.tolist() for key, value in answer.items()} == expected
    answer = predict_fn({'x': [2], 'key': ['é']})
    assert (answer['y'], answer['z'], answer['x'], answer['key']) == (7, 6, 2, 'é'.encode())
    with pytest.raises(ValueError, match=r"input 'key': expected string \[None\], got \[3\]"):
        predict_fn({'x': [2], 'key': [3]})


def views():
    """Outputs that share memory: with what is fed, variables, constants, each other."""
    x = tf.placeholder(tf.float32, [None, 2])
    resource, reference = variable('resource', [[1, 2]]), variable('reference', [[1, 2]], False)
    constant, y = tf.constant([[1.0, 2.0]]), x * 3
    return {'x': x}, {
        'x': x,
        'scaled': x * 1 + 0,
        'reshaped': tf.reshape(x, [-1]),
        'slice': x[:1],
        'split': tf.split(x, [1, -1])[0],
        'resource': resource.read_value(),
        'reference': reference.read_value(),
        'reshaped variable': tf.reshape(reference, [2]),
        'constant': constant,
        'folded': constant * 2 + 1,
        'y': y,
        'y again': y,
        'y reshaped': tf.reshape(y, [-1]),
        'if': tf.cond(tf.shape(x)[0] > 0, lambda: x, lambda: x + 1),
    }


def aligned(values, dtype=np.float32):
    """Returns an array that TensorFlow reads where it is, instead of a copy."""
    values = np.asarray(values, dtype)
    memory = np.zeros(values.size + 64, dtype)
    start = -memory.ctypes.data % 64 // memory.itemsize
    array = memory[start : start + values.size].reshape(values.shape)
    array[...] = values
    return array


@in_each_way
def test_answers_share_no_memory(load, save):
    """Neither with what is fed, nor with each other, the variables, constants and later answers."""
    export_dir = save(views)
    predict_fn, x = load(export_dir), aligned([[1, 2], [3, 4]])
    expected = session_run(export_dir, {'x': x.copy()})
    first, second = predict_fn({'x': x}), predict_fn({'x': x})
    arrays = {'fed': x, **first, **{f'second {key}': value for key, value in second.items()}}
    for one, other in itertools.combinations(arrays, 2):
        assert not np.shares_memory(arrays[one], arrays[other]), (one, other)
    x[...] = -5  # the next request, in the same array
    for value in second.values():
        value[...] = 99
    assert_same(first, expected)
    assert_same(predict_fn({'x': [[1, 2], [3, 4]]}), expected)


def test_an_error_of_the_graph_is_not_one_of_strings(load, save):
    """A Python function that returns no string raises the InternalError that such a feed does."""
    calls = []

    def numbers(words):
        calls.append(words)
        return np.array([*map(int, words)], object)

    predict_fn = load(save(of(lambda x: tf.py_func(numbers, [x], tf.string), [None], tf.string)))
    with pytest.raises(tf.errors.InternalError, match='PyFunc'):
        predict_fn({'x': ['1', b'2']})
    assert len(calls) == 1  # and not again


# Inputs that are left out, or more than one for a tensor.


@in_each_way
def test_defaults_may_be_left_out_or_none(load, save):
    predict_fn = load(save(with_default))
    for _ in range(2):
        assert predict_fn({'x': 3})['y'].tolist() == [6, 6]
        assert predict_fn({'x': 3, 'factor': None, 'offset': None})['y'].tolist() == [6, 6]
        assert predict_fn({'x': 3, 'factor': 10})['y'].tolist() == [30, 30]
        assert predict_fn({'x': 3, 'offset': [1, 2]})['y'].tolist() == [7, 8]
        assert predict_fn({'offset': [1, 2], 'factor': 10, 'x': 3})['y'].tolist() == [31, 32]
        with pytest.raises(ValueError, match=r"^missing input 'x': expected float32 \[\]$"):
            predict_fn({'factor': 10})


def test_what_the_outputs_do_not_need_may_be_left_out(load, save):
    def build():
        x, label = tf.placeholder(tf.float32, [None], 'x'), tf.placeholder(tf.float32, [None])
        inner = tf.multiply(x, 3, 'inner')
        return {'x': x, 'label': label, 'inner': inner}, {'y': inner + 1}

    predict_fn = load(save(build))
    assert predict_fn({'x': [1]})['y'].tolist() == [4]
    assert predict_fn({'inner': [10]})['y'].tolist() == [11]  # then x isn't needed either
    assert predict_fn({'x': [1], 'inner': [10], 'label': None})['y'].tolist() == [11]
    with pytest.raises(ValueError, match="missing input 'x'"):
        predict_fn({'label': [5]})


def test_two_keys_for_one_tensor(load, save):
    """The later value counts, as in contrib's feed_dict."""
    names = {'a': 'x:0', 'b': 'x:0'}
    predict_fn = load(save(linear), input_names=names, output_names={'y': 'add:0'})
    assert predict_fn({'a': [[1]], 'b': [[2]]})['y'].tolist() == [[7]]
    assert predict_fn({'b': [[2]], 'a': [[1]]})['y'].tolist() == [[4]]
    assert predict_fn({'a': [[1]]})['y'].tolist() == predict_fn({'b': [[1]]})['y'].tolist() == [[4]]


# Which part of a SavedModel: signatures, names, tags; graph and config.


def test_signatures(load, save):
    export_dir = save(
        lambda: {
            'serving_default': linear(),
            'default_input_alternative:text': echo(tf.string),
            'square': of(tf.square)(),
        }
    )
    assert load(export_dir)({'x': [[3]]})['y'] == [[10]]
    assert load(export_dir, signature_def_key='square')({'x': [[3, 0, 0]]})['y'][0, 0] == 9
    assert load(export_dir, signature_def_key='text')({'x': ['é']})['y'] == ['é'.encode()]
    with pytest.raises(
        ValueError, match=r"no signature 'cube', only \['default_input_.*'square'\]"
    ):
        load(export_dir, signature_def_key='cube')
    with tf.Graph().as_default():
        inputs, outputs = linear()
        signature = signature_def({'in': inputs['x']}, {'out': outputs['y']})
    assert load(export_dir, signature_def=signature)({'in': [[2]]})['out'].tolist() == [[7]]


def test_names(load, save):
    outputs = {'out': 'add:0', 'inner': 'mul:0'}
    predict_fn = load(save(linear), input_names={'in': 'x:0'}, output_names=outputs)
    answer = predict_fn({'in': [[2]]})
    assert {key: value.tolist() for key, value in answer.items()} == {'out': [[7]], 'inner': [[6]]}
    predict_fn = load(save(linear), input_names={'inner': 'mul:0'}, output_names={'out': 'add:0'})
    assert predict_fn({'inner': [[10]]})['out'].tolist() == [[11]]
    nothing = load(save(linear), input_names={'x': 'x:0'}, output_names={})
    assert nothing({'x': [[1]]}) == nothing({}) == {}


def test_arguments_that_exclude_each_other(save):
    export_dir, signature_def = save(double), tf.saved_model.build_signature_def()
    for arguments in (
        {'signature_def_key': 'k', 'signature_def': signature_def},
        {'output_names': {}},
        {'signature_def_key': 'k', 'input_names': {}, 'output_names': {}},
    ):
        with pytest.raises(ValueError, match='input_names and output_names|at most one'):
            predictor.from_saved_model(export_dir, **arguments)


def test_tags(load, save):
    export_dir = save(linear, tags=[('serve',), ('serve', 'gpu'), ('train',)])
    for tags in (None, 'serve', 'serve,gpu', 'serve, gpu', ['serve'], {'gpu', 'serve'}, 'train'):
        assert load(export_dir, tags=tags)({'x': [[1]]})['y'].tolist() == [[4]]
    with pytest.raises(RuntimeError, match='gpu.* could not be found .*serve.*train'):
        load(export_dir, tags='gpu')


def test_the_callers_graph_and_config(load, save):
    graph, config = tf.Graph(), tf.ConfigProto(device_count={'CPU': 2})
    predict_fn = load(save(linear), graph=graph, config=config)
    assert predict_fn.graph is graph and predict_fn.session.graph is graph
    assert len(predict_fn.session.list_devices()) == 2
    assert predict_fn.feed_tensors == {'x': graph.get_tensor_by_name('x:0')}
    assert predict_fn({'x': [[1]]})['y'].tolist() == [[4]]
    assert config == tf.ConfigProto(device_count={'CPU': 2})


def test_what_a_config_sets_stays_and_the_rest_is_tuned():
    assert tuned(tf.Graph()).graph_options.rewrite_options.remapping == RewriterConfig.OFF
    config = tf.ConfigProto(allow_soft_placement=True, inter_op_parallelism_threads=3)
    config.graph_options.rewrite_options.remapping = RewriterConfig.ON
    config.graph_options.optimizer_options.global_jit_level = tf.OptimizerOptions.OFF
    assert tuned(tf.Graph(), config) == config
    config = tf.ConfigProto(experimental={'executor_type': 'DEFAULT'})
    assert tuned(tf.Graph(), config).experimental.executor_type == 'DEFAULT'
    own_pool = tf.ConfigProto(session_inter_op_thread_pool=[{'num_threads': 1}])
    assert tuned(tf.Graph(), own_pool).inter_op_parallelism_threads == 0


def test_what_tf_config_rules(load, save):
    """A session without a config has that of `tf.config`, also where it is opened in a graph."""
    export_dir = save(linear)
    tf2.config.set_soft_device_placement(False)
    tf2.config.optimizer.set_experimental_options({'shape_optimization': False})
    try:
        theirs = tf.Session(graph=tf.Graph())._config
        with tf.Graph().as_default():
            ours = load(export_dir).session._config
    finally:
        tf2.config.set_soft_device_placement(True)
        tf2.config.optimizer.set_experimental_options({'shape_optimization': True})
    assert ours == tuned(tf.Graph(), theirs) and not ours.allow_soft_placement
    assert ours.graph_options.rewrite_options.shape_optimization == RewriterConfig.OFF
    assert load(export_dir).session._config.allow_soft_placement


# What is refused when it is opened.


def replaced(export_dir, old, new):
    path = os.path.join(export_dir, 'saved_model.pb')
    with open(path, 'rb') as file:
        content = file.read()
    assert old in content and len(old) == len(new)
    with open(path, 'wb') as file:
        file.write(content.replace(old, new))
    return export_dir


def placed(x):
    with tf.device('/job:localhost/device:CPU:0'):
        return x * variable('w', 2)


@pytest.mark.parametrize(
    'old, new, message',
    [
        (b'host/device:CPU:0', b'host/device:GPU:7', 'device that is not.*GPU:7'),
        (b'/job:localhost', b'/job:the_bosss', 'the devices of /job:the_bosss, a job of a cluster'),
        (b'\x04Sinh', b'\x04Sinj', 'needs Sinj, an operation that is not here|Sinj'),
    ],
    ids=['device', 'job', 'operation'],
)
def test_what_is_not_here_is_named(save, old, new, message):
    export_dir = replaced(save(of(lambda x: tf.sinh(placed(x)))), old, new)
    with pytest.raises(ValueError, match=f'{export_dir}.*{message}') as error:
        predictor.from_saved_model(export_dir, config=tf.ConfigProto())
    assert '\n' not in str(error.value)
    if old != b'\x04Sinh':
        assert not isinstance(error.value, exports.DamagedExport)
    if b'GPU' in new:  # as tf.Session() places it: where it can
        assert predictor.from_saved_model(export_dir)({'x': [[0, 0, 0]]})['y'][0, 0] == 0


def test_an_operation_without_a_kernel_is_named(tmp_path):
    with tf.Graph().as_default():
        x, zeros = tf.placeholder(tf.float32, [1, 1, 2]), tf.zeros([1, 1, 2])
        rnn = tf.raw_ops.CudnnRNNV2(
            input=x, input_h=zeros, input_c=zeros, params=tf.zeros([100]), is_training=False
        )
        meta_graph = tf.train.export_meta_graph()
        meta_graph.meta_info_def.tags.append('serve')
        signature = signature_def({'x': x}, {'y': rnn[0]})
        meta_graph.signature_def['serving_default'].CopyFrom(signature)
    saved_model = exports.saved_model_pb2.SavedModel(meta_graphs=[meta_graph])
    (tmp_path / 'saved_model.pb').write_bytes(saved_model.SerializeToString())
    with pytest.raises(ValueError, match='needs CudnnRNNV2, which no device here has'):
        predictor.from_saved_model(str(tmp_path))


def test_a_damaged_or_missing_saved_model(save, tmp_path):
    for damaged in 'saved_model.pb', 'variables/variables.index':
        export_dir = save(linear)
        os.truncate(os.path.join(export_dir, damaged), 10)
        with pytest.raises(exports.DamagedExport, match='is damaged'):
            predictor.from_saved_model(os.fsencode(export_dir))
    with pytest.raises(FileNotFoundError, match='no SavedModel: .*nothing'):
        predictor.from_saved_model(str(tmp_path / 'nothing'))


# from_estimator.


def receiver_of(**tensors):
    """A serving_input_receiver_fn whose features and receiver_tensors are one dict."""

    def serving_input_receiver_fn():
        features = {key: tf.placeholder(*of) for key, of in tensors.items()}
        return tf.estimator.export.ServingInputReceiver(features, features)

    return serving_input_receiver_fn


def test_from_estimator_predicts_as_estimator():
    trained = os.path.join(ROOT, 'pretrained', 'model')
    estimator = tf.estimator.Estimator(model.model_fn, trained, params={})
    numbers = np.linspace(-9, 99, 50, dtype=np.float32)[:, None]
    theirs = list(estimator.predict(lambda: tf.data.Dataset.from_tensors(np.tile(numbers, [1, 2]))))
    for arguments in ({}, {'config': IN_POOL}, {'graph': tf.Graph()}):
        receiver_fn = export.serving_input_receiver_fn
        with predictor.from_estimator(estimator, receiver_fn, **arguments) as predict_fn:
            assert predict_fn.graph is arguments.get('graph', predict_fn.graph)
            np.testing.assert_array_equal(predict_fn({'number': numbers})['output'], theirs)


def test_from_estimator_with_heads_and_a_model_fn_that_changes_its_features(tmp_path):
    def model_fn(features, labels, mode):
        features['y'] = features.pop('x') * 10
        y = features['y'] * variable('w', 3)
        heads = {'serving_default': {'y': y}, 'minus': {'y': -y}}
        outputs = {key: tf.estimator.export.PredictOutput(head) for key, head in heads.items()}
        return tf.estimator.EstimatorSpec(mode, predictions=y, export_outputs=outputs)

    estimator, receiver_fn = tf.estimator.Estimator(model_fn), receiver_of(x=(tf.float32, [None]))
    with predictor.from_estimator(estimator, receiver_fn) as predict_fn:
        assert predict_fn({'x': [1, 2]})['y'].tolist() == [30, 60]
    with predictor.from_estimator(estimator, receiver_fn, 'minus') as predict_fn:
        assert predict_fn({'x': [1]})['y'].tolist() == [-30]
    with pytest.raises(KeyError, match=r"no export output 'plus', only \['minus', 'serving_defa"):
        predictor.from_estimator(estimator, receiver_fn, output_key='plus')


def test_a_canned_classifier_with_raw_inputs():
    """Its default signature takes a tf.train.Example; the one that takes raw inputs is named."""
    columns = [tf.feature_column.numeric_column('size', [2])]
    estimator = tf.estimator.DNNClassifier([4], columns, n_classes=3)
    receiver_fn = receiver_of(size=(tf.float32, [None, 2]))
    with pytest.raises(ValueError, match=r"\['size'\], as output_key='predict' does"):
        predictor.from_estimator(estimator, receiver_fn)
    config = tf.ConfigProto(device_count={'CPU': 16})
    with predictor.from_estimator(estimator, receiver_fn, 'predict', config=config) as predict_fn:
        assert predict_fn({'size': [[1, 2]]})['probabilities'].shape == (1, 3)
        assert executor(predict_fn) == FAST


# The life of a Predictor.


def test_a_change_of_its_tensors_is_refused(load, save):
    predict_fn = load(save(of(tf.square)))
    for change in (
        lambda tensors: tensors.update(z=tensors['x']),
        lambda tensors: tensors.pop('x'),
        lambda tensors: tensors.__setitem__('x', None),
    ):
        with pytest.raises(TypeError, match='assign another dict'):
            change(predict_fn._feed_tensors)
        assert predict_fn({'x': [[1, 2, 3]]})['y'].tolist() == [[1, 4, 9]]


def test_other_tensors_and_another_session_take_effect(load, save):
    predict_fn = load(save(double))
    graph, x = predict_fn.graph, predict_fn.feed_tensors['x']
    assert predict_fn({'x': [1]})['y'].tolist() == [2]
    predict_fn._fetch_tensors = {'x': x}
    assert predict_fn({'x': [1]})['x'].tolist() == [1]
    predict_fn._feed_tensors = {'number': x}
    assert predict_fn({'number': [2]})['x'].tolist() == [2]
    predict_fn._fetch_tensors = {'y': graph.get_tensor_by_name('add:0')}
    predict_fn.session.close()
    with tf.Session(graph=graph) as predict_fn._session:
        assert predict_fn({'number': [2]})['y'].tolist() == [4]


def test_a_subclass_that_sets_its_tensors_itself():
    class Doubles(predictor.Predictor):
        def __init__(self):
            self._graph = tf.Graph()
            with self._graph.as_default():
                x = tf.placeholder(tf.float32, [None])
                self._session = tf.Session()
                self._feed_tensors, self._fetch_tensors = {'x': x}, {'y': x * 2}

    with Doubles() as predict_fn:
        assert predict_fn({'x': [1, 2]})['y'].tolist() == [2, 4]
        call, predict_fn.count = predict_fn._call, 1
        assert predict_fn._call is call  # no new one, as for another tensor
        assert predict_fn.graph is predict_fn.session.graph
        assert predict_fn.session.run(predict_fn.fetch_tensors, {'Placeholder:0': [3]})['y'] == 6


@in_each_way
@pytest.mark.parametrize('how', ['close', 'session', '__exit__'])
def test_close(load, save, how):
    predict_fn = load(save(with_default))
    predict_fn({'x': 1})
    close = predict_fn.session.close if how == 'session' else getattr(predict_fn, how)
    for _ in range(2):
        close()
    for inputs in ({'x': 1}, {'x': 1, 'factor': 2, 'offset': [1, 1]}):
        with pytest.raises(RuntimeError, match='[Cc]losed'):
            predict_fn(inputs)


@in_each_way
def test_threads_get_their_own_answers(load, save):
    """Then one closes it: each of the others gets an error that says so, and none hangs."""
    predict_fn, start = load(save(linear)), threading.Barrier(9)

    def predict(i):
        start.wait()
        rng = np.random.default_rng(i)
        try:
            for call in itertools.count():
                x = rng.integers(1000, size=(rng.integers(1, 4), 1))
                assert predict_fn({'x': x})['y'].tolist() == (3 * x + 1).tolist()
                if call == 100:
                    start.wait()
        except (RuntimeError, tf.errors.CancelledError) as error:
            return str(error)

    with futures.ThreadPoolExecutor(8) as pool:
        ends = [pool.submit(predict, i) for i in range(8)]
        for _ in range(2):
            start.wait(60)
        predict_fn.close()
    assert all(re.search('closed|cancelled', end.result()) for end in ends)


def test_threads_that_open_at_once(save):
    """TensorFlow's warnings of deprecated names are what they were, afterwards."""
    from tensorflow.python.util import deprecation

    export_dir, before = save(linear), deprecation._PRINT_DEPRECATION_WARNINGS
    with futures.ThreadPoolExecutor(8) as pool:
        opened = list(pool.map(predictor.from_saved_model, [export_dir] * 8))
    assert [predict_fn({'x': [[1]]})['y'].tolist() for predict_fn in opened] == [[[4]]] * 8
    assert deprecation._PRINT_DEPRECATION_WARNINGS == before


def test_repr(load, save):
    answer = "<Predictor: feed {'x': float32 [None, 1]}, fetch {'y': float32 [None, 1]}>"
    assert repr(load(save(linear))) == answer
    answer = "<Predictor: feed {'x': string of any shape}, fetch {'y': string of any shape}>"
    assert repr(load(save(echo, tf.string, None))) == answer


def test_what_is_private_in_tensorflow_can_be_done_without(save, monkeypatch):
    from estimator_inference import _private_api
    from tensorflow.python import eager
    from tensorflow.python.client import pywrap_tf_session

    with monkeypatch.context() as patched:
        patched.delattr(pywrap_tf_session, 'TF_SessionRunCallable')
        predict_fn = predictor.from_saved_model(save(linear))
    assert predict_fn({'x': [[2]]})['y'].tolist() == [[7]]
    with monkeypatch.context() as patched:
        patched.delattr(eager, 'context')
        patched.setitem(sys.modules, 'tensorflow.python.eager.context', None)
        found = [_private_api.default_config(), _private_api.eager_context()]
    assert found == [tf.ConfigProto(allow_soft_placement=True), None]
