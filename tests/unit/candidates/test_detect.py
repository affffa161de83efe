import shutil

import numpy as np
import pandas as pd
import pytest
from scipy.spatial import cKDTree

from otrain_core.candidates.detect import CANDIDATE_COLUMNS, detect_candidates, detect_files
from otrain_core.candidates.measure import BroadenedPSF
from otrain_core.errors import ImageError
from otrain_core.images.frames import MASK_COSMIC, MASK_MISSING, MASK_SATURATED
from otrain_core.plan.pipelines import DetectOptions
from tests.unit.synthetic_difference import NOISE, SEEING, ZERO_POINT, Moffat, add, blank, grid_of_sources, tangential

needs_source_extractor = pytest.mark.skipif(
    not any(map(shutil.which, ("source-extractor", "sex", "sextractor"))), reason="needs the program source-extractor"
)
METHODS = ["sep"] + [pytest.param(m, marks=needs_source_extractor) for m in ("source-extractor", "stdpipe")]


def detect(planes, *, image="a", telescope="T", seeing=SEEING, zero_point=ZERO_POINT, size=32, **given):
    asked = {key: given.pop(key) for key in list(given) if key in DetectOptions.model_fields}
    section = DetectOptions(**asked)
    return detect_candidates(
        *planes,
        image=image,
        telescope=telescope,
        seeing=seeing,
        zero_point=zero_point,
        size=size,
        options=section,
        **given,
    )


def pair(table, truth):
    distance = np.hypot(
        truth.x.to_numpy()[:, None] - table.x.to_numpy(), truth.y.to_numpy()[:, None] - table.y.to_numpy()
    )
    return distance.argmin(axis=1), distance.min(axis=1)


@pytest.fixture(scope="module")
def bright():
    planes, psf, truth = grid_of_sources(snr=60)
    return planes, psf, truth, detect(planes, psf=psf, size=32)


def test_every_bright_source_is_found_once_in_its_place(bright):
    _, _, truth, table = bright
    index, distance = pair(table, truth)
    assert len(table) == len(truth) == len(set(index))
    assert np.median(distance) < 0.05 and distance.max() < 0.15


def test_flux_and_magnitude_are_unbiased_with_honest_errors(bright):
    _, psf, truth, table = bright
    index, _ = pair(table, truth)
    measured = table.iloc[index]
    pull = (measured["flux"].to_numpy() - truth.flux.to_numpy()) / psf.flux_error()
    assert abs(pull.mean()) < 0.5 and 0.6 < pull.std() < 1.5
    true_mag = ZERO_POINT - 2.5 * np.log10(truth.flux.to_numpy())
    assert abs(np.median(measured["mag"].to_numpy() - true_mag)) < 0.01
    np.testing.assert_allclose(measured["snr"], 60, rtol=0.25)
    np.testing.assert_allclose(measured["magerr"], 1.0857 / measured["snr"], rtol=1e-3)


def test_shapes_of_point_sources(bright):
    table = bright[3]
    assert np.median(table["fwhm"]) == pytest.approx(SEEING, rel=0.04)
    assert np.median(table["ellipticity"]) < 0.1


def test_width_of_faint_sources_is_not_that_of_their_isophote():
    planes, psf, _ = grid_of_sources(snr=8, size=600)
    table = detect(planes, psf=psf)
    assert np.median(table["fwhm"]) == pytest.approx(SEEING, rel=0.12)
    assert table["fwhm"].between(0.4 * SEEING, 2.5 * SEEING).mean() > 0.95


def test_threshold_is_a_significance():
    planes = blank(3, 700)
    assert len(detect(planes, threshold=5.0)) <= 2  # 0.1 are expected from noise
    faint, psf, truth = grid_of_sources(snr=9, size=600)
    _, distance = pair(detect(faint, psf=psf, threshold=5.0), truth)
    assert (distance < SEEING).mean() > 0.97


