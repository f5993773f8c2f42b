"""feeds.py: hostile values get Session.run's answer, or one clear error."""

import collections
import contextlib
import datetime
import decimal
import fractions
import re
import types

import numpy as np
import pytest
from conftest import assert_same, double, echo, session_run
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
        'Warning. converting a masked',
        'NumPy will stop allowing conversion',
    )
]
KERNEL, BIAS = np.float32([[1.25], [-3.7]]), np.float32([0.3])


def open_fast_predict(predict, spec):
    """A FastPredict of an Estimator without variables that predicts `predict(features)`."""
    return FastPredict(
        tf.estimator.Estimator(
            lambda features, labels, mode: tf.estimator.EstimatorSpec(
                mode, predictions=predict(features)
            )
        ),
        spec,
    )


@pytest.fixture(scope='module')
def linear():
    """The FastPredict of features @ KERNEL + BIAS."""
    with open_fast_predict(
        lambda x: tf.matmul(x, KERNEL) + BIAS, tf.TensorSpec([None, 2], tf.float32)
    ) as linear:
        yield linear


@pytest.fixture(scope='module')
def strings():
    """The FastPredict of the string `word` as it is."""
    with open_fast_predict(
        lambda features: features['word'], {'word': tf.TensorSpec([None], tf.string)}
    ) as strings:
        yield strings


def assert_product(got, features):
    """Asserts that predictions are features @ KERNEL + BIAS, as well as float32 can tell."""
    assert type(got) is list and len(got) == len(features)
    assert {(row.dtype.name, row.shape) for row in got} == {('float32', (1,))}
    got, features = np.array(got, np.float64), np.asarray(features, np.float64).astype(np.float32)
    with np.errstate(all='ignore'):
        plain = (features @ KERNEL + BIAS).astype(np.float64)
        exact = features.astype(np.float64) @ KERNEL.astype(np.float64) + BIAS
        terms = (
            np.where(np.isfinite(features), np.abs(features), 0).astype(np.float64) @ np.abs(KERNEL)
            + BIAS
        )
        close = np.abs(got - exact) <= 4 * np.finfo(np.float32).eps * terms
    # Where a sum of terms overflows on the way, what comes of it depends on the order.
    overflows = (terms > np.finfo(np.float32).max) & ~np.isfinite(got)
    right = close | (got == plain) | (np.isnan(got) & np.isnan(plain)) | overflows
    assert right.all(), (features[~right[:, 0]], got[~right], plain[~right])


# FastPredict, beside the plain product.

# Whole numbers that a float64 holds: of a list with floats, Session.run makes floats of all.
numbers = st.one_of(
    st.floats(width=32),
    st.floats(),
    st.integers(-(2**53), 2**53),
    st.booleans(),
    st.sampled_from(
        [np.nan, np.inf, -np.inf, 1e38, 3.4e38, -3e38, 1e39, 1e-40, -1e-45, 5e-324, -0.0]
    ),
)
dtypes = st.sampled_from(['f2', 'f4', 'f8', '>f4', '>f8', 'i1', 'u1', 'i4', '>i8', 'u8', '?'])
layouts = st.sampled_from(
    [
        lambda x: x,
        np.asfortranarray,
        lambda x: x[::-1],
        lambda x: x[::2],
        lambda x: np.broadcast_to(x[:1], x.shape),
        lambda x: np.frombuffer(b'-' + x.tobytes(), np.uint8)[1:].view(x.dtype).reshape(x.shape),
    ]
)  # not aligned


@st.composite
def features(draw):
    if draw(st.booleans()):
        rows = draw(st.lists(st.tuples(numbers, numbers), min_size=1, max_size=20))
        return draw(st.sampled_from([list, tuple]))(
            map(draw(st.sampled_from([list, tuple, np.array])), rows)
        )
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
    @examples
    @given(st.lists(st.one_of(st.text(st.characters(codec='utf-8')), st.binary()), min_size=1))
    def check(words):
        assert strings.predict({'word': words}) == [tf.compat.as_bytes(word) for word in words]

    check()


