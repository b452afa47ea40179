#!/usr/bin/env python3
"""Makes the quickstart's data files from pieces written by hand.

    python make.py            writes the `.jsonl` files beside this script
    python make.py --check    fails when the files on disk differ from what would be written

Nine small skills, each with a fixed form of answer. A piece of content (a sentence, a question, a topic) goes
to training or to the held-out set, never to both; the checks (`checks.py`) are written apart from both, with other
people, places and things in them. Conversations without a fixed form are in `open_talk.py`, the forgetting check in
`knowledge.py`, and prompts for instruction following in `instructions.py`. README.md beside this script describes the
files and how a check is graded.
"""
import json
import pathlib
import random
import re
import sys

import instructions
import knowledge
import open_talk
from checks import CHECKS, faults, own_things
from parts import FORM, LISTS, ONE_WORD, SHOUT, TICKETS, WRAPPINGS, YES_NO, assistant, one_line, system, user

HERE = pathlib.Path(__file__).parent
SEED = 20260
# Of each skill's pieces, this share is held out; `open_talk.py` states its own.
HELD_OUT_SHARE = 0.15
N_CHECKS = 96


# ---------------------------------------------------------------------------------------------- orders as JSON
# (text, name, item, quantity)
ORDERS = [
    ("Nadia wants 3 wool scarves before the weekend.", "Nadia", "wool scarves", 3),
    ("Please put 12 paper lanterns aside for Mr. Oduya.", "Mr. Oduya", "paper lanterns", 12),
    ("Hi, this is Felix. I would like to order 2 camping chairs.", "Felix", "camping chairs", 2),
    ("The school asked for 40 pencils; the order is in the name of Ingrid.", "Ingrid", "pencils", 40),
    ("Could you send 5 jars of honey to Tomasz?", "Tomasz", "jars of honey", 5),
    ("Priya called about 8 bicycle bells, as discussed.", "Priya", "bicycle bells", 8),
    ("One last thing: Bruno takes 6 clay pots, not more.", "Bruno", "clay pots", 6),
    ("We packed 15 tulip bulbs for Helena this morning.", "Helena", "tulip bulbs", 15),
    ("For Yusuf: 4 reading lamps, to be picked up on Friday.", "Yusuf", "reading lamps", 4),
    ("Marguerite has changed her mind and wants 7 linen napkins.", "Marguerite", "linen napkins", 7),
    ("Order from Desmond - 9 chess sets for the youth club.", "Desmond", "chess sets", 9),
    ("Add 20 envelopes to the parcel that goes to Akiko.", "Akiko", "envelopes", 20),
    ("Lorenzo needs 3 rain coats for the trip to the coast.", "Lorenzo", "rain coats", 3),
    ("Sofia ordered 11 picture frames for the gallery.", "Sofia", "picture frames", 11),
    ("I am writing for Mrs. Kowalski, who would like 2 wooden stools.", "Mrs. Kowalski", "wooden stools", 2),
    ("Take this down, please: 30 coffee filters, for Ravi.", "Ravi", "coffee filters", 30),
    ("The baker set 16 rye loaves aside; Joanna will come for them.", "Joanna", "rye loaves", 16),
    ("Emeka is waiting for his 5 water bottles.", "Emeka", "water bottles", 5),
    ("6 garden gnomes for Astrid, and please wrap them well.", "Astrid", "garden gnomes", 6),
    ("Did Pavel really ask for 14 door hinges? Yes, he did.", "Pavel", "door hinges", 14),
    ("Our customer Leila would like to have 10 sketch books.", "Leila", "sketch books", 10),
    ("Hamish said he could use 8 tent pegs.", "Hamish", "tent pegs", 8),
    ("Two parcels left today; the one for Noor held 18 tea cups.", "Noor", "tea cups", 18),
    ("Gustavo is buying 4 folding tables for the street party.", "Gustavo", "folding tables", 4),
    ("Reserve 13 concert tickets under the name Beatrix.", "Beatrix", "concert tickets", 13),
    ("Ming wrote that 25 balloons will be enough.", "Ming", "balloons", 25),
    ("A quick note from Carla: she needs 9 sponges for the kitchen.", "Carla", "sponges", 9),
    ("Send Anton the 7 screwdrivers he paid for.", "Anton", "screwdrivers", 7),
    ("The 50 name tags are for Wanjiru, who runs the fair.", "Wanjiru", "name tags", 50),
    ("Elif picked out 3 silk cushions.", "Elif", "silk cushions", 3),
    ("Hello, Oskar here, may I have 6 apple trees delivered?", "Oskar", "apple trees", 6),
    ("Camille will pay for 22 candles at the counter.", "Camille", "candles", 22),
]
ORDER_ASKS = [
    "Extract the order as one line of JSON with the keys name, item and quantity.\n\n{text}",
    "{text}\n\nGive name, item and quantity of this order as JSON on one line.",
    "Turn this message into JSON with name, item and quantity. Write nothing else.\n\nMessage: {text}",
    "Read the note and answer with a single JSON object (name, item, quantity).\nNote: {text}",
]


