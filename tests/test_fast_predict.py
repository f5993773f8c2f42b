"""FastPredict: right answers, each to its own question, without a trace in the TensorFlow around it."""
import gc
import glob
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
from concurrent import futures

import numpy as np
import pytest

import fast_predict as fast_predict_module
import model
import train
from fast_predict import FastPredict
from tf1 import tf  # before tensorflow: what it sets has to be set before that import

import tensorflow  # isort: skip

ROOT = os.path.dirname(os.path.abspath(fast_predict_module.__file__))
SPEC = tf.TensorSpec([None, 2], tf.float32)
FLOWER_SPEC = {'size': tf.TensorSpec([None, 2], tf.float32), 'colour': tf.TensorSpec([None], tf.string)}
FLOWER = {'size': [[1, 2]], 'colour': ['red']}


@pytest.fixture(scope='module')
def toy(tmp_path_factory):
    estimator = model.build_estimator(str(tmp_path_factory.mktemp('toy')), tf_random_seed=1)
    estimator.train(lambda: train.train_input_fn(1), steps=5)
    return estimator


@pytest.fixture(scope='module')
def classifier(tmp_path_factory):
    colours = tf.feature_column.categorical_column_with_vocabulary_list('colour', ['red', 'blue'])
    columns = [tf.feature_column.numeric_column('size', [2]), tf.feature_column.indicator_column(colours)]
    estimator = tf.estimator.DNNClassifier([4], columns, str(tmp_path_factory.mktemp('flowers')), n_classes=3,
                                           config=tf.estimator.RunConfig(tf_random_seed=1))
    estimator.train(lambda: tf.data.Dataset.from_tensors((flowers(30), np.arange(30) % 3)), steps=1)
    return estimator


@pytest.fixture
def estimator_of(tmp_path):
    """Makes an Estimator that predicts `predict(features)`, with a checkpoint, of `hooks()`."""
    def make(predict, hooks=lambda: None, directory='estimator'):
        def model_fn(features, labels, mode):
            if mode == tf.estimator.ModeKeys.PREDICT:
                return tf.estimator.EstimatorSpec(mode, predictions=predict(features), prediction_hooks=hooks())
            step = tf.train.get_global_step()
            return tf.estimator.EstimatorSpec(mode, loss=tf.zeros([]), train_op=tf.assign_add(step, 1))
        estimator = tf.estimator.Estimator(model_fn, str(tmp_path / directory))
        estimator.train(lambda: tf.data.Dataset.from_tensors(0), steps=1)
        return estimator
    return make


def flowers(n):
    rng = np.random.default_rng(n)
    return {'size': rng.normal(size=(n, 2)).astype('f4'), 'colour': rng.choice(['red', 'blue', 'green'], n)}


def random_examples(n, seed=0):
    return np.random.default_rng(seed).uniform(-100, 100, (n, 2)).astype('f4')


def toy_answers(estimator, examples):
    """Computes what the toy model answers, without TensorFlow: [n, 2] -> [n, 1]."""
    return examples @ estimator.get_variable_value('dense/kernel') + estimator.get_variable_value('dense/bias')


def estimator_answers(estimator, features):
    """Asks Estimator.predict itself, all examples in one batch."""
    return list(estimator.predict(lambda: tf.data.Dataset.from_tensors(features)))


def assert_same(got, expected):
    assert type(got) is type(expected)
    if isinstance(expected, list):
        assert len(got) == len(expected)
        for one, other in zip(got, expected):
            assert_same(one, other)
    elif isinstance(expected, dict):
        assert list(got) == list(expected)
        assert_same(list(got.values()), list(expected.values()))
    else:
        assert (got.dtype, got.shape) == (expected.dtype, expected.shape)
        np.testing.assert_array_equal(got, expected)


def in_thread(function):
    """Returns what `function` returns in a thread of its own, or fails where it takes 60 s: a hang."""
    done = futures.Future()

    def run():
        try:
            done.set_result(function())
        except BaseException as error:
            done.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return done.result(timeout=60)


