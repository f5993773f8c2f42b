"""Answers HTTP requests with the newest export: post A's get_prediction behind a web application.

    python -m examples.web_app
    curl -d '{"number": [[3]]}' http://127.0.0.1:5000/

A request is the JSON of a predictor's inputs, an answer that of its outputs. The predictor is
opened once, and the server's threads share it. That server is Flask's own, for development. In
production, one such as gunicorn calls `create_app`, with a predictor that each of its processes
opens for itself.
"""

import support
from estimator_inference import exports, predictor


def create_app(predict_fn):
    """Returns the Flask application around a predictor."""
    try:
        import flask
    except ModuleNotFoundError as error:
        raise support.Error(f"{error}: run pip install '.[web]'") from None
    app = flask.Flask(__name__)

    @app.post('/')
    def get_prediction():
        try:
            outputs = predict_fn(flask.request.get_json(force=True))
        except ValueError as error:  # what the predictor doesn't take
            return {'error': str(error)}, 400
        return {key: value.tolist() for key, value in outputs.items()}

    return app


def main(argv=None):
    args = support.parser(__doc__, export_dir='saved_model', port=5000).parse_args(argv)

    export_dir = exports.latest(args.export_dir)
    with predictor.from_saved_model(export_dir) as predict_fn:
        app = create_app(predict_fn)
        print(f'Serving {export_dir}', flush=True)
        app.run(port=args.port)


if __name__ == '__main__':
    support.run(main)