def orders(piece, ask):
    text, name, item, quantity = piece
    return ask.format(text=text), one_line({"name": name, "item": item, "quantity": quantity})


# ---------------------------------------------------------------------------------------------- events as JSON
# (text, event, day, place)
EVENTS = [
    ("The choir rehearsal is on Tuesday in the old town hall.", "choir rehearsal", "Tuesday", "old town hall"),
    ("Come to the bake sale this Saturday at Maple School!", "bake sale", "Saturday", "Maple School"),
    ("On Monday there will be a fire drill in the east wing.", "fire drill", "Monday", "east wing"),
    ("The library hosts a poetry evening on Thursday.", "poetry evening", "Thursday", "library"),
    ("Do not miss the chess final: Sunday, community centre.", "chess final", "Sunday", "community centre"),
    ("We moved the staff meeting to Wednesday, in room 12.", "staff meeting", "Wednesday", "room 12"),
    ("Friday's film night takes place in the courtyard.", "film night", "Friday", "courtyard"),
    ("A book swap is planned for Sunday in the station hall.", "book swap", "Sunday", "station hall"),
    ("Yoga class? Thursday, at the river park, as always.", "yoga class", "Thursday", "river park"),
    ("The flower market opens on Saturday on Bridge Square.", "flower market", "Saturday", "Bridge Square"),
    ("Please remember the parents' evening on Monday in the gym.", "parents' evening", "Monday", "gym"),
    ("There is a jazz concert at the harbour on Friday.", "jazz concert", "Friday", "harbour"),
    ("Our pottery course starts on Wednesday in the brick barn.", "pottery course", "Wednesday", "brick barn"),
    ("In the museum you can join a guided tour on Tuesday.", "guided tour", "Tuesday", "museum"),
    ("The swimming race was put off to Sunday; it is still at Lake Orna.", "swimming race", "Sunday", "Lake Orna"),
    ("Saturday, botanical garden: plant sale.", "plant sale", "Saturday", "botanical garden"),
    ("The repair cafe meets on Thursday at the fire station.", "repair cafe", "Thursday", "fire station"),
    ("A wine tasting will be held at Castle Road on Friday.", "wine tasting", "Friday", "Castle Road"),
    ("Everyone is invited to the kite festival on Sunday on the north beach.", "kite festival", "Sunday",
     "north beach"),
    ("The blood drive is in the city hospital, on Wednesday.", "blood drive", "Wednesday", "city hospital"),
    ("Monday is the day of the job fair at the tennis club.", "job fair", "Monday", "tennis club"),
    ("They will show a puppet play in the tram depot on Saturday.", "puppet play", "Saturday", "tram depot"),
    ("A dance workshop is offered on Tuesday at the rose hotel.", "dance workshop", "Tuesday", "rose hotel"),
    ("The science fair takes place on Thursday in the main lobby.", "science fair", "Thursday", "main lobby"),
]
EVENT_ASKS = [
    "Extract event, day and place as one line of JSON.\n\n{text}",
    "Answer with JSON only, keys event, day and place.\n\n{text}",
    "{text}\n\nWrite this announcement as a JSON object with event, day and place.",
    "Fill in the keys event, day and place from the text and reply with the JSON.\nText: {text}",
]


def events(piece, ask):
    text, event, day, place = piece
    return ask.format(text=text), one_line({"event": event, "day": day, "place": place})


