"""Draws the figures that `compare.py --json` or `python -m beyond.scale --json` has written.

python -m beyond.plot figures.json picture.svg
"""

import importlib.util
import json
import math
import pathlib
import sys

from support.command_line import Parser, new_file
from support.errors import install, reason
from support.timing import seconds

GRAY = '#808080'  # legible on white and on black


def draw_rows(axes, records):
    names = [record['row'] for record in records]
    times = {
        key: [
            record[key] * 1e6 if isinstance(record[key], float) else math.nan for record in records
        ]
        for key in ('median', 'post_a', 'post_b')
    }
    axes.barh(names, times['median'], color='#4c8bf5', height=0.6)
    axes.plot(
        times['post_a'], names, 'D', color='#e8710a', zorder=3, label="post A, its author's machine"
    )
    axes.plot(times['post_b'], names, 'o', color='#d93025', zorder=3, label='post B, RTX 2080 Ti')
    for record, *right in zip(records, *times.values()):
        text = seconds(record['median']) + ', wrong answers' * bool(record['wrong'])
        axes.text(max(time for time in right if time > 0) * 1.3, record['row'], text, va='center')
    axes.set(xscale='log', xlabel='microseconds an example (median), logarithmic', xlim=(0.3, 2e6))
    axes.invert_yaxis()
    axes.legend(loc='lower right', labelcolor=GRAY, framealpha=0)


def draw_scale(axes, records):
    for number, name in enumerate(dict.fromkeys(record['row'] for record in records)):
        line = [
            (record['parameters'], record['median'] * 1e6)
            for record in records
            if record['row'] == name and record['batch'] == 1
        ]
        axes.plot(*zip(*line), marker='o', label=name, linestyle=('-', '--')[number % 2])
    axes.set(
        xscale='log',
        yscale='log',
        xlabel='parameters of the model',
        ylabel='microseconds an example (median)',
    )
    axes.legend(bbox_to_anchor=(1.02, 1), loc='upper left', labelcolor=GRAY, framealpha=0)


def main(argv=None):
    parser = Parser(__doc__)
    parser.add_argument('figures', metavar='FIGURES.json', help='what --json wrote')
    parser.add_argument(
        'picture', metavar='PICTURE.svg', type=new_file, help='what to write: .svg or .png'
    )
    args = parser.parse_args(argv)
    if not args.picture.endswith(('.svg', '.png')):
        parser.error(f'expected a picture that ends in .svg or .png, got {args.picture}')
    if importlib.util.find_spec('matplotlib') is None:
        sys.exit(f'beyond.plot needs matplotlib: {install("plot")}')
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot

    colors = dict.fromkeys(
        ('text.color', 'axes.labelcolor', 'axes.edgecolor', 'xtick.color', 'ytick.color'), GRAY
    )
    pyplot.rcParams.update(
        {**colors, 'font.size': 11, 'svg.fonttype': 'none', 'svg.hashsalt': 'compare'}
    )
    try:
        records = json.loads(pathlib.Path(args.figures).read_text())['rows']
        draw = draw_rows if 'load' in records[0] else draw_scale
        figure, axes = pyplot.subplots(
            figsize=(9, 0.5 * len(records) + 1.2 if draw is draw_rows else 4.5)
        )
        draw(axes, records)
    except (OSError, ValueError, LookupError, TypeError) as error:
        sys.exit(f'{args.figures} has no figures of compare.py or beyond.scale: {reason(error)}')
    figure.savefig(
        args.picture,
        transparent=True,
        bbox_inches='tight',
        metadata={'Date': None} if args.picture.endswith('svg') else {},
    )


if __name__ == '__main__':
    main()
