"""What is done to training images: geometry, color, erasing and mixing."""
