"""predictor.py: what the contract in its docstrings says, on SavedModels of many kinds, compared with Session.run."""

import contextlib
import os
import random
import sys
import threading

import numpy as np
import pytest
import tensorflow
from conftest import (
    assert_same,
    double,
    echo,
    linear,
    session_run,
    signature_def,
    variable,
)  # noqa: F401
from tensorflow.python.framework import function

import export  # before tensorflow
import model
from estimator_inference import _private_api, exports, fast_session, predictor, tf
from estimator_inference.feeds import Feed

OWN_POOL = tf.ConfigProto(session_inter_op_thread_pool=[{'num_threads': 1}])
IN_POOL = tf.ConfigProto(inter_op_parallelism_threads=2, allow_soft_placement=True)


@pytest.fixture(
    params=['tuned', *(pytest.param(mode, marks=pytest.mark.slow) for mode in ('config', 'public'))]
)
def load(request, monkeypatch):
    """from_saved_model, in each way that a Predictor runs: frozen where it can be, in the pool, on public API alone.

    The last two are slow tests, except where the way matters: `in_each_way`.
    """
    if request.param == 'public':
        monkeypatch.delattr(tf.Session.__base__, '_make_callable_from_options')
    config = {'config': IN_POOL} if request.param == 'config' else {}
    with contextlib.ExitStack() as opened:
        yield lambda export_dir, **arguments: opened.enter_context(
            predictor.from_saved_model(export_dir, **{**config, **arguments})
        )


in_each_way = pytest.mark.parametrize('load', ['tuned', 'config', 'public'], indirect=True)


def mlp():
    x = tf.placeholder(tf.float32, [None, 20])
    layer = x
    for i in range(3):
        weights = np.random.RandomState(i).randn(20, 20) / 5
        layer = tf.nn.relu(
            tf.matmul(layer, variable(f'w{i}', weights)) + variable(f'b{i}', weights[0])
        )
    return {'x': x}, {'p': tf.nn.softmax(layer), 'class': tf.argmax(layer, 1)}


def with_default():
    x, factor = tf.placeholder(tf.float32, []), tf.placeholder_with_default(2.0, [])
    offset = tf.placeholder_with_default([0.0, 0.0], [2])
    return {'x': x, 'factor': factor, 'offset': offset}, {'y': x * factor + offset}


def two_heads():
    x, text = tf.placeholder(tf.float32, [None]), tf.placeholder(tf.string, [None])
    return {
        'serving_default': ({'x': x}, {'y': x * variable('w', 2)}),
        'square': ({'x': x}, {'z': x * x}),
        'text': ({'text': text}, {'length': tf.strings.length(text)}),
    }


# Values: what Session.run returns, for SavedModels of every kind.


@in_each_way
def test_the_posts_model(load, exported):
    export_dir = exports.latest(exported)
    with load(export_dir) as predict_fn:
        answer = predict_fn({'number': [[3]]})
        assert_same(answer, session_run(export_dir, {'number': [[3]]}))
        assert isinstance(answer, dict) and answer['output'].dtype == np.float32
        assert answer['output'] == pytest.approx(np.array([[6]]), rel=1e-3)


@in_each_way
@pytest.mark.parametrize('use_resource', [True, False])
def test_variables(load, save, use_resource):
    assert load(save(linear, use_resource))({'x': [[1], [2]]})['y'].tolist() == [[4], [7]]


def test_no_variables(load, save):
    assert load(save(double))({'x': [1, 2]})['y'].tolist() == [2, 4]


@in_each_way
def test_no_inputs(load, save):
    assert load(save(lambda: ({}, {'y': tf.constant([1, 2])})))({})['y'].tolist() == [1, 2]


@pytest.mark.parametrize('size', [0, 1, 2, 10, 1000])
def test_batches(load, save, size):
    export_dir = save(mlp)
    predict_fn = load(export_dir)
    for seed in range(3):
        inputs = {'x': np.random.RandomState(seed).randn(size, 20).astype(np.float32)}
        ours, theirs = predict_fn(inputs), session_run(export_dir, inputs)
        np.testing.assert_allclose(ours['p'], theirs['p'], rtol=1e-5, atol=1e-7)
        np.testing.assert_array_equal(ours['class'], theirs['class'])


