"""Makes `tokenizer/openai.json`: ids of OpenAI's own tokenizer on awkward strings.

Run it with open_clip_torch's tokenizer, which is OpenAI's file with other special literals:

    pip download --no-deps open_clip_torch==3.3.0 && unzip open_clip_torch*.whl
    python tests/golden/make_tokenizer.py open_clip/tokenizer.py
"""

import importlib.util
import json
import sys
from pathlib import Path

AWKWARD = [
    *("", " ", "\t\n", "a", "A", "é", "I", "'", "''", '"', "!", "?!", "...", "....", "-", "--", "_"),
    *("a photo of a cat.", "You should've done this", "DON'T", "don't", "DON’T", "it’s", "'s", "'S"),
    *("rock'n'roll", "o'clock", "we'll we'd we're I've I'm he's can't", "'tis", "y'all'd've"),
    *("a &amp;amp; b", "a &amp; b", "a & b", "&lt;b&gt;", "&#39;", "&#x27;", "&nbsp;x", "&notanentity;"),
    *("&amp", "AT&T", "R&B", "&&", "&eacute;t&eacute;", "&amp;lt;", "1 < 2", "<b>bold</b>", "<br/>"),
    *("“curly”", "‘single’", "«guillemets»", "—dash—", "–", "…", "•", "™", "©", "½", "²", "№", "℃"),
    *("schÃ¶n", "schön", "voilÃ\xa0", "â€œquotedâ€\x9d", "Ã©tÃ©", "l’humanitÃ©", "âœ” done", "�"),
    *("ﬁne", "ﬂight", "oﬃce", "ﬆop", "Ⅳ", "ｆｕｌｌｗｉｄｔｈ", "Ａ１！", "Ω", "ſ", "it'ſ", "K", "Å"),
    *("ΟΔΟΣ", "ὈΔΥΣΣΕΎΣ", "σ ς Σ", "résumé", "RÉSUMÉ", "re\u0301sume\u0301", "naïve", "Ångström"),
    *("İstanbul", "ISTANBUL", "ıstanbul", "ß", "ẞ", "STRASSE", "ǅ", "ﬀ", "Ǆ", "ŉ", "ΐ"),
    *("2024", "1234567890", "3.14", "1,000,000", "50%", "$5", "€5", "£5", "5'10\"", "1st", "2nd"),
    *("10x", "x10", "a1b2c3", "mp3", "4k", "B52", "٣٤", "१२३", "三", "①", "1️⃣", "½ cup", "10⁻³"),
    *("a_b", "snake_case_name", "camelCase", "kebab-case", "a/b", "a\\b", "a.b.c", "C++", "C#", ".NET"),
    *("http://example.com/a?b=c&d=e#f", "user@example.com", "#hashtag", "@handle", "~tilde~", "`code`"),
    *("{}", "{x}", "[y]", "(z)", "<|", "|>", "<|x|>", "a|b", "^", "*bold*", "**", "+1", "=", "1+1=2"),
    *("\U0001f600", "\U0001f600\U0001f601", "\U0001f469\u200d\U0001f4bb", "\U0001f1e9\U0001f1ea"),
    *("\U0001f44d\U0001f3fd", "❤️", "☀", "♫ la la", "→ ← ↑", "★★★", "\u200ba", "a\u200bb", "a\u200db"),
    *("a\u00a0b", "a\u3000b", "a\u2028b", "a\u2029b", "\ufeffbom", "a\u00adb", "a\u0000b", "a\u0007b"),
    *("a\u001bb", "\u001b[31mred\u001b[0m", "a\u0085b", "a\u000bb", "a\u000cb", "a\u001fb", "a\u007fb"),
    *("猫", "一只猫", "犬の写真", "カタカナ", "ひらがな", "ｶﾀｶﾅ", "고양이", "собака", "ПРИВЕТ", "كلب"),
    *("שלום", "สวัสดี", "नमस्ते", "বাংলা", "தமிழ்", "ქართული", "հայերեն", "ไทย abc", "ا\u0644\u0644", "𝒜𝒷𝒸"),
    *("𝕏", "𐍈", "Z͑ͫ̓a̡l̨g̸o", "é́́", "a\u0301\u0302", "\u0301", "\u200f\u200e", "\u202eabc", "ｱ", "㍿"),
    *("the   quick\tbrown\r\nfox", "  leading", "trailing  ", "UPPER lower MiXeD", "x" * 40, "ab" * 30),
    *("antidisestablishmentarianism", "pneumonoultramicroscopicsilicovolcanoconiosis", "qwrtpsdf"),
    *("supercalifragilisticexpialidocious", "aaaaaaaa", "zzz", "hahahahaha", "brrrrr", "<start_of_text"),
    *("end_of_text>", "word\u2019s", "\u02bcs", "l'été", "aujourd'hui", "d'", "'d", "'ll", "'LL", "' s"),
    *("a.", "a,b", "a, b", ",", "a  .", "no.1", "No. 1", "e.g.", "U.S.A.", "Ph.D.", "3pm", "3 p.m."),
    *("a photo of a {}.", "itap of a dog.", "a close-up photo of the number: “1”.", "black & white"),
    *("two dogs & a cat; one bird?", "he said: \"hello\"", "mother-in-law", "rock 'n' roll", "1990s"),
    *("90's", "the '90s", "ca. 1850", "#1", "No1", "x²+y²=z²", "H₂O", "E=mc²", "20°C", "5×5", "a–b"),
]

if __name__ == "__main__":
    spec = importlib.util.spec_from_file_location("original", sys.argv[1])
    original = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(original)
    tokenizer = original.SimpleTokenizer()
    ids = {text: tokenizer.encode(text) for text in dict.fromkeys(AWKWARD)}
    path = Path(__file__).with_name("tokenizer") / "openai.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(ids, indent=0, ensure_ascii=True) + "\n")
    print(f"{path}: {len(ids)} strings")
