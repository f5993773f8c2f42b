"""A stand-in for TensorFlow Serving, for its clients' tests and where there is no Docker.

    python -m examples.serving.model_server double=saved_model iris=iris/saved_model

serves the newest export below each directory with the predictor, over gRPC on port 8500 and REST on
port 8501 of this machine, until Ctrl-C. It keeps to TensorFlow Serving's rules, codes and words of
errors, as its sources have them (tensorflow_serving/servables/tensorflow, util/json_tensor.cc).
"""

import base64
import contextlib
import functools
import http.server
import json
import os
import re
import sys
import threading
from concurrent import futures

import grpc
import numpy as np
from estimator_inference import exports, predictor, tf
from google.protobuf import json_format
from tensorflow_serving.apis import classification_pb2, predict_pb2, regression_pb2
from tensorflow_serving.apis import get_model_metadata_pb2 as metadata_pb2
from tensorflow_serving.apis import prediction_service_pb2_grpc as service_pb2_grpc


class Refused(Exception):
    """A request that is answered with an error: (details, the name of a grpc.StatusCode)."""

    def __init__(self, details, code='INVALID_ARGUMENT'):
        super().__init__(details, code)


class Service:
    """The methods of TensorFlow Serving's PredictionService. `models`: {name: their directory}."""

    def __init__(self, models):
        self._models = models

    def Predict(self, request):
        spec, signature, predict_fn = self.find(request)
        given, expected = set(request.inputs), set(signature.inputs)
        missing = expected - given - set(signature.defaults)
        if missing or given - expected:
            raise Refused(
                f'input size does not match signature: {len(given)}!={len(expected)}. Sent extra: '
                f'{sorted(given - expected)}. Missing but required: {sorted(missing)}.'
            )
        inputs = {key: request.inputs.get(key, signature.defaults.get(key)) for key in expected}
        for key, tensor in inputs.items():
            if tensor.dtype != signature.inputs[key].dtype:
                raise Refused(f'{key}: {tf.as_dtype(tensor.dtype).name} is not its dtype')
        outputs = run(predict_fn, {key: tf.make_ndarray(inputs[key]) for key in inputs})
        protos = {
            key: tf.make_tensor_proto(outputs[key], info.dtype)
            for key, info in signature.outputs.items()
        }
        return predict_pb2.PredictResponse(model_spec=spec, outputs=protos)

    def Classify(self, request):
        spec, outputs = self._run_examples(request, 'classification', 'classify')
        response = classification_pb2.ClassificationResponse(model_spec=spec)
        [shape] = {value.shape for value in outputs.values()}
        labels, scores = outputs.get('classes', np.full(shape, '')), outputs.get('scores')
        for row in zip(labels, np.zeros(shape) if scores is None else scores):
            classes = [{'label': label, 'score': score} for label, score in zip(*row)]
            response.result.classifications.add(classes=classes)
        return response

    def Regress(self, request):
        spec, outputs = self._run_examples(request, 'regression', 'regress')
        values = [{'value': value} for value in outputs['outputs'].ravel()]
        return regression_pb2.RegressionResponse(model_spec=spec, result={'regressions': values})

    def GetModelMetadata(self, request):
        spec, signatures, _ = self._load(request)
        response = metadata_pb2.GetModelMetadataResponse(model_spec=spec)
        signatures = metadata_pb2.SignatureDefMap(signature_def=signatures)
        response.metadata['signature_def'].Pack(signatures)
        return response

    def find(self, request):
        """Returns what answers a request: (ModelSpec, SignatureDef, Predictor)."""
        spec, signatures, predict_fns = self._load(request)
        name = spec['signature_name'] = request.model_spec.signature_name or 'serving_default'
        if name not in signatures:
            code = 'FAILED_PRECONDITION' if hasattr(request, 'inputs') else 'INVALID_ARGUMENT'
            raise Refused(f'Serving signature key "{name}" not found.', code)
        return spec, signatures[name], predict_fns(name)

    def _load(self, request):
        """Returns of the newest version: (ModelSpec, {name: SignatureDef}, their Predictors)."""
        asked, export_dir = request.model_spec, ''
        with contextlib.suppress(KeyError, FileNotFoundError):
            export_dir = exports.latest(self._models[asked.name])
        version = asked.version.value if asked.HasField('version') else None
        if not export_dir or version not in (None, int(os.path.basename(export_dir))):
            name = (
                f'Latest({asked.name})' if version is None else f'Specific({asked.name}, {version})'
            )
            raise Refused(f'Servable not found for request: {name}', 'NOT_FOUND')
        version = {'value': int(os.path.basename(export_dir))}
        return {'name': asked.name, 'version': version}, *load(export_dir)

    def _run_examples(self, request, kind, method):
        spec, signature, predict_fn = self.find(request)
        expected, found = f'tensorflow/serving/{method}', signature.method_name
        if found != expected:
            raise Refused(f'Expected {kind} signature method_name to be {expected}. Was: {found}')
        examples = request.input.example_list.examples
        if not examples:
            raise Refused('Input is empty.')
        return spec, run(predict_fn, {'inputs': [each.SerializeToString() for each in examples]})


