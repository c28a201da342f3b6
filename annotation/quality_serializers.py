"""The shapes of what `annotation.quality_api` replies."""

from rest_framework import serializers

from annotation.quality_words import LEVELS


class IntervalSerializer(serializers.Serializer):
    """A number, its 95 % interval, and how many observations it rests on."""

    value = serializers.FloatField()
    low = serializers.FloatField()
    high = serializers.FloatField()
    n = serializers.FloatField()


def interval(help_text: str) -> IntervalSerializer:
    return IntervalSerializer(allow_null=True, help_text=help_text)


class PlacesSerializer(serializers.Serializer):
    candidates = serializers.IntegerField()
    chosen = IntervalSerializer(many=True, help_text="for each place, how often it was chosen")
    n = serializers.IntegerField()


class QuestionAgreementSerializer(serializers.Serializer):
    question = serializers.CharField(help_text="such as choice, aspects.clarity, ratings.helpfulness, thumbs")
    title = serializers.CharField()
    level = serializers.ChoiceField(list(LEVELS), help_text="what alpha takes for a difference")
    units = serializers.IntegerField(help_text="things that two people or more answered about")
    judgements = serializers.IntegerField()
    pairs = serializers.IntegerField(help_text="of answers to the same thing")
    raw = IntervalSerializer(help_text="share of the pairs that say the same")
    chance = serializers.FloatField(help_text="the share that the same answers give at random")
    alpha = interval("Krippendorff's alpha; null where everybody always says the same")
    fleiss = interval("Fleiss' kappa")


class ReportSerializer(serializers.Serializer):
    as_of = serializers.DateTimeField(allow_null=True, help_text="null: nothing has been counted yet")
    waiting = serializers.BooleanField(help_text="some judgements are not counted yet")


class QualitySerializer(ReportSerializer):
    judgements = serializers.IntegerField()
    questions = QuestionAgreementSerializer(many=True)
    position = interval("of two candidates, how often the one shown first is chosen")
    places = PlacesSerializer(many=True, help_text="the same for three candidates and more")
    length = interval("how often the longer of two texts is chosen")
    ties = interval("how often nobody wins: a tie, or both bad")
    fits_as_of = serializers.DateTimeField(allow_null=True)
    slips = serializers.IntegerField(help_text="judgements that the consensus speaks against")


class EvidenceSerializer(serializers.Serializer):
    kind = serializers.ChoiceField(["side", "run", "fast", "gold", "agreement"])
    sentence = serializers.CharField()
    p = serializers.FloatField(help_text="corrected for the number of tests")


class AnnotatorSerializer(serializers.Serializer):
    annotator = serializers.IntegerField(help_text="the user's number")
    name = serializers.CharField()
    judgements = serializers.IntegerField()
    median_seconds = serializers.FloatField(allow_null=True)
    p90_seconds = serializers.FloatField(allow_null=True)
    agreement = interval("with the others' answers")
    consensus = interval("with what is probably right (Dawid–Skene)")
    dawid_skene = serializers.FloatField(allow_null=True, help_text="chance of a right answer")
    crowd_bt = serializers.FloatField(allow_null=True, help_text="Crowd-BT's reliability; ½ is guessing")
    gold = interval("known answers right")
    repeats = interval("the same again on a repeated comparison")
    position = interval("of two candidates, how often the one shown first is chosen")
    length = interval("how often the longer of two texts is chosen")
    ties = interval("how often nobody wins")
    evidence = EvidenceSerializer(many=True, help_text="that the work may be careless")


class AnnotatorsSerializer(ReportSerializer):
    fits_as_of = serializers.DateTimeField(allow_null=True)
    annotators = AnnotatorSerializer(many=True)


def answer_field() -> serializers.JSONField:
    return serializers.JSONField(
        help_text='a candidate\'s canonical number, "tie", "both_bad" or another value'
    )


class SlipSerializer(serializers.Serializer):
    """A judgement that looks flipped: what everybody said, weighed by reliability, speaks against it."""

    judgement = serializers.IntegerField()
    comparison = serializers.IntegerField()
    annotator = serializers.IntegerField(help_text="the user's number")
    name = serializers.CharField()
    about = serializers.CharField(help_text="the question, and which of its parts: choice, ratings.help#1")
    said = answer_field()
    probability = serializers.FloatField(help_text="that what was said is right")
    consensus = answer_field()
    consensus_probability = serializers.FloatField()


class DisputedSerializer(serializers.Serializer):
    """Something about which least is settled."""

    comparison = serializers.IntegerField()
    about = serializers.CharField(help_text="the question, and which of its parts")
    bits = serializers.FloatField(help_text="entropy of what may be right; 0 is settled")
    chances = serializers.DictField(child=serializers.FloatField(), help_text="of each answer")


class SettledSerializer(serializers.Serializer):
    """What is probably right about one thing: chances of answers, or the mean of ratings."""

    about = serializers.CharField(help_text="the question, and which of its parts")
    judgements = serializers.IntegerField()
    answer = serializers.JSONField(required=False, help_text="the likeliest, canonical")
    probability = serializers.FloatField(required=False, help_text="of that answer (Dawid–Skene)")
    bits = serializers.FloatField(required=False, help_text="entropy of what may be right; 0 is settled")
    chances = serializers.DictField(
        child=serializers.FloatField(), required=False, help_text="of each answer, from 1 % on"
    )
    mean = serializers.FloatField(required=False, help_text="of ratings")
    low = serializers.FloatField(required=False, allow_null=True, help_text="95 % bounds; null for one")
    high = serializers.FloatField(required=False, allow_null=True)


class ConsensusSerializer(serializers.Serializer):
    """What is probably right about a comparison."""

    comparison = serializers.IntegerField()
    about = SettledSerializer(many=True, help_text="empty until reliabilities were fitted")


class AnnotatorPairSerializer(serializers.Serializer):
    """Cohen's kappa of two annotators, weighted where the answers have an order."""

    question = serializers.CharField()
    title = serializers.CharField()
    first = serializers.IntegerField(help_text="the user's number")
    second = serializers.IntegerField()
    names = serializers.ListField(child=serializers.CharField(), min_length=2, max_length=2)
    n = serializers.IntegerField(help_text="things that both answered about")
    agreement = interval("share of the same answers")
    kappa = interval("null where one of them always says the same")


class StandingRowSerializer(serializers.Serializer):
    source = serializers.CharField()  # type: ignore[assignment]
    points = IntervalSerializer()
    rank = serializers.IntegerField()
    rank_best = serializers.IntegerField(help_text="95 % bounds of the rank")
    rank_worst = serializers.IntegerField()
    judgements = serializers.IntegerField()
    won = serializers.IntegerField()
    tied = serializers.IntegerField()
    lost = serializers.IntegerField()


class LeaderboardSerializer(ReportSerializer):
    rows = StandingRowSerializer(many=True, help_text="best first")
    table = serializers.ListField(
        child=serializers.ListField(child=serializers.ListField(child=serializers.IntegerField())),
        help_text="row i, column j: how often source i won, tied and lost against source j",
    )
    tie_rate = serializers.FloatField(allow_null=True, help_text="of two equal sources")
    length_effect = interval("points for being all of the text instead of half; with by_length only")
