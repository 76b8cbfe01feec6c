"""A dictionary that several tests of recipes share."""

from pathlib import Path

import pytest

# lexicographer files: 5 noun.animal, 6 noun.artifact, 9 noun.cognition; see wndb(5)
NOUNS = """\
  1 licence of the makers
00000001 05 n 02 animal 0 beast 0 000 | a living being; "the animals came in two by two"
00000002 05 n 01 dog 0 001 @ 00000001 n 0000 | a tame animal that barks
00000003 05 n 01 poodle 0 002 @ 00000002 n 0000 ! 00000004 n 0101 | a dog with curly hair
00000004 06 n 02 wine_cellar 0 cellar 1 000 | where wine is kept
00000005 09 n 01 idea 0 000 | what is in a mind
00000006 05 n 01 Fido 0 001 @i 00000002 n 0000 | a dog's name
00000007 06 n 01 dog 1 000 | an iron that holds logs
"""
INDEX = """\
  1 licence of the makers
animal n 1 0 1 0 00000001
beast n 1 0 1 0 00000001
cellar n 1 0 1 0 00000004
dog n 2 1 @ 2 1 00000002 00000007
fido n 1 1 @ 1 0 00000006
idea n 1 0 1 0 00000005
poodle n 1 2 @ ! 1 0 00000003
wine_cellar n 1 0 1 0 00000004
"""
ADJECTIVE = "00000001 00 s 01 red(p) 0 001 & 00000002 a 0000 | of the colour of blood\n"
VERB = "00000001 38 v 01 run 0 000 01 + 02 00 | move fast on foot\n"


@pytest.fixture(scope="session")
def wordnet_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dictionary of a dozen words in the form of WordNet's database."""
    folder = tmp_path_factory.mktemp("wordnet")
    files = {
        "data.noun": NOUNS,
        "index.noun": INDEX,
        "data.adj": ADJECTIVE,
        "index.adj": "red a 1 1 & 1 1 00000001\n",
        "data.verb": VERB,
        "index.verb": "run v 1 0 1 1 00000001\n",
        "verb.exc": "ran run\nrunning run\n",
        "cntlist.rev": "poodle%1:05:00:: 1 3\ndog%1:05:00:: 1 40\ndog%1:06:00:: 2 1\n",
    }
    for name, text in files.items():
        (folder / name).write_text(text, encoding="latin-1")
    return folder
