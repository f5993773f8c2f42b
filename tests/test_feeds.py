"""feeds.py: hostile values get Session.run's answer, or one clear error."""

import collections
import contextlib
import datetime
import re
import types

import numpy as np
import pytest
from conftest import assert_same, double, session_run
from estimator_inference import FastPredict, predictor, tf
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as stn

SETTINGS = settings(deadline=None, derandomize=True, database=None)
each_size = pytest.mark.parametrize(
    'examples',
    [
        settings(SETTINGS, max_examples=60),
        pytest.param(settings(SETTINGS, max_examples=1000), marks=pytest.mark.slow),
    ],
    ids=['60', '1000'],
)
pytestmark = [
    pytest.mark.filterwarnings(f'ignore:{warning}')
    for warning in (
        'overflow encountered',
        'invalid value encountered',
        'Casting complex',
        'NumPy will stop allowing conversion',
    )
]
KERNEL, BIAS = np.float32([[1.25], [-3.7]]), np.float32([0.3])


def open_fast_predict(predict, spec, **arguments):
    """A FastPredict of an Estimator without variables that predicts `predict(features)`."""

    def model_fn(features, labels, mode):
        return tf.estimator.EstimatorSpec(mode, predictions=predict(features))

    return FastPredict(tf.estimator.Estimator(model_fn), spec, **arguments)


@pytest.fixture(scope='module')
def linear():
    """The FastPredict of features @ KERNEL + BIAS."""
    spec = tf.TensorSpec([None, 2], tf.float32)
    with open_fast_predict(lambda x: tf.matmul(x, KERNEL) + BIAS, spec) as linear:
        yield linear


@pytest.fixture(scope='module')
def strings():
    """The FastPredict of the string `word` as it is."""
    spec = {'word': tf.TensorSpec([None], tf.string)}
    with open_fast_predict(lambda features: features['word'], spec) as strings:
        yield strings


def assert_product(got, features):
    """Asserts that predictions are features @ KERNEL + BIAS, as well as float32 can tell."""
    assert type(got) is list and len(got) == len(features)
    assert {(row.dtype.name, row.shape) for row in got} == {('float32', (1,))}
    got, features = np.array(got, np.float64), np.asarray(features, np.float64).astype(np.float32)
    with np.errstate(all='ignore'):
        plain = (features @ KERNEL + BIAS).astype(np.float64)
        exact = features.astype(np.float64) @ KERNEL.astype(np.float64) + BIAS
        finite = np.where(np.isfinite(features), np.abs(features), 0).astype(np.float64)
        terms = finite @ np.abs(KERNEL) + BIAS
        close = np.abs(got - exact) <= 4 * np.finfo(np.float32).eps * terms
    # Where a sum of terms overflows on the way, what comes of it depends on the order.
    overflows = (terms > np.finfo(np.float32).max) & ~np.isfinite(got)
    right = close | (got == plain) | (np.isnan(got) & np.isnan(plain)) | overflows
    assert right.all(), (features[~right[:, 0]], got[~right], plain[~right])


# FastPredict, beside the plain product.

SPECIAL = [np.nan, np.inf, -np.inf, 1e38, 3.4e38, -3e38, 1e39, 1e-40, -1e-45, 5e-324, -0.0]
# Whole numbers that a float64 holds: of a list with floats, Session.run makes floats of all.
numbers = st.one_of(
    st.floats(width=32),
    st.floats(),
    st.integers(-(2**53), 2**53),
    st.booleans(),
    st.sampled_from(SPECIAL),
)
dtypes = st.sampled_from(['f2', 'f4', 'f8', '>f4', '>f8', 'i1', 'u1', 'i4', '>i8', 'u8', '?'])


def misaligned(x):
    return np.frombuffer(b'-' + x.tobytes(), np.uint8)[1:].view(x.dtype).reshape(x.shape)


layouts = st.sampled_from(
    [
        lambda x: x,
        np.asfortranarray,
        lambda x: x[::-1],
        lambda x: x[::2],
        lambda x: np.broadcast_to(x[:1], x.shape),
        misaligned,
    ]
)


@st.composite
def features(draw):
    if draw(st.booleans()):
        rows = draw(st.lists(st.tuples(numbers, numbers), min_size=1, max_size=20))
        row = draw(st.sampled_from([list, tuple, np.array]))
        return draw(st.sampled_from([list, tuple]))(map(row, rows))
    dtype = np.dtype(draw(dtypes))
    array = draw(stn.arrays(dtype, (draw(st.integers(1, 300)), 2), elements=stn.from_dtype(dtype)))
    return draw(layouts)(array)


