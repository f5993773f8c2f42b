"""fast_predict.py: Estimator.predict's answers, each to its own question."""

import collections
import contextlib
import gc
import logging
import os
import random
import re
import signal
import sys
import threading
import time
import weakref
from concurrent import futures

import model
import numpy as np
import pytest
import tensorflow as tf2
import train
from estimator_inference import FastPredict, predictor, tf

SPEC = tf.TensorSpec([None, 2], tf.float32)
COLOURS = {'size': SPEC, 'colour': tf.TensorSpec([None], tf.string)}
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


@pytest.fixture
def estimator_of(tmp_path):
    """Makes an Estimator, never trained, whose model_fn predicts `predict(features)`."""

    def make(predict, hooks=list):
        def model_fn(features, labels, mode):
            predictions = predict(features)
            return tf.estimator.EstimatorSpec(
                mode, predictions=predictions, prediction_hooks=hooks()
            )

        return tf.estimator.Estimator(model_fn, str(tmp_path / 'estimator'))

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


def assert_tensorflow_works():
    """Does what fails in a thread that an open Estimator.predict has left its graph in."""
    assert tf2.executing_eagerly()
    with tf.Graph().as_default() as graph:
        assert tf.zeros([1]).graph is graph
    variables = []

    @tf2.function
    def count():
        if not variables:
            variables.append(tf2.Variable(1.0))
        return variables[0].assign_add(1)

    assert float(count()) == 2


def in_thread(function):
    """Returns what `function` returns in a thread of its own; fails where it hangs."""
    result = futures.Future()

    def run():
        try:
            result.set_result(function())
        except BaseException as error:
            result.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return result.result(timeout=60)


def receiver_fn(shape=(None, 2), key=None):
    """A serving_input_receiver_fn with the input x, which is the features, or the feature `key`."""

    def serving_input_receiver_fn():
        x = tf.placeholder(tf.float32, shape)
        if key:
            return tf.estimator.export.ServingInputReceiver({key: x}, {'x': x})
        return tf.estimator.export.TensorServingInputReceiver(x, {'x': x})

    return serving_input_receiver_fn


def assert_both_predict_as(estimator, features, key=None, output_key=None):
    """Asserts that FastPredict and from_estimator answer what Estimator.predict does."""
    shape, given = [None, *np.shape(features)[1:]], {key: features} if key else features
    expected, spec = estimator_answers(estimator, given), tf.TensorSpec(shape, tf.float32)
    with FastPredict(estimator, {key: spec} if key else spec) as fast_predict:
        assert_same(fast_predict.predict(given), expected)
    with predictor.from_estimator(estimator, receiver_fn(shape, key), output_key) as predict_fn:
        for name, values in predict_fn({'x': features}).items():
            rows = [row.get(name, row.get(output_key)) if key else row for row in expected]
            np.testing.assert_array_equal(values, rows)
    return expected


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
    with FastPredict(classifier, COLOURS) as fast_predict:
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


@pytest.mark.parametrize(
    'predict, question',
    [
        (lambda f: tf.argmax(tf.nn.relu(f), 1), [[-3, -1]]),
        (lambda f: -tf.log(tf.nn.softmax(f)), [[0, 200]]),
        (lambda f: tf.logical_not(f > 0), [[np.nan, 1]]),
    ],
    ids=['relu', 'softmax', 'nan'],
)
def test_saturated_and_nan_predictions(estimator_of, predict, question):
    assert_both_predict_as(estimator_of(predict), np.float32(question))


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
        {'yield_single_examples': False},
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
            lambda f: f[:1],
            r'the prediction has the shape \[1, 2\] for 3 examples: use predict_keys',
        ),
        (tf.reduce_sum, r'the prediction has the shape \[\] for 3 examples'),
        (lambda f: {'whole': f, 'part': f[:1]}, r"the prediction 'part' has the shape \[1, 2\]"),
    ],
)
def test_predictions_without_a_row_for_each_example(estimator_of, predict, message):
    with FastPredict(estimator_of(predict), SPEC) as fast_predict:
        with pytest.raises(ValueError, match=message):
            fast_predict.predict([[1, 2]] * 3)


