import gzip
import json
from collections import Counter
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from twotower.errors import PairsError
from twotower.pairs.candidates import Candidate, Reason
from twotower.pairs.readers.reading import Reading
from twotower.pairs.readers.url_lists import list_candidates


def read(path: Path, **settings: str) -> tuple[list[Candidate], Counter[str]]:
    reading = Reading(**settings)  # type: ignore[arg-type]
    return list(list_candidates(path, reading)), reading.counts


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_csv_with_usual_names(tmp_path: Path) -> None:
    text = (
        '\ufeffURL,TEXT,WIDTH,HEIGHT,language\nhttps://h.example/a.jpg,"A fox,\nred",640,480,en\n'
    )
    path = write(tmp_path / "a.csv", text + "https://h.example/b.jpg,Too,many,cells,en,x\n")
    candidates, counts = read(path)
    expected = Candidate(
        "https://h.example/a.jpg", "A fox, red", "column", "", "en", 640, 480, "a.csv:0"
    )
    assert candidates == [expected]
    assert counts == {Reason.MALFORMED_ROW: 1}


def test_tsv_without_names_as_conceptual_captions(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tsv", 'a "red fox\thttp://h.example/a.jpg\n')
    [candidate] = read(path)[0]
    assert (candidate.url, candidate.caption) == ("http://h.example/a.jpg", 'a "red fox')


def test_tsv_with_quotes_of_pandas(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tsv", 'url\tcaption\nhttp://h.example/a.jpg\t"a ""red"" fox"\n')
    assert read(path)[0][0].caption == 'a "red" fox'


def test_json_lines_compressed(tmp_path: Path) -> None:
    rows = [{"url": "http://h.example/a.jpg", "caption": "fox"}, {"url": "http://h.example/b.jpg"}]
    text = "\n".join([json.dumps(rows[0]), "{broken", "[1]", "", json.dumps(rows[1])])
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(text.encode()))
    candidates, counts = read(path)
    assert [c.caption for c in candidates] == ["fox"]
    assert counts == {Reason.MALFORMED_ROW: 2, Reason.NO_TEXT: 1}
    path.write_bytes(gzip.compress(text.encode())[:-15])
    assert read(path)[1][Reason.TRUNCATED] == 1


def test_parquet_with_lists_of_captions(tmp_path: Path) -> None:
    table = pyarrow.table(
        {
            "img": ["http://h.example/a.jpg", None],
            "captions": [["a fox", "red fox"], ["none"]],
            "width": [640.0, None],
        }
    )
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    candidates, counts = read(tmp_path / "a.parquet", url_column="img")
    assert [(c.caption, c.width) for c in candidates] == [("a fox", 640), ("red fox", 640)]
    assert counts == {Reason.NO_URL: 1}


def test_missing_columns_are_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "link,words\nhttp://h.example/a.jpg,a fox\n")
    with pytest.raises(PairsError, match=r"no column of URLs \(there are: link, words\)"):
        read(path)
    assert len(read(path, url_column="link", caption_column="words")[0]) == 1


def test_a_file_that_is_no_parquet(tmp_path: Path) -> None:
    with pytest.raises(PairsError, match="no Parquet file"):
        read(write(tmp_path / "a.parquet", "x" * 100))


def test_a_quote_that_is_not_closed_ends(tmp_path: Path) -> None:
    rows = "".join(f"http://h.example/{i}.jpg,a fox {i} in snow\n" for i in range(9000))
    path = write(tmp_path / "a.csv", f'url,caption\nhttp://h.example/x.jpg,"open\n{rows}')
    candidates, counts = read(path)
    assert counts[Reason.MALFORMED_ROW] >= 1
    assert len(candidates) > 1000  # csv gives up on the cell and goes on behind it