@functools.lru_cache(maxsize=None)
def load(export_dir):
    """Returns ({name: SignatureDef}, function from a name to its Predictor)."""
    signatures = dict(exports.read(export_dir).meta_graphs[0].signature_def)
    signatures.pop('__saved_model_init_op', None)
    open_predictor = functools.partial(predictor.from_saved_model, export_dir)
    return signatures, functools.lru_cache(maxsize=None)(open_predictor)


def run(predict_fn, inputs):
    try:
        return predict_fn(inputs)
    except tf.errors.OpError as error:
        [code] = [code.name for code in grpc.StatusCode if code.value[0] == error.error_code]
        raise Refused(error.message, code) from None
    except ValueError as error:
        raise Refused(str(error)) from None


class Handler(http.server.BaseHTTPRequestHandler):
    """REST: JSON for each request and response of the service."""

    service = None

    def do_GET(self):
        self.answer(r'/v1/models/([^/:]+)(?:/versions/(\d+))?/(metadata)')

    def do_POST(self):
        self.answer(r'/v1/models/([^/:]+)(?:/versions/(\d+))?:(classify|predict|regress)')

    def answer(self, path):
        try:
            content = self.rfile.read(int(self.headers.get('Content-Length', 0)))
            match = re.fullmatch(path, self.path)
            if not match:
                raise Refused(f'Malformed request: {self.command} {self.path}')
            body = json.loads(content or '{}')
            spec = {'name': match[1], 'signature_name': body.get('signature_name', '')}
            if match[2]:
                spec['version'] = {'value': int(match[2])}
            status, answer = 200, getattr(self, match[3])(spec, body)
        except Refused as error:
            status = {'NOT_FOUND': 404, 'UNIMPLEMENTED': 501}.get(error.args[1], 400)
            answer = {'error': error.args[0]}
        except (LookupError, TypeError, ValueError) as error:
            status, answer = 400, {'error': f'JSON Parse error: {error!r}'}
        self.send_response(status)
        self.send_header('Content-Type', 'application/json')
        self.end_headers()
        self.wfile.write(json.dumps(answer).encode())

    def metadata(self, spec, body):
        request = metadata_pb2.GetModelMetadataRequest(model_spec=spec)
        response = self.service.GetModelMetadata(request)
        return json_format.MessageToDict(response, preserving_proto_field_name=True)

    def classify(self, spec, body):
        content = {'example_list': {'examples': map(to_example, body['examples'])}}
        request = classification_pb2.ClassificationRequest(model_spec=spec, input=content)
        rows = self.service.Classify(request).result.classifications
        return {'results': [[[each.label, each.score] for each in row.classes] for row in rows]}

    def regress(self, spec, body):
        content = {'example_list': {'examples': map(to_example, body['examples'])}}
        request = regression_pb2.RegressionRequest(model_spec=spec, input=content)
        return {
            'results': [each.value for each in self.service.Regress(request).result.regressions]
        }

    def predict(self, spec, body):
        """Takes and gives columns, {key: batch}; one input or output may come without its key."""
        request, columns = predict_pb2.PredictRequest(model_spec=spec), body['inputs']
        for key, info in self.service.find(request)[1].inputs.items():
            named = isinstance(columns, dict) and set(columns) != {'b64'}
            value = decoded(columns[key] if named else columns)
            array = np.asarray(value, tf.as_dtype(info.dtype).as_numpy_dtype)
            request.inputs[key].CopyFrom(tf.make_tensor_proto(array))
        protos = self.service.Predict(request).outputs
        outputs = {key: encoded(tf.make_ndarray(protos[key]), key) for key in protos}
        return {'outputs': outputs if len(outputs) > 1 else outputs.popitem()[1]}

    def log_message(self, *args):
        pass


