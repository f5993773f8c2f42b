"""A client of TensorFlow Serving: Predict and Classify over gRPC, Classify over REST as well.

    with remote.RemotePredictor('127.0.0.1:8500', 'double') as predict_fn:
        predict_fn({'number': [[3]]})  # {'output': array([[6.]], dtype=float32)}

gRPC needs tensorflow-serving-api (requirements-serving.txt), REST the standard library. What goes wrong between here
and the server ends a script with a line and status 1.
"""
from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import sys
import urllib.error
import urllib.parse
import urllib.request
from typing import Any, Mapping, NoReturn, Optional, Sequence

import numpy as np

import quiet  # noqa: F401  before TensorFlow

import tensorflow as tf

try:
    import grpc
    from tensorflow_serving.apis import (classification_pb2, get_model_metadata_pb2, predict_pb2,
                                         prediction_service_pb2_grpc)
except ModuleNotFoundError:
    grpc = None  # Connection says so

TIMEOUT = 10  # seconds, the text's


def port(text: str) -> int:
    """Converts a flag's value to the number of a port, for argparse."""
    if not text.isdecimal() or len(text) > 5 or not 0 < int(text) < 65536:
        raise argparse.ArgumentTypeError(f'expected a port from 1 to 65535, got {text!r:.50}')
    return int(text)


def host_port(text: str) -> str:
    """Checks a flag's value, HOST:PORT, for argparse."""
    host, _, number = text.rpartition(':')
    if not host:
        raise argparse.ArgumentTypeError(f'expected HOST:PORT, as in 127.0.0.1:8500, got {text!r}')
    return f'{host}:{port(number)}'


class Connection:
    """A gRPC connection to one model of a TensorFlow Serving."""

    def __init__(self, address: str, model: str, timeout: float = TIMEOUT) -> None:
        """Takes HOST:PORT, and how many seconds a request may take. Connects with the first request."""
        if grpc is None:
            sys.exit('tensorflow-serving-api is missing: pip install -r requirements-serving.txt')
        self._address, self._model, self._timeout = address, model, timeout
        self._channel = grpc.insecure_channel(address)
        self._stub = prediction_service_pb2_grpc.PredictionServiceStub(self._channel)

    def ask(self, method: str, request: Any) -> Any:
        """Returns the server's response to a request for a method of its PredictionService."""
        request.model_spec.name = self._model
        try:
            return getattr(self._stub, method)(request, timeout=self._timeout)
        except grpc.RpcError as error:
            _exit(self._address, self._model, self._timeout, error.code().name, error.details())

    def classify(self, examples: Sequence[tf.train.Example]) -> tuple[list[list[str]], list[list[float]], int]:
        """Returns the model's answer to n examples: classes [n, c], scores [n, c], and the version that answered."""
        request = classification_pb2.ClassificationRequest()
        request.input.example_list.examples.extend(examples)
        response = self.ask('Classify', request)
        flowers = [answer.classes for answer in response.result.classifications]
        return ([[entry.label for entry in entries] for entries in flowers],
                [[entry.score for entry in entries] for entries in flowers], response.model_spec.version.value)

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._channel.close()


class RemotePredictor(Connection):
    """Calls one signature of a model on a TensorFlow Serving, as a `predictor.Predictor` calls one here.

    Attributes:
      feed_tensors: {input key: `tf.TensorSpec`}.
      fetch_tensors: {output key: `tf.TensorSpec`}.
    """

    def __init__(self, address: str, model: str, signature: Optional[str] = None, timeout: float = TIMEOUT) -> None:
        """Asks the server what the signature takes. Default: 'serving_default'."""
        super().__init__(address, model, timeout)
        self._signature = signature or 'serving_default'
        response = self.ask('GetModelMetadata', get_model_metadata_pb2.GetModelMetadataRequest(
            metadata_field=['signature_def']))
        signatures = get_model_metadata_pb2.SignatureDefMap()
        response.metadata['signature_def'].Unpack(signatures)
        if self._signature not in signatures.signature_def:
            sys.exit(f'the model {model!r} at {address} has no signature {self._signature!r}, '
                     f'only {sorted(signatures.signature_def)}')
        signature_def = signatures.signature_def[self._signature]
        self.feed_tensors, self.fetch_tensors = (
            {key: tf.TensorSpec(infos[key].tensor_shape, infos[key].dtype) for key in sorted(infos)}
            for infos in (signature_def.inputs, signature_def.outputs))

    def __call__(self, input_dict: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Returns the outputs for one batch of inputs: {output key: array} for {input key: value}."""
        request = predict_pb2.PredictRequest()
        request.model_spec.signature_name = self._signature
        for key, value in input_dict.items():
            request.inputs[key].CopyFrom(tf.make_tensor_proto(value, self.feed_tensors[key].dtype))
        outputs = self.ask('Predict', request).outputs
        return {key: tf.make_ndarray(outputs[key]) for key in self.fetch_tensors}


def classify_rest(address: str, model: str, examples: Sequence[Mapping[str, float]], timeout: float = TIMEOUT) \
        -> tuple[list[list[str]], list[list[float]], int]:
    """As `Connection.classify`, over REST.

    Args:
      address: HOST:PORT.
      model: Its name.
      examples: Features {name: value}, float: a TensorFlow Serving takes a whole number without a point for an int64.
      timeout: Seconds that each of the two requests may take.
    """
    def ask(path, body=None):
        url = f'http://{address}/v1/models/{urllib.parse.quote(model, safe="")}{path}'
        try:
            try:
                with urllib.request.urlopen(url, body, timeout) as response:
                    return json.load(response)
            except urllib.error.HTTPError as error:
                code, details = f'HTTP {error.code}', error.read().decode(errors='replace')
                with contextlib.suppress(LookupError, TypeError, ValueError):
                    details = json.loads(details)['error']
        except (OSError, http.client.HTTPException) as error:
            late = isinstance(getattr(error, 'reason', error), TimeoutError)
            code, details = 'DEADLINE_EXCEEDED' if late else 'UNAVAILABLE', f'{type(error).__name__}: {error}'
        _exit(address, model, timeout, {'HTTP 404': 'NOT_FOUND'}.get(code, code), details)

    # The answer to a classification doesn't tell the version: so ask for the newest first, and then that one.
    try:
        version = int(ask('/metadata')['model_spec']['version'])
        results = ask(f'/versions/{version}:classify', json.dumps({'examples': list(examples)}).encode())['results']
        return ([[label for label, _ in flower] for flower in results],
                [[float(score) for _, score in flower] for flower in results], version)
    except (LookupError, TypeError, ValueError) as error:
        sys.exit(f'{address} does not answer as a TensorFlow Serving does ({type(error).__name__}: {error})')


def _exit(address: str, model: str, timeout: float, code: str, details: Any) -> NoReturn:
    """Ends the script with a line on a request that failed. `code` is gRPC's name, or HTTP and its number."""
    printable = ''.join(character if character.isprintable() else ' ' for character in str(details))
    details = ' '.join(printable.split())[:300]
    if code == 'UNAVAILABLE':
        sys.exit(f'no TensorFlow Serving at {address} ({details}): start one with docker compose '
                 '-f serving/compose.yaml up, or name another host and port')
    if code == 'DEADLINE_EXCEEDED':
        sys.exit(f'no answer from {address} within {timeout:g} s')
    if code == 'NOT_FOUND':
        sys.exit(f'{address} serves no model {model!r} ({details}): name one of its models')
    sys.exit(f'{address} refuses ({code}): {details}')
