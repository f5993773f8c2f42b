"""Models and programs that were made for TensorFlow 1.x: what `tf.Session()` loads and runs, a Predictor does too."""

import collections
import itertools
import os
import re
import signal
import sys

import numpy as np
import pytest
import tensorflow
from conftest import assert_same, double, linear, save, session_run, signature_def, variable  # noqa: F401
from estimator_inference import predictor, tf
from estimator_inference.fast_session import tuned
from test_fast_predict import ask_until, no_garbage_collection, on_alarm

SERVING = os.path.join(os.path.dirname(__file__), 'data', 'serving')
CONFIGS = {
    'tuned': None,
    'open': tf.ConfigProto(),
    'in the pool': tf.ConfigProto(inter_op_parallelism_threads=2),
}
any_config = pytest.mark.parametrize('config', CONFIGS.values(), ids=CONFIGS)


def aligned(values):
    """Returns a float32 array that TensorFlow reads where it is, instead of a copy."""
    values = np.asarray(values, np.float32)
    memory = np.zeros(values.size + 16, np.float32)
    start = -memory.ctypes.data % 64 // 4
    array = memory[start : start + values.size].reshape(values.shape)
    array[...] = values
    return array


# TensorFlow Serving's test models.


def serving_signatures():
    for name in sorted(os.listdir(SERVING)):
        if os.path.isdir(os.path.join(SERVING, name)) and name != 'saved_model_counter':
            graphs = predictor.exports.read(os.path.join(SERVING, name)).meta_graphs
            for key in sorted(graphs[0].signature_def):
                if key != '__saved_model_init_op':
                    yield name, key


@pytest.mark.parametrize('name, key', list(serving_signatures()))
def test_serving_models_answer_as_session_run(name, key):
    export_dir = os.path.join(SERVING, name)
    with predictor.from_saved_model(export_dir, key) as predict_fn:
        [(feed, tensor)] = predict_fn.feed_tensors.items()
        for x in 1.0, 2.0, -7.5:
            value = [x] if tensor.shape.rank == 1 else [[x]]
            if tensor.dtype == tf.string:
                features = {
                    name: tf.train.Feature(float_list=tf.train.FloatList(value=[x]))
                    for name in ('x', 'x2')
                }
                value = [
                    tf.train.Example(
                        features=tf.train.Features(feature=features)
                    ).SerializeToString()
                ]
            answer = predict_fn({feed: value})
            assert_same(answer, session_run(export_dir, {feed: value}, key))
            if key == 'serving_default':
                assert answer['y'].ravel() == [x / 2 + (3 if name.endswith('three') else 2)]


def test_servings_counter_counts():
    """What other signatures assign is seen: get_counter isn't frozen."""
    export_dir = os.path.join(SERVING, 'saved_model_counter')
    with predictor.from_saved_model(export_dir, 'get_counter') as predict_fn:
        signatures = predictor.exports.read(export_dir).meta_graphs[0].signature_def
        for key, feeds, expected in [
            ('incr_counter', {}, 1),
            ('incr_counter', {}, 2),
            ('incr_counter_by', {'delta:0': 40}, 42),
            ('reset_counter', {}, 0),
        ]:
            predict_fn.session.run(signatures[key].outputs['output'].name, feeds)
            assert predict_fn({})['output'] == expected
    with predictor.from_saved_model(export_dir, 'incr_counter_by') as predict_fn:
        assert [predict_fn({'delta': 2})['output'] for _ in range(3)] == [2, 4, 6]


@pytest.mark.parametrize('use_resource', [True, False])
@pytest.mark.parametrize('assign', ['assign', 'scatter_update', 'a control dependency'])
def test_a_variable_that_an_operation_beside_the_signature_assigns_to(save, use_resource, assign):
    def build():
        x, count = tf.placeholder(tf.float32, [None]), variable('count', [0], use_resource)
        if assign == 'scatter_update':
            op = tf.scatter_nd_update(count, [[0]], [1.0])
        else:
            op = tf.assign(count, [1.0])
        with tf.control_dependencies([op] if assign == 'a control dependency' else []):
            tf.identity(op, 'set')
        return {'x': x}, {'y': x + count}

    with predictor.from_saved_model(save(build)) as predict_fn:
        assert predict_fn({'x': [1]})['y'] == [1]
        predict_fn.session.run('set:0')
        assert predict_fn({'x': [1]})['y'] == [2]


