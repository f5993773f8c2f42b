"""remote.py, against the stand-in and against servers that answer with what a test says."""

import contextlib
import http.client
import http.server
import importlib.util
import json
import math
import os
import pickle
import re
import socket
import sys
import threading
import time
from concurrent import futures

import numpy as np
import pytest
from conftest import ROOT, assert_same, linear, signature_def

pytest.importorskip('tensorflow_serving')

import grpc
from estimator_inference import RemotePredictor, predictor, remote, tf
from examples.serving import model_server
from google.protobuf import json_format, text_format
from tensorflow.core.framework import tensor_pb2
from tensorflow_serving.apis import classification_pb2, predict_pb2, regression_pb2
from tensorflow_serving.apis import get_model_metadata_pb2 as metadata_pb2
from tensorflow_serving.config import model_server_config_pb2

PROTOCOLS = ('grpc', 'rest')
both = pytest.mark.parametrize('protocol', PROTOCOLS)


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    monkeypatch.setenv('no_proxy', '127.0.0.1')  # gRPC heeds http_proxy


def build_signatures():
    """Returns {name: (inputs, outputs, method)}: a signature for all that the tests ask."""
    x, y = tf.placeholder(tf.float32, [None, 1]), tf.placeholder(tf.float32, [None, 1])
    text, serialized = tf.placeholder(tf.string, [None]), tf.placeholder(tf.string, [None])
    echoed = {dtype.name: tf.placeholder(dtype, [None, 2]) for dtype in DTYPES}
    spec = {
        'f': tf.FixedLenFeature([2], tf.float32),
        'i': tf.FixedLenFeature([], tf.int64, -1),
        's': tf.FixedLenFeature([], tf.string, 'default'),
    }
    features, inputs = tf.io.parse_example(serialized, spec), {'inputs': serialized}
    classes = tf.stack([features['s'], tf.as_string(features['i'])], 1)
    scores, sums = {'scores': features['f']}, tf.reduce_sum(features['f'], 1)
    return {
        'serving_default': ({'x': x}, {'y': x + x}, 'predict'),
        'optional': ({'x': x, 'y': y}, {'z': x + y}, 'predict'),
        'text': ({'s': text}, {'s_bytes': text, 'length': tf.strings.length(text)}, 'predict'),
        'echo': (echoed, {key: tf.identity(echoed[key]) for key in echoed}, 'predict'),
        'classify': (inputs, {'classes': classes, **scores}, 'classify'),
        'scores': (inputs, scores, 'classify'),
        'regress': (inputs, {'outputs': sums[:, None]}, 'regress'),
        'regress_1': (inputs, {'outputs': sums}, 'regress'),
    }


DTYPES = (tf.float32, tf.float64, tf.int8, tf.uint8, tf.int32, tf.int64, tf.uint64, tf.bool)
EXAMPLES = [{'f': [1.5, 2.0], 'i': 3, 's': 'a'}, {'f': (0.1, -4.0), 's': b'\xff', 'i': None}]


@pytest.fixture(scope='module')
def export_dir(tmp_path_factory):
    path = str(tmp_path_factory.mktemp('model') / '1')
    with tf.Graph().as_default(), tf.Session() as session:
        signatures = {}
        for name, (inputs, outputs, method) in build_signatures().items():
            signatures[name] = signature_def(inputs, outputs)
            signatures[name].method_name = f'tensorflow/serving/{method}'
        signatures['optional'].defaults['y'].CopyFrom(tf.make_tensor_proto([[7.0]]))
        builder = tf.saved_model.builder.SavedModelBuilder(path)
        builder.add_meta_graph_and_variables(session, ['serve'], signatures)
        builder.save()
    return path


@pytest.fixture(scope='module')
def ports(export_dir):
    with model_server.serving({'m': os.path.dirname(export_dir)}) as ports:
        yield dict(zip(PROTOCOLS, ports))


