"""What a scan's settings and the words on it say: T1, T1ce, T2, FLAIR, or something Gliascope does not use.

Echo, repetition and inversion times make the contrast of an image, so they count more than what somebody typed; words
settle what times cannot, contrast agent above all. Ranges are those of clinical protocols at 1.5 and 3 tesla.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from collections.abc import Sequence as Ordered
from dataclasses import dataclass, replace
from typing import Literal

from engine import sequences
from engine.volume import Sequence

SCOUT, DIFFUSION, MAP, DERIVED = "a scout", "diffusion", "a map", "derived"
ANGIOGRAPHY, NOT_MR = "angiography", "not MR"

# Sure enough to go on without asking, and sure enough that its content need not be looked at.
ENOUGH, BEYOND_DOUBT = 0.8, 0.9

_SURE_WHEN_SILENT = 0.85
_SILENT = ", and nothing says that contrast was given"

Weighting = Literal["t1", "t2", "flair", "proton density", "STIR", "susceptibility", "steady state"]


@dataclass(frozen=True)
class Settings:
    """How a series was measured, as far as its header says.

    Attributes:
        modality: ``"MR"``.
        description: What the scanner and the protocol call it.
        sequence_name: The maker's name of the pulse sequence, ``"*tfl3d1"``.
        image_type: ``("ORIGINAL", "PRIMARY", ...)``.
        scanning: Of ``SE, IR, GR, EP, RM``.
        variant: Of ``SK, MTC, SS, TRSS, SP, MP, OSP``.
        contrast: What an enhanced header calls the contrast: ``"T1"``, ``"FLUID_ATTENUATED"``.
        body_part: ``"HEAD"``, ``"LSPINE"``.
        te, tr, ti: Echo, repetition, inversion time in ms; None where unsaid.
        flip: Flip angle in degrees.
        b_value: Diffusion weighting in s/mm2; None where there is none.
        agent: Whether the header names a contrast agent: True, False ("NONE") or None.
        angio: Whether the header calls it an angiography.
        volumes: How many images there are of each place.
        began: When it was measured, in seconds of the day; None where unsaid.
        geometry: Plane, size and spacing in words, for finding series that were measured in the same way.
    """

    modality: str = "MR"
    description: str = ""
    sequence_name: str = ""
    image_type: tuple[str, ...] = ()
    scanning: frozenset[str] = frozenset()
    variant: frozenset[str] = frozenset()
    contrast: str = ""
    body_part: str = ""
    te: float | None = None
    tr: float | None = None
    ti: float | None = None
    flip: float | None = None
    b_value: float | None = None
    agent: bool | None = None
    angio: bool = False
    volumes: int = 1
    began: float | None = None
    geometry: str = ""


@dataclass(frozen=True)
class Told:
    """What a series is.

    Attributes:
        sequence: None where it is none of the four, or nothing says which.
        sure: 0..1.
        why: A clause: ``"TE 10 and TR 450 ms, and its description says T1"``.
        left_out: Why it is not taken, see `engine.dicom.Series`; empty where nothing speaks against it.
        contrast: For a T1: whether something says that contrast was given, or not; None where nothing does.
        by_agent: Whether it is the name of an agent in the header alone that says so.
    """

    sequence: Sequence | None
    sure: float
    why: str
    left_out: str = ""
    contrast: bool | None = None
    by_agent: bool = False


# What makers, radiographers and radiologists write on series that show no anatomy of the four kinds.
_LEFT_OUT = tuple(
    (left_out, re.compile(rf"(?<![a-z0-9])(?:{words})(?![a-z])"))
    for left_out, words in (
        (
            SCOUT,
            r"locali[sz]er\w*|lokali\w*|loc|scout\w*|survey|topogram|pilot|smart ?brain|aahead\w*|aahscout\w*"
            r"|(?:3|three|tri) ?plane?|asset cal\w*|cal(?:ibration)?(?: scan)?|ref(?:erence)? scan"
            r"|prescan|shim\w*|reperage",
        ),
        (
            MAP,
            r"e?adc|apparent diff\w*|col ?fa|(?:dti|diff\w*|tensor).* fa|fractional an\w*|r?cbf|r?cbv"
            r"|rel(?:cbf|cbv|mtt)|mtt|ttp|tmax|k ?trans"
            r"|[tr][12] ?\*? ?maps?|qsm|(?:b0|b1|field) ?map\w*|gre field\w*|maps?|colou?r maps?",
        ),
        (
            DIFFUSION,
            r"dwi|dw ?epi|diff\w*|difu\w*|dti|trace\w*|tensor|hardi|noddi|resolve|b ?=? ?[1-9]\d{2,3}"
            r"|ep b\d+\w*|isodwi",
        ),
        (
            "perfusion",
            r"perf\w*|pwi|dsc|dce|p?c?asl|pasl|bolus|dyn(?:amic)?|disco|tricks|twist",
        ),
        (
            "susceptibility",
            r"swi\w*|swan\w*|swip|ven ?bold|hemo\w*|haemo\w*|t2 ?(?:\*|star|s)(?!e)|t2w? ?ffe|ffe t2w?|susc\w*"
            r"|m(?:in)?ip sw\w*|pha images|mag images",
        ),
        ("functional", r"bold|f ?mri|resting|rest state|task"),
        ("spectroscopy", r"mrs|spectr\w*|svs|csi|press"),
        (
            ANGIOGRAPHY,
            r"(?:3d|2d)?tof\w*|mra|mrv|\w*angio\w*|pca|(?:3d|2d) ?pc|pc ?(?:3d|2d|ven\w*)|phase contrast|veno(?:gr\w*)?"
            r"|inhance\w*|carot\w*|willis|cow",
        ),
        ("a projection", r"(?:thin|thick)? ?mips?|mini?ps?|mpv|vrt?|volume render\w*"),
        ("a subtraction", r"subs?|subtr\w*"),
        ("steady state", r"ciss|fiesta\w*|tru?e?fi(?:sp)?|b ?ffe|balanced|cisterno\w*"),
        ("STIR", r"\w*stir"),
        ("double inversion", r"dir|double ir|double inv\w*"),
        ("one of the images of an MP2RAGE", r"(?:mp2rage.*)?inv ?[12]"),
        ("proton density", r"\w*pdw?|proton den\w*|dp"),
        ("a measurement of flow", r"csf ?flow|flow quant\w*|cine"),
        ("a screenshot", r"screen ?(?:save|shot)s?|snapshot|scre+n|dose rep\w*|phoenix\w*|report"),
    )
)
_NOT_A_HEAD = re.compile(
    r"(?<![a-z])(?:\w*spine|c ?sp|cervical|lumb\w*|thorac\w*|sacr\w*|hws|bws|lws|rachis|abdom\w*|pelvis|knee|breast"
    r"|prostate|shoulder|heart|cardiac|liver|chest|hip)(?![a-z])"
)
_HEAD = re.compile(
    r"(?<![a-z])(?:head|brain|skull|crane|cran\w*|cereb\w*|schaedel|schadel|kopf|neuro\w*|tete)(?![a-z])"
)

# Words in an image type, most telling first.
_TYPES = (
    (SCOUT, {"LOCALIZER", "SCOUT"}),
    (MAP, {"ADC", "EADC", "FA", "T1 MAP", "T2 MAP", "T1_MAP", "T2_MAP", "CBF", "CBV", "RCBV", "RCBF", "MTT", "TTP",
           "RELCBF", "RELCBV", "RELMTT", "FIELD MAP", "B0 MAP", "B1 MAP", "B0", "R2", "T2_STAR MAP", "FIELD_MAP"}),
    (DIFFUSION, {"DIFFUSION", "TRACEW", "TRACE", "TENSOR", "TENSOR_B0", "EXP", "DIFFUSION_ANISO", "ISOTROPIC", "DWI"}),
    ("perfusion", {"PERFUSION", "ASL"}),
    ("functional", {"FMRI", "MOSAIC"}),
    ("a projection", {"MIP", "MNIP", "MIN IP", "MAX_IP", "MIN_IP", "PROJECTION IMAGE", "VOLREN", "VOLUME RENDERING",
                      "CPR"}),
    ("a subtraction", {"SUBTRACT", "SUBTRACTION", "SUB"}),
    ("a screenshot", {"SCREEN SAVE", "SCREENSHOT", "POSDISP"}),
    ("a phase image", {"P", "PHASE", "PHASE MAP", "VELOCITY MAP", "VELOCITY", "R", "I", "REAL", "IMAGINARY"}),
    (DERIVED, {"MPR", "REFORMATTED", "CSA MPR", "CSA RESAMPLED", "DERIVED"}),
)  # fmt: skip

_ENHANCED = {
    "DIFFUSION": DIFFUSION, "PERFUSION": "perfusion", "TOF": ANGIOGRAPHY, "FLOW_ENCODED": ANGIOGRAPHY,
    "T2_STAR": "susceptibility", "SUSCEPTIBILITY_WEIGHTED": "susceptibility", "PROTON_DENSITY": "proton density",
    "STIR": "STIR",
}  # fmt: skip

# Words between a T1 and its "+C" that say nothing of either.
_FILLERS = re.compile(
    r"(?<![a-z0-9])(?:ax|axial|tra|trans\w*|sag\w*|cor\w*|obl\w*|3d|2d|se|tse|fse|fs|fat ?sat|fatsat|spair|propeller"
    r"|blade|isotropic|iso|new|rpt|repeat|brain|head|whole|wb|space|cube|vista|view|gre|dixon|water|wats)(?![a-z0-9])"
)


def recognise(settings: Settings) -> Told:
    """Tell what one series is, from itself alone."""
    text = _plain(f"{settings.description} {settings.sequence_name}")
    left_out = _left_out(settings, text)
    if left_out == NOT_MR:
        return Told(None, 1.0, f"its header says {settings.modality or 'no modality'}", left_out)
    weighting, strength, times = _by_times(settings)
    named, contrast, words = _by_words(text)
    if left_out == "proton density" and weighting in ("t1", "t2", "flair"):
        left_out = ""  # the echo that is not meant by the name of a series with two
    by_header = {"T1": "t1", "T2": "t2", "FLUID_ATTENUATED": "flair"}.get(settings.contrast)
    if weighting is None and by_header is not None:
        weighting, strength, times = by_header, 0.9, "its header names the contrast"  # type: ignore[assignment]
    if not left_out and weighting in ("proton density", "STIR", "susceptibility", "steady state") and named is None:
        left_out = weighting
    if left_out not in ("", DERIVED, "not of the head"):
        return Told(None, 0.9, f"its header or its description says that it is {left_out}", left_out)
    sequence, sure, why = _settle(weighting, strength, times, named, words)
    if sequence is Sequence.T1:
        return _with_contrast(Told(sequence, sure, why, left_out), contrast, settings.agent)
    return Told(sequence, sure, why, left_out)


def in_order_of_time(told: Ordered[Told], settings: Ordered[Settings]) -> list[Told]:
    """Settle contrast by what was measured before and after, where the series themselves are silent or doubtful.

    Args:
        told: What each series of one study is, by itself.
        settings: Of the same series, in the same order.

    Returns:
        The same, with T1 and T1ce told apart as well as the study allows.
    """
    settled = list(told)
    family = [
        at
        for at, one in enumerate(told)
        if one.sequence in (Sequence.T1, Sequence.T1CE) and settings[at].began is not None
    ]
    family.sort(key=lambda at: (_when(settings[at]), at))
    # An agent is often typed in before the first image, and then stands in every header.
    typed_ahead = any(one.left_out == SCOUT and own.agent for one, own in zip(told, settings, strict=True))
    if typed_ahead:
        for at in family:
            if settled[at].by_agent:
                settled[at] = replace(settled[at], sure=min(settled[at].sure, 0.7))
    known = [_when(settings[at]) for at in family if told[at].contrast and not (typed_ahead and told[at].by_agent)]
    bolus = [
        _when(own) for own in settings if own.began is not None and (_is_bolus(own) or (own.agent and not typed_ahead))
    ]
    given = min([*known, *bolus], default=None)
    for at in family:
        if settled[at].contrast is None and given is not None:
            after = _when(settings[at]) > given
            sure = (0.88 if known and _when(settings[at]) > min(known) else 0.8) if after else 0.95
            settled[at] = _given(settled[at], after, sure)
    for place, at in enumerate(family):
        twins = [other for other in family[place + 1 :] if _same_way(told, settings, at, other)]
        if twins:
            settled[at], settled[twins[-1]] = _before_and_after(settled[at], settled[twins[-1]], place == 0)
    return settled


def _before_and_after(first: Told, last: Told, nothing_before: bool) -> tuple[Told, Told]:
    """Two T1 that were measured in the same way at two times, as one does before contrast and after it."""
    if first.contrast is None and last.contrast is None:
        why = f"{last.why}, but it was measured in the same way as an earlier series, as one does after contrast"
        return replace(first, sure=0.75), replace(last, sequence=Sequence.T1CE, sure=0.6, why=why, contrast=True)
    if first.by_agent and last.by_agent and nothing_before:
        why = f"{first.why}, but it was measured in the same way again later, so this one was before contrast"
        return replace(first, sequence=Sequence.T1, sure=0.7, why=why, contrast=False), replace(
            last, sure=max(last.sure, 0.85)
        )
    return first, last


def names_nothing(description: str) -> bool:
    """Whether a description names neither one of the four sequences nor anything else that is known."""
    text = _plain(description)
    return sequences.said_by(text) is None and not any(pattern.search(text) for _, pattern in _LEFT_OUT)


def _plain(text: str) -> str:
    """Words apart by single spaces, in lower case, spelt in one way."""
    text = re.sub(r"[^a-z0-9+*=]+", " ", text.lower().replace("é", "e").replace("â", "a").replace("ä", "a")).strip()
    text = re.sub(r"\b[se](?=t[12])", "", text)  # Philips' short and enhanced scans
    text = re.sub(r"\bw o\b(?= (?:contrast|gad|gd|c\b|iv))|\bwo\b", "without", text)
    text = re.sub(r"\bw o\b", "pre", text)
    text = re.sub(r"\bda(?:rk)? fl(?:uid)?\b", "flair", text)
    return re.sub(r"\bwith(?: iv)? (contrast|gad\w*|gd)\b", r"post \1", text)


def _left_out(settings: Settings, text: str) -> str:
    if settings.modality != "MR":
        return NOT_MR
    types = {value.upper() for value in settings.image_type}
    by_type = next((left_out for left_out, words in _TYPES if types & words), "")
    by_type = by_type or next((MAP for value in types if value.endswith((" MAP", "_MAP"))), "")
    by_word = next((left_out for left_out, pattern in _LEFT_OUT if pattern.search(text)), "")
    if by_type and by_type != DERIVED:
        # Most diffusion is exported with its maps, under one type; words know the difference.
        return by_word if by_type == DIFFUSION and by_word in (MAP, SCOUT) else by_type
    if settings.b_value is not None and settings.b_value > 0 and by_word != MAP:
        return DIFFUSION
    if by_word:
        return by_word
    if settings.contrast in _ENHANCED:
        return _ENHANCED[settings.contrast]
    if settings.angio:
        return ANGIOGRAPHY
    if settings.volumes > 3:
        return "a series over time"
    if "EP" in settings.scanning and "flair" not in text:
        return "echo planar"
    part = _plain(settings.body_part)
    if not _HEAD.search(f"{text} {part}") and (_NOT_A_HEAD.search(text) or _NOT_A_HEAD.search(part)):
        return "not of the head"
    return by_type


def _by_times(settings: Settings) -> tuple[Weighting | None, float, str]:
    """The weighting that times and angles make, how sure, and those times in words."""
    te, tr, ti, flip = settings.te, settings.tr, settings.ti, settings.flip
    if te is None or tr is None or tr <= 0 or te < 0:
        return None, 0.0, ""
    spin = "SE" in settings.scanning
    gradient = "GR" in settings.scanning and not spin
    inverted = ti is not None and ti > 0
    times = _listed([("TE", te), ("TR", tr), *([("TI", ti)] if ti is not None and inverted else [])]) + " ms"
    if gradient or (not spin and "IR" not in settings.scanning and tr < 100):
        if te >= 12:
            return "susceptibility", 0.85, times
        if inverted or "MP" in settings.variant:
            return "t1", 0.92, times
        if tr < 12 and flip is not None and flip >= 35 and "SP" not in settings.variant:
            return "steady state", 0.8, times
        if (tr < 60 and (flip is None or flip >= 8)) or (100 <= tr <= 900 and (flip is None or flip >= 50)):
            return "t1", 0.85, times
        if 100 <= tr <= 1500 and te >= 8:
            return "susceptibility", 0.6, times
        return None, 0.0, times
    if ti is not None and inverted:
        if ti < 300:
            return "STIR", 0.9, times
        if ti >= 1300 and tr >= 3500 and te >= 50:
            return "flair", 0.95, times
        if ti < 1400 and te <= 50 and tr <= 4500:
            return "t1", 0.9, times
        return None, 0.0, times
    if tr >= 1800:
        if te >= 60:
            if "IR" in settings.scanning:
                return "flair", 0.85, times
            # Long enough to let fluid recover from an inversion that the header does not mention.
            return "t2", 0.92 if tr < 7500 else 0.7, times
        return ("proton density", 0.85, times) if te <= 45 else ("t2", 0.6, times)
    if te <= 40:
        return "t1", 0.92 if tr <= 1300 else 0.6, times
    return None, 0.0, times


def _by_words(text: str) -> tuple[Sequence | None, bool | None, str]:
    """The sequence that words name (T1 for T1ce too), whether they say contrast, and what they say."""
    words = _FILLERS.sub(" ", text)
    if re.search(r"\bt1\w*\b.*\bflair\b|\bflair\b.*\bt1", words) and not re.search(r"\bt2", words):
        words = words.replace("flair", " ")  # an inversion that darkens fluid on a T1 does not make it a FLAIR
    told = sequences.said_by(words)
    sequence = told.sequence if told is not None else None
    contrast = sequences.contrast_in(words)
    if sequence is Sequence.T1CE or (sequence is Sequence.T1 and told is not None and told.certain):
        contrast = sequence is Sequence.T1CE
    if sequence is Sequence.T1CE:
        sequence = Sequence.T1
    return sequence, contrast, "" if sequence is None else f"its description says {sequence.title}"


def _settle(
    weighting: Weighting | None, strength: float, times: str, named: Sequence | None, words: str
) -> tuple[Sequence | None, float, str]:
    by_times = {"t1": Sequence.T1, "t2": Sequence.T2, "flair": Sequence.FLAIR}.get(weighting or "")
    if by_times is not None and named is by_times:
        return by_times, 0.98, f"{times}, and {words}"
    if by_times is not None and named is None:
        return by_times, strength, times
    if by_times is None and named is not None:
        if weighting is None:
            return named, 0.85, words
        return named, 0.5, f"{words}, but {times} would make it {weighting}"
    if by_times is not None and named is not None:
        if {by_times, named} == {Sequence.T2, Sequence.FLAIR}:
            # "t2_tirm" and the like are FLAIRs by their times; a FLAIR whose header lost its inversion looks like a T2.
            return Sequence.FLAIR, 0.9 if by_times is Sequence.FLAIR else 0.7, f"{times}, and {words}"
        return by_times, 0.5, f"{times}, but {words}"
    return None, 0.0, f"{times} fit none of the four" if times else "its header does not say"


def _with_contrast(told: Told, word: bool | None, agent: bool | None) -> Told:
    if word is True:
        said = "says that contrast was given" + (", as its header does" if agent else "")
        return Told(
            Sequence.T1CE, min(told.sure, 0.97 if agent else 0.93), f"{told.why} and {said}", told.left_out, True
        )
    if word is False:
        sure = min(told.sure, 0.85 if agent else 0.97)
        return Told(Sequence.T1, sure, f"{told.why} and that no contrast was given", told.left_out, False)
    if agent:
        sure, why = min(told.sure, 0.88), f"{told.why}, and its header names a contrast agent"
        return Told(Sequence.T1CE, sure, why, told.left_out, True, by_agent=True)
    why = told.why + _SILENT
    return Told(Sequence.T1, min(told.sure, _SURE_WHEN_SILENT), why, told.left_out, False if agent is False else None)


def _given(told: Told, contrast: bool, sure: float) -> Told:
    why = told.why.removesuffix(_SILENT)
    why = f"{why}, and it was measured {'after' if contrast else 'before'} contrast was given"
    sequence = Sequence.T1CE if contrast else Sequence.T1
    # What was silent about contrast was held back for that alone, unless its weighting is in doubt as well.
    sure = sure if told.sure >= _SURE_WHEN_SILENT else told.sure
    return replace(told, sequence=sequence, sure=sure, why=why, contrast=contrast)


def _when(settings: Settings) -> float:
    return settings.began or 0.0


def _same_way(told: Ordered[Told], settings: Ordered[Settings], first: int, last: int) -> bool:
    one, other = settings[first], settings[last]
    if told[first].left_out or told[last].left_out or one.geometry != other.geometry:
        return False
    pairs = ((one.te, other.te), (one.tr, other.tr), (one.ti, other.ti), (one.flip, other.flip))
    if any((a is None) != (b is None) for a, b in pairs):
        return False
    return all(abs(a - b) <= 0.05 * max(a, b) for a, b in pairs if a is not None and b is not None)


def _is_bolus(settings: Settings) -> bool:
    text = _plain(settings.description)
    return re.search(r"(?<![a-z])(?:dsc|dce|perf\w*|pwi|bolus)(?![a-z])", text) is not None and "asl" not in text


def _listed(times: Iterable[tuple[str, float]]) -> str:
    parts = [f"{name} {value:.{0 if value >= 10 else 1}f}" for name, value in times]
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
