"""fast_predict.py: Estimator.predict's answers, each to its own question."""

import gc
import os
import re
import signal
import threading
import time
import weakref
from concurrent import futures

import model
import numpy as np
import pytest
import tensorflow as tf2
import train
from conftest import ROOT, assert_same
from estimator_inference import FastPredict, exports, predictor, tf

SPEC = tf.TensorSpec([None, 2], tf.float32)
COLOURS = {'size': SPEC, 'colour': tf.TensorSpec([None], tf.string)}
FLOWER = {'size': np.float32([[1, 2]]), 'colour': ['red']}


@pytest.fixture(scope='module')
def toy():
    """The posts' Estimator, trained; its kernel and bias are no round numbers."""
    model_dir = os.path.join(ROOT, 'pretrained', 'model')
    return tf.estimator.Estimator(model.model_fn, model_dir, params={})


@pytest.fixture(scope='module')
def classifier(tmp_path_factory):
    vocabulary = ('colour', ['red', 'blue'])
    colours = tf.feature_column.categorical_column_with_vocabulary_list(*vocabulary)
    columns = [
        tf.feature_column.numeric_column('size', [2]),
        tf.feature_column.indicator_column(colours),
    ]
    model_dir = str(tmp_path_factory.mktemp('flowers'))
    estimator = tf.estimator.DNNClassifier([4], columns, model_dir, n_classes=3)
    estimator.train(lambda: tf.data.Dataset.from_tensors((flowers(30), np.arange(30) % 3)), steps=1)
    return estimator


@pytest.fixture
def estimator_of(tmp_path):
    """Makes an Estimator, never trained, whose model_fn predicts `predict(features)`."""

    def make(predict, hooks=list):
        def model_fn(features, labels, mode):
            spec = {'predictions': predict(features), 'prediction_hooks': hooks()}
            return tf.estimator.EstimatorSpec(mode, **spec)

        return tf.estimator.Estimator(model_fn, str(tmp_path / 'estimator'))

    return make


@pytest.fixture
def counting(tmp_path):
    """Makes an Estimator that predicts features * w; each step of training adds 1 to w."""

    def model_fn(features, labels, mode, params):
        w = tf.get_variable('w', initializer=params['w'])
        if mode == 'infer':
            return tf.estimator.EstimatorSpec(mode, predictions=features * w)
        train_op = tf.group(tf.assign_add(tf.train.get_global_step(), 1), tf.assign_add(w, 1))
        return tf.estimator.EstimatorSpec(mode, loss=w, train_op=train_op)

    def make(name, w, **arguments):
        return tf.estimator.Estimator(model_fn, str(tmp_path / name), params={'w': w}, **arguments)

    return make


def flowers(n):
    rng = np.random.default_rng(n)
    size = rng.normal(size=(n, 2)).astype('f4')
    return {'size': size, 'colour': rng.choice(['red', 'blue', 'green'], n)}


def examples_of(seed, n):
    return np.random.default_rng(seed).uniform(-100, 100, (n, 2)).astype('f4')


def toy_answers(estimator, examples):
    """Computes what the toy model answers, without TensorFlow: [n, 2] -> [n, 1]."""
    kernel, bias = map(estimator.get_variable_value, ('dense/kernel', 'dense/bias'))
    return examples @ kernel + bias


def estimator_answers(estimator, features):
    """Asks Estimator.predict itself, all examples in one batch, with labels that it ignores."""
    return list(estimator.predict(lambda: tf.data.Dataset.from_tensors((features, 0))))


def assert_tensorflow_works():
    """Does what fails in a thread that an open Estimator.predict has left its graph in."""
    assert tf2.executing_eagerly()
    with tf.Graph().as_default() as graph:
        assert tf.zeros([1]).graph is graph
    assert float(tf2.function(lambda x: x + 1)(tf2.constant(1.0))) == 2


def in_thread(function):
    """Returns what `function` returns in a thread of its own; fails where it hangs."""
    return futures.ThreadPoolExecutor(1).submit(function).result(timeout=60)