def test_a_part_that_runs_only_where_an_input_is_left_out(save):
    def build():
        x, count = tf.placeholder(tf.float32, []), variable('count', 0)
        tf.identity(tf.assign_add(count, 1), 'increment')
        inner = x + count
        return {'x': x, 'inner': inner}, {'y': inner * variable('w', 2)}

    with predictor.from_saved_model(save(build)) as predict_fn:
        for count in range(3):
            assert predict_fn({'x': 1, 'inner': 5}) == {'y': 10} and predict_fn({'x': 1}) == {
                'y': 2 * (1 + count)
            }
            predict_fn.session.run('increment:0')


def test_optional_inputs_in_any_order(save):
    def build():
        tensors = {key: tf.placeholder_with_default(1.0, []) for key in 'abc'}
        return tensors, {'y': tensors['a'] + 10 * tensors['b'] + 100 * tensors['c']}

    with predictor.from_saved_model(save(build)) as predict_fn:
        for keys in itertools.permutations('abc', 2):
            inputs = {key: 2 + 'abc'.index(key) for key in keys}
            expected = sum(
                {'a': 1, 'b': 1, 'c': 1, **inputs}[key] * 10**i for i, key in enumerate('abc')
            )
            assert predict_fn(inputs) == {'y': expected}
        assert (
            len(predict_fn._fast_session._functions) == 1 + 3
        )  # one for all inputs, and one for each two


def test_a_model_on_two_devices(save):
    config = tf.ConfigProto(device_count={'CPU': 2})

    def build():
        x = tf.placeholder(tf.float32, [None])
        with tf.device('/device:CPU:1'):
            product = x * variable('w', 2)
        with tf.device('/device:CPU:0'):
            return {'x': x}, {'y': product + 1}

    with predictor.from_saved_model(save(build, config=config), config=config) as predict_fn:
        assert predict_fn({'x': [1, 2]})['y'].tolist() == [3, 5]


def placed(device):
    def build():
        x = tf.placeholder(tf.float32, [None])
        with tf.device(device):
            return {'x': x}, {'y': x * variable('w', 2)}

    return build


def test_a_device_that_is_not_there_is_not_damage(save):
    export_dir = save(placed('/device:CPU:0'))
    path = os.path.join(export_dir, 'saved_model.pb')
    with open(path, 'rb') as file:
        content = file.read()
    with open(path, 'wb') as file:
        file.write(content.replace(b'/device:CPU:0', b'/device:GPU:7'))
    with predictor.from_saved_model(
        export_dir
    ) as predict_fn:  # as tf.Session() places it: where it can
        assert predict_fn({'x': [3]})['y'] == [6]
    with pytest.raises(
        ValueError, match=f'{export_dir} asks for a device that is not here.*GPU:7'
    ) as error:
        predictor.from_saved_model(export_dir, config=tf.ConfigProto())
    assert not isinstance(error.value, predictor.exports.DamagedExport) and '\n' not in str(
        error.value
    )
    was_soft = tensorflow.config.get_soft_device_placement()
    tensorflow.config.set_soft_device_placement(False)  # rules tf.Session(), and so this
    try:
        with pytest.raises(ValueError, match='asks for a device that is not here'):
            predictor.from_saved_model(export_dir)
    finally:
        tensorflow.config.set_soft_device_placement(was_soft)