def test_noise_is_scaled_to_the_spread_of_the_filtered_difference():
    from scipy.ndimage import gaussian_filter

    diff, noise, mask = blank(8, 500)
    correlated = gaussian_filter(diff, 0.7)
    correlated *= NOISE / correlated.std()
    # A wrong noise map changes neither the sources found nor their significance.
    planes, psf, _ = grid_of_sources(snr=30)
    right, wrong = (detect((planes[0], factor * planes[1], planes[2]), psf=psf) for factor in (1, 3))
    np.testing.assert_allclose(right["snr"], wrong["snr"], rtol=1e-4)
    assert len(detect((planes[0], 20 * planes[1], planes[2]), psf=psf, rescale_noise=False)) == 0
    assert len(detect((correlated, noise, mask))) <= 2 < len(detect((correlated, noise, mask), rescale_noise=False))


def test_columns_identifiers_and_order(bright):
    table = bright[3]
    assert list(table.columns) == list(CANDIDATE_COLUMNS)
    assert table["candid"].tolist() == [f"T-a-{n:04d}" for n in range(1, len(table) + 1)]
    assert (np.diff(table["y"]) >= 0).all()
    assert table["ra"].isna().all() and set(table["method"]) == {"difference"}
    pd.testing.assert_frame_equal(table, detect(bright[0], psf=bright[1], size=32))


def test_sky_coordinates_follow_the_wcs(bright):
    wcs = tangential()
    table = detect(bright[0], psf=bright[1], wcs=wcs)
    x, y = wcs.all_world2pix(table["ra"], table["dec"], 0)
    np.testing.assert_allclose(x, table["x"], atol=1e-6)
    np.testing.assert_allclose(y, table["y"], atol=1e-6)


def test_missing_values_do_not_spread():
    planes, psf, truth = grid_of_sources(snr=60)
    diff, noise, mask = (plane.copy() for plane in planes)
    diff[:, 140:145] = np.nan
    noise[10] = 0
    noise[11] = np.nan
    table = detect((diff, noise, mask), psf=psf)
    numbers = table.drop(columns=["ra", "dec"]).select_dtypes("number")
    assert len(table) > 25 and np.isfinite(numbers.to_numpy()).all()
    assert not table["x"].between(139.5, 144.5).any()


def test_negative_sources_only_when_asked():
    diff, noise, mask = blank(5)
    add(diff, Moffat(), 100, 100, -60 * Moffat().flux_error())
    assert len(detect((diff, noise, mask))) == 0
    table = detect((diff, noise, mask), psf=Moffat(), both_signs=True)
    row = table.loc[table["snr"].idxmax()]
    assert (
        row["flux"] < 0
        and row["mag"] == pytest.approx(ZERO_POINT - 2.5 * np.log10(-row["flux"]))
        and row["snr"] == pytest.approx(60, rel=0.1)
    )


def test_hot_pixel_is_narrow_and_fwhm_range_applies(bright):
    diff, noise, mask = blank(6)
    diff[50, 60] += 500
    table = detect((diff, noise, mask))
    assert len(table) == 1 and table["fwhm"][0] < 0.6 * SEEING
    assert len(detect((diff, noise, mask), fwhm_ratio=(0.6, 5.0))) == 0
    assert len(detect(bright[0], psf=bright[1], fwhm_ratio=(0.6, 5.0))) == len(bright[3])


@pytest.mark.parametrize(
    "change, match",
    [
        ({"max_candidates": 10}, "image a: detect.max_candidates: 36 candidates, more than 10"),
        ({"seeing": np.nan}, "image a: detect.seeing: a positive seeing"),
        ({"seeing": 0.0}, "image a: detect.seeing: a positive seeing"),
    ],
)
def test_bad_input(bright, change, match):
    with pytest.raises(ImageError, match=match):
        detect(bright[0], psf=bright[1], **change)


def test_flux_is_unbiased_where_the_science_image_was_convolved():
    from scipy.ndimage import gaussian_filter

    diff, _, mask = blank(9, 400)
    psf = Moffat()
    truth = [(x, y, 300 * psf.flux_error()) for x in range(50, 400, 60) for y in range(50, 400, 60)]
    for x, y, flux in truth:
        add(diff, psf, x + 0.3, y - 0.2, flux)
    sigma = 0.8
    diff = gaussian_filter(diff, sigma)
    noise = np.full_like(diff, NOISE)
    target = np.hypot(SEEING, 2.3548 * sigma)
    broad = BroadenedPSF(psf, fwhm=SEEING, target=target)
    assert broad.stamp(30.3, 30.1)[0].sum() == pytest.approx(1, abs=1e-6)
    table = detect((diff, noise, mask), psf=broad, seeing=target)
    assert len(table) == len(truth)
    assert np.median(table["flux"]) == pytest.approx(truth[0][2], rel=0.01)
    narrow = detect((diff, noise, mask), psf=psf)
    assert np.median(narrow["flux"]) < 0.93 * truth[0][2]


