"""What others published of these models: error rates on ImageNet, and counts of the lecture that do not add up."""

from __future__ import annotations

# Percent of ImageNet's validation images, one crop: top-1 and top-5 error of the PyTorch model zoo in 2017, as CS231n lists them.
PUBLISHED_ERRORS = {
    "alexnet": (43.45, 20.91),
    "vgg(11)": (30.98, 11.37), "vgg(13)": (30.07, 10.75), "vgg(16)": (28.41, 9.62), "vgg(19)": (27.62, 9.12),
    "vgg(11, norm=batch)": (29.62, 10.19), "vgg(13, norm=batch)": (28.45, 9.63),
    "vgg(16, norm=batch)": (26.63, 8.50), "vgg(19, norm=batch)": (25.76, 8.15),
    "resnet(18)": (30.24, 10.92), "resnet(34)": (26.70, 8.58), "resnet(50)": (23.85, 7.13), "resnet(101)": (22.63, 6.44),
}  # fmt: skip

# Where the lecture's counts differ from those of the nets it names, and why.
LECTURE_ERRATA = {
    "alexnet2012": "CS231n's counts, 61M parameters and 725M operations, are those of this net with two groups; its list of layers shows"
    " none: without, they are 62.4M and 1135M.",
    "alexnet2012(groups=1)": "CS231n lists these layers, and counts them with two groups: 61M parameters and 725M operations.",
    "vgg(16)": "CS231n says 24M activations, 93 MB: its own rows add up to 15.2M, and with ReLUs that keep their own output 28.8M.",
    "vgg_f": "CS231n says 99M parameters and 762M operations: those of a net whose first fully connected layer sees 6x6x512 numbers,"
    " not the 6x6x256 that conv5 puts out.",
    "nin": "CS231n says 1168M operations: neither images of 224 pixels nor of 227 give that, but 1102M and 1108M.",
    **dict.fromkeys(
        ("googlenet(norm=none, kernel=5)", "googlenet(aux=0, norm=none, kernel=5)"),
        "CS231n says 6.9M parameters and 1566M operations: within 1.5 % of this net without its auxiliary heads.",
    ),
}