def receiver_fn(shape=(None, 2), key=None):
    """A serving_input_receiver_fn with the input x, which is the features, or the feature `key`."""

    def serving_input_receiver_fn():
        x = tf.placeholder(tf.float32, shape)
        if key:
            return tf.estimator.export.ServingInputReceiver({key: x}, {'x': x})
        return tf.estimator.export.TensorServingInputReceiver(x, {'x': x})

    return serving_input_receiver_fn


def assert_both_predict_as(estimator, features, key=None):
    """Asserts that FastPredict and from_estimator answer what Estimator.predict does."""
    shape, given = [None, *np.shape(features)[1:]], {key: features} if key else features
    expected, spec = estimator_answers(estimator, given), tf.TensorSpec(shape, tf.float32)
    with FastPredict(estimator, {key: spec} if key else spec) as fast_predict:
        assert_same(fast_predict.predict(given), expected)
    with predictor.from_estimator(estimator, receiver_fn(shape, key)) as predict_fn:
        for name, values in predict_fn({'x': features}).items():
            np.testing.assert_array_equal(values, [row[name] if key else row for row in expected])
    return expected


# Answers.


def test_answers_are_those_of_estimator_predict(toy, classifier):
    examples = examples_of(0, 7)
    expected = estimator_answers(toy, examples)
    with FastPredict(toy, SPEC) as fast_predict:
        assert_same(fast_predict.predict(examples), expected)
        assert_same(fast_predict.predict(examples.tolist()), expected)
        [first] = fast_predict.predict(examples[:1])
        np.testing.assert_allclose(first, expected[0], rtol=1e-6)
    with FastPredict(toy, {'feature': SPEC}) as fast_predict:
        assert_same(fast_predict.predict({'feature': examples}), expected)
    expected = estimator_answers(classifier, flowers(7))
    assert expected[0].keys() >= {'probabilities', 'class_ids', 'classes'}
    with FastPredict(classifier, COLOURS) as fast_predict:
        assert_same(fast_predict.predict(flowers(7)), expected)
        assert_same(fast_predict.predict(dict(reversed(flowers(7).items()))), expected)


def test_answers_of_each_type_and_shape(estimator_of):
    def predict(features):
        cube = tf.cast(features['flag'], tf.float64)[:, None, None]
        return {**features, 'cube': tf.tile(cube, [1, 2, 3])}

    features = {'word': ['é'.encode(), b'\0\xff\0'], 'flag': [True, False], 'id': [2**40, -1]}
    dtypes = {'word': tf.string, 'flag': tf.bool, 'id': tf.int64}
    spec = {name: tf.TensorSpec([None], dtype) for name, dtype in dtypes.items()}
    estimator = estimator_of(predict)
    with FastPredict(estimator, spec) as fast_predict:
        answers = fast_predict.predict(features)
        assert (answers[0]['word'], answers[0]['id']) == ('é'.encode(), 2**40)
        assert answers[0]['cube'].shape == (2, 3)
        assert_same(answers, estimator_answers(estimator, features))
        assert_same(fast_predict.predict({**features, 'word': ['é', b'\0\xff\0']}), answers)


def test_a_model_fn_that_changes_its_features(estimator_of):
    def predict(features):
        features['x'] = features['x'] * 10
        features['added'] = features.pop('gone') + features['x']
        return features['added']

    spec = tf.TensorSpec([None], tf.float32)
    with FastPredict(estimator_of(predict), {'x': spec, 'gone': spec}) as fast_predict:
        assert fast_predict.predict({'x': [1, 2], 'gone': [0, 1]}) == [10, 21]


def test_a_tpu_estimator_gets_its_batch_size():
    def model_fn(features, labels, mode, params):
        predictions = {'y': features * params['batch_size']}
        return tf.estimator.tpu.TPUEstimatorSpec(mode, predictions=predictions)

    config = tf.estimator.tpu.RunConfig()
    sizes = {'train_batch_size': 8, 'eval_batch_size': 3, 'predict_batch_size': 5}
    estimator = tf.estimator.tpu.TPUEstimator(model_fn, config=config, use_tpu=False, **sizes)
    with FastPredict(estimator, SPEC) as fast_predict:
        assert fast_predict.predict([[1, 2]])[0]['y'].tolist() == [5, 10]