def test_image_without_a_usable_pixel():
    diff, noise, mask = blank(7, 64)
    with pytest.raises(ImageError, match="detect: no usable pixel"):
        detect((np.full_like(diff, np.nan), noise, mask))


@pytest.mark.parametrize("fwhm", [1.6, 4.0])
def test_completeness_where_the_psf_is_small_or_large(fwhm):
    """With 1 % bad pixels, 60 % of the sources 0.3 mag above S/N 5 and 97 % of those at S/N 10.5 are found."""
    rng = np.random.default_rng(11)
    diff, noise, mask = blank(12, 700)
    psf = Moffat(fwhm)
    y, x = (axis.ravel() + rng.uniform(-3, 3, axis.size) for axis in np.mgrid[20:680:20, 20:680:20])
    snr = rng.choice([5 * 10 ** (0.4 * 0.3), 10.5], x.size)
    for xi, yi, si in zip(x, y, snr, strict=True):
        add(diff, psf, xi, yi, si * psf.flux_error())
    mask[rng.random(mask.shape) < 0.01] = MASK_COSMIC
    diff[mask > 0] = noise[mask > 0] = np.nan
    table = detect((diff, noise, mask), psf=psf, seeing=fwhm)
    found = cKDTree(table[["x", "y"]]).query(np.column_stack([x, y]))[0] < 0.75 * fwhm
    assert found[snr < 10].mean() > 0.6 and found[snr > 10].mean() > 0.97
    assert len(table) - found.sum() < 10


@pytest.mark.parametrize("method", METHODS)
def test_columns_mean_the_same_whatever_finds_the_source(bright, method):
    planes, psf, truth, sep_table = bright
    table = detect(planes, psf=psf, method=method)
    index, distance = pair(table, truth)
    assert len(table) == len(truth) == len(set(index)) and distance.max() < 0.3
    assert list(table.columns) == list(CANDIDATE_COLUMNS) and (np.diff(table["y"]) >= 0).all()
    np.testing.assert_allclose(table["flux"], sep_table["flux"], rtol=0.02)
    np.testing.assert_allclose(table["fluxerr"], sep_table["fluxerr"], rtol=0.02)
    assert np.median(table["fwhm"]) == pytest.approx(SEEING, rel=0.2)


@pytest.mark.parametrize("method", METHODS)
def test_nothing_is_detected_on_masked_pixels(method):
    diff, noise, mask = blank(4)
    mask[100, :] = mask[:, 30] = MASK_SATURATED
    mask[200:220, 200:220] = MASK_MISSING
    diff[mask > 0] = 1e6
    add(diff, Moffat(), 150, 250, 60 * Moffat().flux_error())
    for fill in (1e6, np.nan):
        diff[mask > 0] = fill
        table = detect((diff, noise, mask), method=method, threshold=5.5)
        assert len(table) == 1 and np.hypot(table["x"][0] - 150, table["y"][0] - 250) < 0.5


@needs_source_extractor
def test_width_of_source_extractor_is_cut_as_gmadet_does(monkeypatch, bright):
    from otrain_core.candidates import search

    planes, psf, truth, _ = bright
    gmadet = {"method": "source-extractor", "threshold": 4.0, "min_area": 4, "fwhm_ratio": (0.5, 5.0)}
    table = detect(planes, psf=psf, **gmadet)
    assert len(table) == len(truth) and (table["fwhm"] != detect(planes, psf=psf)["fwhm"]).all()
    run = search._run_source_extractor

    def degenerate(*args, **options):
        found = run(*args, **options)
        found["fwhm"][:3] = [0, np.nan, 0.4 * SEEING]
        return found

    monkeypatch.setattr(search, "_run_source_extractor", degenerate)
    assert len(detect(planes, psf=psf, **gmadet)) == len(truth) - 3
    assert len(detect(planes, psf=psf, **gmadet | {"fwhm_ratio": (0.0, 20.0)})) == len(truth) - 2


