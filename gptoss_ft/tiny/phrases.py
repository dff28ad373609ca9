"""The words that the sample rows are made of: six languages, three kinds of question.

Every sentence is a `str.format` template. A question is asked in one language and may be reasoned about in another,
so a thought names only what both sides know: numbers `{a} {b} {c}`, days `{day} {next}` (each in the language of the
sentence), a quoted `{word}`, its `{translation}` and the name of a `{language}`.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Phrase:
    """A question, what is thought about it, and its answer, in one language."""

    question: str
    thought: str
    answer: str


@dataclass(frozen=True)
class Language:
    """One language: its English name, its three phrases and its small dictionary.

    `days` starts on Monday; `words` has the same meanings, and `languages` the same languages, in the same order in
    every language.
    """

    name: str
    total: Phrase
    day: Phrase
    translation: Phrase
    days: tuple[str, ...]
    words: tuple[str, ...]
    languages: tuple[str, ...]


LANGUAGES = (
    Language(
        name="English",
        total=Phrase(
            "What is {a} plus {b}?",
            "The user wants the sum of {a} and {b}. Adding them gives {c}, so I will answer {c}.",
            "{a} plus {b} is {c}.",
        ),
        day=Phrase(
            "Which day comes after {day}?",
            "The days go in a fixed order. After {day} comes {next}.",
            "The day after {day} is {next}.",
        ),
        translation=Phrase(
            "How do you say “{word}” in {language}?",
            "The user asks for a translation. In {language} the word “{word}” is “{translation}”.",
            "In {language}, “{word}” is “{translation}”.",
        ),
        days=("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"),
        words=("water", "bread", "house", "book", "sun", "moon", "tree", "milk"),
        languages=("English", "French", "German", "Spanish", "Italian", "Korean"),
    ),
    Language(
        name="French",
        total=Phrase(
            "Combien font {a} plus {b} ?",
            "L'utilisateur veut la somme de {a} et {b}. En les additionnant on trouve {c}, je réponds donc {c}.",
            "{a} plus {b} font {c}.",
        ),
        day=Phrase(
            "Quel jour vient après {day} ?",
            "Les jours suivent un ordre fixe. Après {day} vient {next}.",
            "Le jour après {day} est {next}.",
        ),
        translation=Phrase(
            "Comment dit-on « {word} » en {language} ?",
            "L'utilisateur demande une traduction. En {language}, le mot « {word} » se dit « {translation} ».",
            "En {language}, « {word} » se dit « {translation} ».",
        ),
        days=("lundi", "mardi", "mercredi", "jeudi", "vendredi", "samedi", "dimanche"),
        words=("eau", "pain", "maison", "livre", "soleil", "lune", "arbre", "lait"),
        languages=("anglais", "français", "allemand", "espagnol", "italien", "coréen"),
    ),
    Language(
        name="German",
        total=Phrase(
            "Was ist {a} plus {b}?",
            "Gesucht ist die Summe von {a} und {b}. Zusammen ergibt das {c}, also antworte ich {c}.",
            "{a} plus {b} ist {c}.",
        ),
        day=Phrase(
            "Welcher Tag kommt nach {day}?",
            "Die Tage haben eine feste Reihenfolge. Auf {day} folgt {next}.",
            "Der Tag nach {day} ist {next}.",
        ),
        translation=Phrase(
            "Was heißt „{word}“ auf {language}?",
            "Hier ist eine Übersetzung gefragt. Auf {language} heißt „{word}“ dann „{translation}“.",
            "Auf {language} heißt „{word}“ „{translation}“.",
        ),
        days=("Montag", "Dienstag", "Mittwoch", "Donnerstag", "Freitag", "Samstag", "Sonntag"),
        words=("Wasser", "Brot", "Haus", "Buch", "Sonne", "Mond", "Baum", "Milch"),
        languages=("Englisch", "Französisch", "Deutsch", "Spanisch", "Italienisch", "Koreanisch"),
    ),
    Language(
        name="Spanish",
        total=Phrase(
            "¿Cuánto es {a} más {b}?",
            "El usuario quiere la suma de {a} y {b}. Al sumarlos se obtiene {c}, así que respondo {c}.",
            "{a} más {b} es {c}.",
        ),
        day=Phrase(
            "¿Qué día viene después del {day}?",
            "Los días siguen un orden fijo. Después del {day} viene el {next}.",
            "El día después del {day} es el {next}.",
        ),
        translation=Phrase(
            "¿Cómo se dice «{word}» en {language}?",
            "El usuario pide una traducción. En {language}, la palabra «{word}» es «{translation}».",
            "En {language}, «{word}» se dice «{translation}».",
        ),
        days=("lunes", "martes", "miércoles", "jueves", "viernes", "sábado", "domingo"),
        words=("agua", "pan", "casa", "libro", "sol", "luna", "árbol", "leche"),
        languages=("inglés", "francés", "alemán", "español", "italiano", "coreano"),
    ),
    Language(
        name="Italian",
        total=Phrase(
            "Quanto fa {a} più {b}?",
            "L'utente vuole la somma di {a} e {b}. Sommandoli si ottiene {c}, quindi rispondo {c}.",
            "{a} più {b} fa {c}.",
        ),
        day=Phrase(
            "Quale giorno viene dopo {day}?",
            "I giorni seguono un ordine fisso. Dopo {day} viene {next}.",
            "Il giorno dopo {day} è {next}.",
        ),
        translation=Phrase(
            "Come si dice «{word}» in {language}?",
            "L'utente chiede una traduzione. In {language} la parola «{word}» è «{translation}».",
            "In {language} «{word}» si dice «{translation}».",
        ),
        days=("lunedì", "martedì", "mercoledì", "giovedì", "venerdì", "sabato", "domenica"),
        words=("acqua", "pane", "casa", "libro", "sole", "luna", "albero", "latte"),
        languages=("inglese", "francese", "tedesco", "spagnolo", "italiano", "coreano"),
    ),
    Language(
        name="Korean",
        total=Phrase(
            "{a} + {b} 계산 결과를 알려 주세요.",
            "사용자가 덧셈을 묻는다. 계산하면 {a} + {b} = {c}. 그래서 {c}라고 답한다.",
            "{a} + {b} = {c}입니다.",
        ),
        day=Phrase(
            "{day} 다음 날은 무슨 요일인가요?",
            "요일은 순서가 정해져 있다. {day} 다음은 {next}이다.",
            "{day} 다음 날은 {next}입니다.",
        ),
        translation=Phrase(
            "“{word}”, {language}로 어떻게 말하나요?",
            "사용자가 번역을 묻는다. {language}로 옮기면 “{word}” → “{translation}”.",
            "{language}로는 “{translation}”입니다.",
        ),
        days=("월요일", "화요일", "수요일", "목요일", "금요일", "토요일", "일요일"),
        words=("물", "빵", "집", "책", "해", "달", "나무", "우유"),
        languages=("영어", "프랑스어", "독일어", "스페인어", "이탈리아어", "한국어"),
    ),
)

PERSONAS = (
    "You are a patient teacher. Answer in one sentence.",
    "You are a brief assistant.",
    "You help travellers. Be friendly 🙂 and exact.",
    "You are a careful clerk; check every figure.",
)
