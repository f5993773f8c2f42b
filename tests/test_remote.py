"""The clients of TensorFlow Serving, over gRPC and REST, against the stand-in of model_server.py."""

import http.server
import json
import os
import pathlib
import re
import shutil
import socket
import threading
import time
import urllib.error
import urllib.request

import numpy as np
import pytest

pytest.importorskip('tensorflow_serving')

import grpc
import model_server
from google.protobuf import text_format
from processes import ROOT
from tensorflow_serving.apis import classification_pb2, predict_pb2, prediction_service_pb2_grpc
from tensorflow_serving.config import model_server_config_pb2
from test_iris import printed, scores  # noqa: F401  fixtures

import export
import train
from beyond import export as beyond_export
from beyond import serve as beyond_serve
from estimator_inference import RemotePredictor, exports, remote, tf
from iris import iris_data
from iris import remote as iris_remote

PRINTED = (
    r'Serving 127\.0\.0\.1:\d+\nf\(100\) = (199|200|201)\.\d\d\nf\(101\) = 20\d\.\d\d\nf\(102\) = 20\d\.\d\d\n'
    r'Average time in beyond\.serve: [\d.]+s\n\({} calls: median [\d.]+ (s|ms|us), the first [\d.]+ (s|ms|us)\)'
    r'\n'
)


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    monkeypatch.setenv('no_proxy', '127.0.0.1')


@pytest.fixture(scope='module')
def server(exported, iris_trained):
    """The ports of a stand-in with both exports: (gRPC, REST)."""
    with model_server.serving({'double': exported, 'iris': f'{iris_trained}/saved_model'}) as ports:
        yield ports


@pytest.fixture(params=['grpc', 'rest'])
def ask(request, server, ends):
    """Asserts that iris.remote ends with one line, over either protocol; the line. Default: asks the stand-in."""
    rest = request.param == 'rest'
    return lambda *args, port=server[rest]: ends(
        iris_remote, '--port', port, *args, *['--rest'] * rest
    )


@pytest.fixture(scope='module')
def stub(server):
    with grpc.insecure_channel(f'127.0.0.1:{server[0]}') as channel:
        yield prediction_service_pb2_grpc.PredictionServiceStub(channel)


@pytest.mark.parametrize('flags', [[], ['--rest']])
def test_prints_the_table_and_the_version(flags, server, iris_trained, printed, script):
    port, [version] = server[bool(flags)], os.listdir(f'{iris_trained}/saved_model')
    process = script(
        '-m iris.remote',
        '--host',
        'localhost',
        '--port',
        port,
        '--model',
        'iris',
        '--timeout',
        '30',
        *flags,
    )
    assert (
        process.stdout
        == f"{printed}Answered by version {version} of the model 'iris' at localhost:{port}\n"
    )
    assert process.stderr == '' and process.returncode == 0


def test_probabilities_are_equal(server, scores):
    with remote.Connection(f'127.0.0.1:{server[0]}', 'iris') as connection:
        by_grpc = connection.classify(iris_data.to_examples(iris_data.FLOWERS))
    by_rest = remote.classify_rest(
        f'127.0.0.1:{server[1]}', 'iris', iris_data.rows(iris_data.FLOWERS)
    )
    assert by_grpc[0] == by_rest[0] == [['0', '1', '2']] * 3
    for answer in (by_grpc, by_rest):
        np.testing.assert_allclose(answer[1], scores, atol=1e-6, rtol=0)


def test_the_newest_version_answers(iris_trained, tmp_path, capsys):
    [export_dir] = pathlib.Path(iris_trained, 'saved_model').iterdir()
    shutil.copytree(export_dir, tmp_path / 'iris/5')
    with model_server.serving({'iris': str(tmp_path / 'iris')}) as ports:

        def answers():
            capsys.readouterr()
            iris_remote.main(['--port', str(ports[0])])
            iris_remote.main(['--port', str(ports[1]), '--rest'])
            return re.findall(r'Answered by version (\d+)', capsys.readouterr().out)

        assert answers() == ['5', '5']
        shutil.copytree(export_dir, tmp_path / 'iris/40')
        assert answers() == ['40', '40']


def test_serve_prints_the_predictions_and_the_timing(server, script):
    process = script('-m beyond.serve', '--remote', f'127.0.0.1:{server[0]}', '--examples', 20)
    assert re.fullmatch(PRINTED.format(20), process.stdout), process.stderr
    assert process.stderr == ''


