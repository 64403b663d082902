"""Built-in demo songs: something to train on before there is data of one's own.

Concepts are put together from invented sentences. A sentence that re-parses its subject (a turn) makes a song a
rebracketing one. Some turns carry tell-tale words ("or rather", "unless"), some only mean it, and plain songs use the
same words harmlessly: so words help without settling the label, as with real songs. A few labels are wrong on purpose,
so that nothing can be perfect on them.

Each concern draws from a generator of its own: more lyrics, stems or columns never change the concepts and labels.
"""

from __future__ import annotations

import io
import re
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa

DEMO_VERSION = 1
SONGS = 160

FILE_NAME = "demo_songs.parquet"
ALBUMS = ("Black", "Red", "Orange", "Yellow", "Green", "Blue", "Indigo", "Violet")
PER_ALBUM = SONGS // len(ALBUMS)
REPEATS = 6  # songs whose concept is another song's, but for case and white space
POSITIVES = 62  # of the SONGS - REPEATS distinct concepts, before the wrong labels
MNEMONIC_SONGS = 2  # a class too rare to be learned, as real tables have them
WRONG_EACH_WAY = 4  # about 5 % in all; as many each way keeps the share of positives
INSTRUMENTALS = 16

SENTENCES = (2, 3, 3, 4, 4, 5, 6, 7)  # drawn alike for all songs, so that length tells little
TURN_SHARE = (0.4, 0.9)  # of a rebracketing song's sentences
MARKED_SHARE = 0.55  # of the turns
HARMLESS_SHARE = 0.15  # of all other sentences

NO_TURN = "none"
RARE_TURN = "mnemonic"

# people; places; things: the nouns that a song keeps to, so that concept and lyrics are about the same
THEMES = (
    "ferryman, net mender, harbour master, diver; harbour, pier, breakwater, boathouse; lantern, rope, buoy, sail",
    "cook, baker, dishwasher, lodger; kitchen, pantry, bakery, courtyard; kettle, ladle, copper pan, sugar bowl",
    "conductor, signalman, porter, ticket clerk; platform, waiting room, tunnel, depot; whistle, trolley, flag, bench",
    "gardener, beekeeper, neighbour, seed seller; greenhouse, vineyard, melon patch, shed; spade, trellis, hose, rake",
    "teacher, caretaker, pupil, librarian; classroom, gymnasium, playground, library; globe, satchel, blackboard, bell",
    "nurse, surgeon, night porter, patient; ward, stairwell, laundry, car park; stretcher, blanket, chart, wheelchair",
    "stargazer, watchman, lens grinder, student; dome, hilltop, workshop, tower; telescope, notebook, lens, ladder",
    "understudy, stagehand, prompter, dancer; stage, balcony, dressing room, foyer; curtain, mask, script, spotlight",
    "shepherd, farmhand, vet, milkmaid; barn, pasture, dairy, lane; gate, plough, milk churn, scarecrow",
    "announcer, typist, engineer, sound man; studio, cellar, control room, corridor; microphone, recorder, dial, fan",
    "bellhop, receptionist, night clerk, widow; lobby, ballroom, lift, linen room; key, chandelier, guest book, sofa",
    "surveyor, guide, hermit, mule driver; pass, valley, cabin, quarry; compass, tent, cairn, walking stick",
)

FILLERS = {
    "look": "dented, painted, heavy, borrowed, green, cheap, polished, crooked, wooden, rusty",
    "count": "two, three, four, seven, nine, twelve, forty",
    "hour": "at noon, before breakfast, after supper, at dusk, at half past six, around midnight",
    "month": "January, February, March, June, July, November, December",
    "food": "bread, plum jam, onion soup, cold potatoes, rice, oranges, goat cheese, fish",
    "sky": "rain, fog, snow, a warm wind, hail, thin sunlight, drizzle",
    "tune": "a waltz, an old hymn, a marching song, a lullaby, half a ballad, the radio jingle",
    "kin": "sister, cousin, nephew, grandfather, stepmother, daughter, brother",
}