def assert_tensorflow_works():
    """Does in this thread what an Estimator's graph, left behind as its default graph, breaks."""
    assert tensorflow.executing_eagerly()
    assert float(tf.constant(1.) + 1) == 2
    with tf.Graph().as_default() as graph:
        assert tf.zeros([1]).graph is graph
    variables = []

    @tensorflow.function
    def count():
        if not variables:
            variables.append(tensorflow.Variable(1.))
        return variables[0].assign_add(1)

    assert float(count()) == 2


def python(code, cwd=ROOT, timeout=90):
    """Runs Python code in a process of its own; returns what it wrote to stdout."""
    environ = {name: value for name, value in os.environ.items() if name != 'PYTHONPATH'}
    done = subprocess.run([sys.executable, '-W', 'ignore', '-c', code], cwd=cwd, env=environ, timeout=timeout,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 0, done.stderr
    assert 'Traceback' not in done.stderr and 'Exception ignored' not in done.stderr, done.stderr
    return done.stdout


# Its answers are Estimator.predict's.


@pytest.mark.parametrize('n', [1, 7])
def test_answers_as_estimator_predict(toy, classifier, n):
    with FastPredict(toy, SPEC) as fast_predict:
        examples = random_examples(n)
        assert_same(fast_predict.predict(examples), estimator_answers(toy, examples))
        assert_same(fast_predict.predict(examples.tolist()), estimator_answers(toy, examples))
    with FastPredict(classifier, FLOWER_SPEC) as fast_predict:
        expected = estimator_answers(classifier, flowers(n))
        assert {'probabilities', 'class_ids', 'classes'} <= expected[0].keys()
        assert_same(fast_predict.predict(flowers(n)), expected)
        assert_same(fast_predict.predict(dict(reversed(flowers(n).items()))), expected)


def test_answers_of_dict_features_and_dict_predictions(toy, estimator_of):
    with FastPredict(toy, {'feature': SPEC}) as fast_predict:
        assert_same(fast_predict.predict({'feature': [[1, 2]]}), estimator_answers(toy, np.float32([[1, 2]])))
    estimator = estimator_of(lambda f: {'sum': tf.reduce_sum(f, 1), 'int': tf.cast(f, tf.int64),
                                        'text': tf.as_string(f), 'cube': tf.tile(f[:, None, :, None], [1, 3, 1, 2])})
    with FastPredict(estimator, SPEC) as fast_predict:
        answers = fast_predict.predict([[1, 2], [3, 4]])
        assert_same(answers, estimator_answers(estimator, np.float32([[1, 2], [3, 4]])))
        assert answers[1]['sum'] == 7 and answers[1]['cube'].shape == (3, 2, 2)
    examples = {'words': ['é', b'\0\xff\0', ''], 'flags': [True, False, True], 'ids': [2 ** 40, -1, 0]}
    spec = {'words': tf.TensorSpec([None], tf.string), 'flags': tf.TensorSpec([None], tf.bool),
            'ids': tf.TensorSpec([None], tf.int64)}
    with FastPredict(estimator_of(lambda f: f, directory='echo'), spec) as fast_predict:
        assert fast_predict.predict(examples) == [{'words': 'é'.encode(), 'flags': True, 'ids': 2 ** 40},
                                                  {'words': b'\0\xff\0', 'flags': False, 'ids': -1},
                                                  {'words': b'', 'flags': True, 'ids': 0}]


def test_each_answer_belongs_to_its_question(toy, classifier):
    def in_batches(fast_predict, n, take):
        rng, answers = np.random.default_rng(2), []
        while len(answers) < n:
            answers += fast_predict.predict(take(slice(len(answers), min(n, len(answers) + rng.integers(1, 65)))))
        return answers

    examples = random_examples(100_000)
    with FastPredict(toy, SPEC) as fast_predict:
        answers = in_batches(fast_predict, len(examples), lambda part: examples[part])
    np.testing.assert_allclose(answers, toy_answers(toy, examples), atol=1e-3)
    features = flowers(5_000)
    with FastPredict(classifier, FLOWER_SPEC) as fast_predict:
        answers = in_batches(fast_predict, 5_000, lambda part: {key: array[part] for key, array in features.items()})
    np.testing.assert_allclose([answer['logits'] for answer in answers],
                               [answer['logits'] for answer in estimator_answers(classifier, features)], atol=1e-5)


def test_answers_and_questions_share_no_memory(estimator_of):
    with FastPredict(estimator_of(lambda f: {'same': f, 'relu': tf.nn.relu(f)}), SPEC) as fast_predict:
        examples = np.full([1000, 2], -1, np.float32)  # a service may fill the same array again for each call
        fast_predict.predict(examples)
        answers = fast_predict.predict(examples)
        assert (examples == -1).all()
        examples[:] = 5
        assert (np.array([answer['same'] for answer in answers]) == -1).all()


def test_the_posts_version_answers_earlier_questions(toy):
    """Why FastPredict reads no tf.data.Dataset: since it reads ahead (2.15.1 does, too), answers lag behind."""
    examples = random_examples(500)
    is_open = True

    def posts_version():
        question = None

        def requests():
            while is_open:
                yield question

        def input_fn():
            return tf.data.Dataset.from_generator(requests, tf.float32, (2,)).batch(1)

        nonlocal is_open
        answers, got = toy.predict(input_fn), []
        for question in examples:
            got.append(next(answers))
        is_open = False
        answers.close()
        return got

    expected = toy_answers(toy, examples)
    got = in_thread(posts_version)  # until it is closed, its thread can't be used for anything else
    is_wrong = ~np.isclose(got, expected, atol=1e-3).all(1)
    assert is_wrong.sum() > 100
    questions_so_far = [np.isclose(expected[:i], got[i], atol=1e-3).any() for i in np.flatnonzero(is_wrong)]
    assert all(questions_so_far)  # no other mistake than that one
    with FastPredict(toy, SPEC) as fast_predict:
        np.testing.assert_allclose([fast_predict.predict([example])[0] for example in examples], expected, atol=1e-3)


# It leaves TensorFlow around it alone, and several of it leave each other alone.


@pytest.mark.parametrize('order', [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_several_open_closed_in_any_order(toy, classifier, order):
    fast_predicts = [FastPredict(toy, SPEC), FastPredict(classifier, FLOWER_SPEC), FastPredict(toy, SPEC)]
    questions = [[[1, 2]], FLOWER, [[3, 4]]]
    expected = [toy_answers(toy, np.float32([[1, 2]])), classifier.predict, toy_answers(toy, np.float32([[3, 4]]))]
    expected[1] = estimator_answers(classifier, {'size': np.float32([[1, 2]]), 'colour': ['red']})
    for closed in range(4):
        for i in order[closed:] * 2:
            answers = fast_predicts[i].predict(questions[i])
            if i == 1:
                assert_same(answers, expected[1])
            else:
                np.testing.assert_allclose(answers, expected[i], rtol=1e-5)
        for i in order[:closed]:
            with pytest.raises(RuntimeError, match='closed'):
                fast_predicts[i].predict(questions[i])
        if closed < 3:
            fast_predicts[order[closed]].close()
    assert_tensorflow_works()


@pytest.mark.parametrize('in_graph', [False, True])
def test_other_tensorflow_work_in_the_same_thread(toy, tmp_path, in_graph):
    def receiver_fn():
        feature = tf.placeholder(tf.float32, [None, 2])
        return tf.estimator.export.ServingInputReceiver(feature, {'feature': feature})

    export = toy.export_saved_model(str(tmp_path / 'export'), receiver_fn).decode()
    other = model.build_estimator(str(tmp_path / 'other'))
    expected = toy_answers(toy, np.float32([[1, 2]]))

    def work():
        if tensorflow.executing_eagerly():
            assert_tensorflow_works()
            signature = tensorflow.saved_model.load(export).signatures['serving_default']
            np.testing.assert_allclose(signature(tf.constant([[1., 2.]]))['output'], expected, rtol=1e-5)
        else:
            assert tf.zeros([1]).graph is tf.get_default_graph()
            with tf.Session() as session:
                assert session.run(tf.constant(1.) + 1) == 2
        other.train(lambda: train.train_input_fn(1), steps=1)
        assert_same(estimator_answers(other, np.float32([[1, 2]])),
                    list(toy_answers(other, np.float32([[1, 2]]))))

    def with_fast_predict():
        fast_predict = FastPredict(toy, SPEC)
        work()
        for _ in range(2):
            np.testing.assert_allclose(fast_predict.predict([[1, 2]]), expected, rtol=1e-5)
            work()
        fast_predict.close()
        work()

    if in_graph:
        with tf.Graph().as_default():
            with_fast_predict()
    else:
        with_fast_predict()
    assert_tensorflow_works()


def test_opened_and_closed_in_different_modes(toy):
    with tf.Graph().as_default():
        fast_predict = FastPredict(toy, SPEC)
    fast_predict.predict([[1, 2]])
    with tf.Graph().as_default():
        fast_predict.predict([[1, 2]])
        fast_predict.close()
    assert_tensorflow_works()


def ask_from_threads(estimator, calls):
    """Asks from 8 threads at once, `calls` times each, and compares each answer to its question."""
    with FastPredict(estimator, SPEC) as fast_predict, futures.ThreadPoolExecutor(8) as pool:
        everyone_is_here = threading.Barrier(8)

        def ask(seed):
            examples = random_examples(calls, seed)
            everyone_is_here.wait()
            return examples, [fast_predict.predict([example])[0] for example in examples]

        for examples, answers in pool.map(ask, range(8)):
            np.testing.assert_allclose(answers, toy_answers(estimator, examples), atol=1e-3)


def test_threads_get_their_own_answers(toy):
    ask_from_threads(toy, 2_000)


@pytest.mark.slow
def test_threads_get_their_own_answers_to_10_000_calls(toy):
    ask_from_threads(toy, 10_000)


def test_no_warning_of_a_missing_dataset(toy):
    logger, records, filters = tf.get_logger(), [], list(tf.get_logger().filters)
    handler = logging.Handler()
    handler.emit = lambda record: records.append(record.getMessage())
    logger.addHandler(handler)
    try:
        next(toy.predict(lambda: tf.zeros([1, 2])))
        assert any('does not use tf.data.Dataset' in record for record in records)  # Estimator itself does warn
        records.clear()
        with FastPredict(toy, SPEC) as fast_predict:
            fast_predict.predict([[1, 2]])
            logger.warning('of somebody else')
        assert [record for record in records if 'Dataset' in record or 'else' in record] == ['of somebody else']
    finally:
        logger.removeHandler(handler)
    assert logger.filters == filters


# What goes wrong reaches the caller, and the next call works.


@pytest.mark.parametrize('features, expected', [
    ([1, 2], r'float32 \[None, 2\], got the shape \[2\]'),
    ([[1, 2, 3]], r'float32 \[None, 2\], got the shape \[1, 3\]'),
    ([[[1, 2]]], r'float32 \[None, 2\], got the shape \[1, 1, 2\]'),
    (3, r'float32 \[None, 2\], got the shape \[\]'),
    ([['a', 'b']], r"float32 \[None, 2\], got \[\['a', 'b'\]\]"),
    ([[1, 2j]], r'float32 \[None, 2\], got \[\[1, 2j\]\]'),
    ([[1, 10 ** 400]], r'float32 \[None, 2\], got \[\[1, 1000'),
    ([[1, 2], [3]], r'float32 \[None, 2\], got \[\[1, 2\], \[3\]\]'),
    ({'feature': [[1, 2]]}, r"float32 \[None, 2\], got {'feature'"),
    ([], r'\[None, 2\], got the shape \[0\]'),
    (np.zeros([0, 2]), 'at least one example.*got 0'),
])
def test_bad_features(toy, features, expected):
    with FastPredict(toy, SPEC) as fast_predict:
        for _ in range(2):  # the first request, and a later one
            with pytest.raises(ValueError, match=expected):
                fast_predict.predict(features)
            np.testing.assert_allclose(fast_predict.predict([[1, 2]]), toy_answers(toy, np.float32([[1, 2]])), 1e-5)


@pytest.mark.parametrize('features, expected', [
    ([[1, 2]], r"dict with the features \['size', 'colour'\], got \[\[1, 2\]\]"),
    (None, r"dict with the features \['size', 'colour'\], got None"),
    ({}, r"dict with the features \['size', 'colour'\], got \[\]"),
    ({'size': [[1, 2]]}, r"dict with the features \['size', 'colour'\], got \['size'\]"),
    ({**FLOWER, 'age': [1]}, r"dict with the features \['size', 'colour'\], got \['size', 'colour', 'age'\]"),
    ({**FLOWER, 'size': [[1]]}, r'size: expected float32 \[None, 2\], got the shape \[1, 1\]'),
    ({**FLOWER, 'size': [['a', 1]]}, r"size: expected float32 \[None, 2\], got \[\['a', 1\]\]"),
    ({**FLOWER, 'colour': 'red'}, r'colour: expected string \[None\], got the shape \[\]'),
    ({**FLOWER, 'colour': [1]}, r'colour: expected string \[None\], got \[1\]'),
    ({**FLOWER, 'colour': [None]}, r'colour: expected string \[None\], got \[None\]'),
    ({**FLOWER, 'colour': ['\ud800']}, r'colour: expected string \[None\], got'),  # has no UTF-8
    ({**FLOWER, 'colour': ['red', 'red']}, 'colour: expected 1 example.*got 2'),
    ({'size': np.zeros([0, 2]), 'colour': []}, 'size: expected at least one example.*got 0'),
])
def test_bad_features_in_a_dict(classifier, features, expected):
    with FastPredict(classifier, FLOWER_SPEC) as fast_predict:
        with pytest.raises(ValueError, match=expected):
            fast_predict.predict(features)
        assert_same(fast_predict.predict(FLOWER),
                    estimator_answers(classifier, {'size': np.float32([[1, 2]]), 'colour': ['red']}))


def finite_only(array):
    if not np.isfinite(array).all():
        raise LookupError('not finite')
    return array


@pytest.mark.parametrize('in_graph', [False, True])
@pytest.mark.parametrize('check, hooks', [
    (lambda f: tf.debugging.check_numerics(f, 'not finite'), None),
    (lambda f: {'a': f, 'b': tf.ensure_shape(tf.numpy_function(finite_only, [f], tf.float32), [None, 2])}, None),
    (lambda f: tf.debugging.check_numerics(f, 'not finite', name='out'), lambda: [FetchHook([])]),
], ids=['operation', 'numpy_function', 'operation and hook'])
def test_error_in_the_graph(estimator_of, check, hooks, in_graph):
    estimator = estimator_of(check, hooks or (lambda: None))

    def ask():
        with FastPredict(estimator, SPEC) as fast_predict:
            for _ in range(2):  # the very first request, and a later one
                with pytest.raises(tf.errors.OpError, match='not finite'):
                    fast_predict.predict([[np.nan, 1]])
                [answer] = fast_predict.predict([[1, 2]])
                np.testing.assert_array_equal(answer['b'] if isinstance(answer, dict) else answer, [1, 2])
            if in_graph:
                assert tf.zeros([1]).graph is tf.get_default_graph()

    def ask_in_graph():
        with tf.Graph().as_default():
            ask()

    def in_a_clean_thread():
        ask_in_graph() if in_graph else ask()
        assert_tensorflow_works()

    in_thread(in_a_clean_thread)


def test_interrupted_call_leaves_no_answer_behind(estimator_of):
    """After Ctrl-C in the first call, whose answer still comes, the next call has its own."""
    is_running, may_go_on = threading.Event(), threading.Event()

    def wait(array):
        is_running.set()
        if array[0, 0] < 0:
            assert may_go_on.wait(60)
        return array

    estimator = estimator_of(lambda f: tf.ensure_shape(tf.numpy_function(wait, [f], tf.float32), [None, 2]))
    with FastPredict(estimator, SPEC) as fast_predict:
        threading.Thread(target=lambda: is_running.wait() and signal.raise_signal(signal.SIGINT)).start()
        with pytest.raises(KeyboardInterrupt):
            fast_predict.predict([[-1, -1]])
        threading.Timer(.5, may_go_on.set).start()
        np.testing.assert_array_equal(fast_predict.predict([[2, 2]]), [[2, 2]])
        np.testing.assert_array_equal(fast_predict.predict([[3, 3]]), [[3, 3]])


def test_interrupted_anywhere_later_calls_work_or_raise(toy):
    """Not with StopIteration, say, which would silently end the loop over questions that it is called in."""
    def interrupt(*_):
        raise KeyboardInterrupt

    handler = signal.signal(signal.SIGALRM, interrupt)
    try:
        for i in range(20):
            fast_predict = FastPredict(toy, SPEC)
            fast_predict.predict([[1, 2]])
            with pytest.raises(BaseException):
                signal.setitimer(signal.ITIMER_REAL, .01 + i * .00011)
                while True:
                    fast_predict.predict([[1, 2]])
            try:
                np.testing.assert_allclose(fast_predict.predict([[3, 4]]), toy_answers(toy, np.float32([[3, 4]])), 1e-5)
            except RuntimeError:
                pass
            fast_predict.close()
            assert_tensorflow_works()
    finally:
        signal.signal(signal.SIGALRM, handler)


class FetchHook(tf.train.SessionRunHook):
    """Fetches the tensor `out`, and feeds the tensor `bias` where there is one: a hook as a model_fn may have it."""

    def __init__(self, fetched, feed=None):
        self.fetched, self.feed = fetched, feed

    def before_run(self, run_context):
        graph = run_context.session.graph
        feed_dict = {graph.get_tensor_by_name('bias:0'): self.feed} if self.feed else None
        return tf.train.SessionRunArgs(graph.get_tensor_by_name('out:0'), feed_dict)

    def after_run(self, run_context, run_values):
        self.fetched.append(run_values.results.copy())


def test_prediction_hooks_that_fetch_and_feed(estimator_of):
    fetched = []
    estimator = estimator_of(lambda f: tf.add(f, tf.placeholder_with_default(0., [], 'bias'), 'out'),
                             lambda: [FetchHook(fetched, feed=10.)])
    with FastPredict(estimator, SPEC) as fast_predict:
        for n in range(3):
            np.testing.assert_array_equal(fast_predict.predict([[n, 1]]), [[n + 10, 11]])
    assert [array.tolist() for array in fetched] == [[[10, 11]], [[11, 11]], [[12, 11]]]


@pytest.mark.parametrize('when', ['begin', 'after_create_session', 'before_run', 'after_run'])
def test_prediction_hook_that_fails(estimator_of, when):
    class Hook(tf.train.SessionRunHook):
        pass

    def fail(*_):
        raise LookupError('the hook fails')

    setattr(Hook, when, fail)
    estimator = estimator_of(lambda f: f, lambda: [Hook()])

    def ask():
        with pytest.raises(LookupError, match='the hook fails'):
            FastPredict(estimator, SPEC).predict([[1, 2]])
        assert_tensorflow_works()

    in_thread(ask)


@pytest.mark.parametrize('predict', [lambda f: f[:1], lambda f: tf.concat([f, f], 0), tf.reduce_sum,
                                     lambda f: {'a': f, 'b': f[:1]}])
def test_predictions_without_a_row_for_each_example(estimator_of, predict):
    with FastPredict(estimator_of(predict), SPEC) as fast_predict:
        with pytest.raises(ValueError, match='shape .* for 3 examples'):
            fast_predict.predict([[1, 2]] * 3)


def test_errors_while_opening(toy, estimator_of, tmp_path):
    def fail(features):
        raise LookupError('the model_fn fails')

    threads = set(threading.enumerate())
    with pytest.raises(ValueError, match='no checkpoint.*nothing.*train'):
        FastPredict(model.build_estimator(str(tmp_path / 'nothing')), SPEC)
    for spec in (tf.TensorSpec([2], tf.float32), tf.TensorSpec([], tf.float32), tf.TensorSpec(None, tf.float32)):
        with pytest.raises(ValueError, match='features: expected .* None'):
            FastPredict(toy, spec)
    with pytest.raises(ValueError, match='a: expected .* None'):
        FastPredict(toy, {'feature': SPEC, 'a': tf.TensorSpec([1], tf.float32)})
    assert set(threading.enumerate()) == threads
    estimator = estimator_of(fail)
    threads = set(threading.enumerate())  # training left one
    with pytest.raises(LookupError, match='the model_fn fails'):
        in_thread(lambda: FastPredict(estimator, SPEC))
    with pytest.raises(ValueError):
        FastPredict(toy, tf.TensorSpec([None, 3], tf.float32))  # the checkpoint has weights for 2
    for path in glob.glob(estimator.latest_checkpoint() + '.data*'):
        os.remove(path)
    with pytest.raises((tf.errors.OpError, ValueError)):
        in_thread(lambda: FastPredict(estimator_of(lambda f: f) if 0 else estimator, SPEC))
    assert set(threading.enumerate()) <= threads
    assert_tensorflow_works()


# It opens and closes.


def test_closed(toy):
    threads = set(threading.enumerate())
    FastPredict(toy, SPEC).close()  # never used
    with FastPredict(toy, SPEC) as fast_predict:
        fast_predict.predict([[1, 2]])
        assert len(set(threading.enumerate()) - threads) == 1
    fast_predict.close()
    with pytest.raises(RuntimeError, match='closed'):
        fast_predict.predict([[1, 2]])
    with pytest.raises(LookupError), FastPredict(toy, SPEC) as fast_predict:
        raise LookupError
    with pytest.raises(RuntimeError, match='closed'):
        fast_predict.predict([[1, 2]])
    assert set(threading.enumerate()) == threads


@pytest.mark.parametrize('is_used', [False, True])
def test_garbage_collected(toy, is_used):
    threads = set(threading.enumerate())
    fast_predict = FastPredict(toy, SPEC)
    if is_used:
        fast_predict.predict([[1, 2]])
    assert set(threading.enumerate()) != threads
    del fast_predict
    gc.collect()
    assert set(threading.enumerate()) == threads


def test_keeps_its_checkpoint(tmp_path):
    estimator = model.build_estimator(str(tmp_path))
    estimator.train(lambda: train.train_input_fn(1), steps=1)
    old = toy_answers(estimator, np.float32([[30, 40]]))
    with FastPredict(estimator, SPEC) as unused, FastPredict(estimator, SPEC) as fast_predict:
        fast_predict.predict([[1, 2]])
        estimator.train(lambda: train.train_input_fn(1), steps=5)
        new = toy_answers(estimator, np.float32([[30, 40]]))
        assert abs(new - old) > 1
        for opened_before in (unused, fast_predict):
            np.testing.assert_allclose(opened_before.predict([[30, 40]]), old, rtol=1e-5)
        with FastPredict(estimator, SPEC) as opened_after:
            np.testing.assert_allclose(opened_after.predict([[30, 40]]), new, rtol=1e-5)


def grown_memory(estimator, calls):
    """Returns by how many MB the memory of this process grows from the 1,000th call on."""
    def memory():
        with open('/proc/self/statm') as file:
            return int(file.read().split()[1]) * os.sysconf('SC_PAGE_SIZE') / 1e6

    with FastPredict(estimator, SPEC) as fast_predict:
        for call in range(calls):
            if call == 1_000:
                before = memory()
            fast_predict.predict([[call, 2]])
        return memory() - before


@pytest.mark.skipif(not os.path.exists('/proc/self/statm'), reason='reads the memory of a process as Linux tells it')
def test_memory(toy):
    assert grown_memory(toy, 100_000) < 20


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists('/proc/self/statm'), reason='reads the memory of a process as Linux tells it')
def test_memory_after_1_000_000_calls(toy):
    assert grown_memory(toy, 1_000_000) < 20


OPEN_TWO = '''
import atexit, os, sys, threading, time
atexit.register(time.sleep, .5)  # runs last: time for what is still there to complain
import model
from fast_predict import FastPredict, tf
unused, used = [FastPredict(model.build_estimator({model_dir!r}), tf.TensorSpec([None, 2], tf.float32)) for _ in '12']
used.predict([[1, 2]])

def predict_for_ever():
    while True:
        used.predict([[1, 2]])
'''
FORK = '''
child = os.fork()
if not child:
    sys.exit(0)
print(os.waitpid(child, 0)[1])
'''


@pytest.mark.parametrize('then', ['', 'threading.Thread(target=predict_for_ever, daemon=True).start(); time.sleep(.5)'],
                         ids=['idle', 'busy'])
def test_left_open_at_exit(toy, then):
    python(OPEN_TWO.format(model_dir=toy.model_dir) + then + '\nprint("end")')


@pytest.mark.parametrize('then', ['', 'threading.Thread(target=predict_for_ever, daemon=True).start(); time.sleep(.5)'],
                         ids=['idle', 'busy'])
def test_forked_child_exits(toy, then):
    assert python(OPEN_TWO.format(model_dir=toy.model_dir) + then + FORK) == '0\n'


def test_the_file_alone_is_enough(tmp_path):
    """In a project with Estimators: TensorFlow 2.15 has them, and for 2.21 tf1.py lies somewhere else."""
    shutil.copy(os.path.join(ROOT, 'fast_predict.py'), tmp_path)
    elsewhere = f'sys.path.insert(0, {ROOT!r}); import tf1; sys.path.remove({ROOT!r})\n'
    code = '''
import fast_predict
from fast_predict import FastPredict, tf

def model_fn(features, labels, mode):
    doubled = 2 * features
    if mode == 'infer':
        return tf.estimator.EstimatorSpec(mode, predictions=doubled)
    step = tf.train.get_global_step()
    return tf.estimator.EstimatorSpec(mode, loss=tf.reduce_sum(doubled), train_op=tf.assign_add(step, 1))

estimator = tf.estimator.Estimator(model_fn, 'trained')
estimator.train(lambda: tf.data.Dataset.from_tensors([[1., 2.]]), steps=1)
with FastPredict(estimator, tf.TensorSpec([None, 2], tf.float32)) as opened:
    print(opened.predict([[3, 4]])[0].tolist(), fast_predict.__file__)
print(sorted({'cli', 'latency', 'model', 'predictor', 'tf1', 'train'} & set(sys.modules)))
'''
    has_estimator = tensorflow.__version__.startswith('2.15.')
    out = python('import sys\n' + ('' if has_estimator else elsewhere) + code, cwd=str(tmp_path))
    assert out.splitlines() == [f'[6.0, 8.0] {tmp_path}/fast_predict.py', str([] if has_estimator else ['tf1'])]
