"""Addresses of the pages for annotators and managers."""

from django.urls import path

from annotation.views import accounts, audit, data, invitations, judging, projects, quality, tokens

app_name = "annotation"

urlpatterns = [
    path("", projects.home, name="home"),
    path("sign-in/", accounts.sign_in, name="sign_in"),
    path("sign-in/link/", accounts.link, name="link"),
    path("sign-out/", accounts.sign_out, name="sign_out"),
    path("invitations/<str:secret>/", invitations.invitation, name="invitation"),
    path("tokens/", tokens.tokens, name="tokens"),
    path("tokens/<int:pk>/revoke/", tokens.revoke, name="token_revoke"),
    path("preview/", projects.preview, name="preview"),
    path("projects/new/", projects.project_new, name="project_new"),
    path("projects/<int:pk>/", projects.project, name="project"),
    path("projects/<int:pk>/settings/", projects.project_edit, name="project_edit"),
    path("projects/<int:pk>/members/", projects.members, name="members"),
    path("projects/<int:pk>/members/<int:user>/link/", projects.member_link, name="member_link"),
    path("projects/<int:pk>/members/<int:user>/remove/", projects.member_remove, name="member_remove"),
    path("projects/<int:pk>/invitations/", invitations.invite, name="invite"),
    path(
        "projects/<int:pk>/invitations/<int:invitation>/revoke/",
        invitations.revoke,
        name="invitation_revoke",
    ),
    path("projects/<int:pk>/audit/", audit.audit, name="audit"),
    path("projects/<int:pk>/guidelines/", judging.guidelines, name="guidelines"),
    path("projects/<int:pk>/judge/", judging.judge, name="judge"),
    path("projects/<int:pk>/judge/submit/", judging.judge_submit, name="judge_submit"),
    path("projects/<int:pk>/judge/skip/", judging.judge_skip, name="judge_skip"),
    path("projects/<int:pk>/judge/undo/", judging.judge_undo, name="judge_undo"),
    path("projects/<int:pk>/history/", judging.history, name="history"),
    path("projects/<int:pk>/imports/", data.imports, name="imports"),
    path("imports/<int:pk>/", data.import_detail, name="import"),
    path("imports/<int:pk>/rejected.csv", data.rejected_rows, name="import_rejected"),
    path("projects/<int:pk>/exports/", data.exports, name="exports"),
    path("projects/<int:pk>/data/", data.browse, name="data"),
    path("projects/<int:pk>/data/<int:comparison>/", data.comparison, name="comparison"),
    path(
        "projects/<int:pk>/data/<int:comparison>/<int:index>/image/",
        data.candidate_image,
        name="candidate_image",
    ),
    path("projects/<int:pk>/quality/", quality.quality, name="quality"),
    path("projects/<int:pk>/quality/agreement/", quality.agreement, name="agreement"),
]