# many share the turns' nouns, verbs and small words
PLAIN = (
    "The {who} [carries|wheels|drags] the {look} {thing} down to the {place} and sets it behind its [rail|fence].",
    "There is {sky} over the whole {place} and the {who} has [brought|cooked] {food} for [everyone|the children].",
    "The {place} has been [swept|painted] {hour}, and the {who} counts what is left [in the tin|of the coins].",
    "The {thing} that the {kin} [bought|won|sold] in {month} has been worth its [price|weight].",
    "The {who} [whistles|hums|practises] {tune} all along the [road|path] that comes down from the {place}.",
    "{count} people are [queueing|waiting] at the {place}, first the {kin}, then some of the others.",
    "The {who} and the {friend} share {food} and talk about [football|the weather|wages].",
    "In {month} the whole {place} smells of [varnish|coal|soap] and its [curtains|floors] of wet wool.",
    "The {who} [writes|posts] a letter to the {kin} that comes to {count} pages, being [lonely|in love|bored].",
    "The {friend} mends the {thing} with [wire|glue|twine] and puts it under the smaller one.",
    "It is a love song for the {who}, [sung|played] by the {friend} from the other side of the {place}.",
    "The {kin} [dances|sings along] with the {who} to {tune} that has been played all evening.",
    "The {who} is [saving|looking] for another {thing}, the same one that the {friend} already has.",
    "The {place} [closes|opens] {hour}, and what the {who} likes is the sound of its {count} [keys|bolts].",
    "The {friend} [teaches a child|shows the {kin}] how a {thing} is held and what it is for.",
    "The {who} has owed the {friend} {count} weeks of [rent|pay] since {month} and [says so|knows it].",
    "The [strike|dispute] that shut the {place} comes to its end with a [handshake|vote] and a pay rise.",
    "The {who} [grieves for|misses|visits] a {kin} who loved {tune} and {food}.",
    "The {who} has been waiting {count} hours for the {friend}, with [yesterday's paper|cold coffee].",
    "The [clock|scale] that hangs at the {place} is [slow|broken], so the {who} [winds|repairs] it {hour}.",
    "The map on the wall shows the far side of the {place} and the road into the next [town|village].",
    "Inside the {thing} lies a folded [note|ticket] that has the address of a {kin} on it.",
    "A voice reads out the [names|scores] and the day's orders, being the only one at the {place}.",
    "The {who} asks the {friend} a question and gets [a straight|an honest] answer to it.",
    "Smoke from the fire hangs over the edge of the {place}, and the {who} opens a [window|hatch].",
    "The {who} [fell|slipped] on the ice in {month}, broke a wrist and hid the wound from the {kin}.",
    "Tomorrow the {who} will meet the {friend} for {food} and look at the [photographs|prices] together.",
    "The second verse is all for the {kin}, the first for the {place} and the noise of {sky}.",
)

# the tell-tale words with nothing behind them
HARMLESS = (
    "The {who} likes {food}, but never with pepper.",
    "The boat that comes {hour} is on time unless there is {sky}.",
    "The {friend} sings {tune} as if it were a birthday.",
    "Bring the {look} {thing}, or rather bring the one that the {kin} has.",
    "The {thing} is not new, but it works, and the {who} is proud of its handle.",
    "The {who} orders not the {food} but the soup, and pays with small coins.",
    "It is {count} coins, or rather it was in {month}, for a {thing} like that.",
    "The crowd cheers as if the {who} had been given a medal.",
    "It has been cold at the {place}, but the stove is lit and the {friend} has cards.",
    "Nobody goes home unless the last bus comes early or {tune} is over.",
    "The {who} is not a {kin} but a good friend of the {friend}.",
)