@pytest.mark.parametrize(
    'receiver, flags',
    [('raw', []), ('example', []), ('example', ['--heads', '--signature', 'regression'])],
)
def test_serve_feeds_what_the_signature_tells(receiver, flags, trained, tmp_path, capsys):
    beyond_export.main(
        [
            '--model-dir',
            trained,
            '--export-dir',
            str(tmp_path / 'double'),
            '--receiver',
            receiver,
            *flags[:1],
        ]
    )
    capsys.readouterr()
    with model_server.serving({'double': str(tmp_path / 'double')}) as ports:
        beyond_serve.main(['--remote', f'127.0.0.1:{ports[0]}', '--examples', '5', *flags[1:]])
    assert re.fullmatch(PRINTED.format(5), capsys.readouterr().out)


def test_serve_ends_with_wrong_answers(tmp_path, capsys):
    train.main(['--model-dir', str(tmp_path / 'model'), '--steps', '1'])
    export.main(['--model-dir', str(tmp_path / 'model'), '--export-dir', str(tmp_path / 'double')])
    with (
        model_server.serving({'double': str(tmp_path / 'double')}) as ports,
        pytest.raises(SystemExit) as error,
    ):
        beyond_serve.main(['--remote', f'127.0.0.1:{ports[0]}', '--examples', '1'])
    assert re.fullmatch(r'f\(100\) = \S+, expected 200: .+', error.value.code)


def test_remote_predictor(server):
    with RemotePredictor(f'127.0.0.1:{server[0]}', 'double') as predict_fn:
        assert predict_fn.feed_tensors == {'number': tf.TensorSpec([None, 1], tf.float32)}
        assert list(predict_fn.fetch_tensors) == ['output']
        np.testing.assert_allclose(
            predict_fn({'number': [[3], [50]]})['output'], [[6], [100]], rtol=1e-2
        )


def test_remote_predictor_of_more_than_4_mib_and_closed(server):
    """4 MiB are what gRPC takes of a message by default."""
    numbers = np.linspace(0, 100, 1_500_000, dtype=np.float32)[:, None]
    with RemotePredictor(f'127.0.0.1:{server[0]}', 'double') as predict_fn:
        np.testing.assert_allclose(
            predict_fn({'number': numbers})['output'], 2 * numbers, rtol=1e-2, atol=1e-2
        )
    with pytest.raises(ValueError, match='closed'):
        predict_fn({'number': [[3]]})


def test_remote_predictor_sends_strings(server, scores):
    with RemotePredictor(f'127.0.0.1:{server[0]}', 'iris', 'predict') as predict_fn:
        assert predict_fn.feed_tensors == {'examples': tf.TensorSpec([None], tf.string)}
        answer = predict_fn({'examples': iris_data.serialized(iris_data.FLOWERS)})
    np.testing.assert_allclose(answer['probabilities'], scores, atol=1e-6, rtol=0)
    assert answer['all_classes'].tolist() == [[b'0', b'1', b'2']] * 3


def test_remote_predictor_checks_what_it_is_fed(server):
    with RemotePredictor(f'127.0.0.1:{server[0]}', 'double') as predict_fn:
        for inputs, message in (
            ({'x': [[3]]}, r"unknown inputs \['x'\]: expected \['number'\]"),
            ({'number': [3]}, r"input 'number': expected float32 \[None, 1\], got the shape \[1\]"),
            (
                {'number': [['x']]},
                r"input 'number': expected float32 \[None, 1\], got \[\['x'\]\]: .+",
            ),
            ({'number': None}, r"input 'number': expected float32 \[None, 1\], got None"),
        ):
            with pytest.raises(ValueError, match=f'^{message}$') as error:
                predict_fn(inputs)
            assert not isinstance(error.value, remote.RemoteError)
        with pytest.raises(
            remote.Refused, match=r'^127.+ refuses what the model .double. .+: \{number\}\.$'
        ):
            predict_fn({})
        np.testing.assert_allclose(predict_fn({'number': [[3]]})['output'], [[6]], rtol=1e-2)


def test_remote_predictor_raises_errors_that_say_host_model_and_reason(server, free_port):
    address, nobody = f'127.0.0.1:{server[0]}', f'127.0.0.1:{free_port()}'
    with socket.create_server(('127.0.0.1', 0)) as silent:
        late = f'127.0.0.1:{silent.getsockname()[1]}'
        for error, base, arguments, reason in (
            (remote.Unreachable, ConnectionError, (nobody, 'double'), '.*connect.*'),
            (remote.TimedOut, TimeoutError, (late, 'double', None, 0.3), 'within 0.3 s'),
            (remote.UnknownModel, LookupError, (address, 'tulips'), 'Servable not found.*'),
            (remote.Refused, ValueError, (address, 'double', 'x'), "no signature 'x', only .*"),
        ):
            with pytest.raises(error, match=reason) as raised:
                RemotePredictor(*arguments)
            assert isinstance(raised.value, base) and isinstance(raised.value, remote.RemoteError)
            assert arguments[0] in str(raised.value) and repr(arguments[1]) in str(raised.value)


