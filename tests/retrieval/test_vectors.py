"""k-means and exact search, against loops."""

from __future__ import annotations

import numpy as np
import pytest

from retrolit.retrieval import vectors
from retrolit.retrieval.vectors import Nearest, blocks, exact_neighbors, kmeans, sample


def test_exact_neighbors_are_those_of_a_loop(rows, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vectors, "BLOCK", 100)  # so that the best of several blocks have to be merged
    generator = np.random.default_rng(0)
    database = rows(generator.standard_normal((350, 8)))
    queries = rows(generator.standard_normal((20, 8))).array
    similarity, ids = exact_neighbors(queries, database, 5)
    for query, found, values in zip(queries, ids, similarity, strict=True):
        products = database.array @ query
        expected = sorted(range(350), key=lambda i: -products[i])[:5]
        assert found.tolist() == expected
        np.testing.assert_allclose(values, products[expected], atol=1e-6)


def test_exact_neighbors_leave_out_an_id_and_say_where_there_are_no_more(rows) -> None:
    database = rows(np.eye(4))
    similarity, ids = exact_neighbors(database.array, database, 4, exclude=np.arange(4))
    for own, found in enumerate(ids):
        assert sorted(found.tolist()) == sorted([-1, *(set(range(4)) - {own})])
    assert (similarity[ids == -1] == -np.inf).all()


def test_blocks_and_sample_give_rows_in_order(rows, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vectors, "BLOCK", 4)
    database = rows(np.random.default_rng(0).standard_normal((10, 3)))
    assert [start for start, _ in blocks(database)] == [0, 4, 8]
    np.testing.assert_array_equal(np.concatenate([block for _, block in blocks(database, 3)]), database.array[3:])
    drawn = sample(database, 6, seed=3)
    place = [int((database.array == row).all(axis=1).argmax()) for row in drawn]
    assert place == sorted(set(place))  # each once, in order
    assert not np.array_equal(drawn, sample(database, 6, seed=4))


def test_kmeans_finds_clusters_that_lie_apart(rows) -> None:
    generator = np.random.default_rng(0)
    centers = np.linalg.qr(generator.standard_normal((8, 8)))[0]
    points = rows(np.repeat(centers, 50, axis=0) + 0.05 * generator.standard_normal((400, 8))).array
    centroids = kmeans(points, 8, iterations=10, seed=0)
    np.testing.assert_allclose(np.linalg.norm(centroids, axis=1), 1, atol=1e-5)
    # One centroid beside each center: the empty ones moved there.
    assert sorted((centers @ centroids.T).argmax(axis=1).tolist()) == list(range(8))
    np.testing.assert_array_equal(centroids, kmeans(points, 8, iterations=10, seed=0))


def test_kmeans_of_copies_has_one_centroid_for_them_and_the_rest_out_of_the_way() -> None:
    points = np.tile(np.array([0.6, 0.8], np.float32), (50, 1))
    centroids = kmeans(points, 5, iterations=3, seed=0)
    assert (np.abs(centroids).sum(axis=1) > 0).sum() == 1
    np.testing.assert_allclose(centroids.max(axis=0), [0.6, 0.8], atol=1e-6)


def test_nearest_is_the_largest_product_and_the_first_of_equals() -> None:
    centroids = np.array([[1, 0], [0, 1], [0, 1]], np.float32)
    values, numbers = Nearest(centroids)(np.array([[2, 1], [0, 3]], np.float32))
    assert values.tolist() == [2, 3]
    assert numbers.tolist() == [0, 1]
