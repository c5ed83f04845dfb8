"""Augmentation of training images: geometry, color, erasing and mixing; and the views of images at test time."""