# The predictor, beside Session.run.

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
    """The predictor, and Session.run with the same signature, for an input of each dtype.

    Strings go to a graph of their own: the predictor has a fast way for all the others.
    """
    double = {'bool': tf.logical_not, 'string': lambda x: tf.strings.join([x, x])}
    predict_fns, runs = [], []
    with contextlib.ExitStack() as stack:
        for keys in sorted(INPUTS.keys() - {'string'}), ['string']:
            export_dir = str(tmp_path_factory.mktemp('export') / '1')
            with tf.Graph().as_default(), tf.Session() as session:
                inputs = {key: tf.placeholder(key, None) for key in keys}
                outputs = {
                    f'{key} {name}': function(tensor)
                    for key, tensor in inputs.items()
                    for name, function in (
                        ('echo', tf.identity),
                        ('double', double.get(key, lambda x: x + x)),
                    )
                }
                tf.saved_model.simple_save(session, export_dir, inputs, outputs)
            predict_fns.append(stack.enter_context(predictor.from_saved_model(export_dir)))
            session = stack.enter_context(contextlib.closing(tf.Session(graph=tf.Graph())))
            with session.graph.as_default():
                signature = tf.saved_model.loader.load(
                    session, ['serve'], export_dir
                ).signature_def['serving_default']
            runs.append(
                lambda given, session=session, signature=signature: session.run(
                    {key: info.name for key, info in signature.outputs.items()},
                    {signature.inputs[key].name: value for key, value in given.items()},
                )
            )
        yield [
            lambda given, asks=asks: {
                **asks[0](
                    type(given)({key: value for key, value in given.items() if key != 'string'})
                ),
                **asks[1]({'string': given['string']}),
            }
            for asks in (predict_fns, runs)
        ]


def answer(function, *args):
    """Returns the outputs, each as its type, dtype, shape and bits, or the error.

    In sums, TensorFlow's own threads take subnormal numbers for 0: here both do.
    """
    try:
        outputs = function(*args)
    except (
        TypeError,
        ValueError,
        OverflowError,
        np.ma.MaskError,
        tf.errors.InternalError,
    ) as error:
        return error
    described = {}
    for key, value in outputs.items():
        array = np.asarray(value)
        if key in ('float32 double', 'float64 double'):
            array = np.where(
                np.abs(array) < 2 * np.finfo(array.dtype).tiny, np.copysign(0, array), array
            )
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
values = st.one_of(
    scalars,
    st.integers(-(2**70), 2**70),
    st.lists(st.integers(-(2**70), 2**70)),
    st.lists(scalars, max_size=4),
    st.lists(st.lists(scalars, max_size=3), max_size=3),
    st.lists(numbers),
    st.lists(st.integers(-(2**31), 2**31 - 1)),
    st.lists(st.one_of(st.text(), st.binary())),
    stn.arrays(
        st.one_of(
            dtypes,
            stn.unicode_string_dtypes(max_len=4),
            stn.byte_string_dtypes(max_len=4),
            stn.complex_number_dtypes(),
        ),
        stn.array_shapes(min_dims=0, max_dims=3, min_side=0),
    ),
    stn.arrays(object, stn.array_shapes(max_side=3), elements=scalars),
)


def is_refused_by_both(value, key, theirs):
    """Whether Session.run refuses a value that we refuse, or we are stricter, in two things.

    None is a missing input, and Python's numbers aren't cast to what they don't fit. With NumPy 2,
    Session.run makes an array of them first and casts that: 300 to 44, nan to any number.
    """
    refused = isinstance(
        answer(lambda: {'': np.asarray(value, tf.as_dtype(key).as_numpy_dtype)}), Exception
    )
    return (
        isinstance(theirs, Exception)
        or value is None
        or refused
        and not isinstance(value, np.ndarray)
    )


@each_size
def test_the_predictor_is_session_run(both, examples):
    @examples
    @given(st.sampled_from(list(INPUTS)), values)
    def check(key, value):
        ours, theirs = (answer(ask, {**INPUTS, key: value}) for ask in both)
        if isinstance(ours, Exception):
            assert type(ours) is ValueError and re.match(
                rf"(missing )?input '{key}': expected {key} of any", str(ours)
            )
            assert is_refused_by_both(value, key, theirs)
        else:
            assert ours == theirs
        assert_agree(both)

    check()


