"""FastPredict: Estimator.predict's answers, each to its own question, and no trace in the TensorFlow around it."""

import contextlib
import gc
import glob
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
import weakref
from concurrent import futures

import model  # before tensorflow
import numpy as np
import pytest
import tensorflow
import train
from conftest import ROOT
from estimator_inference import FastPredict, tf

SPEC = tf.TensorSpec([None, 2], tf.float32)
FLOWER_SPEC = {
    'size': tf.TensorSpec([None, 2], tf.float32),
    'colour': tf.TensorSpec([None], tf.string),
}
FLOWER = {'size': np.float32([[1, 2]]), 'colour': ['red']}
in_modes = pytest.mark.parametrize(
    'mode', [contextlib.nullcontext, lambda: tf.Graph().as_default()], ids=['eager', 'graph']
)


@pytest.fixture(scope='module')
def toy(tmp_path_factory):
    config = tf.estimator.RunConfig(tf_random_seed=1)
    random.seed(1)  # whichever test needs it first
    estimator = tf.estimator.Estimator(
        model.model_fn, str(tmp_path_factory.mktemp('toy')), config, params={}
    )
    estimator.train(train.train_input_fn, steps=5)
    return estimator


@pytest.fixture(scope='module')
def classifier(tmp_path_factory):
    colours = tf.feature_column.categorical_column_with_vocabulary_list('colour', ['red', 'blue'])
    columns = [
        tf.feature_column.numeric_column('size', [2]),
        tf.feature_column.indicator_column(colours),
    ]
    estimator = tf.estimator.DNNClassifier(
        [4],
        columns,
        str(tmp_path_factory.mktemp('flowers')),
        n_classes=3,
        config=tf.estimator.RunConfig(tf_random_seed=1),
    )
    estimator.train(lambda: tf.data.Dataset.from_tensors((flowers(30), np.arange(30) % 3)), steps=1)
    return estimator


@pytest.fixture(scope='module')
def flower_predict(classifier):
    """A FastPredict of it, and its answers to FLOWER."""
    with FastPredict(classifier, FLOWER_SPEC) as fast_predict:
        yield fast_predict, estimator_answers(classifier, FLOWER)


@pytest.fixture
def estimator_of(tmp_path):
    """Makes a trained Estimator whose model_fn predicts `predict(features)` and has the prediction_hooks `hooks()`."""

    def make(predict, hooks=list):
        def model_fn(features, labels, mode):
            if mode == tf.estimator.ModeKeys.PREDICT:
                return tf.estimator.EstimatorSpec(
                    mode, predictions=predict(features), prediction_hooks=hooks()
                )
            train_op = tf.assign_add(tf.train.get_global_step(), 1)
            return tf.estimator.EstimatorSpec(mode, loss=tf.zeros([]), train_op=train_op)

        estimator = tf.estimator.Estimator(model_fn, str(tmp_path / 'estimator'))
        estimator.train(lambda: tf.data.Dataset.from_tensors(0), steps=1)
        return estimator

    return make


def flowers(n):
    rng = np.random.default_rng(n)
    return {
        'size': rng.normal(size=(n, 2)).astype('f4'),
        'colour': rng.choice(['red', 'blue', 'green'], n),
    }


def examples_of(seed, n):
    return np.random.default_rng(seed).uniform(-100, 100, (n, 2)).astype('f4')


def toy_answers(estimator, examples):
    """Computes what the toy model answers, without TensorFlow: [n, 2] -> [n, 1]."""
    return examples @ estimator.get_variable_value('dense/kernel') + estimator.get_variable_value(
        'dense/bias'
    )


def estimator_answers(estimator, features):
    """Asks Estimator.predict itself, all examples in one batch."""
    return list(estimator.predict(lambda: tf.data.Dataset.from_tensors(features)))


def assert_same(got, expected):
    assert type(got) is type(expected)
    if isinstance(expected, dict):
        assert list(got) == list(expected)
        got, expected = list(got.values()), list(expected.values())
    if isinstance(expected, list):
        assert len(got) == len(expected)
        for one, other in zip(got, expected):
            assert_same(one, other)
    elif isinstance(expected, bytes):
        assert got == expected
    else:
        assert (got.dtype, got.shape) == (expected.dtype, expected.shape)
        np.testing.assert_array_equal(got, expected)


def assert_answers(fast_predict, estimator, examples):
    examples = np.float32(examples)
    np.testing.assert_allclose(
        fast_predict.predict(examples), toy_answers(estimator, examples), rtol=1e-5
    )