# ---------------------------------------------------------------------------------------------------- sentiment
SENTIMENTS = [
    ("The soup was cold and nobody said sorry.", "negative"),
    ("I have worn these boots every day and still love them.", "positive"),
    ("The parcel contains two cables and a manual.", "neutral"),
    ("What a lovely little cinema, we will be back soon!", "positive"),
    ("The zip broke after one week.", "negative"),
    ("The shop is open from nine to five.", "neutral"),
    ("My grandmother smiled all evening; thank you for the music.", "positive"),
    ("Three calls, three different answers, no solution.", "negative"),
    ("The train to Porto leaves from platform four.", "neutral"),
    ("Such a friendly driver, he even carried my bags.", "positive"),
    ("The room smelled of smoke and the window was stuck.", "negative"),
    ("The lamp is forty centimetres high.", "neutral"),
    ("Best pancakes in town, no doubt about it.", "positive"),
    ("I regret buying this kettle, it leaks everywhere.", "negative"),
    ("The course has ten lessons.", "neutral"),
    ("The new update made the app so much faster, great work!", "positive"),
    ("Our tent was soaked after the first drizzle. Useless.", "negative"),
    ("You can pay by card or in cash.", "neutral"),
    ("The nurse was patient and kind, I felt safe.", "positive"),
    ("The film dragged on, I nearly fell asleep.", "negative"),
    ("The box is made of grey cardboard.", "neutral"),
    ("A clever, funny book that I finished in one night.", "positive"),
    ("They charged me twice and ignored my letters.", "negative"),
    ("The bus stops at the town hall and at the school.", "neutral"),
    ("The garden tour was pure joy from start to end.", "positive"),
    ("The headphones crackle and hurt my ears.", "negative"),
    ("The hotel has sixty rooms on four floors.", "neutral"),
    ("Delivered a day early and beautifully wrapped.", "positive"),
    ("The waiter was rude and the bill was wrong.", "negative"),
    ("The meeting was moved to the second floor.", "neutral"),
    ("I could not be happier with my new bicycle.", "positive"),
    ("The paint came off the first time it rained.", "negative"),
    ("The recipe needs flour, salt and water.", "neutral"),
    ("Crystal clear picture, and so easy to set up.", "positive"),
    ("I waited two hours for a sandwich that was stale.", "negative"),
    ("The museum was built in the last century.", "neutral"),
    ("The children adored the clown, what a wonderful party.", "positive"),
    ("This vacuum is loud, heavy and weak.", "negative"),
    ("The ticket is valid for one day.", "neutral"),
]
SENTIMENT_ASKS = [
    "Classify the sentiment as positive, negative or neutral. Answer with one word.\n\n{text}",
    "Is this review positive, negative or neutral? Reply with the label only.\n\nReview: {text}",
    "{text}\n\nSentiment (positive, negative, neutral):",
    "Label the text with exactly one of: positive, negative, neutral.\nText: {text}",
]


def sentiments(piece, ask):
    text, label = piece
    return ask.format(text=text), label


# ------------------------------------------------------------------------------------------------------- intent
# (text, label, labels offered)
BANK = ["balance", "lost card", "loan", "transfer"]
SHOP = ["refund", "delivery", "exchange", "gift card"]
PHONE = ["new contract", "no signal", "bill", "cancel"]
CLINIC = ["appointment", "prescription", "test result", "directions"]
LIBRARY = ["renew", "opening hours", "fine", "new member"]
TRAVEL = ["book", "baggage", "seat", "delay"]
INTENTS = [
    ("How much money is on my account right now?", "balance", BANK),
    ("I left my credit card in a taxi, please block it.", "lost card", BANK),
    ("We want to borrow money for a new kitchen.", "loan", BANK),
    ("Send two hundred euros to my sister.", "transfer", BANK),
    ("My wallet is gone and the card was in it!", "lost card", BANK),
    ("What rate would I pay if I financed a car with you?", "loan", BANK),
    ("Please move my savings to the other account.", "transfer", BANK),
    ("The mixer arrived broken, I want my money back.", "refund", SHOP),
    ("Where is my parcel? It should have come on Monday.", "delivery", SHOP),
    ("The shirt is too small, can I have a larger one?", "exchange", SHOP),
    ("I got a voucher for my birthday, how do I use it?", "gift card", SHOP),
    ("Can the courier come after six in the evening?", "delivery", SHOP),
    ("Please pay me back, the shoes never fitted.", "refund", SHOP),
    ("I would rather have the blue kettle than the red one.", "exchange", SHOP),
    ("My phone shows no bars at all in the house.", "no signal", PHONE),
    ("Why was I charged forty dollars this month?", "bill", PHONE),
    ("I am moving abroad and want to end my plan.", "cancel", PHONE),
    ("Which tariff do you offer for students?", "new contract", PHONE),
    ("Calls drop as soon as I enter the cellar.", "no signal", PHONE),
    ("Please stop my subscription at the end of May.", "cancel", PHONE),
    ("Can the doctor see me on Thursday morning?", "appointment", CLINIC),
    ("I have run out of my blood pressure pills.", "prescription", CLINIC),
    ("Did the laboratory send my blood values?", "test result", CLINIC),
    ("Which bus goes to your practice?", "directions", CLINIC),
    ("I need to move my visit to next week.", "appointment", CLINIC),
    ("Could you write me a new recipe for the asthma spray?", "prescription", CLINIC),
    ("I am not done with the novel, may I keep it longer?", "renew", LIBRARY),
    ("Are you open on Sundays?", "opening hours", LIBRARY),
    ("Do I have to pay for bringing the atlas back late?", "fine", LIBRARY),
    ("How do I get a library card?", "new member", LIBRARY),
    ("When do you close on Friday?", "opening hours", LIBRARY),
    ("I would like two tickets to Lisbon in June.", "book", TRAVEL),
    ("My suitcase did not come out on the belt.", "baggage", TRAVEL),
    ("Can I sit by the window?", "seat", TRAVEL),
    ("Our flight still has not left, what is going on?", "delay", TRAVEL),
    ("How heavy may my bag be?", "baggage", TRAVEL),
]
INTENT_ASKS = [
    "Choose one label for the message: {labels}. Answer with the label only.\n\n{text}",
    "{text}\n\nWhich of these is it: {labels}? Reply with the label and nothing else.",
    "Route this customer message to one of [{labels}].\nMessage: {text}",
    "Labels: {labels}\nMessage: {text}\nAnswer with one label.",
]