@pytest.fixture(scope='module')
def echoes():
    """For each dtype, two dimensions: FastPredict and Session.run of what is fed."""
    with contextlib.ExitStack() as stack:
        session = stack.enter_context(tf.Session(graph=tf.Graph()))
        with session.graph.as_default():
            tensors = {key: tf.placeholder(key, [None, None]) for key in INPUTS}
            outputs = {key: tf.identity(tensor) for key, tensor in tensors.items()}
        yield {
            key: (
                stack.enter_context(
                    open_fast_predict(tf.identity, tf.TensorSpec([None, None], key))
                ).predict,
                lambda value, key=key: session.run(outputs[key], {tensors[key]: value}),
            )
            for key in INPUTS
        }


@each_size
def test_fast_predict_casts_as_session_run(echoes, examples):
    @examples
    @given(st.sampled_from(list(INPUTS)), values)
    def check(key, value):
        ours, theirs = (answer(lambda: {'': np.array(ask(value))}) for ask in echoes[key])
        if isinstance(ours, Exception):
            assert isinstance(ours, ValueError), ours
            assert re.match(rf'features: expected ({key} \[None, None\]|at least)', str(ours))
            assert is_refused_by_both(value, key, theirs) or np.shape(value)[:1] == (0,)
        else:
            assert [*ours.values()][0][1:] == [*theirs.values()][0][1:]

    check()


# Values one by one.


def raising(method, **others):
    """An object that raises in one of its methods."""

    def fail(*args, **kwargs):
        raise ZeroDivisionError(method)

    return type('Raising', (), {method: fail, **others})()


def nested(depth, value=(1.0, 2.0)):
    for _ in range(depth):
        value = [value]
    return value


LOOP = []
LOOP.append(LOOP)
REFUSED = [
    nested(100),
    nested(2000),
    LOOP,
    None,
    ...,
    int,
    {1, 2},
    ([1, 2] for _ in 'a'),
    {'features': [[1, 2]]},
    [[1, 2], [3]],
    [[1, 2], np.zeros(3)],
    np.zeros(1, [('a', 'f4'), ('b', 'f4')]),
    [[10**400, 1]],
    [['é', '\0']],
    '\ud800',
    [[b'\xff', b'1']],
    [[datetime.datetime(2020, 1, 1)] * 2],
    raising('__repr__'),
    raising('__len__', __getitem__=[1, 2].__getitem__),
    [10**5000],
]
CAST = [  # as Session.run casts them, and what comes of it
    (np.array([[1.5 + 2j, 3]]), [1.5, 3]),
    (np.array([[5, 6]], 'M8[s]'), [5, 6]),
    (np.array([[5, 6]], 'm8[s]'), [5, 6]),
    (np.array([[1, 2.5]], object), [1, 2.5]),
    ([[decimal.Decimal('1.5'), 2]], [1.5, 2]),
    ([[fractions.Fraction(1, 2), 2]], [0.5, 2]),
    ([['1', '2']], [1, 2]),
    (np.ma.masked_array([[1.0, 2.0]], [[False, True]]), [1, 2]),
]
NO_STRINGS = ['\ud800', np.str_('\ud800'), 5, None, ['a'], nested(2000), 10**5000, {'a'}, LOOP]


@pytest.mark.parametrize('value', REFUSED, ids=type)
@pytest.mark.filterwarnings('error')  # a refused value isn't cast, which might warn
def test_fast_predict_refuses(linear, value):
    with pytest.raises(
        ValueError, match=r'^features: expected float32 \[None, 2\], got .'
    ) as error:
        linear.predict(value)
    assert len(str(error.value)) < 500
    assert_product(linear.predict([[1, 2]]), [[1, 2]])


@pytest.mark.parametrize('value, fed', CAST)
def test_fast_predict_casts(linear, value, fed):
    assert_product(linear.predict(value), [fed])


