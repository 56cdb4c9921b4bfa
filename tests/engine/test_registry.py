from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from engine import registry
from engine.errors import BadModel, MissingSequence
from engine.model_card import REQUIRED_FILES, Architecture, Beside, Evaluation, ModelCard, RegionScores, Role
from engine.volume import SUBSETS, Sequence, joined

T1, T1CE, T2, FLAIR = Sequence


def card(
    *sequences: Sequence,
    role: Role = Role.STUDENT,
    wt: float | None = 0.7,
    tc: float = 0.5,
    name: str = "",
    title: str = "",
    patients: int = 10,
) -> ModelCard:
    joined = "-".join(sequences)
    evaluation = None
    if wt is not None:
        regions = {"whole_tumour": RegionScores(wt, 0.1), "tumour_core": RegionScores(tc, 0.2)}
        evaluation = Evaluation("held out by patient", cases=patients, patients=patients, regions=regions)
    return ModelCard(
        name=name or f"{joined}-{role}",
        title=title or f"{' + '.join(s.title for s in sequences)} {role}",
        version="1",
        role=role,
        sequences=sequences,
        spacing_mm=2.0,
        window=(80, 96, 80),
        architecture=Architecture("folded_unet"),
        evaluation=evaluation,
    )


# What comes with the program: a teacher, a student for each sequence and a baseline, with scores of a realistic order.
TEACHER = card(*Sequence, role=Role.TEACHER, wt=0.85, tc=0.70, name="teacher", title="teacher of all four")
S_T1 = card(T1, wt=0.62, tc=0.48)
S_T1CE = card(T1CE, wt=0.70, tc=0.63)
S_T2 = card(T2, wt=0.75, tc=0.52)
S_FLAIR = card(FLAIR, wt=0.79, tc=0.47)
BASELINE = card(T1, role=Role.BASELINE, wt=0.99, tc=0.99)
SHIPPED = (BASELINE, S_T1, S_T1CE, S_T2, S_FLAIR, TEACHER)


@pytest.mark.parametrize(
    ("present", "expected"),
    [
        ((T1,), S_T1),
        ((T1CE,), S_T1CE),
        ((T2,), S_T2),
        ((FLAIR,), S_FLAIR),
        ((T1, T1CE), S_T1CE),
        ((T1, T2), S_T2),
        ((T1, FLAIR), S_FLAIR),
        ((T1CE, T2), S_T1CE),
        ((T1CE, FLAIR), S_T1CE),
        ((T2, FLAIR), S_T2),
        ((T1, T1CE, T2), S_T1CE),
        ((T1, T1CE, FLAIR), S_T1CE),
        ((T1, T2, FLAIR), S_T2),
        ((T1CE, T2, FLAIR), S_T1CE),
        ((T1, T1CE, T2, FLAIR), TEACHER),
    ],
)
def test_every_subset_of_sequences_gets_the_best_model_it_can_feed(
    present: tuple[Sequence, ...], expected: ModelCard
) -> None:
    for models in (SHIPPED, tuple(reversed(SHIPPED))):
        choice = registry.choose(present, models)
        assert choice.card is expected
        assert choice.used == expected.sequences
        unused = [s for s in present if s not in expected.sequences]
        assert ("not used" in choice.reason) == bool(unused)


def test_all_subsets_are_covered_above() -> None:
    assert len(SUBSETS) == 15
    assert all(registry.choose(s, SHIPPED).card.role != Role.BASELINE for s in SUBSETS)


def test_the_sentence_says_what_is_used_how_good_it_is_and_what_would_help() -> None:
    student, better = card(T1, wt=0.71, tc=0.58, patients=40, title="T1 student"), card(T1, FLAIR, wt=0.86, tc=0.585)
    choice = registry.choose([T1], [student, better])
    assert choice.reason == (
        "T1 only: using the T1 student. On 40 patients it reached whole tumour 0.71, core 0.58 (Dice)."
    )
    assert choice.advice == "Adding FLAIR would raise whole tumour to 0.86."
    assert choice.sentence == (
        "T1 only: using the T1 student. On 40 patients it reached whole tumour 0.71, core 0.58 (Dice); "
        "adding FLAIR would raise whole tumour to 0.86."
    )
    everything = registry.choose([FLAIR, T1, T2, T1CE], SHIPPED)
    assert (
        everything.sentence
        == everything.reason
        == (
            "T1, T1ce, T2 and FLAIR: using the teacher of all four. "
            "On 10 patients it reached whole tumour 0.85, core 0.70 (Dice)."
        )
    )


