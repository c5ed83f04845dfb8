"""Images as points of a plane, by the features that a network has of them: principal components and t-SNE."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]

MAX_PERPLEXITY = 30.0  # scikit-learn's default: about how many neighbors a point keeps
MIN_POINTS = 5  # below which there is nothing to lay out


def project_principal(features: NDArray[np.float32]) -> tuple[Points, float]:
    """Project features [N, D] onto their two principal components: points [N, 2], and the share of the variance that they show.

    Source: scikit-learn's PCA; CS231n, visualizing and understanding.
    """
    from sklearn.decomposition import PCA

    centered = np.asarray(features, dtype=np.float64)
    axes = min(2, *centered.shape)
    fitted = PCA(axes, random_state=0)
    with np.errstate(invalid="ignore"):  # features that are all alike have no variance to share
        points = fitted.fit_transform(centered)
    shown = float(np.nan_to_num(fitted.explained_variance_ratio_).sum())
    return np.pad(points, ((0, 0), (0, 2 - axes))), shown


def lay_out_neighbors(features: NDArray[np.float32]) -> Points:
    """Lay out features [N, D] in the plane so that neighbors stay neighbors, by t-SNE: points [N, 2]; distances between groups say little.

    It begins with the principal components and has a fixed seed, so that it repeats. Source: van der Maaten and Hinton 2008; scikit-learn.
    """
    from sklearn.manifold import TSNE

    perplexity = min(MAX_PERPLEXITY, (len(features) - 1) / 3)
    points = TSNE(2, perplexity=perplexity, init="pca" if features.shape[1] > 1 else "random", random_state=0).fit_transform(features)
    return np.asarray(points, dtype=np.float64)