@in_each_way
@pytest.mark.parametrize(
    'convert',
    [
        np.ndarray.tolist,
        np.asfortranarray,
        np.matrix,
        lambda x: x[::2, ::-1],
        lambda x: x.T[:, :3].T,
        lambda x: np.broadcast_to(x[0], (5, 4)),
        lambda x: x.astype(np.float64),
        lambda x: x.astype(np.float16),
        lambda x: x.astype(np.int64),
        lambda x: x.astype('>f4'),
        lambda x: list(x),
        lambda x: x.astype(str),
        lambda x: np.frombuffer(b'-' + x.tobytes(), np.uint8)[1:].view(np.float32).reshape(x.shape),
    ],
)  # not aligned
@pytest.mark.filterwarnings('ignore:the matrix subclass')
def test_layouts_and_casts(load, save, convert):
    export_dir = save(double, tf.float32, (None, 4))
    value = convert(np.random.RandomState(0).randn(6, 4).astype(np.float32) * 9)
    assert_same(load(export_dir)({'x': value}), session_run(export_dir, {'x': value}))


@pytest.mark.parametrize(
    'dtype, value',
    [
        *(
            (dtype, [0, 1, 2])
            for dtype in (
                tf.float16,
                tf.bfloat16,
                tf.float32,
                tf.float64,
                tf.int8,
                tf.int16,
                tf.int32,
                tf.int64,
                tf.uint8,
                tf.uint16,
                tf.uint32,
                tf.uint64,
                tf.complex64,
                tf.complex128,
                tf.qint8,
                tf.quint8,
                tf.qint16,
                tf.quint16,
                tf.qint32,
            )
        ),
        (tf.bool, [True, False, 1]),
        (tf.float16, [1e9]),
        (tf.float64, [0.1, np.nan, np.inf]),
        (tf.complex64, [1 + 2j]),
        (tf.int64, [2**63 - 1, -(2**63)]),
        (tf.uint64, [2**64 - 1]),
        (tf.int32, [1.7, -1.7]),
        (tf.float32, ['1.5']),
        (tf.bfloat16, np.array([1.01, 3])),
        (tf.float32, [True]),
        (tf.string, ['é', 'a\0', b'\xff\0', '']),
        (tf.string, np.array(['é', 'abc'])),
        (tf.string, np.array([b'\xff', b'abc'])),
        (tf.string, np.array(['é', b'\xff'], object)),
        (tf.string, []),
    ],
)
@pytest.mark.filterwarnings('ignore:overflow')  # 1e9 as a float16 is inf
def test_dtypes(load, save, dtype, value):
    export_dir = save(echo, dtype)
    answer = load(export_dir)({'x': value})
    assert len(answer['y']) == len(value)
    assert_same(answer, session_run(export_dir, {'x': value}))


@in_each_way
@pytest.mark.parametrize(
    'dtype, value',
    [
        (tf.float32, 3),
        (tf.int64, np.int8(3)),
        (tf.bool, False),
        (tf.string, 'é'),
        (tf.string, b'\xff'),
        (tf.complex64, 1j),
        (tf.string, np.str_('a')),
    ],
)
def test_scalars(load, save, dtype, value):
    export_dir = save(echo, dtype, ())
    assert_same(load(export_dir)({'x': value}), session_run(export_dir, {'x': value}))


@in_each_way
def test_unknown_rank(load, save):
    export_dir = save(double, tf.float32, None)
    predict_fn = load(export_dir)
    for value in (1, [1], [[1, 2], [3, 4]], np.ones((1, 2, 3, 4)), 5, []):
        assert_same(predict_fn({'x': value}), session_run(export_dir, {'x': value}))


@in_each_way
def test_defaults_may_be_left_out_or_none(load, save):
    predict_fn = load(save(with_default))
    for _ in range(2):
        assert predict_fn({'x': 3})['y'].tolist() == [6, 6]
        assert predict_fn({'x': 3, 'factor': None, 'offset': None})['y'].tolist() == [6, 6]
        assert predict_fn({'x': 3, 'factor': 10})['y'].tolist() == [30, 30]
        assert predict_fn({'x': 3, 'offset': [1, 2]})['y'].tolist() == [7, 8]
        assert predict_fn({'offset': [1, 2], 'factor': 10, 'x': 3})['y'].tolist() == [31, 32]


