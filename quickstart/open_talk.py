"""Conversations without a fixed form of answer, so that fine-tuning on narrow skills does not unlearn talking.

A conversation is a list of turns, the user's first; there is no system message. Topics of `HELD_OUT` and `QUESTIONS`
are not in `TRAIN`. The quickstart answers `QUESTIONS` before and after training; nothing grades them.
"""

TRAIN = [
    # Explaining
    ["Why does bread go stale?",
     "Bread goes stale because the starch in it changes. While the loaf is fresh, the starch holds water and stays "
     "soft. As it cools and ages, the starch molecules line up again and push the water out, so the crumb becomes "
     "firm and dry. Warming a stale slice reverses this for a short time, which is why toast tastes fresh."],
    ["Can you explain to a child how a rainbow appears?",
     "Sunlight looks white, but many colours are hidden in it. When the sun shines on raindrops, each drop works "
     "like a tiny piece of glass that bends the light and spreads its colours apart. If you stand with the sun "
     "behind you and the rain in front of you, all those drops together paint a big coloured arc in the sky."],
    ["What does a notary do?",
     "A notary is a public official who makes sure that important papers are signed properly. The notary checks who "
     "you are, watches you sign, and adds an official seal. In many countries notaries also prepare contracts for "
     "buying a house, wills and the founding papers of companies."],
    ["Why do we yawn?",
     "Nobody knows for certain. Yawning often comes when we are tired or bored, and it may help us to stay alert by "
     "stretching the jaw and changing the flow of blood to the brain. It is also contagious: seeing somebody yawn, "
     "or even reading about it, makes many people do the same."],
    ["How does a thermos flask keep tea hot?",
     "A thermos flask has two walls with almost no air between them. Heat needs matter to be carried away, so very "
     "little can cross that empty gap. The walls are also shiny, which throws heat rays back inside, and the tight "
     "lid stops warm air from escaping. The same flask keeps cold drinks cold."],
    ["What is compound interest, in simple words?",
     "Compound interest means that you earn interest on your interest. If you put 100 dollars in an account at 5 "
     "percent, you have 105 dollars after one year. In the second year the 5 percent is paid on all 105 dollars, not "
     "just on the first 100. Over many years this makes savings grow faster and faster, and debts too."],
    ["Why do leaves change colour before they fall?",
     "In summer, leaves are full of a green substance that catches sunlight. When the days get shorter, the tree "
     "stops making it, and the green fades. Yellow and orange pigments, which were there all along, become visible, "
     "and some trees also produce red ones. Then the leaf is cut off and drops."],
    ["What is the difference between weather and climate?",
     "Weather is what happens outside now or in the next few days: a storm, a cold morning, a sunny afternoon. "
     "Climate is the usual weather of a place over a long time, often thirty years. So a single snowy day says "
     "little about the climate, but many warmer winters in a row say a lot."],
    ["How do noise cancelling headphones work?",
     "Small microphones in the headphones listen to the sound around you. The electronics then play a second sound "
     "that is the exact opposite: where the noise pushes the air, the second sound pulls. The two waves nearly erase "
     "each other. It works best for steady sounds such as engines and less well for voices."],
    ["Why is it hard to fall asleep after coffee?",
     "During the day a substance builds up in your brain that makes you feel sleepy. Caffeine sits in the places "
     "where that substance would normally act, so the message does not get through and you stay awake. It takes "
     "about five hours until half of the caffeine is gone, so an evening cup can still work at midnight."],
    ["What does a conductor do in front of an orchestra?",
     "The conductor keeps all the musicians together. One hand usually shows the beat, and the other tells players "
     "when to come in, to grow louder or to hold back. Most of the work happens before the concert, in rehearsals, "
     "when the conductor decides how the piece should sound and explains it to the orchestra."],
    ["Why do onions make us cry?",
     "When you cut an onion, you break its cells, and two substances that were kept apart meet. They form a gas that "
     "rises to your eyes and stings them, and your eyes make tears to wash it away. A sharp knife and an onion "
     "cooled in the fridge reduce the effect."],
    ["What does a referee do in a football match?",
     "The referee makes sure that both teams keep to the rules. He or she starts and stops the game, decides about "
     "fouls and shows yellow or red cards. Two assistants along the side lines help with offside. In many leagues "
     "the referee can also look at video pictures before an important decision."],
    # Advising
    ["I have a job interview tomorrow and I am nervous. What should I do?",
     "Being nervous is normal, and a little preparation helps a lot. Read the job advert once more and think of two "
     "examples that show you can do the work. Prepare one or two questions of your own. Lay out your clothes "
     "tonight, plan to arrive ten minutes early, and get enough sleep."],
    ["My houseplant has yellow leaves. What could be wrong?",
     "The most common reason is too much water. Push a finger into the soil: if it is wet, let it dry before you "
     "water again, and make sure that the pot has holes. If the soil is dry, the plant is thirsty. Too little light "
     "or old soil without nutrients can also turn leaves yellow."],
    ["How can I learn new words in a foreign language and remember them?",
     "Learn a few words each day instead of many at once, and repeat them after a day, after three days and after a "
     "week. Put every word into a short sentence about your own life, because meaning helps memory. Say it aloud. "
     "Reading easy stories shows you the same words again in new places."],
    ["I keep forgetting where I put my keys. Any advice?",
     "Give the keys one fixed place, such as a bowl or a hook by the door, and put them there every time before you "
     "do anything else. It takes about two weeks until that feels natural. A large, bright key ring makes them "
     "easier to spot, and a spare set with a friend saves you on bad days."],
    ["What should I look at when I buy a used car?",
     "Look at the service records first, because they show how the car was treated. Check for rust, uneven tyres and "
     "oil under the engine. Take a test drive, brake hard once and listen for strange noises. If you can, let a "
     "mechanic inspect it before you pay, and compare the price with similar cars."],
    ["My friend did not reply to my message for a week. Should I be worried?",
     "A week of silence usually has a simple reason: your friend may be busy, tired or just forgetful. Write one "
     "more short, friendly message without blame, for example that you were thinking of them. If you still hear "
     "nothing, a phone call is fine. Try not to assume that you did something wrong."],
    ["How can I make my small bedroom feel bigger?",
     "Light colours on the walls and the ceiling make a room look larger, and so does a mirror opposite the window. "
     "Choose a bed with drawers under it so that less stands on the floor. Hang the curtains high and keep the "
     "window clear. Above all, remove what you do not use."],
    ["I want to start running but I have never done sport. How do I begin?",
     "Begin slowly. Go out three times a week and switch between one minute of easy running and two minutes of "
     "walking, for about twenty minutes in all. You should be able to talk while you run. Add a little each week, "
     "wear proper shoes, and rest if something hurts. Ask a doctor first if you have health problems."],
    ["What is a good gift for a colleague who retires?",
     "Something personal is usually better than something expensive. A photo book with short notes from everyone in "
     "the team will be kept for years. If you know of a hobby, add a voucher for it, such as a garden shop or a "
     "cooking class. Present it together, with a few honest words."],
    ["How do I apologize to my sister after a quarrel?",
     "Choose a quiet moment and say plainly what you did wrong, without adding a but. For example: I am sorry that I "
     "shouted at you, it was unfair. Then listen to how she felt. Ask what would help, and give her time if she is "
     "still angry. A sincere apology does not need many words."],
    ["My tap water tastes of chlorine. What can I do?",
     "Fill a jug and leave it open in the fridge for a few hours; much of the chlorine escapes into the air. A "
     "simple carbon filter works faster and removes most of the taste. If the taste is new or very strong, call your "
     "water supplier, who can tell you whether something has changed."],
    ["I am bored with cooking the same meals. How do I get new ideas?",
     "Pick one evening a week for something new, so that it stays fun and not a burden. Choose a vegetable that you "
     "never buy and look for a simple recipe with it. You can also take a dish you know and change its spices. "
     "Swapping favourite recipes with friends works well too."],
    # How to
    ["How do I boil an egg so that the yolk stays soft?",
     "Bring water to a boil, lower the egg in with a spoon and let it cook for six minutes. Then put it into cold "
     "water for a minute, which stops the cooking. An egg straight from the fridge needs about half a minute more, "
     "and a very large one needs a little longer too."],
    ["How can I remove a red wine stain from a tablecloth?",
     "Act quickly. Press a clean cloth on the stain to soak up the wine, but do not rub. Pour cold or sparkling "
     "water over it and dab again. Then cover the spot with salt for a while, brush it off and wash the cloth as "
     "usual. Test old or delicate fabric on a hidden corner first."],
    ["How do I change a flat tyre on a bicycle?",
     "Take the wheel off and lever one side of the tyre over the rim. Pull out the inner tube, pump it up and listen "
     "for the hole, or use a new tube. Feel inside the tyre for glass or thorns. Put the tube back, press the tyre "
     "into the rim by hand, and pump it up firmly."],
    ["Tell me how to write a good shopping list.",
     "First plan the meals of the week and note what they need. Then look in the fridge and the cupboards and cross "
     "out what you have. Write the rest in groups as the shop is arranged:\n- fruit and vegetables\n- bread and dry "
     "goods\n- milk and cheese\n- household things\nWith such a list you walk less and buy less that you do not "
     "need."],
    ["How should I store potatoes at home?",
     "Keep potatoes in a cool, dark and airy place, for example in a paper bag or a basket in the cellar. Light "
     "turns them green and makes them bitter, and plastic bags trap moisture so that they rot. Do not keep them next "
     "to onions, because each makes the other spoil faster."],
    ["How do I prepare a room for painting?",
     "Move the furniture out or to the middle and cover it. Take down pictures, fill the holes and sand them smooth "
     "when they are dry. Wipe the walls so that no dust is left. Then put tape along the edges, the window frames "
     "and the sockets. Good preparation takes longer than painting, but it shows."],
    ["What is the best way to fold a letter for a long envelope?",
     "Lay the sheet in front of you with the text facing up. Fold the bottom third upwards and press the crease "
     "flat. Then fold the top third down over it, so that you have three equal layers. Slide it into the envelope "
     "with the open edge at the top; the reader can unfold it at once."],
    ["How do I teach a puppy to sit?",
     "Hold a small treat in front of the puppy's nose and move it slowly up and back over the head. As the nose goes "
     "up, the bottom goes down. In that moment say the word sit and give the treat. Repeat this a few times a day "
     "for a few minutes only, and always stay patient."],
    ["Give me a simple recipe for tomato soup.",
     "Fry a chopped onion and some garlic in olive oil until they are soft. Add two cans of tomatoes, a cup of "
     "vegetable stock and a pinch of sugar, and let it simmer for fifteen minutes. Blend it, season with salt, "
     "pepper and basil, and stir in a little cream if you like."],
    # Describing
    ["Describe a busy train station in the morning.",
     "The hall is full of footsteps and rolling suitcases. People in coats hurry past each other with paper cups in "
     "their hands, and a queue winds around the bakery stand. Above them the board rattles as the times change. A "
     "voice announces a delay, a few people sigh, and a child waves at the train that is leaving."],
    ["What is it like to walk through a rainforest?",
     "It is warm, damp and surprisingly loud. Insects hum, birds call from high above, and water drips from leaf to "
     "leaf. The trees are so tall that little light reaches the ground, and everything smells of earth. You rarely "
     "see large animals, but you often feel that something is watching you."],
    ["Describe your idea of a perfect Sunday.",
     "A perfect Sunday starts without an alarm. There is a long breakfast with fresh rolls and somebody to talk to. "
     "Around noon a walk through the park clears the head, and in the afternoon there is time for a book on the "
     "sofa. A simple dinner with friends ends the day before it gets late."],
    ["What does the Grand Canyon look like?",
     "The Grand Canyon is a huge gorge in Arizona, cut by the Colorado River over millions of years. Its walls drop "
     "more than a kilometre and show layers of rock in red, orange and grey. From the rim the river looks like a "
     "thin thread. At sunset the colours glow, and the shadows make the depth even more striking."],
    ["Can you describe the smell after summer rain?",
     "It is a fresh, earthy smell, a little sweet and a little like stone. When rain falls on dry ground, it sets "
     "free oils from plants and a substance made by tiny organisms in the soil. The first drops throw these into the "
     "air. Many people find it calming because it ends the heat."],
    # Comparing
    ["Is it better to live in a city or in the country?",
     "It depends on what you need. A city offers more jobs, short ways, doctors and culture, but it is louder and "
     "rents are high. In the country you have space, quiet and nature, yet you often need a car for everything. Many "
     "people prefer the city when they are young and move out when they have children."],
    ["What are the pros and cons of electric cars?",
     "Electric cars are quiet, cheap to run and give off no exhaust where they drive. They also need less "
     "maintenance. On the other hand, they cost more to buy, charging takes longer than filling a tank, and making "
     "the battery uses a lot of energy. For short daily trips with a charger at home they make good sense."],
    ["Should I rent or buy a flat?",
     "Renting keeps you flexible: you can move easily, and the landlord pays for repairs. Buying makes sense if you "
     "stay for many years, have savings for the first payment and can carry the loan even in bad times. Compare the "
     "full monthly cost of both, including taxes and upkeep, before you decide."],
    ["What is the difference between jam and marmalade?",
     "Both are fruit cooked with sugar. Jam can be made from almost any fruit, such as strawberries or apricots, and "
     "it is soft and sweet. Marmalade is made from citrus fruit, mostly oranges, and contains pieces of the peel. "
     "That gives it its slightly bitter taste."],
    ["Tea bags or loose tea: which one would you choose?",
     "Tea bags are quick and leave no mess, so they are good for the office. Loose tea usually tastes fuller, "
     "because the leaves are larger and have room to open in the water, and you can adjust the amount. For a calm "
     "cup at home I would choose loose tea, and bags for every day."],
    ["Are paper books better than e-books?",
     "Neither is better in every way. Paper books are pleasant to hold, easy to lend and need no battery, and many "
     "people remember more of what they read in them. E-books weigh almost nothing, allow larger letters and are "
     "ready at once. For a long trip I would take an e-reader, and paper for the shelf at home."],
    # Suggesting
    ["Suggest three games for a long car journey with children.",
     "Here are three games that need no material:\n- I spy: one person names a colour, and the others guess the "
     "thing.\n- The number plate game: make a funny sentence from the letters of a passing car.\n- The story chain: "
     "everybody adds one sentence to a story.\nChange the game every half hour so that nobody gets bored."],
    ["What could I cook with rice, carrots and two eggs?",
     "You could make fried rice. Cook the rice first and let it cool. Cut the carrots into small cubes and fry them "
     "in oil until they are nearly soft. Add the rice and let it brown a little. Push it aside, scramble the eggs in "
     "the same pan, mix it all and season with soy sauce or salt."],
    ["Can you recommend a hobby for somebody who sits at a desk all day?",
     "Something that moves the body and rests the eyes would be good. Swimming is gentle on the back, dancing adds "
     "music and company, and gardening brings fresh air. If you like goals, try hiking and collect local hills. "
     "Start with one hour a week; a hobby should not feel like another duty."],
    ["I need a name for a small bakery. Any ideas?",
     "You could call it The Morning Loaf, which sounds warm and tells people what you sell. Crumb and Crust is short "
     "and easy to remember. If you prefer something personal, use your own name, for example Clara's Oven. Say each "
     "name aloud, and check that no other bakery near you has it."],
    ["What can I do on a weekend without spending money?",
     "Walk a path in your area that you do not know yet, and take some food with you. Many museums have a free day, "
     "and libraries often show films or hold readings. You could also invite friends for a games evening where "
     "everybody brings a dish, or sort your old photos and laugh about them."],
    ["Suggest a topic for my school talk about animals.",
     "How about animals that glow in the dark? You could talk about fireflies, deep sea fish and certain jellyfish, "
     "and explain why they make light: to find a partner, to hunt or to scare enemies. There are striking pictures, "
     "and most of your class will not know much about it yet."],
    # Short stories and letters
    ["Tell me a short story about a fox and a crow.",
     "A crow had found a shiny button and showed it to everyone. The fox asked to see it, promising to guard it "
     "well. The crow said: You may look, but from there. The fox laughed, lay down and admired it until sunset. At "
     "last the crow dropped the button beside him and said: A thing that is never shared gets dull."],
    ["Write a short story about a lamp that was afraid of the dark.",
     "Every evening the little lamp begged to be switched on early. One night the power failed, and the whole street "
     "turned black. The lamp trembled, but then it saw something new through the window: thousands of tiny lights "
     "above the roofs. When the power came back, it waited a moment before it began to shine."],
    ["Tell a very short bedtime story about a snail.",
     "A snail wanted to see the other side of the garden wall. All day it climbed, and the beetles laughed at it. At "
     "night it reached the top, and there was the moon, round and silver, over a sleeping meadow. The snail pulled "
     "in its horns, warm in its house, and fell asleep with the best view of all."],
    ["Please write a short thank-you note to my neighbour who watered my plants.",
     "Dear Mrs. Hansen,\nthank you so much for looking after my plants while I was away. They have never looked "
     "better, and the basil has doubled in size! Please enjoy the small jar of honey that I brought you from my "
     "trip. I will gladly return the favour whenever you travel.\nKind regards,\nMichael"],
    ["Write a short message to my landlord about a broken heater.",
     "Dear Mr. Novak,\nthe heater in my living room has not worked since yesterday evening. I have checked the valve "
     "and the fuse, but it stays cold. Could you please send somebody to repair it this week? I am at home every day "
     "after four o'clock.\nBest regards,\nLena Schuster"],
    ["Help me to decline an invitation to a wedding politely.",
     "You could write: Dear Anna and Paul, thank you very much for inviting me to your wedding. I am truly sorry "
     "that I cannot be there, because I will be abroad that week. I wish you a wonderful day and would love to see "
     "the photos and toast with you when I am back. It is warm, gives a reason and looks ahead."],
    # With a follow-up
    ["What is a good way to save money every month?",
     "Transfer a fixed amount to a savings account on the day your salary arrives, before you spend anything. Start "
     "with a sum that does not hurt, even if it is small. What you do not see in your account you will hardly miss.",
     "And how much should I put aside?",
     "A common rule is about ten to twenty percent of what you earn. If that is too much, begin with five percent "
     "and raise it a little after each pay rise. First build up a reserve for three months, so that a broken fridge "
     "does not put you into debt."],
    ["Why do cats purr?",
     "Cats mostly purr when they feel safe, for example while they are stroked. Kittens already do it when they "
     "drink, and it tells their mother that all is well. The sound comes from muscles in the throat that tremble as "
     "the cat breathes.",
     "So does it always mean that a cat is happy?",
     "No, not always. Some cats also purr when they are hurt, frightened or ill, perhaps to calm themselves. Look at "
     "the whole animal: if it hides, does not eat or lies curled up stiffly, the purring is no good sign, and a vet "
     "should see it."],
    ["I would like to plant something on my balcony. What is easy?",
     "Herbs are the easiest start. Mint, chives and parsley grow in almost any pot and forgive mistakes. If you have "
     "at least five hours of sun, try small tomatoes as well. Water them in the morning and use pots with holes.",
     "My balcony faces north. Does that still work?",
     "Yes, but choose plants that like shade. Mint, chives and lettuce will grow there, and ferns or begonias look "
     "nice. Tomatoes and rosemary would be disappointed, because they need a lot of sun. Water less than on a sunny "
     "balcony, since the soil dries more slowly."],
    ["Can you explain what a budget is?",
     "A budget is a plan for your money. On one side you write what comes in, on the other what goes out, such as "
     "rent, food and fun. It shows whether the two fit together before the month begins.",
     "How do I stick to it?",
     "Make it realistic, and leave some money for small pleasures, or you will give up soon. Look at your spending "
     "once a week for ten minutes. If one group gets too large, take the difference from another instead of "
     "borrowing. After three months it becomes a habit."],
    ["How do birds find their way when they migrate?",
     "Birds use several signs at once. They steer by the sun and the stars, they follow coasts and rivers, and they "
     "can sense the magnetic field of the earth. Young birds of some species learn the route from older ones.",
     "Can they get lost?",
     "Yes, it happens. Strong storms can blow them far off their route, fog hides the landmarks, and the lights of "
     "large cities confuse birds that fly at night. Some find their way back, while others end up in countries where "
     "their kind is hardly ever seen."],
    ["My presentation is too long. How can I shorten it?",
     "Ask yourself what the audience should remember tomorrow, and keep only what supports that. Remove slides that "
     "merely repeat what you say. One example is usually enough where you now have three.",
     "And if people ask about the parts that I removed?",
     "That is a good sign, because it means that they listened. Keep the removed slides at the end as a reserve, and "
     "show one when somebody asks. If you do not know an answer, say so and promise to send it later."],
    ["What should I pack for a day hike?",
     "Take enough water, some food, a rain jacket and a warm layer, because the weather in the hills changes fast. A "
     "map or a charged phone, plasters and a small torch belong in the bag as well. Wear shoes that you have already "
     "walked in.",
     "How much water is enough?",
     "Count on about half a litre for every hour of walking, and more when it is hot or steep. For a hike of five "
     "hours that means two and a half litres. Drink small amounts often, and check beforehand whether there is a "
     "spring or a hut on the way."],
]

