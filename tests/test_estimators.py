"""Features of any structure and Estimators of any kind: FastPredict and from_estimator answer as Estimator.predict."""

import collections
import logging

import numpy as np
import pytest
from estimator_inference import FastPredict, predictor, tf

SPEC = tf.TensorSpec([None, 2], tf.float32)


@pytest.fixture
def estimator_of(tmp_path):
    """Makes an Estimator, never trained, whose model_fn predicts `predict(features)`."""
    return lambda predict: tf.estimator.Estimator(
        lambda features, labels, mode: tf.estimator.EstimatorSpec(
            mode, predictions=predict(features)
        ),
        str(tmp_path / 'estimator'),
    )


def estimator_answers(estimator, features):
    return list(estimator.predict(lambda: tf.data.Dataset.from_tensors(features)))


def assert_same_rows(ours, theirs):
    assert type(ours) is list and len(ours) == len(theirs)
    for our, their in zip(ours, theirs):
        assert type(our) is type(their)
        for one, other in (
            zip(our.values(), their.values()) if isinstance(our, dict) else [(our, their)]
        ):
            assert type(one) is type(other) and np.asarray(one).dtype == np.asarray(other).dtype
            np.testing.assert_array_equal(one, other)
        assert not isinstance(our, dict) or list(our) == list(their)


def receiver_fn(shape=(None, 2), key=None):
    """A serving_input_receiver_fn with the input x, which is the features, or the feature `key`."""

    def serving_input_receiver_fn():
        x = tf.placeholder(tf.float32, shape)
        if key:
            return tf.estimator.export.ServingInputReceiver({key: x}, {'x': x})
        return tf.estimator.export.TensorServingInputReceiver(x, {'x': x})

    return serving_input_receiver_fn


def assert_both_predict_as(estimator, features, key=None, output_key=None):
    """Asserts that FastPredict and from_estimator answer what Estimator.predict does, and returns that."""
    shape, given = [None, *np.shape(features)[1:]], {key: features} if key else features
    expected, spec = estimator_answers(estimator, given), tf.TensorSpec(shape, tf.float32)
    with FastPredict(estimator, {key: spec} if key else spec) as fast_predict:
        assert_same_rows(fast_predict.predict(given), expected)
    with predictor.from_estimator(estimator, receiver_fn(shape, key), output_key) as predict_fn:
        for name, values in predict_fn({'x': features}).items():
            theirs = [
                row.get(name, row.get(output_key)) if isinstance(row, dict) else row
                for row in expected
            ]
            np.testing.assert_array_equal(values, theirs)
    return expected


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
    'dtype, value',
    [
        (tf.float16, 1.5),
        (tf.bfloat16, 1.5),
        (tf.float64, 0.1),
        (tf.int8, -3),
        (tf.uint8, 255),
        (tf.int16, -300),
        (tf.uint16, 65535),
        (tf.int64, 2**40),
        (tf.uint64, 2**63),
        (tf.complex64, 1 + 2j),
        (tf.bool, True),
    ],
)
def test_features_of_each_dtype(estimator_of, dtype, value):
    with FastPredict(
        estimator_of(tf.identity), tf.TensorSpec([None, None, 2, None], dtype)
    ) as fast_predict:
        for shape in ((1, 1, 2, 1), (3, 2, 2, 5), (2, 0, 2, 0)):
            features = np.full(shape, value, dtype.as_numpy_dtype)
            assert_same_rows(fast_predict.predict(features), list(features))
        assert_same_rows(
            fast_predict.predict([[[[value]] * 2]]),
            [np.full((1, 2, 1), value, dtype.as_numpy_dtype)],
        )
        with pytest.raises(
            ValueError, match=rf'{dtype.name} \[None, None, 2, None\], got the shape \[1, 1, 3, 1\]'
        ):
            fast_predict.predict(np.zeros((1, 1, 3, 1), dtype.as_numpy_dtype))


@pytest.mark.parametrize(
    'spec',
    [
        {},
        [],
        (),
        None,
        {'x': None},
        tf.float32,
        {'x': tf.FixedLenFeature([], tf.float32)},
        [None, 2],
        np.zeros([1, 2]),
        {'x': tf.SparseTensorSpec([None, 2])},
        tf.RaggedTensorSpec([None, None]),
        ({'x': SPEC}, [tf.VarLenFeature(tf.int64)]),
        'x',
    ],
    ids=repr,
)
def test_a_feature_spec_that_is_none(estimator_of, spec):
    with pytest.raises(ValueError, match='expected a TensorSpec') as error:
        FastPredict(estimator_of(tf.identity), spec)
    assert len(str(error.value)) < 400


def test_a_symbolic_tensor_is_refused(estimator_of):
    with FastPredict(estimator_of(tf.identity), SPEC) as fast_predict, tf.Graph().as_default():
        with pytest.raises(
            ValueError, match=r'features: expected float32 \[None, 2\], got <tf.Tensor'
        ):
            fast_predict.predict(tf.placeholder(tf.float32, [1, 2]))
        assert fast_predict.predict([[1, 2]])[0].tolist() == [1, 2]


def test_a_large_batch(estimator_of):
    with FastPredict(
        estimator_of(lambda f: {'sum': tf.reduce_sum(f, 1), 'twice': f * 2}), SPEC
    ) as fast_predict:
        examples = np.arange(2048, dtype=np.float32).reshape(1024, 2)
        answers = fast_predict.predict(examples)
        assert list(answers[0]) == ['sum', 'twice'] and type(answers[0]['sum']) is np.float32
        for name, expected in ('sum', examples.sum(1)), ('twice', examples * 2):
            np.testing.assert_array_equal([answer[name] for answer in answers], expected)
        answers[0]['twice'][:] = 7  # an answer is the caller's own
        assert fast_predict.predict(examples)[0]['twice'].tolist() == [0, 2]


# Estimators.


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


def test_the_seed_of_the_run_config_counts(tmp_path):
    def firsts(seed):
        estimator = tf.estimator.Estimator(
            lambda features, labels, mode: tf.estimator.EstimatorSpec(
                mode, predictions=features + tf.random.uniform([])
            ),
            config=tf.estimator.RunConfig(str(tmp_path), tf_random_seed=seed),
        )
        with (
            FastPredict(estimator, SPEC) as fast_predict,
            predictor.from_estimator(estimator, receiver_fn()) as predict_fn,
        ):
            return [
                float(fast_predict.predict([[0, 0]])[0][0]),
                float(predict_fn({'x': [[0, 0]]})['output'][0][0]),
            ]

    first = firsts(5)
    assert first == firsts(5) and not set(first) & set(firsts(6))


def test_its_config(estimator_of):
    estimator = estimator_of(lambda f: f * tf.get_variable('w', initializer=3.0))
    for config in None, tf.ConfigProto(), tf.ConfigProto(inter_op_parallelism_threads=2):
        with (
            FastPredict(estimator, SPEC, config) as fast_predict,
            predictor.from_estimator(estimator, receiver_fn(), config=config) as predict_fn,
        ):
            assert fast_predict.predict([[1, 2]])[0].tolist() == [3, 6]
            assert predict_fn({'x': [[1, 2]]})['output'].tolist() == [[3, 6]]


def test_what_predict_says_of_the_input_is_not_said(estimator_of, logged):
    """No tf.data.Dataset is missed where none is used."""
    with FastPredict(estimator_of(tf.identity), SPEC) as fast_predict:
        fast_predict.predict([[1, 2]])
    assert logged and not [message for message in logged if 'tf.data' in message]