def address(protocol, port):
    return f'127.0.0.1:{port}' if protocol == 'grpc' else f'http://127.0.0.1:{port}'


@pytest.fixture
def client(protocol, ports):
    """A function from the name of a signature to a client of the stand-in."""
    with contextlib.ExitStack() as stack:
        place = address(protocol, ports[protocol])
        yield lambda *args, **more: stack.enter_context(RemotePredictor(place, *args, **more))


# Right answers: those of a Predictor.


@both
def test_predict(client, export_dir):
    with client('m') as remote_fn, predictor.from_saved_model(export_dir) as predict_fn:
        assert remote_fn.feed_tensors == {'x': tf.TensorSpec([None, 1], tf.float32)}
        assert remote_fn.fetch_tensors == {'y': tf.TensorSpec([None, 1], tf.float32)}
        for x in ([[3]], [[0.1], [-0.0], [math.inf], [math.nan]], np.float64([[1e-40]])):
            assert_same(remote_fn({'x': x}), predict_fn({'x': x}))


@both
def test_each_dtype(client, export_dir):
    inputs = {'bool': [[True, False]]}
    for dtype in DTYPES[:-1]:
        inputs[dtype.name] = np.array([[dtype.min, dtype.max]], dtype.as_numpy_dtype)
    with predictor.from_saved_model(export_dir, 'echo') as predict_fn:
        assert_same(client('m', 'echo')(inputs), predict_fn(inputs))


@both
def test_strings(client):
    texts = ['a', 'ä', b'\xff\x00', np.str_('b'), np.bytes_(b'c')]
    answer = client('m', 'text')({'s': texts})
    assert answer['s_bytes'].tolist() == [b'a', 'ä'.encode(), b'\xff\x00', b'b', b'c']
    assert answer['length'].tolist() == [1, 2, 2, 1, 1]


@both
def test_classify(client):
    answer = client('m', 'classify').classify([EXAMPLES[0], {**EXAMPLES[1], 's': 'ä'}])
    assert answer['classes'].tolist() == [[b'a', b'3'], ['ä'.encode(), b'-1']]
    assert answer['scores'].dtype == np.float32
    assert answer['scores'].tolist() == np.float32([[1.5, 2], [0.1, -4]]).tolist()
    assert list(client('m', 'scores').classify(EXAMPLES)) == ['scores']


@both
def test_regress(client):
    sums = np.float32([3.5, np.float32(0.1) - 4])
    assert_same(client('m', 'regress').regress(EXAMPLES), {'outputs': sums[:, None]})
    assert_same(client('m', 'regress_1').regress(EXAMPLES), {'outputs': sums})


@both
def test_numpy_in_examples_and_examples_themselves(client):
    example = tf.train.Example()
    example.features.feature['f'].float_list.value.extend([1.5, 2])
    example.features.feature['i'].int64_list.value.append(3)
    ask = client('m', 'classify').classify
    expected = [[b'default', b'3'], [1.5, 2]]
    for given in (
        example,
        {'f': np.float32([1.5, 2]), 'i': np.int32(3)},
        {'f': [np.float64(1.5), np.float16(2)], 'i': np.array([3], np.uint8)},
        {'f': [1.5, 2], 'i': np.array(3), 's': None},
        {'f': [1.5, 2], 'i': 3, 's': []},
    ):
        answer = ask([given])
        assert [answer['classes'][0].tolist(), answer['scores'][0].tolist()] == expected
    assert ask([{'f': [0.0, 0.0], 'i': True}])['classes'].tolist() == [[b'default', b'1']]


@both
def test_none_is_the_default(client):
    optional = client('m', 'optional')
    for inputs in ({'x': [[1]]}, {'x': [[1]], 'y': None}):
        assert optional(inputs)['z'].tolist() == [[8]]
    assert optional({'x': [[1]], 'y': [[2]]})['z'].tolist() == [[3]]
    failure('refused', client('m'), {'x': None})  # x has none