def test_each_of_8_threads_gets_its_own_answers(toy):
    calls, barrier = 1_000, threading.Barrier(8)

    def ask(seed):
        barrier.wait()
        return [fast_predict.predict([example])[0] for example in examples_of(seed, calls)]

    with FastPredict(toy, SPEC) as fast_predict, futures.ThreadPoolExecutor(8) as pool:
        for seed, answers in enumerate(pool.map(ask, range(8))):
            expected = toy_answers(toy, examples_of(seed, calls))
            np.testing.assert_allclose(answers, expected, atol=1e-3)


def test_the_posts_version_answers_earlier_questions(toy):
    """Why FastPredict uses no tf.data.Dataset: that reads ahead, and answers lag behind."""
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
            answer = newer.predict(question)
            np.testing.assert_allclose(answer, toy_answers(estimator, question), rtol=1e-5)


# Features.

Words = collections.namedtuple('Words', 'words counts')
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
            Words(WORDS, COUNTS),
            Words([['a', 'b'], ['c', '']], [2, 1]),
            lambda f: {'word': f.words[:, 0], 'count': f.counts},
        ),
        (
            ({'a': WORDS}, [COUNTS]),
            ({'a': [['a'], ['c']]}, [[2, 1]]),
            lambda f: {'word': f[0]['a'][:, 0], 'count': f[1][0]},
        ),
        (
            {'in': {'a': WORDS, 'b': (COUNTS,)}},
            {'in': {'b': ([2, 1],), 'a': [['a'], ['c']]}},
            lambda f: {'word': f['in']['a'][:, 0], 'count': f['in']['b'][0]},
        ),
    ],
    ids=['tuple', 'namedtuple', 'dict in a tuple', 'tuple in a dict'],
)
def test_nested_features(estimator_of, spec, features, predict):
    with FastPredict(estimator_of(predict), spec) as fast_predict:
        for _ in range(2):
            assert [list(answer.values()) for answer in fast_predict.predict(features)] == [
                [b'a', 2],
                [b'c', 1],
            ]
            for wrong in ([1, 2, 3], {'in': {'a': [['a'], ['c']], 'b': ()}}, None, {'in': None}):
                with pytest.raises(ValueError, match=r'^features.*: expected a (dict|tuple)'):
                    fast_predict.predict(wrong)
    with (
        FastPredict(estimator_of(predict), spec) as fast_predict,
        pytest.raises(ValueError, match='2 example.*got 1'),
    ):
        fast_predict.predict(
            ([['a'], ['b']], [1])
            if isinstance(spec, tuple) and spec[1] is COUNTS
            else ({'a': [['a'], ['c']]}, [[2]])
            if isinstance(spec, tuple)
            else {'in': {'b': ([2],), 'a': [['a'], ['c']]}}
        )


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
            assert len(fast_predict.predict([[1, 2]])) == 1


@pytest.mark.parametrize(
    'spec', [{}, None, {'x': None}, tf.float32, np.zeros([1, 2]), 'x'], ids=repr
)
def test_a_feature_spec_that_is_none(estimator_of, spec):
    with pytest.raises(ValueError, match='expected a TensorSpec'):
        FastPredict(estimator_of(tf.identity), spec)
    with pytest.raises(ValueError, match='whose first dimension is None'):
        FastPredict(estimator_of(tf.identity), tf.TensorSpec([2], tf.float32))


@pytest.mark.parametrize(
    'change, message',
    [
        (
            {'age': [1]},
            r"a dict with the keys \['size', 'colour'\], got \['size', 'colour', 'age'\]",
        ),
        (
            {'size': [[1]]},
            r"features\['size'\]: expected float32 \[None, 2\], got the shape \[1, 1\]",
        ),
        ({'colour': [None]}, r"features\['colour'\]: expected string \[None\], got \[None\]"),
        ({'colour': ['red'] * 2}, r"features\['colour'\]: expected 1 example.*got 2"),
    ],
)
def test_bad_features_in_a_dict(classifier, change, message):
    with FastPredict(classifier, COLOURS) as fast_predict:
        with pytest.raises(ValueError, match=message):
            fast_predict.predict({**FLOWER, **change})
        assert_same(fast_predict.predict(FLOWER), estimator_answers(classifier, FLOWER))


# Estimators of any kind.


@pytest.fixture
def logged():
    """What TensorFlow logs during a test."""
    logger, messages = tf.get_logger(), []
    handler, level = logging.Handler(), logger.level
    handler.emit = lambda record: messages.append(record.getMessage())
    logger.addHandler(handler)
    logger.setLevel('INFO')
    yield messages
    logger.setLevel(level)
    logger.removeHandler(handler)