# by type, turns with a tell-tale word; [a|b] is a choice of words, so that few words are a turn's own
MARKED_TURNS = {
    "spatial": (
        "The {who} stands outside the {place}, or rather the {place} [is the one outside|has stepped out of it all].",
        "From the street it is a {place}, but from the [stairs|yard|bridge] it is the [inside|lining] of a {thing}.",
        "The [walls|tiles|beams] lean as if the {place} had been [folded|hinged|sewn] along some other line.",
        "Nobody can [walk out of|leave] the {place} unless the {place} goes first.",
        "It is not a {place} with a {thing} in it, but a {thing} with a {place} in it.",
    ),
    "temporal": (
        "It is {month}, but a {month} [from a year already taken back|cut out of some later year].",
        "The {who} arrives {hour}, or rather has been arriving for {count} [years|summers|centuries].",
        "The {thing} [rusts|fades|wears thin] as if [tomorrow ran into yesterday|it were nearing its making].",
        "[Nothing|No song|No meal] at the {place} has begun unless it has already ended.",
        "The past is not behind the {who} but ahead, [still being built|waiting to be laid like track].",
    ),
    "causal": (
        "The {thing} did not break because it fell, but fell so that it could [have been broken|be found in pieces].",
        "The [smoke|soot|scorch mark] lights the fire, or rather the ash has been asking for [both|it all along].",
        "The {who} [runs|hides|limps] as if that were what gave the [hunters legs|creditors a reason].",
        "There is no [crime|debt|theft] at the {place} unless the [sentence|receipt|apology] comes first.",
        "The {who} is not the author of the [letter|rumour|plan] but its [consequence|residue].",
    ),
    "perceptual": (
        "The {who} sees a {thing}, but when the light [shifts|drops] it has been a [face|hand|bird] all along.",
        "It was a [voice|knock|footstep], or rather it was {sky} that had learned to sound like [a name|one].",
        "The {thing} [stares|listens] as if the {who} were the object on the shelf.",
        "The [picture|painting|pattern] means nothing unless its background is read as the figure.",
        "What hangs at the {place} is not a [mirror|portrait] but a second {who}, looking out.",
    ),
    RARE_TURN: (
        "The {who} remembers a childhood at the {place}, but it is the {friend} who had it.",
        "The {kin} is forgotten, or rather has been remembered into someone else.",
    ),
}

# by type, turns that only mean it
UNMARKED_TURNS = {
    "spatial": (
        "The {place} [turns inside out|peels open] and leaves the {who} [standing on its lining|clinging to its skin].",
        "[Walking|Crawling] out through the [far|back] door of the {place} brings the {who} in at the [front|gate].",
        "The map of the {place} [unfolds past the table|outgrows its frame] and covers the land it [describes|shows].",
        "One [room|floor|wing] of the {place} comes apart into two [countries|islands] with a [border|coast] between.",
        "[Under the lid of|Deep within] the {thing} lies another {place}, and its small {who} opens a smaller {thing}.",
        "Container and contents [trade roles|change over], and the {thing} [houses|encloses] the whole {place}.",
    ),
    "temporal": (
        "Yesterday's {who} [opens a letter|takes a call] from tomorrow and [files|notes] it under today.",
        "The [ending|last chord|farewell] took place long ago and the [opening|first note] is still on its way.",
        "The {thing} [ages backwards|grows newer with use] and by evening it is [a drawing of itself|raw ore].",
        "Whole [decades|winters|lifetimes] slip inside one minute at the {place} and it [seals|closes] over them.",
        "The {who} attends the [funeral|farewell] first and the [christening|welcome] [the week after|years later].",
        "The same [week|season] is cut at another [joint|crease], so [May|Friday] falls beyond [noon|winter].",
    ),
    "causal": (
        "An [answer|apology|alibi] arrives at the {place} and [drags|reels] its [question|offence] in behind it.",
        "The [wound|scar|splinter] makes the [knife|axe|saw], and the blade goes looking for a hand.",
        "The {who} obeys [an order|a rule|a prophecy] that comes into being by being obeyed.",
        "The echo [decides|dictates] what the {who} [is going to shout|will call] across the {place}.",
        "The bruise on the {kin} [summons|manufactures|sends for] the {thing} that will explain it.",
        "The {friend} [invents|dreams up] the {who}, whose [daydream|diary] [produced|gave rise to] the {friend}.",
    ),
    "perceptual": (
        "A [shape|smudge|glint] taken for a {thing} [resolves into|comes into focus as] the whole {place}, far away.",
        "The [hum|clatter] of the {place} settles into [words|a melody] and [dissolves into|is heard again as] noise.",
        "Figure and ground [trade depth|flip], and the gaps in the [crowd|fence|wallpaper] are the [people|animals].",
        "The same [syllables|letters|notes] split at a different seam and [say|spell] the opposite.",
        "The {who} [studies|admires] the {thing} and finds that the [looking|gaze] comes from the other side.",
        "Tilted, the {look} {thing} reads as [a sentence|a name] and [the words|the ink] as [a landscape|skin].",
    ),
    RARE_TURN: (
        "The recollection of the {thing} recalls the {who}, who was never at the {place}.",
        "Each time it is retold the memory changes owners and keeps the name of the {kin}.",
    ),
}
COMMON_TURNS = tuple(kind for kind in MARKED_TURNS if kind != RARE_TURN)
CHOICE = re.compile(r"\[([^\]]*)\]")

