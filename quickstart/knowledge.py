"""The forgetting check: `knowledge.jsonl`, simple general knowledge and common sense, none of it trained here.

The likelihood of each option as the continuation of the context is compared; the model never has to answer in a form.
The four options of an item are of one kind and of about one length.
"""
import random

# topic, then items: (context, right option, three wrong ones)
ITEMS = {
    "geography": [
        ("The longest river in South America is the", "Amazon", "Danube", "Nile", "Rhine"),
        ("Mount Fuji is the highest mountain of", "Japan", "Italy", "Peru", "Kenya"),
        ("The city of Venice is famous for its", "canals", "deserts", "glaciers", "jungles"),
        ("The capital of Australia is", "Canberra", "Sydney", "Melbourne", "Perth"),
        ("The capital of Canada is", "Ottawa", "Toronto", "Montreal", "Vancouver"),
        ("The Danube flows into the", "Black Sea", "North Sea", "Baltic Sea", "Red Sea"),
        ("The country with the largest area is", "Russia", "China", "Canada", "Brazil"),
        ("The strait between Spain and Morocco is the Strait of", "Gibraltar", "Hormuz", "Magellan", "Malacca"),
        ("The only continent without permanent inhabitants is", "Antarctica", "Australia", "Africa", "Europe"),
        ("Lake Titicaca lies between Bolivia and", "Peru", "Chile", "Brazil", "Ecuador"),
        ("The river that flows through London is the", "Thames", "Severn", "Seine", "Tiber"),
        ("The Suez Canal joins the Mediterranean with the", "Red Sea", "Black Sea", "North Sea", "Caspian Sea"),
    ],
    "science": [
        ("The force that pulls objects towards the ground is called", "gravity", "friction", "magnetism", "pressure"),
        ("The planet closest to the Sun is", "Mercury", "Saturn", "Neptune", "Jupiter"),
        ("We breathe with our", "lungs", "kidneys", "bones", "muscles"),
        ("Most of the air that we breathe is", "nitrogen", "oxygen", "hydrogen", "carbon dioxide"),
        ("The part of the cell that holds its DNA is the", "nucleus", "membrane", "cell wall", "ribosome"),
        ("Sugar in the blood is lowered by", "insulin", "adrenaline", "calcium", "melatonin"),
        ("Sound cannot travel through", "a vacuum", "water", "steel", "the air"),
        ("The vitamin that the skin makes in sunlight is vitamin", "D", "A", "B", "C"),
        ("Rust forms when iron reacts with water and", "oxygen", "nitrogen", "helium", "salt"),
        ("A liquid with a pH of 2 is", "acidic", "basic", "neutral", "solid"),
        ("Blood is carried away from the heart in the", "arteries", "veins", "nerves", "tendons"),
        ("The bubbles in rising dough are filled with", "carbon dioxide", "pure oxygen", "helium", "hydrogen"),
    ],
    "physics": [
        ("Iron is attracted by a", "magnet", "candle", "sponge", "mirror"),
        ("A metal spoon left in hot soup becomes", "hot", "soft", "wet inside", "invisible"),
        ("A shadow appears when an object blocks the", "light", "sound", "smell", "wind"),
        ("On a high mountain, water boils at a temperature that is", "lower", "higher", "equal", "random"),
        ("If you double the speed of a car, its braking distance becomes about",
         "four times as long", "twice as long", "half as long", "ten times as long"),
        ("A ship made of steel floats because it is full of", "air", "oil", "water", "steam"),
        ("In a vacuum, a feather and a stone fall", "equally fast", "very slowly", "upwards", "sideways"),
        ("A thin person on skis sinks less into the snow because the weight is",
         "spread out", "taken away", "doubled", "frozen"),
        ("Black clothes get hotter in the sun because they",
         "absorb more light", "reflect more light", "are much heavier", "are much thinner"),
        ("When ice melts in a full glass of water, the water level",
         "stays the same", "rises a lot", "falls a lot", "overflows"),
        ("A lens that is thicker in the middle makes parallel rays of light",
         "converge", "diverge", "vanish", "reverse"),
        ("Warm air rises because, compared with cold air, it is", "less dense", "denser", "cleaner", "more salty"),
    ],
    "animals": [
        ("Caterpillars turn into", "butterflies", "spiders", "beavers", "lizards"),
        ("A camel stores fat in its", "hump", "tail", "ears", "feet"),
        ("Most of what a panda eats is", "bamboo", "fish", "honey", "nuts"),
        ("A young horse is called a", "foal", "calf", "lamb", "cub"),
        ("An animal that eats only plants is called a", "herbivore", "carnivore", "omnivore", "predator"),
        ("The only mammals that can really fly are", "bats", "squirrels", "birds", "penguins"),
        ("Whales are not fish; they are", "mammals", "reptiles", "birds", "insects"),
        ("The fastest animal on land is the", "cheetah", "lion", "horse", "ostrich"),
        ("A group of wolves is called a", "pack", "herd", "flock", "school"),
        ("The animal that changes its colour to match its surroundings is the",
         "chameleon", "crocodile", "tortoise", "iguana"),
        ("Spiders are not insects; they are", "arachnids", "mammals", "reptiles", "crustaceans"),
        ("An animal that is active at night is called", "nocturnal", "diurnal", "domestic", "tropical"),
    ],
    "language": [
        ("The opposite of \"early\" is", "late", "soon", "first", "quick"),
        ("A book that explains the meanings of words is a", "dictionary", "cookbook", "novel", "diary"),
        ("A word that describes a noun is called an", "adjective", "adverb", "article", "accent"),
        ("The opposite of \"generous\" is", "stingy", "kind", "wealthy", "polite"),
        ("The past tense of \"bring\" is", "brought", "brang", "bringed", "bought"),
        ("The plural of \"ox\" is", "oxen", "oxes", "oxs", "ox"),
        ("A word that sounds the same as \"sea\" is", "see", "sew", "say", "sky"),
        ("In the sentence \"The dog sleeps\", the verb is", "sleeps", "dog", "the", "the dog"),
        ("To \"call it a day\" means to", "stop working", "start working", "make a call", "get up early"),
        ("Someone who speaks two languages is", "bilingual", "trilingual", "fluent", "literate"),
        ("The comparative of \"bad\" is", "worse", "badder", "worst", "baddest"),
        ("A word that means the opposite of another word is an", "antonym", "acronym", "adverb", "idiom"),
    ],
    "time and numbers": [
        ("The season that follows winter is", "spring", "autumn", "summer", "fall"),
        ("In the northern hemisphere, Christmas falls in", "winter", "summer", "spring", "autumn"),
        ("The sun rises in the", "east", "west", "north", "south"),
        ("If today is Friday, the day after tomorrow is", "Sunday", "Saturday", "Monday", "Thursday"),
        ("Seven times eight equals", "fifty-six", "fifty-four", "sixty-four", "forty-eight"),
        ("A quarter of one hundred is", "twenty-five", "twenty", "forty", "fifty"),
        ("The shortest month of the year is", "February", "January", "April", "December"),
        ("The number twenty-one can be divided by", "seven", "five", "four", "eight"),
        ("From ten in the morning to one in the afternoon are",
         "three hours", "two hours", "four hours", "nine hours"),
        ("A century after 1850 the year was", "1950", "1860", "1900", "2850"),
        ("Ninety minutes are one and a half", "hours", "days", "weeks", "seconds"),
        ("The sum of fifteen and seventeen is", "thirty-two", "thirty-one", "thirty-four", "twenty-two"),
    ],
    "cause and effect": [
        ("The street was wet because it had", "rained", "burned", "snored", "dried"),
        ("The plant died because nobody gave it", "water", "money", "shoes", "paper"),
        ("The car stopped because it had run out of", "fuel", "seats", "music", "paint"),
        ("The bread came out of the oven black because it had been in there too",
         "long", "early", "little", "softly"),
        ("The bottle burst in the freezer because the water in it had",
         "expanded", "shrunk", "warmed up", "vanished"),
        ("She wore sunglasses because the light was too", "bright", "dim", "quiet", "heavy"),
        ("After the long drought the level of the lake was", "lower", "higher", "deeper", "fuller"),
        ("He whispered because the baby was", "asleep", "awake", "hungry", "laughing"),
        ("The more people want to buy a thing, the more its price tends to", "rise", "fall", "drop", "vanish"),
        ("The ice on the path made the walkers", "slip", "sweat", "yawn", "shout"),
        ("The soup tasted of nothing because the cook had forgotten the", "salt", "spoon", "plates", "water"),
        ("Under the glass the candle went out because it had used up the", "oxygen", "smoke", "ash", "heat"),
    ],
    "household": [
        ("To keep milk fresh, put it in the", "fridge", "oven", "drawer", "garden"),
        ("To smooth the creases in a shirt, you use an", "iron", "axe", "oven", "umbrella"),
        ("To get rid of the weeds in the garden, pull out their", "roots", "wheels", "feathers", "bricks"),
        ("To make the dough of a bread rise, you add", "yeast", "salt", "oil", "vinegar"),
        ("If a pan of oil catches fire, you should cover it with a", "lid", "book", "fan", "leaf"),
        ("Lime in a kettle can be removed with", "vinegar", "butter", "sugar", "milk"),
        ("Before you change a light bulb, you should switch off the", "power", "radio", "water", "gas"),
        ("Wool sweaters shrink if they are washed too", "hot", "cold", "slowly", "rarely"),
        ("To keep a cut apple from turning brown, add some",
         "lemon juice", "warm milk", "hot coffee", "black pepper"),
        ("To find out whether a wall is vertical, a mason uses a", "spirit level", "thermometer", "compass", "scale"),
        ("To remove the smell from a fridge, put in a bowl of",
         "baking soda", "hot soup", "raw onions", "fresh fish"),
        ("Knives that have become blunt need to be", "sharpened", "polished", "frozen", "soaked"),
    ],
    "history": [
        ("The ancient Romans spoke", "Latin", "English", "Chinese", "Swahili"),
        ("The pharaohs were the kings of ancient", "Egypt", "China", "Mexico", "Greece"),
        ("The ship that sank after it had hit an iceberg in 1912 was the",
         "Titanic", "Mayflower", "Bounty", "Victory"),
        ("The printing press with movable type was introduced in Europe by Johannes",
         "Gutenberg", "Kepler", "Bach", "Brahms"),
        ("The French Revolution began in", "1789", "1689", "1848", "1914"),
        ("Before the euro, people in Germany paid with the", "mark", "franc", "lira", "peseta"),
        ("The first permanent English colony in America was", "Jamestown", "Boston", "New York", "Plymouth"),
        ("The Renaissance began in", "Italy", "England", "Germany", "Russia"),
        ("The Magna Carta was sealed in 1215 by King", "John", "Henry", "Edward", "Charles"),
        ("Gandhi led the movement for the independence of", "India", "Egypt", "Kenya", "Pakistan"),
        ("The Berlin Wall was opened in", "1989", "1961", "1945", "1999"),
        ("The inventor of dynamite, who founded a famous prize, was Alfred",
         "Nobel", "Hitchcock", "Adler", "Wegener"),
    ],
    "professions": [
        ("Sick animals are treated by a", "vet", "judge", "clerk", "waiter"),
        ("In a court, the sentence is spoken by the", "judge", "nurse", "chef", "guard"),
        ("Leaking pipes are repaired by a", "plumber", "singer", "tailor", "cashier"),
        ("A person who makes and repairs horseshoes is a", "blacksmith", "carpenter", "locksmith", "cobbler"),
        ("Someone who designs clothes is a fashion", "designer", "critic", "model", "buyer"),
        ("Shoes are repaired by a", "cobbler", "cooper", "mason", "weaver"),
        ("Walls of brick are built by a", "mason", "carpenter", "plumber", "glazier"),
        ("A doctor who treats children is a", "pediatrician", "cardiologist", "dermatologist", "radiologist"),
        ("Window panes are put in by a", "glazier", "roofer", "mason", "joiner"),
        ("The accounts of a company are checked by an", "auditor", "actor", "author", "artist"),
        ("In court, the accused person is defended by a", "lawyer", "judge", "witness", "juror"),
        ("Someone who translates speech while it is being spoken is an",
         "interpreter", "author", "editor", "announcer"),
    ],
}
N_OPTIONS = 4