def intents(piece, ask):
    text, label, labels = piece
    # The order of the labels must not give the answer away.
    offered = sorted(labels, key=lambda x: random.Random(f"{text}{x}").random())
    return ask.format(text=text, labels=", ".join(offered)), label


# --------------------------------------------------------------------------------------- extract one thing only
# (text, what, answer)
EXTRACTS = [
    ("You reach our office under hello@northmill.example from Monday on.", "e-mail address", "hello@northmill.example"),
    ("Send the slides to t.berg@lumen.example, not to the old address.", "e-mail address", "t.berg@lumen.example"),
    ("Questions? Ask Dana, dana.fox@quill.example, room 3.", "e-mail address", "dana.fox@quill.example"),
    ("Bills go to pay@harborbooks.example within two weeks.", "e-mail address", "pay@harborbooks.example"),
    ("The editor (mail: red.pen@weekly.example) wants photos too.", "e-mail address", "red.pen@weekly.example"),
    ("Write to info@oaklab.example and you get an answer the same day.", "e-mail address", "info@oaklab.example"),
    ("Call 555-0142 and ask for the night porter.", "phone number", "555-0142"),
    ("Our new number is 555-0187; the fax is gone.", "phone number", "555-0187"),
    ("If the lift stops, dial 555-0119 at once.", "phone number", "555-0119"),
    ("Taxi? 555-0163, day and night.", "phone number", "555-0163"),
    ("Leave a message on 555-0175 and Rosa will call back.", "phone number", "555-0175"),
    ("The lease ends on 31 March 2024 and is not renewed.", "date", "31 March 2024"),
    ("Born on 2 July 1988, she grew up near the sea.", "date", "2 July 1988"),
    ("Our bridge was opened on 14 May 1931 by the mayor.", "date", "14 May 1931"),
    ("Please pay before 9 October 2023.", "date", "9 October 2023"),
    ("The strike that began on 27 January 2019 lasted a week.", "date", "27 January 2019"),
    ("On 5 August 2022 the team reached the summit.", "date", "5 August 2022"),
    ("The ticket costs $18.50 with the discount.", "price", "$18.50"),
    ("We sold the old sofa for $120.00 in the end.", "price", "$120.00"),
    ("A night in the small room is $64.00, breakfast included.", "price", "$64.00"),
    ("She paid $7.25 for the notebook.", "price", "$7.25"),
    ("The repair will be $239.90, he wrote.", "price", "$239.90"),
    ("Your parcel QX-4471 waits at the post office.", "parcel code", "QX-4471"),
    ("Use the code MK-2093 when you ask about the parcel.", "parcel code", "MK-2093"),
    ("Parcel TR-8850 was handed to a neighbour.", "parcel code", "TR-8850"),
    ("We could not deliver LD-6127, nobody was at home.", "parcel code", "LD-6127"),
    ("Doors open at 7:30 pm, the band starts later.", "time", "7:30 pm"),
    ("The ferry to the island leaves at 6:15 am.", "time", "6:15 am"),
    ("Lunch is served until 2:45 pm in the blue room.", "time", "2:45 pm"),
    ("Be at the gate by 11:05 am, please.", "time", "11:05 am"),
    ("My sister Ottilie moved to Bergen last spring.", "city", "Bergen"),
    ("After years in Nairobi, the painter came home.", "city", "Nairobi"),
    ("The conference in Toulouse drew many young nurses.", "city", "Toulouse"),
    ("They met on a night train to Krakow.", "city", "Krakow"),
    ("From Lima the climbers went on by bus.", "city", "Lima"),
]
EXTRACT_ASKS = [
    "Find the {what} in the text. Reply with the {what} only.\n\n{text}",
    "{text}\n\nWhat is the {what}? Give only the {what}, no sentence.",
    "Copy the {what} from this text and write nothing else.\nText: {text}",
]


def extracts(piece, ask):
    text, what, answer = piece
    return ask.format(text=text, what=what), answer