@pytest.mark.parametrize('protocol', ['grpc'])
def test_more_than_4_mib(client):
    """What gRPC takes of a message by default."""
    x = np.linspace(0, 1, 1_500_000, dtype=np.float32)[:, None]
    np.testing.assert_array_equal(client('m')({'x': x})['y'], x + x)


@both
def test_many_threads(client):
    predict_fn = client('m')
    with futures.ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda n: predict_fn({'x': [[n]]})['y'].item(), range(100)))
    assert answers == [2 * n for n in range(100)]


@both
def test_the_newest_version_answers(protocol, save, tmp_path):
    """And an error, where it is of another model than the client was made for."""
    save(linear, path=tmp_path / 'm' / '5')
    with model_server.serving({'m': str(tmp_path / 'm')}) as ports:
        with RemotePredictor(address(protocol, ports[protocol == 'rest']), 'm') as predict_fn:
            assert predict_fn({'x': [[1]]})['y'].tolist() == [[4]]
            save(
                lambda: ({'x': tf.placeholder(tf.float32)}, {'z': tf.ones([2])}),
                path=tmp_path / 'other',
            )
            os.rename(tmp_path / 'other', tmp_path / 'm' / '40')
            text = failure('bad answer', predict_fn, {'x': [[1]]})
            assert protocol == 'rest' or "no output ['y'], only ['z']" in text


# What the caller gives wrong: ValueError, and nothing is sent.


@both
def test_wrong_values_are_not_sent(client, monkeypatch):
    predict_fn, echo, text = client('m'), client('m', 'echo'), client('m', 'text')
    classify, unsent = client('m', 'classify').classify, None
    for each in (predict_fn, echo, text, classify.__self__):
        monkeypatch.setattr(each._server, 'ask', unsent)  # to call it would be a TypeError
    for call, given, message in (
        (predict_fn, {'z': [[3]]}, r"unknown inputs \['z'\]: expected \['x'\]"),
        (predict_fn, {'x': [3]}, r"input 'x': expected float32 \[None, 1\], got the shape \[1\]"),
        (predict_fn, {'x': [['a']]}, r"input 'x': expected float32 \[None, 1\], got \[\['a'\]\]"),
        (predict_fn, [[3]], r"expected a dict of \['x'\], got \[\[3\]\]"),
        (predict_fn, None, 'expected a dict'),
        (echo, {'int32': [[None, 1]]}, "input 'int32': expected int32"),
        (text, {'s': [3]}, "input 's': expected string"),
        (text, {'s': ['a', None]}, "input 's': expected string"),
        (text, {'s': ['\ud800']}, "input 's': expected string"),
        (classify, {'f': [1.5, 2]}, "expected a tf.train.Example or a dict, got 'f'"),
        (classify, [[1.5, 2]], 'expected a tf.train.Example or a dict'),
        (classify, 3, 'expected a list of examples, got 3'),
        (classify, tf.train.Example(), 'expected a list of examples'),
        (classify, [{'f': [1.5, None]}], "feature 'f': expected numbers or strings, got"),
        (classify, [{'f': ['a', 1]}], "feature 'f': expected numbers or strings, got"),
        (classify, [{'f': {'b64': 'YQ=='}}], "feature 'f': expected numbers or strings, got"),
        (classify, [{'i': 2**63}], "feature 'i': expected numbers or strings, got"),
        (classify, [{3: 1}], 'feature 3: expected'),
    ):
        with pytest.raises(ValueError, match=f'^{message}') as error:
            call(given)
        assert not isinstance(error.value, remote.RemoteError)


