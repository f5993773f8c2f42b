"""compare.py: its statistics, its table, its JSON, its pictures, and that a wrong answer is caught and named."""
import contextlib
import importlib.util
import json
import sys

import numpy as np
import pytest

import compare
import export
import latency
import train
from tf1 import tf


@contextlib.contextmanager
def opened(factor):
    yield lambda numbers: [factor * number for number in numbers]


@pytest.fixture
def directories(trained, exported):
    return ['--model-dir', trained, '--export-dir', exported]


def test_statistics_of_known_samples():
    examples = np.arange(1, 101) * 1e-6
    record = compare.to_record(compare.PROTOCOLS[0], latency.Timing(0.5, 0.25, examples, 1))
    assert record['median'] == pytest.approx(50.5e-6) and record['p99'] == pytest.approx(99.01e-6)
    assert record['mean'] == pytest.approx(50.5e-6) and record['examples_per_second'] == pytest.approx(1 / 50.5e-6)
    assert (record['load'], record['first_call'], record['examples']) == (0.5, 0.25, 100)
    assert compare.table_row(record, 101e-6) == (
        'Estimator.predict', '500 ms', '250 ms', '50 us', '99 us', '19,802', '2 x', '190 ms', '115 ms')
    assert str(latency.Timing(0.5, 0.25, examples / 10, 10)) == (
        '5.0 us per example (median 5.0 us, p99 9.9 us, 1,000 examples in calls of 10; load 500 ms, first call 250 ms)')


def test_all_protocols_in_turns(directories, tmp_path, capsys):
    path = tmp_path / 'figures.json'
    compare.main([*directories, '--examples', '100', '--json', str(path)])
    header, columns, *rows = capsys.readouterr().out.splitlines()
    assert f'Python {sys.version.split()[0]}, TensorFlow ' in header and 'on CPU; 100 examples a row' in header
    assert [row.split(' | ')[0].strip() for row in rows] == [protocol.name for protocol in compare.PROTOCOLS]
    assert all(len(row) == len(columns) for row in rows)
    figures = json.loads(path.read_text())
    assert set(figures['machine']) == {'python', 'tensorflow', 'numpy', 'processor', 'cores', 'device'}
    by_name = {record['protocol']: record for record in figures['rows']}
    assert by_name['FastPredict']['examples'] == 100 and by_name['Estimator.predict']['examples'] == 10
    assert by_name['FastPredict, 10 a call']['batch'] == 10
    assert by_name['Estimator.predict']['post_a'] == 0.19
    for record in figures['rows']:
        assert 0 < record['median'] <= record['p99'] and record['load'] > 0 and record['first_call'] > 0
    # Faster by orders of magnitude, not a matter of the machine.
    assert by_name['Estimator.predict']['median'] > 100 * by_name['predictor.from_saved_model']['median']


def test_some_protocols(directories, capsys):
    compare.main([*directories, '--examples', '20', '--protocols', 'Session.run', 'predictor.from_estimator'])
    rows = capsys.readouterr().out.splitlines()[2:]
    assert [row.split(' | ')[0].strip() for row in rows] == ['predictor.from_estimator', 'Session.run']
    assert ' x |' not in ''.join(rows)  # no Estimator.predict to compare with


def test_turns_are_interleaved(monkeypatch):
    asked = []

    @contextlib.contextmanager
    def recording(name):
        yield lambda numbers: asked.append(name) or [2 * number for number in numbers]

    protocols = [compare.Protocol(name, lambda *_, name=name: recording(name)) for name in 'ab']
    timings = list(compare.compare(protocols, '', '', examples=10))
    assert asked == ['a', 'b'] * (1 + compare.ROUNDS)
    assert [len(timing.examples) for _, timing in timings] == [10, 10]


def test_a_protocol_that_answers_wrongly_is_named():
    protocols = [compare.Protocol('right', lambda *_: opened(2)), compare.Protocol('wrong', lambda *_: opened(3))]
    with pytest.raises(SystemExit) as error:
        list(compare.compare(protocols, '', '', examples=10))
    assert str(error.value) == 'wrong: f(100) = 300, expected 200'


