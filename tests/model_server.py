"""A stand-in for TensorFlow Serving, which the package registries don't have: it answers the tests of its clients.

It is built on the official stubs, runs the real exports with the predictor, and follows TensorFlow Serving's rules as
its sources have them (tensorflow_serving/servables/tensorflow, core/basic_manager.cc, util/json_tensor.cc): the newest
version answers, and no other; a request names its signature; the codes and words of its errors.

To try a client with it by hand, as with the real one on its ports:

    PYTHONPATH=. python tests/model_server.py double=saved_model iris=iris/saved_model
"""

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
import tensorflow as tf
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    predict_pb2,
    prediction_service_pb2_grpc,
)

import support  # noqa: F401  before TensorFlow
from estimator_inference import exports, predictor

CLASSIFY = 'tensorflow/serving/classify'
HTTP_STATUS = {
    'INVALID_ARGUMENT': 400,
    'FAILED_PRECONDITION': 400,
    'NOT_FOUND': 404,
    'UNIMPLEMENTED': 501,
}


class Refused(Exception):
    """A request that is answered with an error: (the name of a grpc.StatusCode, details)."""


class Service(prediction_service_pb2_grpc.PredictionServiceServicer):
    """The methods of a PredictionService. `models`: {name: directory of its exports}."""

    def __init__(self, models):
        self._models = models

    def Predict(self, request, context=None):
        version, signatures, predict_fn = self._find(request.model_spec)
        name = request.model_spec.signature_name or 'serving_default'
        if name not in signatures:
            raise Refused('FAILED_PRECONDITION', f'Serving signature key "{name}" not found.')
        expected, given = set(signatures[name].inputs), set(request.inputs)
        if expected != given:
            raise Refused(
                'INVALID_ARGUMENT',
                f'input size does not match signature: {len(given)}!={len(expected)} '
                f'len({{{",".join(sorted(given))}}}) != len({{{",".join(sorted(expected))}}}). '
                f'Sent extra: {{{",".join(sorted(given - expected))}}}. '
                f'Missing but required: {{{",".join(sorted(expected - given))}}}.',
            )
        unknown = set(request.output_filter) - set(signatures[name].outputs)
        if unknown:
            raise Refused(
                'INVALID_ARGUMENT', f'output tensor alias not found in signature: {unknown.pop()}'
            )
        for key, tensor in request.inputs.items():
            if tensor.dtype != signatures[name].inputs[key].dtype:
                raise Refused(
                    'INVALID_ARGUMENT',
                    f'{key}: Expects arg[0] to be '
                    f'{tf.as_dtype(signatures[name].inputs[key].dtype).name} but '
                    f'{tf.as_dtype(tensor.dtype).name} is provided',
                )
        outputs = run(
            predict_fn(name),
            {key: tf.make_ndarray(tensor) for key, tensor in request.inputs.items()},
        )
        response = predict_pb2.PredictResponse(
            outputs={
                key: tf.make_tensor_proto(value, signatures[name].outputs[key].dtype)
                for key, value in outputs.items()
                if key in (request.output_filter or outputs)
            }
        )
        tell(response, request, version, name)
        return response

    def Classify(self, request, context=None):
        version, signatures, predict_fn = self._find(request.model_spec)
        name = request.model_spec.signature_name or 'serving_default'
        if name not in signatures:
            raise Refused('INVALID_ARGUMENT', f'No signature was found with the name: {name}')
        if signatures[name].method_name != CLASSIFY:
            raise Refused(
                'INVALID_ARGUMENT',
                f'Expected classification signature method_name to be {CLASSIFY}. '
                f'Was: {signatures[name].method_name}',
            )
        examples = [example.SerializeToString() for example in request.input.example_list.examples]
        if not examples:
            raise Refused('INVALID_ARGUMENT', 'Input is empty.')
        outputs = run(predict_fn(name), {'inputs': examples})
        response = classification_pb2.ClassificationResponse()
        for labels, scores in zip(outputs['classes'], outputs['scores']):
            answer = response.result.classifications.add()
            for label, score in zip(labels, scores):
                answer.classes.add(label=label, score=score)
        tell(response, request, version, name)
        return response

    def GetModelMetadata(self, request, context=None):
        if list(request.metadata_field) != ['signature_def']:
            raise Refused(
                'INVALID_ARGUMENT',
                f'Metadata field {list(request.metadata_field)} is not supported',
            )
        version, signatures, _ = self._find(request.model_spec)
        response = get_model_metadata_pb2.GetModelMetadataResponse()
        response.metadata['signature_def'].Pack(
            get_model_metadata_pb2.SignatureDefMap(signature_def=signatures)
        )
        tell(response, request, version, '')
        return response

    def _find(self, spec):
        """Returns of the model that a request asks for: (its version, {name: SignatureDef}, name -> Predictor)."""
        if not spec.name:
            raise Refused('INVALID_ARGUMENT', 'ModelSpec has no name specified.')
        export_dir = exports.latest(self._models[spec.name]) if spec.name in self._models else ''
        version = int(os.path.basename(export_dir) or -1)
        if not export_dir or spec.HasField('version') and spec.version.value != version:
            asked = (
                f'Specific({spec.name}, {spec.version.value})'
                if spec.HasField('version')
                else f'Latest({spec.name})'
            )
            raise Refused('NOT_FOUND', f'Servable not found for request: {asked}')
        return version, *load(export_dir)


@functools.lru_cache(maxsize=None)
def load(export_dir):
    """Returns ({name: SignatureDef}, function from the name of a signature to its Predictor)."""
    signatures = dict(exports.read(export_dir).meta_graphs[0].signature_def)
    signatures.pop('__saved_model_init_op', None)
    return signatures, functools.lru_cache(maxsize=None)(
        functools.partial(predictor.from_saved_model, export_dir)
    )