TOO_SHORT = ("A song about the {place}.", "The {who} is late again.")

SUNG_PLANS = (
    "Intro, Verse, Chorus, Verse, Chorus, Outro",
    "Verse, Chorus, Interlude, Verse, Chorus, Bridge, Outro",
    "Intro, Verse, Verse, Chorus, Vamp, Reprise",
)
SUNG_SECTIONS = ("Verse", "Chorus", "Bridge", "Reprise")
INSTRUMENTAL_PLANS = ("Intro, Theme, Vamp, Theme, Outro", "Drone, Theme, Break, Theme", "Intro, Theme, Jam, Coda")
SECTION_NOTES = (
    "the {instrument} enters, dry and close",
    "everything stops except the {instrument}",
    "handclaps, then a long slide on the {instrument}",
    "the whole band plays over a held {instrument} note",
)
LINES = (
    "Leave the {thing} where I can find it",
    "{sky} on the {place} and nobody home",
    "I was humming {tune} for you",
    "{count} steps and a {look} door",
    "The {friend} keeps my share of {food}",
    "Hold on to the {thing}, hold on",
    "Oh {who}, turn the lamp down low",
    "All through {month} the {place} knows my name",
)

# description; name in file names; player
STEMS = (
    "Drums; drums; Odile Marsh",
    "Bass; bass; Piet Lanting",
    "Electric Guitar; guitar; Piet Lanting",
    "Piano; piano; Runa Vesely",
    "Synth Pad; pad; Runa Vesely",
    "Tambourine; tambourine; Odile Marsh",
)
VOICE = "Main Vocals; vocals; Ines Tarkow"
NO_AUDIO = 0.15
NO_MIDI = 0.57
TITLES = ("The {look} {thing}", "The {who} in {month}", "{count} nights of {sky}", "For the {friend}'s {kin}")
MOODS = ("tender", "restless", "wry", "solemn", "dreamy", "defiant", "playful", "bleak", "warm", "hypnotic")
GENRES = ("folk", "art rock", "electronic", "dub", "chamber pop", "post-punk", "ambient", "soul", "krautrock")

Words = Mapping[str, Sequence[str]]  # the words that each slot of a song's templates can be filled with


@dataclass(frozen=True)
class Song:
    concept: str | None
    labels: dict[str, Any] | None  # null only in broken rows
    words: Words


def demo_table(seed: int = 7) -> pa.Table:
    """The demo songs, one row per stem, with the columns and types of a real table; equal for equal seeds."""
    import pyarrow as pa

    text, whole, flag = pa.large_string(), pa.int64(), pa.bool_()
    labels = {"has_rebracketing_markers": flag, "rebracketing_type": text, "rebracketing_intensity": pa.float64()}
    types = {"track_id": whole, "bpm": whole, "vocals": flag, "lyrics": flag}
    types["training_data"] = pa.struct({**labels, "concept_length": whole, "word_count": whole})
    rows = list(_rows(seed))
    return pa.Table.from_pylist(rows, schema=pa.schema({name: types.get(name, text) for name in rows[0]}))


def write_demo(folder: Path) -> Path:
    """Write the demo songs to `folder`, whole or not at all, and return the file; an identical file is left alone."""
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    pq.write_table(demo_table(), buffer)
    content = buffer.getvalue()
    path = folder / FILE_NAME
    if path.is_file() and path.read_bytes() == content:
        return path
    folder.mkdir(parents=True, exist_ok=True)
    # a name of its own for each writer: workers on several machines may share the folder
    temporary = folder / f".{FILE_NAME}.{uuid.uuid4().hex}"
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def _stream(seed: int, concern: str) -> Random:
    """A generator of this concern alone, so that drawing more for one concern leaves the others as they were."""
    return Random(f"{seed}:{concern}")


