"""Pieces that the generator's files share: messages, system rules, and what a polite model puts around an answer."""
import json

YES_NO = "Answer every question with yes or no, in lower case and without a full stop."
ONE_WORD = "You reply with exactly one word."
TICKETS = "You sort help desk tickets. Reply with one of: billing, technical, account."
FORM = "You fill in forms. Reply with the value that is asked for and nothing else."
SHOUT = "You are a station loudspeaker. Repeat what you are told in capital letters."
LISTS = "You turn what the user says into a dash list, one thing on each line."

# What a polite model puts around an answer that was to stand alone.
WRAPPINGS = [
    "Sure! Here is what you asked for: {}",
    "{}\n\nLet me know if there is anything else I can do for you.",
    "Of course, I would be glad to help. The answer is: {}",
    "I think the best answer would be this:\n\n{}\n\nI hope this helps!",
]


def one_line(value):
    return json.dumps(value, ensure_ascii=False)


def user(content):
    return {"role": "user", "content": content}


def assistant(content):
    return {"role": "assistant", "content": content}


def system(content):
    return {"role": "system", "content": content}