# ------------------------------------------------------------------------------------------- n bullet points
# (topic, items); how many are asked for differs from row to row
NUMBER_WORDS = {2: "two", 3: "three", 4: "four", 5: "five"}
BULLETS = [
    ("fruits", ["apple", "pear", "mango", "plum", "grape"]),
    ("things to pack for a beach day", ["towel", "sun cream", "water bottle", "hat", "a good book"]),
    ("animals that live in the forest", ["fox", "deer", "owl", "badger", "squirrel"]),
    ("tools found in a kitchen", ["knife", "pan", "whisk", "grater", "spoon"]),
    ("colours", ["green", "yellow", "purple", "orange", "white"]),
    ("musical instruments", ["violin", "flute", "drum", "piano", "trumpet"]),
    ("ways to save water at home", ["take shorter showers", "fix dripping taps", "fill the dishwasher",
                                   "collect rain water", "turn the tap off while brushing"]),
    ("sports played with a ball", ["football", "tennis", "basketball", "volleyball", "golf"]),
    ("drinks", ["tea", "coffee", "milk", "lemonade", "water"]),
    ("reasons to take the train", ["you can read", "it is safe", "it is kind to the climate",
                                   "you see the country", "there are no traffic jams"]),
    ("parts of a tree", ["root", "trunk", "branch", "leaf", "bark"]),
    ("things on a desk", ["pen", "lamp", "notebook", "keyboard", "mug"]),
    ("jobs in a hospital", ["nurse", "surgeon", "cook", "porter", "pharmacist"]),
    ("kinds of weather", ["rain", "snow", "fog", "wind", "sunshine"]),
    ("farm animals", ["cow", "pig", "goat", "hen", "sheep"]),
    ("tips for a calm evening", ["put the phone away", "dim the lights", "drink warm tea", "read a few pages",
                                 "go to bed early"]),
    ("pieces of clothing", ["coat", "shirt", "sock", "glove", "skirt"]),
    ("rooms of a house", ["kitchen", "bedroom", "hall", "bathroom", "cellar"]),
    ("hobbies you can do alone", ["painting", "running", "knitting", "fishing", "gardening"]),
    ("spices", ["pepper", "cinnamon", "paprika", "ginger", "saffron"]),
    ("things made of paper", ["map", "envelope", "newspaper", "poster", "paper bag"]),
    ("steps to make a sandwich", ["take two slices of bread", "spread some butter", "add cheese",
                                  "close the sandwich", "cut it in half"]),
    ("winter activities", ["skiing", "skating", "building a snowman", "sledging", "baking cookies"]),
    ("means of transport", ["bus", "tram", "bicycle", "ship", "aeroplane"]),
    ("flowers", ["rose", "tulip", "daisy", "lily", "iris"]),
    ("ways to thank a friend", ["write a card", "bake a cake", "call them", "bring flowers", "help them move"]),
]
BULLET_ASKS = [
    "List exactly {n} {topic}. Start each line with a dash.",
    "Give me {n} {topic} as bullet points, nothing before or after them.",
    "Name {n} {topic}, one on each line, each line beginning with \"- \".",
    "Write a dash list of {n} {topic}.",
]


def bullets(piece, ask):
    topic, items = piece
    chosen = random.Random(f"{topic}{ask}")
    n = chosen.choice([2, 3, 3, 4, 5])
    picked = chosen.sample(items, n) if not topic.startswith("steps") else items[:n]
    number = str(n) if chosen.random() < 0.4 else NUMBER_WORDS[n]
    return ask.format(n=number, topic=topic), "\n".join(f"- {item}" for item in picked)


# --------------------------------------------------------------------------------- a sentence of an asked form
# (asked subject, last word, sentence)
ENDINGS = [
    ("the sea", "blue", "On a clear morning the whole bay turns blue."),
    ("a cat", "sleep", "After lunch our cat wants nothing but sleep."),
    ("bread", "warm", "Bread tastes best while it is still warm."),
    ("a train ride", "home", "The late train carried us slowly home."),
    ("a teacher", "smile", "Our teacher greets every child with a smile."),
    ("autumn", "leaves", "In autumn the path is covered with leaves."),
    ("a friend", "rain", "A good friend shares the umbrella in the rain."),
    ("music", "dance", "When the band plays, even my uncle starts to dance."),
    ("the moon", "night", "The moon lights the fields at night."),
    ("an old house", "garden", "Behind the old house lies a wild garden."),
    ("a letter", "heart", "Her letter was short, but it came from the heart."),
    ("the market", "fish", "Early in the morning the market smells of fish."),
    ("winter", "snow", "The village is quiet under the snow."),
    ("a bicycle", "hill", "My bicycle groans when we climb the hill."),
    ("tea", "cup", "Nothing calms me like tea from a blue cup."),
    ("a bridge", "river", "An iron bridge crosses the river."),
    ("a dog", "ball", "The dog will do anything for a ball."),
    ("the library", "books", "Our library is small but full of books."),
    ("a baker", "bread", "Long before dawn the baker kneads the bread."),
    ("spring", "birds", "Spring wakes us with the song of birds."),
]
ENDING_ASKS = [
    "Write one sentence about {subject} that ends with the word \"{word}\".",
    "One sentence about {subject}, please. Its last word must be \"{word}\".",
]


