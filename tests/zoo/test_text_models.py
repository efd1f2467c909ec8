"""A4 to A6: what is drawn, how answers are decoded, and what the float models are known to do."""

import numpy as np
import pytest

from knerex_jax.e2e.boxes import box_overlaps, count_matches, suppress_repeats
from knerex_jax.zoo import ZOO
from knerex_jax.zoo.characters import found_boxes
from knerex_jax.zoo.lettering import (
    CALIBRATION_WORDS,
    EVALUATION_WORDS,
    contrasting_colour,
    draw_text,
    line_input,
    random_line,
    random_text,
)
from knerex_jax.zoo.scores import edit_distance, f1_score, overlap
from knerex_jax.zoo.textlines import load_charset, read_lines
from knerex_jax.zoo.textscenes import text_pixels

WHITE = np.full(3, 255)


@pytest.mark.parametrize("outline", [0, 1, 3])
@pytest.mark.parametrize("text", ["A", "g", "Total 12.50", "jigsaw", "7"])
def test_the_box_of_a_text_is_where_the_picture_changed(text, outline):
    ground = np.full((80, 200, 3), 90, np.uint8)
    drawn, box = draw_text(ground, text, 30, 15, 20, WHITE, outline)
    assert ground.min() == ground.max() == 90  # stays as it is
    rows, columns = np.nonzero(np.any(drawn != ground, axis=2))
    assert box[:2] == (20, 15)
    np.testing.assert_allclose((columns.min(), rows.min(), columns.max() + 1, rows.max() + 1), box, atol=1)


def test_words_of_calibration_and_evaluation_differ_and_texts_keep_their_length():
    assert not set(CALIBRATION_WORDS) & set(EVALUATION_WORDS) and len(EVALUATION_WORDS) >= 60
    generator = np.random.default_rng(0)
    texts = [random_text(EVALUATION_WORDS, 12, generator) for _ in range(300)]
    assert max(map(len, texts)) <= 12 and min(map(len, texts)) >= 3 and len(set(texts)) > 200
    assert all(text == text.strip() for text in texts)


def test_lines_are_48_high_and_their_colour_stands_out():
    generator = np.random.default_rng(0)
    ground = np.full((4, 4, 3), 120, np.uint8)
    assert all(abs(contrasting_colour(ground, generator).mean() - 120) >= 90 for _ in range(50))
    picture = random_line("answer", generator)
    assert picture.shape[0] == 48 and picture.shape[1] > 48 and picture.dtype == np.uint8


def test_line_input_is_bgr_from_minus_one_to_one_and_padded_with_zero():
    picture = np.zeros((48, 10, 3), np.uint8)
    picture[..., 0], picture[..., 1] = 255, 51
    row = line_input(picture, 12)
    np.testing.assert_allclose(row[:, 0, 0], [-1, -0.6, 1], atol=1e-6)
    assert row.shape == (3, 48, 12) and row.dtype == np.float32 and (row[:, :, 10:] == 0).all()
    assert line_input(picture, 5).shape == (3, 48, 5) and (line_input(picture, 5) != 0).all()


def test_boxes_on_hand_worked_cases():
    boxes = np.array([[0, 0, 4, 4], [2, 0, 6, 4], [10, 10, 12, 12]], float)
    np.testing.assert_allclose(box_overlaps(boxes, boxes), [[1, 8 / 24, 0], [8 / 24, 1, 0], [0, 0, 1]])
    scores = np.array([0.5, 0.9, 0.1])
    assert suppress_repeats(boxes, scores, 0.3).tolist() == [1, 2]
    assert suppress_repeats(boxes, scores, 0.4).tolist() == [1, 0, 2]
    assert suppress_repeats(boxes[:0], scores[:0], 0.4).shape == (0,)
    true = np.array([[0, 0, 4, 3], [20, 20, 21, 21]])
    assert count_matches(boxes, true, 0.4) == (1, 2)
    assert count_matches(boxes[:0], true, 0.4) == (0, 0)