def test_classify_rest_raises_the_same_errors(server, free_port):
    examples, address = iris_data.rows(iris_data.FLOWERS), f'127.0.0.1:{server[1]}'
    with socket.create_server(('127.0.0.1', 0)) as silent:
        for error, at, model in (
            (remote.Unreachable, f'127.0.0.1:{free_port()}', 'iris'),
            (remote.TimedOut, f'127.0.0.1:{silent.getsockname()[1]}', 'iris'),
            (remote.UnknownModel, address, 'tulips'),
            (remote.Refused, address, 'double'),
        ):
            with pytest.raises(error) as raised:
                remote.classify_rest(
                    at, model, examples, timeout=0.3 if error is remote.TimedOut else 30
                )
            assert at in str(raised.value) and repr(model) in str(raised.value)


def test_no_server(ask, free_port):
    port = free_port()
    assert re.fullmatch(
        rf"no TensorFlow Serving at 127\.0\.0\.1:{port} for the model 'iris' \(.*\): start one with "
        r'docker compose -f \S*serving/compose\.yaml up, or name another host and port',
        ask(port=port),
    )


def test_time_out(ask):
    with socket.create_server(('127.0.0.1', 0)) as silent:  # connects, and never answers
        port, tic = silent.getsockname()[1], time.monotonic()
        assert (
            ask('--timeout', '0.7', port=port)
            == f"no answer from 127.0.0.1:{port} for the model 'iris' within 0.7 s"
        )
        assert time.monotonic() - tic > 0.5


def test_unknown_model(ask):
    assert re.fullmatch(
        r"127\.0\.0\.1:\d+ serves no model 'tulips' \(Servable not found for request: "
        r'Latest\(tulips\)\): name one of its models',
        ask('--model', 'tulips'),
    )


def test_refusing_server(ask):
    assert re.fullmatch(
        r"127\.0\.0\.1:\d+ refuses what the model 'double' is asked \((INVALID_ARGUMENT|HTTP 400)\): "
        'Expected classification signature method_name to be tensorflow/serving/classify. '
        'Was: tensorflow/serving/predict',
        ask('--model', 'double'),
    )


def test_the_other_port(server, ends):
    assert f'no TensorFlow Serving at 127.0.0.1:{server[1]} for ' in ends(
        iris_remote, '--port', server[1]
    )
    assert f'no TensorFlow Serving at 127.0.0.1:{server[0]} for ' in ends(
        iris_remote, '--port', server[0], '--rest'
    )


@pytest.mark.parametrize('content', [b'<html>', b'{}', b'[1]', b'{"model_spec": {"version": "x"}}'])
def test_another_server(content, ends):
    class Other(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *args):
            pass

    with http.server.HTTPServer(('127.0.0.1', 0), Other) as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        line = ends(iris_remote, '--rest', '--port', other.server_port)
        other.shutdown()
    assert f'127.0.0.1:{other.server_port} does not answer as a TensorFlow Serving does' in line


def test_errors_of_serve(server, ends):
    address = f'127.0.0.1:{server[0]}'
    assert re.fullmatch(
        rf"the model 'double' at {address} has no signature 'tulips', only \[.*'serving_default'\]",
        ends(beyond_serve, '--remote', address, '--signature', 'tulips'),
    )
    assert 'no TensorFlow Serving at 127.0.0.1:1 for ' in ends(
        beyond_serve, '--remote', '127.0.0.1:1'
    )
    for value in ('127.0.0.1', ':8500', '127.0.0.1:', '127.0.0.1:0', '127.0.0.1:65536'):
        assert 'argument --remote: expected ' in ends(beyond_serve, f'--remote={value}')


def test_bad_flags(ends):
    assert 'argument --port: expected a port from 1 to 65535' in ends(
        iris_remote, '--port', '65536'
    )
    for value in ('0', '-1', 'nan', 'inf', 'soon'):
        assert 'argument --timeout: expected a number of seconds above 0' in ends(
            iris_remote, f'--timeout={value}'
        )


def test_an_error_is_exit_status_1_and_one_line(server, script):
    process = script('-m iris.remote', '--port', server[0], '--model', 'tulips')
    assert process.returncode == 1 and process.stdout == '' and process.stderr.count('\n') == 1


def test_rest_needs_no_serving_api(server, printed, script, tmp_path):
    code = tmp_path / 'missing.py'
    code.write_text("""
import importlib, runpy, sys
sys.modules['tensorflow_serving'] = sys.modules['tensorflow_serving.apis'] = None
assert importlib.reload(importlib.import_module('estimator_inference.remote')).grpc is None
runpy.run_module('iris.remote', run_name='__main__')
""")
    process = script(str(code), '--rest', '--port', server[1])
    assert process.stdout.startswith(printed) and process.returncode == 0, process.stderr