@pytest.mark.parametrize("method", METHODS)
def test_a_wrong_noise_map_changes_nothing_found(bright, method):
    (diff, noise, mask), psf, truth, _ = bright
    right, wrong = (detect((diff, factor * noise, mask), psf=psf, method=method) for factor in (1, 5))
    assert len(right) == len(wrong) == len(truth)
    np.testing.assert_allclose(right["snr"], wrong["snr"], rtol=0.01)
    assert len(detect((diff, 20 * noise, mask), psf=psf, method=method, rescale_noise=False)) == 0


@needs_source_extractor
@pytest.mark.parametrize("method", ["source-extractor", "stdpipe"])
def test_negative_sources_of_the_programs(method):
    diff, noise, mask = blank(5)
    add(diff, Moffat(), 100, 100, -60 * Moffat().flux_error())
    assert len(detect((diff, noise, mask), method=method)) == 0
    table = detect((diff, noise, mask), method=method, both_signs=True)
    assert len(table) == 1 and table["flux"][0] < 0


class Field:
    """A science image with known stars, some of which changed, and its difference."""

    def __init__(self):
        self.psf, self.wcs = Moffat(), tangential()
        self.diff, self.noise, self.mask = blank(21)
        self.science = np.random.default_rng(22).normal(0, NOISE, self.diff.shape).astype(np.float32)
        bright = 60 * self.psf.flux_error()
        self.known = [(60.3, 50.1), (120.6, 80.4), (200.2, 220.9)]
        self.new, self.faded_in, self.fresh = (80.2, 200.7), (240.4, 150.2), (150.5, 250.5)
        for x, y in [*self.known, self.new, self.faded_in]:
            add(self.science, self.psf, x, y, bright)
        for x, y in [self.new, self.known[2], self.fresh]:  # a transient, a variable star, and a bogus
            add(self.diff, self.psf, x, y, bright)
        ra, dec = self.wcs.all_pix2world(*np.transpose(self.known), 0)
        self.catalogue = pd.DataFrame({"ra": ra, "dec": dec, "mag": 20.0})

    def detect(self, **options):
        given = {
            "science": self.science,
            "catalogue": self.catalogue,
            "wcs": self.wcs,
            "psf": self.psf,
            "threshold": 6.0,
        }
        return detect((self.diff, self.noise, self.mask), **given | options)


@pytest.fixture(scope="module")
def field():
    return Field()


def methods_at(table, *positions):
    return [table["method"][int(i)] for i in cKDTree(table[["x", "y"]]).query(positions, distance_upper_bound=1.0)[1]]


@pytest.mark.parametrize("method", METHODS)
def test_searches_are_merged_without_doubles(field, method):
    table = field.detect(method=method, search=("difference", "catalogue"))
    assert len(table) == 4 and (np.diff(table["y"]) >= 0).all()
    assert methods_at(table, field.new, field.known[2], field.fresh, field.faded_in) == [
        "both",
        "difference",
        "difference",
        "catalogue",
    ]
    assert table["candid"].tolist() == [f"T-a-000{n}" for n in range(1, 5)]


def test_difference_rows_win_and_are_untouched_by_the_second_search(field):
    alone = field.detect()
    both = field.detect(search=["catalogue", "difference"])
    assert alone.to_csv() == field.detect(method="sep", search=("difference",), science=None, catalogue=None).to_csv()
    kept = both[both["method"] != "catalogue"].reset_index(drop=True)
    numbers = [name for name in CANDIDATE_COLUMNS if name not in ("candid", "method")]
    pd.testing.assert_frame_equal(kept[numbers], alone[numbers])
    row = both[both["method"] == "catalogue"].iloc[0]
    assert row["snr"] == pytest.approx(60, rel=0.1) and np.isfinite(row["ra"])


