"""The names of the lexicon: what photographs, paintings and drawings show, by WordNet."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass

from recipes.bundled_text.senses import CONCRETE, VISIBLE_VERBS, SenseRanking
from recipes.twotower_small.wordnet import Sense, WordNet
from twotower.inputs.lexicon import MAX_WORDS, split_words

# Words that say nothing about a picture, or only that it is one.
STOP_WORDS = frozenset(
    """a an the and or but if of at by for with about against between into through during before
    after above below to from up down in out on off over under again then once here there when where
    why how all any both each few more most other some such no nor not only own same so than too
    very can will just should now i me my we our us you your he him his she her it its they them
    their what which who whom this that these those am is are was were be been being have has had
    having do does did doing would could ought may might must shall one two three four five six
    seven eight nine ten first second third last next another many much several lot lots pair couple
    number set bunch kind type sort way part piece side top bottom front back left right middle
    center centre end edge corner background foreground view scene shot photo photos photograph
    image picture pic snapshot close closeup distance area place thing something someone somebody
    everyone nothing everything as also like go get take make see look use put let ok oh yes hi ha
    la de le et un el en van von per via vs mr mrs dr st etc dont today group line direction
    position point case time times different various large small big little good bad new nice
    great while behind along near across outside inside together around onto upon beside besides
    beyond toward towards within without among amid apart away ahead aside beneath underneath
    throughout despite until till since because although though whether either neither yet still
    even ever never always often already quite rather almost perhaps maybe however therefore else
    instead otherwise covered looking at""".split()
)
# The least score that a name needs (see `senses.py`) if all its words are common, or some are rare;
# None for any.
COMMON: dict[str, float | None] = dict.fromkeys([*CONCRETE, *VISIBLE_VERBS])
COMMON |= dict.fromkeys(["noun.act", "noun.event", "noun.group", "adj.all", "adj.pert"])
RARE: dict[str, float | None] = dict.fromkeys([*CONCRETE, "noun.group"])
RARE |= {"noun.act": 1.0, "noun.event": 1.0, "adj.all": 0.6, "adj.pert": 0.6}
RARE |= dict.fromkeys(VISIBLE_VERBS, 0.4)
ABSTRACT = 1.5  # the least score of names in all other domains
# Names that are listed in any case: newer than WordNet 3.0, or left out as proper names.
EXTRA_NAMES = tuple(
    """barcode backlight bokeh christmas clownfish easter halloween hanukkah hoodie kitesurfing koi
    letterbox macaron motocross motorhome paddleboarding screenshot selfie smartphone snorkelling
    sweetcorn thanksgiving whiteboard""".split()
)
PASTIMES = frozenset(("sport", "recreation", "dance", "ceremony", "party"))
LATIN = tuple("us a um is ii i ens e or ax ix es os ns x on".split())  # endings of species
RARER = 0.1  # added to the rank of a word for its irregular forms


@dataclass(frozen=True)
class Lemma:
    """A name as `split_words` leaves it, its spelling, and its senses with their weights.

    A name that WordNet lacks has the sense None.
    """

    name: str
    spelling: str
    senses: tuple[tuple[Sense | None, float], ...]


def visible_lemmas(ranking: SenseRanking, pieces: Container[str], limit: int) -> list[Lemma]:
    """Return names of visible things, common and concrete ones at the start.

    Args:
        pieces: common words: the vocabulary of the tokenizer.
        limit: the number of names, without `EXTRA_NAMES`.
    """
    ranks: dict[Lemma, float] = {}
    for lemma in _candidates(ranking):
        rank = _rank(lemma, ranking, pieces)
        if rank is not None:
            ranks[lemma] = rank
    ranks |= _inflected(ranks, ranking)
    lemmas = sorted(ranks, key=ranks.__getitem__)[:limit]
    listed = {lemma.name for lemma in lemmas}
    for name in EXTRA_NAMES:
        if name not in listed:
            senses = tuple(ranking.visible_senses(name)) or ((None, 1.0),)
            lemmas.append(Lemma(name, name, senses))
    return lemmas


def lexicon_name(spelling: str) -> str | None:
    """Return a name as `split_words` leaves it; None for one that the lexicon cannot hold."""
    words = split_words(spelling)
    name = " ".join(words)
    fits = 1 <= len(words) <= MAX_WORDS and len(name) > 1 and "".join(words).isalpha()
    return name if fits and name not in STOP_WORDS else None


def _candidates(ranking: SenseRanking) -> Iterator[Lemma]:
    """Yield the names of up to three words in WordNet that have letters only."""
    names: set[str] = set()
    for index in ranking.wordnet.index.values():
        for spelling in index:
            name = lexicon_name(spelling)
            if name and name not in names:
                names.add(name)
                if senses := ranking.visible_senses(spelling):
                    yield Lemma(name, spelling, tuple(senses))


def _rank(lemma: Lemma, ranking: SenseRanking, pieces: Container[str]) -> float | None:
    """Return a sort key, or None for a name that is left out."""
    sense, score = lemma.senses[0]
    assert sense is not None  # only of names that WordNet lacks
    proper = sense.domain.startswith("noun") and lemma.spelling not in sense.words
    if ranking.is_taxon(sense) or (proper and sense.domain not in CONCRETE - {"noun.person"}):
        return None
    if proper and _is_binomial(lemma, sense):
        return None
    common = all(word in pieces for word in lemma.name.split())
    pastime = _is_pastime(sense, ranking.wordnet)
    least = (COMMON if common else RARE).get(sense.domain, ABSTRACT)
    if least is not None and score < least and not pastime:
        return None
    several = " " in lemma.name
    if several and not sense.domain.startswith("noun"):
        return None
    geographic = sense.domain in ("noun.location", "noun.object")
    rarity = (not (common or pastime)) + 0.5 * (sense.domain not in CONCRETE) + 0.3 * several
    rarity += proper * (1.5 if geographic else 0.5)
    return float(rarity - min(score, 60) / 30)


def _is_pastime(sense: Sense, wordnet: WordNet) -> bool:
    """Return True for a sport, a dance and the like."""
    ancestors = (wordnet.synsets[key] for key in wordnet.ancestors(sense))
    return any(not PASTIMES.isdisjoint(ancestor.words) for ancestor in ancestors)


def _is_binomial(lemma: Lemma, sense: Sense) -> bool:
    """Return True for the scientific name of a species: "Primula veris"."""
    spelling = next((word for word in sense.words if word.lower() == lemma.spelling), "")
    genus, _, species = spelling.partition(" ")
    return (
        sense.domain in ("noun.animal", "noun.plant")
        and species.islower()
        and genus.istitle()
        and species.endswith(LATIN)
    )


def _inflected(ranks: Mapping[Lemma, float], ranking: SenseRanking) -> dict[Lemma, float]:
    """Return irregular plurals and forms in -ing of single words, which are no names themselves."""
    wordnet = ranking.wordnet
    names = {lemma.name for lemma in ranks} | STOP_WORDS
    plurals: dict[str, list[str]] = {}
    for form, word in wordnet.irregular["noun"].items():
        plurals.setdefault(word, []).append(form)
    gerunds = {
        word: form for form, word in wordnet.irregular["verb"].items() if form.endswith("ing")
    }
    inflected: dict[str, tuple[Lemma, float]] = {}
    for lemma, rank in ranks.items():
        if " " in lemma.name:
            continue
        forms = plurals.get(lemma.name, [])
        if _is_action(lemma.name, wordnet):
            forms = [*forms, _gerund(lemma.name, gerunds)]
        for form in forms:
            if form not in names and form.isalpha():
                senses = tuple(ranking.visible_senses(form)) or lemma.senses
                inflected.setdefault(form, (Lemma(form, form, senses), rank + RARER))
    return dict(inflected.values())


def _is_action(name: str, wordnet: WordNet) -> bool:
    """Return True for a frequent verb, and for any of moving and competing."""
    keys = wordnet.index["verb"].get(name, [])
    counts = wordnet.sense_counts.get(("verb", name), Counter[int]())
    return any(count > 1 for count in counts.values()) or any(
        wordnet.synsets[key].domain in ("verb.motion", "verb.competition") for key in keys[:1]
    )


def _gerund(verb: str, irregular: dict[str, str]) -> str:
    """Return the form of a verb in -ing."""
    if verb in irregular:
        return irregular[verb]
    if verb.endswith("ie"):
        return f"{verb[:-2]}ying"
    if verb.endswith("e") and not verb.endswith(("ee", "oe", "ye")):
        return f"{verb[:-1]}ing"
    return f"{verb}ing"
