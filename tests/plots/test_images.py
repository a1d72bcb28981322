"""Figures of images and matrices show what they are given."""

import pytest
import torch

from d2l_lightning.plots.images import image_grid, matrix


def test_a_grid_shows_every_image_and_frames_the_wrong_ones() -> None:
    images = torch.rand(11, 28, 28)
    figure = image_grid(images, [(str(i), i != 4) for i in range(11)], "all", columns=4)
    assert len(figure.axes) == 12
    for i, (panel, image) in enumerate(zip(figure.axes, images, strict=False)):
        (shown,) = panel.images
        assert torch.equal(torch.as_tensor(shown.get_array()), image)
        assert panel.get_title() == str(i)
        assert panel.spines["left"].get_visible() is (i == 4)
        assert panel.axison
    assert not figure.axes[11].images
    assert not figure.axes[11].axison


def test_a_matrix_shows_its_counts_with_the_true_classes_in_rows() -> None:
    counts = torch.tensor([[5, 1], [0, 4]])
    (panel,) = matrix(counts, ["cat", "dog"], "who", "predicted", "true").axes
    texts = {text.get_position(): text.get_text() for text in panel.texts}
    assert texts == {(0, 0): "5", (1, 0): "1", (0, 1): "0", (1, 1): "4"}
    assert [label.get_text() for label in panel.get_yticklabels()] == ["cat", "dog"]
    assert (panel.get_xlabel(), panel.get_ylabel()) == ("predicted", "true")
    assert panel.images[0].get_array()[0].tolist() == pytest.approx([5 / 6, 1 / 6])
