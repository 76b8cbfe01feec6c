import io

from PIL import Image

from twotower.pages.numbered_sheet import CELL, GAP, draw_numbered_sheet


def jpeg(colour: str, size: tuple[int, int] = (300, 150)) -> bytes:
    content = io.BytesIO()
    Image.new("RGB", size, colour).save(content, "JPEG")
    return content.getvalue()


def centre(sheet: Image.Image, row: int, column: int) -> tuple[int, int, int]:
    step = CELL + GAP
    return sheet.getpixel((GAP + column * step + CELL // 2, GAP + row * step + CELL // 2))


def test_pictures_fill_rows_in_their_order() -> None:
    sheet = draw_numbered_sheet([jpeg("red"), jpeg("lime"), jpeg("blue")], columns=2)
    assert sheet.size == (2 * (CELL + GAP) + GAP, 2 * (CELL + GAP) + GAP)
    assert centre(sheet, 0, 0)[0] > 200 > centre(sheet, 0, 0)[1]
    assert centre(sheet, 0, 1)[1] > 200 > centre(sheet, 0, 1)[0]
    assert centre(sheet, 1, 0)[2] > 200 > centre(sheet, 1, 0)[0]


def test_a_missing_picture_keeps_its_number() -> None:
    sheet = draw_numbered_sheet([b"", jpeg("red")])
    assert centre(sheet, 0, 1)[0] > 200
    label = sheet.crop((GAP, GAP, GAP + 40, GAP + 40)).convert("L")
    assert label.getextrema()[0] < 40