def test_wrong_addresses_and_timeouts():
    for timeout in (0, -1, math.inf, -math.inf, math.nan, 1e300):
        with pytest.raises(ValueError, match='expected a timeout above 0 s, and finite'):
            RemotePredictor('127.0.0.1:1', 'm', timeout=timeout)
    for place in ('https://h:1', 'http://h', 'http://:1', 'http://h:x', 'http://h:1/v1/models/m'):
        with pytest.raises(ValueError, match='HOST:PORT|cast'):
            RemotePredictor(place, 'm')


# Errors: one class, with a code, the host, the model and the reason.


def failure(code, call, *args, **more):
    """Asserts that a call fails with a RemoteError of this code; returns its text."""
    with pytest.raises(remote.RemoteError) as error:
        call(*args, **more)
    text = str(error.value)
    assert error.value.code == code and text.startswith(f"{code}: the model 'm"), text
    assert '127.0.0.1:' in text and '\n' not in text and len(text) < 700
    assert str(pickle.loads(pickle.dumps(error.value))) == text
    return text


@both
def test_unreachable(protocol, free_port, ports):
    place = address(protocol, free_port())
    assert re.search('[Rr]efused', failure('unreachable', RemotePredictor, place, 'm'))
    other = address(protocol, ports['rest' if protocol == 'grpc' else 'grpc'])
    code = 'unreachable' if protocol == 'grpc' else 'bad answer'
    failure(code, RemotePredictor, other, 'm')  # where the other protocol is spoken


@both
def test_refusals(client):
    assert 'Latest(m2)' in failure('unknown model', client, 'm2')
    assert "no signature 'x', only [" in failure('refused', client, 'm', 'x')
    text = failure('refused', client('m').classify, EXAMPLES)
    assert 'Expected classification signature method_name' in text
    assert 'could not be found' in failure('refused', client('m', 'classify').classify, [{'i': 1}])
    assert 'mpty' in failure('refused', client('m', 'regress').regress, [])


@both
def test_late(protocol):
    with socket.create_server(('127.0.0.1', 0)) as silent:  # connects, and never answers
        place = address(protocol, silent.getsockname()[1])
        failure('late', RemotePredictor, place, 'm', timeout=0.3)


@contextlib.contextmanager
def raw_rest(answers):
    """An HTTP server that answers to a path's end with bytes, or with what a function writes."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.rfile.read(int(self.headers.get('Content-Length') or 0))
            answer = answers[re.split('[:/]', self.path)[-1]]
            if callable(answer):
                with contextlib.suppress(OSError):
                    answer(self)
            else:
                self.wfile.write(b'HTTP/1.1 200 OK\r\n\r\n' + answer)

        do_POST = do_GET

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=[0.02], daemon=True).start()
        yield f'http://127.0.0.1:{server.server_port}'
        server.shutdown()


@contextlib.contextmanager
def raw_grpc(answers):
    """The same over gRPC, with bytes for each method."""

    def handler(answer):
        return grpc.unary_unary_rpc_method_handler(lambda request, context: answer)

    names = {'metadata': 'GetModelMetadata'}
    handlers = {names.get(key, key.capitalize()): handler(answers[key]) for key in answers}
    service = 'tensorflow.serving.PredictionService'
    server = grpc.server(
        futures.ThreadPoolExecutor(1),
        handlers=[grpc.method_handlers_generic_handler(service, handlers)],
    )
    port = server.add_insecure_port('127.0.0.1:0')
    server.start()
    yield f'127.0.0.1:{port}'
    server.stop(None)


RAW = {'grpc': raw_grpc, 'rest': raw_rest}


def metadata(protocol, outputs=None, **signatures):
    """Returns the answer that tells of a signature with an input x and these outputs."""
    x = {'dtype': 'DT_FLOAT', 'tensor_shape': {'dim': [{'size': -1}, {'size': 1}]}}
    found = {'serving_default': {'inputs': {'x': x}, 'outputs': outputs or {'y': x}}, **signatures}
    if protocol == 'rest':
        found = {'metadata': {'signature_def': {'signature_def': found}}}
        return json.dumps(found).encode()
    return packed(json_format.ParseDict({'signature_def': found}, metadata_pb2.SignatureDefMap()))


def packed(signatures):
    response = metadata_pb2.GetModelMetadataResponse()
    response.metadata['signature_def'].Pack(signatures)
    return response.SerializeToString()


@contextlib.contextmanager
def answering(protocol, outputs=None, **answers):
    """A client of a server that answers to each method with what is given."""
    answers = {'metadata': metadata(protocol, outputs), **answers}
    with RAW[protocol](answers) as place, RemotePredictor(place, 'm') as predict_fn:
        yield predict_fn


def predicted(**fields):
    """Returns gRPC's answer to Predict with the output y: float32 [1, 1], but for what is given."""
    shape = {'dim': [{'size': size} for size in fields.pop('shape', [1, 1])]}
    y = tensor_pb2.TensorProto(**{'dtype': 1, 'tensor_shape': shape, **fields})
    return predict_pb2.PredictResponse(outputs={'y': y}).SerializeToString()


