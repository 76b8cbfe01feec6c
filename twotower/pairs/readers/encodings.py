"""Text from the bytes of a page, whatever encoding it declares."""

from __future__ import annotations

import codecs
import re

# Labels of the encoding standard (https://encoding.spec.whatwg.org) by Python's name for what they
# mean there: browsers read "iso-8859-1" as windows-1252 and "gb2312" as gb18030.
_LABELS = {
    "utf-8": "utf-8 utf8 unicode-1-1-utf-8 x-unicode20utf8",
    "utf-16-le": "utf-16 utf-16le unicode ucs-2 iso-10646-ucs-2",
    "utf-16-be": "utf-16be unicodefffe",
    "cp1250": "windows-1250 cp1250 x-cp1250",
    "cp1251": "windows-1251 cp1251 x-cp1251",
    "cp1252": "windows-1252 cp1252 x-cp1252 iso-8859-1 iso8859-1 iso_8859-1 "
    "iso88591 latin1 latin-1 l1 ascii us-ascii ansi_x3.4-1968",
    "cp1253": "windows-1253 cp1253",
    "cp1254": "windows-1254 cp1254 iso-8859-9 iso8859-9 latin5",
    "cp1255": "windows-1255 cp1255",
    "cp1256": "windows-1256 cp1256",
    "cp1257": "windows-1257 cp1257",
    "cp1258": "windows-1258 cp1258",
    "cp866": "ibm866 cp866 866",
    "cp874": "windows-874 tis-620 iso-8859-11 dos-874",
    "iso8859-2": "iso-8859-2 iso8859-2 latin2",
    "iso8859-3": "iso-8859-3 latin3",
    "iso8859-4": "iso-8859-4 latin4",
    "iso8859-5": "iso-8859-5 cyrillic",
    "iso8859-6": "iso-8859-6 arabic",
    "iso8859-7": "iso-8859-7 greek",
    "iso8859-8": "iso-8859-8 iso-8859-8-i hebrew logical visual",
    "iso8859-10": "iso-8859-10 latin6",
    "iso8859-13": "iso-8859-13",
    "iso8859-14": "iso-8859-14",
    "iso8859-15": "iso-8859-15 latin9 latin-9",
    "iso8859-16": "iso-8859-16",
    "koi8-r": "koi8-r koi8 koi koi8_r",
    "koi8-u": "koi8-u koi8-ru",
    "mac-roman": "macintosh x-mac-roman mac",
    "mac-cyrillic": "x-mac-cyrillic x-mac-ukrainian",
    "gb18030": "gb18030 gb2312 gbk gb_2312-80 x-gbk chinese csgb2312",
    "big5hkscs": "big5 big5-hkscs cn-big5 x-x-big5",
    "euc_jp": "euc-jp x-euc-jp",
    "iso2022_jp": "iso-2022-jp csiso2022jp",
    "cp932": "shift_jis shift-jis sjis x-sjis ms_kanji windows-31j ms932",
    "cp949": "euc-kr ks_c_5601-1987 korean windows-949 cp949 ksc5601",
}
_CODECS = {label: codec for codec, labels in _LABELS.items() for label in labels.split()}
_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_META = re.compile(
    rb"<(?:meta[^>]{1,300}?charset|\?xml[^>]{1,200}?encoding)\s*=\s*[\"']?\s*([\w.:-]{2,40})",
    re.IGNORECASE,
)
META_BYTES = 4096  # searched for a declaration; the standard searches 1024
SEVEN_BIT = ("iso2022_jp", "utf-16-le", "utf-16-be")  # their bytes may be valid UTF-8 by chance
DEFAULT = "cp1252"  # of browsers


def decode_page(body: bytes, charset: str | None = None) -> tuple[str, bool]:
    """Return the text of a page, and False if its bytes do not fit the encoding it declares.

    In turn: a byte order mark; UTF-8 if the bytes are valid, because other encodings are hardly
    ever that by chance; the encodings that the header and the page declare, the first that fits;
    the first of them with U+FFFD for wrong bytes; windows-1252, as browsers do.

    Args:
        charset: of the header Content-Type, or None.
    """
    for mark, codec in _BYTE_ORDER_MARKS:
        if body.startswith(mark):
            return _decode(body[len(mark) :], codec)
    declared = [codec for codec in (_codec(charset), _declared_codec(body)) if codec]
    candidates = [*declared, "utf-8"] if set(declared) & set(SEVEN_BIT) else ["utf-8", *declared]
    for codec in candidates:
        try:
            return body.decode(codec), True
        except UnicodeDecodeError:
            continue
    codec = declared[0] if declared else DEFAULT
    return body.decode(codec, "replace"), not declared


def _decode(body: bytes, codec: str) -> tuple[str, bool]:
    try:
        return body.decode(codec), True
    except UnicodeDecodeError:
        return body.decode(codec, "replace"), False


def _codec(label: str | None) -> str | None:
    """Return Python's name of an encoding, or None for an unknown label."""
    return _CODECS.get(label.strip(" \t\"'").lower()) if label else None


def _declared_codec(body: bytes) -> str | None:
    """Return the encoding that a page declares in its first bytes."""
    match = _META.search(body, 0, META_BYTES)
    codec = _codec(match[1].decode("ascii", "replace")) if match else None
    # a declaration that can be read as ASCII is not in UTF-16
    return "utf-8" if codec and codec.startswith("utf-16") else codec