def test_the_reason_for_the_next_best_says_what_is_not_used_and_why() -> None:
    assert registry.choose([T1, T2], SHIPPED).reason == (
        "T1 and T2: using the T2 student; T1 is not used, as no model takes both. "
        "On 10 patients it reached whole tumour 0.75, core 0.52 (Dice)."
    )
    assert registry.choose([T1, T2, FLAIR], SHIPPED).reason.startswith(
        "T1, T2 and FLAIR: using the T2 student; T1 and FLAIR are not used, as no model takes all 3. "
    )
    worse = card(T1, T2, wt=0.6, tc=0.5)
    assert registry.choose([T1, T2], [*SHIPPED, worse]).reason.startswith(
        "T1 and T2: using the T2 student; T1 is not used, as results were better without it. "
    )
    unmeasured = card(T1, T2, wt=None)
    assert registry.choose([T1, T2], [*SHIPPED, unmeasured]).reason.startswith(
        "T1 and T2: using the T2 student; T1 is not used, as no model was measured with both. "
    )


def test_what_was_measured_decides_also_against_a_model_made_for_just_these() -> None:
    both = card(T1, FLAIR, wt=0.5, tc=0.3)
    choice = registry.choose([T1, FLAIR], [*SHIPPED, both])
    assert (choice.card, choice.used) == (S_FLAIR, (FLAIR,))


@pytest.mark.parametrize(("wt", "takes_both"), [(0.786, True), (0.775, False)])
def test_of_what_is_as_good_that_which_uses_more_is_taken(wt: float, takes_both: bool) -> None:
    both = card(T1, FLAIR, wt=wt, tc=0.47)
    assert registry.choose([T1, FLAIR], [*SHIPPED, both]).used == ((T1, FLAIR) if takes_both else (FLAIR,))


def test_of_two_dedicated_models_the_better_one_is_taken() -> None:
    better = card(T1, wt=0.66, tc=0.5, name="own")
    assert registry.choose([T1], [*SHIPPED, better]).card is better
    assert registry.choose([T1], [better, *SHIPPED]).card is better


def test_an_unmeasured_model_is_the_last_resort_and_the_sentence_says_so() -> None:
    unmeasured = card(T1, T2, wt=None)
    assert registry.choose([T1, T2, FLAIR], [unmeasured, S_T1]).card is S_T1
    choice = registry.choose([T1, T2, FLAIR], [unmeasured])
    assert choice.card is unmeasured
    assert choice.reason.endswith("It was not measured on any patient yet.")
    assert choice.scores is None


def test_one_patient_is_not_patients() -> None:
    assert "On 1 patient it reached" in registry.choose([T1], [card(T1, patients=1)]).reason


def test_nothing_fits_says_what_to_add() -> None:
    with pytest.raises(MissingSequence) as caught:
        registry.choose([T1CE, T2], [S_T1, S_FLAIR, TEACHER])
    assert str(caught.value) == "No model works with T1ce and T2 alone. Add FLAIR or T1."
    with pytest.raises(MissingSequence) as caught:
        registry.choose([T1CE], [TEACHER])
    assert str(caught.value) == "No model works with T1ce alone. Add T1, T2 and FLAIR."
    with pytest.raises(MissingSequence) as caught:
        registry.choose([T1CE], [any_of(T1, FLAIR)])
    assert str(caught.value) == "No model works with T1ce alone. Add FLAIR or T1."


# Models for any subset


def any_of(*sequences: Sequence, name: str = "any", **dice: tuple[float, float]) -> ModelCard:
    """A model for any subset of its sequences; measured on those named, such as ``t1_flair=(0.8, 0.6)``."""
    by_sequences = {
        subset.replace("_", "+"): {"whole_tumour": RegionScores(wt, 0.1), "tumour_core": RegionScores(tc, 0.1)}
        for subset, (wt, tc) in dice.items()
    }
    evaluation = None
    if by_sequences:
        whole = {"whole_tumour": RegionScores(0.8, 0.1), "tumour_core": RegionScores(0.7, 0.1)}
        evaluation = Evaluation("held out by patient", 40, 40, whole, by_sequences=by_sequences)
    made = card(*sequences, wt=None, name=name, title="any-sequence student")
    return replace(made, any_subset=True, evaluation=evaluation)


