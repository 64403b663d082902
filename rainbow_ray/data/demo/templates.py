"""Sentence templates and word lists of the demo songs.

A template has slots, `{place}`, which are filled with the words of a song, and choices, `[a|b]`, of which one is drawn.
"""

from __future__ import annotations

NO_TYPE = "none"
RARE_TYPE = "mnemonic"

# people; places; things: the nouns of a song, so that its concept and lyrics have the same subject
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

# sentences without rebracketing; many share nouns, verbs and function words with the sentences below
PLAIN_TEMPLATES = (
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

# marker words without rebracketing
DISTRACTOR_TEMPLATES = (
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

# rebracketing with a marker word, by type; [a|b] is a choice of words, so that few words identify a sentence
MARKED_TEMPLATES = {
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
    RARE_TYPE: (
        "The {who} remembers a childhood at the {place}, but it is the {friend} who had it.",
        "The {kin} is forgotten, or rather has been remembered into someone else.",
    ),
}

# rebracketing without a marker word, by type
UNMARKED_TEMPLATES = {
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
    RARE_TYPE: (
        "The recollection of the {thing} recalls the {who}, who was never at the {place}.",
        "Each time it is retold the memory changes owners and keeps the name of the {kin}.",
    ),
}
COMMON_TYPES = tuple(kind for kind in MARKED_TEMPLATES if kind != RARE_TYPE)

SHORT_TEMPLATES = ("A song about the {place}.", "The {who} is late again.")

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
LYRIC_TEMPLATES = (
    "Leave the {thing} where I can find it",
    "{sky} on the {place} and nobody home",
    "I was humming {tune} for you",
    "{count} steps and a {look} door",
    "The {friend} keeps my share of {food}",
    "Hold on to the {thing}, hold on",
    "Oh {who}, turn the lamp down low",
    "All through {month} the {place} knows my name",
)

# description; part of the file name; player
STEMS = (
    "Drums; drums; Odile Marsh",
    "Bass; bass; Piet Lanting",
    "Electric Guitar; guitar; Piet Lanting",
    "Piano; piano; Runa Vesely",
    "Synth Pad; pad; Runa Vesely",
    "Tambourine; tambourine; Odile Marsh",
)
VOICE = "Main Vocals; vocals; Ines Tarkow"
TITLE_TEMPLATES = ("The {look} {thing}", "The {who} in {month}", "{count} nights of {sky}", "For the {friend}'s {kin}")
MOODS = ("tender", "restless", "wry", "solemn", "dreamy", "defiant", "playful", "bleak", "warm", "hypnotic")
GENRES = ("folk", "art rock", "electronic", "dub", "chamber pop", "post-punk", "ambient", "soul", "krautrock")