def assert_tensorflow_works():
    """Does what fails in a thread that an open Estimator.predict has left its graph in."""
    assert tensorflow.executing_eagerly()
    with tf.Graph().as_default() as graph:
        assert tf.zeros([1]).graph is graph
    variables = []

    @tensorflow.function
    def count():
        if not variables:
            variables.append(tensorflow.Variable(1.0))
        return variables[0].assign_add(1)

    assert float(count()) == 2


def in_thread(function):
    """Returns what `function` returns in a thread of its own; an error after 60 s, where it hangs."""
    result = futures.Future()

    def run():
        try:
            result.set_result(function())
        except BaseException as error:
            result.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return result.result(timeout=60)


def python(code, cwd=ROOT):
    """Runs Python code, which leaves no error on stderr, in a process of its own; returns its stdout."""
    environ = {name: value for name, value in os.environ.items() if name != 'PYTHONPATH'}
    done = subprocess.run(
        [sys.executable, '-c', code],
        cwd=cwd,
        env=environ,
        timeout=240,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert 'Traceback' not in done.stderr and 'Exception ignored' not in done.stderr, done.stderr
    return done.stdout


# Answers.


@pytest.mark.parametrize('n', [1, 7])
def test_answers_are_those_of_estimator_predict(toy, classifier, n):
    examples = examples_of(0, n)
    with FastPredict(toy, SPEC) as fast_predict:
        assert_same(fast_predict.predict(examples), estimator_answers(toy, examples))
        assert_same(fast_predict.predict(examples.tolist()), estimator_answers(toy, examples))
    with FastPredict(toy, {'feature': SPEC}) as fast_predict:
        assert_same(fast_predict.predict({'feature': examples}), estimator_answers(toy, examples))
    expected = estimator_answers(classifier, flowers(n))
    assert expected[0].keys() >= {'probabilities', 'class_ids', 'classes'}
    with FastPredict(classifier, FLOWER_SPEC) as fast_predict:
        assert_same(fast_predict.predict(flowers(n)), expected)
        assert_same(fast_predict.predict(dict(reversed(flowers(n).items()))), expected)


def test_answers_of_each_type_and_shape(estimator_of):
    features = {'word': ['é'.encode(), b'\0\xff\0'], 'flag': [True, False], 'id': [2**40, -1]}
    spec = {
        name: tf.TensorSpec([None], dtype)
        for name, dtype in zip(features, (tf.string, tf.bool, tf.int64))
    }
    estimator = estimator_of(
        lambda f: {**f, 'cube': tf.tile(tf.cast(f['flag'], tf.float64)[:, None, None], [1, 2, 3])}
    )
    with FastPredict(estimator, spec) as fast_predict:
        answers = fast_predict.predict(features)
        assert (answers[0]['word'], answers[0]['id']) == ('é'.encode(), 2**40) and answers[0][
            'cube'
        ].shape == (2, 3)
        assert_same(answers, estimator_answers(estimator, features))
        assert_same(fast_predict.predict({**features, 'word': ['é', b'\0\xff\0']}), answers)


def test_each_answer_belongs_to_its_question(toy, classifier):
    rng, answers = np.random.default_rng(1), []
    examples = examples_of(0, 100_000)
    with FastPredict(toy, SPEC) as fast_predict:
        while len(answers) < len(examples):
            answers += fast_predict.predict(
                examples[len(answers) : len(answers) + rng.integers(1, 65)]
            )
    np.testing.assert_allclose(answers, toy_answers(toy, examples), atol=1e-3)
    features, answers = flowers(2_000), []
    with FastPredict(classifier, FLOWER_SPEC) as fast_predict:
        while len(answers) < 2_000:
            part = slice(len(answers), len(answers) + rng.integers(1, 65))
            answers += fast_predict.predict(
                {name: values[part] for name, values in features.items()}
            )
    np.testing.assert_allclose(
        [answer['logits'] for answer in answers],
        [answer['logits'] for answer in estimator_answers(classifier, features)],
        atol=1e-5,
    )


def test_each_of_8_threads_gets_its_own_answers(toy):
    calls, barrier = 10_000, threading.Barrier(8)

    def ask(seed):
        barrier.wait()
        return [fast_predict.predict([example])[0] for example in examples_of(seed, calls)]

    with FastPredict(toy, SPEC) as fast_predict, futures.ThreadPoolExecutor(8) as pool:
        for seed, answers in enumerate(pool.map(ask, range(8))):
            np.testing.assert_allclose(
                answers, toy_answers(toy, examples_of(seed, calls)), atol=1e-3
            )


def test_answers_share_no_memory_with_questions(estimator_of):
    question = np.full(
        [1000, 2], -1, np.float32
    )  # a service may fill the same array again for each call
    with FastPredict(
        estimator_of(lambda f: {'same': f, 'relu': tf.nn.relu(f)}), SPEC
    ) as fast_predict:
        for _ in range(2):
            answers = fast_predict.predict(question)
    assert (question == -1).all()
    question[:] = 5
    assert all((answer['same'] == -1).all() for answer in answers)


def test_the_posts_version_answers_earlier_questions(toy):
    """Why FastPredict uses no tf.data.Dataset: since that reads ahead, in TensorFlow 2.15 too, answers lag behind."""
    examples, got, is_open = examples_of(0, 500), [], True
    expected = toy_answers(toy, examples)

    def posts_version():
        nonlocal is_open

        def requests():
            while is_open:
                yield question

        answers = toy.predict(
            lambda: tf.data.Dataset.from_generator(requests, tf.float32, (2,)).batch(1)
        )
        for question in examples:  # noqa: B007  `requests` reads it
            got.append(next(answers))
        is_open = False
        answers.close()

    in_thread(posts_version)  # which is of no other use from next to close
    wrong = np.flatnonzero(np.abs(got - expected) > 1e-3)
    assert len(wrong) > 250
    assert all(
        np.isclose(got[i], expected[:i], atol=1e-3).any() for i in wrong
    )  # an earlier question's
    with FastPredict(toy, SPEC) as fast_predict:
        got = [fast_predict.predict([example])[0] for example in examples]
    np.testing.assert_allclose(got, expected, atol=1e-3)


def test_keeps_its_checkpoint(tmp_path):
    estimator = tf.estimator.Estimator(model.model_fn, str(tmp_path), params={})
    question = np.float32([[30, 40]])
    estimator.train(train.train_input_fn, steps=1)
    old = toy_answers(estimator, question)
    with FastPredict(estimator, SPEC) as unused, FastPredict(estimator, SPEC) as used:
        used.predict(question)
        estimator.train(train.train_input_fn, steps=5)
        assert abs(toy_answers(estimator, question) - old) > 1
        np.testing.assert_allclose(
            [unused.predict(question), used.predict(question)], [old, old], rtol=1e-5
        )
        with FastPredict(estimator, SPEC) as newer:
            assert_answers(newer, estimator, question)


# Side by side with other TensorFlow code.


@pytest.mark.parametrize(
    'order',
    [(1, 2, 0), *(pytest.param(order, marks=pytest.mark.slow) for order in ((0, 1, 2), (2, 1, 0)))],
)
def test_several_open_and_closed_in_any_order(toy, classifier, order):
    opened = [FastPredict(toy, SPEC), FastPredict(classifier, FLOWER_SPEC), FastPredict(toy, SPEC)]
    questions = [np.float32([[1, 2]]), FLOWER, np.float32([[3, 4]])]
    expected = [
        estimator_answers(estimator, asked)
        for estimator, asked in zip([toy, classifier, toy], questions)
    ]
    for closing in order:
        for i in (0, 1, 2, 0):
            if order.index(i) < order.index(closing):
                with pytest.raises(RuntimeError, match='closed'):
                    opened[i].predict(questions[i])
            else:
                assert_same(opened[i].predict(questions[i]), expected[i])
        opened[closing].close()
        assert_tensorflow_works()


@pytest.mark.parametrize(
    'mode',
    [contextlib.nullcontext, pytest.param(lambda: tf.Graph().as_default(), marks=pytest.mark.slow)],
    ids=['eager', 'graph'],
)
def test_other_tensorflow_work_in_the_same_thread(toy, tmp_path, mode):
    def receiver_fn():
        feature = tf.placeholder(tf.float32, [None, 2])
        return tf.estimator.export.ServingInputReceiver(feature, {'feature': feature})

    export_dir = toy.export_saved_model(str(tmp_path / 'export'), receiver_fn).decode()
    other = tf.estimator.Estimator(model.model_fn, str(tmp_path / 'other'), params={})
    question = np.float32([[1, 2]])

    def work():
        if tf.executing_eagerly():
            assert_tensorflow_works()
        else:
            with tf.Session() as session:
                assert session.run(tf.constant(1.0) + 1) == 2
        answer = tensorflow.saved_model.load(export_dir).signatures['serving_default'](
            tf.constant(question)
        )['output']
        if tf.executing_eagerly():
            np.testing.assert_allclose(answer, toy_answers(toy, question), rtol=1e-5)
        other.train(train.train_input_fn, steps=1)
        np.testing.assert_allclose(
            estimator_answers(other, question), toy_answers(other, question), rtol=1e-5
        )

    with mode():
        fast_predict = FastPredict(toy, SPEC)
        work()
        for _ in range(2):
            assert_answers(fast_predict, toy, question)
            work()
        fast_predict.close()
        work()
    assert_tensorflow_works()


# Errors.


@pytest.mark.parametrize(
    'features, message',
    [
        ([1, 2], r'float32 \[None, 2\], got the shape \[2\]'),
        ([[1, 2, 3]], r'float32 \[None, 2\], got the shape \[1, 3\]'),
        ([[[1, 2]]], r'float32 \[None, 2\], got the shape \[1, 1, 2\]'),
        (3, r'float32 \[None, 2\], got the shape \[\]'),
        ([['a', 'b']], r"float32 \[None, 2\], got \[\['a', 'b'\]\]"),
        ([[1, 2j]], r'float32 \[None, 2\], got \[\[1, 2j\]\]'),
        ([[1, 10**400]], r'float32 \[None, 2\], got \[\[1, 1000'),
        ([[1, 2], [3]], r'float32 \[None, 2\], got \[\[1, 2\], \[3\]\]'),
        ({'feature': [[1, 2]]}, r"float32 \[None, 2\], got {'feature'"),
        ([], r'\[None, 2\], got the shape \[0\]'),
        (np.zeros([0, 2]), 'at least one example.*got 0'),
        (None, r'float32 \[None, 2\], got None'),
    ],
)
def test_bad_features(toy, features, message):
    with FastPredict(toy, SPEC) as fast_predict:
        for _ in range(2):  # as the first request, and as a later one
            with pytest.raises(ValueError, match=message):
                fast_predict.predict(features)
            assert_answers(fast_predict, toy, [[1, 2]])


@pytest.mark.parametrize(
    'features, message',
    [
        (
            [[1, 2]],
            r"features: expected a dict with the keys \['size', 'colour'\], got \[\[1, 2\]\]",
        ),
        (None, r"features: expected a dict with the keys \['size', 'colour'\], got None"),
        (
            {'size': [[1, 2]]},
            r"features: expected a dict with the keys \['size', 'colour'\], got \['size'\]",
        ),
        (
            {**FLOWER, 'age': [1]},
            r"expected a dict with the keys \['size', 'colour'\], got \['size', 'colour', 'age'\]",
        ),
        (
            {**FLOWER, 'size': [[1]]},
            r"features\['size'\]: expected float32 \[None, 2\], got the shape \[1, 1\]",
        ),
        (
            {**FLOWER, 'size': [['a', 1]]},
            r"features\['size'\]: expected float32 \[None, 2\], got \[\['a', 1\]\]",
        ),
        (
            {**FLOWER, 'colour': 'red'},
            r"features\['colour'\]: expected string \[None\], got the shape \[\]",
        ),
        ({**FLOWER, 'colour': [1]}, r"features\['colour'\]: expected string \[None\], got \[1\]"),
        (
            {**FLOWER, 'colour': [None]},
            r"features\['colour'\]: expected string \[None\], got \[None\]",
        ),
        (
            {**FLOWER, 'colour': ['\ud800']},
            r"features\['colour'\]: expected string \[None\], got",
        ),  # no UTF-8
        ({**FLOWER, 'colour': ['red', 'red']}, r"features\['colour'\]: expected 1 example.*got 2"),
        (
            {'size': np.zeros([0, 2]), 'colour': []},
            r"features\['size'\]: expected at least one example.*got 0",
        ),
    ],
)
def test_bad_features_in_a_dict(flower_predict, features, message):
    fast_predict, expected = flower_predict
    with pytest.raises(ValueError, match=message):
        fast_predict.predict(features)
    assert_same(fast_predict.predict(FLOWER), expected)


@pytest.mark.parametrize(
    'predict',
    [
        lambda f: f[:1],
        lambda f: tf.concat([f, f], 0),
        tf.reduce_sum,
        lambda f: {'whole': f, 'part': f[:1]},
    ],
)
def test_predictions_without_a_row_for_each_example(estimator_of, predict):
    with FastPredict(estimator_of(predict), SPEC) as fast_predict:
        with pytest.raises(ValueError, match='shape .* for 3 examples'):
            fast_predict.predict([[1, 2]] * 3)


def finite(array):
    if not np.isfinite(array).all():
        raise LookupError('not finite')
    return array


@in_modes
@pytest.mark.parametrize(
    'predict',
    [
        lambda f: tf.debugging.check_numerics(f, 'not finite'),
        lambda f: tf.ensure_shape(tf.numpy_function(finite, [f], tf.float32), [None, 2]),
    ],
    ids=['operation', 'numpy_function'],
)
@pytest.mark.parametrize('first', [[[np.nan, 1]], [[1, 2]]], ids=['fails at once', 'fails later'])
def test_error_in_the_graph(estimator_of, mode, predict, first):
    estimator = estimator_of(predict)

    def ask():
        with mode(), FastPredict(estimator, SPEC) as fast_predict:
            for question in (first, [[np.inf, 1]], [[3, 4]]):
                if np.isfinite(question).all():
                    np.testing.assert_array_equal(fast_predict.predict(question), question)
                else:
                    with pytest.raises(tf.errors.OpError, match='not finite'):
                        fast_predict.predict(question)
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

    def ask():
        with pytest.raises(RuntimeError, match='a prediction hook asked to stop'):
            FastPredict(estimator, SPEC)
        assert_tensorflow_works()

    in_thread(ask)


@in_modes
@pytest.mark.parametrize('when', ['begin', 'after_create_session'])
def test_prediction_hook_that_fails_while_opening(estimator_of, mode, when):
    def fail(*_):
        raise LookupError('the hook fails')

    hook = tf.train.SessionRunHook()
    setattr(hook, when, fail)
    estimator = estimator_of(lambda f: f, lambda: [hook])

    def ask():
        with mode(), pytest.raises(LookupError, match='the hook fails'):
            FastPredict(estimator, SPEC)
        assert_tensorflow_works()

    in_thread(ask)


@pytest.mark.parametrize(
    'within',
    [
        lambda function: function,
        tensorflow.function,
        lambda function: lambda f: tf.cond(tf.size(f) > 0, lambda: function(f), lambda: f),
    ],
    ids=['graph', 'tf.function', 'tf.cond'],
)
def test_interrupted_call_leaves_no_answer_for_the_next(estimator_of, within):
    is_asked, goes_on = threading.Event(), threading.Event()

    def wait(array):
        is_asked.set()
        assert array[0, 0] > 0 or goes_on.wait(30)
        return array

    def interrupt():
        is_asked.wait()
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)  # Ctrl-C
        time.sleep(0.5)
        goes_on.set()

    call = within(lambda f: tf.numpy_function(wait, [f], tf.float32))
    estimator = estimator_of(lambda f: tf.ensure_shape(call(f), [None, 2]))
    with FastPredict(estimator, SPEC) as fast_predict:
        threading.Thread(target=interrupt, daemon=True).start()
        with pytest.raises(KeyboardInterrupt):
            fast_predict.predict([[-1, -1]])
        for number in (2, 3):
            np.testing.assert_array_equal(
                fast_predict.predict([[number, number]]), [[number, number]]
            )