def test_a_model_for_any_subset_is_judged_by_what_it_reached_with_these_sequences() -> None:
    model = any_of(*Sequence, t1=(0.5, 0.3), t2=(0.7, 0.5), t1_t2=(0.8, 0.6))
    for models in ([*SHIPPED, model], [model, *SHIPPED]):
        assert registry.choose([T1], models).card is S_T1
        choice = registry.choose([T2, T1], models)
        assert (choice.card, choice.used, choice.patients) == (model, (T1, T2), 40)
        assert choice.reason == (
            "T1 and T2: using the any-sequence student. On 40 patients it reached whole tumour 0.80, core 0.60 (Dice)."
        )
        assert choice.scores is not None
        assert choice.scores["tumour_core"].dice_mean == 0.6


def test_a_sequence_that_makes_it_worse_is_left_out() -> None:
    model = any_of(T1, T2, FLAIR, t1=(0.5, 0.3), flair=(0.85, 0.6), t1_flair=(0.8, 0.55))
    choice = registry.choose([T1, FLAIR], [model])
    assert choice.used == (FLAIR,)
    assert choice.reason.startswith(
        "T1 and FLAIR: using the any-sequence student with FLAIR; T1 is not used, as results were better without it."
    )


def test_between_equals_the_dedicated_model_is_taken() -> None:
    model = any_of(*Sequence, t1=(0.624, 0.484), t2=(0.8, 0.6))
    assert registry.choose([T1], [model, S_T1]).card is S_T1
    assert registry.choose([T2], [model, S_T2]).card is model


def test_unmeasured_subsets_come_last_and_dedicated_models_first_among_them() -> None:
    model, dedicated = any_of(*Sequence, flair=(0.4, 0.2)), card(T1, wt=None)
    assert registry.choose([T1, FLAIR], [model, dedicated]).used == (FLAIR,)
    assert registry.choose([T1, T2], [model, dedicated]).card is dedicated
    alone = registry.choose([T1, T2], [model])
    assert (alone.card, alone.used, alone.scores, alone.patients) == (model, (T1, T2), None, 0)


def test_all_its_sequences_are_what_the_cards_own_figures_are_about() -> None:
    model = any_of(T1, FLAIR, flair=(0.7, 0.6))
    assert model.scores([FLAIR, T1]) == model.evaluation.regions  # type: ignore[union-attr]
    assert model.scores([T1]) is None
    assert model.scores([T1, T2]) is None
    assert S_T1.scores([T1, T2]) is None
    assert TEACHER.scores([T1]) is None


def test_a_model_asked_for_by_name_uses_all_it_can() -> None:
    model = any_of(T1, T2, FLAIR, flair=(0.85, 0.6), t1_flair=(0.8, 0.55))
    choice = registry.choose_named([FLAIR, T1, T1CE], model)
    assert choice.used == (T1, FLAIR)
    assert choice.reason == (
        "The any-sequence student was asked for by name, and does not use T1ce. "
        "On 40 patients it reached whole tumour 0.80, core 0.55 (Dice)."
    )
    with pytest.raises(MissingSequence, match="needs one of T1, T2 and FLAIR, and none is here"):
        registry.choose_named([T1CE], model)
    assert registry.choose_named([T1], BASELINE).card is BASELINE


@pytest.mark.parametrize("models", [(), (BASELINE,)])
def test_no_models_at_all_is_said_plainly(models: tuple[ModelCard, ...]) -> None:
    with pytest.raises(MissingSequence, match="There is no model to segment with"):
        registry.choose([T1], models)


def test_no_sequences_at_all_is_said_plainly() -> None:
    with pytest.raises(MissingSequence, match="No sequence is here to segment"):
        registry.choose([], SHIPPED)


def test_advice_names_the_best_addition_and_one_that_is_better_in_something() -> None:
    assert registry.advice([T1], SHIPPED) == (
        "Adding T1ce would raise whole tumour to 0.70 and core to 0.63; "
        "adding T2 would raise whole tumour to 0.75 and core to 0.52."
    )
    assert registry.advice([T1, T2, FLAIR], SHIPPED) == (
        "Adding T1ce would raise whole tumour to 0.85 and core to 0.70."
    )


def test_advice_says_that_a_gain_is_mixed() -> None:
    assert registry.advice([T1], [S_T1, card(FLAIR, wt=0.85, tc=0.40)]) == (
        "Adding FLAIR would raise whole tumour to 0.85 but lower core to 0.40."
    )


def test_advice_is_silent_where_nothing_is_to_gain() -> None:
    assert registry.advice(list(Sequence), SHIPPED) == ""
    assert registry.advice([T1], [S_T1]) == ""
    assert registry.advice([T1], []) == ""
    assert registry.advice([T1], [S_T1, card(FLAIR, wt=0.621, tc=0.48)]) == ""
    assert registry.advice([T1], [card(T1, wt=None), S_FLAIR]) == "", "nothing to compare with"