def test_a_protocol_is_a_few_lines(monkeypatch, directories, capsys):
    monkeypatch.setattr(compare, 'PROTOCOLS', [*compare.PROTOCOLS, compare.Protocol('mine', lambda *_: opened(2))])
    compare.main([*directories, '--examples', '20', '--protocols', 'mine'])
    assert capsys.readouterr().out.splitlines()[-1].startswith('mine ')


def test_pictures(directories, tmp_path, monkeypatch):
    monkeypatch.setattr(compare, 'PARAMETERS_AND_BATCHES', [(3, (1, 10)), (1000, (1,))])
    compare.main([*directories, '--examples', '20', '--plot', str(tmp_path / 'protocols.svg')])
    compare.main([*directories, '--examples', '20', '--scale', '--protocols', 'Session.run', 'FastPredict',
                  '--plot', str(tmp_path / 'scale.png'), '--json', str(tmp_path / 'scale.json')])
    drawn = (tmp_path / 'protocols.svg').read_text()
    assert 'predictor.from_saved_model' in drawn and 'post B, RTX 2080 Ti' in drawn
    assert (tmp_path / 'scale.png').read_bytes().startswith(b'\x89PNG')
    rows = json.loads((tmp_path / 'scale.json').read_text())['rows']
    assert [(row['protocol'], row['parameters'], row['batch']) for row in rows] == [
        (name, parameters, batch) for parameters, batch in ((3, 1), (3, 10), (1000, 1))
        for name in ('FastPredict', 'Session.run')]
    assert all(row['median'] > 0 and row['peak_memory'] > 50e6 for row in rows)


@pytest.mark.parametrize('flags, receiver', [(['--hidden-units', '4'], 'number'), ([], 'raw'), ([], 'example')])
def test_other_exports(flags, receiver, tmp_path, capsys):
    model_dir, export_dir = str(tmp_path / 'model'), str(tmp_path / 'saved_model')
    train.main(['--model-dir', model_dir, *flags])
    export.main(['--model-dir', model_dir, '--export-dir', export_dir, '--receiver', receiver])
    compare.main(['--model-dir', model_dir, '--export-dir', export_dir, '--examples', '20'])
    assert len(capsys.readouterr().out.splitlines()) >= 2 + len(compare.PROTOCOLS)


def test_picture_of_a_protocol_that_no_post_has(directories, tmp_path):
    compare.main([*directories, '--examples', '20', '--protocols', 'Session.run', '--plot', str(tmp_path / 'x.svg')])
    assert 'Session.run' in (tmp_path / 'x.svg').read_text()


def test_device(directories, monkeypatch, ends, capsys):
    monkeypatch.delenv('CUDA_VISIBLE_DEVICES', raising=False)
    monkeypatch.setattr(compare.os, 'environ', dict(compare.os.environ))
    compare.main([*directories, '--examples', '10', '--protocols', 'Session.run', '--device', 'cpu'])
    assert ' on CPU; ' in capsys.readouterr().out and compare.os.environ['CUDA_VISIBLE_DEVICES'] == '-1'
    if not tf.config.experimental.list_physical_devices('GPU'):
        assert 'TensorFlow sees no GPU' in ends(compare, *directories, '--device', 'gpu')


def test_no_matplotlib(directories, tmp_path, monkeypatch, ends):
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
    assert ends(compare, *directories, '--examples', '1', '--protocols', 'Session.run', '--plot',
                tmp_path / 'x.svg') == '--plot needs matplotlib: pip install -r requirements-plot.txt'


def test_bad_flags(directories, tmp_path, ends):
    assert "invalid choice: 'nonsense'" in ends(compare, '--protocols', 'nonsense')
    assert 'ends in .svg or .png' in ends(compare, '--plot', 'picture.gif')
    for flag, name in (('--plot', 'missing/x.svg'), ('--json', 'missing/x.json'), ('--json', '')):
        assert f'argument {flag}: expected a file' in ends(compare, flag, tmp_path / name)
    assert '--scale measures none' in ends(compare, '--scale', '--protocols', 'FastPredict, 10 a call')
    assert 'no checkpoint in' in ends(compare, '--model-dir', tmp_path, '--export-dir', directories[3])
    assert 'run python export.py' in ends(compare, *directories[:2], '--export-dir', tmp_path)
