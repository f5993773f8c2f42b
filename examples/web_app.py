"""Answers HTTP requests with the newest export: the web application that post A imagines around get_prediction.

    python -m beyond.web_app
    curl --data '{"number": 3}' http://127.0.0.1:5000/         {"output": 6.0}
    curl --data '{"number": [3, 4]}' http://127.0.0.1:5000/    {"output": [6.0, 8.0]}

The predictor is opened once, and called by all threads of the server. That server is Flask's own, for development:
in production, one such as gunicorn calls `create_app` with a predictor that each of its processes opens for itself.
"""

import json
import os
import socket

from support import script  # before TensorFlow
from estimator_inference import exports, predictor
from support.command_line import port
from support.errors import Fault, install

try:
    import flask
    from werkzeug import exceptions, serving
except ModuleNotFoundError:
    raise ImportError(f'Flask is missing: {install("web")}') from None


def create_app(predict_fn):
    """Returns the application around a predictor: POST a number, or a list of them, and get the answers."""
    app = flask.Flask(__name__)

    @app.post('/')
    def get_prediction():
        try:
            inputs = json.loads(flask.request.get_data())
            number = inputs.get('number') if isinstance(inputs, dict) else None
            if number is not None:
                inputs['number'] = [
                    [nb] for nb in (number if isinstance(number, list) else [number])
                ]
            output = predict_fn(inputs)['output'][
                :, 0
            ].tolist()  # raises ValueError for what it doesn't take
            content = json.dumps(
                {'output': output if isinstance(number, list) else output[0]}, allow_nan=False
            )
        except (ValueError, RecursionError) as error:
            return {'error': str(error)}, 400
        return app.response_class(content + '\n', mimetype='application/json')

    @app.errorhandler(exceptions.HTTPException)
    def refuse(error):
        return {'error': error.description}, error.code

    return app


@script(
    reads='saved_model',
    port=dict(type=port, default=5000, metavar='N', help='(default: %(default)s)'),
)
def main(args):
    export_dir = exports.latest(args.export_dir)
    with predictor.from_saved_model(export_dir) as predict_fn:
        if 'number' not in predict_fn.feed_tensors or 'output' not in predict_fn.fetch_tensors:
            raise Fault(
                f"expected an export with an input 'number' and an output 'output', got {predict_fn}"
            )
        try:
            listening = socket.create_server(('127.0.0.1', args.port))
        except OSError as error:
            reason = os.strerror(error.errno)
            raise Fault(
                f"can't listen on port {args.port} ({reason}): choose another --port"
            ) from None
        print(f'Serving {export_dir} at http://127.0.0.1:{args.port}/', flush=True)
        with listening:
            serving.make_server(
                '127.0.0.1', args.port, create_app(predict_fn), threaded=True, fd=listening.fileno()
            ).serve_forever()
        raise KeyboardInterrupt  # it returns at Ctrl-C


if __name__ == '__main__':
    main()