def test_catalogue_search_alone_and_its_radius(field):
    table = field.detect(search=["catalogue"])
    assert set(table["method"]) == {"catalogue"} and len(table) == 2
    moved = field.catalogue.assign(dec=field.catalogue["dec"] + 4 / 3600)  # 4 px
    assert len(field.detect(search=["catalogue"], catalogue=moved)) == 5
    assert len(field.detect(search=["catalogue"], catalogue=moved, catalogue_radius=5.0)) == 2
    assert len(field.detect(search=["catalogue"], catalogue=field.catalogue[:0])) == 5


def test_science_image_is_measured_with_its_own_psf(field):
    wide = Moffat(4.0)
    table = field.detect(
        search=["catalogue"], psf=wide, seeing=4.0, science_psf=field.psf, science_seeing=SEEING, catalogue_radius=2.0
    )
    np.testing.assert_allclose(table["flux"], 60 * field.psf.flux_error(), rtol=0.08)


@pytest.mark.parametrize(
    "change, match",
    [
        ({"catalogue": None}, "detect.search: .*needs a star catalogue.*column catalogue of the telescope sheet"),
        ({"wcs": None}, "detect.search: .*needs a celestial WCS.*column wcs of the image sheet"),
        ({"catalogue": pd.DataFrame({"ra": [1.0]})}, "detect.search: .*no column 'dec'.*telescope sheet"),
        ({"science": None}, "detect.search: .*needs the science image"),
        ({"max_candidates": 1}, "detect.max_candidates: 2 candidates, more than 1: the star catalogue is less deep"),
    ],
)
def test_catalogue_search_says_what_it_lacks(field, change, match):
    with pytest.raises(ImageError, match=match):
        field.detect(search=["catalogue"], **change)


def test_files_write_a_table_that_reads_back(bright, tmp_path, monkeypatch):
    from otrain_core import io
    from otrain_core.images.frames import write_planes

    planes, psf, _, table = bright
    monkeypatch.setattr("otrain_core.candidates.detect.PSFModel.load", staticmethod(lambda path: psf))
    write_planes(tmp_path / "d.fits", dict(zip(("diff", "noise", "mask"), planes, strict=True)))
    record = {
        "seeing_px": SEEING,
        "zero_point": ZERO_POINT,
        "zero_point_source": "assumed",
        "time": "2020-01-01T00:00:00",
        "filter": "R",
    }
    io.write_json(tmp_path / "psf.json", record)
    (tmp_path / "psf.fits").write_bytes(b"")
    arguments = {
        "difference": tmp_path / "d.fits",
        "psf": tmp_path / "psf.fits",
        "psf_record": tmp_path / "psf.json",
        "candidates": tmp_path / "c.csv",
        "image": "a",
        "telescope": "T",
        "size": 32,
    }
    detect_files(**arguments, options=DetectOptions(threshold=4.5))
    read = io.read_table(tmp_path / "c.csv")
    assert set(read["zero_point_source"]) == {"assumed"}
    assert set(read["filter"]) == {"R"} and read["candid"].tolist() == table["candid"].tolist()
    np.testing.assert_allclose(read["flux"], table["flux"], rtol=1e-6)
    header = tangential().to_header_string(relax=True)
    io.write_json(tmp_path / "psf.json", record | {"wcs": header})
    detect_files(**arguments, options=DetectOptions(threshold=4.5))
    assert np.isfinite(io.read_table(tmp_path / "c.csv")["ra"]).all()
    with pytest.raises(ImageError, match="needs a star catalogue"):
        detect_files(**arguments, options=DetectOptions(search=["catalogue"]))
    planes = dict(zip(("diff", "noise", "mask", "science"), (*planes, planes[0]), strict=True))
    write_planes(tmp_path / "d.fits", planes)
    io.write_table(tmp_path / "known.csv", io.read_table(tmp_path / "c.csv")[["ra", "dec"]][:10])
    detect_files(**arguments, options=DetectOptions(search=["catalogue"]), catalogue=tmp_path / "known.csv")
    assert len(io.read_table(tmp_path / "c.csv")) == len(table) - 10
    io.write_json(tmp_path / "psf.json", record | {"zero_point": None})
    with pytest.raises(ImageError, match="zero_point"):
        detect_files(**arguments, options=DetectOptions())


