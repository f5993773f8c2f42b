"""compare.py: table, figures, picture and promises; wrong answers are counted, or refused."""

import contextlib
import importlib.util
import io
import json
import os
import signal
import time

import support
import compare
import numpy as np
import pytest
from estimator_inference import tf

LAGS = 'FastPredict as the posts have it'
TEN = 'FastPredict, 10 a call (post B one by one)'


def printed_by(*args):
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        compare.main([str(arg) for arg in args])
    return printed.getvalue().splitlines()


@pytest.fixture(scope='module')
def table(trained, tmp_path_factory):
    """What compare.py prints, the figures that it writes, and the path of its picture."""
    path = tmp_path_factory.mktemp('table') / 'figures.json'
    plot = ['--plot', path.with_suffix('.svg')] if importlib.util.find_spec('matplotlib') else []
    lines = printed_by('--model-dir', trained, '--examples', 10, '--json', path, *plot)
    return lines, json.loads(path.read_text()), path.with_suffix('.svg')


@pytest.fixture
def model(trained, tmp_path):
    return compare.load(str(tmp_path), trained, None, 1)


def answering(factor, **fields):
    """A row that answers factor * x."""
    return compare.Row(
        'mine', lambda model, stack: lambda inputs: factor * np.array(inputs), **fields
    )


def test_a_line_for_each_row_beside_the_figures_of_the_posts(table):
    lines, figures, _ = table
    machine, asked, heads, *lines = [line for line in lines if not line.startswith('Without')]
    assert machine == figures['machine'] and machine.startswith('Python ')
    assert asked == '1 a call, threads: 1, up to 10 examples a row'
    assert heads.split() == ['an', 'example', 'faster', 'wrong', 'post', 'A', 'post', 'B']
    assert lines.pop(len(compare.POSTS)) == 'Beyond the posts:'
    rows = [name for name, row in compare.ROWS.items() if row not in compare.MISSING]
    assert [line[:42].strip() for line in lines] == rows
    assert lines[0][42:].split()[2:] == ['1x', '0', '190', 'ms', '115', 'ms']
    assert lines[1].endswith(' 352 us') and lines[2].endswith(' 0')
    assert lines[3].endswith(' 238 us') and lines[4].split()[-3:] == ['"100x"', '178', 'us']


def test_figures(table):
    records = {record['row']: record for record in table[1]['rows']}
    for record in records.values():
        assert 0 < record['median'] and 0 < record['p99'] and 0 < record['examples_per_second']
        assert 0 < record['load'] and 0 < record['first_call'] and record['threads'] == 1
    assert (records[TEN]['batch'], records[TEN]['examples']) == (10, 100)
    assert (records[LAGS]['batch'], records[LAGS]['examples']) == (1, 10)
    assert (records[LAGS]['post_a'], records[LAGS]['post_b']) == (None, 352e-6)


def test_only_the_posts_fast_predict_answers_wrong(table):
    wrong = {record['row']: record['wrong'] for record in table[1]['rows']}
    assert wrong.pop(LAGS) > 0
    assert set(wrong.values()) == {0}


def test_the_picture_shows_each_row_and_what_is_wrong(table):
    pytest.importorskip('matplotlib')
    drawn = table[2].read_text().replace('&#x27;', "'")
    assert all(record['row'] in drawn for record in table[1]['rows'])
    assert drawn.count(', wrong') == 1 and 'post A (diamond)' in drawn and len(drawn) < 60_000


@pytest.mark.parametrize('factor', [3, 2.01, np.nan])
def test_a_row_that_answers_wrong_is_named(factor, model):
    with pytest.raises(support.Error, match='mine gave 21 wrong answers'):
        compare.measure([answering(2), answering(factor)], model, threads=1, examples=20)


def test_answers_within_a_tenth_of_a_percent_and_of_a_row_that_lags(model):
    rows = [answering(2.0004), answering(3, lags=True)]
    right, lags = compare.measure(rows, model, threads=1, examples=20)
    assert (right.wrong, lags.wrong) == (0, 21)


def test_rows_take_turns(model):
    asked = []

    def row(name):
        def call(inputs):
            asked.append(name)
            return 2 * np.array(inputs)

        return compare.Row(name, lambda model, stack: stack.callback(asked.append, name) and call)

    compare.measure([row('a'), row('b')], model, threads=1, examples=20)
    assert asked[:2] == ['a', 'b'] and asked[-2:] == ['b', 'a']
    assert asked[2:-2] == ['a', 'a', 'b', 'b'] * compare.ROUNDS


def test_an_answer_of_several_outputs_or_of_another_size(model):
    expected = np.array([200.0, 202.0])
    outputs = {'hidden': np.ones([2, 4]), 'predictions': np.array([[200.0], [203.0]])}
    assert compare.count_wrong(outputs, expected) == 1
    assert compare.count_wrong([{'predictions': np.array([200.0])}] * 2, expected) == 1
    assert compare.count_wrong(np.array([[b'200'], [b'202']], object), expected) == 0
    with pytest.raises(ValueError):
        compare.count_wrong(np.array([[200.0]]), expected)


def test_batch_and_threads(trained, tmp_path):
    path, rows = tmp_path / 'figures.json', [LAGS, 'FastPredict on a generator', TEN]
    rows += [compare.FAST, compare.PREDICTOR, *([] if compare.MISSING else ['LiteRT'])]
    how = '--examples', 30, '--batch', 3, '--threads', 2
    lines = printed_by('--model-dir', trained, *how, '--json', path, '--rows', *rows)
    assert '3 a call, threads: 2, up to 30 examples a row' in lines
    records = json.loads(path.read_text())['rows']
    assert {record['row'] for record in records} == {*rows} - {TEN}
    for record in records:
        assert (record['batch'], record['threads'], record['examples']) == (3, 2, 60)
        assert 'post_a' not in record and (record['wrong'] == 0) == (record['row'] != LAGS)


