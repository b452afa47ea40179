"""The graded questions: `checks.jsonl`. Their people, places and things occur nowhere in the training text.

Each kind of skill has nine or ten questions. Those marked as asked in words not trained on use a request or a system
message that no training conversation has.
"""
import json
import math
import re

from parts import FORM, LISTS, ONE_WORD, SHOUT, TICKETS, WRAPPINGS, YES_NO, assistant, one_line, system, user

UNTRAINED = ", asked in words not trained on"


def exact(answer):
    return {"kind": "exact", "answer": answer}


def number(answer):
    return {"kind": "number", "answer": answer}


def json_object(**values):
    return {"kind": "json_keys", "keys": list(values), "values": values}


def dash_list(n):
    return {"kind": "regex", "pattern": r"^(- [^\n]+\n){%d}- [^\n]+$" % (n - 1)}


def ending(word):
    """One sentence of at least two words that ends with the word."""
    return {"kind": "regex", "pattern": r"^[^\n.!?:]*[^\s.!?:,] %s[.!?]?$" % word}


# Right answers to the questions whose grade is a pattern, by id.
SAMPLES = {}


def check(name, about, grade, *turns, sample=None):
    """`turns` alternates user and assistant and ends with the user; a leading system message is already one.

    `sample` is a right answer, given where the grade does not state one.
    """
    messages = [t if isinstance(t, dict) else user(t) for t in turns]
    if sample is not None:
        SAMPLES[name] = sample
    return {"id": name, "messages": messages, "grade": grade, "about": about}


ORDER, EVENT, SENTIMENT, INTENT = (
    "an order as JSON", "an announcement as JSON", "one label of three", "one label of a given list")

