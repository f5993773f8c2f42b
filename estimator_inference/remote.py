"""A client of TensorFlow Serving: Predict and Classify over gRPC, Classify over REST as well.

    with RemotePredictor('127.0.0.1:8500', 'double') as predict_fn:
        predict_fn({'number': [[3]]})  # {'output': array([[6.]], dtype=float32)}

gRPC needs tensorflow-serving-api, which the extra `serving` installs; REST needs the standard library.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import urllib.error
import urllib.parse
import urllib.request
from typing import Any, Mapping, Optional, Sequence

import numpy as np
import tensorflow as tf

from estimator_inference.feeds import Feed, check_keys

try:
    import grpc
    from tensorflow_serving.apis import (
        classification_pb2,
        get_model_metadata_pb2,
        predict_pb2,
        prediction_service_pb2_grpc,
    )
except ModuleNotFoundError:
    grpc = None  # Connection says so

TIMEOUT = 10  # seconds, as in "Serve TensorFlow Estimator with SavedModel"


class RemoteError(Exception):
    """A request that a TensorFlow Serving did not answer. Its text names the host, the model and the reason."""


class Unreachable(RemoteError, ConnectionError):
    """Nothing that speaks the protocol answers there."""


class TimedOut(RemoteError, TimeoutError):
    """No answer in time."""


class UnknownModel(RemoteError, LookupError):
    """The server has no such model, or not that version of it."""


class Refused(RemoteError, ValueError):
    """The server answers that it won't, or what no TensorFlow Serving would."""


class Connection:
    """A gRPC connection to one model of a TensorFlow Serving."""

    def __init__(self, address: str, model: str, timeout: float = TIMEOUT) -> None:
        """Takes HOST:PORT, and how many seconds a request may take. Connects with the first request.

        Raises:
          ImportError: tensorflow-serving-api is missing.
        """
        if grpc is None:
            raise ImportError(
                'gRPC needs what the extra `serving` installs: pip install '
                f"'tensorflow-serving-api=={'.'.join(tf.__version__.split('.')[:2])}.*'"
            )
        self._address, self._model, self._timeout = address, model, timeout
        self._channel = grpc.insecure_channel(address, [('grpc.max_receive_message_length', -1)])
        self._stub = prediction_service_pb2_grpc.PredictionServiceStub(self._channel)

    def ask(self, method: str, request: Any) -> Any:
        """Returns the server's response to a request for a method of its PredictionService; raises RemoteError."""
        request.model_spec.name = self._model
        try:
            return getattr(self._stub, method)(request, timeout=self._timeout)
        except grpc.RpcError as error:
            raise _error(
                self._address, self._model, self._timeout, error.code().name, error.details()
            ) from None

    def classify(
        self, examples: Sequence[tf.train.Example]
    ) -> tuple[list[list[str]], list[list[float]], int]:
        """Returns the model's answer to n examples: classes [n, c], scores [n, c], and the version that answered."""
        request = classification_pb2.ClassificationRequest()
        request.input.example_list.examples.extend(examples)
        response = self.ask('Classify', request)
        answers = [answer.classes for answer in response.result.classifications]
        return (
            [[entry.label for entry in entries] for entries in answers],
            [[entry.score for entry in entries] for entries in answers],
            response.model_spec.version.value,
        )

    def close(self) -> None:
        """Ends the connection."""
        self._channel.close()

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