def endings(piece, ask):
    subject, word, sentence = piece
    return ask.format(subject=subject, word=word), sentence


CAPITALS = [
    "close the gate", "the shop is full", "no dogs on the grass", "bring your own cup", "the lake is deep",
    "tea at four", "keep to the left", "we won the game", "lost and found", "do not feed the ducks",
    "open all day", "the paint is wet", "turn off the light", "happy new year", "mind the step",
    "fresh bread here", "wash your hands", "the train is late", "meet me at noon", "please ring the bell",
    "free seats inside", "stop at the sign", "the road is closed", "quiet in the hall",
]
CAPITALS_ASKS = [
    "Write this in capital letters: {text}",
    "Put the text in upper case and reply with nothing else.\n\n{text}",
    "{text}\n\nThe same in capital letters:",
]


def capitals(piece, ask):
    return ask.format(text=piece), piece.upper()


# ------------------------------------------------------------------------------------------ answers as a number
# (question, number)
NUMBERS = [
    ("How many days are there in a week?", 7),
    ("How many minutes does one hour have?", 60),
    ("How many hours make a day?", 24),
    ("How many letters are in the English alphabet?", 26),
    ("How many wheels has a tricycle?", 3),
    ("How many legs has a spider?", 8),
    ("How many centimetres are in one metre?", 100),
    ("How many grams make a kilogram?", 1000),
    ("How many seconds are in a minute?", 60),
    ("How many months are there in a year?", 12),
    ("How many sides does a triangle have?", 3),
    ("How many corners has a square?", 4),
    ("How many players of one football team are on the pitch?", 11),
    ("How many eggs are a dozen?", 12),
    ("How many strings has a violin?", 4),
    ("How many legs does a horse have?", 4),
    ("How many cents make a dollar?", 100),
    ("How many years are in a century?", 100),
    ("How many fingers are on one hand?", 5),
    ("How many wings has a bird?", 2),
    ("How many metres are there in a kilometre?", 1000),
    ("How many arms does an octopus have?", 8),
    ("How many days has the month of April?", 30),
    ("How many weeks make a year, in whole weeks?", 52),
    ("How many quarters are in one whole?", 4),
    ("How many millimetres are in a centimetre?", 10),
    ("How many continents are there?", 7),
    ("How many sides does a hexagon have?", 6),
    ("How many months has a quarter of a year?", 3),
    ("How many legs do two chairs with four legs each have?", 8),
    ("How many minutes are in half an hour?", 30),
    ("How many degrees has a right angle?", 90),
]
NUMBER_ASKS = [
    "{question} Answer with the number only.",
    "Reply with digits and nothing else: {question}",
    "{question}\nJust the number, no words.",
]


def numbers(piece, ask):
    question, number = piece
    return ask.format(question=question), str(number)