def test_an_operation_that_is_not_there_is_not_damage(save):
    export_dir = save(lambda: ({}, {'y': tf.identity(tf.raw_ops.Sinh(x=tf.constant(1.0)))}))
    path = os.path.join(export_dir, 'saved_model.pb')
    with open(path, 'rb') as file:
        content = file.read()
    with open(path, 'wb') as file:
        file.write(content.replace(b'\x04Sinh', b'\x04Sinj'))
    with pytest.raises(
        ValueError, match=f"{export_dir} .*Op type not registered 'Sinj'|{export_dir} .*Sinj"
    ) as error:
        predictor.from_saved_model(export_dir)
    assert '\n' not in str(error.value)


# The config.


def test_what_tf_config_rules(save, script, tmp_path):
    """Threads, logical devices and soft placement: those of a `tf.Session()`, in a process of its own."""
    (tmp_path / 'program.py').write_text("""
import sys
import tensorflow as tf2
tf2.config.set_logical_device_configuration(
    tf2.config.list_physical_devices('CPU')[0], [tf2.config.LogicalDeviceConfiguration() for _ in range(3)])
tf2.config.threading.set_inter_op_parallelism_threads(2)
tf2.config.threading.set_intra_op_parallelism_threads(1)
from estimator_inference import predictor
with predictor.from_saved_model(sys.argv[1]) as predict_fn:
    assert predict_fn({'x': [[1]]})['y'].tolist() == [[4]]
    for session in tf2.compat.v1.Session(), predict_fn.session:
        print(len(session.list_devices()), session._config.inter_op_parallelism_threads,
              session._config.intra_op_parallelism_threads, session._config.allow_soft_placement)
""")
    process = script(str(tmp_path / 'program.py'), save(linear))
    assert process.stdout.splitlines() == ['3 2 1 True'] * 2, process.stderr


def test_what_a_config_sets_stays():
    """And what it leaves open is tuned; the caller's own isn't changed."""
    for config in (
        tf.ConfigProto(),
        tf.ConfigProto(device_count={'GPU': 0}, intra_op_parallelism_threads=1),
    ):
        before, ours = config.SerializeToString(), tuned(config)
        assert config.SerializeToString() == before
        assert (
            ours.graph_options.rewrite_options.remapping == ours.graph_options.rewrite_options.OFF
        )
        ours.ClearField('graph_options')
        assert ours == config
    config = tf.ConfigProto(allow_soft_placement=True, inter_op_parallelism_threads=3)
    config.graph_options.rewrite_options.remapping = config.graph_options.rewrite_options.ON
    config.graph_options.optimizer_options.global_jit_level = tf.OptimizerOptions.OFF
    config.graph_options.optimizer_options.opt_level = tf.OptimizerOptions.L0
    assert tuned(config) == config


# Answers have memory of their own.


def views():
    """Outputs that share memory in the graph: with what is fed, with variables, with constants, with each other."""
    x = tf.placeholder(tf.float32, [None, 2])
    resource, reference = variable('resource', [[1, 2]]), variable('reference', [[1, 2]], False)
    constant, y = tf.constant([[1.0, 2.0]]), x * 3
    return {'x': x}, {
        'x': x,
        'identity': tf.identity(x),
        'scaled': x * 1 + 0,
        'reshaped': tf.reshape(x, [-1]),
        'slice': x[:1],
        'split': tf.split(x, [1, -1])[0],
        'transposed': tf.transpose(tf.transpose(x)),
        'concat': tf.concat([x], 0),
        'resource': resource.read_value(),
        'reference': reference.read_value(),
        'reference itself': reference + 0,
        'row of a variable': resource[0],
        'reshaped variable': tf.reshape(reference, [2]),
        'constant': constant,
        'row of a constant': constant[0],
        'folded': constant * 2 + 1,
        'y': y,
        'y again': y,
        'row of y': y[:1],
        'y reshaped': tf.reshape(y, [-1]),
        'gradient stopped': tf.stop_gradient(x),
        'bits': tf.bitcast(x, tf.int32),
        'checked': tf.check_numerics(x, ''),
        'if': tf.cond(tf.shape(x)[0] > 0, lambda: x, lambda: x + 1),
    }