class RemotePredictor(Connection):
    """Calls one signature of a model on a TensorFlow Serving, as a `predictor.Predictor` calls one here.

    Attributes:
      feed_tensors: {input key: `tf.TensorSpec`}.
      fetch_tensors: {output key: `tf.TensorSpec`}.
    """

    def __init__(
        self, address: str, model: str, signature: Optional[str] = None, timeout: float = TIMEOUT
    ) -> None:
        """Asks the server what the signature takes. Default: 'serving_default'.

        Raises:
          ImportError: tensorflow-serving-api is missing.
          RemoteError: The server doesn't answer, or has no such model or signature.
        """
        super().__init__(address, model, timeout)
        self._signature = signature or 'serving_default'
        response = self.ask(
            'GetModelMetadata',
            get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=['signature_def']),
        )
        signatures = get_model_metadata_pb2.SignatureDefMap()
        response.metadata['signature_def'].Unpack(signatures)
        if self._signature not in signatures.signature_def:
            raise Refused(
                f'the model {model!r} at {address} has no signature {self._signature!r}, '
                f'only {sorted(signatures.signature_def)}'
            )
        signature_def = signatures.signature_def[self._signature]
        self.feed_tensors, self.fetch_tensors = (
            {key: tf.TensorSpec(infos[key].tensor_shape, infos[key].dtype) for key in sorted(infos)}
            for infos in (signature_def.inputs, signature_def.outputs)
        )
        self._feeds = {key: Feed(f'input {key!r}', spec) for key, spec in self.feed_tensors.items()}

    def __call__(self, input_dict: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Returns the outputs for one batch of inputs: {output key: array} for {input key: value}.

        Raises:
          ValueError: An unknown key, or a value that can't be cast or doesn't fit.
          RemoteError: The server doesn't answer, or refuses.
        """
        check_keys(input_dict, self._feeds)
        request = predict_pb2.PredictRequest()
        request.model_spec.signature_name = self._signature
        for key, value in input_dict.items():
            array = self._feeds[key].check(value)
            request.inputs[key].CopyFrom(tf.make_tensor_proto(array, self.feed_tensors[key].dtype))
        outputs = self.ask('Predict', request).outputs
        return {key: tf.make_ndarray(outputs[key]) for key in self.fetch_tensors}


def classify_rest(
    address: str, model: str, examples: Sequence[Mapping[str, float]], timeout: float = TIMEOUT
) -> tuple[list[list[str]], list[list[float]], int]:
    """As `Connection.classify`, over REST.

    Args:
      address: HOST:PORT.
      model: Its name.
      examples: Features {name: value}, float: a TensorFlow Serving takes a whole number without a point for an int64.
      timeout: Seconds that each of the two requests may take.

    Raises:
      RemoteError: The server doesn't answer, has no such model, or refuses.
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
            code, details = (
                'DEADLINE_EXCEEDED' if late else 'UNAVAILABLE',
                f'{type(error).__name__}: {error}',
            )
        raise _error(address, model, timeout, {'HTTP 404': 'NOT_FOUND'}.get(code, code), details)

    # The answer to a classification doesn't tell the version: so ask for the newest first, and then that one.
    try:
        version = int(ask('/metadata')['model_spec']['version'])
        results = ask(
            f'/versions/{version}:classify', json.dumps({'examples': list(examples)}).encode()
        )['results']
        return (
            [[label for label, _ in entries] for entries in results],
            [[float(score) for _, score in entries] for entries in results],
            version,
        )
    except RemoteError:  # some are LookupErrors or ValueErrors themselves
        raise
    except (LookupError, TypeError, ValueError) as error:
        raise Refused(
            f'{address} does not answer as a TensorFlow Serving does '
            f'({type(error).__name__}: {error})'
        ) from None


def _error(address: str, model: str, timeout: float, code: str, details: Any) -> RemoteError:
    """Returns the error for a request that failed. `code` is gRPC's name, or HTTP and its number."""
    printable = ''.join(character if character.isprintable() else ' ' for character in str(details))
    details = ' '.join(printable.split())[:300]
    if code == 'UNAVAILABLE':
        return Unreachable(
            f'no TensorFlow Serving at {address} for the model {model!r} ({details})'
        )
    if code == 'DEADLINE_EXCEEDED':
        return TimedOut(f'no answer from {address} for the model {model!r} within {timeout:g} s')
    if code == 'NOT_FOUND':
        return UnknownModel(
            f'{address} serves no model {model!r} ({details}): name one of its models'
        )
    return Refused(f'{address} refuses what the model {model!r} is asked ({code}): {details}')