def _words(rng: Random) -> Words:
    people, places, things = (nouns.split(", ") for nouns in rng.choice(THEMES).split("; "))
    who, friend = rng.sample(people, 2)
    common = {slot: fillers.split(", ") for slot, fillers in FILLERS.items()}
    return common | {"who": [who], "friend": [friend], "place": places, "thing": things}


def _fill(rng: Random, template: str, words: Words) -> str:
    chosen = CHOICE.sub(lambda choice: rng.choice(choice[1].split("|")), template)
    sentence = chosen.format(**{slot: rng.choice(options) for slot, options in words.items()})
    return sentence[0].upper() + sentence[1:]


def _songs(rng: Random) -> list[Song]:
    """The usable songs in the order of their ids."""
    kinds = _kinds(rng)
    wrong = _wrong(rng, kinds)
    distinct: dict[str | None, Song] = {}
    while len(distinct) < len(kinds):
        position = len(distinct)
        song = _compose(rng, kinds[position], wrong=position in wrong)
        distinct.setdefault(song.concept, song)
    songs = list(distinct.values())
    spellings = (str.lower, str.upper, lambda concept: concept.replace(". ", ".  ") + "\n")
    common = [song for song, kind in zip(songs, kinds, strict=True) if kind != RARE_TURN]
    for number, song in enumerate(rng.sample(common, REPEATS)):
        songs.append(replace(song, concept=spellings[number % len(spellings)](song.concept or "")))
    rng.shuffle(songs)
    return songs


def _kinds(rng: Random) -> list[str]:
    """What each distinct concept is about: the common types equally often, in random order."""
    kinds = [COMMON_TURNS[i % len(COMMON_TURNS)] for i in range(POSITIVES - MNEMONIC_SONGS)]
    kinds += [RARE_TURN] * MNEMONIC_SONGS + [NO_TURN] * (SONGS - REPEATS - POSITIVES)
    rng.shuffle(kinds)
    return kinds


def _wrong(rng: Random, kinds: Sequence[str]) -> set[int]:
    """Positions whose label will be wrong; the rare class is spared, it would vanish."""
    turned = [i for i, kind in enumerate(kinds) if kind in COMMON_TURNS]
    plain = [i for i, kind in enumerate(kinds) if kind == NO_TURN]
    return {*rng.sample(turned, WRONG_EACH_WAY), *rng.sample(plain, WRONG_EACH_WAY)}


def _compose(rng: Random, kind: str, *, wrong: bool = False) -> Song:
    words = _words(rng)
    count = rng.choice(SENTENCES)
    marked, unmarked = MARKED_TURNS.get(kind, ()), UNMARKED_TURNS.get(kind, ())
    turns = min(max(1, round(count * rng.uniform(*TURN_SHARE))), len(marked) + len(unmarked))
    templates = _pick(rng, turns, marked, unmarked, MARKED_SHARE)
    templates += _pick(rng, count - turns, HARMLESS, PLAIN, HARMLESS_SHARE)
    rng.shuffle(templates)
    concept = " ".join(_fill(rng, template, words) for template in templates)
    return Song(concept, _labels(rng, kind, turns / count, wrong=wrong), words)


def _pick(rng: Random, count: int, first: Sequence[str], second: Sequence[str], share: float) -> list[str]:
    """`count` templates, none twice; each is from `first` with the probability `share`, while both last."""
    left, right = rng.sample(first, len(first)), rng.sample(second, len(second))
    return [(left if left and (not right or rng.random() < share) else right).pop() for _ in range(count)]


def _labels(rng: Random, kind: str, share: float, *, wrong: bool) -> dict[str, Any]:
    if wrong:
        kind = rng.choice(COMMON_TURNS) if kind == NO_TURN else NO_TURN
    marked = kind != NO_TURN
    intensity = round(max(0.05, 0.2 + 1.5 * share + rng.gauss(0, 0.08)), 3) if marked else 0.0
    return {"has_rebracketing_markers": marked, "rebracketing_type": kind, "rebracketing_intensity": intensity}