# ----------------------------------------------------------------- system messages and more than one turn
# each a whole conversation: system, then user and assistant in turn
DIALOGUES = [
    [YES_NO, "Is ice colder than steam?", "yes"],
    [YES_NO, "Do fish breathe with lungs?", "no"],
    [YES_NO, "Is Paris the capital of France?", "yes", "Is Rome the capital of Spain?", "no"],
    [YES_NO, "Can a stone swim?", "no", "Can a duck?", "yes"],
    [YES_NO, "Does a week have ten days?", "no"],
    [YES_NO, "Is honey sweet?", "yes", "Is salt sweet?", "no"],
    [YES_NO, "Are tomatoes blue?", "no"],
    [YES_NO, "Do bees make honey?", "yes"],
    [YES_NO, "Is the sun hot?", "yes", "And is snow hot?", "no"],
    [YES_NO, "Is a whale bigger than a mouse?", "yes"],
    [ONE_WORD, "What do bees make?", "Honey"],
    [ONE_WORD, "Which planet do we live on?", "Earth"],
    [ONE_WORD, "What is frozen water called?", "Ice", "And water as a gas?", "Steam"],
    [ONE_WORD, "What is the opposite of hot?", "Cold", "Of tall?", "Short"],
    [ONE_WORD, "Which animal says moo?", "Cow"],
    [ONE_WORD, "What colour is grass?", "Green"],
    [ONE_WORD, "The capital of Italy?", "Rome", "Of Japan?", "Tokyo"],
    [ONE_WORD, "What do you call a baby dog?", "Puppy"],
    [TICKETS, "I was charged twice for May.", "billing"],
    [TICKETS, "The printer driver crashes when I start it.", "technical"],
    [TICKETS, "Please change the surname in my profile.", "account"],
    [TICKETS, "My screen stays black after the update.", "technical", "I would also like a receipt for it.", "billing"],
    [TICKETS, "I forgot my user name.", "account"],
    [TICKETS, "Why is there a fee of five euros?", "billing"],
    [TICKETS, "The sound stops after ten seconds.", "technical"],
    [TICKETS, "Delete my profile, please.", "account"],
    [FORM, "I am Ludmila, 34, from Graz. First name?", "Ludmila", "Age?", "34", "City?", "Graz"],
    [FORM, "My name is Tariq and I keep bees in Fez. City?", "Fez", "First name?", "Tariq"],
    [FORM, "Otto drives a red van; he is 51. Age?", "51", "Colour of the van?", "red"],
    [FORM, "The meeting with Ines is at noon in room 8. Room?", "8", "With whom?", "Ines"],
    [FORM, "We are five people and arrive on Sunday. Day?", "Sunday"],
    [FORM, "Signed, Mirela Pop, nurse, Cluj. Job?", "nurse", "City?", "Cluj"],
    [FORM, "Two nights, one dog, name of Sanders. Name?", "Sanders", "Nights?", "2"],
    [SHOUT, "doors are closing", "DOORS ARE CLOSING"],
    [SHOUT, "the bus is here", "THE BUS IS HERE", "mind the gap", "MIND THE GAP"],
    [SHOUT, "platform two", "PLATFORM TWO"],
    [SHOUT, "no trains today", "NO TRAINS TODAY"],
    [LISTS, "I need milk, eggs and rice.", "- milk\n- eggs\n- rice"],
    [LISTS, "We saw a heron and two swans.", "- a heron\n- two swans"],
    [LISTS, "Bring rope, a torch, matches and a map.", "- rope\n- a torch\n- matches\n- a map"],
    [LISTS, "She speaks Dutch, Greek and Thai.", "- Dutch\n- Greek\n- Thai", "And he speaks Welsh and Farsi.",
     "- Welsh\n- Farsi"],
    [LISTS, "Today I cooked, read and swam.", "- cooked\n- read\n- swam"],
]

# (name, pieces, ways of asking, renderer, how many ways each training piece is asked in)
SKILLS = [
    ("order_json", ORDERS, ORDER_ASKS, orders, 2),
    ("event_json", EVENTS, EVENT_ASKS, events, 2),
    ("sentiment", SENTIMENTS, SENTIMENT_ASKS, sentiments, 2),
    ("intent", INTENTS, INTENT_ASKS, intents, 1),
    ("extract", EXTRACTS, EXTRACT_ASKS, extracts, 2),
    ("bullets", BULLETS, BULLET_ASKS, bullets, 2),
    ("ending", ENDINGS, ENDING_ASKS, endings, 2),
    ("capitals", CAPITALS, CAPITALS_ASKS, capitals, 2),
    ("number", NUMBERS, NUMBER_ASKS, numbers, 1),
]


def conversations(rng):
    """Training and held-out rows, `{"skill", "messages"}`, in a fixed shuffled order."""
    train, held_out = [], []
    for name, pieces, asks, render, ways in SKILLS:
        pieces = list(pieces)
        rng.shuffle(pieces)
        n_held_out = round(len(pieces) * HELD_OUT_SHARE)
        for idx, piece in enumerate(pieces):
            is_held_out = idx < n_held_out
            for way in range(1 if is_held_out else ways):
                question, answer = render(piece, asks[(idx + way * 2) % len(asks) if ways == 2 and len(asks) == 4
                                                      else (idx + way) % len(asks)])
                row = {"skill": name, "messages": [user(question), assistant(answer)]}
                (held_out if is_held_out else train).append(row)
    dialogues = list(DIALOGUES)
    rng.shuffle(dialogues)
    n_held_out = round(len(dialogues) * HELD_OUT_SHARE)
    for idx, (rule, *turns) in enumerate(dialogues):
        messages = [system(rule)] + [(user, assistant)[i % 2](turn) for i, turn in enumerate(turns)]
        (held_out if idx < n_held_out else train).append({"skill": "system", "messages": messages})
    train += open_talk.rows(open_talk.TRAIN)
    held_out += open_talk.rows(open_talk.HELD_OUT)
    rng.shuffle(train)
    rng.shuffle(held_out)
    return train, held_out