def test_predict_keys_and_whole_predictions(estimator_of):
    estimator = estimator_of(lambda f: {'double': f * 2, 'sum': tf.reduce_sum(f)})
    question = np.float32([[1, 2], [3, 4]])
    for arguments in (
        {'predict_keys': ['double']},
        {'predict_keys': ['sum', 'other'], 'yield_single_examples': False},
    ):
        theirs = estimator.predict(lambda: tf.data.Dataset.from_tensors(question), **arguments)
        theirs = list(theirs) if 'yield_single_examples' not in arguments else next(theirs)
        with FastPredict(estimator, SPEC, **arguments) as fast_predict:
            assert_same(fast_predict.predict(question), theirs)
    with FastPredict(estimator_of(tf.negative), SPEC, yield_single_examples=False) as fast_predict:
        assert_same(fast_predict.predict(question), -question)
    with pytest.raises(ValueError, match=r"no prediction \['none'\], only \['double', 'sum'\]"):
        FastPredict(estimator, SPEC, predict_keys=['none'])
    with pytest.raises(ValueError, match='predict_keys .* no dict'):
        FastPredict(estimator_of(tf.negative), SPEC, predict_keys=['x'])


@pytest.mark.parametrize(
    'predict, message',
    [
        (
            tf.reduce_sum,
            r'the shapes \[\(\)\], not a row for each example: use predict_keys',
        ),
        (
            lambda f: {'all': f, 'one': f[:1]},
            r"\['all', 'one'\] have the shapes \[\(3, 2\), \(1, 2\)\]",
        ),
    ],
)
def test_predictions_without_a_row_for_each_example(estimator_of, predict, message):
    with FastPredict(estimator_of(predict), SPEC) as fast_predict:
        with pytest.raises(ValueError, match=message):
            fast_predict.predict([[1, 2]] * 3)


def test_keeps_its_checkpoint(counting):
    def input_fn():
        return tf.data.Dataset.from_tensors(0).repeat()

    first = counting('first', 3.0)
    first.train(input_fn, steps=1)
    with FastPredict(first, SPEC) as unused, FastPredict(first, SPEC) as used:
        assert used.predict([[1, 10]])[0].tolist() == [4, 40]
        first.train(input_fn, steps=1)
        for fast_predict in (unused, used):
            assert fast_predict.predict([[1, 10]])[0].tolist() == [4, 40]
        with FastPredict(first, SPEC) as newer:
            assert newer.predict([[1, 10]])[0].tolist() == [5, 50]
    warm = counting('second', 7.0, warm_start_from=first.model_dir)
    assert assert_both_predict_as(warm, np.float32([[1, 10]]))[0].tolist() == [5, 50]


# Features.

WORDS, COUNTS = tf.TensorSpec([None, None], tf.string), tf.TensorSpec([None], tf.int32)


@pytest.mark.parametrize(
    'spec, features, predict',
    [
        (
            (WORDS, COUNTS),
            ([['a', 'b'], ['c', '']], [2, 1]),  # as github.com/guillaumegenthial/tf_ner takes them
            lambda f: {'word': f[0][:, 0], 'count': f[1]},
        ),
        (
            {'in': {'a': WORDS, 'b': [COUNTS]}},
            {'in': {'b': ([2, 1],), 'a': [['a'], ['c']]}},
            lambda f: {'word': f['in']['a'][:, 0], 'count': f['in']['b'][0]},
        ),
    ],
    ids=['tuple', 'list in dicts'],
)
def test_nested_features(estimator_of, spec, features, predict):
    with FastPredict(estimator_of(predict), spec) as fast_predict:
        for wrong in ([1, 2, 3], {'in': {'a': [['a'], ['c']], 'b': ()}}, None, {'in': None}):
            with pytest.raises(ValueError, match=r'^features.*: expected a (dict|tuple)'):
                fast_predict.predict(wrong)
            rows = [[*answer.values()] for answer in fast_predict.predict(features)]
            assert rows == [[b'a', 2], [b'c', 1]]


