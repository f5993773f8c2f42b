"""A stand-in for TensorFlow Serving, for its clients' tests and where there is no Docker.

    python -m examples.serving.model_server double=saved_model iris=iris/saved_model

serves the newest export below each directory with the predictor, over gRPC on port 8500 and REST on
port 8501 of this machine, until Ctrl-C. It keeps to TensorFlow Serving's rules, codes and words of
errors, as its sources have them (tensorflow_serving/servables/tensorflow, util/json_tensor.cc).
"""

from __future__ import annotations

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
from google.protobuf import json_format
from tensorflow_serving.apis import classification_pb2, predict_pb2, regression_pb2
from tensorflow_serving.apis import get_model_metadata_pb2 as metadata_pb2
from tensorflow_serving.apis import prediction_service_pb2_grpc as service_pb2_grpc

from estimator_inference import exports, predictor, tf

HTTP_STATUS = {
    'INVALID_ARGUMENT': 400,
    'FAILED_PRECONDITION': 400,
    'OUT_OF_RANGE': 400,
    'NOT_FOUND': 404,
    'UNIMPLEMENTED': 501,
}


class Refused(Exception):
    """A request that is answered with an error: (the name of a grpc.StatusCode, details)."""


class Service:
    """The methods of TensorFlow Serving's PredictionService. `models`: {name: their directory}."""

    def __init__(self, models):
        self._models = models

    def Predict(self, request):
        signature, predict_fn, spec = self._find(request, 'FAILED_PRECONDITION')
        given, expected = set(request.inputs), set(signature.inputs)
        if given - expected or expected - given - set(signature.defaults):
            raise Refused(
                'INVALID_ARGUMENT',
                f'input size does not match signature: {len(given)}!={len(expected)}. Sent extra: '
                f'{sorted(given - expected)}. Missing but required: {sorted(expected - given)}.',
            )
        inputs = {key: request.inputs.get(key, signature.defaults.get(key)) for key in expected}
        for key, tensor in inputs.items():
            if tensor.dtype != signature.inputs[key].dtype:
                raise Refused(
                    'INVALID_ARGUMENT', f'{key}: {tensor.dtype} is not the dtype expected'
                )
        outputs = run(predict_fn, {key: tf.make_ndarray(inputs[key]) for key in inputs})
        dtypes = {key: info.dtype for key, info in signature.outputs.items()}
        outputs = {key: tf.make_tensor_proto(outputs[key], dtypes[key]) for key in outputs}
        return predict_pb2.PredictResponse(model_spec=spec, outputs=outputs)

    def Classify(self, request):
        outputs, spec = self._run_examples(request, 'classification', 'classify')
        response = classification_pb2.ClassificationResponse(model_spec=spec)
        [shape] = {value.shape for value in outputs.values()}
        labels = outputs.get('classes', np.full(shape, ''))
        for row in zip(labels, outputs.get('scores', np.zeros(shape))):
            classes = response.result.classifications.add().classes
            for label, score in zip(*row):
                classes.add(label=label, score=score)
        return response

    def Regress(self, request):
        outputs, spec = self._run_examples(request, 'regression', 'regress')
        response = regression_pb2.RegressionResponse(model_spec=spec)
        for value in outputs['outputs'].ravel():
            response.result.regressions.add(value=value)
        return response

    def GetModelMetadata(self, request):
        signatures, _, spec = self._load(request.model_spec)
        response = metadata_pb2.GetModelMetadataResponse(model_spec=spec)
        response.metadata['signature_def'].Pack(
            metadata_pb2.SignatureDefMap(signature_def=signatures)
        )
        return response

    def input_infos(self, request):
        """Returns {input key: TensorInfo}, by which REST's numbers get their dtypes."""
        return self._find(request, 'INVALID_ARGUMENT')[0].inputs

    def _load(self, asked):
        """Returns ({name: SignatureDef}, name -> Predictor, ModelSpec) of the newest version."""
        try:
            export_dir = exports.latest(self._models[asked.name])
        except (KeyError, FileNotFoundError):
            export_dir = '-1'
        version = int(os.path.basename(export_dir))
        specific = asked.HasField('version')
        if version < 0 or specific and asked.version.value != version:
            name = f'Specific({asked.name}, {asked.version.value})' if specific else ''
            name = name or f'Latest({asked.name})'
            raise Refused('NOT_FOUND', f'Servable not found for request: {name}')
        spec = {'name': asked.name, 'version': {'value': version}}
        return *load(export_dir), spec

    def _find(self, request, code):
        signatures, predict_fns, spec = self._load(request.model_spec)
        name = spec['signature_name'] = request.model_spec.signature_name or 'serving_default'
        if name not in signatures:
            raise Refused(code, f'Serving signature key "{name}" not found.')
        return signatures[name], predict_fns(name), spec

    def _run_examples(self, request, kind, method):
        signature, predict_fn, spec = self._find(request, 'INVALID_ARGUMENT')
        expected, found = f'tensorflow/serving/{method}', signature.method_name
        if found != expected:
            text = f'Expected {kind} signature method_name to be {expected}. Was: {found}'
            raise Refused('INVALID_ARGUMENT', text)
        examples = request.input.example_list.examples
        if not examples:
            raise Refused('INVALID_ARGUMENT', 'Input is empty.')
        inputs = [example.SerializeToString() for example in examples]
        return run(predict_fn, {'inputs': inputs}), spec