@pytest.mark.parametrize(
    'factor', [lambda: tf.constant(2.0), lambda: variable('w', 2)], ids=['constant', 'variable']
)
@pytest.mark.parametrize('kind', ['functional', '1.x', '1.x in a function'])
def test_control_flow(load, save, kind, factor):
    """That of 1.x keeps a graph from being frozen: the single-threaded executor refuses it."""

    def outputs(x, w):
        return (
            tf.cond(x > 0, lambda: x * w, lambda: x - w),
            tf.while_loop(lambda i: i < 100, lambda i: i * w, [x + 101]),
        )

    def build():
        x, w = tf.placeholder(tf.float32, []), factor()
        if kind == '1.x in a function':
            branch = function.Defun(tf.float32, tf.float32)(outputs)
            y, z = tf.raw_ops.StatelessIf(
                cond=x > 1,
                input=[x, tf.identity(w)],
                Tout=[tf.float32] * 2,
                then_branch=branch,
                else_branch=branch,
            )
        else:
            y, z = outputs(x, w)
        return {'x': x}, {'cond': y, 'while': z}

    was_functional = tf.control_flow_v2_enabled()
    (tf.enable_control_flow_v2 if kind == 'functional' else tf.disable_control_flow_v2)()
    try:
        export_dir = save(build)
    finally:
        (tf.enable_control_flow_v2 if was_functional else tf.disable_control_flow_v2)()
    predict_fn = load(export_dir)
    assert (kind == '1.x') == ('Switch' in {op.type for op in predict_fn.graph.get_operations()})
    for x in (1, -1, 3, -90):
        assert_same(predict_fn({'x': x}), session_run(export_dir, {'x': x}))
    assert [predict_fn({'x': x})['cond'] for x in (1, -1)] == [2, -3]


@in_each_way
def test_a_table_with_an_asset(load, save, tmp_path):
    (tmp_path / 'words.txt').write_text('ein\nzwölf\n')

    def build():
        words = tf.placeholder(tf.string, [None])
        table = tf.lookup.StaticVocabularyTable(
            tf.lookup.TextFileInitializer(
                str(tmp_path / 'words.txt'),
                tf.string,
                tf.lookup.TextFileIndex.WHOLE_LINE,
                tf.int64,
                tf.lookup.TextFileIndex.LINE_NUMBER,
            ),
            1,
        )
        return {'words': words}, {'ids': table.lookup(words)}

    export_dir = save(build)
    (tmp_path / 'words.txt').unlink()  # the SavedModel has a copy
    predict_fn = load(export_dir)
    assert predict_fn({'words': ['zwölf', b'ein', 'drei']})['ids'].tolist() == [1, 0, 2]
    assert predict_fn({'words': []})['ids'].tolist() == []


@in_each_way
@pytest.mark.parametrize('use_resource', [True, False])
def test_a_variable_that_calls_change_is_not_frozen(load, save, use_resource):
    def build():
        count = variable('count', 0, use_resource)
        return {'x': tf.placeholder(tf.float32, [])}, {
            'count': tf.identity(tf.assign_add(count, 1))
        }

    predict_fn = load(save(build))
    assert [predict_fn({'x': 0})['count'] for _ in range(3)] == [1, 2, 3]


def test_an_embedding(load, save):
    def build():
        ids = tf.placeholder(tf.int32, [None])
        return {'ids': ids}, {
            'rows': tf.nn.embedding_lookup(variable('table', [[1, 2], [3, 4]]), ids)
        }

    predict_fn = load(save(build))
    assert predict_fn({'ids': [1, 0, 1]})['rows'].tolist() == [[3, 4], [1, 2], [3, 4]]
    with pytest.raises(tf.errors.InvalidArgumentError, match='2 is not in'):
        predict_fn({'ids': [2]})


@in_each_way
def test_a_variable_that_a_control_dependency_changes_is_not_frozen(load, save):
    def build():
        x, count = tf.placeholder(tf.float32, []), variable('count', 0)
        with tf.control_dependencies([tf.assign_add(count, x)]):
            return {'x': x}, {'sum': count.read_value()}

    predict_fn = load(save(build))
    assert [predict_fn({'x': x})['sum'] for x in (1, 2, 3)] == [1, 3, 6]


def test_random_numbers_differ(load, save):
    predict_fn = load(
        save(lambda: ({'n': tf.placeholder(tf.int32, [])}, {'y': tf.random.uniform([]) + 0}))
    )
    assert len({float(predict_fn({'n': 1})['y']) for _ in range(20)}) > 15