@pytest.mark.parametrize(
    'change, message',
    [
        ({'age': [1]}, r"a dict with the keys \['size', 'colour'\], got \['size', 'colour', 'age'"),
        ({'colour': [None]}, r"features\['colour'\]: expected string \[None\], got \[None\]"),
        ({'colour': ['red'] * 2}, r"\['size', 'colour'\] have the shapes \[\(1, 2\), \(2,\)\]"),
    ],
)
def test_bad_features(estimator_of, change, message):
    with FastPredict(estimator_of(lambda features: {**features}), COLOURS) as fast_predict:
        for _ in range(2):  # as the first request, and as a later one
            with pytest.raises(ValueError, match=message):
                fast_predict.predict({**FLOWER, **change})
            assert fast_predict.predict(FLOWER)[0]['size'].tolist() == [1, 2]


@pytest.mark.parametrize('spec', [{}, None, {'x': None}, tf.float32, np.zeros([1, 2])], ids=repr)
def test_a_feature_spec_that_is_none(estimator_of, spec):
    with pytest.raises(ValueError, match='expected a TensorSpec'):
        FastPredict(estimator_of(tf.identity), spec)


ROWS = np.float32([[1, 2], [3, 4], [5, 6]])


@pytest.mark.parametrize(
    'spec, features, predict',
    [
        (SPEC, ROWS[:0], tf.negative),
        (SPEC, ROWS, lambda f: tf.reduce_sum(f, 0)),
        ((SPEC, tf.TensorSpec([], tf.float32)), (ROWS, np.float32(9)), lambda f: f[0] * f[1]),
    ],
)
def test_features_that_are_no_rows(estimator_of, spec, features, predict):
    estimator = estimator_of(predict)
    with FastPredict(estimator, spec) as fast_predict:
        assert_same(fast_predict.predict(features), estimator_answers(estimator, features))


def test_a_graph_that_xla_clusters(estimator_of):
    def predict(features):
        with tf.xla.experimental.jit_scope():
            return tf.nn.relu(tf.matmul(features, tf.transpose(features))) * 2

    assert_both_predict_as(estimator_of(predict), ROWS)


# Estimators of any kind.


def test_without_a_checkpoint(counting, caplog):
    """Its initial weights predict, and that is said in Estimator.predict's words."""
    estimator = counting('never trained', 2.0)
    with caplog.at_level('INFO', tf.get_logger().name):
        answers = assert_both_predict_as(estimator, np.float32([[1, 10]]))
    assert answers[0].tolist() == [2, 20]
    said = [text for text in caplog.messages if 'Could not find trained model' in text]
    assert len(said) == 3 and len(set(said)) == 1 and estimator.model_dir in said[0]


def test_of_a_keras_model(tmp_path):
    """With its weights from Keras before any training, and then with those of a checkpoint."""
    keras = tf.keras
    with tf.Graph().as_default(), tf.Session():
        keras_model = keras.Sequential([keras.layers.Dense(1, input_shape=(2,), name='dense')])
        keras_model.compile('sgd', 'mse')
        keras_model.set_weights([np.float32([[2], [3]]), np.float32([4])])
        model_dir = str(tmp_path / 'keras')
        estimator = keras.estimator.model_to_estimator(keras_model, model_dir=model_dir)
    question = np.float32([[1, 10], [0, 0]])
    untrained = assert_both_predict_as(estimator, question, 'dense_input')
    assert [row['dense'].tolist() for row in untrained] == [[36], [4]]
    labelled = {'dense_input': question}, [[1.0], [2.0]]
    estimator.train(lambda: tf.data.Dataset.from_tensors(labelled), steps=1)
    trained = assert_both_predict_as(estimator, question, 'dense_input')
    assert trained[0]['dense'] != untrained[0]['dense']


