"""The web application: its answers from many threads, and what it says to requests that it can't answer."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from concurrent import futures

import pytest

pytest.importorskip('flask')

from processes import ROOT, Process

from beyond import export as beyond_export
from beyond import web_app
from estimator_inference import exports

SHAPE = "input 'number': expected float32 [None, 1], "


def post(address, body, **headers):
    """Returns (status, what the JSON of the answer says)."""
    request = urllib.request.Request(
        address, body if isinstance(body, bytes) else json.dumps(body).encode(), headers
    )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=60) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


@pytest.fixture(scope='module')
def app(exported, tmp_path_factory, free_port):
    """The script, which runs: (the process, its address)."""
    directory, port = tmp_path_factory.mktemp('web_app'), free_port()
    process = Process(
        ['-m', 'beyond.web_app', '--export-dir', exported, '--port', port], directory, directory
    )
    try:
        process.wait_for('Serving')
        assert process.returncode is None, process.stderr
        yield process, f'http://127.0.0.1:{port}/'
    finally:
        process.kill()


@pytest.fixture
def address(app):
    return app[1]


def test_answers(address):
    status, answer = post(address, {'number': 3})
    assert status == 200 and answer == {'output': pytest.approx(6, rel=1e-2)}
    status, answer = post(address, {'number': [3, 40.5]}, **{'Content-Type': 'application/json'})
    assert status == 200 and answer == {'output': pytest.approx([6, 81], rel=1e-2)}
    assert post(address, {'number': [3]}) == (
        200,
        {'output': [post(address, {'number': 3})[1]['output']]},
    )


def test_each_of_8_threads_gets_its_own_answers_also_between_bad_requests(address):
    def ask(thread):
        for number in range(thread * 100 + 1, thread * 100 + 26):
            assert post(address, {'number': number}) == (
                200,
                {'output': pytest.approx(2 * number, rel=1e-2)},
            )
            assert post(address, {'number': [number, thread]}) == (
                200,
                {'output': pytest.approx([2 * number, 2 * thread], rel=1e-2, abs=0.02)},
            )
            assert post(address, {'number': f'{number}th'})[0] == 400

    with futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(ask, range(8)))


@pytest.mark.parametrize(
    'body, message',
    [
        ({}, f'missing {SHAPE[:-2]}'),
        ({'number': None}, f'missing {SHAPE[:-2]}'),
        ({'x': 3}, "unknown inputs ['x']: expected ['number']"),
        ({'number': 3, 'x': 4}, "unknown inputs ['x']: expected ['number']"),
        ([3], "expected a dict with the keys ['number'], got [3]"),
        ({'number': 'three'}, f"{SHAPE}got [['three']]: "),
        ({'number': {'x': 3}}, f"{SHAPE}got [[{{'x': 3}}]]: "),
        ({'number': []}, f'{SHAPE}got the shape [0]'),
        ({'number': [[3, 4]]}, f'{SHAPE}got the shape [1, 1, 2]'),
        ({'number': [3, [4]]}, f'{SHAPE}got [[3], [[4]]]: '),
        ({'number': 10**400}, f'{SHAPE}got [[1000'),
        ({'number': [None]}, 'Out of range float values are not JSON compliant'),  # JSON has no nan
        ({'number': float('nan')}, 'Out of range float values are not JSON compliant'),
        (b'three', 'Expecting value: line 1 column 1 (char 0)'),
        (b'', 'Expecting value: line 1 column 1 (char 0)'),
        (b'\xff', "'utf-8' codec can't decode byte 0xff"),
        (b'[' * 100_000, 'maximum recursion depth exceeded'),
    ],
)
def test_bad_requests(body, message, address):
    status, answer = post(address, body)
    assert status == 400 and list(answer) == ['error'] and answer['error'].startswith(message)
    assert post(address, {'number': 3})[0] == 200


def test_other_paths_and_methods_are_refused_in_json_too(address):
    for request, code in [
        (urllib.request.Request(address), 405),
        (urllib.request.Request(f'{address}x', b''), 404),
    ]:
        with pytest.raises(urllib.error.HTTPError) as error:
            urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=60)
        with error.value as response:
            assert response.code == code and list(json.load(response)) == ['error']


def test_what_it_prints(app, exported):
    process, address = app
    post(address, {})
    assert process.stdout == f'Serving {exports.latest(exported)} at {address}\n'
    assert 'Traceback' not in process.stderr and 'WARNING' not in process.stderr


def test_ctrl_c_is_one_line(exported, start, free_port):
    with start('-m beyond.web_app', '--export-dir', exported, '--port', free_port()) as process:
        process.wait_for('Serving')
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait() == -signal.SIGINT
    assert process.stderr == '-m beyond.web_app: interrupted\n'


def test_faults(trained, exported, tmp_path, ends):
    assert re.fullmatch(
        rf'no export in {tmp_path}/x: run .*export\.py --export-dir {tmp_path}/x',
        ends(web_app, '--export-dir', tmp_path / 'x'),
    )
    assert 'argument --port: expected a port from 1 to 65535' in ends(web_app, '--port', '0')
    with socket.create_server(('127.0.0.1', 0)) as used:
        assert ends(web_app, '--export-dir', exported, '--port', used.getsockname()[1]) == (
            f"can't listen on port {used.getsockname()[1]} (Address already in use): choose another --port"
        )
    export_dir = str(tmp_path / 'saved_model')
    beyond_export.main(['--model-dir', trained, '--export-dir', export_dir, '--receiver', 'raw'])
    assert ends(web_app, '--export-dir', export_dir) == (
        "expected an export with an input 'number' and an output 'output', got <Predictor: feed {'feature': float32 "
        "[None, 2]}, fetch {'output': float32 [None, 1]}>"
    )


def test_flask_is_missing():
    code = (
        'import runpy, sys; sys.modules["flask"] = None; sys.argv[1:] = ["--help"]; '
        'runpy.run_module("beyond.web_app", run_name="__main__", alter_sys=True)'
    )
    process = subprocess.run(
        [sys.executable, '-c', code], cwd=ROOT, text=True, capture_output=True, timeout=120
    )
    assert process.returncode == 1 and process.stdout == ''
    assert re.fullmatch(
        r".+: Flask is missing: .*python\S* -m pip install '\.\[web\]'\n", process.stderr
    )


def test_help_needs_no_tensorflow():
    process = subprocess.run(
        [sys.executable, '-X', 'importtime', '-m', 'beyond.web_app', '--help'],
        cwd=ROOT,
        text=True,
        capture_output=True,
        timeout=120,
    )
    assert process.stdout.startswith('usage: -m beyond.web_app ') and process.returncode == 0, (
        process.stderr
    )
    assert 'flask' in process.stderr and not re.search('tensorflow|numpy', process.stderr)