def test_without_a_checkpoint(estimator_of, logged):
    """Its initial weights predict, and that is said in Estimator.predict's words."""
    estimator = estimator_of(
        lambda f: tf.matmul(f, tf.get_variable('w', initializer=[[2.0], [3.0]]))
    )
    [answer] = assert_both_predict_as(estimator, np.float32([[1, 10]]))
    assert answer.tolist() == [32]
    said = [message for message in logged if 'Could not find trained model' in message]
    assert len(said) == 3 and len(set(said)) == 1 and estimator.model_dir in said[0]


def test_that_starts_from_another(tmp_path):
    def model_fn(features, labels, mode, params):
        w = tf.get_variable('w', initializer=params)
        if mode == tf.estimator.ModeKeys.TRAIN:
            return tf.estimator.EstimatorSpec(
                mode, loss=w, train_op=tf.assign_add(tf.train.get_global_step(), 1)
            )
        return tf.estimator.EstimatorSpec(mode, predictions=features * w)

    first = tf.estimator.Estimator(model_fn, str(tmp_path / 'first'), params=3.0)
    first.train(lambda: tf.data.Dataset.from_tensors(0), steps=1)
    second = tf.estimator.Estimator(
        model_fn, str(tmp_path / 'second'), params=5.0, warm_start_from=first.model_dir
    )
    [answer] = assert_both_predict_as(second, np.float32([[1, 10]]))
    assert answer.tolist() == [3, 30]


def test_of_a_keras_model(tmp_path):
    """With its weights from Keras before any training, and then with those of a checkpoint."""
    keras = tf.keras
    with tf.Graph().as_default(), tf.Session():
        keras_model = keras.Sequential([keras.layers.Dense(1, input_shape=(2,), name='dense')])
        keras_model.compile('sgd', 'mse')
        keras_model.set_weights([np.float32([[2], [3]]), np.float32([4])])
        estimator = keras.estimator.model_to_estimator(
            keras_model, model_dir=str(tmp_path / 'keras')
        )
    question = np.float32([[1, 10], [0, 0]])
    untrained = assert_both_predict_as(estimator, question, 'dense_input')
    assert [row['dense'].tolist() for row in untrained] == [[36], [4]]
    estimator.train(
        lambda: tf.data.Dataset.from_tensors(({'dense_input': question}, [[1.0], [2.0]])), steps=1
    )
    assert (
        assert_both_predict_as(estimator, question, 'dense_input')[0]['dense']
        != untrained[0]['dense']
    )


def test_of_kmeans(tmp_path):
    points = np.float32([[0, 0], [0, 1], [9, 9], [9, 8]])
    estimator = tf.estimator.experimental.KMeans(2, str(tmp_path / 'kmeans'), use_mini_batch=False)
    estimator.train(lambda: tf.data.Dataset.from_tensors({'x': points}).repeat(2))
    rows = assert_both_predict_as(estimator, points, 'x', 'cluster_index')
    clusters = [row['cluster_index'] for row in rows]
    assert clusters[0] == clusters[1] != clusters[2] == clusters[3]


def test_the_graph_is_that_of_estimator_predict(tmp_path):
    """It has the global step before the model_fn, and the RunConfig's seed and session_config."""
    graphs = []

    def model_fn(features, labels, mode, config):
        step = tf.train.get_global_step()
        graphs.append((tf.get_default_graph().seed, step.name, config.tf_random_seed))
        return tf.estimator.EstimatorSpec(
            mode, predictions=features * tf.cast(step + 3, tf.float32)
        )

    config = tf.estimator.RunConfig(
        str(tmp_path), 17, session_config=tf.ConfigProto(device_count={'CPU': 3})
    )
    estimator = tf.estimator.Estimator(model_fn, config=config)
    [answer] = assert_both_predict_as(estimator, np.float32([[1, 10]]))
    assert answer.tolist() == [3, 30] and graphs == [(17, 'global_step:0', 17)] * 3
    for given, devices in (None, 3), (tf.ConfigProto(device_count={'CPU': 2}), 2):
        with (
            predictor.from_estimator(estimator, receiver_fn(), config=given) as predict_fn,
            FastPredict(estimator, SPEC, given) as fast_predict,
        ):
            for session in predict_fn.session, fast_predict._fast_session.session:
                assert len(session.list_devices()) == devices
            assert predict_fn({'x': [[1, 2]]})['output'].tolist() == [[3, 6]]
            assert fast_predict.predict([[1, 2]])[0].tolist() == [3, 6]