def rows(rng):
    """Rows `{"id", "context", "options", "answer"}`; each position is right equally often."""
    items = [(topic, place, item) for topic, group in ITEMS.items() for place, item in enumerate(group, 1)]
    positions = [place % N_OPTIONS for place in range(len(items))]
    rng.shuffle(positions)
    made = []
    for (topic, place, (context, right, *wrong)), answer in zip(items, positions, strict=True):
        rng.shuffle(wrong)
        options = [*wrong[:answer], right, *wrong[answer:]]
        name = f"{topic.replace(' ', '-')}-{place}"
        made.append({"id": name, "context": context, "options": [f" {option}" for option in options], "answer": answer})
    return made


def faults(made, trained_text):
    """What is wrong with the rows, as sentences. `trained_text` is all that fine-tuning shows."""
    contexts = [row["context"] for row in made]
    for answer in range(N_OPTIONS):
        n = sum(row["answer"] == answer for row in made)
        if n * N_OPTIONS != len(made):
            yield f"knowledge: position {answer} is right {n} times of {len(made)}"
    for row in made:
        name, options = row["id"], row["options"]
        right = options[row["answer"]]
        if row["context"] + right in trained_text:
            yield f"{name}: stands in the training text"
        if contexts.count(row["context"]) > 1:
            yield f"{name}: the context comes twice"
        if row["context"] != row["context"].strip() or not row["context"].isascii():
            yield f"{name}: the context has white space around it or other characters than ASCII"
        if len(options) != N_OPTIONS or len({option.lower() for option in options}) != N_OPTIONS:
            yield f"{name}: not {N_OPTIONS} distinct options"
        for option in options:
            if not option.isascii() or option != " " + option.strip():
                yield f"{name}: {option!r} does not begin with exactly one space"
        lengths = [len(option) for option in options]
        if max(lengths) > 2 * min(lengths) + 4:
            yield f"{name}: the options differ too much in length"