CHECKS = [
    check("order-1", "an order as JSON", json_object(name="Zelda", item="fishing rods", quantity=4),
          "Extract the order as one line of JSON with the keys name, item and quantity.\n\n"
          "Zelda would be glad to have 4 fishing rods by June."),
    check("order-2", "an order as JSON", json_object(name="Rufus", item="violin strings", quantity=17),
          "Rufus came by; he needs 17 violin strings.\n\nGive name, item and quantity of this order as JSON on one "
          "line."),
    check("order-3", "an order as JSON, asked in words not trained on",
          json_object(name="Oksana", item="felt hats", quantity=19),
          "Make a JSON object with name, item and quantity out of this: we owe Oksana 19 felt hats."),
    check("event-1", "an announcement as JSON", json_object(event="science quiz", day="Wednesday", place="canteen"),
          "Extract event, day and place as one line of JSON.\n\nThe science quiz is on Wednesday in the canteen."),
    check("event-2", "an announcement as JSON", json_object(event="boat parade", day="Friday", place="Mill Canal"),
          "Answer with JSON only, keys event, day and place.\n\nOn Friday you can watch the boat parade on Mill "
          "Canal."),
    check("sentiment-1", "one label of three", exact("negative"),
          "Classify the sentiment as positive, negative or neutral. Answer with one word.\n\n"
          "The plumber never showed up and the cellar is still flooded."),
    check("sentiment-2", "one label of three", exact("positive"),
          "Is this review positive, negative or neutral? Reply with the label only.\n\n"
          "Review: A delightful cafe, the staff remembered our names."),
    check("sentiment-3", "one label of three", exact("neutral"),
          "Label the text with exactly one of: positive, negative, neutral.\nText: The shelf has three boards."),
    check("intent-1", "one label of a given list", exact("parking"),
          "Choose one label for the message: parking, breakfast, check out. Answer with the label only.\n\n"
          "Where can I leave my car overnight?"),
    check("intent-2", "one label of a given list", exact("delivery"),
          "Labels: refund, delivery, exchange, gift card\nMessage: The postman has not brought my lamp yet.\n"
          "Answer with one label."),
    check("extract-1", "only the e-mail address", exact("kim@redbarn.example"),
          "Find the e-mail address in the text. Reply with the e-mail address only.\n\n"
          "For hay and straw write to kim@redbarn.example or come by."),
    check("extract-2", "only the date", exact("19 November 2021"),
          "The old cinema closed on 19 November 2021 after the storm.\n\n"
          "What is the date? Give only the date, no sentence."),
    check("extract-3", "only the price", exact("$42.75"),
          "Copy the price from this text and write nothing else.\nText: Together the two plates came to $42.75 at "
          "the fair."),
    check("extract-4", "only the name, a thing not trained on", exact("Philippa"),
          "Find the first name in the text. Reply with the first name only.\n\nYesterday Philippa mended the roof."),
    check("bullets-1", "exactly three dash lines", dash_list(3),
          "List exactly three vegetables. Start each line with a dash.", sample="- carrot\n- leek\n- spinach"),
    check("bullets-2", "exactly two dash lines", dash_list(2),
          "Give me two things found in a bathroom as bullet points, nothing before or after them.",
          sample="- mirror\n- bath tub"),
    check("bullets-3", "exactly four dash lines", dash_list(4), "Write a dash list of four European countries.",
          sample="- Spain\n- Norway\n- Poland\n- Greece"),
    check("ending-1", "a sentence that ends as asked", ending("stars"),
          "Write one sentence about camping that ends with the word \"stars\".",
          sample="We sat by our tent and counted the stars."),
    check("capitals-1", "the text in capital letters", exact("THE OVEN IS HOT"),
          "Write this in capital letters: the oven is hot"),
    check("capitals-2", "the text in capital letters", exact("KEEP THIS DOOR SHUT"),
          "keep this door shut\n\nThe same in capital letters:"),
    check("number-1", "digits only", number(5), "How many sides does a pentagon have? Answer with the number only."),
    check("number-2", "digits only", number(31),
          "Reply with digits and nothing else: How many days has the month of January?"),
    check("system-1", "the system message's rule, second turn", exact("no"),
          system(YES_NO), "Is gold a metal?", assistant("yes"), "Is wood a metal?"),
    check("system-2", "the system message's rule, second turn", exact("Turku"),
          system(FORM), "I am Aino, a carpenter from Turku. Job?", assistant("carpenter"), "City?"),

    check("order-4", ORDER, json_object(name="Thandiwe", item="oil brushes", quantity=21),
          "Extract the order as one line of JSON with the keys name, item and quantity.\n\n"
          "Thandiwe rang before lunch about 21 oil brushes."),
    check("order-5", ORDER, json_object(name="Kaspar", item="fire irons", quantity=5),
          "Kaspar would take 5 fire irons if any are left.\n\n"
          "Give name, item and quantity of this order as JSON on one line."),
    check("order-6", ORDER, json_object(name="Imelda", item="seed packets", quantity=32),
          "Turn this message into JSON with name, item and quantity. Write nothing else.\n\n"
          "Message: Imelda is asking the nursery for 32 seed packets."),
    check("order-7", ORDER, json_object(name="Casimir", item="maple planks", quantity=7),
          "Read the note and answer with a single JSON object (name, item, quantity).\n"
          "Note: Kept for Casimir until the end of the month: 7 maple planks."),
    check("order-8", ORDER, json_object(name="Ngozi", item="shoe laces", quantity=60),
          "Extract the order as one line of JSON with the keys name, item and quantity.\n\n"
          "We still have to get 60 shoe laces to Ngozi."),
    check("order-9", ORDER + UNTRAINED, json_object(name="Giulia", item="marble tiles", quantity=16),
          "JSON please, with name, item and quantity: Giulia wishes to buy 16 marble tiles."),
    check("order-10", ORDER + UNTRAINED, json_object(name="Mr. Whitlock", item="copper kettles", quantity=3),
          "What did the customer order? Reply with JSON that has name, item and quantity, nothing else.\n\n"
          "Mr. Whitlock came in person and took 3 copper kettles."),

    check("event-3", EVENT, json_object(event="town marathon", day="Sunday", place="Needle Gate"),
          "Extract event, day and place as one line of JSON.\n\nThe town marathon starts on Sunday at Needle Gate."),
    check("event-4", EVENT, json_object(event="cheese tasting", day="Tuesday", place="corn exchange"),
          "Answer with JSON only, keys event, day and place.\n\n"
          "Bring your neighbours to the cheese tasting, Tuesday, in the corn exchange."),
    check("event-5", EVENT, json_object(event="backstage visit", day="Thursday", place="opera house"),
          "On Thursday the opera house offers a backstage visit.\n\n"
          "Write this announcement as a JSON object with event, day and place."),
    check("event-6", EVENT, json_object(event="lantern walk", day="Monday", place="vicarage lawn"),
          "Fill in the keys event, day and place from the text and reply with the JSON.\n"
          "Text: The lantern walk is set for Monday on the vicarage lawn."),
    check("event-7", EVENT, json_object(event="skating gala", day="Wednesday", place="ice rink"),
          "Extract event, day and place as one line of JSON.\n\nWednesday, ice rink: skating gala."),
    check("event-8", EVENT, json_object(event="photo exhibition", day="Friday", place="old mint"),
          "Answer with JSON only, keys event, day and place.\n\nThe photo exhibition begins on Friday in the old "
          "mint."),
    check("event-9", EVENT + UNTRAINED, json_object(event="stamp auction", day="Saturday", place="customs house"),
          "Put this notice into JSON (event, day, place), no other text: "
          "the stamp auction is on Saturday in the customs house."),
    check("event-10", EVENT + UNTRAINED, json_object(event="drum circle", day="Sunday", place="Pier Nine"),
          "I would like one JSON object with event, day and place and not a word more.\n\n"
          "There will be a drum circle at Pier Nine on Sunday."),

    check("sentiment-4", SENTIMENT, exact("positive"),
          "The dentist was gentle and made my son laugh.\n\nSentiment (positive, negative, neutral):"),
    check("sentiment-5", SENTIMENT, exact("negative"),
          "Classify the sentiment as positive, negative or neutral. Answer with one word.\n\n"
          "The battery dies within an hour and support hung up on me."),
    check("sentiment-6", SENTIMENT, exact("neutral"),
          "Is this review positive, negative or neutral? Reply with the label only.\n\n"
          "Review: The rug measures two metres by three."),
    check("sentiment-7", SENTIMENT, exact("positive"),
          "Label the text with exactly one of: positive, negative, neutral.\n"
          "Text: Never have I tasted such wonderful ravioli."),
    check("sentiment-8", SENTIMENT, exact("positive"),
          "Classify the sentiment as positive, negative or neutral. Answer with one word.\n\n"
          "Our guide knew every bird and told splendid stories."),
    check("sentiment-9", SENTIMENT + UNTRAINED, exact("negative"),
          "Positive, negative or neutral? One word, please: Half of the glasses arrived in pieces."),
    check("sentiment-10", SENTIMENT + UNTRAINED, exact("neutral"),
          "How does the writer feel? Reply only with positive, negative or neutral.\n\n"
          "The dining car is behind the second coach."),

    check("intent-3", INTENT, exact("class times"),
          "Route this customer message to one of [locker, trainer, membership, class times].\n"
          "Message: At what hour does the spinning group start?"),
    check("intent-4", INTENT, exact("locker"),
          "The key broke off and my clothes are locked inside.\n\n"
          "Which of these is it: membership, class times, locker, trainer? Reply with the label and nothing else."),
    check("intent-5", INTENT, exact("reservation"),
          "Choose one label for the message: takeaway, menu, reservation, complaint. Answer with the label only.\n\n"
          "We would like a table for six at eight."),
    check("intent-6", INTENT, exact("complaint"),
          "Labels: menu, complaint, takeaway, reservation\nMessage: There was a hair in my risotto and nobody "
          "cared.\nAnswer with one label."),
    check("intent-7", INTENT, exact("emergency"),
          "Route this customer message to one of [grooming, food, vaccination, emergency].\n"
          "Message: My puppy swallowed a battery and cannot stand up!"),
    check("intent-8", INTENT, exact("no signal"),
          "Choose one label for the message: cancel, bill, new contract, no signal. Answer with the label only.\n\n"
          "There is no reception anywhere on our farm."),
    check("intent-9", INTENT + UNTRAINED, exact("noise"),
          "Pick the label that fits: heating, rent, noise, keys. Write only the label.\n\n"
          "The people upstairs play loud techno until two."),
    check("intent-10", INTENT + UNTRAINED, exact("heating"),
          "A tenant writes: my radiators have been cold for days. "
          "Is this heating, rent, noise or keys? One label, nothing more."),

    check("extract-5", "only the phone number", exact("555-0128"),
          "Find the phone number in the text. Reply with the phone number only.\n\n"
          "Our locksmith answers on 555-0128 even at weekends."),
    check("extract-6", "only the time", exact("10:20 pm"),
          "The sleeper coach pulls out at 10:20 pm sharp.\n\nWhat is the time? Give only the time, no sentence."),
    check("extract-7", "only the parcel code", exact("VB-3306"),
          "Copy the parcel code from this text and write nothing else.\nText: The driver scanned VB-3306 at our back "
          "door."),
    check("extract-8", "only the city", exact("Antwerp"),
          "Find the city in the text. Reply with the city only.\n\nMy cousin studies stage design in Antwerp."),
    check("extract-9", "only the street, a thing not trained on", exact("Juniper Lane"),
          "The eye clinic moved to Juniper Lane in March.\n\nWhat is the street? Give only the street, no sentence."),
    check("extract-10", "only the e-mail address" + UNTRAINED, exact("seats@oldopera.example"),
          "Just the mail address, please: for tickets ask the box office, seats@oldopera.example, before noon."),

    check("bullets-4", "exactly three dash lines", dash_list(3),
          "Name three planets, one on each line, each line beginning with \"- \".", sample="- Mars\n- Venus\n- "
                                                                                           "Saturn"),
    check("bullets-5", "exactly five dash lines", dash_list(5),
          "List exactly five school subjects. Start each line with a dash.",
          sample="- history\n- biology\n- art\n- physics\n- geography"),
    check("bullets-6", "exactly four dash lines", dash_list(4), "Write a dash list of 4 pieces of furniture.",
          sample="- table\n- wardrobe\n- bench\n- armchair"),
    check("bullets-7", "exactly three dash lines", dash_list(3),
          "Give me three breakfast dishes as bullet points, nothing before or after them.",
          sample="- omelette\n- porridge\n- toast with jam"),
    check("bullets-8", "exactly two dash lines" + UNTRAINED, dash_list(2),
          "I need two kinds of cheese. Answer with dash lines only.", sample="- cheddar\n- gouda"),
    check("bullets-9", "exactly five dash lines" + UNTRAINED, dash_list(5),
          "Which five insects do you know? One per line, each after a dash, no other text.",
          sample="- bee\n- ant\n- wasp\n- moth\n- beetle"),

    check("ending-2", "a sentence that ends as asked", ending("fields"),
          "Write one sentence about a farmer that ends with the word \"fields\".",
          sample="The farmer walks slowly through his fields."),
    check("ending-3", "a sentence that ends as asked", ending("storm"),
          "One sentence about a sailor, please. Its last word must be \"storm\".",
          sample="The old sailor had never seen such a storm."),
    check("ending-4", "a sentence that ends as asked", ending("presents"),
          "Write one sentence about a birthday that ends with the word \"presents\".",
          sample="On her birthday she found the table full of presents."),
    check("ending-5", "a sentence that ends as asked", ending("patient"),
          "One sentence about a doctor, please. Its last word must be \"patient\".",
          sample="The doctor listens to every patient."),
    check("ending-6", "a sentence that ends as asked", ending("ash"),
          "Write one sentence about a volcano that ends with the word \"ash\".",
          sample="The volcano covered the town in ash."),
    check("ending-7", "a sentence that ends as asked", ending("midnight"),
          "One sentence about a clock, please. Its last word must be \"midnight\".",
          sample="The clock in the hall stopped at midnight."),
    check("ending-8", "a sentence that ends as asked" + UNTRAINED, ending("desert"),
          "Make up a sentence about a camel whose final word is \"desert\".",
          sample="A camel can walk for days across the desert."),
    check("ending-9", "a sentence that ends as asked" + UNTRAINED, ending("hedges"),
          "Tell me in one sentence what a gardener does. Finish it with the word \"hedges\".",
          sample="A gardener plants flowers and trims the hedges."),

    check("capitals-3", "the text in capital letters", exact("NO SWIMMING AFTER DARK"),
          "Put the text in upper case and reply with nothing else.\n\nno swimming after dark"),
    check("capitals-4", "the text in capital letters", exact("THE LIFT IS OUT OF ORDER"),
          "Write this in capital letters: the lift is out of order"),
    check("capitals-5", "the text in capital letters", exact("MUSHROOM SOUP TODAY"),
          "mushroom soup today\n\nThe same in capital letters:"),
    check("capitals-6", "the text in capital letters", exact("PLEASE KNOCK TWICE"),
          "Put the text in upper case and reply with nothing else.\n\nplease knock twice"),
    check("capitals-7", "the text in capital letters", exact("BEWARE OF THE GOOSE"),
          "Write this in capital letters: beware of the goose"),
    check("capitals-8", "the text in capital letters" + UNTRAINED, exact("ALL TICKETS ARE SOLD"),
          "Upper case, please: all tickets are sold"),
    check("capitals-9", "the text in capital letters" + UNTRAINED, exact("HATS MUST STAY OUTSIDE"),
          "Change every letter to a capital letter and write nothing else: hats must stay outside"),

    check("number-3", "digits only", number(6), "How many legs has an ant? Answer with the number only."),
    check("number-4", "digits only", number(10),
          "Reply with digits and nothing else: How many years are in a decade?"),
    check("number-5", "digits only", number(8), "How many planets orbit the sun?\nJust the number, no words."),
    check("number-6", "digits only", number(4), "How many wheels has a normal car? Answer with the number only."),
    check("number-7", "digits only", number(12),
          "Reply with digits and nothing else: How many inches are in a foot?"),
    check("number-8", "digits only" + UNTRAINED, number(48), "Number only, please: how many hours are in two days?"),
    check("number-9", "digits only" + UNTRAINED, number(9),
          "I want a bare number. How many players does a baseball team have on the field?"),

    check("system-3", "the system message's rule", exact("no"), system(YES_NO), "Can a penguin fly?"),
    check("system-4", "the system message's rule", {"kind": "regex", "pattern": "^[Kk]itten$"},
          system(ONE_WORD), "What is a young cat called?", sample="Kitten"),
    check("system-5", "the system message's rule", exact("technical"),
          system(TICKETS), "The cursor freezes whenever I plug in the scanner."),
    check("system-6", "the system message's rule, second turn", exact("billing"),
          system(TICKETS), "My home address in your records is wrong.", assistant("account"),
          "I paid the invoice but still get reminders."),
    check("system-7", "the system message's rule, second turn", exact("USE THE NORTH EXIT"),
          system(SHOUT), "ferry cancelled", assistant("FERRY CANCELLED"), "use the north exit"),
    check("system-8", "the system message's rule", exact("- leeks\n- beans\n- mint"),
          system(LISTS), "We grow leeks, beans and mint."),
    check("system-9", "a system message not trained on", exact("F"),
          system("Reply with the letter T if the statement is true and with the letter F if it is false."),
          "Cows lay eggs."),
    check("system-10", "a system message not trained on, second turn", exact("violet"),
          system("You name the colour in the sentence, in lower case, and write nothing else."),
          "She lost a crimson mitten.", assistant("crimson"), "He parked the violet scooter."),
]


