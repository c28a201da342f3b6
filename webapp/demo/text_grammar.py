"""What the demo's customers ask and what its support desk may answer: data only.

`TEMPLATES` are the kinds of prompt. Each has an acknowledgement (a sentence that shows that the
request was read) and two concrete next steps that repeat details of the prompt. The other lists
hold sentences that fit every prompt. An answer splits into sentences at full stops, question marks and
exclamation marks alone.

Slots: `{name}`, `{product}`, `{order}` (a letter and a digit) and `{day}`.
"""

from dataclasses import dataclass

# fmt: off
NAMES = [
    "Anna", "Ben", "Carla", "David", "Emma", "Felix", "Grace", "Hugo", "Ida", "Jonas", "Kira", "Leo",
    "Maya", "Noah", "Olga", "Paul", "Rosa", "Sam", "Tara", "Uma", "Victor", "Wendy", "Yusuf", "Zoe",
]
PRODUCTS = [
    "kettle", "lamp", "tent", "bike", "desk", "clock", "camera", "printer", "blender", "jacket",
    "backpack", "keyboard", "guitar", "mirror", "toaster", "heater", "chair", "drill", "scarf", "phone",
    "radio", "vase", "puzzle", "carpet",
]
DAYS = [
    "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday",
]
# fmt: on

OPENINGS = ("Hello, this is {name}. {body}", "Hi, {name} here. {body}", "{body} Thanks, {name}.")

GREETINGS_BY_NAME = ("Hi {name}!", "Hello {name}!", "Good morning {name}!")
GREETINGS = ("Hello!", "Dear customer!")
FILLERS = (
    "Thank you for contacting our support team.",
    "Your message is important to us.",
    "We care about every customer.",
    "Our team reads many messages every day.",
    "We are always working to improve our service.",
    "As you may know this is a busy time of the year.",
)
ACKNOWLEDGEMENTS = ("I understand that this matters to you.", "Thank you for telling me about it.")
BLAMES = (
    "You should have checked this earlier.",
    "Please read the instructions next time.",
    "This is not our fault.",
    "Other customers do not have this problem.",
    "You did not follow the rules of our shop.",
)
VAGUE_STEPS = (
    "We will look into it.",
    "Someone may get back to you.",
    "Please wait and see.",
    "Such things take time.",
    "We will see what we can do.",
)
OFFERS = (
    "Is there anything else I can help with?",
    "Just reply here if you need more help.",
    "I am here if you have more questions.",
)
SIGN_OFFS = ("Kind regards from the support team.", "Best wishes from the team.")


@dataclass(frozen=True)
class Template:
    """One kind of prompt, with the sentences that answer it and no other."""

    topic: str
    body: str
    acknowledgement: str
    steps: tuple[str, str]


