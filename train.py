"""Trains the posts' model on the 100 examples [n, n] -> [2n], n = 0..99.

    python train.py                                            post A's model
    python train.py --hidden-units 4 --model-dir hidden/model  post B's, with a hidden layer

leaves checkpoints in model/. Stopped early and run again, it goes on from the last one.
"""

import support
from estimator_inference import tf
from model import model_fn


def train_generator_fn():
    """Yields the examples: features [n, n], labels [2n]."""
    for n in range(100):
        yield [n, n], [2 * n]


def train_input_fn():
    """Returns 1,000 batches of features, float32 [20, 2], and labels, float32 [20, 1]."""
    dataset = tf.data.Dataset.from_generator(
        train_generator_fn, output_types=(tf.float32, tf.float32), output_shapes=([2], [1])
    )
    # The posts take the examples in order, which doesn't converge from all initial weights.
    return dataset.shuffle(100).batch(20).repeat(200)


def main(argv=None):
    args = support.parser(__doc__, model_dir='model', hidden_units=None).parse_args(argv)

    params = {'hidden_units': args.hidden_units} if args.hidden_units else {}
    # Estimator would go on from another model's checkpoint, and write over it.
    if support.params(args.model_dir, default=params) != params:
        raise support.Error(f'{args.model_dir} has another model: choose another --model-dir')

    config = tf.estimator.RunConfig(save_checkpoints_steps=250)
    estimator = tf.estimator.Estimator(model_fn, args.model_dir, config, params)
    estimator.train(train_input_fn, max_steps=1000)

    print(f'Trained on {support.device()}: {estimator.latest_checkpoint()}')


if __name__ == '__main__':
    support.run(main)