def passes(grade, answer):
    """Whether an answer is right, as `truing` grades it."""
    answer = answer.strip()
    match grade["kind"]:
        case "exact":
            return answer == grade["answer"]
        case "number":
            try:
                found = float(answer)
            except ValueError:
                return False
            return math.isfinite(found) and found == grade["answer"]
        case "json_keys":
            try:
                found = json.loads(answer)
            except json.JSONDecodeError:
                return False
            return isinstance(found, dict) and found == grade["values"]
        case "regex":
            return re.search(grade["pattern"], answer) is not None
        case kind:
            raise ValueError(f"no such grade: {kind}")


def right_answer(row):
    """What the grade states, or the sample."""
    grade = row["grade"]
    match grade["kind"]:
        case "exact" | "number":
            return str(grade["answer"])
        case "json_keys":
            return one_line(grade["values"])
        case _:
            return SAMPLES[row["id"]]


def faults(row):
    """What is wrong with a question, as sentences."""
    name, grade = row["id"], row["grade"]
    right, asked = right_answer(row), row["messages"][-1]["content"]
    if not passes(grade, right):
        yield f"{name}: the right answer {right!r} does not pass"
    for wrapping in [*WRAPPINGS, "Answer: {}", "\"{}\"", "**{}**"]:
        if passes(grade, wrapping.format(right)):
            yield f"{name}: a chatty answer passes: {wrapping.format(right)!r}"
    if passes(grade, "") or passes(grade, asked):
        yield f"{name}: an empty answer or the question itself passes"
    kind = name.rsplit("-", 1)[0]
    if kind in ("order", "event"):
        missing = [value for value in grade["values"].values() if str(value) not in asked]
    elif kind in ("sentiment", "intent", "extract"):
        missing = [] if right in asked.replace("Positive", "positive") else [right]
    elif kind == "capitals":
        missing = [] if right in asked.upper() else [right]
    else:
        missing = []
    if missing:
        yield f"{name}: not in the question: {missing}"


def own_things(row):
    """Names and things of a question that the training text may not have."""
    grade = row["grade"]
    kind = row["id"].rsplit("-", 1)[0]
    if kind in ("order", "event"):
        return [value for key, value in grade["values"].items() if key not in ("quantity", "day")]
    if kind in ("extract", "capitals"):
        return [grade["answer"]]
    return []
