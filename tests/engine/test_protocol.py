from __future__ import annotations

import pytest

from engine import protocol
from engine.protocol import Settings
from engine.volume import Sequence

T1, T1CE, T2, FLAIR = Sequence


def scan(description: str, te: float | None, tr: float | None, ti: float | None = None, **more: object) -> Settings:
    kinds = {"SE": ("SE",), "GR": ("GR",), "IR": ("SE", "IR"), "GRIR": ("GR", "IR"), "EP": ("EP",)}
    how = kinds[str(more.pop("by", "IR" if ti else "SE"))]
    return Settings(description=description, te=te, tr=tr, ti=ti, scanning=frozenset(how), **more)  # type: ignore[arg-type]


def told(settings: Settings) -> tuple[Sequence | None, str]:
    result = protocol.recognise(settings)
    return result.sequence, result.left_out


# Settings and names as clinical protocols of four makers have them.
@pytest.mark.parametrize(
    ("expected", "settings"),
    [
        (T1, scan("t1_se_tra", 8.9, 500)),
        (T1, scan("T1/SE/extrp", 10, 450)),
        (T1, scan("Ax T1 FLAIR", 24, 2400, 860)),
        (T1, scan("t1_mprage_sag_p2_iso", 2.98, 2300, 900, by="GRIR", flip=9)),
        (T1, scan("Sag BRAVO", 3.2, 8.2, 450, by="GR", flip=12)),
        (T1, scan("sT1W_3D_TFE", 3.8, 8.1, by="GR", flip=8, variant=frozenset({"MP"}))),
        (T1, scan("t1_fl2d_tra", 2.5, 250, by="GR", flip=70)),
        (T1, scan("t1_space_sag", 11, 600)),
        (T1, scan("AX T1 W/O", 9, 500)),
        (T1, scan("T1 nativ tra", 9, 500)),
        (T1CE, scan("AX T1 W CONTRAST", 9, 500)),
        (T1CE, scan("+C Ax T1 FSE", 12, 650)),
        (T1CE, scan("t1_mprage_sag_KM", 2.98, 2300, 900, by="GRIR", flip=9)),
        (T1CE, scan("T1W_SE_GD", 12, 550)),
        (T1CE, scan("SAG T1 MPR POST", 3, 2000, 900, by="GRIR", flip=9)),
        (T1CE, scan("T1 GADO 3D", 3, 8, by="GR", flip=12)),
        (T1CE, scan("t1_vibe_fs_tra", 2.4, 5.2, by="GR", flip=12, agent=True)),
        (T2, scan("t2_tse_tra_512", 96, 4500)),
        (T2, scan("Ax T2 PROPELLER", 105, 6200)),
        (T2, scan("T2W_TSE", 80, 3000)),
        (T2, scan("sT2/TSE/T", 100, 4452)),
        (T2, scan("t2_spc_sag_p2_iso", 408, 3200)),
        (T2, scan("AX T2 FRFSE FS", 102, 4000)),
        (FLAIR, scan("t2_tirm_tra_dark-fluid", 84, 9000, 2500)),
        (FLAIR, scan("t2_spc_da-fl_irprep_sag", 389, 5000, 1800)),
        (FLAIR, scan("Sag CUBE T2 FLAIR", 120, 6000, 1700)),
        (FLAIR, scan("3D_Brain_VIEW_FLAIR", 340, 4800, 1660)),
        (FLAIR, scan("sT2W/FLAIR", 100, 9000, 2500)),
        (FLAIR, scan("AX FLAIR", 120, 9000)),
        (FLAIR, scan("FLAIR_longTR", 125, 11000, 2800)),
        # Without a word, and without a time.
        (T1, scan("", 9, 500)),
        (T2, scan("brain 1", 100, 5000)),
        (FLAIR, scan("x", 90, 9000, 2500)),
        (T1CE, scan("Ax T1 +C", None, None)),
        (FLAIR, scan("FLAIR tra", None, None)),
        (T2, scan("", None, None, contrast="T2")),
    ],
)  # fmt: skip
def test_the_four_sequences(expected: Sequence, settings: Settings) -> None:
    assert told(settings) == (expected, "")
    assert protocol.recognise(settings).sure >= 0.7