@any_config
def test_answers_share_no_memory(save, config):
    """Neither with what is fed, nor with each other, the variables, the constants and later answers."""
    export_dir = save(views)
    with predictor.from_saved_model(export_dir, config=config) as predict_fn:
        x = aligned([[1, 2], [3, 4]])
        expected = session_run(export_dir, {'x': x.copy()})
        first, second = predict_fn({'x': x}), predict_fn({'x': x})
        arrays = [x, *first.values(), *second.values()]
        keys = ['fed', *first, *second]
        for i, array in enumerate(arrays):
            for j in range(i):
                assert not np.shares_memory(array, arrays[j]), (keys[i], keys[j])
        x[...] = -5  # the next request, in the same array
        for value in second.values():
            value[...] = 99
        assert_same(first, expected)
        assert_same(predict_fn({'x': [[1, 2], [3, 4]]}), expected)


@any_config
def test_an_identity_answers_each_request(save, config):
    """Grappler removes scale 1 and shift 0: the answer is then what was fed."""

    def build():
        x = tf.placeholder(tf.float32, [None])
        return {'x': x}, {'y': x * variable('scale', 1) + variable('shift', 0)}

    with predictor.from_saved_model(save(build), config=config) as predict_fn:
        answers, x = [], aligned([0, 0, 0])
        for number in 1, 2, 3:
            x[:] = number
            answers.append(predict_fn({'x': x})['y'])
        assert np.array(answers).tolist() == [[1] * 3, [2] * 3, [3] * 3]