FOUR_BYTES = np.float32(3).tobytes()
BAD = {
    'grpc': {
        'does not parse': b'\xff',
        'no output': predict_pb2.PredictResponse().SerializeToString(),
        'another output': predicted(float_val=[3]).replace(b'y', b'z'),
        'unknown dtype': predicted(dtype=999, float_val=[3]),
        'wrong dtype': predicted(dtype=3, int_val=[3]),
        'wrong shape': predicted(shape=[1], float_val=[3]),
        'values missing': predicted(shape=[3, 1], float_val=[3]),
        'too many values': predicted(float_val=[3, 4]),
        'more than the memory holds': predicted(shape=[2**40, 1], float_val=[3]),
        'truncated content': predicted(tensor_content=FOUR_BYTES[:3]),
    },
    'rest': {
        'empty': b'',
        'no UTF-8': b'{"outputs": [["\xff"]]}',
        'truncated': b'{"outputs": [[3.0]',
        'no object': b'[[3.0]]',
        'no output': b'{}',
        'another output': b'{"outputs": {"y": [[3.0]], "z": [[3.0]]}}',
        'nested too deep': b'{"outputs": ' + b'[' * 100_000,
        'integer of too many digits': b'{"outputs": [[' + b'9' * 5000 + b']]}',
        'wrong shape': b'{"outputs": [3.0]}',
        'ragged': b'{"outputs": [[3.0], [3.0, 4.0]]}',
    },
}


@pytest.mark.parametrize('protocol, what', [(p, what) for p in PROTOCOLS for what in BAD[p]])
def test_bad_answers(protocol, what):
    with answering(protocol, predict=BAD[protocol][what]) as predict_fn:
        failure('bad answer', predict_fn, {'x': [[3]]})


BAD_VALUES = {
    'DT_UINT8': ('300', '-1', '1.5', '1.0', 'Infinity', 'NaN', 'true', '"1"'),
    'DT_STRING': ('3', '{"b64": "?"}', '{"b64": 3}', '{"b65": ""}', '"\\ud800"'),
    'DT_FLOAT': ('1e999', '1e39', '1' + '0' * 400, '"3.0"', 'true', 'null', '[]', '{}'),
    'DT_BOOL': ('1', '0.0', '"true"'),
}


@pytest.mark.parametrize('dtype', BAD_VALUES)
def test_bad_values_over_rest(dtype):
    outputs = {'y': {'dtype': dtype, 'tensor_shape': {'dim': [{'size': -1}]}}}
    for value in BAD_VALUES[dtype]:
        answer = f'{{"outputs": [{value}]}}'.encode()
        with answering('rest', outputs, predict=answer) as predict_fn:
            failure('bad answer', predict_fn, {'x': [[3]]})


