"""A trained model at work: prediction, views, scoring, calibration, export."""
