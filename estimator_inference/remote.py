"""A client of TensorFlow Serving: Predict, Classify and Regress, over gRPC and REST alike.

    with RemotePredictor('127.0.0.1:8500', 'double') as predict_fn:  # or 'http://127.0.0.1:8501'
        predict_fn({'number': [[3]]})  # {'output': array([[6.]], dtype=float32)}

gRPC needs tensorflow-serving-api, which the extra `serving` installs; REST needs TensorFlow alone.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import math
import socket
import time
import urllib.parse
from typing import Any, Iterable, Iterator, Literal, Mapping, Optional, Union

import numpy as np
import tensorflow.compat.v1 as tf
from google.protobuf import json_format, message
from tensorflow.core.protobuf import meta_graph_pb2

from estimator_inference.feeds import Feed, check_keys, shown

try:
    import grpc
    from tensorflow_serving.apis import classification_pb2, predict_pb2, regression_pb2
    from tensorflow_serving.apis import get_model_metadata_pb2 as metadata_pb2
except ModuleNotFoundError:
    grpc = None  # _Grpc says so

TIMEOUT = 10  # seconds, as in "Serve TensorFlow Estimator with SavedModel"
Code = Literal['unreachable', 'late', 'unknown model', 'refused', 'bad answer']
Example = Union[tf.train.Example, Mapping[str, Any]]
_MALFORMED = (ArithmeticError, LookupError, MemoryError, RuntimeError, TypeError, ValueError)


class RemoteError(OSError):
    """A request without an answer, or without one to rely on. Its text has host, model and reason.

    Attributes:
      code: 'unreachable', 'late' (no answer within the timeout), 'unknown model', 'refused' (the
        server answers with an error) or 'bad answer' (not what the model's signature promises).
    """

    def __init__(self, code: Code, address: str, model: str, reason: object) -> None:
        printable = ''.join(char if char.isprintable() else ' ' for char in str(reason)[:500])
        super().__init__(f'{code}: the model {model!r} at {address}: {" ".join(printable.split())}')
        self.code, self._arguments = code, (code, address, model, reason)

    def __reduce__(self) -> Any:  # a process of multiprocessing can raise it, too
        return type(self), self._arguments


class RemotePredictor:
    """Calls one signature of a model on a TensorFlow Serving, as a Predictor calls one here.

    It may be called from many threads at once. `close()`, or the end of a `with` block, ends it.

    Attributes:
      feed_tensors: {input key: `tf.TensorSpec`}.
      fetch_tensors: {output key: `tf.TensorSpec`}.
    """

    def __init__(
        self, address: str, model: str, signature: Optional[str] = None, timeout: float = TIMEOUT
    ) -> None:
        """Asks the server what the signature takes and gives.

        Args:
          address: HOST:PORT for gRPC, http://HOST:PORT for REST.
          model: Its name.
          signature: Default: 'serving_default'.
          timeout: Seconds that a whole request may take, from connecting to the last byte.

        Raises:
          ValueError: An address or a timeout that is none.
          ImportError: tensorflow-serving-api is missing.
          RemoteError: No answer, or none with this signature.
        """
        if not 0 < timeout < 1e9:  # inf and nan are none
            raise ValueError(f'expected a timeout above 0 s, and finite, got {timeout}')
        signature = signature or 'serving_default'
        rest = address.startswith(('http://', 'https://'))
        self._read = _from_json if rest else _from_proto
        self._server: Any = (_Rest if rest else _Grpc)(address, model, signature, timeout)
        signatures = self._server.signatures()
        if signature not in signatures:
            reason = f'no signature {signature!r}, only {sorted(signatures)}'
            raise self._server.error('refused', reason)
        with self._server.reading():
            found = signatures[signature]
            self._feeds = _feeds('input', found.inputs)
            self._fetches = _feeds('output', found.outputs)
            self._defaults = {
                key: _from_proto(proto, self._feeds[key]) for key, proto in found.defaults.items()
            }
        self.feed_tensors = {key: feed.tensor for key, feed in self._feeds.items()}
        self.fetch_tensors = {key: feed.tensor for key, feed in self._fetches.items()}

    def __call__(self, input_dict: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the outputs for one batch of inputs: {output key: array} for {input key: value}.

        An input that is None, or left out, gets the signature's default. Where it has none, a
        TensorFlow Serving refuses the request.

        Raises:
          ValueError: No dict, an unknown key, a value that can't be cast or doesn't fit.
          RemoteError: No answer, or one without an output, or with one of another dtype or shape
            than the signature had: another model may have been put in its place.
        """
        if not hasattr(input_dict, 'keys'):
            raise ValueError(f'expected a dict of {list(self._feeds)}, got {shown(input_dict)}')
        check_keys(input_dict.keys(), self._feeds)
        arrays = dict(self._defaults)
        for key, feed in self._feeds.items():
            if key in input_dict and input_dict[key] is not None:
                arrays[key] = feed.copy(feed.check(input_dict[key]))  # strings as bytes
        outputs = self._server.predict(arrays, list(self._fetches))
        with self._server.reading():
            missing = [key for key in self._fetches if key not in outputs]
            if missing:
                raise ValueError(f'no output {missing}, only {list(outputs)}')
            return {key: self._read(outputs[key], feed) for key, feed in self._fetches.items()}

    def classify(self, examples: Iterable[Example]) -> dict[str, Any]:
        """Returns {'classes': bytes [n, c], 'scores': float32 [n, c]} for n examples.

        As with a Predictor, classes or scores are left out where the signature doesn't have them.

        Args:
          examples: Each a `tf.train.Example`, or a dict {feature: value or list of values} of int,
            float, str or bytes, also NumPy's. As in an Example, 3 is an int64 and 3.0 a float. A
            feature that is None is left out.

        Raises:
          ValueError: Other examples.
          RemoteError: No answer, or a bad one.
        """
        protos = _examples(examples)
        rows = self._server.classify(protos)
        with self._server.reading():
            labels = [[label for label, _ in row] for row in rows]
            scores = [[score for _, score in row] for row in rows]
            shape, answer = [len(protos), None], {'classes': labels, 'scores': scores}
            feeds = [
                Feed('classes', tf.TensorSpec(shape, tf.string)),
                Feed('scores', tf.TensorSpec(shape, tf.float32)),
            ]
            return {f.name: _from_json(answer[f.name], f) for f in feeds if f.name in self._fetches}

    def regress(self, examples: Iterable[Example]) -> dict[str, Any]:
        """Returns {'outputs': float32 [n, 1], or [n] if the signature has that}; see `classify`."""
        protos = _examples(examples)
        values = self._server.regress(protos)
        with self._server.reading():
            array = _from_json(values, Feed('outputs', tf.TensorSpec([len(protos)], tf.float32)))
            rank = self.fetch_tensors['outputs'].shape.rank
            return {'outputs': array[:, np.newaxis] if rank == 2 else array}

    def close(self) -> None:
        """Ends the connection that gRPC keeps."""
        self._server.close()

    def __enter__(self) -> RemotePredictor:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


class _Server:
    """What gRPC and REST share."""

    codes: dict[Any, Code] = {}

    def __init__(self, address: str, model: str, signature: str, timeout: float) -> None:
        self.address, self.model = address, model
        self.signature, self.timeout = signature, timeout

    def close(self) -> None:
        pass

    def error(self, code: Code, reason: object) -> RemoteError:
        return RemoteError(code, self.address, self.model, reason)

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """Raises a RemoteError, 'bad answer', for what goes wrong in reading what a server sent."""
        try:
            yield
        except (*_MALFORMED, json_format.Error, message.Error) as error:
            raise self.error('bad answer', f'{type(error).__name__}: {error}') from error


class _Grpc(_Server):
    codes = {
        'DEADLINE_EXCEEDED': 'late',
        'NOT_FOUND': 'unknown model',
        'UNAVAILABLE': 'unreachable',
    }

    def __init__(self, address: str, *args: Any) -> None:
        super().__init__(address, *args)
        if grpc is None:
            version = '.'.join(tf.__version__.split('.')[:2])
            install = f"pip install 'tensorflow-serving-api=={version}.*'"
            raise ImportError(f'gRPC needs what the extra `serving` installs: {install}')
        # By default, gRPC takes no answer of more than 4 MiB.
        self.channel = grpc.insecure_channel(address, [('grpc.max_receive_message_length', -1)])

    def close(self) -> None:
        self.channel.close()

    def ask(self, method: str, request_type: Any, response_type: Any, **fields: Any) -> Any:
        spec = {'name': self.model, 'signature_name': self.signature}
        request = request_type(model_spec=spec, **fields).SerializeToString()
        # Not the stub: of an answer that doesn't parse it makes an error as of the server's own.
        call = self.channel.unary_unary(f'/tensorflow.serving.PredictionService/{method}')
        try:
            answer = call(request, timeout=self.timeout)
        except grpc.RpcError as error:
            name = error.code().name
            raise self.error(
                self.codes.get(name, 'refused'), f'{name}: {error.details()}'
            ) from None
        with self.reading():
            return response_type.FromString(answer)

    def signatures(self) -> Any:
        types = metadata_pb2.GetModelMetadataRequest, metadata_pb2.GetModelMetadataResponse
        answer = self.ask('GetModelMetadata', *types, metadata_field=['signature_def'])
        with self.reading():
            signatures = metadata_pb2.SignatureDefMap()
            if not answer.metadata['signature_def'].Unpack(signatures):
                raise ValueError('no signatures')
            return signatures.signature_def

    def predict(self, arrays: Mapping[str, Any], _: list[str]) -> Any:
        types = predict_pb2.PredictRequest, predict_pb2.PredictResponse
        inputs = {key: tf.make_tensor_proto(array) for key, array in arrays.items()}
        return self.ask('Predict', *types, inputs=inputs).outputs

    def classify(self, examples: list[Any]) -> Any:
        types = classification_pb2.ClassificationRequest, classification_pb2.ClassificationResponse
        answer = self.ask('Classify', *types, input={'example_list': {'examples': examples}})
        rows = answer.result.classifications
        return [[(each.label, each.score) for each in row.classes] for row in rows]

    def regress(self, examples: list[Any]) -> Any:
        types = regression_pb2.RegressionRequest, regression_pb2.RegressionResponse
        answer = self.ask('Regress', *types, input={'example_list': {'examples': examples}})
        return [regression.value for regression in answer.result.regressions]


class _Rest(_Server):
    """REST with http.client: the timeout of urllib3, requests and httpx is for each read alone."""

    codes = {404: 'unknown model', 503: 'unreachable', 504: 'late'}

    def __init__(self, address: str, *args: Any) -> None:
        super().__init__(address, *args)
        url = urllib.parse.urlsplit(address)
        if url.scheme != 'http' or not url.hostname or not url.port or url.path.strip('/'):
            raise ValueError(f'expected HOST:PORT or http://HOST:PORT, got {address!r}')
        self.host, self.port = url.hostname, url.port

    def ask(self, path: str, key: str, **body: Any) -> Any:
        """Returns what the answer has under a key."""
        body['signature_name'] = self.signature
        content = json.dumps(body, default=_b64) if path[0] == ':' else None
        path = f'/v1/models/{urllib.parse.quote(self.model, safe="")}{path}'
        connection = http.client.HTTPConnection(self.host, self.port)
        try:
            connection.sock = _connect(self.host, self.port, time.monotonic() + self.timeout)
            kind = {'Content-Type': 'application/json'}
            connection.request('POST' if content else 'GET', path, content, kind)
            response = connection.getresponse()
            answer = b''.join(iter(lambda: response.read(1 << 16), b''))
        except socket.timeout:
            raise self.error('late', f'no answer within {self.timeout:g} s') from None
        except OSError as error:
            raise self.error('unreachable', error) from None
        except http.client.HTTPException as error:
            raise self.error('bad answer', f'no HTTP: {error!r}') from None
        finally:
            connection.close()
        if response.status != 200:
            reason = answer.decode(errors='replace')
            with contextlib.suppress(*_MALFORMED):
                reason = json.loads(answer)['error']
            reason = f'HTTP {response.status} {response.reason}: {reason}'
            raise self.error(self.codes.get(response.status, 'refused'), reason)
        with self.reading():
            return json.loads(answer, parse_float=_finite)[key]

    def signatures(self) -> Any:
        metadata = self.ask('/metadata', 'metadata')
        with self.reading():
            # A SignatureDefMap has this field as well, but is in tensorflow-serving-api.
            known, found = meta_graph_pb2.MetaGraphDef(), metadata['signature_def']
            return json_format.ParseDict(found, known, ignore_unknown_fields=True).signature_def

    def predict(self, arrays: Mapping[str, Any], keys: list[str]) -> Any:
        inputs = {key: array.tolist() for key, array in arrays.items()}
        outputs = self.ask(':predict', 'outputs', inputs=inputs)
        return {keys[0]: outputs} if len(keys) == 1 else outputs  # one comes without its key

    def classify(self, examples: list[Any]) -> Any:
        return self.ask(':classify', 'results', examples=list(map(_features, examples)))

    def regress(self, examples: list[Any]) -> Any:
        return self.ask(':regress', 'results', examples=list(map(_features, examples)))


class _Socket(socket.socket):
    """A socket that receives until a deadline, however little comes at a time."""

    deadline = 0.0

    def recv_into(self, *args: Any) -> int:
        self.settimeout(_left(self.deadline))
        return super().recv_into(*args)


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise socket.timeout
    return left


def _connect(host: str, port: int, deadline: float) -> _Socket:
    failure = OSError(f'{host} has no address')
    for *_, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        try:
            connected = socket.create_connection((str(address[0]), port), _left(deadline))
        except OSError as error:
            failure = error
            continue
        sock = _Socket(fileno=connected.detach())
        sock.deadline = deadline
        sock.settimeout(_left(deadline))  # for what is sent
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # as http.client does
        return sock
    raise failure


# What a caller gives: ValueError for what can't be sent.


def _feeds(what: str, infos: Mapping[str, Any]) -> dict[str, Feed]:
    return {
        key: Feed(f'{what} {key!r}', tf.TensorSpec(infos[key].tensor_shape, infos[key].dtype))
        for key in sorted(infos)
    }


def _examples(examples: Iterable[Example]) -> list[Any]:
    if not isinstance(examples, Iterable):
        raise ValueError(f'expected a list of examples, got {shown(examples)}')
    return [each if isinstance(each, tf.train.Example) else _example(each) for each in examples]


def _example(features: Mapping[str, Any]) -> Any:
    if not isinstance(features, Mapping):
        raise ValueError(f'expected a tf.train.Example or a dict, got {shown(features)}')
    example = tf.train.Example()
    for name, value in features.items():
        values = [] if value is None else np.asarray(value, object).ravel().tolist()
        try:
            feature = example.features.feature[name]
            if all(isinstance(each, (int, np.integer, np.bool_)) for each in values):
                feature.int64_list.value.extend(map(int, values))
            elif all(isinstance(each, (int, float, np.number)) for each in values):
                feature.float_list.value.extend(map(float, values))
            else:
                feature.bytes_list.value.extend(map(tf.compat.as_bytes, values))
        except (TypeError, ValueError) as error:
            expected = 'expected numbers or strings'
            raise ValueError(f'feature {name!r}: {expected}, got {shown(value)}: {error}') from None
        if not values:
            del example.features.feature[name]
    return example


def _features(example: Any) -> dict[str, Any]:
    """Returns an Example as JSON."""
    features = example.features.feature
    kinds = {name: features[name].WhichOneof('kind') for name in features}
    return {name: list(getattr(features[name], kind).value) for name, kind in kinds.items() if kind}


def _b64(value: bytes) -> dict[str, str]:
    """Returns bytes as JSON, which json calls for them."""
    return {'b64': base64.b64encode(value).decode()}


# What a server sends: one of _MALFORMED for what isn't as the signature has it.


def _from_proto(proto: Any, feed: Feed) -> Any:
    dtype = feed.tensor.dtype
    if proto.dtype != dtype.as_datatype_enum:
        raise TypeError(f'{feed.name}: expected {dtype.name}, got the DataType {proto.dtype}')
    # make_ndarray repeats the last value in place of those that are missing, until the memory is
    # full. TensorFlow Serving sends each value.
    size = math.prod(dim.size for dim in proto.tensor_shape.dim) * (1 + dtype.is_complex)
    sent = sum(len(v) for field, v in proto.ListFields() if field.name.endswith('_val'))
    if sent != size and not proto.tensor_content:
        raise ValueError(f'{feed.name}: expected {size} values, got {sent}')
    return feed.check(tf.make_ndarray(proto))


def _from_json(value: Any, feed: Feed) -> Any:
    array, dtype = np.asarray(value, object), np.dtype(feed.tensor.dtype.as_numpy_dtype)
    if array.size == 0 and feed.tensor.shape.rank:  # [] doesn't tell the dimensions within it
        array = array.reshape([*array.shape, *(n or 0 for n in feed.tensor.shape[array.ndim :])])
    if dtype.kind == 'O':
        return feed.check(np.vectorize(_text, otypes=[object])(array))
    types: dict[str, set[type]] = {'b': {bool}, 'f': {int, float}}
    wrong = set(map(type, array.flat)) - types.get(dtype.kind, {int})
    if wrong:
        raise TypeError(f'{feed.name}: expected {dtype}, got {wrong}')
    with np.errstate(over='raise'):
        result = array.astype(dtype)
    if dtype.kind in 'iu' and (result != array).any():  # NumPy 1 casts it
        raise OverflowError(f'{feed.name}: expected {dtype}, got {shown(value)}')
    return feed.check(result)


def _text(value: Any) -> bytes:
    text = isinstance(value, str)
    return value.encode() if text else base64.b64decode(value['b64'], validate=True)


def _finite(number: str) -> float:
    """Reads a number of JSON, in which TensorFlow Serving writes an infinite one as Infinity."""
    if math.isinf(float(number)):
        raise OverflowError(f'{number} is no float64')
    return float(number)