@pytest.mark.parametrize(
    'key, value',
    [
        *(('float32', value) for value in REFUSED),
        *(('string', [value, 'a']) for value in NO_STRINGS),
        ('int64', [10**5000]),
        ('int64', [np.ma.masked]),
        ('bool', nested(2000)),
    ],
    ids=type,
)
def test_the_predictor_refuses(both, key, value):
    with pytest.raises(ValueError, match=f"input '{key}': expected {key} of any shape") as error:
        both[0]({**INPUTS, key: value})
    assert len(str(error.value)) < 500
    assert_agree(both)


@pytest.mark.parametrize('value', NO_STRINGS, ids=type)
def test_fast_predict_refuses_what_is_no_string(strings, value):
    with pytest.raises(
        ValueError, match=r"^features\['word'\]: expected string \[None\], got"
    ) as error:
        strings.predict({'word': [value, 'a']})
    assert len(str(error.value)) < 500
    assert strings.predict({'word': ['a']}) == [b'a']


@pytest.mark.parametrize(
    'value', [raising('__array__'), raising('__getitem__', __len__=lambda self: 2)]
)
def test_errors_of_the_callers_own_object_pass_through(both, linear, value):
    for ask in (linear.predict, lambda value: both[0]({**INPUTS, 'float32': value})):
        with pytest.raises(ZeroDivisionError, match='__'):
            ask(value)
    assert_product(linear.predict([[1, 2]]), [[1, 2]])
    assert_agree(both)


@pytest.mark.parametrize(
    'key', [1, None, b'word', ('a',), 'Word', 'wörd\0', '\ud800', raising('__repr__')]
)
def test_keys_of_the_wrong_type(both, strings, key):
    for inputs in ({key: ['a']}, {'word': ['a'], key: ['a']}):
        with pytest.raises(
            ValueError,
            match=r"features: expected a dict with the keys \['word'\], got (\[|something)",
        ):
            strings.predict(inputs)
    with pytest.raises(ValueError, match=r"unknown inputs (\[|something).+: expected \['bool', "):
        both[0]({**INPUTS, key: 1})
    assert strings.predict({'word': ['a']}) == [b'a']
    assert_agree(both)


@pytest.mark.parametrize(
    'kind', [collections.UserDict, types.MappingProxyType, collections.ChainMap]
)
def test_mappings_that_are_not_dicts(both, strings, kind):
    assert strings.predict(kind({'word': ['é\0', b'\xff', '']})) == ['é\0'.encode(), b'\xff', b'']
    assert_agree([lambda inputs: both[0](kind(inputs)), both[1]])


@pytest.mark.parametrize(
    'convert',
    [
        np.ndarray.tolist,
        np.asfortranarray,
        np.matrix,
        list,
        lambda x: x[::2, ::-1],
        lambda x: np.broadcast_to(x[0], (5, 4)),
        lambda x: x.astype(np.float64),
        lambda x: x.astype(np.float16),
        lambda x: x.astype(np.int64),
        lambda x: x.astype('>f4'),
        lambda x: x.astype(str),
        lambda x: np.frombuffer(b'-' + x.tobytes(), np.uint8)[1:].view(np.float32).reshape(x.shape),
    ],
)  # the last is not aligned
@pytest.mark.filterwarnings('ignore:the matrix subclass')
def test_layouts_and_casts(save, convert):
    export_dir = save(double, tf.float32, (None, 4))
    value = convert(np.random.RandomState(0).randn(6, 4).astype(np.float32) * 9)
    with predictor.from_saved_model(export_dir) as predict_fn:
        assert_same(predict_fn({'x': value}), session_run(export_dir, {'x': value}))


DTYPES = (
    'float16 bfloat16 float32 float64 int8 int16 int32 int64 uint8 uint16 uint32 uint64 complex64'
)
DTYPES = [
    tf.as_dtype(name) for name in [*DTYPES.split(), 'complex128', 'qint8', 'quint16', 'qint32']
]


