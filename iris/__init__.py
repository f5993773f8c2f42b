"""The steps of "Serve TensorFlow Estimator with SavedModel". Run as python -m iris.train."""