def test_advice_names_several_sequences_where_only_together_they_help() -> None:
    assert registry.advice([FLAIR], [S_FLAIR, TEACHER]) == (
        "Adding T1, T1ce and T2 would raise whole tumour to 0.85 and core to 0.70."
    )
    pair = card(T2, FLAIR, wt=0.82, tc=0.55)
    assert registry.advice([FLAIR], [S_FLAIR, pair, TEACHER]) == (
        "Adding T2 would raise whole tumour to 0.82 and core to 0.55."
    )


def test_advice_when_nothing_works_yet() -> None:
    assert registry.advice([T1CE], [S_T1]) == "Adding T1 would do: whole tumour 0.62, core 0.48 (Dice)."


# Folders


@pytest.fixture
def install(tmp_path: Path) -> Callable[..., ModelCard]:
    def install(model: ModelCard, parent: str = "models", folder: str = "") -> ModelCard:
        path = tmp_path / parent / (folder or model.name)
        path.mkdir(parents=True)
        for name in REQUIRED_FILES:
            (path / name).write_bytes(f"{model.name} {name}".encode())
        return model.write(path)

    return install


def test_models_of_all_folders_are_listed_by_name(install: Callable[..., ModelCard], tmp_path: Path) -> None:
    install(S_T2)
    install(S_T1)
    install(TEACHER, parent="mine")
    listing = registry.list_models([tmp_path / "models", tmp_path / "mine", tmp_path / "absent"])
    assert [m.name for m in listing.models] == ["t1-student", "t2-student", "teacher"]
    assert listing.problems == ()
    assert registry.find("T1-Student", listing.models) is listing.models[0]


def test_a_broken_model_does_not_hide_the_others(install: Callable[..., ModelCard], tmp_path: Path) -> None:
    install(S_T1)
    (install(S_T2).folder / "weights.safetensors").unlink()
    (tmp_path / "models" / "notes").mkdir()
    newer = install(S_FLAIR).folder / "model.json"
    newer.write_text(newer.read_text("utf-8").replace('"format": 2', '"format": 7'), "utf-8")
    (tmp_path / "models" / ".t1ce-student.part").mkdir()
    (tmp_path / "models" / "readme.txt").write_text("models")
    listing = registry.list_models([tmp_path / "models"])
    assert [m.name for m in listing.models] == ["t1-student"]
    sentences = [str(problem) for problem in listing.problems]
    assert len(sentences) == 3
    assert "made for a newer Gliascope" in sentences[0]
    assert "The folder notes is not a model" in sentences[1]
    assert "The model in t2-student is incomplete (weights.safetensors is missing)." in sentences[2]


def test_two_models_of_one_name_are_not_mixed_up(install: Callable[..., ModelCard], tmp_path: Path) -> None:
    first = install(S_T1)
    install(S_T1, parent="mine", folder="copy")
    listing = registry.list_models([tmp_path / "models", tmp_path / "mine"])
    assert [m.folder for m in listing.models] == [first.folder]
    assert "another one" in str(listing.problems[0])


def test_an_intact_model_is_verified(install: Callable[..., ModelCard]) -> None:
    registry.verify(install(S_T1))


@pytest.mark.parametrize("name", REQUIRED_FILES)
def test_a_changed_file_is_named_and_refused(install: Callable[..., ModelCard], name: str) -> None:
    model = install(S_T1)
    (model.folder / name).write_bytes(b"x" + (model.folder / name).read_bytes()[1:])
    with pytest.raises(BadModel) as caught:
        registry.verify(model)
    assert str(caught.value).startswith(f"{name} of the T1 student is not the file the model was published with")


def test_a_removed_file_is_named_and_refused(install: Callable[..., ModelCard]) -> None:
    model = install(S_T1)
    (model.folder / "network.xml").unlink()
    with pytest.raises(BadModel, match=r"network\.xml is missing"):
        registry.verify(model)