def test_the_graph_is_that_of_estimator_predict(tmp_path):
    """It has the global step before the model_fn, and the RunConfig's seed and session_config."""
    graphs = []

    def model_fn(features, labels, mode, config):
        step = tf.train.get_global_step()
        graphs.append((tf.get_default_graph().seed, step.name, config.tf_random_seed))
        predictions = features * tf.cast(step + 3, tf.float32)
        return tf.estimator.EstimatorSpec(mode, predictions=predictions)

    three, two = (tf.ConfigProto(device_count={'CPU': count}) for count in (3, 2))
    config = tf.estimator.RunConfig(str(tmp_path), 17, session_config=three)
    estimator = tf.estimator.Estimator(model_fn, config=config)
    [answer] = assert_both_predict_as(estimator, np.float32([[1, 10]]))
    assert answer.tolist() == [3, 30] and graphs == [(17, 'global_step:0', 17)] * 3
    for given, devices in (None, 3), (two, 2):
        predict_fn = predictor.from_estimator(estimator, receiver_fn(), config=given)
        fast_predict = FastPredict(estimator, SPEC, given)
        for session in predict_fn.session, fast_predict._fast_session.session:
            assert len(session.list_devices()) == devices


# Side by side with other TensorFlow code, errors, hooks, interruptions.


def test_other_tensorflow_work_in_the_same_thread(toy, tmp_path):
    export_dir = exports.latest(os.path.join(ROOT, 'pretrained', 'saved_model'))
    other = tf.estimator.Estimator(model.model_fn, str(tmp_path / 'other'), params={})
    question = np.float32([[1, 2]])
    with FastPredict(toy, SPEC) as fast_predict:
        for _ in range(2):
            answer = fast_predict.predict(question)
            np.testing.assert_allclose(answer, toy_answers(toy, question), rtol=1e-5)
            assert_tensorflow_works()
            predict = tf2.saved_model.load(export_dir).signatures['serving_default']
            answer = predict(tf.constant([[7.0]]))['output']
            np.testing.assert_allclose(answer, toy_answers(toy, [[7, 7]]), rtol=1e-5)
            other.train(train.train_input_fn, steps=1)
            expected = toy_answers(other, question)
            np.testing.assert_allclose(estimator_answers(other, question), expected, rtol=1e-5)
    assert_tensorflow_works()


def finite(array):
    if not np.isfinite(array).all():
        raise LookupError('not finite')
    return array


@pytest.mark.parametrize(
    'predict',
    [
        lambda f: tf.debugging.check_numerics(f, 'not finite'),
        lambda f: tf.ensure_shape(tf.numpy_function(finite, [f], tf.float32), [None, 2]),
    ],
    ids=['operation', 'numpy_function'],
)
def test_an_error_in_the_graph(estimator_of, predict):
    estimator = estimator_of(predict)

    def ask():
        with FastPredict(estimator, SPEC) as fast_predict:
            for wrong in (np.nan, np.inf):
                with pytest.raises(tf.errors.OpError, match='not finite'):
                    fast_predict.predict([[wrong, 1]])
                np.testing.assert_array_equal(fast_predict.predict([[3, 4]]), [[3, 4]])
        assert_tensorflow_works()

    in_thread(ask)


def test_prediction_hooks_are_told_of_the_session_but_not_of_calls(estimator_of):
    called = []

    class Hook(tf.train.SessionRunHook):
        def begin(self):
            called.append(('begin', tf.get_default_graph().finalized))

        def after_create_session(self, session, coord):
            called.append(('after_create_session', session.graph.finalized))

        def before_run(self, run_context):
            called.append(run_context)

        after_run = end = before_run

    with FastPredict(estimator_of(lambda f: 3 * f, lambda: [Hook()]), SPEC) as fast_predict:
        np.testing.assert_array_equal(fast_predict.predict([[1, 2]]), [[3, 6]])
    assert called == [('begin', False), ('after_create_session', True)]