def test_an_empty_answer_over_rest():
    y = {'dtype': 'DT_FLOAT', 'tensor_shape': {'dim': [{'size': -1}, {'size': 3}]}}
    with answering('rest', {'y': y}, predict=b'{"outputs": []}') as predict_fn:
        assert_same(predict_fn({'x': [[3]]})['y'], np.zeros([0, 3], np.float32))


BAD_METADATA = {
    'grpc': [
        b'\xff',
        b'',
        packed(metadata_pb2.GetModelMetadataResponse()),
        metadata('grpc').replace(b'\x10\x01', b'\x10\x63'),  # 1 is DT_FLOAT, 99 unknown
    ],
    'rest': [
        b'{}',
        b'{"metadata": {"signature_def": {"signature_def": {"serving_default": 3}}}}',
        metadata('rest').replace(b'DT_FLOAT', b'DT_NONE'),
        metadata('rest').replace(b'-1', b'Infinity'),
    ],
}


@both
def test_bad_metadata(protocol):
    for answer in BAD_METADATA[protocol]:
        with RAW[protocol]({'metadata': answer}) as place:
            failure('bad answer', RemotePredictor, place, 'm')


def classified(*rows):
    rows = [{'classes': [{'label': label, 'score': 0.5} for label in row]} for row in rows]
    result = {'classifications': rows}
    return classification_pb2.ClassificationResponse(result=result).SerializeToString()


def regressed(*values):
    values = [{'value': value} for value in values]
    return regression_pb2.RegressionResponse(result={'regressions': values}).SerializeToString()


BAD_RESULTS = {  # for two examples
    ('grpc', 'classify'): [classified(*rows) for rows in ([], ['ab'], ['ab'] * 3, ['ab', 'a'])],
    ('grpc', 'regress'): [regressed(1), regressed(1, 2, 3), b'\xff'],
    ('rest', 'classify'): [
        '[[["a", 0.5]]]',
        '[[["a", 0.5]], [["a", 0.5], ["b", 0.5]]]',
        '[[["a", 0.5]], [["a"]]]',
        '[[["a", 0.5]], [["a", "b"]]]',
        '[[["a", 0.5]], [[1, 0.5]]]',
        '[[["a", 0.5]], 3]',
    ],
    ('rest', 'regress'): [
        '[]',
        '[1.0, 2.0, 3.0]',
        '[1.0, "2"]',
        '[[1.0], [2.0]]',
        '[1.0, 1e39]',
        '3',
    ],
}


@pytest.mark.parametrize('protocol, method', BAD_RESULTS)
def test_bad_results(protocol, method):
    x = {'dtype': 'DT_FLOAT', 'tensor_shape': {'dim': [{'size': -1}]}}
    outputs = dict.fromkeys(('classes', 'scores', 'outputs'), x)
    for answer in BAD_RESULTS[protocol, method]:
        if protocol == 'rest':
            answer = f'{{"results": {answer}}}'.encode()
        with answering(protocol, outputs, **{method: answer}) as predict_fn:
            failure('bad answer', getattr(predict_fn, method), [{'x': 1.0}] * 2)


def slowly(content, head=b''):
    def answer(handler):
        handler.wfile.write(head)
        for byte in content:
            handler.wfile.write(bytes([byte]))
            time.sleep(0.02)

    return answer


OK = b'HTTP/1.1 200 OK\r\n'


SLOW = {
    'headers': slowly(OK + b'\r\n' + b'{"outputs": [[3.0]]}' + b' ' * 50),
    'body': slowly(b'{"outputs": [[3.0]]}' + b' ' * 80, OK + b'\r\n'),
    'chunks': slowly(b'1\r\n \r\n' * 17, OK + b'Transfer-Encoding: chunked\r\n\r\n'),
}


@pytest.mark.parametrize('answer', SLOW.values(), ids=SLOW)
def test_a_byte_at_a_time_is_late(answer):
    """What comes is a right answer, in about two seconds."""
    with raw_rest({'metadata': metadata('rest'), 'predict': answer}) as place:
        predict_fn = RemotePredictor(place, 'm', timeout=0.4)
        assert 'within 0.4 s' in failure('late', predict_fn, {'x': [[3]]})