# The stand-in: rules of TensorFlow Serving.


def refusal(method, request):
    with pytest.raises(grpc.RpcError) as error:
        method(request, timeout=30)
    return error.value.code().name, error.value.details()


def test_the_stand_in_refuses_as_tensorflow_serving_does(stub):
    def classify(**spec):
        request = classification_pb2.ClassificationRequest(model_spec=spec)
        request.input.example_list.examples.extend(iris_data.to_examples(iris_data.FLOWERS))
        return refusal(stub.Classify, request)

    assert classify(name='iris', version={'value': 3}) == (
        'NOT_FOUND',
        'Servable not found for request: Specific(iris, 3)',
    )
    assert classify(name='iris', signature_name='x') == (
        'INVALID_ARGUMENT',
        'No signature was found with the name: x',
    )
    assert classify() == ('INVALID_ARGUMENT', 'ModelSpec has no name specified.')
    assert refusal(
        stub.Classify, classification_pb2.ClassificationRequest(model_spec={'name': 'iris'})
    ) == ('INVALID_ARGUMENT', 'Input is empty.')

    request = predict_pb2.PredictRequest(model_spec={'name': 'double', 'signature_name': 'x'})
    assert refusal(stub.Predict, request) == (
        'FAILED_PRECONDITION',
        'Serving signature key "x" not found.',
    )
    request = predict_pb2.PredictRequest(
        model_spec={'name': 'double'}, inputs={'n': tf.make_tensor_proto(3.0)}
    )
    assert refusal(stub.Predict, request) == (
        'INVALID_ARGUMENT',
        'input size does not match signature: 1!=1 len({n}) != len({number}). Sent extra: {n}. '
        'Missing but required: {number}.',
    )
    request = predict_pb2.PredictRequest(
        model_spec={'name': 'iris', 'signature_name': 'predict'},
        inputs={'examples': tf.make_tensor_proto(['malformed'])},
    )
    assert refusal(stub.Predict, request)[0] == 'INVALID_ARGUMENT'


def test_the_stand_in_answers_rest_as_tensorflow_serving_does(server):
    def post(path, body):
        request = urllib.request.Request(
            f'http://127.0.0.1:{server[1]}/v1/models/{path}', json.dumps(body).encode()
        )
        try:
            with urllib.request.urlopen(request, timeout=30) as response:
                return response.status, json.load(response)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)['error']

    status, answer = post('double:predict', {'instances': [[3.0], [50]]})
    assert status == 200 and list(answer) == ['predictions']
    np.testing.assert_allclose(answer['predictions'], [[6], [100]], rtol=1e-2)
    status, answer = post('iris:predict', {'signature_name': 'predict', 'instances': ['']})
    assert status == 400 and 'is required but could not be found' in answer
    whole = [dict.fromkeys(iris_data.FEATURES, 3)]  # not 3.0: an int64
    assert post('iris:classify', {'examples': whole})[0] == 400
    assert post('iris:guess', {}) == (400, 'Malformed request: POST /v1/models/iris:guess')
    assert post('iris/versions/3:classify', {}) == (
        404,
        'Servable not found for request: Specific(iris, 3)',
    )


def test_the_stand_in_tells_what_answered(stub, exported):
    request = predict_pb2.PredictRequest(model_spec={'name': 'double'})
    request.inputs['number'].CopyFrom(tf.make_tensor_proto([[3.0]]))
    spec = stub.Predict(request, timeout=30).model_spec
    assert (spec.name, spec.signature_name, spec.version.value) == (
        'double',
        'serving_default',
        int(os.path.basename(exports.latest(exported))),
    )


def test_serving_names_both_models():
    with open(os.path.join(ROOT, 'serving/models.config')) as file:
        config = text_format.Parse(file.read(), model_server_config_pb2.ModelServerConfig())
    models = {model.name: model.base_path for model in config.model_config_list.config}
    assert models == {'double': '/models/double', 'iris': '/models/iris'}
    with open(os.path.join(ROOT, 'serving/compose.yaml')) as file:
        compose = file.read()
    mounts = dict(re.findall(r'source: (\S+), target: (\S+), read_only: true', compose))
    assert mounts == {
        './models.config': '/models/models.config',
        '../saved_model': '/models/double',
        '../iris/saved_model': '/models/iris',
    }
    assert re.findall(r'^ +- "(.*)"', compose, re.M) == [
        '127.0.0.1:8500:8500',
        '127.0.0.1:8501:8501',
    ]