def test_a_prediction_hook_that_asks_to_stop(estimator_of):
    """It does not hang."""

    class Hook(tf.train.SessionRunHook):
        def after_create_session(self, session, coord):
            coord.request_stop()

    estimator = estimator_of(lambda f: f, lambda: [Hook()])
    with pytest.raises(RuntimeError, match='a prediction hook asked to stop'):
        in_thread(lambda: FastPredict(estimator, SPEC))
    assert_tensorflow_works()


def test_an_interrupted_call_leaves_no_answer_for_the_next(estimator_of):
    is_asked, goes_on = threading.Event(), threading.Event()

    def wait(array):
        is_asked.set()
        assert array[0, 0] > 0 or goes_on.wait(30)
        return array

    def interrupt():
        is_asked.wait()
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)  # Ctrl-C
        time.sleep(0.2)
        goes_on.set()

    call = tf2.function(lambda f: tf.numpy_function(wait, [f], tf.float32))
    estimator = estimator_of(lambda f: tf.ensure_shape(call(f), [None, 2]))
    with FastPredict(estimator, SPEC) as fast_predict:
        threading.Thread(target=interrupt, daemon=True).start()
        with pytest.raises(KeyboardInterrupt):
            fast_predict.predict([[-1, -1]])
        for number in (2, 3):
            answers = fast_predict.predict([[number, number]])
            np.testing.assert_array_equal(answers, [[number, number]])


@pytest.mark.parametrize('does', ['interrupt', 'close', 'predict'])
def test_a_signal_handler_while_it_answers(estimator_of, does):
    """Several times, at places by chance; a call after that answers right."""

    def handler(*_):
        called.append(does)
        if does == 'interrupt':
            raise KeyboardInterrupt
        if does == 'close':
            fast_predict.close()
        else:
            assert fast_predict.predict([[4, 4]])[0].tolist() == [8, 8]

    def ask_until_called():
        while not called:
            assert fast_predict.predict([[1, 2]])[0].tolist() == [2, 4]

    estimator, before = estimator_of(lambda f: f * 2), signal.signal(signal.SIGALRM, handler)
    gc.disable()  # what a handler raises within a destructor, Python drops
    try:
        for i in range(3):
            called = []
            with FastPredict(estimator, SPEC) as fast_predict:
                try:
                    signal.setitimer(signal.ITIMER_REAL, 0.002 + i * 0.0008)
                    ask_until_called()
                    assert does != 'interrupt'
                except KeyboardInterrupt:
                    assert does == 'interrupt'
                except (RuntimeError, tf.errors.CancelledError) as error:
                    assert does == 'close' and re.search('[Cc]losed|[Cc]ancelled', str(error))
                if does != 'close':
                    assert fast_predict.predict([[1, 2]])[0].tolist() == [2, 4]
            assert_tensorflow_works()
    finally:
        gc.enable()
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


# Opening and closing.


def test_it_makes_no_thread_and_keeps_no_session(toy):
    threads = set(threading.enumerate())
    fast_predict = FastPredict(toy, SPEC)
    fast_predict.predict([[1, 2]])
    session = weakref.ref(fast_predict._fast_session.session)
    del fast_predict
    gc.collect()
    assert session() is None and set(threading.enumerate()) <= threads  # without `close` too


def test_close(toy):
    with pytest.raises(LookupError), FastPredict(toy, SPEC) as fast_predict:
        raise LookupError
    fast_predict.close()
    with pytest.raises(RuntimeError, match='this FastPredict is closed'):
        fast_predict.predict([[1, 2]])


# A process in which 4 threads ask all the time, FastPredict in turn with the predictor.