@pytest.mark.parametrize(
    'dtype, value',
    [
        *((dtype, [0, 1, 2]) for dtype in DTYPES),
        (tf.bool, [True, False, 1]),
        (tf.float16, [1e9]),
        (tf.float64, [0.1, np.nan, np.inf]),
        (tf.complex64, [1 + 2j]),
        (tf.int64, [2**63 - 1, -(2**63)]),
        (tf.uint64, [2**64 - 1]),
        (tf.int32, [1.7, -1.7]),
        (tf.float32, ['1.5']),
        (tf.bfloat16, np.array([1.01, 3])),
        (tf.string, ['é', 'a\0', b'\xff\0', '']),
        (tf.string, np.array(['é', 'abc'])),
        (tf.string, np.array(['é', b'\xff'], object)),
        (tf.string, []),
    ],
)
@pytest.mark.filterwarnings('ignore:overflow')  # 1e9 as a float16 is inf
def test_dtypes(save, dtype, value):
    export_dir = save(echo, dtype)
    with predictor.from_saved_model(export_dir) as predict_fn:
        assert_same(predict_fn({'x': value}), session_run(export_dir, {'x': value}))
        if not len(value):
            return
        first = predict_fn({'x': value})['y']
        kept, first[:1] = first.copy(), first[-1:]  # an answer is the caller's own, of any dtype
        np.testing.assert_array_equal(predict_fn({'x': value})['y'], kept)


def test_unknown_rank(save):
    export_dir = save(double, tf.float32, None)
    with predictor.from_saved_model(export_dir) as predict_fn:
        for value in (1, [1], [[1, 2], [3, 4]], np.ones((1, 2, 3, 4)), 5, []):
            assert_same(predict_fn({'x': value}), session_run(export_dir, {'x': value}))


EXPECTED = r"input 'x': expected float32 \[None, 2\]"


@pytest.mark.parametrize(
    'inputs, message',
    [
        ({}, f'missing {EXPECTED}'),
        ({'x': None}, f'missing {EXPECTED}'),
        ({'x': [[1, 2]], 'z': 1}, r"unknown inputs \['z'\]: expected \['x'\]"),
        ({'z': [[1, 2]]}, r"unknown inputs \['z'\]: expected \['x'\]"),
        ({'x': 1}, EXPECTED + r', got the shape \[\]'),
        ({'x': [[1, 2, 3]]}, EXPECTED + r', got the shape \[1, 3\]'),
        ({'x': []}, EXPECTED + r', got the shape \[0\]'),
        ({'x': [[1, 2], [3]]}, EXPECTED + r', got \[\[1, 2\], \[3\]\]: .+'),
        ({'x': [['a', 'b']]}, EXPECTED + r", got \[\['a', 'b'\]\]: .+"),
        ({'x': {'y': 1}}, EXPECTED + ", got {'y': 1}: .+"),
        ([[1, 2]], r"expected a dict with the keys \['x'\], got \[\[1, 2\]\]"),
        (None, r"expected a dict with the keys \['x'\], got None"),
        ('x', r"expected a dict with the keys \['x'\], got 'x'"),
    ],
)
def test_wrong_inputs(save, inputs, message):
    with predictor.from_saved_model(save(double, tf.float32, (None, 2))) as predict_fn:
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
def test_wrong_scalars(save, dtype, value):
    with predictor.from_saved_model(save(echo, dtype, ())) as predict_fn:
        assert predict_fn({'x': 'a' if dtype == tf.string else 1})['y'] in (b'a', 1)
        with pytest.raises(ValueError, match=rf"input 'x': expected {dtype.name} \[\]"):
            predict_fn({'x': value})


def test_a_symbolic_tensor_is_refused(save, linear):
    with tf.Graph().as_default(), predictor.from_saved_model(save(double)) as predict_fn:
        for _ in range(2):
            with pytest.raises(ValueError, match=r"'x': expected float32 \[None\], got <tf.Tensor"):
                predict_fn({'x': tf.placeholder(tf.float32, [1])})
            with pytest.raises(ValueError, match=r'features: expected float32 .*, got <tf.Tensor'):
                linear.predict(tf.placeholder(tf.float32, [1, 2]))
            assert predict_fn({'x': [1]})['y'] == [2]
