"""Ensembles and soups made of several trained models."""