@pytest.mark.parametrize(("stride", "first"), [(8, 0), (16, 52 * 52), (32, 52 * 52 + 26 * 26)])
def test_character_boxes_are_decoded_from_their_cell(stride, first):
    output = np.zeros((3549, 6), np.float32)
    row, column = 3, 5
    index = first + row * (416 // stride) + column
    output[index] = (0.5, 0.25, np.log(2), np.log(1), 0.9, 0.8)
    output[index + 1] = (-0.5, 0.25, np.log(2), np.log(1), 0.8, 0.8)  # the same box, less sure
    output[0, 4:] = (0.5, 0.5) if index else (0.9, 0.8)  # below the least score
    (box,) = found_boxes(output)
    np.testing.assert_allclose(np.array(box) / stride, [4.5, 2.75, 6.5, 3.75], rtol=1e-6)


def test_ctc_reads_new_classes_only_and_drops_blanks_and_margins():
    charset = ("", "a", "b", " ")
    classes = np.array([[3, 1, 1, 0, 1, 2, 2, 3], [0, 0, 2, 3, 0, 3, 1, 0]])
    assert read_lines(np.eye(4)[classes], charset) == ["aab", "b  a"]


def test_edit_distance_and_masks_on_hand_worked_cases():
    cases = {("", ""): 0, ("abc", ""): 3, ("kitten", "sitting"): 3, ("flaw", "lawn"): 2, ("abc", "abc"): 0}
    assert {pair: edit_distance(*pair) for pair in cases} == cases
    first, second = np.array([1, 1, 0, 0], bool), np.array([1, 0, 1, 0], bool)
    assert overlap(first, second) == 1 / 3 and f1_score(first, second) == 0.5
    empty = np.zeros(4, bool)
    assert overlap(empty, empty) == f1_score(empty, empty) == 1 and f1_score(first, empty) == 0


def test_a_core_grows_to_the_box_of_its_text():
    probabilities = np.zeros((60, 100))
    probabilities[20:24, 30:70] = 0.9  # 4 x 40: grows by 1.5 * 160 / 88 = 2.7, rounded 3
    probabilities[50:52, 5:9] = 0.9  # too small to be text
    probabilities[0:4, 0:20] = 0.31  # grows by 2.5, rounded to 2, and ends at the edge of the picture
    expected = np.zeros((60, 100), bool)
    expected[17:27, 27:73] = True
    expected[0:6, 0:22] = True
    np.testing.assert_array_equal(text_pixels(probabilities), expected)


@pytest.mark.models
def test_a4_finds_the_characters(evaluated):
    data, outputs = evaluated("A4")
    assert data.labels.shape == (10, 4, 4) and data.labels.min() >= 0 and data.labels.max() <= 416
    measures = ZOO["A4"].metrics(outputs, outputs, data.labels)
    assert measures["characters_found"] >= 38 / 40 and measures["false_boxes_per_picture"] <= 0.5
    assert measures["float_boxes_kept"] == 1
    nothing = {"output": np.zeros_like(outputs["output"])}
    lost = ZOO["A4"].metrics(nothing, outputs, data.labels)
    assert lost == {"float_boxes_kept": 0, "characters_found": 0, "false_boxes_per_picture": 0}


@pytest.mark.models
def test_a5_reads_the_lines(evaluated):
    data, outputs = evaluated("A5")
    assert len(load_charset(ZOO["A5"].path())) == outputs["softmax_11.tmp_0"].shape[2] == 6625
    assert len(set(data.labels.tolist())) > 20
    measures = ZOO["A5"].metrics(outputs, outputs, data.labels)
    assert measures["lines_exact"] >= 28 / 30 and measures["character_accuracy"] >= 0.99
    assert measures["agreement"] == 1
    shuffled = {name: value[::-1] for name, value in outputs.items()}
    wrong = ZOO["A5"].metrics(shuffled, outputs, data.labels)
    assert wrong["lines_exact"] == wrong["agreement"] == 0 and wrong["character_accuracy"] < 0.4


@pytest.mark.models
def test_a6_detector_marks_the_text(evaluated):
    data, outputs = evaluated("A6_det")
    measures = ZOO["A6_det"].metrics(outputs, outputs, data.labels)
    assert measures["f1"] >= 0.8 and measures["core_iou"] == measures["pixel_agreement"] == 1
    mirrored = {name: value[:, :, ::-1] for name, value in outputs.items()}
    wrong = ZOO["A6_det"].metrics(mirrored, outputs, data.labels)
    assert wrong["f1"] < 0.4 and wrong["core_iou"] < 0.2


@pytest.mark.models
def test_a6_classifier_tells_upright_lines_from_turned_ones(evaluated):
    data, outputs = evaluated("A6_cls")
    assert data.labels.tolist() == [0, 1] * 30
    measures = ZOO["A6_cls"].metrics(outputs, outputs, data.labels)
    assert measures["top1"] >= 57 / 60 and measures["agreement"] == 1