def axes_swapped():
    """The same sky with declination on the first axis, as a legal header may have it."""
    wcs = tangential()
    wcs.wcs.ctype, wcs.wcs.crval = ["DEC--TAN", "RA---TAN"], [40, 30]
    wcs.wcs.cdelt, wcs.wcs.pc = [1 / 3600, -1 / 3600], [[0, 1], [1, 0]]
    return wcs


def test_sky_positions_do_not_hang_on_the_order_or_the_frame_of_the_axes(bright):
    planes, psf, _, _ = bright
    straight = detect(planes, psf=psf, wcs=tangential())
    swapped = detect(planes, psf=psf, wcs=axes_swapped())
    np.testing.assert_allclose(swapped[["ra", "dec"]], straight[["ra", "dec"]], atol=1e-9)
    assert abs(straight["ra"].mean() - 30) < 0.1 and abs(straight["dec"].mean() - 40) < 0.1
    galactic = tangential()
    galactic.wcs.ctype, galactic.wcs.crval = ["GLON-TAN", "GLAT-TAN"], [120, 40]
    from astropy.coordinates import SkyCoord

    table = detect(planes, psf=psf, wcs=galactic)
    centre = SkyCoord(120, 40, unit="deg", frame="galactic").icrs
    assert SkyCoord(table["ra"], table["dec"], unit="deg").separation(centre).deg.max() < 0.1


def test_a_catalogue_is_compared_whatever_the_order_of_the_axes(field):
    straight = field.detect(search=["catalogue"])
    swapped = field.detect(search=["catalogue"], wcs=axes_swapped())
    assert len(straight) == 2 and swapped["x"].tolist() == straight["x"].tolist()


def test_a_quiet_image_has_a_table_with_its_columns(tmp_path, monkeypatch):
    from otrain_core import io
    from otrain_core.images.frames import write_planes

    monkeypatch.setattr("otrain_core.candidates.detect.PSFModel.load", staticmethod(lambda path: Moffat()))
    write_planes(tmp_path / "d.fits", dict(zip(("diff", "noise", "mask"), blank(3), strict=True)))
    io.write_json(tmp_path / "psf.json", {"seeing_px": SEEING, "zero_point": ZERO_POINT})
    (tmp_path / "psf.fits").write_bytes(b"")
    detect_files(
        difference=tmp_path / "d.fits",
        psf=tmp_path / "psf.fits",
        psf_record=tmp_path / "psf.json",
        candidates=tmp_path / "c.csv",
        image="a",
        telescope="T",
        size=32,
        options=DetectOptions(threshold=9.0),
    )
    read = io.read_table(tmp_path / "c.csv")
    assert len(read) == 0 and list(read.columns) == list(CANDIDATE_COLUMNS)


def test_the_detector_network_finds_what_the_others_measure():
    from types import SimpleNamespace

    import pandas as pd

    noise = np.random.default_rng(1).normal(0, 1, (64, 64)).astype("f4")
    asked = []

    def find(planes, threshold, both_signs):
        asked.append((planes.difference is not None, threshold, both_signs))
        return pd.DataFrame({"x": [30.0, 20.0], "y": [31.0, 12.0], "score": [0.9, 0.4], "snr": [9.0, 5.0], "sign": 1})

    planes = {"diff": noise, "noise": np.ones_like(noise), "mask": np.zeros((64, 64), np.uint8)}
    options = DetectOptions(method="finder", finder="finder.onnx", finder_score=0.3)
    common = {"image": "i", "seeing": 3.0, "zero_point": 25.0, "size": 9, "options": options, "telescope": "t"}
    with pytest.raises(ImageError, match="needs a network"):
        detect_candidates(*planes.values(), **common)
    found = detect_candidates(
        *planes.values(), **common, science=noise, reference=np.zeros_like(noise), finder=SimpleNamespace(find=find)
    )
    assert asked == [(True, 0.3, False)]
    assert found["finder_score"].tolist() == [0.4, 0.9]  # in the order of y
    assert found["x"].tolist() == [20, 30] and found["candid"].tolist() == ["t-i-0001", "t-i-0002"]
    assert np.isfinite(found["flux"]).all()
