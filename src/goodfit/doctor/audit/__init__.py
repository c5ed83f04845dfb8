"""The data audit: what is wrong with images and labels before any training; tests on plain arrays, and their findings in words."""