@pytest.mark.parametrize('stateful', [True, False])
def test_python_functions(load, save, stateful):
    def build():
        x = tf.placeholder(tf.float32, [None])
        return {'x': x}, {'y': tf.py_func(lambda x: np.sort(x), [x], tf.float32, stateful)}

    assert load(save(build))({'x': [3, 1, 2]})['y'].tolist() == [1, 2, 3]


def test_examples_in_and_a_malformed_one(load, save):
    def build():
        examples = tf.placeholder(tf.string, [None])
        return {'examples': examples}, tf.parse_example(
            examples, {'x': tf.FixedLenFeature([2], tf.float32)}
        )

    features = tf.train.Features(
        feature={'x': tf.train.Feature(float_list=tf.train.FloatList(value=[1, 2]))}
    )
    example = tf.train.Example(features=features).SerializeToString()
    predict_fn = load(save(build))
    assert predict_fn({'examples': [example] * 2})['x'].tolist() == [[1, 2]] * 2
    with pytest.raises(tf.errors.InvalidArgumentError, match='parse'):
        predict_fn({'examples': [example[:-1]]})
    assert predict_fn({'examples': [example]})['x'].tolist() == [[1, 2]]


@in_each_way
def test_outputs_of_one_tensor(load, save):
    def build():
        inputs, outputs = double()
        return inputs, {'a': outputs['y'], 'b': outputs['y']}

    answer = load(save(build))({'x': [1]})
    assert answer['a'].tolist() == answer['b'].tolist() == [2] and len(answer) == 2


@in_each_way
def test_an_output_that_is_fed(load, save):
    def build():
        x, key = tf.placeholder(tf.float32, [None]), tf.placeholder(tf.string, [None])
        return {'x': x, 'key': key}, {'y': x + x, 'x': x, 'key': key}

    export_dir = save(build)
    inputs = {'x': [1, 2], 'key': [b'a', b'b']}
    answer = load(export_dir)(inputs)
    assert (
        answer['x'].dtype == np.float32
        and answer['x'].tolist() == [1, 2]
        and answer['y'].tolist() == [2, 4]
    )
    assert_same(answer, session_run(export_dir, inputs))


def test_an_input_that_is_not_used(load, save):
    def build():
        inputs, outputs = linear()
        return {**inputs, 'unused': tf.placeholder(tf.float32, [])}, outputs

    assert load(save(build))({'x': [[1]], 'unused': 1})['y'].tolist() == [[4]]


