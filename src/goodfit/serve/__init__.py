"""Prediction over HTTP: a run or an ensemble behind one address."""
