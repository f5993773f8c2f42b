"""Trains the posts' model on the 100 examples [n, n] -> [2n], n = 0..99.

    python train.py

leaves checkpoints in model/. Run again, it goes on from the last one, after being killed for instance.
"""

from support import script  # first, since it keeps TensorFlow's start-up noise off the screen
from estimator_inference import tf
from model import model_fn


def train_generator_fn():
    """Yields the examples: features [n, n], labels [2n]."""
    for n in range(100):
        yield [n, n], [2 * n]


def train_input_fn():
    """Returns batches of features, float32 [20, 2], and labels, float32 [20, 1]: 1,000 of them."""
    dataset = tf.data.Dataset.from_generator(
        train_generator_fn, (tf.float32, tf.float32), ([2], [1])
    )
    # The posts take the examples in order: whether that converges depends on the initial weights. Shuffled, it does.
    return dataset.shuffle(100).batch(20).repeat(200)


@script(
    writes='model', steps=None, seed=1, hidden_units=None
)  # makes flags of these; args.params is for model_fn
def main(args):
    config = tf.estimator.RunConfig(tf_random_seed=args.seed, save_checkpoints_steps=250)
    estimator = tf.estimator.Estimator(model_fn, args.model_dir, config, params=args.params)
    for _ in range(0, args.steps, 1000):  # once; with a hidden layer three times
        estimator.train(train_input_fn, max_steps=args.steps)
    print(f'Trained on {args.device}: {estimator.latest_checkpoint()}')


if __name__ == '__main__':
    main()