@pytest.mark.parametrize(
    ("left_out", "settings"),
    [
        ("a scout", scan("localizer", 5, 20, by="GR", flip=40)),
        ("a scout", scan("3-Pl T2* Loc", 5, 20, by="GR")),
        ("a scout", scan("Survey_SHC", 5, 12, by="GR")),
        ("a scout", scan("AAHead_Scout_64ch", 1.4, 3, by="GR")),
        ("a scout", scan("x", 5, 12, by="GR", image_type=("ORIGINAL", "PRIMARY", "M", "LOCALIZER"))),
        ("diffusion", scan("ep2d_diff_3scan_trace_p2", 90, 5000, by="EP")),
        ("diffusion", scan("DWI b1000", 90, 5000, by="EP")),
        ("diffusion", scan("resolve_tra", 68, 4800, by="EP", b_value=1000.0)),
        ("diffusion", scan("x", 68, 4800, b_value=800.0)),
        ("a map", scan("ep2d_diff_ADC", 90, 5000, by="EP")),
        ("a map", scan("Apparent Diffusion Coefficient (mm2/s)", 90, 5000, by="EP")),
        ("a map", scan("rCBV", 30, 1500, by="EP")),
        ("a map", scan("T1 map", 3, 15, by="GR")),
        ("perfusion", scan("ep2d_perf_p2", 30, 1500, by="EP")),
        ("perfusion", scan("DSC perfusion", 30, 1500, by="EP")),
        ("perfusion", scan("pcASL 3D", 10, 4600)),
        ("susceptibility", scan("SWI_Images", 20, 27, by="GR", flip=15)),
        ("susceptibility", scan("t2_fl2d_tra_hemo", 20, 800, by="GR", flip=20)),
        ("susceptibility", scan("Ax T2* GRE", 20, 600, by="GR", flip=20)),
        ("susceptibility", scan("SWAN", 25, 40, by="GR", flip=15)),
        ("angiography", scan("TOF_3D_multi-slab", 3.6, 21, by="GR", flip=18)),
        ("angiography", scan("s3DI_MC_HR MRA", 3.5, 23, by="GR", flip=18)),
        ("angiography", scan("t1_fl3d", 3.5, 23, by="GR", flip=18, angio=True)),
        ("a subtraction", scan("t1 SUB", 9, 500, image_type=("DERIVED", "SECONDARY"))),
        ("a projection", scan("TOF", 4, 21, by="GR", image_type=("DERIVED", "SECONDARY", "MIP"))),
        ("derived", scan("t1_mprage MPR tra", 3, 2300, 900, image_type=("DERIVED", "SECONDARY", "MPR"))),
        ("STIR", scan("t2_stir_cor", 60, 5000, 150)),
        ("STIR", scan("x", 60, 5000, 160)),
        ("proton density", scan("pd_tse_tra", 14, 3000)),
        ("proton density", scan("x", 14, 3000)),
        ("steady state", scan("t2_ciss3d_tra", 2.6, 5.8, by="GR", flip=70)),
        ("steady state", scan("x", 2.6, 5.8, by="GR", flip=60)),
        ("functional", scan("BOLD resting", 30, 2000, by="EP")),
        ("a phase image", scan("t1", 3, 30, by="GR", image_type=("ORIGINAL", "PRIMARY", "P", "ND"))),
        ("not of the head", scan("T2 sag cervical spine", 100, 4000, body_part="CSPINE")),
        ("not MR", Settings(modality="CT", description="brain")),
        ("a series over time", scan("t1_fl3d", 2, 5, by="GR", flip=12, volumes=40)),
    ],
)  # fmt: skip
def test_what_is_left_out(left_out: str, settings: Settings) -> None:
    assert told(settings)[1] == left_out


def test_words_and_times_that_contradict_each_other_are_in_doubt() -> None:
    result = protocol.recognise(scan("T2 tra", 9, 500))

    assert (result.sequence, result.sure) == (T1, 0.5)
    assert result.why == "TE 9.0 and TR 500 ms, but its description says T2, and nothing says that contrast was given"


def test_the_name_of_a_whole_examination_says_nothing_about_a_series() -> None:
    assert protocol.names_nothing("BRAIN ROUTINE")
    assert not protocol.names_nothing("AX T1")
    assert not protocol.names_nothing("localizer")


def by_time(*settings: Settings) -> list[tuple[Sequence | None, bool]]:
    results = protocol.in_order_of_time([protocol.recognise(one) for one in settings], settings)
    return [(one.sequence, one.sure >= protocol.ENOUGH) for one in results]


def test_what_was_measured_before_and_after_contrast() -> None:
    """Silent series are told by those that speak, whatever order they lie in."""
    silent = {"te": 9.0, "tr": 500.0}
    assert by_time(
        scan("t1 cor", **silent, began=2000.0),
        scan("t1 KM", **silent, began=1000.0),
        scan("t1 tra", **silent, began=10.0),
    ) == [(T1CE, True), (T1CE, True), (T1, True)]
    # A perfusion measurement takes contrast, too.
    perfusion = scan("DSC", 30, 1500, by="EP", began=500.0)
    assert by_time(scan("t1", **silent, began=10.0), perfusion, scan("t1", **silent, began=900.0)) == [
        (T1, True),
        (None, True),
        (T1CE, True),
    ]


def test_the_same_protocol_twice_is_before_and_after() -> None:
    both = {"te": 9.0, "tr": 500.0, "geometry": "axial"}
    # Without any sign of contrast it may as well have been repeated: to be asked.
    assert by_time(scan("t1", **both, began=10.0), scan("t1", **both, began=900.0)) == [(T1, False), (T1CE, False)]
    # An agent that stands in both headers was typed in ahead.
    tagged = {**both, "agent": True}
    assert by_time(scan("t1", **tagged, began=10.0), scan("t1", **tagged, began=900.0)) == [(T1, False), (T1CE, True)]
    # Other planes are no repetition.
    assert by_time(scan("t1", 9, 500, began=1.0), scan("t1", 9, 500, began=2.0, geometry="coronal")) == [(T1, True)] * 2


def test_an_agent_in_the_header_of_the_scout_was_typed_in_ahead() -> None:
    scout = scan("localizer", 5, 20, by="GR", agent=True, began=0.0)

    assert by_time(scout, scan("t1", 9, 500, agent=True, began=100.0))[1] == (T1CE, False)
