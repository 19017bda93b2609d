"""How shipped networks are judged by their tasks, and the inputs that are made for them."""

import numpy as np
import pytest

pytest.importorskip("PIL.Image")

from benchmarks.networks import task_inputs, tasks


def boxes(*rows):
    """The output (1, 4 + 2, places) of a detector of two classes for rows of x, y, w, h, two scores."""
    return [[np.array(rows, float).T[None]]]


def test_a_box_is_found_again_by_class_and_overlap():
    wanted = boxes((50, 50, 20, 20, 0.9, 0.1), (150, 50, 20, 20, 0.1, 0.8), (90, 90, 10, 10, 0.2, 0.1))
    assert tasks.boxes_found(wanted, wanted) == "2/2 (100 %), 0 new"
    # A shift by 5 leaves 15 x 20 of 25 x 20: 0.6; one by 8 leaves 12 of 28.
    assert tasks.boxes_found(wanted, boxes((55, 50, 20, 20, 0.6, 0.1), (158, 50, 20, 20, 0.1, 0.8))) == (
        "1/2 (50 %), 50 new"
    )
    other_class = boxes((50, 50, 20, 20, 0.1, 0.9), (150, 50, 20, 20, 0.1, 0.8))
    assert tasks.boxes_found(wanted, other_class) == "1/2 (50 %), 50 new"


def test_of_boxes_upon_each_other_the_best_stays():
    found = tasks.boxes_of(
        boxes((50, 50, 20, 20, 0.5, 0.0), (51, 50, 20, 20, 0.9, 0.0), (52, 50, 20, 20, 0.0, 0.4))[0][0][0]
    )
    assert found[:, 4].tolist() == [0.9, 0.4]
    assert found[:, 5].tolist() == [0, 1]


def test_masks_and_frames():
    wanted, found = np.zeros((1, 1, 4, 4)), np.zeros((1, 1, 4, 4))
    wanted[..., :2], found[..., 1:3] = 0.9, 0.4
    assert tasks.mask_overlap([[wanted]], [[found]]) == "0.333"
    assert tasks.mask_overlap([[wanted]], [[wanted]]) == "1.000"
    notes, less = np.zeros((1, 10, 88)), np.zeros((1, 10, 88))
    notes[0, :4, 3], less[0, 2:4, 3] = 0.5, 0.5
    # 2 right of 4 wanted and 2 found.
    assert tasks.frames_f1([[notes, notes[..., :10]]], [[less, notes[..., :10]]]) == f"{4 / 6:.3f}"


def test_letters_are_read_without_blanks_and_repetitions():
    steps = np.eye(5)[[0, 3, 3, 0, 3, 1, 0]]
    assert tasks.read(steps) == [3, 3, 1]
    other = np.eye(5)[[0, 3, 0, 0, 3, 2, 0]]
    assert tasks.text_alike([[np.stack([steps, steps])]], [[np.stack([steps, other])]]) == "50 %"


@pytest.mark.parametrize("words", [True, False])
def test_lines_are_cropped_and_filled_with_zeros(words):
    found, texts = task_inputs.lines(12, np.random.default_rng(0), words=words)
    again, same = task_inputs.lines(12, np.random.default_rng(0), words=words)
    assert found.shape == (12, 3, 48, 320)
    assert found.dtype == np.float32
    assert abs(found).max() <= 1.0
    assert np.array_equal(found, again)
    assert texts == same
    used = np.array([np.flatnonzero(line.any((0, 1))).max() + 1 for line in found])
    # Longer text is wider, and to the right of it nothing is left.
    assert np.corrcoef(used, [len(text) for text in texts])[0, 1] > 0.7
    assert (used < 320).any()
    assert all(text.strip() == text != "" for text in texts)
    reference = set(task_inputs._prose())
    assert all(set(text.split()) <= reference for text in texts) is words