# Side by side with other TensorFlow code, errors, hooks, interruptions.


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
        answer = tf2.saved_model.load(export_dir).signatures['serving_default'](
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
            answer = fast_predict.predict(question)
            np.testing.assert_allclose(answer, toy_answers(toy, question), rtol=1e-5)
            work()
        fast_predict.close()
        work()
    assert_tensorflow_works()


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


@pytest.mark.parametrize(
    'within',
    [
        lambda function: function,
        tf2.function,
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


@pytest.mark.parametrize('does', ['interrupt', 'exit', 'close', 'predict'])
def test_a_signal_handler_while_it_answers(estimator_of, does):
    """Several times, at places by chance; a call after that answers right."""

    def handler(*_):
        called.append(does)
        if does == 'interrupt':
            raise KeyboardInterrupt
        if does == 'exit':
            sys.exit(7)
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
        for i in range(8):
            called = []
            with FastPredict(estimator, SPEC) as fast_predict:
                try:
                    signal.setitimer(signal.ITIMER_REAL, 0.002 + i * 0.0008)
                    ask_until_called()
                    assert does in ('close', 'predict')
                except (KeyboardInterrupt, SystemExit) as error:
                    assert does in ('interrupt', 'exit') and getattr(error, 'code', 7) == 7
                except (RuntimeError, tf.errors.CancelledError) as error:
                    assert does == 'close' and re.search('[Cc]losed|[Cc]ancelled', str(error))
                if does != 'close':
                    assert fast_predict.predict([[1, 2]])[0].tolist() == [2, 4]
            assert_tensorflow_works()
    finally:
        gc.enable()
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_a_missing_file_of_the_checkpoint(tmp_path):
    estimator = tf.estimator.Estimator(model.model_fn, str(tmp_path), params={})
    estimator.train(train.train_input_fn, steps=1)
    [path] = tmp_path.glob('model.ckpt-1.data-*')
    path.unlink()
    with pytest.raises((tf.errors.OpError, ValueError), match='model.ckpt-1'):
        FastPredict(estimator, SPEC)
    assert_tensorflow_works()


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
    FastPredict(toy, SPEC).close()  # never used
    with pytest.raises(LookupError), FastPredict(toy, SPEC) as fast_predict:
        raise LookupError
    fast_predict.close()
    with pytest.raises(RuntimeError, match='this FastPredict is closed'):
        fast_predict.predict([[1, 2]])


# Processes: each with 4 threads that ask all the time, FastPredict in turn with the predictor.

PROGRAM = """
import gc, multiprocessing, os, signal, sys, threading, time, warnings
warnings.simplefilter('ignore', DeprecationWarning)  # that fork and threads don't go together
import numpy as np
from estimator_inference import FastPredict, predictor, tf

W = np.float32([[3, -1], [2, 5]])

def model_fn(features, labels, mode):
    x = features['feature'] if isinstance(features, dict) else features
    y = tf.matmul(x, tf.get_variable('w', initializer=W))
    outputs = {'serving_default': tf.estimator.export.PredictOutput({'y': y})}
    return tf.estimator.EstimatorSpec(mode, predictions=y, export_outputs=outputs)

def receiver_fn():
    x = tf.placeholder(tf.float32, [None, 2])
    return tf.estimator.export.ServingInputReceiver(x, {'x': x})

estimator = tf.estimator.Estimator(model_fn)
openers = [lambda: FastPredict(estimator, tf.TensorSpec([None, 2], tf.float32)),
           lambda: predictor.from_estimator(estimator, receiver_fn)]

def ask(opened, x):
    return opened({'x': x})['y'] if callable(opened) else np.array(opened.predict(x))

def work(i):
    rng = np.random.default_rng(i)
    while not stop.is_set():
        x = rng.integers(-2**20, 2**20, (rng.integers(1, 51), 2)).astype(np.float32)
        try:
            wrong[i] += not np.array_equal(ask(opened[i % 2], x), x @ W)
        except Exception as error:
            errors[i] = error
            return
        calls[i] += 1

def refused():
    for do in (lambda: ask(opened[0], [[1, 2]]), lambda: ask(opened[1], [[1, 2]]), *openers):
        try:
            do()
        except RuntimeError as error:
            assert 'fork first' in str(error), error
        else:
            return False
    return True

def in_child(function):
    pid = os.fork()
    if not pid:
        function()
        sys.exit(0)  # and so to the end of Python, which deletes what is left
    for _ in range(3000):
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return status
        time.sleep(.02)
    os.kill(pid, signal.SIGKILL)
    return 'hangs'

opened = [opener() for opener in openers]
stop, calls, wrong, errors = threading.Event(), [0] * 4, [0] * 4, [None] * 4
threads = [threading.Thread(target=work, args=(i,), daemon=True) for i in range(4)]
for thread in threads:
    thread.start()
while min(calls) < 20 and errors == [None] * 4:
    time.sleep(.1)
"""
END = """
stop.set()
for thread in threads:
    thread.join()
print(wrong, errors, min(calls) >= 20)
"""
RIGHT = '[0, 0, 0, 0] [None, None, None, None] True'
CLEAN = re.compile('Traceback|terminate called|Fatal|core dumped|Segmentation|Exception ignored')
has_fork = pytest.mark.skipif(not hasattr(os, 'fork'), reason='this system does not fork')


@has_fork
def test_a_process_that_forks_meanwhile(python):
    """A child that ends, deletes or closes what is open does not hang; calls are refused."""
    process = python(
        '-c',
        PROGRAM
        + """
def delete():
    global opened
    opened = None
    gc.collect()

def close():
    for one in opened:
        one.close()
        one.close()

print([in_child(child) for child in (lambda: None, delete, close, lambda: os._exit(0),
                                     lambda: os._exit(not refused()))])
with multiprocessing.get_context('fork').Pool(2) as pool:
    print(pool.apply_async(refused).get(60))
"""
        + END,
    )
    assert process.wait() == 0, process.printed()
    assert process.printed().splitlines()[-3:] == ['[0, 0, 0, 0, 0]', 'True', RIGHT]
    assert not CLEAN.search(process.printed()), process.printed()


@has_fork
def test_a_fork_after_tensorflow_was_used_by_other_means(python):
    """What is opened in the child then is an error instead of hanging; forked before, it works."""
    process = python(
        '-c',
        PROGRAM.split('opened = [')[0]
        + """
def opens():
    os._exit(sum(int(ask(opener(), [[1, 2]])[0, 1]) for opener in openers))

def opens_not():
    opened[:] = [None, lambda x: openers[1]()]
    os._exit(10 * all(refused_by(opener) for opener in openers))

def refused_by(opener):
    try:
        opener()
    except RuntimeError as error:
        return 'fork first' in str(error)

opened = []
print(in_child(opens) // 256)
tf.Session(graph=tf.Graph()).list_devices()
print(in_child(opens_not) // 256)
""",
    )
    assert process.wait() == 0, process.printed()
    assert process.printed().splitlines()[-2:] == ['18', '10'], process.printed()


@pytest.mark.parametrize(
    'code, expected',
    [
        ('pass', 0),
        ('raise SystemExit(3)', 3),
        pytest.param('os._exit(4)', 4, marks=pytest.mark.slow),
    ],
    ids=['return', 'SystemExit', '_exit'],
)
def test_a_process_that_ends_meanwhile(python, code, expected):
    process = python('-c', PROGRAM + code)
    assert process.wait() == expected and not CLEAN.search(process.printed()), process.printed()


@pytest.mark.skipif(not os.path.exists('/proc/self/statm'), reason='reads memory as Linux tells it')
@pytest.mark.parametrize('seconds', [4, pytest.param(20, marks=pytest.mark.slow)])
def test_memory_stays_level(python, seconds):
    process = python(
        '-c',
        PROGRAM
        + f"""
def megabytes():
    with open('/proc/self/statm') as file:
        return int(file.read().split()[1]) * os.sysconf('SC_PAGE_SIZE') / 1e6

time.sleep({seconds} / 2)
before = megabytes()
time.sleep({seconds} / 2)
after = megabytes()
"""
        + END
        + 'print(after - before)',
    )
    assert process.wait() == 0, process.printed()
    *_, right, grown = process.printed().splitlines()
    assert right == RIGHT and float(grown) < 2, process.printed()
