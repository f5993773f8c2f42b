"""A canned Estimator that takes `tf.train.Example`s, its export, and the ways to use it. Run from the repository's root."""
