"""The words of comparisons, for Postgres' full-text search. Filled in the background: imports stay fast."""

from django.contrib.postgres.indexes import GinIndex
from django.contrib.postgres.search import SearchVectorField
from django.db import models

from annotation.models.comparisons import Comparison
from annotation.models.projects import Project


class PromptWords(models.Model):
    """The words of a comparison's prompt and answers."""

    comparison = models.OneToOneField(
        Comparison, on_delete=models.CASCADE, primary_key=True, related_name="words"
    )
    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="+")
    words = SearchVectorField()

    class Meta:
        indexes = [GinIndex(fields=["words"], name="prompt_words")]

    def __str__(self) -> str:
        return f"words of comparison {self.comparison_id}"


class UnreadPrompts(models.Model):
    """New comparisons whose words were not read yet: those of a project from one id to another."""

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="+")
    first = models.BigIntegerField()
    last = models.BigIntegerField()

    def __str__(self) -> str:
        return f"comparisons {self.first} to {self.last}"