@each_size
def test_fast_predict_is_the_matrix_product(linear, examples):
    @examples
    @given(features())
    def check(value):
        assert_product(linear.predict(value), value)

    check()


@each_size
def test_fast_predict_of_strings(strings, examples):
    word = st.one_of(st.text(st.characters(codec='utf-8'), max_size=20), st.binary(max_size=20))

    @examples
    @given(st.lists(word, min_size=1, max_size=20))
    def check(words):
        assert strings.predict({'word': words}) == [tf.compat.as_bytes(word) for word in words]

    check()


# Any value, beside Session.run.

INPUTS = {
    'float32': 1.5,
    'float64': [[0.1]],
    'int32': [2, 3],
    'int64': 2**40,
    'bool': [True],
    'string': ['é', b'\xff'],
}


@pytest.fixture(scope='module')
def both(tmp_path_factory):
    """The predictor, and Session.run with the same signature, for an input of each dtype."""
    doubles = {'bool': tf.logical_not, 'string': lambda x: tf.strings.join([x, x])}
    export_dir = str(tmp_path_factory.mktemp('export') / '1')
    with contextlib.closing(tf.Session(graph=tf.Graph())) as session:
        with session.graph.as_default():
            inputs = {key: tf.placeholder(key, None) for key in INPUTS}
            outputs = {f'{key} echo': tf.identity(tensor) for key, tensor in inputs.items()}
            for key, tensor in inputs.items():
                outputs[f'{key} double'] = doubles.get(key, lambda x: x + x)(tensor)
            tf.saved_model.simple_save(session, export_dir, inputs, outputs)

        def run(given):
            return session.run(outputs, {inputs[key]: given[key] for key in given})

        with predictor.from_saved_model(export_dir) as predict_fn:
            yield predict_fn, run


def answer(function, *args):
    """Returns the outputs, each as its type, dtype, shape and bits, or the error.

    In sums, TensorFlow's own threads take subnormal numbers for 0: here both do.
    """
    try:
        outputs = function(*args)
    except (TypeError, ValueError, OverflowError, tf.errors.InternalError) as error:
        return error
    described = {}
    for key, value in outputs.items():
        array = np.asarray(value)
        if key in ('float32 double', 'float64 double'):
            tiny = np.abs(array) < 2 * np.finfo(array.dtype).tiny
            array = np.where(tiny, np.copysign(0, array), array)
        bits = array.tolist() if array.dtype.kind in 'OS' else array.tobytes()
        described[key] = type(value), array.dtype, array.shape, bits
    return described


def assert_agree(both, inputs=INPUTS):
    ours, theirs = (answer(ask, inputs) for ask in both)
    assert ours == theirs and isinstance(ours, dict)


scalars = st.one_of(
    numbers,
    st.complex_numbers(),
    st.text(max_size=3),
    st.none(),
    st.text('é\0\ud800', max_size=2),
    st.binary(max_size=3),
    st.decimals(),
    st.fractions(),
)
array_dtypes = st.one_of(
    dtypes,
    stn.unicode_string_dtypes(max_len=4),
    stn.byte_string_dtypes(max_len=4),
    stn.complex_number_dtypes(),
)
values = st.one_of(
    scalars,
    st.integers(-(2**70), 2**70),
    st.lists(st.integers(-(2**70), 2**70)),
    st.lists(scalars, max_size=4),
    st.lists(st.lists(scalars, max_size=3), max_size=3),
    st.lists(numbers),
    st.lists(st.integers(-(2**31), 2**31 - 1)),
    st.lists(st.one_of(st.text(), st.binary())),
    stn.arrays(array_dtypes, ()),
    stn.arrays(array_dtypes, stn.array_shapes(max_dims=3, min_side=0)).flatmap(
        lambda array: layouts.map(lambda layout: layout(array))
    ),
    stn.arrays(object, stn.array_shapes(max_side=3), elements=scalars),
)


def is_refused_by_both(value, key, theirs):
    """Whether Session.run refuses a value that we refuse, or we are stricter, in two things.

    None is a missing input, and Python's numbers aren't cast to what they don't fit. With NumPy 2,
    Session.run makes an array of them first and casts that: 300 to 44, nan to any number.
    """
    if isinstance(theirs, Exception) or value is None:
        return True
    cast = answer(lambda: {'': np.asarray(value, tf.as_dtype(key).as_numpy_dtype)})
    return isinstance(cast, Exception) and not isinstance(value, np.ndarray)


