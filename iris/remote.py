"""Asks a TensorFlow Serving for the classes of three flowers, over gRPC or REST.

    python -m iris.remote           gRPC, on port 8500
    python -m iris.remote --rest    REST, on port 8501

docs/serving.md says how to start one. gRPC needs tensorflow-serving-api, REST needs nothing.
"""

import http.client
import json
import urllib.request

import support

from iris.iris_data import ROWS, print_table, to_examples

TIMEOUT = 10  # seconds, as Ji Zhang has it


def ask_grpc(address):
    """Returns for each flower its pairs (class id, probability), and the version that answered."""
    try:
        import grpc
        from tensorflow_serving.apis import classification_pb2, prediction_service_pb2_grpc
    except ModuleNotFoundError as error:
        raise support.Error(f"{error}: run pip install '.[serving]', or ask by --rest") from None

    with grpc.insecure_channel(address) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        request = classification_pb2.ClassificationRequest()
        request.model_spec.name = 'iris'
        request.input.example_list.examples.extend(to_examples(ROWS))
        try:
            response = stub.Classify(request, timeout=TIMEOUT)
        except grpc.RpcError as error:
            reason = f'no answer from the model iris at {address}: {error.details()}'
            raise support.Error(reason) from None

    answers = response.result.classifications
    pairs = [[(entry.label, entry.score) for entry in answer.classes] for answer in answers]
    return pairs, response.model_spec.version.value


def ask_rest(address):
    """Returns the same. A classification doesn't tell the version: so that is asked for first."""

    def ask(path, body=None):
        url = f'http://{address}/v1/models/iris{path}'
        with urllib.request.urlopen(url, body, timeout=TIMEOUT) as response:
            return json.load(response)

    try:
        version = ask('/metadata')['model_spec']['version']
        body = json.dumps({'examples': ROWS}).encode()
        return ask(f'/versions/{version}:classify', body)['results'], version
    except (OSError, http.client.HTTPException) as error:
        raise support.Error(f'no answer from the model iris at {address}: {error}') from None


def main(argv=None):
    parser = support.parser(__doc__, host='127.0.0.1')
    parser.add_argument('--port', type=int, help='default: 8500, or 8501 with --rest')
    parser.add_argument('--rest', action='store_true', help='ask over REST')
    args = parser.parse_args(argv)

    ask, port = (ask_rest, 8501) if args.rest else (ask_grpc, 8500)
    address = f'{args.host}:{args.port or port}'
    pairs, version = ask(address)
    classes = [[class_id for class_id, _ in answer] for answer in pairs]
    print_table(classes, [[probability for _, probability in answer] for answer in pairs])
    print(f'Answered by version {version} of the model iris at {address}')


if __name__ == '__main__':
    support.run(main)