def run(predict_fn, inputs):
    try:
        return predict_fn(inputs)
    except tf.errors.OpError as error:
        [code] = [code.name for code in grpc.StatusCode if code.value[0] == error.error_code]
        raise Refused(code, error.message) from None
    except ValueError as error:
        raise Refused('INVALID_ARGUMENT', str(error)) from None


def tell(response, request, version, signature_name):
    response.model_spec.name, response.model_spec.signature_name = (
        request.model_spec.name,
        signature_name,
    )
    response.model_spec.version.value = version


class Handler(http.server.BaseHTTPRequestHandler):
    """The REST paths: POST :classify and :predict, GET /metadata."""

    def __init__(self, service, *args):
        self._service = service
        super().__init__(*args)

    def do_GET(self):
        self._answer(r'/v1/models/([^/:]+)(?:/versions/(\d+))?/(metadata)')

    def do_POST(self):
        self._answer(r'/v1/models/([^/:]+)(?:/versions/(\d+))?:(classify|predict)')

    def _answer(self, path):
        try:
            match = re.fullmatch(path, self.path)
            if not match:
                raise Refused('INVALID_ARGUMENT', f'Malformed request: {self.command} {self.path}')
            try:
                body = json.loads(
                    self.rfile.read(int(self.headers.get('Content-Length') or 0)) or '{}'
                )
            except ValueError as error:
                raise Refused('INVALID_ARGUMENT', f'JSON Parse error: {error}') from None
            status, content = 200, getattr(self, match[3])(body, *match.group(1, 2))
        except Refused as error:
            status, content = HTTP_STATUS.get(error.args[0], 500), {'error': error.args[1]}
        content = json.dumps(content, indent=4).encode()
        self.send_response(status)
        self.send_header('Content-Type', 'application/json')
        self.send_header('Content-Length', str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def metadata(self, body, *model):
        request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=['signature_def'])
        spec = self._service.GetModelMetadata(specify(request, body, *model)).model_spec
        return {
            'model_spec': {
                'name': spec.name,
                'signature_name': '',
                'version': str(spec.version.value),
            }
        }

    def classify(self, body, *model):
        request = specify(classification_pb2.ClassificationRequest(), body, *model)
        for features in body.get('examples', ()):
            example = request.input.example_list.examples.add()
            for key, value in features.items():
                feature = example.features.feature[key]
                values = feature.float_list if isinstance(value, float) else feature.int64_list
                values.value.append(value)
        result = self._service.Classify(request).result
        return {
            'results': [
                [[entry.label, entry.score] for entry in answer.classes]
                for answer in result.classifications
            ]
        }

    def predict(self, body, *model):
        request = specify(predict_pb2.PredictRequest(), body, *model)
        signatures = self._service._find(request.model_spec)[1]
        name = request.model_spec.signature_name or 'serving_default'
        if name not in signatures:
            raise Refused(
                'INVALID_ARGUMENT', f'Serving signature name: "{name}" not found in signature def'
            )
        if 'instances' not in body:
            raise Refused('INVALID_ARGUMENT', "Missing 'inputs' or 'instances' key")
        for key, info in signatures[name].inputs.items():
            rows = [row[key] if isinstance(row, dict) else row for row in body['instances']]
            request.inputs[key].CopyFrom(tf.make_tensor_proto(rows, info.dtype))
        outputs = self._service.Predict(request).outputs
        outputs = {key: tf.make_ndarray(tensor).tolist() for key, tensor in outputs.items()}
        rows = [dict(zip(outputs, values)) for values in zip(*outputs.values())]
        return {
            'predictions': [row[key] for row in rows for key in row] if len(outputs) == 1 else rows
        }

    def log_message(self, *args):
        pass


def specify(request, body, name, version):
    request.model_spec.name, request.model_spec.signature_name = (
        name,
        body.get('signature_name', ''),
    )
    if version:
        request.model_spec.version.value = int(version)
    return request


class _AbortRefused(grpc.ServerInterceptor):
    """Turns Refused, which the methods raise, into a gRPC error."""

    def intercept_service(self, continuation, details):
        handler = continuation(details)

        def method(request, context):
            try:
                return handler.unary_unary(request, context)
            except Refused as error:
                context.abort(grpc.StatusCode[error.args[0]], error.args[1])

        return handler and grpc.unary_unary_rpc_method_handler(
            method, handler.request_deserializer, handler.response_serializer
        )


@contextlib.contextmanager
def serving(models, grpc_port=0, rest_port=0):
    """Serves {name: directory of its exports} on the loopback interface; gives (gRPC port, REST port)."""
    service = Service(models)
    server = grpc.server(
        futures.ThreadPoolExecutor(4),
        interceptors=[_AbortRefused()],
        options=[('grpc.max_receive_message_length', -1)],
    )
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(service, server)
    grpc_port = server.add_insecure_port(f'127.0.0.1:{grpc_port}')
    rest = http.server.ThreadingHTTPServer(
        ('127.0.0.1', rest_port), functools.partial(Handler, service)
    )
    server.start()
    threading.Thread(target=rest.serve_forever, daemon=True).start()
    try:
        yield grpc_port, rest.server_port
    finally:
        server.stop(None).wait()
        rest.shutdown()
        rest.server_close()


if __name__ == '__main__':
    with (
        serving(dict(argument.split('=') for argument in sys.argv[1:]), 8500, 8501),
        contextlib.suppress(KeyboardInterrupt),
    ):
        print(f'Serving {sys.argv[1:]} on 127.0.0.1:8500 (gRPC) and 8501 (REST)', flush=True)
        threading.Event().wait()
