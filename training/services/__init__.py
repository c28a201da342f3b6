"""Everything that changes a run, a match or a schedule; and what workers do with them."""

from training.services.arena import contenders_of, set_arena, standings
from training.services.asking import prioritise
from training.services.creating import (
    cancel_run,
    create_run,
    feedback_of,
    retry_run,
    start_run,
)
from training.services.duels import (
    abandon,
    advance_duels,
    ask,
    belongs_to_duel,
    can_be_judged,
    duel_of,
    forget_duels,
    is_judged,
    open_duels,
    say_more,
    try_again,
)
from training.services.erasing import delete_withdrawn
from training.services.evaluating import create_evaluation, evaluations_of, report_of
from training.services.executing import ask_to_stop, execute, stop_was_asked, warm_up
from training.services.hub import create_upload, upload_result, wake_uploads
from training.services.jobs import add_answers, create_generation, create_scoring, suggest_scores
from training.services.matches import (
    advance_matches,
    create_match,
    held_out_prompts,
    verdict_of,
    win_rate,
    win_rates,
)
from training.services.naming import name_of_base, register_base_model
from training.services.overoptimising import overoptimisation_of
from training.services.preparing import freeze_snapshot, inspect_run, prepare_run
from training.services.promoting import champion_of, promote
from training.services.queue import (
    claim_next,
    database_now,
    prepare_waiting,
    requeue_lost_runs,
    wake_waiting,
)
from training.services.results import (
    generations_of,
    metrics_of,
    open_checkpoint,
    open_interface_file,
    open_result,
    open_sample_image,
    read_picture,
    scores_of,
)
from training.services.rounds import cancel_round, retry_round
from training.services.schedules import create_schedule, delete_schedule, run_schedules, set_enabled
from training.services.workspace import tidy_work_dir

__all__ = [
    "abandon",
    "add_answers",
    "advance_duels",
    "advance_matches",
    "ask",
    "ask_to_stop",
    "belongs_to_duel",
    "can_be_judged",
    "cancel_round",
    "cancel_run",
    "champion_of",
    "claim_next",
    "contenders_of",
    "create_evaluation",
    "create_generation",
    "create_match",
    "create_run",
    "create_schedule",
    "create_scoring",
    "create_upload",
    "database_now",
    "delete_schedule",
    "delete_withdrawn",
    "duel_of",
    "evaluations_of",
    "execute",
    "feedback_of",
    "forget_duels",
    "freeze_snapshot",
    "generations_of",
    "held_out_prompts",
    "inspect_run",
    "is_judged",
    "metrics_of",
    "name_of_base",
    "open_checkpoint",
    "open_duels",
    "open_interface_file",
    "open_result",
    "open_sample_image",
    "overoptimisation_of",
    "prepare_run",
    "prepare_waiting",
    "prioritise",
    "promote",
    "read_picture",
    "register_base_model",
    "report_of",
    "requeue_lost_runs",
    "retry_round",
    "retry_run",
    "run_schedules",
    "say_more",
    "scores_of",
    "set_arena",
    "set_enabled",
    "standings",
    "start_run",
    "stop_was_asked",
    "suggest_scores",
    "tidy_work_dir",
    "try_again",
    "upload_result",
    "verdict_of",
    "wake_uploads",
    "wake_waiting",
    "warm_up",
    "win_rate",
    "win_rates",
]
