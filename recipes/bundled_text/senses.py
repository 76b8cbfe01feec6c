"""Choose the senses of a word that pictures show: a crane is a bird or a machine."""

from __future__ import annotations

from collections import Counter

from recipes.twotower_small.wordnet import Sense, WordNet, plain

CONCRETE = frozenset(
    f"noun.{kind}"
    for kind in "animal artifact body food location object person phenomenon plant shape "
    "substance".split()
)
VISIBLE_NOUNS = frozenset(f"noun.{kind}" for kind in "act communication event group time".split())
VISIBLE_VERBS = frozenset(
    f"verb.{kind}"
    for kind in "body competition consumption contact creation motion perception weather".split()
)
# A sense counts as often as it was seen in text, and this often if never, times its visibility.
NOUN_PRIOR, OTHER_PRIOR = 2.0, 0.5
SECOND_SENSE = 0.5  # least score of a second sense, relative to the leading one
TAXA = frozenset(("taxonomic group", "biological group"))


class SenseRanking:
    """The senses of words, scored by frequency and visibility."""

    def __init__(self, wordnet: WordNet) -> None:
        self.wordnet = wordnet
        self._taxa = {
            key
            for key, sense in wordnet.synsets.items()
            if sense.words[0] in TAXA and key.startswith("noun")
        }

    def is_taxon(self, sense: Sense) -> bool:
        """Return True for a genus, family or the like, which no one names in a photograph."""
        return not self._taxa.isdisjoint(self.wordnet.ancestors(sense))

    def visible_senses(self, name: str) -> list[tuple[Sense, float]]:
        """Return the best sense of a name with its score, and a second one that comes near.

        If WordNet lacks "wine cellar", these are the senses of "cellar".
        """
        scored = self.scored_senses(name)
        best = max((score for _, score in scored), default=0.0)
        chosen = scored[:1]
        for sense, score in scored[1:3]:
            if score >= SECOND_SENSE * best and sense.domain in CONCRETE and len(chosen) < 2:
                chosen.append((sense, score))
        return chosen

    def scored_senses(self, name: str) -> list[tuple[Sense, float]]:
        """Return the senses of a name, the best at the start."""
        name, scored = plain(name), list[tuple[Sense, float]]()
        while name and not scored:
            scored = self._scored_senses(name)
            name = name.partition(" ")[2]
        return sorted(scored, key=lambda item: -item[1])

    def _scored_senses(self, name: str) -> list[tuple[Sense, float]]:
        """Return the senses of a name as a noun, adjective and verb; of "running", those of "run".

        A verb that is also the name of a thing is left out: the thing is what a picture shows.
        """
        scored = [
            (sense, self._score(sense, word, number, count))
            for pos, word in self._forms(name)
            for number, sense, count in self._counted(pos, word)
        ]
        things = max((score for sense, score in scored if sense.domain in CONCRETE), default=0.0)
        scored = [
            (sense, score)
            for sense, score in scored
            if not (sense.domain.startswith("verb") and things > 0.2 * score)
        ]
        for verb in self.wordnet.verbs_of_gerund(name):
            scored += [
                (sense, 2 * self._score(sense, verb, number, count))
                for number, sense, count in self._counted("verb", verb)
            ]
        return scored

    def _forms(self, name: str) -> list[tuple[str, str]]:
        """Return the parts of speech of a name as it is spelled, or in the singular."""
        for spelling in self.wordnet.spellings(name):
            forms = [
                (pos, spelling) for pos in self.wordnet.index if spelling in self.wordnet.index[pos]
            ]
            if forms:
                return forms
        return []

    def _counted(self, pos: str, word: str) -> list[tuple[int, Sense, int]]:
        """Return number, sense and frequency of a word's senses."""
        counts = self.wordnet.sense_counts.get((pos, word), Counter[int]())
        keys = self.wordnet.index[pos][word]
        return [
            (number, self.wordnet.synsets[key], counts.get(number, 0))
            for number, key in enumerate(keys)
        ]

    def _score(self, sense: Sense, word: str, number: int, count: int) -> float:
        noun = sense.domain.startswith("noun")
        prior = NOUN_PRIOR / (number + 1) ** 0.7 if noun else OTHER_PRIOR / (number + 1)
        return (count + prior) * self._visibility(sense, word)

    def _visibility(self, sense: Sense, word: str) -> float:
        if self.is_taxon(sense):
            return 0.02
        proper = sense.domain.startswith("noun") and word not in sense.words
        if sense.domain in CONCRETE:
            return 0.1 if proper else 1.0
        if sense.domain in VISIBLE_NOUNS or sense.domain.startswith("adj"):
            return 0.05 if proper else 0.5
        return 0.25