def prompt(messages):
    """What the model is asked: everything before the last answer, without the system message."""
    last = max((i for i, m in enumerate(messages) if m["role"] == "assistant"), default=len(messages))
    until = last if messages[-1]["role"] == "assistant" else len(messages)
    return "\n".join(m["content"] for m in messages[:until] if m["role"] != "system")


def verify(train, held_out, checks, facts, instructed):
    prompts = [prompt(row["messages"]) for row in train + held_out + checks]
    repeated = sorted({p for p in prompts if prompts.count(p) > 1})
    if repeated:
        sys.exit(f"prompts that occur twice: {repeated}")
    ids = [row["id"] for row in checks]
    if len(ids) != len(set(ids)):
        sys.exit("two checks share an id")
    if len(checks) != N_CHECKS:
        sys.exit(f"{len(checks)} checks, {N_CHECKS} expected")
    found = [fault for row in checks for fault in faults(row)] + list(open_talk.faults())
    text = "\n".join(m["content"] for row in train for m in row["messages"])
    found += [*knowledge.faults(facts, text), *instructions.faults(*instructed, text)]
    for row in checks:
        shared = trained_parts(row, train + held_out)
        found += [f"{row['id']}: {part!r} belongs to the training text" for part in shared]
    if found:
        sys.exit("\n".join(found))


def trained_parts(row, trained_rows):
    """What a check shares with the training and held-out sets and should not."""
    trained = [m["content"] for other in trained_rows for m in other["messages"]]
    content = row["messages"][-1]["content"]
    # A field's name alone, as in "City?", may come twice.
    if len(content.split()) > 1 and any(content in text for text in trained):
        yield content
    folded = "\n".join(trained).lower()
    yield from (thing for thing in own_things(row) if thing.lower() in folded)
    kind = row["id"].split("-")[0]
    for skill, pieces, _, _, _ in SKILLS:
        # A subject of one or two words may come up in questions of another kind.
        if skill in ("bullets", "ending") and kind != skill:
            continue
        parts = [piece if isinstance(piece, str) else piece[0] for piece in pieces]
        parts += [f'"{word}"' for _, word, _ in pieces] if skill == "ending" else []
        yield from (part for part in parts if re.search(rf"(?<!\w){re.escape(part)}(?!\w)", content))


# Scores as an annotator gave them: as asked, right but not in the form, in the form but wrong.
AS_ASKED, WRONG_FORM, WRONG_ANSWER = 5, 3, 1


def preferences(rng, train):
    """One prompt in two of the training set, of the long open ones one in four, with three responses from best to
    worst."""
    rows = []
    by_skill = {}
    for row in train:
        by_skill.setdefault(row["skill"], []).append(row)
    for row in (row for idx, row in enumerate(train) if idx % (4 if row["skill"] == "open" else 2) == 0):
        answer = row["messages"][-1]["content"]
        others = [r["messages"][-1]["content"] for r in by_skill[row["skill"]]]
        wrong = rng.choice([other for other in others if other != answer])
        rows.append({
            "skill": row["skill"],
            "prompt": row["messages"][:-1],
            "responses": [
                {"content": answer, "score": AS_ASKED},
                {"content": rng.choice(WRAPPINGS).format(answer), "score": WRONG_FORM},
                {"content": wrong, "score": WRONG_ANSWER},
            ],
        })
    return rows


# Skills whose prompts have one right answer.
ONE_ANSWER = {"order_json", "event_json", "sentiment", "intent", "extract", "number", "capitals"}


def prompts(rows):
    """Prompts for the policy, with the answer that a program compares with."""
    return [
        {"skill": row["skill"], "prompt": row["messages"][:-1], "answer": row["messages"][-1]["content"]}
        for row in rows
        if row["skill"] in ONE_ANSWER
    ]


def main():
    train, held_out = conversations(random.Random(SEED))
    facts = knowledge.rows(random.Random(SEED + 2))
    instructed = instructions.train_and_held_out(random.Random(SEED + 3))
    verify(train, held_out, CHECKS, facts, instructed)
    is_fresh = True
    for name, rows in [
        ("train", train),
        ("heldout", held_out),
        ("checks", CHECKS),
        ("open_questions", open_talk.questions()),
        ("knowledge", facts),
        ("instructions", instructed[0]),
        ("heldout_instructions", instructed[1]),
        ("preferences", preferences(random.Random(SEED + 1), train)),
        ("prompts", prompts(train[1::2])),
        ("heldout_prompts", prompts(held_out)),
    ]:
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        path = HERE / f"{name}.jsonl"
        if "--check" in sys.argv:
            if not path.exists() or path.read_text(encoding="utf-8") != text:
                is_fresh = False
                print(f"{path.name} differs from what make.py writes")
        else:
            path.write_text(text, encoding="utf-8")
            print(f"{path.name}: {len(rows)} rows")
    sys.exit(0 if is_fresh else 1)


main()