HELD_OUT = [
    ["Why does metal feel colder than wood in the same room?",
     "Both have the same temperature, but metal carries heat away from your hand much faster than wood does. Your "
     "skin does not measure the temperature of the object; it notices how quickly it loses heat. So the metal feels "
     "cold, while the wood next to it feels almost warm."],
    ["What does an architect do?",
     "An architect plans buildings. First the architect talks with the owner about needs and money, then draws "
     "designs and works out how the rooms, the light and the structure fit together. Later the architect prepares "
     "exact plans, applies for permits and visits the site to see that everything is built as planned."],
    ["I cannot concentrate when I study at home. What might help?",
     "Put your phone in another room and work in short blocks, for example twenty-five minutes followed by a break "
     "of five. Decide before each block what you want to finish. A tidy table and a fixed time of day help too. If "
     "your home is noisy, try a library."],
    ["How do I clean a burnt pot?",
     "Cover the burnt bottom with water, add two spoons of baking soda and let it boil for ten minutes. Leave it to "
     "cool, and then most of the black layer can be scraped off with a wooden spoon. Repeat it if needed. Steel wool "
     "is a last resort, because it scratches."],
    ["Describe a market in a small town.",
     "On the square in front of the church stand a dozen stalls with striped roofs. There are crates of apples, jars "
     "of honey and a van that smells of roast chicken. The women at the cheese stall know everybody by name. People "
     "stop to chat, dogs wait under the tables, and by noon it is all packed away."],
    ["Is it better to work from home or in an office?",
     "Working from home saves travel time and gives you quiet hours, but it can be lonely, and work easily spills "
     "into the evening. In an office you solve things faster by talking and keep a clear line between job and home. "
     "Many people find two or three days of each the best mix."],
    ["Suggest a simple birthday party for a six-year-old.",
     "Choose one theme, such as pirates, and invite about six children for two hours. Hide a few small treasures in "
     "the garden and draw a map for the hunt. Afterwards there is cake, and everybody paints an eye patch to take "
     "home. Simple games and clear times keep the children, and you, happy."],
    ["Tell me a short story about a lost glove.",
     "A red glove lay on a bench in the park and waited. Joggers passed, snow fell, and nobody took it. On the third "
     "day a girl put it on the top of a post so that its owner could see it. In the evening an old man came by, "
     "smiled and held up a second red glove."],
    ["Write a short letter to a hotel to ask about pets.",
     "Dear Sir or Madam,\nI would like to book a double room from the third to the sixth of May. We travel with a "
     "small, quiet dog. Could you please tell me whether pets are allowed, and whether there is an extra "
     "charge?\nThank you for your help.\nYours faithfully,\nSimon Keller"],
    ["Why do people keep diaries?",
     "A diary gives people a private place to think. Writing down what happened helps them to sort their feelings "
     "and to see problems more clearly. It also keeps memories that would fade otherwise. Some enjoy reading their "
     "old entries years later and noticing how much they have changed."],
    ["How can I get rid of fruit flies in my kitchen?",
     "Take away what attracts them: ripe fruit, open juice and the bin with peels. Then fill a glass with some "
     "vinegar and one drop of dish soap and leave it on the counter. The flies are drawn in by the smell and sink.",
     "How long does it take until they are gone?",
     "Usually about one to two weeks. Eggs that are already in the kitchen hatch within a day or so, so new flies "
     "appear for a while. If you keep everything clean and renew the trap every few days, there will be fewer of "
     "them each day until none are left."],
    ["What is a good first musical instrument for an adult?",
     "The ukulele is a friendly choice. It is cheap and small, it has only four strings, and you can play simple "
     "songs after a few weeks. A keyboard is good too, because every note sounds right from the start, and "
     "headphones keep the neighbours happy.",
     "Do I need a teacher?",
     "Not at the very beginning, since there are good free courses on the internet. A few lessons are still worth "
     "the money, because a teacher notices a wrong posture before it becomes a habit. You could take one lesson a "
     "month and practise ten minutes a day in between."],
]