def ask_until(over, ask, answer):
    """Asks again and again. It is a function of its own, since what a signal handler raises at the end of a loop may,
    in Python 3.12 and 3.13, pass by a `try` that begins and ends in the same function as the loop."""
    while not over():
        assert ask() == answer


@contextlib.contextmanager
def no_garbage_collection():
    """What a signal handler, for one, raises within a destructor, Python drops, and the test would wait for it."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@contextlib.contextmanager
def on_alarm(handler):
    before = signal.signal(signal.SIGALRM, handler)
    try:
        with no_garbage_collection():
            yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@in_modes
def test_interrupted_anywhere_later_calls_work(toy, mode):
    def interrupt(*_):
        raise KeyboardInterrupt

    with on_alarm(interrupt):
        for i in range(10):  # at 10 places, by chance
            with mode(), FastPredict(toy, SPEC) as fast_predict:
                answer = fast_predict.predict([[1, 2]])
                with pytest.raises(KeyboardInterrupt):
                    signal.setitimer(signal.ITIMER_REAL, 0.01 + i * 0.00021)
                    ask_until(lambda: False, lambda: fast_predict.predict([[1, 2]]), answer)
                assert_answers(fast_predict, toy, [[3, 4]])
            assert_tensorflow_works()


@pytest.mark.parametrize('times', [8, pytest.param(40, marks=pytest.mark.slow)])
@pytest.mark.parametrize('does', ['exit', 'close', 'predict'])
def test_a_signal_handler_while_it_answers(estimator_of, does, times):
    """Several times, at places by chance."""

    def handler(*_):
        if does == 'exit':
            sys.exit(7)
        if does == 'close':
            fast_predict.close()
        else:
            nested.append(fast_predict.predict([[4, 4]])[0].tolist())

    estimator, nested, ends = estimator_of(lambda f: f * 2), [], []
    with on_alarm(handler):
        for i in range(times):
            with FastPredict(estimator, SPEC) as fast_predict:
                try:
                    signal.setitimer(signal.ITIMER_REAL, 0.002 + i * 0.0068 / times)
                    ask_until(
                        lambda: len(nested) > i,
                        lambda: fast_predict.predict([[1, 2]])[0].tolist(),
                        [2, 4],
                    )
                except (SystemExit, RuntimeError, tf.errors.CancelledError) as end:
                    ends.append(end)
    assert nested == ([[8, 8]] * times if does == 'predict' else [])
    if does == 'exit':
        assert [end.code for end in ends] == [7] * times
    if does == 'close':
        assert len(ends) == times and all(
            re.search('[Cc]losed|[Cc]ancelled', str(end)) for end in ends
        ), ends


def test_errors_while_opening(toy, estimator_of):
    fails = True

    def fail(features):
        if fails:
            raise LookupError('the model_fn fails')
        return features

    estimator = estimator_of(fail)
    for spec in (
        tf.TensorSpec([2], tf.float32),
        tf.TensorSpec([], tf.float32),
        tf.TensorSpec(None, tf.float32),
    ):
        with pytest.raises(ValueError, match='features: expected .* None'):
            FastPredict(toy, spec)
    with pytest.raises(ValueError, match=r"features\['other'\]: expected .* None"):
        FastPredict(toy, {'feature': SPEC, 'other': tf.TensorSpec([1], tf.float32)})
    with pytest.raises(LookupError, match='the model_fn fails'):
        FastPredict(estimator, SPEC)
    fails = False
    for path in glob.glob(f'{estimator.latest_checkpoint()}.data-*'):
        os.remove(path)
    with pytest.raises((tf.errors.OpError, ValueError), match='model.ckpt-1'):
        FastPredict(estimator, SPEC)
    assert_tensorflow_works()


# Opening and closing.


def test_it_makes_no_thread_and_keeps_no_session(toy):
    threads = set(threading.enumerate())
    for is_used in (False, True):
        fast_predict = FastPredict(toy, SPEC)
        if is_used:
            fast_predict.predict([[1, 2]])
        assert set(threading.enumerate()) <= threads
        session = weakref.ref(fast_predict._fast_session.session)
        del fast_predict
        gc.collect()
        assert session() is None  # without `close` too
    with pytest.raises(ValueError):
        FastPredict(toy, None)
    assert set(threading.enumerate()) <= threads


def test_close(toy):
    FastPredict(toy, SPEC).close()  # never used
    with pytest.raises(LookupError), FastPredict(toy, SPEC) as fast_predict:
        assert_answers(fast_predict, toy, [[1, 2]])
        raise LookupError
    fast_predict.close()
    with pytest.raises(RuntimeError, match='this FastPredict is closed'):
        fast_predict.predict([[1, 2]])


OPEN = """
import atexit, os, signal, sys, threading, time
atexit.register(time.sleep, .5)  # runs last: time for what is still there to complain
import model
from estimator_inference import FastPredict, tf
estimator = tf.estimator.Estimator(model.model_fn, {!r}, params={{}})
unused, used = [FastPredict(estimator, tf.TensorSpec([None, 2], tf.float32)) for _ in range(2)]
used.predict([[1, 2]])

def predict_for_ever():
    while True:
        used.predict([[1, 2]])
"""
BUSY = 'threading.Thread(target=predict_for_ever, daemon=True).start(); time.sleep(.5)\n'
FORK = """
child = os.fork()
if not child:
    sys.exit(0)
for _ in range(200):
    ended, status = os.waitpid(child, os.WNOHANG)
    if ended:
        print(status)
        break
    time.sleep(.1)
else:
    os.kill(child, signal.SIGKILL)
    print('hangs')
"""


@pytest.mark.slow
@pytest.mark.parametrize('state', ['', BUSY], ids=['idle', 'busy'])
def test_left_open_when_the_process_and_a_forked_child_exit(toy, state):
    assert python(OPEN.format(toy.model_dir) + state + FORK) == '0\n'