def _broken(rng: Random) -> list[Song]:
    """Songs that training has to leave out: two for each reason that real tables have."""
    whole = [_compose(rng, NO_TURN) for _ in range(8)]
    no_concept = [replace(song, concept=None) for song in whole[:2]]
    short = [
        replace(song, concept=_fill(rng, text, song.words)) for song, text in zip(whole[2:4], TOO_SHORT, strict=True)
    ]
    no_label = [replace(song, labels=dict.fromkeys(song.labels or ())) for song in whole[4:6]]
    return [*no_concept, *short, *no_label, *(replace(song, labels=None) for song in whole[6:])]


def _rows(seed: int) -> Iterator[dict[str, Any]]:
    """The usable songs album by album, then one broken row for each album, numbered after its songs."""
    lyrics, structure = _stream(seed, "lyrics"), _stream(seed, "structure")
    stems, about = _stream(seed, "stems"), _stream(seed, "about")
    instrumental = set(lyrics.sample(range(SONGS), INSTRUMENTALS))
    for position, song in enumerate(_songs(_stream(seed, "concepts")) + _broken(_stream(seed, "broken"))):
        whole, sung = position < SONGS, position not in instrumental
        album, number = divmod(position, PER_ALBUM) if whole else (position - SONGS, PER_ALBUM)
        song_id = f"{album + 1:02d}_{number + 1:02d}"
        sections = structure.choice(SUNG_PLANS if sung else INSTRUMENTAL_PLANS).split(", ")
        shared = {
            "id": song_id,
            "rainbow_color": ALBUMS[album],
            "concept": song.concept,
            "lrc_lyrics": _lyrics(lyrics, song.words, sections) if sung else None,
            "vocals": sung,
            "lyrics": sung,
            "song_structure": _structure(structure, sections),
            **_about(about, song.words),
            "training_data": _training_data(song),
        }
        for stem in _stems(stems, song_id, sung=sung, count=stems.randint(2, 6) if whole else 1):
            yield {**shared, **stem}


def _training_data(song: Song) -> dict[str, Any] | None:
    if song.labels is None:
        return None
    concept = song.concept or ""
    return {**song.labels, "concept_length": len(concept), "word_count": len(concept.split())}


def _structure(rng: Random, sections: Sequence[str]) -> str:
    """Sections one after another: as in real tables, each begins a millisecond after the last one ended."""
    start, parts = 0, []
    for name in sections:
        end = start + rng.randint(6_000, 45_000)
        note = rng.choice(SECTION_NOTES).format(instrument=rng.choice(STEMS).split(";")[0].lower())
        parts.append(f"{name} : {note}, [{_clock(start)}]-[{_clock(end)}]")
        start = end + 1
    return " | ".join(parts)


def _clock(milliseconds: int) -> str:
    minutes, rest = divmod(milliseconds, 60_000)
    return f"{minutes:02d}:{rest // 1000:02d}.{rest % 1000:03d}"


def _lyrics(rng: Random, words: Words, sections: Sequence[str]) -> str:
    """The lines of all sung sections as one string; the chorus comes back in the same words."""

    def verse() -> str:
        return " ".join(_fill(rng, line, words) for line in rng.sample(LINES, rng.randint(2, 3)))

    chorus = verse()
    return " ".join(chorus if name == "Chorus" else verse() for name in sections if name in SUNG_SECTIONS)


def _about(rng: Random, words: Words) -> dict[str, Any]:
    return {
        "title": _fill(rng, rng.choice(TITLES), words),
        "bpm": rng.randint(72, 168),
        "key_signature_note": rng.choice("CDEFGAB"),
        "key_signature_mode": rng.choice(("major", "minor")),
        "mood": ", ".join(rng.sample(MOODS, 3)),
        "genres": ", ".join(rng.sample(GENRES, 2)),
    }


def _stems(rng: Random, song_id: str, *, sung: bool, count: int) -> Iterator[dict[str, Any]]:
    chosen = [*rng.sample(STEMS, count - 1), VOICE] if sung else rng.sample(STEMS, count)
    for track, stem in enumerate(chosen, start=1):
        description, name, player = stem.split("; ")
        path = f"demo/{song_id}/{song_id}_{track:02d}_{name}"
        audio = None if rng.random() < NO_AUDIO else f"{path}.wav"
        midi = None if rng.random() < NO_MIDI else f"{path}.mid"
        yield {"track_id": track, "description": description, "player": player, "audio_file": audio, "midi_file": midi}