@each_size
def test_the_predictor_is_session_run(both, examples):
    @examples
    @given(st.sampled_from(list(INPUTS)), values)
    def check(key, value):
        ours, theirs = (answer(ask, {**INPUTS, key: value}) for ask in both)
        if isinstance(ours, Exception):
            expected = f"(missing )?input '{key}': expected {key} of any"
            assert type(ours) is ValueError and re.match(expected, str(ours))
            assert is_refused_by_both(value, key, theirs)
        else:
            assert ours == theirs
        assert_agree(both)

    check()


@pytest.fixture(scope='module')
def echoes():
    """For each dtype, two dimensions: FastPredict and Session.run of what is fed."""
    with contextlib.ExitStack() as stack:
        session = stack.enter_context(contextlib.closing(tf.Session(graph=tf.Graph())))
        with session.graph.as_default():
            tensors = {key: tf.placeholder(key, [None, None]) for key in INPUTS}
            outputs = {key: tf.identity(tensor) for key, tensor in tensors.items()}

        def asks(key):
            spec = tf.TensorSpec([None, None], key)
            fast_predict = open_fast_predict(tf.identity, spec, yield_single_examples=False)
            stack.enter_context(fast_predict)
            return fast_predict.predict, lambda x: session.run(outputs[key], {tensors[key]: x})

        yield {key: asks(key) for key in INPUTS}


@each_size
def test_fast_predict_casts_as_session_run(echoes, examples):
    @examples
    @given(st.sampled_from(list(INPUTS)), values)
    def check(key, value):
        ours, theirs = (answer(lambda: {'': ask(value)}) for ask in echoes[key])
        if isinstance(ours, Exception):
            assert isinstance(ours, ValueError), ours
            assert str(ours).startswith(f'features: expected {key} [None, None]')
            assert is_refused_by_both(value, key, theirs)
        else:
            assert [*ours.values()][0][1:] == [*theirs.values()][0][1:]

    check()


def test_dtypes(save):
    """Those that the property tests leave out, and the ends of some."""
    names = 'float16 bfloat16 int8 int16 uint8 uint16 uint32 uint64 complex64 complex128'
    inputs = {name: [0, 1, 2] for name in f'{names} qint8 quint16 qint32'.split()}

    def build():
        tensors = {name: tf.placeholder(name, [None]) for name in inputs}
        return tensors, {name: tf.identity(tensor) for name, tensor in tensors.items()}

    export_dir = save(build)
    ends = {'float16': [1e9], 'bfloat16': np.array([1.01, 3]), 'uint64': [2**64 - 1]}
    with predictor.from_saved_model(export_dir) as predict_fn:
        for feeds in (inputs, {**inputs, **ends, 'complex64': [1 + 2j]}):
            theirs = session_run(export_dir, feeds)
            answer = predict_fn(feeds)
            assert_same(answer, theirs)
            for array in answer.values():
                array[...] = 7  # an answer is the caller's own, of any dtype
            assert_same(predict_fn(feeds), theirs)


# What is refused.


class Raising:
    """Raises in its `__repr__`."""

    def __repr__(self):
        raise ZeroDivisionError


class RaisingArray:
    """Raises where NumPy makes an array of it."""

    def __array__(self, *args, **kwargs):
        raise ZeroDivisionError('of their own')


def nested(depth):
    value = [1.0, 2.0]
    for _ in range(depth):
        value = [value]
    return value


LOOP = []
LOOP.append(LOOP)
with tf.Graph().as_default():
    SYMBOL = tf.placeholder(tf.float32, [1, 2])
REFUSED = {
    'nested': nested(2000),
    'a loop': LOOP,
    'a type': int,
    'a generator': ([1, 2] for _ in 'a'),
    'a dict': {'features': [[1, 2]]},
    'ragged': [[1, 2], [3]],
    'structured': np.zeros(1, [('a', 'f4'), ('b', 'f4')]),
    'words': [['é', '\0']],
    'bytes': [[b'\xff', b'1']],
    'dates': [[datetime.datetime(2020, 1, 1)] * 2],
    'large': [[10**400, 1]],
    'too large to be shown': [10**5000],
    'without a repr': Raising(),
    'a symbol': SYMBOL,
}
NO_STRINGS = {
    'half a pair': '\ud800',
    'a number': 5,
    'None': None,
    'a list': ['a'],
    'a loop': LOOP,
    'too large to be shown': 10**5000,
}