@pytest.mark.parametrize(
    'dtype',
    [
        tf.float16,
        tf.bfloat16,
        tf.float64,
        tf.int8,
        tf.int64,
        tf.uint16,
        tf.uint64,
        tf.complex64,
        tf.bool,
        tf.string,
        tf.qint8,
        tf.quint16,
    ],
)
def test_answers_of_each_dtype_share_no_memory(save, dtype):
    def build():
        x, constant = (
            tf.placeholder(dtype, [None]),
            tf.zeros([4], tf.bool if dtype == tf.bool else tf.int8),
        )
        if dtype != tf.string and not dtype.is_quantized:
            constant = tf.cast(constant, dtype)
        return {'x': x}, {'x': tf.identity(x), 'constant': constant}

    with predictor.from_saved_model(save(build)) as predict_fn:
        memory = np.zeros(1000, dtype.as_numpy_dtype)
        if dtype == tf.string:
            memory[:] = b'0'
        x = memory[-memory.ctypes.data % 64 // memory.itemsize :][:200]
        first = predict_fn({'x': x})
        kept = {key: value.copy() for key, value in first.items()}
        for value in predict_fn({'x': x}).values():
            assert not np.shares_memory(value, x)
            value[:] = b'1' if value.dtype == object else 1
        assert_same(first, kept)
        assert_same(predict_fn({'x': x}), kept)


# What is fed: as contrib took it.


def test_a_defaultdict_is_left_as_it_is(save):
    def build():
        x, factor = tf.placeholder(tf.float32, []), tf.placeholder_with_default(2.0, [])
        return {'x': x, 'factor': factor}, {'y': x * factor}

    with predictor.from_saved_model(save(build)) as predict_fn:
        for inputs in (collections.defaultdict(float, x=3.0), collections.Counter(x=3)):
            assert predict_fn(inputs) == {'y': 6} and dict(inputs) == {'x': 3}
        with pytest.raises(ValueError, match="missing input 'x'"):
            predict_fn(collections.defaultdict(float))


def test_whatever_has_keys_and_items(save):
    pandas = pytest.importorskip('pandas')

    def build():
        tensors = {key: tf.placeholder(tf.float32, None) for key in 'ab'}
        return tensors, {'sum': tensors['a'] + tensors['b'], 'name': tf.constant('x')}

    with predictor.from_saved_model(save(build)) as predict_fn:
        frame = pandas.DataFrame({'a': [1, 2], 'b': [10.0, 20.0]})
        assert predict_fn(frame)['sum'].tolist() == [11, 22]
        assert predict_fn(frame.iloc[1])['sum'] == 22
        assert predict_fn(frame[['b', 'a']].astype(object))['sum'].tolist() == [11, 22]
        assert predict_fn(collections.OrderedDict(frame))['sum'].tolist() == [11, 22]
        with pytest.raises(ValueError, match=r"unknown inputs \['c'\]: expected \['a', 'b'\]"):
            predict_fn(frame.assign(c=1))


def test_what_the_outputs_do_not_need_may_be_left_out(save):
    def build():
        x, label = tf.placeholder(tf.float32, [None], 'x'), tf.placeholder(tf.float32, [None])
        inner = tf.multiply(x, 3, 'inner')
        return {
            'loss': ({'x': x, 'label': label}, {'loss': label - inner}),
            'serving_default': ({'x': x, 'label': label, 'inner': inner}, {'y': inner + 1}),
        }

    export_dir = save(build)
    with predictor.from_saved_model(export_dir) as predict_fn:
        assert predict_fn({'x': [1]})['y'].tolist() == [4]
        assert predict_fn({'x': [1], 'label': [5]})['y'].tolist() == [4]
        assert predict_fn({'inner': [10]})['y'].tolist() == [11]  # then x isn't needed either
        assert predict_fn({'x': [1], 'inner': [10]})['y'].tolist() == [11]
        assert predict_fn({'x': [1], 'inner': [10], 'label': None})['y'].tolist() == [11]
        with pytest.raises(ValueError, match="missing input 'x'"):
            predict_fn({'label': [5]})
    with predictor.from_saved_model(export_dir, 'loss') as predict_fn:
        with pytest.raises(ValueError, match="missing input 'label'"):
            predict_fn({'x': [1]})


def test_two_keys_for_one_tensor(save):
    """The later value counts, as in contrib's feed_dict."""
    names = {'a': 'x:0', 'b': 'x:0'}
    with predictor.from_saved_model(
        save(linear), input_names=names, output_names={'y': 'add:0'}
    ) as predict_fn:
        assert predict_fn({'a': [[1]], 'b': [[2]]})['y'].tolist() == [[7]]
        assert predict_fn({'b': [[2]], 'a': [[1]]})['y'].tolist() == [[4]]
        assert (
            predict_fn({'a': [[1]]})['y'].tolist()
            == predict_fn({'b': [[1]]})['y'].tolist()
            == [[4]]
        )


def test_what_is_fed_is_fetched(save):
    inputs = {'x': 'x:0', 'inner': 'mul:0'}
    outputs = {**inputs, 'y': 'add:0'}
    with predictor.from_saved_model(
        save(linear), input_names=inputs, output_names=outputs
    ) as predict_fn:
        for inputs, expected in [
            ({'x': [[5]], 'inner': [[1]]}, {'x': 5, 'inner': 1, 'y': 2}),
            ({'x': [[5]]}, {'x': 5, 'inner': 15, 'y': 16}),
        ]:
            assert {key: value.tolist() for key, value in predict_fn(inputs).items()} == {
                key: [[value]] for key, value in expected.items()
            }


def test_nothing_is_fetched(save):
    with predictor.from_saved_model(
        save(linear), input_names={'x': 'x:0'}, output_names={}
    ) as predict_fn:
        assert predict_fn({'x': [[1]]}) == predict_fn({}) == {}
        with pytest.raises(ValueError, match="input 'x': expected float32"):
            predict_fn({'x': 'a'})


@pytest.mark.parametrize('kind', ['placeholder', 'variable'])
def test_a_symbolic_tensor_is_refused(save, kind):
    with tf.Graph().as_default(), predictor.from_saved_model(save(double)) as predict_fn:
        tensor = (
            tf.placeholder(tf.float32, [1])
            if kind == 'placeholder'
            else variable('v', [1]).read_value()
        )
        for _ in range(2):
            with pytest.raises(
                ValueError, match=r"input 'x': expected float32 \[None\], got <tf.Tensor"
            ):
                predict_fn({'x': tensor})
            assert predict_fn({'x': [1]})['y'] == [2]


@pytest.mark.parametrize(
    'words',
    [
        ['é', b'\xff'] * 500,
        [['a', b'b'] * 2] * 300,
        np.array(['é', 'abc']),
        np.array([b'a', b'bc'] * 9),
        [],
        np.array([['a', 'é\0b']], object),
        [np.str_('é'), np.bytes_(b'\xff')],
    ],
    ids=str,
)
def test_strings(save, words):
    def build():
        words = tf.placeholder(tf.string, None)
        return {'words': words}, {
            'words': tf.identity(words),
            'twice': tf.strings.join([words, words]),
        }

    export_dir = save(build)
    with predictor.from_saved_model(export_dir) as predict_fn:
        answer = predict_fn({'words': words})
        assert_same(answer, session_run(export_dir, {'words': words}))
        with pytest.raises(
            ValueError, match=r"input 'words': expected string of any shape, got \['a', 5\]"
        ):
            predict_fn({'words': ['a', 5]})


def test_an_error_of_the_graph_is_not_one_of_strings(save):
    """A function in Python that returns what is no string raises the InternalError that such a feed does."""
    calls = []

    def numbers(words):
        calls.append(words)
        return np.array([*map(int, words)], object)

    def build():
        words = tf.placeholder(tf.string, [None])
        return {'words': words}, {'numbers': tf.py_func(numbers, [words], tf.string)}

    with predictor.from_saved_model(save(build)) as predict_fn:
        with pytest.raises(tf.errors.InternalError, match='PyFunc'):
            predict_fn({'words': ['1', b'2']})
        assert len(calls) == 1  # and not again
        with pytest.raises(
            ValueError, match=r"input 'words': expected string \[None\], got \['a', 5\]"
        ):
            predict_fn({'words': ['a', 5]})


# Names and ends.


def test_the_names_that_programs_use(save):
    with predictor.from_saved_model(save(linear)) as predict_fn:
        assert predict_fn._graph is predict_fn.graph and predict_fn._session is predict_fn.session
        assert predict_fn._feed_tensors is predict_fn.feed_tensors
        assert predict_fn._fetch_tensors is predict_fn.fetch_tensors
        feeds = {predict_fn._feed_tensors['x']: [[1]]}
        assert predict_fn._session.run(predict_fn._fetch_tensors, feeds)['y'].tolist() == [[4]]
        with predict_fn._graph.as_default():
            assert tf.get_default_graph().get_tensor_by_name('x:0') is predict_fn._feed_tensors['x']


def test_the_key_of_one_head_of_several(save):
    export_dir = save(
        lambda: {'default_input_alternative:linear': linear(), 'serving_default': double()}
    )
    with predictor.from_saved_model(export_dir, signature_def_key='linear') as predict_fn:
        assert predict_fn({'x': [[1]]})['y'].tolist() == [[4]]
    old = save(lambda: {'default_input_alternative:serving_default': linear()})
    with predictor.from_saved_model(old) as predict_fn:
        assert predict_fn({'x': [[1]]})['y'].tolist() == [[4]]
    with pytest.raises(
        ValueError, match=r"no signature 'other', only \['default_input_alternative:linear', 'serv"
    ):
        predictor.from_saved_model(export_dir, 'other')


def test_a_variable_that_is_not_initialized(tmp_path):
    """It keeps nobody from what doesn't need it."""
    export_dir = str(tmp_path / 'export')
    with tf.Graph().as_default(), tf.Session() as session:
        inputs, outputs = linear()
        saver = tf.train.Saver()
        late = inputs['x'] + variable('late', [5])
        session.run([saved.initializer for saved in tf.global_variables()])
        builder = tf.saved_model.builder.SavedModelBuilder(export_dir)
        builder.add_meta_graph_and_variables(
            session,
            ['serve'],
            {
                'serving_default': signature_def(inputs, outputs),
                'late': signature_def(inputs, {'y': late}),
                'both': signature_def(inputs, {**outputs, 'late': late}),
            },
            saver=saver,
        )
        builder.save()
    for key in 'late', 'both':
        with predictor.from_saved_model(export_dir, key) as predict_fn:
            with pytest.raises(tf.errors.FailedPreconditionError, match='late'):
                predict_fn({'x': [[1]]})
            with predict_fn.graph.as_default():
                handle = predict_fn.graph.get_tensor_by_name('late:0')
                predict_fn.session.run(
                    tf.raw_ops.AssignVariableOp(resource=handle, value=np.float32([5]))
                )
            answer = predict_fn({'x': [[1]]})
            assert answer['late' if key == 'both' else 'y'].tolist() == [[6]]
    with predictor.from_saved_model(export_dir) as predict_fn:
        assert predict_fn({'x': [[1]]})['y'].tolist() == [[4]]


@any_config
def test_closing_the_session_closes_the_predictor(save, config):
    predict_fn = predictor.from_saved_model(save(linear), config=config)
    assert predict_fn({'x': [[1]]})['y'].tolist() == [[4]]
    predict_fn.session.close()
    with pytest.raises(RuntimeError, match='this predictor is closed'):
        predict_fn({'x': [[1]]})
    predict_fn.session.close()
    predict_fn.close()


@pytest.mark.parametrize('times', [8, pytest.param(40, marks=pytest.mark.slow)])
@pytest.mark.parametrize('does', ['exit', 'close', 'predict'])
def test_a_signal_handler_while_a_predictor_answers(save, does, times):
    """Several times, at places by chance, with an input left out, which takes the longer way."""

    def build():
        x, factor = tf.placeholder(tf.float32, []), tf.placeholder_with_default(2.0, [])
        return {'x': x, 'factor': factor}, {'y': x * factor}

    def handler(*_):
        if does == 'exit':
            sys.exit(7)
        if does == 'close':
            predict_fn.close()
        else:
            nested.append(predict_fn({'x': 4, 'factor': 3})['y'])

    export_dir, nested, ends = save(build), [], []
    with on_alarm(handler):
        for i in range(times):
            with predictor.from_saved_model(export_dir) as predict_fn:
                try:
                    signal.setitimer(signal.ITIMER_REAL, 0.002 + i * 0.0068 / times)
                    ask_until(lambda: len(nested) > i, lambda: predict_fn({'x': 3})['y'], 6)
                except (SystemExit, RuntimeError, tf.errors.CancelledError) as end:
                    ends.append(end)
    assert nested == ([12] * times if does == 'predict' else [])
    if does == 'exit':
        assert [end.code for end in ends] == [7] * times
    if does == 'close':
        assert len(ends) == times and all(
            re.search('[Cc]losed|[Cc]ancelled', str(end)) for end in ends
        ), ends


def test_a_first_call_that_is_interrupted_leaves_tensorflow_as_it_was(save):
    """At the end of each function that it calls, whereby what the function returned is lost: a context to leave, say.

    All but TensorFlow's lock of a session, which its own `Session.run` takes in each call, and loses too.
    """

    def build():
        x, factor = tf.placeholder(tf.float32, []), tf.placeholder_with_default(2.0, [])
        return {'x': x, 'factor': factor}, {'y': x * factor}

    def interrupt(frame, event, _):
        nonlocal functions
        if event == 'return' and not frame.f_code.co_filename.endswith(
            ('lock_util.py', 'threading.py')
        ):
            functions -= 1
            if functions < 0:
                raise KeyboardInterrupt

    export_dir, eager, graph = save(build), tf.executing_eagerly(), tf.get_default_graph()
    for place in itertools.count():
        with predictor.from_saved_model(export_dir) as predict_fn, no_garbage_collection():
            functions = place
            try:
                sys.setprofile(interrupt)
                predict_fn({'x': 3})
                break
            except KeyboardInterrupt:  # which keeps what is lost until the end of this block
                assert (tf.executing_eagerly(), tf.get_default_graph()) == (eager, graph)
            finally:
                sys.setprofile(None)
            assert predict_fn({'x': 3}) == {'y': 6}
    assert place > 10