PROGRAM = """
import gc, os, signal, sys, threading, time, warnings
warnings.simplefilter('ignore', DeprecationWarning)  # that fork and threads don't go together
import numpy as np
from estimator_inference import FastPredict, predictor, tf

W = np.float32([[3, -1], [2, 5]])

def model_fn(features, labels, mode):
    y = tf.matmul(features['x'], tf.get_variable('w', initializer=W))
    outputs = {'serving_default': tf.estimator.export.PredictOutput({'y': y})}
    return tf.estimator.EstimatorSpec(mode, predictions=y, export_outputs=outputs)

def receiver_fn():
    x = {'x': tf.placeholder(tf.float32, [None, 2])}
    return tf.estimator.export.ServingInputReceiver(x, x)

estimator = tf.estimator.Estimator(model_fn)
openers = [lambda: FastPredict(estimator, {'x': tf.TensorSpec([None, 2], tf.float32)}),
           lambda: predictor.from_estimator(estimator, receiver_fn)]

def ask(opened, x):
    return opened({'x': x})['y'] if callable(opened) else np.array(opened.predict({'x': x}))

def opens():
    os._exit(sum(int(ask(opener(), [[1, 2]])[0, 1]) for opener in openers))

def is_refused(do):
    try:
        do()
    except RuntimeError as error:
        return 'fork first' in str(error)

def refused():
    asks = [lambda one=one: ask(one, [[1, 2]]) for one in opened]
    return sum(map(is_refused, [*openers, *asks]))

def close_and_delete():
    for one in opened * 2:
        one.close()
    opened.clear()
    gc.collect()

nap = 0  # how long each thread sleeps after a call

def in_child(function):
    global nap
    pid = os.fork()
    if not pid:
        function()
        sys.exit(0)  # and so to the end of Python, which deletes what is left
    for nap in [.05] * 3000:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            nap = 0
            time.sleep(.1)
            return os.waitstatus_to_exitcode(status)
        time.sleep(.02)
    os.kill(pid, signal.SIGKILL)
    return 'hangs'

def work(i):
    rng = np.random.default_rng(i)
    while True:
        x = rng.integers(-2**20, 2**20, (rng.integers(1, 51), 2)).astype(np.float32)
        wrong[i] += not np.array_equal(ask(opened[i % 2], x), x @ W)
        calls[i] += 1
        time.sleep(nap)

def megabytes_after(count):
    while min(calls) < count:
        time.sleep(.01)
    with open('/proc/self/statm') as file:
        return int(file.read().split()[1]) * os.sysconf('SC_PAGE_SIZE') / 1e6

print('before', in_child(opens))
opened = []
tf.Session(graph=tf.Graph()).list_devices()
print('after other use', in_child(lambda: os._exit(refused())))
opened = [opener() for opener in openers]
calls, wrong = [0] * 4, [0] * 4
for i in range(4):
    threading.Thread(target=work, args=(i,), daemon=True).start()
count = int(sys.argv[1])
before = megabytes_after(count)
print('grown', megabytes_after(3 * count) - before)
print('child', in_child(lambda: sys.exit(refused())))
print('closing child', in_child(close_and_delete))
print('wrong', wrong)
raise SystemExit(3)  # while they ask
"""


@pytest.mark.skipif(not os.path.exists('/proc/self/statm'), reason='forks, and reads Linux memory')
@pytest.mark.parametrize('calls', [1_000, pytest.param(10_000, marks=pytest.mark.slow)])
def test_a_process_that_forks_and_ends_while_threads_ask(python, calls):
    """Memory stays level. A child that opens, or calls what is open, gets an error; none hangs."""
    process = python('-c', PROGRAM, calls)
    assert process.wait() == 3, process.printed()
    said = [
        line.rsplit(' ', 1) for line in re.findall('(?m)^[a-z ]+ -?[0-9.]+$', process.printed())
    ]
    (grown,) = [float(value) for key, value in said if key == 'grown']
    assert grown < 2
    assert [(key, int(value)) for key, value in said if key != 'grown'] == [
        ('before', 18),
        ('after other use', 2),
        ('child', 4),
        ('closing child', 0),
    ]
    assert 'wrong [0, 0, 0, 0]\n' in process.printed()
    bad = 'Traceback|terminate called|Fatal|core dumped|Segmentation|Exception ignored'
    assert not re.search(bad, process.printed()), process.printed()