def decoded(value):
    """Returns a JSON value with bytes for each {"b64": ...} in it."""
    if isinstance(value, list):
        return [decoded(each) for each in value]
    return base64.b64decode(value['b64']) if isinstance(value, dict) else value


def encoded(array, key):
    """Returns an array as JSON: strings as {"b64": ...} where the output's key ends with _bytes."""
    if array.dtype != object:
        return array.tolist()
    as_bytes = key.endswith('_bytes')
    encode = (lambda s: {'b64': base64.b64encode(s).decode()}) if as_bytes else bytes.decode
    return np.vectorize(encode, otypes=[object])(array).tolist()


def to_example(features):
    """Returns a tf.train.Example for JSON, in which 3.0 is a float and 3 an int64."""
    example = tf.train.Example()
    for name, value in features.items():
        feature = example.features.feature[name]
        for each in decoded(value if isinstance(value, list) else [value]):
            if isinstance(each, float):
                feature.float_list.value.append(each)
            elif isinstance(each, int):
                feature.int64_list.value.append(each)
            else:
                feature.bytes_list.value.append(tf.compat.as_bytes(each))
    return example


def for_grpc(method):
    def answer(request, context):
        try:
            return method(request)
        except Refused as error:
            context.abort(grpc.StatusCode[error.args[1]], error.args[0])

    return answer


@contextlib.contextmanager
def serving(models, grpc_port=0, rest_port=0):
    """Serves {name: directory of its exports} on the loopback interface; gives the two ports."""
    service, servicer = Service(models), service_pb2_grpc.PredictionServiceServicer()
    for name in ('Predict', 'Classify', 'Regress', 'GetModelMetadata'):
        setattr(servicer, name, for_grpc(getattr(service, name)))
    options = [('grpc.max_receive_message_length', -1)]
    server = grpc.server(futures.ThreadPoolExecutor(4), options=options)
    service_pb2_grpc.add_PredictionServiceServicer_to_server(servicer, server)
    grpc_port = server.add_insecure_port(f'127.0.0.1:{grpc_port}')
    handler = type('Handler', (Handler,), {'service': service})
    rest = http.server.ThreadingHTTPServer(('127.0.0.1', rest_port), handler)
    server.start()
    threading.Thread(target=rest.serve_forever, daemon=True).start()
    try:
        yield grpc_port, rest.server_port
    finally:
        server.stop(None).wait()
        rest.shutdown()
        rest.server_close()


if __name__ == '__main__':
    models = dict(argument.split('=') for argument in sys.argv[1:])
    with serving(models, 8500, 8501), contextlib.suppress(KeyboardInterrupt):
        print(f'Serving {models} on 127.0.0.1:8500 (gRPC) and 127.0.0.1:8501 (REST)', flush=True)
        while not threading.Event().wait(1):  # so that Ctrl-C is heard on Windows, too
            pass