TEMPLATES = (
    Template(
        "delivery",
        "My {product} has not arrived. The order number is {order}.",
        "I am sorry that your {product} is late.",
        ("I have asked the courier about order {order}.", "I will send a new {product} if it is lost."),
    ),
    Template(
        "delivery",
        "The parcel with my {product} should have come on {day}.",
        "I am sorry that nothing came on {day}.",
        ("I have called the courier about your {product}.", "I will put your {product} on the next van."),
    ),
    Template(
        "delivery",
        "The courier left my {product} with a stranger. It is order {order}.",
        "I am sorry that your {product} was left with a stranger.",
        ("I have told the courier to bring order {order} to you.", "I will follow the {product} myself."),
    ),
    Template(
        "delivery",
        "Can you deliver my {product} on {day} instead?",
        "I see that {day} suits you better.",
        ("I have moved the delivery to {day}.", "I will have the {product} brought in the morning."),
    ),
    Template(
        "damage",
        "The {product} in order {order} arrived broken.",
        "I am sorry that your {product} arrived broken.",
        ("I have sent another {product} today.", "I will take nothing more for order {order}."),
    ),
    Template(
        "damage",
        "My {product} came with a deep scratch on {day}.",
        "I am sorry about the scratch on your {product}.",
        (
            "I have taken half off the price of the {product}.",
            "I will collect the {product} next {day} if you like.",
        ),
    ),
    Template(
        "damage",
        "A part of my {product} is missing. The order is {order}.",
        "I am sorry that your {product} is not complete.",
        ("I have sent the missing part for order {order}.", "I will add a drawing of the {product}."),
    ),
    Template(
        "damage",
        "My new {product} smells of smoke.",
        "I am sorry that your {product} smells of smoke.",
        ("I have told the makers of the {product}.", "I will send you a fresh {product} tomorrow."),
    ),
    Template(
        "refund",
        "I sent the {product} back and got no refund for order {order}.",
        "I am sorry that the refund for your {product} is late.",
        (
            "I have paid back order {order} today.",
            "I will write when the money for the {product} is with you.",
        ),
    ),
    Template(
        "refund",
        "I want my money back for the {product}.",
        "I am sorry that you do not like the {product}.",
        ("I have sent you a label to return the {product}.", "I will pay when the {product} is back."),
    ),
    Template(
        "refund",
        "You paid back only half of order {order}.",
        "I am sorry that half of the money is missing.",
        ("I have sent the other half of order {order}.", "I will check order {order} again tomorrow."),
    ),
    Template(
        "refund",
        "I returned the {product} on {day}. How long does the refund take?",
        "I see that you returned the {product}.",
        ("I have sent the refund for the {product}.", "I will write when it is paid on {day}."),
    ),
    Template(
        "billing",
        "I was charged twice for order {order}.",
        "I am sorry that you were charged twice.",
        (
            "I have cancelled the second charge for order {order}.",
            "I will check order {order} with your bank.",
        ),
    ),
    Template(
        "billing",
        "The price of the {product} on my bill is too high.",
        "I am sorry that the price of your {product} is wrong.",
        ("I have corrected the price of the {product}.", "I will send a new bill for the {product} today."),
    ),
    Template(
        "billing",
        "I need an invoice for order {order}.",
        "I see that you need an invoice.",
        ("I have sent the invoice for order {order}.", "I will put a copy of order {order} in your account."),
    ),
    Template(
        "billing",
        "My discount code did not work for the {product}.",
        "I am sorry that your code did not work.",
        ("I have taken the discount off the {product}.", "I will send you a new code for the {product}."),
    ),
    Template(
        "account",
        "I cannot log in to see order {order}.",
        "I am sorry that you cannot log in.",
        ("I have sent you a link to order {order}.", "I will keep the link to order {order} open for a day."),
    ),
    Template(
        "account",
        "I lost my password and want to order the {product}.",
        "I am sorry about the lost password.",
        ("I have saved the {product} in your basket.", "I will send you a link to order the {product}."),
    ),
    Template(
        "account",
        "Please change the address of order {order}.",
        "I see that you have a new address.",
        ("I have stopped order {order} for an hour.", "I will change order {order} when I know the street."),
    ),
    Template(
        "account",
        "Someone bought a {product} with my account on {day}.",
        "I am sorry that someone used your account.",
        (
            "I have cancelled the {product} and locked the account.",
            "I will pay back all that was bought on {day}.",
        ),
    ),
    Template(
        "returns",
        "I want to return the {product} from order {order}.",
        "I see that the {product} is not right for you.",
        ("I have sent the label for order {order}.", "I will pay when the {product} is here."),
    ),
    Template(
        "returns",
        "Can I swap my {product} for a bigger one?",
        "I see that your {product} is too small.",
        ("I have put a bigger {product} aside for you.", "I will send it when the old {product} is here."),
    ),
    Template(
        "returns",
        "Nobody collected my {product} on {day}.",
        "I am sorry that nobody came on {day}.",
        ("I have booked a new van for the {product}.", "I will collect the {product} tomorrow at nine."),
    ),
    Template(
        "returns",
        "I lost the return label for order {order}.",
        "I see that the label is lost.",
        ("I have made a new label for order {order}.", "I will also send the code of order {order} to you."),
    ),
    Template(
        "repair",
        "My {product} stopped working on {day}.",
        "I am sorry that your {product} stopped working.",
        ("I have found a way to reset the {product}.", "I will repair the {product} if that fails."),
    ),
    Template(
        "repair",
        "My {product} makes a strange noise.",
        "I am sorry about the noise of your {product}.",
        ("I have sent you new screws for the {product}.", "I will swap the {product} if the noise stays."),
    ),
    Template(
        "repair",
        "I cannot find the manual of my {product}.",
        "I see that the manual is gone.",
        ("I have mailed you the manual of the {product}.", "I will also send a film about the {product}."),
    ),
    Template(
        "repair",
        "Does order {order} still have a warranty?",
        "I see that you want to be sure.",
        ("I have checked that order {order} has a warranty.", "I will send you the papers of order {order}."),
    ),
    Template(
        "visit",
        "Can someone repair my {product} on {day}?",
        "I see that your {product} needs a repair.",
        ("I have booked a visit on {day} at ten.", "I will bring new parts for the {product}."),
    ),
    Template(
        "visit",
        "Nobody came on {day} to repair my {product}.",
        "I am sorry that you waited on {day}.",
        ("I have booked a new visit for your {product}.", "I will take no money for the {product} repair."),
    ),
    Template(
        "visit",
        "Please move my visit to {day}.",
        "I see that you need another time.",
        ("I have moved your visit to {day} at noon.", "I will call you before {day}."),
    ),
    Template(
        "visit",
        "Please cancel the visit for my {product} on {day}.",
        "I see that the visit is not needed.",
        ("I have cancelled the visit on {day}.", "I will keep the parts for your {product}."),
    ),
    Template(
        "change",
        "Please cancel order {order}.",
        "I see that you changed your mind.",
        ("I have cancelled order {order}.", "I will pay back order {order} in three days."),
    ),
    Template(
        "change",
        "Please add a {product} to order {order}.",
        "I see that you want a {product} too.",
        ("I have added the {product} to order {order}.", "I will pack the {product} in the same parcel."),
    ),
    Template(
        "change",
        "Order {order} came with a {product} that I did not want.",
        "I am sorry that the wrong thing came.",
        (
            "I have asked the courier to take the {product} back.",
            "I will send the right thing for order {order} today.",
        ),
    ),
    Template(
        "change",
        "Can you wrap the {product} in order {order} as a gift?",
        "I see that the {product} is a gift.",
        ("I have asked for gift paper for order {order}.", "I will put a card on the {product}."),
    ),
    Template(
        "stock",
        "When is the {product} back in stock?",
        "I see that you wait for the {product}.",
        ("I have put your name on the list for the {product}.", "I will write when the {product} is back."),
    ),
    Template(
        "stock",
        "Will you keep a {product} for me until {day}?",
        "I see that you need some time.",
        ("I have kept a {product} for you.", "I will hold it until {day} at six."),
    ),
    Template(
        "stock",
        "Can I try the {product} in your shop on {day}?",
        "I see that you want to try the {product}.",
        (
            "I have told the shop to expect you on {day}.",
            "I will have the {product} ready on the first floor.",
        ),
    ),
    Template(
        "stock",
        "You sold my {product} to someone else. It was order {order}.",
        "I am sorry that your {product} is gone.",
        ("I have found another {product} for you.", "I will send it today as order {order}."),
    ),
)