@in_each_way
def test_answers_belong_to_the_caller(load, save):
    """Writing into an answer changes neither the model nor the input, nor does writing into an input an answer."""

    def build():
        x, resource, reference = (
            tf.placeholder(tf.float32, [None]),
            variable('v', [1, 1]),
            variable('r', [1, 1], False),
        )
        return {'x': x}, {
            'x': tf.identity(x),
            'constant': tf.constant([1.0, 1.0]),
            'two': resource.read_value() * 2,
            'resource': resource.read_value(),
            'reference': reference.read_value(),
        }

    predict_fn = load(save(build))
    x = np.ones(1000, np.float32)
    x = x[-x.ctypes.data % 64 // 4 :][:2]  # aligned: TensorFlow reads it where it is
    expected = {
        'x': [1, 1],
        'constant': [1, 1],
        'two': [2, 2],
        'resource': [1, 1],
        'reference': [1, 1],
    }
    first = predict_fn({'x': x})
    for value in first.values():
        value *= 9
    assert x.tolist() == [1, 1]
    second = predict_fn({'x': x})
    x *= 9
    assert {key: value.tolist() for key, value in second.items()} == expected


@pytest.fixture(scope='module')
def saved_by_tensorflow_2(tmp_path_factory):
    class Module(tensorflow.Module):
        def __init__(self):
            self.w = tensorflow.Variable([[2.0], [3.0]])
            self.table = tensorflow.lookup.StaticHashTable(
                tensorflow.lookup.KeyValueTensorInitializer(['one', 'two'], [1, 2]), 0
            )

        @tensorflow.function(
            input_signature=[tensorflow.TensorSpec([None, 2]), tensorflow.TensorSpec([], tf.string)]
        )
        def predict(self, x, word):
            y = x @ self.w
            if self.table.lookup(word) > 1:
                y = y * 10.0
            return {'y': y, 'word': word}

    export_dir, module = str(tmp_path_factory.mktemp('tensorflow-2') / '7'), Module()
    tensorflow.saved_model.save(module, export_dir, {'serving_default': module.predict})
    return export_dir


@in_each_way
def test_saved_by_tensorflow_2(load, saved_by_tensorflow_2):
    export_dir = exports.latest(os.path.dirname(saved_by_tensorflow_2))
    assert export_dir == saved_by_tensorflow_2
    predict_fn = load(export_dir)
    for word, factor in ('one', 1), (b'two', 10):
        answer = predict_fn({'x': [[1, 0], [0, 1]], 'word': word})
        assert answer['y'].tolist() == [[2 * factor], [3 * factor]]
        assert answer['word'] == (word if isinstance(word, bytes) else word.encode())


# Which part of a SavedModel: signatures, names, tags, graph and config.


@in_each_way
def test_signatures(load, save):
    export_dir = save(two_heads)
    assert load(export_dir)({'x': [3]})['y'] == [6]
    assert load(export_dir, signature_def_key='square')({'x': [3]})['z'] == [9]
    assert load(export_dir, signature_def_key='text')({'text': ['é', 'abc']})[
        'length'
    ].tolist() == [2, 3]
    with pytest.raises(
        ValueError, match=r"no signature 'cube', only \['serving_default', 'square', 'text'\]"
    ):
        load(export_dir, signature_def_key='cube')


def test_signature_def(load, save):
    export_dir = save(linear)
    with tf.Graph().as_default():
        inputs, outputs = linear()
        signature = signature_def({'in': inputs['x']}, {'out': outputs['y']})
    assert load(export_dir, signature_def=signature)({'in': [[2]]})['out'].tolist() == [[7]]


@in_each_way
def test_names(load, save):
    predict_fn = load(
        save(linear), input_names={'in': 'x:0'}, output_names={'out': 'add:0', 'inner': 'mul:0'}
    )
    answer = predict_fn({'in': [[2]]})
    assert {key: value.tolist() for key, value in answer.items()} == {'out': [[7]], 'inner': [[6]]}
    predict_fn = load(save(linear), input_names={'inner': 'mul:0'}, output_names={'out': 'add:0'})
    assert predict_fn({'inner': [[10]]})['out'].tolist() == [[11]]


@pytest.mark.parametrize(
    'arguments',
    [
        {'signature_def_key': 'k', 'signature_def': tf.saved_model.build_signature_def()},
        {'input_names': {}},
        {'output_names': {}},
        {'signature_def_key': 'k', 'input_names': {}, 'output_names': {}},
        {
            'signature_def': tf.saved_model.build_signature_def(),
            'input_names': {},
            'output_names': {},
        },
    ],
)
def test_arguments_that_exclude_each_other(save, arguments):
    with pytest.raises(ValueError, match='input_names and output_names|at most one'):
        predictor.from_saved_model(save(double), **arguments)


def test_tags(save):
    export_dir = save(linear, tags=[('serve',), ('serve', 'gpu'), ('train',)])
    for tags in (None, 'serve', 'serve,gpu', 'gpu,serve', 'serve, gpu', 'train'):
        assert predictor.from_saved_model(export_dir, tags=tags)({'x': [[1]]})['y'].tolist() == [
            [4]
        ]
    for tags in ('gpu', 'serve,tpu', 'other'):
        with pytest.raises(
            RuntimeError, match=r"no graph with the tags \[.*\], only with .*\['gpu', 'serve'\]"
        ):
            predictor.from_saved_model(export_dir, tags=tags)


def test_the_callers_graph_and_config(save):
    graph, config = tf.Graph(), tf.ConfigProto(device_count={'CPU': 2})
    with predictor.from_saved_model(save(linear), graph=graph, config=config) as predict_fn:
        assert predict_fn.graph is graph and predict_fn.session.graph is graph
        assert (
            len(
                [
                    device
                    for device in predict_fn.session.list_devices()
                    if device.device_type == 'CPU'
                ]
            )
            == 2
        )
        assert predict_fn.feed_tensors == {'x': graph.get_tensor_by_name('x:0')}
        assert predict_fn.fetch_tensors == {'y': graph.get_tensor_by_name('add:0')}
        assert predict_fn({'x': [[1]]})['y'].tolist() == [[4]]
        assert predict_fn.session.run(predict_fn.fetch_tensors, {'x:0': [[1]]})['y'].tolist() == [
            [4]
        ]


@pytest.mark.parametrize(
    'elements, arguments, frozen',
    [
        (1 << 20, {}, True),
        ((1 << 20) + 1, {}, False),
        (1, {'config': tf.ConfigProto()}, True),
        (1, {'config': tf.ConfigProto(experimental={'executor_type': 'DEFAULT'})}, False),
        (1, {'config': IN_POOL}, False),
        (1, {'config': OWN_POOL}, False),
        (1, {'graph': tf.Graph()}, False),
    ],
)
def test_what_is_frozen(save, elements, arguments, frozen):
    """Up to FREEZE_BYTES, and nothing of the caller's: seen by whether an assignment to the variable shows."""

    def build():
        x, w = tf.placeholder(tf.float32, []), variable('w', np.ones(elements))
        return {'x': x}, {'y': w[0] + x}

    predict_fn = predictor.from_saved_model(save(build), **arguments)
    assert predict_fn({'x': 0})['y'] == 1
    handle = predict_fn.graph.get_operation_by_name('w').outputs[0]
    with predict_fn.graph.as_default():
        predict_fn.session.run(
            tf.raw_ops.AssignVariableOp(resource=handle, value=np.full(elements, 2, np.float32))
        )
    assert predict_fn({'x': 0})['y'] == (1 if frozen else 2)


@pytest.mark.slow
@pytest.mark.skipif(
    os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') < 15e9, reason='takes 8 GB of memory'
)
def test_a_graph_over_2_gb_is_not_looked_into():
    """Nothing of it is computed here: each session would copy it for half a minute."""
    with tf.Graph().as_default() as graph:
        for _ in range(2):
            tf.constant(np.zeros(1100 << 20, np.uint8))
        x = tf.placeholder(tf.float32, [])
        y = tf.cond(x > 0, lambda: x, lambda: -x)
    with tf.Session(graph=graph) as session:
        assert (
            fast_session.FastSession(session, [Feed('x', x)], [], fast_session.tuned())._frozen
            is None
        )
        assert fast_session._calls_python(graph, [y])  # it may


@pytest.mark.parametrize('kind', [str, os.fsencode])
def test_a_directory_as_estimator_returns_it(save, kind):
    assert predictor.from_saved_model(kind(save(linear)))({'x': [[1]]})['y'].tolist() == [[4]]


def test_a_saved_model_in_text(save):
    export_dir = save(linear, as_text=True)
    with predictor.from_saved_model(export_dir) as predict_fn:
        assert predict_fn({'x': [[1]]})['y'].tolist() == [[4]]
    os.truncate(os.path.join(export_dir, 'saved_model.pbtxt'), 1000)
    with pytest.raises(ValueError, match='saved_model.pb(txt)? is damaged'):
        predictor.from_saved_model(export_dir)


# from_estimator.


def test_from_estimator_predicts_as_estimator(trained):
    estimator = tf.estimator.Estimator(model.model_fn, trained, params={})
    numbers = np.linspace(-9, 99, 50, dtype=np.float32)[:, None]
    theirs = list(estimator.predict(lambda: tf.data.Dataset.from_tensors(np.tile(numbers, [1, 2]))))
    for arguments in ({}, {'config': IN_POOL}, {'graph': tf.Graph()}):
        with predictor.from_estimator(
            estimator, export.serving_input_receiver_fn, **arguments
        ) as predict_fn:
            assert predict_fn.graph is arguments.get('graph', predict_fn.graph)
            np.testing.assert_allclose(predict_fn({'number': numbers})['output'], theirs, rtol=1e-6)
            assert predict_fn({'number': [[3]]})['output'] == pytest.approx(
                np.array([[6]]), rel=1e-3
            )


def test_from_estimator_with_heads_and_a_table(tmp_path):
    def model_fn(features, labels, mode):
        table = tf.lookup.StaticHashTable(
            tf.lookup.KeyValueTensorInitializer(['one', 'two'], [1.0, 2.0]), 0.0
        )
        x = table.lookup(features['word']) * variable('w', 3)
        if mode == tf.estimator.ModeKeys.PREDICT:
            outputs = {'serving_default': {'x': x}, 'minus': {'x': -x}}
            return tf.estimator.EstimatorSpec(
                mode,
                predictions=x,
                export_outputs={
                    key: tf.estimator.export.PredictOutput(output)
                    for key, output in outputs.items()
                },
            )
        train_op = tf.assign_add(tf.train.get_global_step(), 1)
        return tf.estimator.EstimatorSpec(mode, loss=tf.reduce_sum(x), train_op=train_op)

    def serving_input_receiver_fn():
        word = tf.placeholder(tf.string, [None])
        return tf.estimator.export.ServingInputReceiver({'word': word}, {'word': word})

    estimator = tf.estimator.Estimator(model_fn, str(tmp_path / 'model'))
    with predictor.from_estimator(
        estimator, serving_input_receiver_fn
    ) as predict_fn:  # as Estimator.predict does
        assert predict_fn({'word': ['one', 'two', 'three']})['x'].tolist() == [3, 6, 0]
    estimator.train(lambda: ({'word': tf.constant(['one'])}, tf.constant([0.0])), steps=1)
    with predictor.from_estimator(estimator, serving_input_receiver_fn) as predict_fn:
        assert predict_fn({'word': ['one', 'two', 'three']})['x'].tolist() == [3, 6, 0]
    with predictor.from_estimator(estimator, serving_input_receiver_fn, 'minus') as predict_fn:
        assert predict_fn({'word': ['two']})['x'].tolist() == [-6]
    with pytest.raises(
        KeyError, match=r"no export output 'plus', only \['minus', 'serving_default'\]"
    ):
        predictor.from_estimator(estimator, serving_input_receiver_fn, output_key='plus')


# Wrong inputs and the life of a Predictor.


@pytest.mark.parametrize(
    'inputs, message',
    [
        ({}, r"missing input 'x': expected float32 \[None, 2\]"),
        ({'x': None}, r"missing input 'x': expected float32 \[None, 2\]"),
        ({'x': [[1, 2]], 'z': 1}, r"unknown inputs \['z'\]: expected \['x'\]"),
        ({'z': [[1, 2]]}, r"unknown inputs \['z'\]: expected \['x'\]"),
        ({'x': 1}, r"input 'x': expected float32 \[None, 2\], got the shape \[\]"),
        ({'x': [1, 2]}, r"input 'x': expected float32 \[None, 2\], got the shape \[2\]"),
        ({'x': [[1, 2, 3]]}, r"input 'x': expected float32 \[None, 2\], got the shape \[1, 3\]"),
        ({'x': []}, r"input 'x': expected float32 \[None, 2\], got the shape \[0\]"),
        (
            {'x': [[1, 2], [3]]},
            r"input 'x': expected float32 \[None, 2\], got \[\[1, 2\], \[3\]\]: .+",
        ),
        ({'x': [['a', 'b']]}, r"input 'x': expected float32 \[None, 2\], got \[\['a', 'b'\]\]: .+"),
        ({'x': object()}, r"input 'x': expected float32 \[None, 2\], got <object .+"),
        ({'x': {'y': 1}}, r"input 'x': expected float32 \[None, 2\], got {'y': 1}: .+"),
        ({'x': [[10**400, 1]]}, r"input 'x': expected float32 \[None, 2\], got \[\[10+.*"),
        ([[1, 2]], r"expected a dict with the keys \['x'\], got \[\[1, 2\]\]"),
        (None, r"expected a dict with the keys \['x'\], got None"),
        ('x', r"expected a dict with the keys \['x'\], got 'x'"),
    ],
)
def test_wrong_inputs(load, save, inputs, message):
    predict_fn = load(save(double, tf.float32, (None, 2)))
    for _ in range(2):  # also once the shape that fits is known
        with pytest.raises(ValueError, match=message) as error:
            predict_fn(inputs)
        assert len(str(error.value)) < 500
        assert predict_fn({'x': [[1, 2]]})['y'].tolist() == [[2, 4]]


@pytest.mark.parametrize(
    'dtype, value',
    [
        (tf.float32, None),
        (tf.string, None),
        (tf.bool, None),
        (tf.string, 5),
        (tf.uint8, 300),
        (tf.int32, 2**40),
        (tf.float32, 1j),
        (tf.float32, [1]),
    ],
)
def test_wrong_scalars(load, save, dtype, value):
    predict_fn = load(save(echo, dtype, ()))
    assert predict_fn({'x': 'a' if dtype == tf.string else 1})['y'] == (
        b'a' if dtype == tf.string else 1
    )
    with pytest.raises(ValueError, match=rf"input 'x': expected {dtype.name} \[\]"):
        predict_fn({'x': value})


@in_each_way
@pytest.mark.parametrize(
    'value', [[1], ['a', 1], ['a', None], [['a'], ['b', 'c']], [object()], np.array([1.5])]
)
def test_wrong_strings(load, save, value):
    predict_fn = load(save(echo, tf.string))
    with pytest.raises(ValueError, match=r"input 'x': expected string \[None\], got"):
        predict_fn({'x': value})
    assert predict_fn({'x': ['a']})['y'].tolist() == [b'a']


@in_each_way
def test_close(load, save):
    predict_fn = load(save(with_default))
    predict_fn({'x': 1})
    predict_fn.close()
    predict_fn.close()
    for inputs in ({'x': 1}, {'x': 1, 'factor': 2, 'offset': [1, 1]}):
        with pytest.raises(RuntimeError, match='closed'):
            predict_fn(inputs)
    with pytest.raises(RuntimeError, match='[Cc]losed'):
        predict_fn.session.run(predict_fn.fetch_tensors, {predict_fn.feed_tensors['x']: 1})


@in_each_way
def test_with_closes(load, save):
    with pytest.raises(ZeroDivisionError), load(save(double)) as predict_fn:
        assert predict_fn({'x': [1]})['y'] == [2]
        raise ZeroDivisionError
    with pytest.raises(RuntimeError, match='closed'):
        predict_fn({'x': [1]})


def test_several_predictors(load, save):
    linears, doubles = (
        [load(save(linear)) for _ in range(3)],
        [load(save(double)) for _ in range(3)],
    )
    linears[0].close()
    for _ in range(3):
        assert [predict_fn({'x': [[1]]})['y'].tolist() for predict_fn in linears[1:]] == [[[4]]] * 2
        assert [predict_fn({'x': [1]})['y'].tolist() for predict_fn in doubles] == [[2]] * 3


def in_threads(function):
    threads = [threading.Thread(target=function, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@in_each_way
@pytest.mark.parametrize('calls', [300, pytest.param(2000, marks=pytest.mark.slow)])
def test_threads_get_their_own_answers(load, save, calls):
    predict_fn, right = load(save(linear)), [0] * 8

    def predict(i):
        numbers = random.Random(i)
        for _ in range(calls):
            x = [[numbers.randrange(1000)] for _ in range(numbers.randrange(1, 4))]
            right[i] += predict_fn({'x': x})['y'].tolist() == [[3 * row[0] + 1] for row in x]

    in_threads(predict)
    assert right == [calls] * 8


@in_each_way
def test_close_while_threads_predict(load, save):
    predict_fn, ends, running = load(save(linear)), [], threading.Barrier(9)

    def predict(_):
        running.wait()
        try:
            while True:
                assert predict_fn({'x': [[1]]})['y'].tolist() == [[4]]
        except Exception as error:
            ends.append(error)

    closer = threading.Thread(target=lambda: (running.wait(), predict_fn.close()))
    closer.start()
    in_threads(predict)
    closer.join()
    assert len(ends) == 8 and all(
        isinstance(error, (RuntimeError, tf.errors.CancelledError)) for error in ends
    ), ends


def test_repr(save):
    assert (
        repr(predictor.from_saved_model(save(linear)))
        == "<Predictor: feed {'x': float32 [None, 1]}, fetch {'y': float32 [None, 1]}>"
    )
    for part in (
        "'x': float32 []",
        "'factor': float32 []",
        "'offset': float32 [2]",
        "fetch {'y': float32 [2]}",
    ):
        assert part in repr(predictor.from_saved_model(save(with_default)))
    assert (
        repr(predictor.from_saved_model(save(echo, tf.string, None)))
        == "<Predictor: feed {'x': string of any shape}, fetch {'y': string of any shape}>"
    )


def test_what_is_private_in_tensorflow_can_be_done_without(save, monkeypatch):
    from tensorflow.python import eager
    from tensorflow.python.client import pywrap_tf_session

    with monkeypatch.context() as patched:
        patched.delattr(pywrap_tf_session, 'TF_SessionRunCallable')
        with predictor.from_saved_model(save(linear)) as predict_fn:
            patched.undo()
            assert predict_fn({'x': [[2]]})['y'].tolist() == [[7]]
    with monkeypatch.context() as patched:
        patched.delattr(eager, 'context')
        patched.setitem(sys.modules, 'tensorflow.python.eager.context', None)
        found = [
            _private_api.default_config(),
            _private_api.eager_context(),
            _private_api.runtime_started(),
        ]
    assert found == [tf.ConfigProto(allow_soft_placement=True), None, False]