@pytest.mark.parametrize('value', REFUSED.values(), ids=REFUSED)
@pytest.mark.filterwarnings('error')  # a refused value isn't cast, which might warn
def test_what_is_no_number_is_refused(both, linear, value):
    with pytest.raises(ValueError, match=r'^features: expected float32 \[None, 2\], got .') as ours:
        linear.predict(value)
    with pytest.raises(ValueError, match=r"^input 'float32': expected float32 of any sh") as theirs:
        both[0]({**INPUTS, 'float32': value})
    assert len(str(ours.value)) < 500 and len(str(theirs.value)) < 500
    assert_product(linear.predict([[1, 2]]), [[1, 2]])
    assert_agree(both)


@pytest.mark.parametrize('value', NO_STRINGS.values(), ids=NO_STRINGS)
def test_what_is_no_string_is_refused(both, strings, value):
    with pytest.raises(
        ValueError, match=r"^features\['word'\]: expected string \[None\], "
    ) as ours:
        strings.predict({'word': [value, 'a']})
    with pytest.raises(ValueError, match=r"^input 'string': expected string of any sha") as theirs:
        both[0]({**INPUTS, 'string': [value, 'a']})
    assert len(str(ours.value)) < 500 and len(str(theirs.value)) < 500
    assert strings.predict({'word': ['a']}) == [b'a']
    assert_agree(both)


@pytest.mark.parametrize('value', [2**40, [2**40], np.nan, None, [None]], ids=repr)
def test_a_number_that_the_dtype_does_not_hold_is_refused(both, value):
    with pytest.raises(ValueError, match=r"input 'int32': expected int32 of any shape"):
        both[0]({**INPUTS, 'int32': value})


def test_an_error_of_the_callers_own_object_passes_through(both, linear):
    with pytest.raises(ZeroDivisionError, match='of their own'):
        linear.predict(RaisingArray())
    with pytest.raises(ZeroDivisionError, match='of their own'):
        both[0]({**INPUTS, 'float32': RaisingArray()})
    assert_agree(both)


@pytest.mark.parametrize('key', [None, b'word', 'Word', '\ud800', Raising()], ids=type)
def test_an_unknown_key_is_refused(both, strings, key):
    for inputs in ({key: ['a']}, {'word': ['a'], key: ['a']}):
        with pytest.raises(
            ValueError, match=r"a dict with the keys \['word'\], got (\[|something)"
        ):
            strings.predict(inputs)
    with pytest.raises(ValueError, match=r"unknown inputs (\[|something).+: expected \['bool', "):
        both[0]({**INPUTS, key: 1})
    assert_agree(both)


def test_a_mapping_that_is_no_dict(both, strings):
    words = collections.UserDict({'word': ['é\0', b'\xff', '']})
    assert strings.predict(words) == ['é\0'.encode(), b'\xff', b'']
    frame = types.SimpleNamespace(keys=INPUTS.keys, items=INPUTS.items)  # as pandas' DataFrame has
    for kind in collections.UserDict(INPUTS), frame:
        assert answer(both[0], kind) == answer(both[1], INPUTS)


def test_messages(save):
    expected = r"input 'x': expected float32 \[None, 2\]"
    with predictor.from_saved_model(save(double, tf.float32, (None, 2))) as predict_fn:
        for inputs, message in [
            ({}, f'missing {expected}'),
            ({'x': None}, f'missing {expected}'),
            ({'x': [[1, 2]], 'z': 1}, r"unknown inputs \['z'\]: expected \['x'\]"),
            ({'z': [[1, 2]]}, r"unknown inputs \['z'\]: expected \['x'\]"),
            ({'x': 1}, rf'{expected}, got the shape \[\]'),
            ({'x': [[1, 2, 3]]}, rf'{expected}, got the shape \[1, 3\]'),
            ({'x': []}, rf'{expected}, got the shape \[0\]'),
            ({'x': [[1, 2], [3]]}, rf'{expected}, got \[\[1, 2\], \[3\]\]: .+'),
            ({'x': {'y': 1}}, f"{expected}, got {{'y': 1}}: .+"),
            ([[1, 2]], r"expected a dict with the keys \['x'\], got \[\[1, 2\]\]"),
            (None, r"expected a dict with the keys \['x'\], got None"),
        ]:
            for _ in range(2):  # also once the shape that fits is known
                with pytest.raises(ValueError, match=f'^{message}$'):
                    predict_fn(inputs)
                assert predict_fn({'x': [[1, 2]]})['y'].tolist() == [[2, 4]]