@functools.lru_cache(maxsize=None)
def load(export_dir):
    """Returns ({name: SignatureDef}, function from the name of a signature to its Predictor)."""
    signatures = dict(exports.read(export_dir).meta_graphs[0].signature_def)
    signatures.pop('__saved_model_init_op', None)
    predict_fn = functools.partial(predictor.from_saved_model, export_dir)
    return signatures, functools.lru_cache(maxsize=None)(predict_fn)


def run(predict_fn, inputs):
    try:
        return predict_fn(inputs)
    except tf.errors.OpError as error:
        [code] = [code.name for code in grpc.StatusCode if code.value[0] == error.error_code]
        raise Refused(code, error.message) from None
    except ValueError as error:
        raise Refused('INVALID_ARGUMENT', str(error)) from None


class Handler(http.server.BaseHTTPRequestHandler):
    """REST: JSON for each request and response of the service."""

    service: Service

    def do_GET(self):
        self.answer(r'/v1/models/([^/:]+)(?:/versions/(\d+))?/(metadata)')

    def do_POST(self):
        self.answer(r'/v1/models/([^/:]+)(?:/versions/(\d+))?:(classify|predict|regress)')

    def answer(self, path):
        try:
            match = re.fullmatch(path, self.path)
            if not match:
                raise Refused('INVALID_ARGUMENT', f'Malformed request: {self.command} {self.path}')
            content = self.rfile.read(int(self.headers.get('Content-Length', 0)))
            name, version, method = match.groups()
            body = json.loads(content or '{}')
            spec = {'name': name, 'signature_name': body.get('signature_name', '')}
            if version:
                spec['version'] = {'value': int(version)}
            status, answer = 200, getattr(self, method)(spec, body)
        except Refused as error:
            status, answer = HTTP_STATUS.get(error.args[0], 500), {'error': error.args[1]}
        except (LookupError, TypeError, ValueError) as error:
            status, answer = 400, {'error': f'JSON Parse error: {error!r}'}
        self.send_response(status)
        self.send_header('Content-Type', 'application/json')
        self.end_headers()
        self.wfile.write(json.dumps(answer).encode())

    def metadata(self, spec, body):
        request = metadata_pb2.GetModelMetadataRequest(model_spec=spec)
        return json_format.MessageToDict(
            self.service.GetModelMetadata(request), preserving_proto_field_name=True
        )

    def classify(self, spec, body):
        request = classification_pb2.ClassificationRequest(model_spec=spec)
        request.input.example_list.examples.extend(map(to_example, body['examples']))
        rows = self.service.Classify(request).result.classifications
        return {'results': [[[each.label, each.score] for each in row.classes] for row in rows]}

    def regress(self, spec, body):
        request = regression_pb2.RegressionRequest(model_spec=spec)
        request.input.example_list.examples.extend(map(to_example, body['examples']))
        return {
            'results': [each.value for each in self.service.Regress(request).result.regressions]
        }

    def predict(self, spec, body):
        """Takes and gives columns, {'inputs': {key: batch}}, or rows, {'instances': [...]}."""
        request = predict_pb2.PredictRequest(model_spec=spec)
        rows, columns = body.get('instances'), body.get('inputs')
        for key, info in self.service.input_infos(request).items():
            if rows is not None:
                value = [row[key] if is_object(row) else row for row in rows]
            else:
                value = columns[key] if is_object(columns) else columns
            array = np.asarray(decoded(value), tf.as_dtype(info.dtype).as_numpy_dtype)
            request.inputs[key].CopyFrom(tf.make_tensor_proto(array))
        outputs = {}
        for key, tensor in self.service.Predict(request).outputs.items():
            array, is_bytes = tf.make_ndarray(tensor), key.endswith('_bytes')
            if array.dtype == object:
                text = (
                    (lambda s: {'b64': base64.b64encode(s).decode()}) if is_bytes else bytes.decode
                )
                array = np.vectorize(text, otypes=[object])(array)
            outputs[key] = array.tolist()
        if rows is None:
            return {'outputs': outputs if len(outputs) > 1 else outputs.popitem()[1]}
        if len(outputs) == 1:
            return {'predictions': outputs.popitem()[1]}
        return {'predictions': [dict(zip(outputs, row)) for row in zip(*outputs.values())]}

    def log_message(self, *args):
        pass


def is_object(value):
    return isinstance(value, dict) and set(value) != {'b64'}


def decoded(value):
    """Returns a JSON value with bytes for each {"b64": ...} in it."""
    if isinstance(value, list):
        return [decoded(each) for each in value]
    return base64.b64decode(value['b64']) if isinstance(value, dict) else value


def to_example(features):
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
            context.abort(grpc.StatusCode[error.args[0]], error.args[1])

    return answer


@contextlib.contextmanager
def serving(models, grpc_port=0, rest_port=0):
    """Serves {name: directory of its exports} on the loopback interface; gives the two ports."""
    service, servicer = Service(models), service_pb2_grpc.PredictionServiceServicer()
    for name in ('Predict', 'Classify', 'Regress', 'GetModelMetadata'):
        setattr(servicer, name, for_grpc(getattr(service, name)))
    server = grpc.server(
        futures.ThreadPoolExecutor(4), options=[('grpc.max_receive_message_length', -1)]
    )
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
    with serving(models, 8500, 8501) as ports, contextlib.suppress(KeyboardInterrupt):
        print(f'Serving {models} on 127.0.0.1, ports {ports[0]} (gRPC) and {ports[1]} (REST)')
        threading.Event().wait()
