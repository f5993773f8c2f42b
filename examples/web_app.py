"""Answers HTTP requests with the newest export: post A's get_prediction behind a web application.

    python -m examples.web_app
    curl --json '{"number": 3}' http://127.0.0.1:5000/         {"output": 6.0}
    curl --json '{"number": [3, 4]}' http://127.0.0.1:5000/    {"output": [6.0, 8.0]}

The predictor is opened once, and the server's threads share it. That server is Flask's own, for
development: in production, one such as gunicorn calls `create_app` with a predictor that each of
its processes opens for itself.
"""

import support
from estimator_inference import exports, predictor

try:
    import flask
except ModuleNotFoundError:
    flask = None  # main says so


def create_app(predict_fn):
    """Returns the application around a predictor that takes `number` and gives `output`."""
    app = flask.Flask(__name__)

    @app.post('/')
    def get_prediction():
        number = flask.request.get_json()['number']
        numbers = number if isinstance(number, list) else [number]
        output = predict_fn({'number': [[nb] for nb in numbers]})['output'][:, 0].tolist()
        return {'output': output if isinstance(number, list) else output[0]}

    return app


def main(argv=None):
    args = support.parser(__doc__, export_dir='saved_model', port=5000).parse_args(argv)

    if not flask:
        raise support.Error("Flask is missing: run pip install '.[web]'")
    export_dir = exports.latest(args.export_dir)
    with predictor.from_saved_model(export_dir) as predict_fn:
        print(f'Serving {export_dir}', flush=True)
        create_app(predict_fn).run(port=args.port)


if __name__ == '__main__':
    support.run(main)