def test_listing_hashes_nothing(
    install: Callable[..., ModelCard], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(S_T1)
    monkeypatch.setattr(registry, "sha256", None)
    assert registry.list_models([tmp_path / "models"]).models


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(BadModel, match=r'no model called "t3"\. Choose one of: t1-student, teacher\.'):
        registry.find("t3", [TEACHER, S_T1])


def test_a_name_whose_folder_is_broken_says_what_is_wrong_with_it(
    install: Callable[..., ModelCard], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (install(S_T1).folder / "weights.safetensors").unlink()
    monkeypatch.setattr(registry, "folders", lambda: [tmp_path / "models"])
    with pytest.raises(BadModel, match=r"weights\.safetensors is missing"):
        registry.find("t1-student")


def test_the_users_own_models_lie_in_their_data_folder() -> None:
    shipped, own = registry.folders()
    assert shipped.parts[-2:] == ("assets", "models")
    assert own.name == "models"
    assert "Gliascope" in own.parts


def test_listing_imports_neither_torch_nor_openvino() -> None:
    code = (
        "import sys; from engine import registry; registry.list_models();"
        "print(sorted({'torch', 'monai', 'openvino', 'scipy', 'PySide6'} & set(sys.modules)))"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert done.stdout.strip() == "[]"


def test_shipped_models_can_all_be_used_and_are_what_was_published() -> None:
    listing = registry.list_models([registry.SHIPPED])
    assert listing.problems == ()
    for model in listing.models:
        registry.verify(model)
        assert model.folder.name == model.name
        size = sum(path.stat().st_size for path in model.folder.iterdir())
        assert size < 10e6, "weights stay small, and lie there once"
        assert replace(model, files={}).evaluation is not None, "every shipped model says how good it is"


# --- a model of the user's own, measured beside the one that is used so far -------------------------------------------


def beside(own: ModelCard, other: ModelCard, wt: float, tc: float, patients: int = 12) -> ModelCard:
    """The user's model, after the other one reached these figures on the same patients."""
    assert own.evaluation is not None
    assert other.evaluation is not None
    there = {"whole_tumour": RegionScores(wt, 0.1), "tumour_core": RegionScores(tc, 0.1)}
    compared = Beside(
        other.name, other.title, other.version, joined(own.sequences), patients, own.evaluation.regions, there,
        other.evaluation.regions,
    )  # fmt: skip
    return replace(own, beside=(compared,))


def test_a_users_model_is_used_where_it_was_better_on_the_users_own_patients() -> None:
    # Hard patients: 0.55 on them is better than the shipped model, which reached 0.62 on easier ones and 0.50 on these.
    mine = beside(card(T1, wt=0.55, tc=0.40, name="mine", patients=12), S_T1, 0.50, 0.38)
    choice = registry.choose((T1,), (*SHIPPED, mine))
    assert choice.card == mine
    assert choice.reason == (
        "T1 only: using the T1 student. On 12 patients it reached whole tumour 0.55, core 0.40 (Dice). "
        "The T1 student reached 0.50 and 0.38 on the same."
    )
    # Without that comparison its figure would speak against it.
    assert registry.choose((T1,), (*SHIPPED, replace(mine, beside=()))).card == S_T1


def test_a_users_model_is_not_used_where_easy_patients_made_it_look_good() -> None:
    mine = beside(card(T1, wt=0.90, tc=0.80, name="mine"), S_T1, 0.93, 0.85)
    assert registry.choose((T1,), (*SHIPPED, mine)).card == S_T1
    assert registry.choose((T1,), (*SHIPPED, replace(mine, beside=()))).card == replace(mine, beside=())
    assert mine.comparable((T1,)) == pytest.approx({"whole_tumour": 0.59, "tumour_core": 0.43})


def test_other_sequences_are_taken_to_be_as_much_easier_on_the_same_patients() -> None:
    regions = {"whole_tumour": RegionScores(0.9, 0.1), "tumour_core": RegionScores(0.8, 0.1)}
    any_of = replace(
        card(*Sequence, wt=0.9, tc=0.8, name="mine"),
        any_subset=True,
        evaluation=Evaluation("held out", 5, 5, regions, by_sequences={"t1": regions, "t2": regions}),
    )
    there = {"whole_tumour": RegionScores(0.72, 0.1), "tumour_core": RegionScores(0.58, 0.1)}
    assert S_T1.evaluation is not None
    mine = replace(
        any_of, beside=(Beside("t1-student", "T1 student", "1", "t1", 5, regions, there, S_T1.evaluation.regions),)
    )
    # The other model was better by 0.10 here than its card says, so these patients are easier by that much.
    assert mine.comparable((T1,)) == pytest.approx({"whole_tumour": 0.80, "tumour_core": 0.70})
    assert mine.comparable((T2,)) == pytest.approx({"whole_tumour": 0.80, "tumour_core": 0.70})
    assert mine.comparable((FLAIR,)) is None
    read = ModelCard.from_json(
        json.loads(json.dumps({**mine.to_json(), "files": dict.fromkeys(REQUIRED_FILES, "0" * 64)})), Path()
    )
    assert read.beside == mine.beside


def test_a_card_without_such_a_comparison_is_written_as_before() -> None:
    assert "beside" not in S_T1.to_json()
