"""Tesseract's languages: which there are, where their data is looked for, and which package brings it.

Nothing of an engine is loaded here: the web process and the command line ask before a job begins.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

#: Beside ``TESSDATA_PREFIX``, where the wheels ``tessdata.*`` and the distributions put their data.
_FOLDERS = (
    Path(sys.prefix) / "share" / "tessdata",
    Path("/usr/share/tesseract-ocr/5/tessdata"),
    Path("/usr/share/tessdata"),
    Path("/usr/local/share/tessdata"),
    Path("/opt/homebrew/share/tessdata"),
)

#: A code, or a script by its name. It becomes part of a path.
_CODE = re.compile(r"(script/)?[A-Za-z0-9_]{2,40}")

_WHEELS = frozenset({"deu", "eng", "jpn"})

_CODE_NAMES = (
    "afr amh ara asm aze aze_cyrl bel ben bod bos bre bul cat ceb ces chi_sim chi_sim_vert chi_tra chi_tra_vert "
    "chr cos cym dan deu div dzo ell eng enm epo est eus fao fas fil fin fra frk frm fry gla gle glg grc guj hat "
    "heb hin hrv hun hye iku ind isl ita ita_old jav jpn jpn_vert kan kat kat_old kaz khm kir kmr kor kor_vert "
    "lao lat lav lit ltz mal mar mkd mlt mon mri msa mya nep nld nor oci ori pan pol por pus que ron rus san sin "
    "slk slv snd spa spa_old sqi srp srp_latn sun swa swe syr tam tat tel tgk tha tir ton tur uig ukr urd uzb "
    "uzb_cyrl vie yid yor"
)
_CODES = frozenset(_CODE_NAMES.split())

#: Scripts, each with the end of its package's name.
_SCRIPT_NAMES = (
    "Arabic=arab Armenian=armn Bengali=beng Canadian_Aboriginal=cans Cherokee=cher Cyrillic=cyrl Devanagari=deva "
    "Ethiopic=ethi Fraktur=frak Georgian=geor Greek=grek Gujarati=gujr Gurmukhi=guru Hangul=hang HanS=hans "
    "HanT=hant Hebrew=hebr Japanese=jpan Kannada=knda Khmer=khmr Lao=laoo Latin=latn Malayalam=mlym Myanmar=mymr "
    "Oriya=orya Sinhala=sinh Syriac=syrc Tamil=taml Telugu=telu Thaana=thaa Thai=thai Tibetan=tibt "
    "Vietnamese=viet"
)
_SCRIPTS: Mapping[str, str] = MappingProxyType(dict(name.split("=") for name in _SCRIPT_NAMES.split()))


class LanguageUnavailable(Exception):
    """A language that cannot be used; the message is a sentence that says what to do about it."""


def find_data(language: str) -> Mapping[str, Path]:
    """Where the data of each part of a language is: ``eng+deu`` → the folders of ``eng`` and of ``deu``.

    :raises LanguageUnavailable: for a part that Tesseract does not have, or whose data is not installed.
    """
    return {code: _folder(code) for code in language.split("+")}


def folders() -> Iterator[Path]:
    """Where data is looked for, the first one first; what ``TESSDATA_PREFIX`` names goes before all others."""
    if prefix := os.environ.get("TESSDATA_PREFIX"):
        yield Path(prefix)
    yield from _FOLDERS


def _folder(code: str) -> Path:
    if not _CODE.fullmatch(code):
        raise LanguageUnavailable(_unknown(code))
    for folder in folders():
        if (folder / f"{code}.traineddata").is_file():
            return folder
    raise LanguageUnavailable(_missing(code))


def _unknown(code: str) -> str:
    return f"{code!r} is no language of Tesseract; write a code such as eng, or several such as eng+deu."


def _missing(code: str) -> str:
    script = _SCRIPTS.get(code.removeprefix("script/")) if code.startswith("script/") else None
    if script is None and code not in _CODES:
        return _unknown(code)
    package = f"tesseract-ocr-{'script-' + script if script else code.replace('_', '-')}"
    wheel = f", the wheel tessdata.fast-{code}," if code in _WHEELS else ""
    return (
        f"The data of the language {code!r} is not installed. Install the Debian package {package}{wheel} or put "
        f"{code}.traineddata into a folder that TESSDATA_PREFIX names."
    )
