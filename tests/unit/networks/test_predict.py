import numpy as np
import pytest

from otrain_core.cubes.inputs import select_inputs
from otrain_core.errors import CubeError
from otrain_core.networks import predict
from tests.unit.synthetic_cube import make_cube, make_split
from tests.unit.tiny_network import tiny_network

pytestmark = pytest.mark.xdist_group("tensorflow")


@pytest.fixture(scope="module")
def model():
    from otrain_core.networks.architecture import keras

    keras.utils.set_random_seed(3)
    return tiny_network("otrain2", size=15, channels=["difference", "seeing"], normalise="mad-asinh")


@pytest.fixture(scope="module")
def cube():
    return make_cube(60, size=20)


def test_scores_are_what_the_model_gives_for_true(model, cube):
    rows = np.array([7, 3, 11])
    inputs = predict.model_inputs(model, cube, rows)
    assert inputs.shape == (3, 15, 15, 2) and np.allclose(inputs[:, 0, 0, 1], cube["seeing"][rows])
    assert np.array_equal(
        inputs, select_inputs(cube, inputs=["difference", "seeing"], size=15, rows=rows), equal_nan=True
    )
    expected = np.asarray(model(inputs))[:, 1]
    scores = predict.score_rows(model, cube, rows)
    assert scores.dtype == np.float32 and np.allclose(scores, expected, atol=1e-6)
    assert np.allclose(predict.score_rows(model, cube)[rows], scores, atol=1e-6)
    blocks = [inputs[:2], inputs[:0], inputs[2:]]
    assert np.allclose(predict.score_cutouts(model, blocks), scores, atol=1e-6)
    assert predict.score_cutouts(model, []).shape == (0,)


def test_the_table_of_a_cube(model, cube):
    split = make_split(cube)
    table = predict.score_cube(model, cube, split[split["set"] != "validation"])
    assert list(table.columns) == ["index", "candid", "image", "label", "sign", "score", "set"]
    assert table["index"].tolist() == list(range(60)) and np.array_equal(table["label"], cube["labels"])
    assert np.array_equal(table["set"], split["set"].replace("validation", "unused"))
    assert np.array_equal(table["score"], predict.score_rows(model, cube))
    with pytest.raises(CubeError, match="15 px are needed, but those of the cube have 12"):
        predict.score_cube(model, {**cube, "cube": cube["cube"][:, 4:16, 4:16]}, split)


def test_real_stars_of_the_test_images_alone(model, cube):
    split = make_split(cube)
    table = predict.score_cube(model, cube, split)
    found = predict.score_real_stars(model, cube, table)
    tested = (split["set"] == "test").to_numpy()
    assert found["candid"].tolist() == cube["candids"][tested].tolist() and 0 < tested.sum() < 60
    assert np.allclose(found["score"], table.loc[tested, "score"], atol=1e-6)
    none = predict.score_real_stars(model, cube, table.assign(set="train"))
    assert len(none) == 0 and list(none.columns) == ["candid", "image", "mag", "kind", "score"]