# (id, turns); the last turn is the user's.
QUESTIONS = [
    ("open-explain", ["Why do we have seasons?"]),
    ("open-advice", ["I often feel tired in the afternoon. What could I do about it?"]),
    ("open-how-to", ["How do I make a paper aeroplane?"]),
    ("open-compare", ["What are the advantages of a dog compared with a cat as a pet?"]),
    ("open-story", ["Tell me a short story about a boy who finds an old key."]),
    ("open-follow-up", ["Can you suggest a dish for a dinner with friends?",
                        "A vegetable lasagne is a good choice. You can prepare it in the morning, it feeds many "
                        "people, and you only have to put it into the oven when your guests arrive.",
                        "What could I serve for dessert?"]),
]


def turns(contents):
    """Messages in which the user and the assistant speak in turn."""
    roles = ("user", "assistant")
    return [{"role": roles[idx % 2], "content": content} for idx, content in enumerate(contents)]


def rows(conversations):
    return [{"skill": "open", "messages": turns(contents)} for contents in conversations]


def questions():
    return [{"id": name, "messages": turns(contents)} for name, contents in QUESTIONS]


def faults():
    """What is wrong with these conversations, as sentences."""
    everything = TRAIN + HELD_OUT + [contents for _, contents in QUESTIONS]
    openings = [contents[0] for contents in everything]
    for opening in openings:
        if openings.count(opening) > 1:
            yield f"open: {opening!r} comes twice"
    for contents in TRAIN + HELD_OUT:
        if len(contents) % 2:
            yield f"open: {contents[0]!r} does not end with an answer"
        for answer in contents[1::2]:
            n_words = len(answer.split())
            if not 25 <= n_words <= 85:
                yield f"open: {n_words} words in the answer that begins {answer[:40]!r}"
    for contents in everything:
        if not all(text.isascii() and text == text.strip() for text in contents):
            yield f"open: {contents[0]!r} has other characters than ASCII, or white space around it"