def test_a_model_with_a_hidden_layer(hidden):
    missing = [row.name for row in compare.MISSING]
    rows = ['FastPredict on a generator', compare.SESSION, compare.FAST, compare.TF2]
    rows += [name for name in ('ONNX Runtime', 'LiteRT') if name not in missing]
    lines = printed_by('--model-dir', hidden, '--examples', 10, '--rows', *rows)
    assert [line[:42].strip() for line in lines if line[:42].strip() in rows] == rows


@pytest.mark.slow
def test_a_larger_model_and_a_larger_batch_each_in_a_process_of_its_own(tmp_path):
    path, name = tmp_path / 'figures.json', 'predictor.from_saved_model'
    lines = printed_by(
        *('--parameters', 10_000, '--batch', 1, 20, '--examples', 40, '--rows', name),
        *('--json', path),
    )
    assert lines[1].split() == ['parameters', 'batch', 'an', 'example', 'peak', 'memory']
    records = json.loads(path.read_text())['rows']
    assert [(r['row'], r['parameters'], r['batch'], r['examples']) for r in records] == [
        (name, 10_501, 1, 40),
        (name, 10_501, 20, 200),
    ]
    if importlib.util.find_spec('resource'):
        assert all(50e6 < record['peak_memory'] < 5e9 for record in records)


PROMISE = '1 a call', 1, 1, 100, {compare.SESSION: (0, np.inf)}, None


def test_promises_that_are_kept_and_one_that_is_not(monkeypatch, trained):
    strings = '10 strings', 10, 1, 100, {compare.SESSION: (0, np.inf)}, compare.STRINGS
    monkeypatch.setattr(compare, 'PROMISES', [PROMISE, strings])
    monkeypatch.setattr(compare, 'CALLS', 10)
    args = '--model-dir', trained, '--check'
    lines = printed_by(*args)
    kept = [line for line in lines if line.endswith(': ok')]
    assert len(kept) == 2 + 2 * bool(importlib.util.find_spec('resource'))
    assert kept[-1].startswith(f'  {compare.SESSION}') and 'at least 0.00' in kept[-1]

    impossible = '1 a call', 1, 1, 100, {compare.SESSION: (1e9, np.inf)}, None
    monkeypatch.setattr(compare, 'PROMISES', [PROMISE, impossible])
    with pytest.raises(support.Error, match='1 of [24] promises are not kept'):
        compare.main([*args])


@pytest.mark.slow
def test_memory_that_grows_is_told(monkeypatch, trained, capsys):
    pytest.importorskip('resource')
    kept, row = [], compare.ROWS[compare.PREDICTOR]

    def leaking(model, stack):
        call = row.open(model, stack)
        return lambda inputs: kept.append(bytes(500)) or call(inputs)

    monkeypatch.setitem(compare.ROWS, row.name, row._replace(open=leaking))
    monkeypatch.setattr(compare, 'PROMISES', [])
    with pytest.raises(support.Error, match='1 of 2 promises are not kept'):
        compare.main(['--model-dir', trained, '--check'])
    assert f'calls of {row.name}: memory grows by' in capsys.readouterr().out


def test_the_exit_status_and_a_python_without_resource(python, trained):
    code = f"""
import sys
sys.modules['resource'] = None
import compare, support
compare.PROMISES = [('1 a call', 1, 1, 100, {{compare.SESSION: (1e9, 2e9)}}, None)]
sys.argv = ['compare.py']
support.run(lambda: compare.main(['--model-dir', {trained!r}, '--check']))
"""
    process = python('-c', code)
    assert process.wait() == 1
    assert process.printed().splitlines()[-1] == 'compare.py: 1 of 1 promises are not kept'
    assert 'memory' not in process.printed()


def test_what_is_not_installed_is_told(monkeypatch, trained):
    monkeypatch.setattr(compare, 'MISSING', [compare.ROWS['ONNX Runtime']])
    rows = ['tf.saved_model.load', 'ONNX Runtime']
    lines = printed_by('--model-dir', trained, '--examples', 10, '--rows', *rows)
    assert lines[1] == 'Without ONNX Runtime: pip install onnx onnxruntime'
    assert lines[-1].startswith('tf.saved_model.load')


def test_a_checkpoint_of_another_model_is_refused_in_one_line(tmp_path):
    with tf.Graph().as_default(), tf.Session() as session:
        tf.get_variable('other', [1], use_resource=True)
        session.run(tf.global_variables_initializer())
        tf.train.Saver().save(session, str(tmp_path / 'model.ckpt'), 0)
    with pytest.raises(SystemExit) as error:
        support.run(lambda: compare.main(['--model-dir', str(tmp_path), '--rows', 'LiteRT']))
    assert 'has another model than model.py' in error.value.code


def test_flags_that_are_refused(tmp_path, capsys):
    for flags, words in (
        ('--rows nonsense', "invalid choice: 'nonsense'"),
        ('--batch 0', '1 or more'),
    ):
        with pytest.raises(SystemExit) as error:
            compare.main(flags.split())
        assert error.value.code == 2 and words in capsys.readouterr().err
    with pytest.raises(support.Error, match='no checkpoint in'):
        compare.main(['--model-dir', str(tmp_path)])


@pytest.mark.slow
@pytest.mark.skipif(os.name != 'posix', reason='Ctrl-C is a signal that is sent')
def test_ctrl_c_ends_it_quietly(python, trained):
    process = python('compare.py', '--model-dir', trained)
    process.wait_for('up to 10,000 examples a row')
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    assert 'Traceback' not in process.printed()
