"""Near-identical images in two parts: what counts as a copy, and which image is named as its original."""

import cv2
import numpy as np
import pytest
import torch

from neural_lib.evaluation.copies import Copy, find_copies


def made_up(count: int, size: int, blurs: tuple[float, ...]) -> torch.Tensor:
    """Different images of soft spots, uint8 (count, 1, size, size). blurs: radii of the spots, pixels."""
    random, images = np.random.default_rng(0), []
    for _ in range(count):
        spots = [blur * cv2.GaussianBlur(random.normal(size=(size, size)), (0, 0), blur) for blur in blurs]
        images.append(cv2.normalize(sum(spots), None, 10, 245, cv2.NORM_MINMAX))
    return torch.from_numpy(np.stack(images)).byte()[:, None]


@pytest.fixture(scope="module")
def photos() -> torch.Tensor:
    """Different images as large as photos, uint8 (4, 3, 240, 240)."""
    return made_up(12, 240, (5, 10, 20)).view(4, 3, 240, 240)


@pytest.fixture(scope="module")
def small() -> torch.Tensor:
    """Different small images, uint8 (60, 1, 28, 28)."""
    return made_up(60, 28, (1.5,))


def features(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, 20, generator=torch.Generator().manual_seed(seed))


def changed(images: torch.Tensor, change) -> torch.Tensor:
    pixels = [np.ascontiguousarray(image.permute(1, 2, 0).numpy()) for image in images]
    return torch.stack(
        [torch.from_numpy(change(each).copy()).reshape(images[0].shape[1:] + (-1,)).permute(2, 0, 1) for each in pixels]
    )


def as_jpeg(image: np.ndarray, quality: int = 80) -> np.ndarray:
    return cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], cv2.IMREAD_UNCHANGED)


CHANGES = {
    "saved again": as_jpeg,
    "reduced": lambda image: cv2.resize(cv2.resize(image, (120, 120), interpolation=cv2.INTER_AREA), (240, 240)),
    "darker": lambda image: (0.8 * image).astype(np.uint8),
    "cropped": lambda image: cv2.resize(image[:220, 20:], (240, 240)),
    "mirrored and cropped": lambda image: cv2.resize(image[:226, 226::-1][:, :226], (240, 240)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_changed_photos_are_copies(photos, change):
    similar = features(4) + 0.1 * features(4, seed=1)
    found = find_copies({"training": (features(4), photos), "test": (similar, changed(photos, CHANGES[change]))})
    assert found == [Copy("training", index, "test", index, False) for index in range(4)]


def test_different_photos_with_the_same_features_are_none(photos):
    vectors = features(4)
    assert not find_copies({"training": (vectors, photos), "test": (vectors, photos.roll(1, dims=0))})


def test_small_images_are_copies_if_hardly_anything_was_changed(small):
    vectors = features(60)
    for change, is_copy in ((as_jpeg, True), (lambda image: (0.8 * image).astype(np.uint8), True)):
        found = find_copies({"training": (vectors, small), "test": (vectors, changed(small, change))})
        assert len(found) == (60 if is_copy else 0)
    noisy = (small + 20 * torch.randn(small.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 255).byte()
    for other in (noisy, small.flip(3), small.roll(1, dims=3)):
        assert not find_copies({"training": (vectors, small), "test": (vectors, other)})


def test_the_most_similar_image_of_all_earlier_parts_is_named(small):
    vectors = features(60)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(0))
    parts = {
        "training": (vectors[:40], small[:40]),
        "validation": (vectors[40:50], small[40:50]),
        "test": (vectors[30:50][order], small[30:50][order]),
    }
    origins = [("training", index) if index < 40 else ("validation", index - 40) for index in (30 + order).tolist()]
    assert find_copies(parts) == [Copy(*origin, "test", index, True) for index, origin in enumerate(origins)]


def test_similarities_computed_in_chunks_are_the_same(small, monkeypatch):
    parts = {"training": (features(60), small), "test": (features(60).flip(0), small.flip(0))}
    monkeypatch.setattr("neural_lib.evaluation.copies.MAX_SIMILARITIES", 100)
    assert [copy.index for copy in find_copies(parts)] == list(reversed(range(60)))


def test_a_feature_that_tells_classes_apart_does_not_hide_the_others():
    """The original differs in it by a little, and another image of the class not at all."""
    vectors = features(300)
    vectors[:, 0] *= 100
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (300, 1, 28, 28), dtype=np.uint8))
    similar = vectors[:100].clone()
    similar[:, 0] += 3 * features(100, seed=1)[:, 0]
    found = find_copies({"training": (vectors, images), "test": (similar, images[:100])})
    assert [copy.index for copy in found] == list(range(100))


def test_blank_images_are_no_copies(photos):
    for blank in (torch.full((3, 1, 28, 28), 7, dtype=torch.uint8), torch.zeros_like(photos)):
        for vectors in (features(len(blank)), torch.ones(len(blank), 20)):
            assert not find_copies({"training": (vectors, blank), "test": (vectors, blank)})


def test_images_whose_features_are_not_finite_are_in_no_pair(small):
    vectors = features(60)
    train, test = vectors.clone(), vectors.clone()
    train[3, 0], test[5, 1] = torch.nan, torch.inf
    found = find_copies({"training": (train, small), "test": (test, small)})
    assert [copy.other_index for copy in found] == [index for index in range(60) if index not in (3, 5)]
    assert all(copy.index == copy.other_index for copy in found)
    nothing = torch.full_like(vectors, torch.nan)
    assert not find_copies({"training": (nothing, small), "test": (nothing, small)})


def test_parts_may_be_empty(small):
    vectors = features(60)
    for train, test in ((0, 60), (60, 0), (0, 0), (1, 0)):
        parts = {"training": (vectors[:train], small[:train]), "test": (vectors[:test], small[:test])}
        assert find_copies(parts) == []
    assert find_copies({}) == []
    middle = {"training": (vectors, small), "validation": (vectors[:0], small[:0]), "test": (vectors[:1], small[:1])}
    assert find_copies(middle) == [Copy("training", 0, "test", 0, True)]


def test_features_that_depend_on_each_other_find_copies(small):
    vectors = features(60)[:, :3].repeat(1, 7)  # 21 features, of which 3 say all
    found = find_copies({"training": (vectors, small), "test": (vectors, small)})
    assert found == [Copy("training", index, "test", index, True) for index in range(60)]


def test_images_with_different_answers_are_not_compared(small):
    vectors, answers = features(60), torch.arange(60) % 7
    parts = {"training": (vectors[:40], small[:40]), "validation": (vectors[40:], small[40:]), "test": (vectors, small)}
    found = find_copies(parts, {"training": answers[:40], "validation": answers[40:], "test": answers})
    origins = [("training", index) for index in range(40)] + [("validation", index) for index in range(20)]
    assert found == find_copies(parts) == [Copy(*origin, "test", index, True) for index, origin in enumerate(origins)]
    others = {"training": answers[:40], "validation": answers[40:], "test": torch.where(answers == 3, 9, answers)}
    assert [each.other_index for each in find_copies(parts, others)] == [i for i in range(60) if answers[i] != 3]