@pytest.mark.parametrize(
    'code, answer',
    [
        ('unreachable', b''),
        ('refused', b'HTTP/1.1 302 Found\r\nLocation: /v1/models/m/metadata\r\n\r\n'),
        ('unreachable', b'HTTP/1.1 503 Service Unavailable\r\n\r\n'),
        ('late', b'HTTP/1.1 504 Gateway Timeout\r\n\r\n'),
        ('refused', b'HTTP/1.1 500 Error\r\n\r\n{"error": "Out of\nmemory"}'),
        ('refused', b'HTTP/1.1 500 Error\r\n\r\n' + b'[' * 100_000),
        ('bad answer', b'SSH-2.0-OpenSSH\r\n'),
        ('bad answer', OK + b'Content-Length: 1000000000000000000\r\n\r\n{"outputs": '),
        ('bad answer', OK + b'Transfer-Encoding: chunked\r\n\r\n9\r\n{}'),
        ('bad answer', OK + b'X: 1\r\n' * 500),
    ],
)
def test_http_of_each_kind(code, answer):
    answers = {'metadata': metadata('rest'), 'predict': lambda handler: handler.wfile.write(answer)}
    with raw_rest(answers) as place, RemotePredictor(place, 'm') as predict_fn:
        failure(code, predict_fn, {'x': [[3]]})


def test_rest_needs_no_serving_api(ports, monkeypatch):
    monkeypatch.setitem(sys.modules, 'tensorflow_serving.apis', None)
    spec = importlib.util.spec_from_file_location('estimator_inference.copy', remote.__file__)
    copy = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(copy)
    place = f'http://127.0.0.1:{ports["rest"]}'
    assert copy.RemotePredictor(place, 'm')({'x': [[3]]})['y'].tolist() == [[6]]
    with pytest.raises(ImportError, match='pip install .tensorflow-serving-api=='):
        copy.RemotePredictor('127.0.0.1:1', 'm')


# The stand-in.


def test_rest_of_the_stand_in(ports):
    """What the client doesn't ask for, as TensorFlow Serving's sources have it."""

    def post(path, **body):
        connection = http.client.HTTPConnection('127.0.0.1', ports['rest'])
        connection.request('POST', f'/v1/models/{path}', json.dumps(body))
        return json.load(connection.getresponse())

    assert post('m:predict', inputs=[[3.0]]) == {'outputs': [[6.0]]}
    assert post('m/versions/1:predict', inputs={'x': [[3]]}) == {'outputs': [[6.0]]}
    assert 'Specific(m, 2)' in post('m/versions/2:predict', inputs=[[3]])['error']
    assert post('m:guess') == {'error': 'Malformed request: POST /v1/models/m:guess'}
    whole = post('m:classify', signature_name='classify', examples=[{'f': [1, 2]}])
    assert 'expected type: float' in whole['error']  # 1 is an int64


def test_serving_names_both_models():
    with open(os.path.join(ROOT, 'examples/serving/models.config')) as file:
        config = text_format.Parse(file.read(), model_server_config_pb2.ModelServerConfig())
    models = {model.name: model.base_path for model in config.model_config_list.config}
    assert models == {'double': '/models/double', 'iris': '/models/iris'}
    with open(os.path.join(ROOT, 'examples/serving/compose.yaml')) as file:
        compose = file.read()
    assert re.findall(r'source: (\S+), target: (\S+), read_only: true', compose) == [
        ('./models.config', '/models/models.config'),
        ('../../saved_model', '/models/double'),
        ('../../iris/saved_model', '/models/iris'),
    ]
    ports = re.findall(r'^ +- "(.*)"', compose, re.M)
    assert ports == ['127.0.0.1:8500:8500', '127.0.0.1:8501:8501']
